//! What the machine has run out of: clear errors, nothing corrupt, and on it goes when there is some again.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};
use nix::sys::signal::Signal;
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use crate::support::daemon::{Daemon, in_own_network, run};

/// A small file system for the daemon's state, which ends with this.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn new(path: &'a Path) -> Self {
        fs::create_dir_all(path).expect("made");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).expect("mounted");
        Self(path)
    }

    fn remount(&self, flags: MsFlags) {
        let flags = flags | MsFlags::MS_REMOUNT;
        mount(None::<&str>, self.0, None::<&str>, flags, Some("size=64m")).expect("mounted again");
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = umount(self.0);
    }
}

async fn refused(answer: Response, status: StatusCode, words: &[&str]) {
    let found = answer.status();
    let text = answer.text().await.expect("a text");
    assert_eq!(found, status, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[test]
fn a_full_disk_and_one_that_is_read_only_are_refused_in_words_and_passed_when_they_end() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let mut daemon = Daemon::bare("").await;
        let state = daemon.state_dir();
        let disk = Small::new(&state);
        daemon.resume().await;
        daemon.load(&crate::support::sample_archive()).await;
        daemon.ready("hello", json!({})).await;

        // Full to the last byte.
        let filler = state.join("filler");
        assert!(fs::write(&filler, vec![1; 128 << 20]).is_err(), "there is no end to the disk");
        refused(
            daemon.deploy("late", json!({})).await,
            StatusCode::INSUFFICIENT_STORAGE,
            &["is full", "ingle system prune"],
        )
        .await;
        let scale = daemon.api(Method::POST, "/system/scale-function/hello").json(&json!({ "replicas": 0 }));
        refused(scale.send().await.expect("an answer"), StatusCode::INSUFFICIENT_STORAGE, &["is full"]).await;
        let secret = daemon.api(Method::POST, "/system/secrets").json(&json!({ "name": "s", "value": "v" }));
        assert!(secret.send().await.expect("an answer").status().is_server_error());
        // Calls go on, and what they print is lost at worst.
        for _ in 0..50 {
            assert_eq!(daemon.call("hello/log?text=said-on-a-full-disk").await.0, StatusCode::OK);
        }
        assert_eq!(daemon.describe("hello").await["replicas"], 1, "what was refused changed nothing");
        // Ended and begun on a full disk: what ran serves.
        daemon.end(Signal::SIGKILL);
        daemon.spawn();
        eventually!(
            within 30,
            daemon.client.get(daemon.url("/function/hello")).send().await
                .is_ok_and(|answer| answer.status() == StatusCode::OK),
            "{}",
            daemon.log()
        );
        assert!(daemon.describe("late").await.is_null());
        let health = daemon.client.get(daemon.url("/healthz")).send().await.expect("an answer");
        refused(health, StatusCode::SERVICE_UNAVAILABLE, &["is full"]).await;

        fs::remove_file(&filler).expect("it is there");
        daemon.serves().await;
        daemon.ready("late", json!({})).await;
        assert_eq!(daemon.call("late").await.0, StatusCode::OK);

        // A file system with open files cannot be made read-only from here; a start on one that is can be.
        daemon.stop().await;
        disk.remount(MsFlags::MS_RDONLY);
        let config = daemon.containerd.path().join("config.toml");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ingle"));
        let output = command.args(["serve", "--config"]).arg(config).output().await.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(&state.display().to_string()) && said.contains("Read-only"), "{said}");
        disk.remount(MsFlags::empty());
        daemon.resume().await;
        daemon.ready("later", json!({})).await;

        // All of it is on the disk, and whole.
        daemon.end(Signal::SIGKILL);
        daemon.resume().await;
        for name in ["hello", "late", "later"] {
            eventually!(within 30, daemon.call(name).await.0 == StatusCode::OK, "{name}\n{}", daemon.log());
        }
        for name in ["hello", "late", "later"] {
            daemon.remove(name).await;
        }
        daemon.nothing_left().await;
        daemon.stop().await;
    });
}

/// An ext4 file system in a file, for the daemon's state, which ends with this.
struct Ext4<'a> {
    image: PathBuf,
    mounted: &'a Path,
}

impl<'a> Ext4<'a> {
    fn new(image: PathBuf, mounted: &'a Path) -> Self {
        let file = fs::File::create(&image).expect("made");
        file.set_len(64 << 20).expect("made larger");
        fs::create_dir_all(mounted).expect("made");
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-e", "remount-ro", &image.display().to_string()]);
        let disk = Self { image, mounted };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run("mount", &["-o", "loop", &self.image.display().to_string(), &self.mounted.display().to_string()]);
    }

