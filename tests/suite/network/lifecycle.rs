//! What comes, stays, and goes without a trace.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::network::{MemoryLeases, Network, NetworkError};

use super::id;
use super::world::{Host, call, end, inside, on_a_host, run, serve};

/// Everything of replicas that is on this host.
fn leftovers(host: &Host) -> String {
    let links = run("ip", "-o link show type veth").lines().filter(|line| line.contains("ing")).count();
    let namespaces = run("ip", "netns list");
    let neighbours = run("ip", "neigh show nud permanent");
    let directories = fs::read_dir(host.directory().join("net")).map_or(0, Iterator::count);
    let leases = host.leases.all();
    format!("{links} links, {directories} directories, leases {leases:?}, {namespaces}{neighbours}")
}

const NOTHING: &str = "0 links, 0 directories, leases [], ";

#[test]
fn fifty_rounds_leave_nothing() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        let (mut attach, mut detach): (Vec<Duration>, Vec<Duration>) = Default::default();
        for n in 0..50 {
            let start = Instant::now();
            network.attach(&id(n)).await.expect("attached");
            attach.push(start.elapsed());
            let start = Instant::now();
            network.detach(&id(n)).await.expect("detached");
            detach.push(start.elapsed());
        }
        for (what, times) in [("attach", &mut attach), ("detach", &mut detach)] {
            times.sort();
            println!("{what}: p50 {:?}, p90 {:?}, slowest {:?}", times[25], times[45], times[49]);
        }
        eventually!(leftovers(&host) == NOTHING, "left: {}", leftovers(&host));
        assert_eq!(network.attached().await.expect("a list"), []);

        // Side by side, with as many as a busy host starts at once.
        let network = Arc::new(network);
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let network = Arc::clone(&network);
                tokio::spawn(async move { network.attach(&id(n)).await.expect("attached").address })
            })
            .collect();
        let mut addresses = std::collections::BTreeSet::new();
        for task in tasks {
            addresses.insert(task.await.expect("no panic"));
        }
        assert_eq!(addresses.len(), 8);
        for n in 0..8 {
            network.detach(&id(n)).await.expect("detached");
        }
        eventually!(leftovers(&host) == NOTHING, "left: {}", leftovers(&host));
    });
}

#[test]
fn a_replica_finds_its_files_mtu_and_no_ipv6() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        host.connect_to_the_internet();
        let network = host.network();
        network.ensure().await.expect("ready");
        let replica = network.attach(&id(1)).await.expect("a replica");
        let text = |n: usize| fs::read_to_string(&replica.files[n].source).expect("a file");
        let hosts = format!(
            "127.0.0.1\tlocalhost\n{}\t{}\n{}\tgateway gateway.openfaas\n",
            replica.address,
            id(1),
            network.gateway()
        );
        assert_eq!(text(0), hosts);
        assert_eq!(text(1), "nameserver 192.168.77.53\nsearch test\n");
        let links = inside(&replica.netns, || run("ip", "-o link"));
        assert!(links.lines().all(|line| line.contains("UP")), "{links}");
        assert!(links.contains("eth0") && links.contains("mtu 1400"), "the uplink's: {links}");
        assert_eq!(inside(&replica.netns, || run("ip", "-6 address")), "");
        assert!(run("ip", "-d link show").contains(&format!("alias ingle.{}", id(1))));
        assert!(run("ip", "netns list").contains(id(1).as_str()), "ip netns shows it");
    });
}

