//! Firewall rules that other programs flush.

use std::fs;
use std::net::IpAddr;
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
use tokio::time::sleep;

use super::id;
use super::world::{GATEWAY_PORT, Host, METADATA, UPLINK, call, inside, on_a_host, run, serve};
use crate::support::long::long;
use crate::support::{end_holders, holders};

/// A port of the host that functions must not reach.
const CLOSED: u16 = 2222;

/// Returns the tables, in the order of their names.
fn tables() -> Vec<String> {
    let mut tables: Vec<String> = run("nft", "list tables").lines().map(str::to_owned).collect();
    tables.sort();
    tables
}

/// The plain copy.
const PLAIN: &str = "table inet ingle";

/// Returns the owned copies.
fn owned() -> Vec<String> {
    let mut tables = tables();
    tables.retain(|table| table.starts_with("table inet ingle/owned"));
    tables
}

/// Whether there are the plain copy, one owned copy, and nothing else.
fn are_both() -> bool {
    let tables = tables();
    tables.len() == 2 && tables[0] == PLAIN && owned().len() == 1
}

/// Starts the daemon, which sets up the network first, and then waits a minute for containerd.
fn daemon(host: &Host) -> Child {
    let directory = host.directory().join("daemon");
    // A state directory that was used: with a new one, the daemon asks containerd first whose containers there are.
    fs::create_dir_all(directory.join("state/functions")).expect("a directory");
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

/// An attempt that got through: after what time, and to where.
type Through = (Duration, IpAddr, u16);

/// Tries to connect from a namespace in a loop until `stop` is set; the thread returns the number of attempts, and those
/// that got through.
fn attempt_until(
    stop: &Arc<AtomicBool>,
    netns: &Path,
    goals: Vec<(IpAddr, u16)>,
) -> std::thread::JoinHandle<(usize, Vec<Through>)> {
    let (stop, netns) = (stop.clone(), netns.to_owned());
    std::thread::spawn(move || {
        inside(&netns, || {
            let (began, mut made, mut through) = (Instant::now(), 0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                for (address, port) in &goals {
                    made += 1;
                    if call(None, *address, *port).is_ok() {
                        through.push((began.elapsed(), *address, *port));
                    }
                }
            }
            (made, through)
        })
    })
}

#[test]
fn flushed_rules_let_nothing_through_while_the_daemon_is_killed_and_until_the_next_has_its_own() {
    require_root!();
    require!("ip", "nft");
    let rounds = long().map_or(1, |long| long.rounds);
    on_a_host(async move |host| {
        let outside = host.connect_to_the_internet();
        let network = host.network();
        network.ensure().await.expect("ready");
        let a = network.attach(&id(1)).await.expect("a replica");
        let b = network.attach(&id(2)).await.expect("another");
        inside(&a.netns, || run("ip", &format!("route add {}/32 via {}", b.address, network.gateway())));
        let _servers = [serve(None, CLOSED), serve(Some(&outside), 80), serve(Some(&b.netns), 80)];
        let gateway = network.gateway();
        let goals = [(gateway, CLOSED), (UPLINK.into(), CLOSED), (METADATA.into(), 80), (b.address, 80)];
        // An orderly end leaves the plain copy, also after a flush a moment before.
        run("nft", "flush ruleset");
        drop(network);
        eventually!(tables() == [PLAIN] && holders().is_empty(), "of the first network: {:?}", tables());

        let mut running = daemon(&host);
        eventually!(are_both(), "the daemon's are {:?}", tables());
        let stop = Arc::new(AtomicBool::new(false));
        let flushing = flush_until(&stop);
        let attempts = attempt_until(&stop, &a.netns, goals.to_vec());
        for round in 0..rounds {
            sleep(Duration::from_secs(4)).await;
            let before = owned();
            kill_dash_nine(running);
            sleep(Duration::from_secs(3)).await;
            assert_eq!(owned(), before, "round {round}: they outlive the daemon");
            running = daemon(&host);
            eventually!(
                owned().len() == 1 && owned() != before,
                "round {round}: the next daemon's are {:?}",
                tables()
            );
        }
        sleep(Duration::from_secs(3)).await;
        stop.store(true, Ordering::Relaxed);
        let (made, through) = attempts.join().expect("no panic");
        let flushes = flushing.join().expect("no panic");
        println!("{flushes} flushes, {rounds} kills, {made} attempts");
        assert!(made > 100 && flushes > 100, "{made} attempts, {flushes} flushes");
        assert_eq!(through, [], "of {made} attempts, {flushes} flushes, {rounds} kills");

        // What is told to an `nft` that a killed daemon left ends the rules: the installer does that.
        kill_dash_nine(running);
        end_holders(&host.directory().join("daemon/run"));
        eventually!(owned().is_empty() && holders().is_empty(), "left are {:?}", tables());

        // The rules do this; neighbours are also kept apart by their bridge ports.
        run("nft", "flush ruleset");
        for (address, port) in goals.into_iter().filter(|(address, _)| *address != b.address) {
            eventually!(call(Some(&a.netns), address, port).is_ok(), "{address}:{port} without rules");
        }
    });
}

/// Returns the one process that holds an owned copy.
fn holder() -> Option<Pid> {
    let holders = holders();
    (holders.len() == 1).then(|| holders[0])
}

#[test]
fn a_killed_holder_of_the_rules_is_started_again_and_its_copy_stays_until_then() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        let stop = Arc::new(AtomicBool::new(false));
        let watching = {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut without = 0;
                while !stop.load(Ordering::Relaxed) {
                    without += usize::from(owned().is_empty());
                }
                without
            })
        };
        for _ in 0..3 {
            let first = holder().expect("a holder");
            kill(first, Signal::SIGKILL).expect("to kill it");
            eventually!(
                holder().is_some_and(|next| next != first) && are_both(),
                "{:?} with {:?}",
                tables(),
                holders()
            );
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(watching.join().expect("no panic"), 0, "moments without an owned copy");
        // A signal to the whole service does not end it, either.
        kill(holder().expect("a holder"), Signal::SIGTERM).expect("to send a signal");
        let (held, copies) = (holder(), owned());
        network.ensure().await.expect("ready");
        assert_eq!((holder(), owned()), (held, copies), "one that holds the same rules already is kept");
        drop(network);
        eventually!(holders().is_empty() && tables() == [PLAIN], "left are {:?}", tables());
        assert_eq!(fs::read_dir(host.directory().join("rules")).expect("a directory").count(), 0);
    });
}

