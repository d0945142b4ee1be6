//! What the daemon itself uses, as the kernel tells it.

use super::exposition::{Kind, Text};

/// Ticks in a second in `/proc`: fixed by the kernel's interface on every architecture we run on.
const TICKS: f64 = 100.0;

/// Writes what can be read; what cannot is left out, as other Prometheus clients do.
pub(super) fn write(text: &mut Text) {
    let mut gauge = |name: &str, kind, help, value: Option<f64>| {
        if let Some(value) = value {
            text.one(name, kind, help, value);
        }
    };
    let stat = Stat::read();
    gauge(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Processor time that the daemon used.",
        stat.as_ref().map(|stat| stat.cpu),
    );
    gauge(
        "process_start_time_seconds",
        Kind::Gauge,
        "When the daemon started, in seconds since 1970.",
        stat.and_then(|stat| Some(boot_time()? + stat.started)),
    );
    gauge("process_resident_memory_bytes", Kind::Gauge, "Memory that the daemon uses.", resident());
    gauge("process_open_fds", Kind::Gauge, "File descriptors that the daemon has open.", open_files());
}

/// From `/proc/self/stat`, in seconds.
struct Stat {
    cpu: f64,
    /// Since the machine started.
    started: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the command in brackets, and may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // Counted from the third: 14 utime, 15 stime, 22 starttime.
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        Some(Self { cpu: (ticks(14)? + ticks(15)?) / TICKS, started: ticks(22)? / TICKS })
    }
}

fn boot_time() -> Option<f64> {
    value_in("/proc/stat", "btime")
}

fn resident() -> Option<f64> {
    value_in("/proc/self/status", "VmRSS:").map(|kilobytes| kilobytes * 1024.0)
}

/// The number that follows `key` at the start of a line.
fn value_in(path: &str, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<f64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // Without the one that was opened to count them.
    u32::try_from(open.checked_sub(1)?).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_all_of_it() {
        let stat = Stat::read().expect("/proc/self/stat");
        let started = boot_time().expect("/proc/stat") + stat.started;
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!((now - 3600.0..=now + 1.0).contains(&started), "started {started}, now {now}");
        assert!(resident().expect("/proc/self/status") > 1e6);
        let before = open_files().expect("/proc/self/fd");
        let _open = std::fs::File::open("/dev/null").expect("/dev/null");
        assert_eq!(open_files(), Some(before + 1.0));
    }
}