    /// Has the kernel find an error in it, which turns it read-only under whoever writes to it.
    fn find_error(&self) {
        let device =
            run("findmnt", &["--noheadings", "--output", "SOURCE", &self.mounted.display().to_string()]);
        let device = device.trim().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "a test").expect("written");
    }

    /// What a person does then.
    fn repair(&self) {
        umount(self.mounted).expect("nobody uses it");
        // It says with its status that there was something to repair.
        let status =
            Command::new("e2fsck").args(["-f", "-y"]).arg(&self.image).output().expect("it runs").status;
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        self.mount();
    }
}

impl Drop for Ext4<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.mounted, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_disk_that_turns_read_only_stops_no_call_and_is_all_there_when_it_is_repaired() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "mke2fs", "e2fsck", "mount", "findmnt");
    in_own_network(async {
        let mut daemon = Daemon::bare("").await;
        let state = daemon.state_dir();
        let disk = Ext4::new(daemon.containerd.path().join("state.img"), &state);
        daemon.resume().await;
        daemon.load(&crate::support::sample_archive()).await;
        daemon.ready("hello", json!({})).await;
        let containers = daemon.containers();

        disk.find_error();
        let words = ["read-only", "repair"];
        refused(daemon.deploy("late", json!({})).await, StatusCode::INTERNAL_SERVER_ERROR, &words).await;
        let scale = daemon.api(Method::POST, "/system/scale-function/hello").json(&json!({ "replicas": 0 }));
        refused(scale.send().await.expect("an answer"), StatusCode::INTERNAL_SERVER_ERROR, &words).await;
        let body = json!({ "functionName": "hello" });
        let remove = daemon.api(Method::DELETE, "/system/functions").json(&body).send();
        refused(remove.await.expect("an answer"), StatusCode::INTERNAL_SERVER_ERROR, &words).await;
        let secret = daemon.api(Method::POST, "/system/secrets").json(&json!({ "name": "s", "value": "v" }));
        let answer = secret.send().await.expect("an answer");
        refused(answer, StatusCode::INTERNAL_SERVER_ERROR, &["Read-only file system"]).await;
        let later = daemon.client.post(daemon.url("/async-function/hello")).body("later").send();
        refused(later.await.expect("an answer"), StatusCode::INTERNAL_SERVER_ERROR, &words).await;
        for _ in 0..50 {
            assert_eq!(daemon.call("hello/log?text=said-on-a-dead-disk").await.0, StatusCode::OK);
        }
        // A crash needs no disk to be mended.
        let _ = daemon.client.post(daemon.url("/function/hello/crash?code=3")).send().await;
        // The old one goes last: what it wrote is waited for, for a while, though no disk takes it.
        eventually!(
            daemon.call("hello").await.0 == StatusCode::OK
                && matches!(&daemon.containers()[..], [one] if !containers.contains(one)),
            "{}",
            daemon.log()
        );

        let containers = daemon.containers();
        daemon.stop().await;
        disk.repair();
        daemon.resume().await;
        assert_eq!(daemon.call("hello").await.0, StatusCode::OK);
        assert_eq!(daemon.containers(), containers, "{}", daemon.log());
        assert!(daemon.describe("late").await.is_null());
        let queues = daemon.api(Method::GET, "/system/queues").send().await.expect("an answer");
        assert_eq!(queues.text().await.expect("text"), "[]", "what was refused is not made");
        daemon.ready("late", json!({})).await;
        daemon.remove("late").await;
        daemon.remove("hello").await;
        daemon.nothing_left().await;
        daemon.stop().await;
    });
}

/// A control group that bounds the memory of whoever is put into it; it ends with this.
struct Bounded(PathBuf);

