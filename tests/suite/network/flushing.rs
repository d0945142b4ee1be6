//! Firewall rules that other programs flush.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host::network::Network;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::id;
use super::world::{GATEWAY_PORT, Host, METADATA, UPLINK, call, inside, on_a_host, run, serve};

/// A port of the host that functions must not reach.
const CLOSED: u16 = 2222;

/// Returns the tables, in the order of their names.
fn tables() -> Vec<String> {
    let mut tables: Vec<String> = run("nft", "list tables").lines().map(str::to_owned).collect();
    tables.sort();
    tables
}

fn both() -> Vec<String> {
    ["table inet ingle", "table inet ingle/owned"].map(str::to_owned).into()
}

/// Starts the daemon, which sets up the network first, and then waits a minute for containerd.
fn daemon(host: &Host) -> Child {
    let directory = host.directory().join("daemon");
    fs::create_dir_all(&directory).expect("a directory");
    let config = directory.join("config.toml");
    let text = format!(
        "[gateway]\nlisten = \"0.0.0.0:{GATEWAY_PORT}\"\n[containerd]\nsocket = \"/run/no.sock\"\n\
         [network]\nconflist = {:?}\n[daemon]\nstate_dir = {:?}\nrun_dir = {:?}\n",
        host.conflist,
        directory.join("state"),
        directory.join("run"),
    );
    fs::write(&config, text).expect("a configuration");
    Command::new(env!("CARGO_BIN_EXE_ingle"))
        .args(["serve", "--config"])
        .arg(config)
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the daemon starts")
}

/// Kills the daemon with SIGKILL, and waits until it is gone.
fn kill_dash_nine(mut daemon: Child) {
    daemon.kill().expect("to kill it");
    daemon.wait().expect("its end");
}

/// Flushes all rules in a loop until `stop` is set; the thread returns the number of flushes.
fn flush_until(stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut times = 0;
        while !stop.load(Ordering::Relaxed) {
            run("nft", "flush ruleset");
            times += 1;
        }
        times
    })
}

#[test]
fn flushed_rules_let_nothing_through_even_when_the_daemon_is_killed() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let outside = host.connect_to_the_internet();
        let network = host.network();
        network.ensure().await.expect("ready");
        let a = network.attach(&id(1)).await.expect("a replica");
        let b = network.attach(&id(2)).await.expect("another");
        inside(&a.netns, || run("ip", &format!("route add {}/32 via {}", b.address, network.gateway())));
        let _servers = [serve(None, CLOSED), serve(Some(&outside), 80), serve(Some(&b.netns), 80)];
        let gateway = network.gateway();
        let goals = [(gateway, CLOSED), (UPLINK.into(), CLOSED), (METADATA.into(), 80), (b.address, 80)];
        drop(network);
        eventually!(tables() == ["table inet ingle"], "of the first network: {:?}", tables());
        run("nft", "flush ruleset");

        let running = daemon(&host);
        eventually!(tables() == both(), "the daemon's are {:?}", tables());
        let attempts = |time: Duration| {
            let (began, mut made, mut through) = (Instant::now(), 0, Vec::new());
            while began.elapsed() < time {
                for (address, port) in goals {
                    made += 1;
                    through.extend(call(Some(&a.netns), address, port).is_ok().then_some((address, port)));
                }
            }
            assert!(made > 100, "{made} attempts");
            assert_eq!(through, [], "of {made} attempts");
            made
        };
        let stop = Arc::new(AtomicBool::new(false));
        let flushing = flush_until(&stop);
        let made = attempts(Duration::from_secs(10));
        // Killed right after a flush, before anything could be repaired.
        stop.store(true, Ordering::Relaxed);
        let flushes = flushing.join().expect("no panic");
        kill_dash_nine(running);
        let after = attempts(Duration::from_secs(3));
        println!("{flushes} flushes, {made} attempts meanwhile, {after} after the kill");
        assert_eq!(tables(), ["table inet ingle"], "the owned copy goes with the daemon");

        // The next daemon, killed without a flush.
        let running = daemon(&host);
        eventually!(tables() == both(), "the next daemon's are {:?}", tables());
        kill_dash_nine(running);
        eventually!(tables() == ["table inet ingle"], "left are {:?}", tables());
        attempts(Duration::from_secs(1));

        // The rules do this; neighbours are also kept apart by their bridge ports.
        run("nft", "flush ruleset");
        for (address, port) in goals.into_iter().filter(|(address, _)| *address != b.address) {
            assert!(call(Some(&a.netns), address, port).is_ok(), "{address}:{port} without rules");
        }
    });
}