#[test]
fn a_server_inside_is_seen_wherever_its_loopback_reaches_it() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        let replica = network.attach(&id(1)).await.expect("a replica");
        let listen = |address: &str, port: u16| {
            let address: IpAddr = address.parse().expect("an address");
            inside(&replica.netns, || std::net::TcpListener::bind((address, port)))
        };
        let outside = replica.address.to_string();
        for (address, seen) in
            [("127.0.0.1", true), ("0.0.0.0", true), ("127.0.0.53", false), (&outside, false)]
        {
            let _server = listen(address, 5000).expect("a port");
            assert_eq!(network.accepts(&id(1), 5000).await.expect("an answer"), seen, "{address}");
        }
        // As servers of Go and Node.js do it, where the kernel has IPv6.
        if let Ok(_server) = listen("::", 5000) {
            assert!(network.accepts(&id(1), 5000).await.expect("an answer"));
        }
        // A connection that is left of one is no server, and neither is the host's.
        let server = listen("127.0.0.1", 5000).expect("a port");
        let client = inside(&replica.netns, || std::net::TcpStream::connect(("127.0.0.1", 5000)));
        let (_client, _served) = (client.expect("connected"), server.accept().expect("a connection"));
        drop(server);
        let _on_the_host = serve(None, 5000);
        assert!(!network.accepts(&id(1), 5000).await.expect("an answer"));
        let looks = 100;
        let began = Instant::now();
        for _ in 0..looks {
            network.accepts(&id(1), 5000).await.expect("an answer");
        }
        println!("a look takes {:?}", began.elapsed() / looks);
        network.detach(&id(1)).await.expect("detached");
    });
}

#[test]
fn what_was_taken_away_is_put_back() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        let old = network.attach(&id(1)).await.expect("a replica");
        let _old_server = serve(Some(&old.netns), 80);
        let before = run("nft", "list table inet ingle");
        run("nft", "flush ruleset");
        run("ip", "link delete ingle0");
        network.ensure().await.expect("repaired");
        assert_eq!(run("nft", "list table inet ingle"), before);
        assert!(call(None, old.address, 80).is_ok(), "the replica that was there is connected again");
        let ports = run("ip", "-d link show master ingle0");
        assert_eq!(ports.matches("isolated on").count(), 1, "{ports}");

        // Also without being asked, when a replica is attached.
        run("ip", "link delete ingle0");
        let new = network.attach(&id(2)).await.expect("another");
        let _new_server = serve(Some(&new.netns), 80);
        assert!(call(None, new.address, 80).is_ok());
        assert!(call(None, old.address, 80).is_ok());
    });
}

#[test]
fn another_daemon_takes_up_what_is_whole() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |mut host| {
        let before = host.network();
        before.ensure().await.expect("ready");
        let mut there = Vec::new();
        for n in 1..=4 {
            there.push(before.attach(&id(n)).await.expect("attached"));
        }
        drop(before);
        // The record is lost as well.
        host.leases = Arc::new(MemoryLeases::default());
        let network = host.network();
        network.ensure().await.expect("ready");
        let ids: Vec<_> = (1..=4).map(id).collect();
        assert_eq!(network.attached().await.expect("a list"), ids);

        run("ip", &format!("netns delete ingle.{}", id(2)));
        inside(&there[2].netns, || run("ip", "address flush dev eth0"));
        for (n, whole) in [(1, true), (2, false), (3, false), (4, true)] {
            let attachment = &there[n as usize - 1];
            let adopted = network.adopt(&id(n), attachment.address).await.expect("an answer");
            assert_eq!(adopted.as_ref(), whole.then_some(attachment), "{n}");
        }
        let new = network.attach(&id(5)).await.expect("attached");
        assert!(there.iter().all(|old| old.address != new.address || old == &there[1] || old == &there[2]));
        assert_ne!(new.address, there[0].address);
        assert_ne!(new.address, there[3].address);
        for n in 1..=5 {
            network.detach(&id(n)).await.expect("detached");
        }
        // Of the address that nobody had recorded, the kernel's note is left until then.
        network.ensure().await.expect("tidy");
        eventually!(leftovers(&host) == NOTHING, "left: {}", leftovers(&host));
    });
}

