//! The machine: who asks, disks, memory, clock, and the files of the daemon.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;

use host::exec;
use model::config::Config;
use model::finding::Finding;

/// Where containerd keeps images, unless its own configuration says otherwise.
const CONTAINERD_ROOT: &str = "/var/lib/containerd";
/// Percent of a disk, or of its files, in use: from here on it should be looked at.
const DISK_FILLS: u64 = 85;
/// From here on nothing can be counted on, unless the disk is so large that the rest of it is still plenty.
const DISK_FULL: u64 = 97;
const PLENTY_OF_SPACE: u64 = 2 << 30;
const PLENTY_OF_FILES: u64 = 100_000;
/// Memory that should be free for another function to start.
const MEMORY_LOW: u64 = 64 << 20;

/// Who asks: others than root see less.
pub(super) fn user() -> Finding {
    if nix::unistd::geteuid().is_root() {
        return Finding::ok("user", "root");
    }
    Finding::warning("user", "not root: some things below look worse than they are", "sudo ingle doctor")
}

/// The file systems that fill with use.
pub(super) fn disks(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for path in [config.daemon.state_dir.clone(), PathBuf::from(CONTAINERD_ROOT)] {
        // Before the first start, where it will be.
        let Some(path) = path.ancestors().find(|path| path.exists()) else { continue };
        let Ok(stat) = statvfs(path) else { continue };
        if seen.contains(&stat.filesystem_id()) {
            continue;
        }
        seen.push(stat.filesystem_id());
        let bytes = |blocks: u64| blocks * stat.fragment_size();
        let space = Room {
            used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
            free: bytes(stat.blocks_available()),
        };
        let files =
            Room { used: stat.files().saturating_sub(stat.files_free()), free: stat.files_available() };
        found.push(disk(path, &space, &files));
    }
    found
}

/// How much of something is in use, and how much more of it can be had.
struct Room {
    used: u64,
    free: u64,
}

impl Room {
    /// As `df` has it: what is kept for root, or for other file systems of the same disk, is neither.
    fn percent(&self) -> u64 {
        let all = self.used.saturating_add(self.free);
        // Some file systems have no fixed number of files.
        (self.used.saturating_mul(100)).checked_div(all).unwrap_or(0)
    }
}

fn disk(path: &Path, space: &Room, files: &Room) -> Finding {
    const CHECK: &str = "disk";
    let (kind, percent, plenty) = if files.percent() > space.percent() {
        ("files", files.percent(), files.free >= PLENTY_OF_FILES)
    } else {
        ("space", space.percent(), space.free >= PLENTY_OF_SPACE)
    };
    let text =
        format!("{percent} % of the {kind} of {} in use, {} MB free", path.display(), space.free / 1_000_000);
    let remedy = "ingle system df shows what needs room, and ingle system prune makes some; df -h, df -i";
    match percent {
        DISK_FULL.. if !plenty => Finding::fault(CHECK, text, remedy),
        DISK_FILLS.. => Finding::warning(CHECK, text, remedy),
        _ => Finding::ok(CHECK, text),
    }
}