/// Returns the process that holds the owned copy of this host.
fn holder() -> Option<Pid> {
    let here = fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |id: &i32| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{id}/{name}")).unwrap_or_default();
        read("cmdline") == "nft\0-i\0"
            && fs::read_link(format!("/proc/{id}/ns/net")).is_ok_and(|there| there == here)
    };
    ids.find(is_it).map(Pid::from_raw)
}

#[test]
fn a_killed_holder_of_the_rules_is_started_again() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        for _ in 0..3 {
            let first = holder().expect("a holder");
            kill(first, Signal::SIGKILL).expect("to kill it");
            eventually!(
                holder().is_some_and(|next| next != first) && tables() == both(),
                "{:?} with {:?}",
                tables(),
                holder()
            );
        }
        // A signal to the whole service does not end it, either.
        kill(holder().expect("a holder"), Signal::SIGTERM).expect("to send a signal");
        let held = holder();
        network.ensure().await.expect("ready");
        assert_eq!(holder(), held, "one that holds the same rules already is kept");
        drop(network);
        eventually!(holder().is_none() && tables() == ["table inet ingle"], "left are {:?}", tables());
    });
}

#[test]
fn changed_rules_reach_both_copies() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |mut host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        host.allow = vec!["192.168.77.1/32"];
        // A second one with the same table has to wait for the end of the first.
        let next = host.network();
        next.ensure().await.expect("the plain copy is enough");
        assert!(run("nft", "list table inet ingle").contains("192.168.77.1"));
        drop(network);
        eventually!(
            tables() == both() && run("nft", "list ruleset").matches("192.168.77.1").count() == 2,
            "the copies are {}",
            run("nft", "list ruleset")
        );
        assert!(
            run("nft", "list table inet ingle").contains("192.168.77.1"),
            "the first one put its own back"
        );
    });
}

/// Replaces `nft` by one that does not support owners, as versions before 0.9.9 did not.
fn without_owners(host: &Host) -> PathBuf {
    let nft = crate::support::tool("nft").expect("checked before");
    let real = host.directory().join("nft");
    fs::copy(&nft, &real).expect("a copy");
    let older = host.directory().join("older-nft");
    let text = format!(
        "#!/bin/sh\nscript=$(cat)\ncase $script in *'flags owner'*) echo 'Error: syntax error' >&2; exit 1;; esac\n\
         echo \"$script\" | exec {} \"$@\"\n",
        real.display()
    );
    fs::write(&older, text).expect("a program");
    fs::set_permissions(&older, fs::Permissions::from_mode(0o755)).expect("a mode");
    mount(Some(&older), Path::new(&nft), None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("in its place");
    real
}

#[test]
fn without_table_owners_the_plain_copy_is_restored_at_once() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let real = without_owners(&host);
        let real = real.to_str().expect("a path");
        let run = |arguments: &str| {
            let output = Command::new(real).args(arguments.split(' ')).output().expect("nft");
            assert!(output.status.success(), "nft {arguments}");
            String::from_utf8(output.stdout).expect("text")
        };
        let network = host.network();
        network.ensure().await.expect("ready");
        let before = run("list ruleset");
        assert!(before.starts_with("table inet ingle {") && !before.contains("owned"), "{before}");
        for _ in 0..3 {
            run("flush ruleset");
            eventually!(within 2, run("list ruleset") == before, "left are {}", run("list ruleset"));
        }
    });
}