#[test]
fn a_conflist_with_another_subnet_moves_the_bridge() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |mut host| {
        let before = host.network();
        before.ensure().await.expect("ready");
        let old = before.attach(&id(1)).await.expect("attached");
        host.set_plugins(
            "1.0.0",
            r#"{"type": "bridge", "isDefaultGateway": true, "ipam": {"type": "host-local", "subnet": "172.30.0.0/24"}}"#,
        );
        end(before).await;
        let network = host.network();
        network.ensure().await.expect("ready");
        let addresses = run("ip", "-o -4 address show dev ingle0");
        assert!(addresses.contains("172.30.0.1/24") && !addresses.contains("10.62."), "{addresses}");
        assert_eq!(network.adopt(&id(1), old.address).await.expect("an answer"), None);
        network.detach(&id(1)).await.expect("detached");
        let new = network.attach(&id(1)).await.expect("attached");
        assert_eq!(new.address, IpAddr::from([172, 30, 0, 2]));
        let _server = serve(Some(&new.netns), 80);
        assert!(call(None, new.address, 80).is_ok());
    });
}

#[test]
fn what_a_killed_daemon_left_is_listed_and_removed() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        // Killed before it had more than each one of these.
        host.leases.put(IpAddr::from([10, 62, 9, 9]), &id(1));
        fs::create_dir_all(host.directory().join("net").join(id(2).as_str())).expect("a directory");
        run("ip", &format!("netns add ingle.{}", id(3)));
        fs::write(format!("/run/netns/ingle.{}", id(4)), "").expect("a file without a namespace");
        run("ip", "link add inghalf type veth peer name other");
        run("ip", &format!("link set inghalf alias ingle.{}", id(5)));
        // Not ours.
        run("ip", "netns add ingle-other.env-0000000009");
        run("ip", "netns add somebody");

        let network = host.network();
        let ids: Vec<_> = (1..=5).map(id).collect();
        assert_eq!(network.attached().await.expect("a list"), ids);
        for id in ids {
            network.detach(&id).await.expect("removed");
        }
        assert_eq!(network.attached().await.expect("a list"), []);
        assert_eq!(run("ip", "netns list").lines().count(), 2, "those of others are still there");
    });
}

#[test]
fn a_namespace_that_is_held_is_cut_off() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        let replica = network.attach(&id(1)).await.expect("attached");
        // As a process that did not end would.
        let _held = fs::File::open(&replica.netns).expect("the namespace");
        network.detach(&id(1)).await.expect("detached");
        assert_eq!(network.attached().await.expect("a list"), [id(1)], "its link is still there");
        network.detach(&id(1)).await.expect("and goes when asked again");
        assert_eq!(network.attached().await.expect("a list"), []);
    });
}

#[test]
fn a_small_subnet_runs_out_with_a_reason() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |mut host| {
        host.set_plugins(
            "1.0.0",
            r#"{"type": "bridge", "isDefaultGateway": true, "ipam": {"type": "host-local", "subnet": "10.9.8.0/29"}}"#,
        );
        let network = host.network();
        for n in 0..5 {
            network.attach(&id(n)).await.expect("attached");
        }
        let error = network.attach(&id(9)).await.expect_err("five are all");
        assert!(matches!(error, NetworkError::NoAddress { used: 5, .. }), "{error}");
        assert!(error.to_string().contains("10.9.8.0/29"), "{error}");
        assert_eq!(network.attached().await.expect("a list").len(), 5, "the sixth left nothing");
    });
}

#[test]
fn a_subnet_that_the_host_has_is_refused_by_name() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        run("ip", "link add vpn0 type bridge");
        run("ip", "address add 10.62.5.1/24 dev vpn0");
        let error = host.network().ensure().await.expect_err("a clash").to_string();
        for part in ["10-ingle.conflist", "10.62.0.0/16", "10.62.5.0/24", "vpn0", "subnet"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        assert!(!run("ip", "-o link").contains("ingle0"), "nothing was made");
    });
}

#[test]
fn a_bridge_of_somebody_else_is_left_alone() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        run("ip", "link add ingle0 type bridge");
        run("ip", "address add 172.30.0.1/24 dev ingle0");
        let error = host.network().ensure().await.expect_err("not ours");
        let reason = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(reason.contains("ip link delete ingle0"), "{reason}");
        assert!(run("ip", "address show dev ingle0").contains("172.30.0.1/24"));
    });
}
