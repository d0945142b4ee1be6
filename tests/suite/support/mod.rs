//! What tests share: requirements, waiting, the sample image.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ends the test unless it runs as root.
macro_rules! require_root {
    () => {
        if let Err(reason) = $crate::support::root() {
            return $crate::support::cannot_run(&reason);
        }
    };
}

/// Ends the test unless all these programs are on this machine.
macro_rules! require {
    ($($tool:expr),+ $(,)?) => {
        $(if let Err(reason) = $crate::support::tool($tool) {
            return $crate::support::cannot_run(&reason);
        })+
    };
}

/// Waits until an expression, which may `.await`, is true. The test fails after ten seconds, or what
/// `within` says: `eventually!(within SECONDS, condition, "message {}", values)`.
macro_rules! eventually {
    (within $seconds:expr, $condition:expr, $($message:tt)+) => {{
        let limit = std::time::Duration::from_secs($seconds);
        let started = std::time::Instant::now();
        loop {
            if $condition {
                break;
            }
            assert!(started.elapsed() < limit, "after {limit:?}: {}", format_args!($($message)+));
            tokio::time::sleep($crate::support::POLL).await;
        }
    }};
    ($condition:expr, $($message:tt)+) => {
        eventually!(within 10, $condition, $($message)+)
    };
}

// After the macros, which they use.
mod containerd;
mod contract;
pub(crate) mod daemon;
mod fake_container;
pub(crate) mod fake_network;
pub(crate) mod fake_runtime;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod inventory;
pub(crate) mod load;
pub(crate) mod long;
pub(crate) mod oci;
pub(crate) mod registry;
mod sample;
pub(crate) mod tap;
pub(crate) mod view;

pub(crate) use ::temporary::TemporaryDirectory;
pub(crate) use containerd::PrivateContainerd;
pub(crate) use contract::{Behaviour, exit_code, runtime_contract};
pub(crate) use image::{Item, busybox, write_archive};
pub(crate) use sample::sample_archive;

/// How often `eventually!` looks.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Reports that a test cannot run on this machine. In CI that is a failure.
pub(crate) fn cannot_run(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot run, and CI is set: {reason}");
    eprintln!("not run: {reason}");
}

/// Whether this process is root, or why the test cannot run.
pub(crate) fn root() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err("needs root; use sudo tests/run".into()) }
}

/// A name that nothing else has, for a containerd namespace, and so for control groups, which have no namespace of
/// their own: `tests/run` finds those of its run by how they begin.
pub(crate) fn unique_name() -> String {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let run = std::env::var_os("INGLE_TESTS_RUN").unwrap_or_else(|| "alone".into());
    format!("ingle-test-{}-{}", run.display(), &unique[..12])
}

/// Ends what a killed daemon leaves to hold the firewall rules, as the next daemon and the installer do.
pub(crate) fn end_holders(run_dir: &Path) {
    for entry in std::fs::read_dir(run_dir.join("rules")).into_iter().flatten().flatten() {
        let fifo = std::fs::OpenOptions::new().read(true).write(true).open(entry.path());
        let _ = fifo.and_then(|mut fifo| std::io::Write::write_all(&mut fifo, b"quit\n"));
    }
}

/// Returns the processes that hold owned copies of the firewall rules in this network namespace.
pub(crate) fn holders() -> Vec<nix::unistd::Pid> {
    let here = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_one = |id: &i32| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{id}/{name}")).unwrap_or_default();
        read("cmdline") == "nft\0-i\0"
            && std::fs::read_link(format!("/proc/{id}/ns/net")).is_ok_and(|there| there == here)
    };
    ids.filter(is_one).map(nix::unistd::Pid::from_raw).collect()
}

/// Where a program is, or why the test cannot run.
pub(crate) fn tool(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Root's tools, also where PATH is that of a plain user.
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
        .ok_or_else(|| format!("needs {name}; sudo tests/run installs it"))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_program_is_found_by_name_or_the_reason_names_it() {
        assert!(super::tool("sh").is_ok_and(|path| path.ends_with("sh")));
        let reason = super::tool("no-such-program-here").expect_err("there is none");
        assert!(reason.contains("no-such-program-here"), "{reason}");
    }

    #[tokio::test]
    async fn waiting_ends_when_the_condition_holds() {
        let looks = AtomicU32::new(0);
        eventually!(looks.fetch_add(1, Ordering::Relaxed) == 3, "the counter never got there");
        assert_eq!(looks.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    #[should_panic(expected = "after 0ns: it is never 1")]
    async fn waiting_ends_with_the_message_when_it_never_does() {
        eventually!(within 0, 0 == 1, "it is never {}", 1);
    }

    #[test]
    #[should_panic(expected = "went on")]
    fn requirements_that_are_met_let_a_test_go_on() {
        require!("sh", "cat");
        panic!("went on");
    }

    #[test]
    #[should_panic(expected = "went on")]
    fn root_lets_a_test_go_on() {
        if !nix::unistd::geteuid().is_root() {
            assert!(super::root().is_err());
            panic!("went on");
        }
        require_root!();
        panic!("went on");
    }
}

/// The watchdog's program, which is beside the daemon's.
pub(crate) fn watchdog() -> &'static str {
    static PATH: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let path = Path::new(env!("CARGO_BIN_EXE_ingle")).with_file_name("fwatchdog");
        assert!(path.is_file(), "{} is not there: cargo build --package fwatchdog", path.display());
        path.display().to_string()
    });
    &PATH
}