#[test]
fn changed_rules_reach_both_copies() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |mut host| {
        let both_have =
            |address: &str| are_both() && run("nft", "list ruleset").matches(address).count() == 2;
        let network = host.network();
        network.ensure().await.expect("ready");
        let (first, before) = (holder(), owned());
        // Of the same daemon: by the same holder, under another name, so that both are there for a moment.
        fs::write(host.directory().join("resolv.conf"), "nameserver 192.168.77.54\n").expect("written");
        network.ensure().await.expect("ready");
        eventually!(both_have("192.168.77.54"), "the copies are {}", run("nft", "list ruleset"));
        assert_eq!(holder(), first);
        assert_ne!(owned(), before);

        // Of the next one.
        host.allow = vec!["192.168.77.1/32"];
        let next = host.network();
        next.ensure().await.expect("ready");
        eventually!(both_have("{ 192.168.77.1 }"), "the copies are {}", run("nft", "list ruleset"));
        let held = holder();
        assert_ne!(held, first);
        drop(network);
        sleep(Duration::from_secs(1)).await;
        // Its holder may have loaded its copy anew, as the first one's end has touched the plain one.
        assert_eq!((holder(), owned().len()), (held, 1), "the first one does not come back");
        assert!(
            both_have("{ 192.168.77.1 }"),
            "the first one put its own back: {}",
            run("nft", "list ruleset")
        );
    });
}

#[test]
fn rules_that_are_replaced_while_others_flush_let_nothing_through() {
    require_root!();
    require!("ip", "nft");
    let rounds = long().map_or(30, |long| long.rounds.max(30));
    on_a_host(async move |host| {
        let outside = host.connect_to_the_internet();
        let network = host.network();
        network.ensure().await.expect("ready");
        let replica = network.attach(&id(1)).await.expect("a replica");
        let _server = serve(Some(&outside), 80);
        let stop = Arc::new(AtomicBool::new(false));
        let flushing = flush_until(&stop);
        let attempts = attempt_until(&stop, &replica.netns, vec![(METADATA.into(), 80)]);
        for round in 0..rounds {
            let resolver = format!("nameserver 192.168.77.{}\n", 54 + round % 2);
            fs::write(host.directory().join("resolv.conf"), resolver).expect("written");
            let before = owned();
            network.ensure().await.expect("ready");
            eventually!(owned().len() == 1 && owned() != before, "round {round}: {:?}", tables());
        }
        stop.store(true, Ordering::Relaxed);
        flushing.join().expect("no panic");
        let (made, through) = attempts.join().expect("no panic");
        assert!(made > 100, "{made} attempts");
        assert_eq!(through, [], "of {made} attempts, {rounds} replacements");
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