/// Whether there is memory for one more function.
pub(super) fn memory() -> Finding {
    const CHECK: &str = "memory";
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = available(&text) else {
        return Finding::warning(CHECK, "not seen", "free -m");
    };
    let text = format!("{} MB available", available / 1_000_000);
    if available < MEMORY_LOW {
        return Finding::warning(CHECK, text, "ingle list shows what runs; ingle scale NAME 0 stops one");
    }
    Finding::ok(CHECK, text)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// A clock that is behind, as on a machine without a battery, finds every certificate not valid yet.
pub(super) async fn clock() -> Finding {
    const CHECK: &str = "clock";
    let remedy = "timedatectl set-ntp true; timedatectl";
    let now = SystemTime::now();
    let installed = std::env::current_exe().and_then(fs::metadata).and_then(|file| file.modified());
    if let Ok(installed) = installed
        && installed.duration_since(now).is_ok_and(|ahead| ahead > Duration::from_secs(3600))
    {
        let text = "behind: it shows a time before ingle was installed, and TLS will fail";
        return Finding::fault(CHECK, text, remedy);
    }
    let arguments = ["show", "--property=NTPSynchronized", "--value"];
    match exec::said(Path::new("timedatectl"), &arguments).await.as_deref() {
        Ok("no") => Finding::warning(CHECK, "not synchronised with any time server", remedy),
        Ok("yes") => Finding::ok(CHECK, "synchronised"),
        // Without systemd, or in a container.
        _ => Finding::ok(CHECK, format!("{:.0}", jiff::Timestamp::now())),
    }
}

/// Whether the daemon's files are there, and nobody else's to read.
pub(super) fn state(directory: &Path) -> Finding {
    const CHECK: &str = "state";
    let password = directory.join("secrets/basic-auth-password");
    let mode = |path: &Path| fs::metadata(path).map(|file| file.permissions().mode() & 0o777);
    for (path, wanted) in [(directory, 0o700), (&password, 0o600)] {
        match mode(path) {
            Ok(mode) if mode & !wanted == 0 => {}
            Ok(mode) => {
                return Finding::warning(
                    CHECK,
                    format!("{} is open to others (mode {mode:o})", path.display()),
                    format!("chmod {wanted:o} {}", path.display()),
                );
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = format!("there is no {} yet: the daemon makes it", path.display());
                return Finding::ok(CHECK, text);
            }
            Err(error) => {
                let text = format!("{} cannot be looked at: {error}", path.display());
                return Finding::warning(CHECK, text, "sudo ingle doctor");
            }
        }
    }
    Finding::ok(CHECK, format!("{}, closed to others", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::finding::Verdict;

    #[test]
    fn a_disk_is_judged_by_what_runs_out_first() {
        let room = |used, free| Room { used, free };
        let verdict = |space, files| disk(Path::new("/d"), &space, &files).verdict;
        assert_eq!(verdict(room(500, 500), room(10, 90)), Verdict::Ok);
        assert_eq!(verdict(room(850, 150), room(10, 90)), Verdict::Warning);
        assert_eq!(verdict(room(500, 500), room(98, 2)), Verdict::Fault);
        assert_eq!(verdict(room(500, 500), room(0, 0)), Verdict::Ok);
        let text = disk(Path::new("/d"), &room(500, 500), &room(98, 2)).text;
        assert!(text.contains("98 % of the files of /d"), "{text}");
    }

    #[test]
    fn a_full_disk_with_plenty_left_is_worth_a_warning_only() {
        let verdict = |space, files| disk(Path::new("/d"), &space, &files).verdict;
        let files = || Room { used: 1, free: 1000 };
        let full = |free| Room { used: 99 * free, free };
        assert_eq!(verdict(full(PLENTY_OF_SPACE), files()), Verdict::Warning);
        assert_eq!(verdict(full(PLENTY_OF_SPACE - 1), files()), Verdict::Fault);
        assert_eq!(verdict(full(PLENTY_OF_FILES), full(PLENTY_OF_FILES + 1)), Verdict::Fault, "of space");
        assert_eq!(verdict(files(), full(PLENTY_OF_FILES)), Verdict::Warning);
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(available("MemTotal:  8 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal:  8 kB\n"), None);
    }

    #[test]
    fn open_files_of_the_daemon_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mine");
        };
        open(dir.path(), 0o700);
        assert_eq!(state(dir.path()).verdict, Verdict::Ok, "before the first start");
        fs::create_dir(dir.path().join("secrets")).expect("a directory");
        let password = dir.path().join("secrets/basic-auth-password");
        fs::write(&password, "p").expect("written");
        open(&password, 0o600);
        assert_eq!(state(dir.path()).verdict, Verdict::Ok);
        open(&password, 0o644);
        assert_eq!(state(dir.path()).remedy, Some(format!("chmod 600 {}", password.display())));
    }
}
