//! The machine that the tests run on: an ingle that is installed there is not seen and not changed.
//!
//! `tests/isolated` sees to it, by mounts that it calls `ingle-tests`; this holds it to what the installer writes
//! and the daemon has as defaults. `tests/run` looks at the machine's own before and after.

use std::fs;
use std::path::{Path, PathBuf};

use model::config::Config;

/// What install.sh names at its beginning, with the names replaced that are used there.
fn installed() -> Vec<PathBuf> {
    let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
    let text = fs::read_to_string(installer).expect("it is there");
    let mut known: Vec<(&str, String)> = Vec::new();
    for (name, value) in text.lines().take_while(|line| !line.ends_with("() {")).filter_map(assignment) {
        let value = known
            .iter()
            .fold(value.to_owned(), |value, (name, known)| value.replace(&format!("${name}"), known));
        known.push((name, value));
    }
    known.into_iter().map(|(_, value)| PathBuf::from(value)).filter(|path| path.is_absolute()).collect()
}

/// A line such as `NAME=value`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    (is_name && !name.is_empty()).then_some((name, value))
}

/// What is mounted where this path is, or would be made.
fn source(path: &Path) -> String {
    let there = path.ancestors().find_map(|path| path.canonicalize().ok()).expect("at least the root");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
    let mut found = (0, String::new());
    for line in mounts.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let point = Path::new(mount.split(' ').nth(4).expect("a mount point"));
        let depth = point.components().count();
        // Of several at one point, the last covers the others.
        if there.starts_with(point) && depth >= found.0 {
            found = (depth, file_system.split(' ').nth(1).expect("a source").to_owned());
        }
    }
    found.1
}

#[test]
fn what_the_installer_writes_and_the_daemon_reads_is_hidden_from_tests() {
    if std::env::var_os("INGLE_TESTS_ISOLATED").is_none() {
        return crate::support::cannot_run("needs file systems of its own; use sudo tests/run");
    }
    let config = Config::parse("", |_| None).expect("the defaults");
    let read = [
        config.functions.watchdog,
        config.functions.first_boot,
        config.containerd.socket,
        config.images.docker_config,
        config.images.certs_dir,
        config.network.conflist,
        config.network.resolv_conf,
        config.daemon.state_dir,
        "/var/lib/containerd".into(),
        "/var/log/ingle.log.1".into(),
        "/run/systemd/journal/socket".into(),
        "/tmp/.lock".into(),
        "/dev/shm/x".into(),
    ];
    let written = installed();
    for known in ["/usr/local/lib/ingle/fwatchdog", "/var/lib/ingle/shipped", "/run/ingle/ingle.pid"] {
        assert!(written.contains(&known.into()), "{known} is not in {written:?}");
    }
    for path in written.iter().chain(&read) {
        assert_eq!(source(path), "ingle-tests", "{}: what is written there is the machine's", path.display());
        assert!(!path.is_file() && !path.join("secrets").exists(), "{} is the machine's", path.display());
    }
    assert_ne!(source(Path::new(env!("CARGO_MANIFEST_DIR"))), "ingle-tests", "the project is the machine's");
}
