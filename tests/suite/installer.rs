//! The installer's checks: every fault is named, all at once, with its way out, and nothing is changed.
//!
//! Each runs `install.sh --check` in a network and mounts of its own, with programs of its own first in PATH.

use crate::support::TemporaryDirectory;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// A machine as the installer sees it.
struct Machine {
    programs: TemporaryDirectory,
    /// Shell commands that make it what it is.
    made_by: String,
}

impl Machine {
    /// A network with nothing in it, and a binary that need not be built.
    fn new() -> Self {
        let machine = Self { programs: TemporaryDirectory::new(), made_by: "ip link set lo up".into() };
        machine.with_program("ingle", "echo ingle 0.1.0")
    }

    /// A program that comes before the machine's own of that name.
    fn with_program(self, name: &str, script: &str) -> Self {
        let path = self.programs.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
        self
    }

    fn with(mut self, command: &str) -> Self {
        self.made_by = format!("{} && {command}", self.made_by);
        self
    }

    fn check(&self, options: &[&str]) -> Checked {
        let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.path().display());
        let output = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-euc"])
            .arg(format!("{}; exec \"$@\"", self.made_by))
            .arg("sh")
            .arg(&installer)
            .args(["--check", "--no-sample"])
            .args(options)
            .env("PATH", path)
            .env("INGLE_BINARY", self.programs.path().join("ingle"))
            .output()
            .expect("run the installer");
        Checked(output)
    }
}

struct Checked(Output);

impl Checked {
    #[track_caller]
    fn finds_nothing(&self) {
        assert!(self.0.status.success(), "{}", self.errors());
        assert_eq!(self.errors(), "");
    }

    #[track_caller]
    fn finds(&self, faults: &[&str]) {
        let errors = self.errors();
        for fault in faults {
            assert!(errors.contains(fault), "{fault:?} is not in\n{errors}");
        }
        let count = errors.matches("    -> ").count();
        assert_eq!(count, faults.len(), "as many ways out as faults:\n{errors}");
        assert_eq!(self.0.status.code(), Some(1));
    }

    fn errors(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}

#[test]
fn a_machine_that_is_fine_has_no_faults() {
    require_root!();
    require!("unshare", "ip", "nft");
    Machine::new().check(&[]).finds_nothing();
}

#[test]
fn every_fault_is_named_at_once() {
    require_root!();
    require!("unshare", "ip", "nft");
    let machine = Machine::new()
        .with_program("containerd", "echo containerd github.com/containerd/containerd 1.4.13~ds1 1.4.13")
        .with_program("uname", "[ \"$1\" = -m ] && echo armv7l || echo Linux")
        .with_program("ingle", "echo cannot execute >&2; exit 126")
        .with("ip link add here type veth peer name there")
        .with("ip addr add 10.62.7.1/24 dev here && ip link set here up && ip link set there up")
        .with("mount -t tmpfs -o size=1m tmpfs /var/lib");
    machine.check(&[]).finds(&[
        "the processor is armv7l",
        "containerd is 1.4.13~ds1; ingle needs 1.6",
        "ingle does not run here: cannot execute",
        "functions would live in 10.62.0.0/16, but here has a route there",
        "/var/lib has 1 MB free",
    ]);
}

#[test]
fn a_port_in_use_is_named_with_its_owner() {
    require_root!();
    require!("unshare", "ip", "nft");
    // In the network of this test: entered by the installer through this process.
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("its address").port().to_string();
    let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
    let machine = Machine::new();
    let output = Command::new(installer)
        .args(["--check", "--no-sample", "--port", &port])
        .env("INGLE_BINARY", machine.programs.path().join("ingle"))
        .output()
        .expect("run the installer");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let owner = format!("(process {})", std::process::id());
    assert!(errors.contains(&format!("port {port} is in use by ")) && errors.contains(&owner), "{errors}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_admin_port_in_use_is_named_with_the_key_that_sets_another() {
    require_root!();
    require!("unshare", "ip", "nft", "python3");
    let listener = "python3 -c 'import socket, time; s = socket.create_server((\"127.0.0.1\", 8081)); time.sleep(30)' & sleep 1";
    let checked = Machine::new().with(listener).check(&[]);
    let said = String::from_utf8_lossy(&checked.0.stdout).into_owned();
    for part in ["127.0.0.1:8081", "is in use by python3", "admin_listen"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let checked = Machine::new().check(&["--port", "8081"]);
    let said = String::from_utf8_lossy(&checked.0.stdout).into_owned();
    assert!(said.contains("is in use by the gateway itself"), "{said}");
}

#[test]
fn a_subnet_that_only_begins_alike_is_no_clash() {
    require_root!();
    require!("unshare", "ip", "nft");
    Machine::new()
        .with("ip link add here type veth peer name there")
        .with("ip addr add 10.63.0.1/16 dev here && ip link set here up && ip link set there up")
        .check(&[])
        .finds_nothing();
}

#[test]
fn newer_engines_are_fine_whoever_packaged_them() {
    require_root!();
    require!("unshare", "ip", "nft");
    for version in ["v1.7.24", "1.6.20~ds1", "2.0.0", "v2.1.3-rc.1"] {
        Machine::new()
            .with_program("containerd", &format!("echo containerd containerd.io {version} abcdef"))
            .check(&[])
            .finds_nothing();
    }
}

#[test]
fn memory_that_the_kernel_does_not_count_is_named_with_the_way_out() {
    require_root!();
    require!("unshare", "ip", "nft");
    let groups = "mount -t tmpfs tmpfs /sys/fs/cgroup && echo cpu io pids >/sys/fs/cgroup/cgroup.controllers";
    Machine::new().with(groups).check(&[]).finds(&["no cgroup controller memory"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
    for (options, reason) in [
        (&["--porrt", "1"][..], "there is no option --porrt"),
        (&["--port", "http"], "is not a number"),
        (&["--port"], "--port needs a number"),
        (&["--purge"], "--purge goes with --uninstall"),
    ] {
        let output = Command::new(&installer).args(options).output().expect("run the installer");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains(reason), "{options:?}: {errors}");
        assert_eq!(output.status.code(), Some(1), "{options:?}");
    }
}

#[test]
fn a_daemon_that_has_not_reached_its_exec_is_waited_for() {
    let machine = Machine::new()
        .with_program("setsid", "sleep 1; exec /usr/bin/setsid \"$@\"")
        .with_program("ingle", "sleep 3");
    let installer = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
    // Its functions alone: the whole of it would install.
    let script = r#"
        for function in note private daemon_runs start_daemon; do
            eval "$(sed -n "/^$function() {.*}$/p; /^$function() {$/,/^}/p" "$1")"
        done
        RUN=$2/run PID_FILE=$RUN/ingle.pid LOG_FILE=$2/log CONFIG=$2/config BINARY=$2/ingle
        start_daemon
        daemon_runs
    "#;
    let output = Command::new("sh")
        .args(["-euc", script, "sh"])
        .args([&installer, machine.programs.path()])
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", machine.programs.path().display()))
        .output()
        .expect("run a shell");
    assert!(output.status.success(), "{output:?}");
}