impl Bounded {
    /// `None` where memory is not controlled.
    fn new() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let root = if root.join("memory").is_dir() { root.join("memory") } else { root.to_owned() };
        let group = Self(root.join(crate::support::unique_name()));
        fs::create_dir(&group.0).expect("made");
        ["memory.limit_in_bytes", "memory.max"]
            .iter()
            .any(|name| group.0.join(name).exists())
            .then_some(group)
    }

    fn bound(&self, process: u32, bytes: u64) {
        let limits = ["memory.limit_in_bytes", "memory.max"].map(|name| self.0.join(name));
        let limit = limits.iter().find(|file| file.exists()).expect("a limit of one version or the other");
        fs::write(self.0.join("cgroup.procs"), process.to_string()).expect("put into it");
        fs::write(limit, bytes.to_string()).expect("bounded");
        // With swap, it would only become slow.
        for (name, limit) in [("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", bytes)] {
            let swap = self.0.join(name);
            if swap.exists() {
                fs::write(swap, limit.to_string()).expect("bounded");
            }
        }
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_daemon_that_is_killed_for_want_of_memory_finds_everything_again() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    let Some(group) = Bounded::new() else {
        return crate::support::cannot_run("memory is not controlled here (cgroup)");
    };
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let secrets = |method| daemon.api(method, "/system/secrets");
        for number in 0..12 {
            let body = json!({ "name": format!("large{number}"), "value": "v".repeat(1 << 20) });
            let answer = secrets(Method::POST).json(&body).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::CREATED);
        }
        let containers = daemon.containers();
        // What it has counts where it was taken; from now on it gets little.
        group.bound(daemon.pid().expect("it runs"), 8 << 20);
        let body = json!({ "key": "AAAAAAAAAAAAAAAAAAAAAA" });
        let export = daemon.api(Method::POST, "/system/secrets/export").json(&body).send().await;
        assert!(export.is_err(), "there is no memory for this: {export:?}");
        assert_eq!(daemon.ended().signal(), Some(Signal::SIGKILL as i32));

        daemon.resume().await;
        assert_eq!(daemon.call("hello").await.0, StatusCode::OK);
        assert_eq!(daemon.containers(), containers, "{}", daemon.log());
        let list = daemon.api(Method::GET, "/system/secrets").send().await.expect("an answer");
        assert_eq!(list.json::<Vec<serde_json::Value>>().await.expect("JSON").len(), 12);
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn without_free_files_connections_wait_and_are_served_when_there_are_some() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "prlimit");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let process = daemon.pid().expect("it runs").to_string();
        let open = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").count();
        run("prlimit", &["--pid", &process, &format!("--nofile={}:", open + 4)]);
        // More than there is room for; those that were taken say nothing, and hold what they have.
        let address = daemon.url("").replace("http://", "");
        let mut idle = Vec::new();
        for _ in 0..32 {
            idle.push(tokio::net::TcpStream::connect(&address).await.expect("the kernel takes it"));
        }
        let log = || daemon.log();
        eventually!(within 10, log().contains("a connection could not be accepted"), "{}", log());
        drop(idle);
        eventually!(within 10, daemon.call("hello").await.0 == StatusCode::OK, "{}", log());
        run("prlimit", &["--pid", &process, &format!("--nofile={}:", open + 64)]);
        assert_eq!(daemon.call("hello").await.0, StatusCode::OK);
        assert_eq!(daemon.describe("hello").await["restarts"], serde_json::Value::Null);
    });
}

#[test]
fn without_a_free_address_a_start_says_so_and_comes_about_when_there_is_one() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let mut daemon = Daemon::bare("").await;
        // Five addresses beside the bridge's own.
        let conflist = daemon.containerd.path().join("ingle.conflist");
        let text = fs::read_to_string(&conflist).expect("it is there");
        fs::write(&conflist, text.replace("10.62.0.0/16", "10.62.0.0/29")).expect("written");
        daemon.resume().await;
        daemon.load(&crate::support::sample_archive()).await;
        let many = json!({ "labels": { "com.openfaas.scale.min": "5", "com.openfaas.scale.max": "5" } });
        daemon.ready("many", many).await;
        eventually!(
            within 30,
            daemon.describe("many").await["availableReplicas"] == 5,
            "{:#}",
            daemon.describe("many").await
        );
        let answer = daemon.deploy("one", json!({})).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        eventually!(
            within 30,
            daemon.describe("one").await["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("no address is free in 10.62.0.0/29")),
            "{:#}",
            daemon.describe("one").await
        );
        assert_eq!(daemon.call("many").await.0, StatusCode::OK);
        let fewer = daemon.api(Method::POST, "/system/scale-function/many").json(&json!({ "replicas": 1 }));
        refused(fewer.send().await.expect("an answer"), StatusCode::ACCEPTED, &[]).await;
        eventually!(within 60, daemon.call("one").await.0 == StatusCode::OK, "{}", daemon.log());
    });
}
