//! What replicas reach, and who reaches them.

use std::io::ErrorKind;
use std::net::IpAddr;

use host::network::Network;

use super::id;
use super::world::{
    GATEWAY_PORT, METADATA, OUTSIDE, PRIVATE, RESOLVER, UPLINK, call, end, inside, next_sender, on_a_host,
    receiver, refusal, run, send, serve,
};

#[test]
fn the_host_calls_replicas_and_they_call_the_gateway_only() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        host.connect_to_the_internet();
        let network = host.network();
        network.ensure().await.expect("ready");
        let a = network.attach(&id(1)).await.expect("a replica");
        let b = network.attach(&id(2)).await.expect("another");
        let _in_replicas = [serve(Some(&a.netns), 80), serve(Some(&b.netns), 80)];
        let _on_the_host = [serve(None, GATEWAY_PORT), serve(None, 2222)];

        assert_eq!(call(None, a.address, 80).expect("the host reaches it"), network.gateway());
        assert_eq!(call(Some(&a.netns), network.gateway(), GATEWAY_PORT).expect("the gateway"), a.address);
        for address in [network.gateway(), UPLINK.into()] {
            assert_eq!(refusal(Some(&a.netns), address, 2222), ErrorKind::ConnectionRefused, "{address}");
        }
        assert_eq!(refusal(Some(&a.netns), UPLINK, GATEWAY_PORT), ErrorKind::ConnectionRefused);

        // Itself, by both of its addresses.
        assert!(call(Some(&a.netns), a.address, 80).is_ok());
        assert!(call(Some(&a.netns), IpAddr::from([127, 0, 0, 1]), 80).is_ok());

        // Not by Ethernet, and not by way of the host.
        refusal(Some(&a.netns), b.address, 80);
        inside(&a.netns, || run("ip", &format!("route add {}/32 via {}", b.address, network.gateway())));
        assert_eq!(refusal(Some(&a.netns), b.address, 80), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn replicas_are_apart_also_without_the_rules() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let network = host.network();
        network.ensure().await.expect("ready");
        let a = network.attach(&id(1)).await.expect("a replica");
        let b = network.attach(&id(2)).await.expect("another");
        let _server = serve(Some(&b.netns), 80);
        end(network).await;
        run("nft", "flush ruleset");
        refusal(Some(&a.netns), b.address, 80);
        assert!(call(None, b.address, 80).is_ok());
        // The isolation of ports is what does that.
        for line in run("ip", "-o link show type veth").lines() {
            let name = line.split([' ', '@']).nth(1).expect("a name");
            run("ip", &format!("link set {name} type bridge_slave isolated off"));
        }
        assert!(call(Some(&a.netns), b.address, 80).is_ok());
    });
}

#[test]
fn the_internet_is_reached_with_the_hosts_address_and_private_networks_are_not() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |mut host| {
        let outside = host.connect_to_the_internet();
        let network = host.network();
        network.ensure().await.expect("ready");
        let replica = network.attach(&id(1)).await.expect("a replica");
        let netns = replica.netns.as_path();
        let _outside = [53, 80].map(|port| serve(Some(&outside), port));
        let _in_the_replica = serve(Some(netns), 8000);

        assert_eq!(call(Some(netns), OUTSIDE, 80).expect("the internet"), IpAddr::from(UPLINK));
        for address in [PRIVATE, METADATA, RESOLVER] {
            assert!(call(None, address, 80).is_ok(), "the host does reach {address}");
            assert_eq!(refusal(Some(netns), address, 80), ErrorKind::ConnectionRefused, "{address}");
        }
        assert_eq!(refusal(Some(netns), PRIVATE, 53), ErrorKind::ConnectionRefused, "not a resolver");
        assert!(call(Some(netns), RESOLVER, 53).is_ok(), "the resolver that resolv.conf names");
        let questions = receiver(&outside, 53);
        send(netns, replica.address, RESOLVER, 53);
        assert_eq!(next_sender(&questions), Some(UPLINK.into()));

        // Nobody reaches a replica through the host.
        assert_eq!(refusal(Some(&outside), replica.address, 8000), ErrorKind::TimedOut);

        // What is allowed is reached, on this host too.
        let _on_the_host = serve(None, 2222);
        host.allow = vec!["192.168.77.1/32", "203.0.113.2/32", "10.0.0.0/8"];
        end(network).await;
        let network = host.network();
        network.ensure().await.expect("with other rules");
        assert!(call(Some(netns), PRIVATE, 80).is_ok());
        assert!(call(Some(netns), UPLINK, 2222).is_ok());
        assert_eq!(refusal(Some(netns), METADATA, 80), ErrorKind::ConnectionRefused);
        assert_eq!(refusal(Some(netns), network.gateway(), 2222), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_packet_with_a_false_source_is_dropped() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |host| {
        let outside = host.connect_to_the_internet();
        let network = host.network();
        network.ensure().await.expect("ready");
        let replica = network.attach(&id(1)).await.expect("a replica");
        let inbox = receiver(&outside, 9);
        send(&replica.netns, replica.address, OUTSIDE, 9);
        assert_eq!(next_sender(&inbox), Some(UPLINK.into()));

        let stranger = IpAddr::from([198, 51, 100, 7]);
        inside(&replica.netns, || run("ip", &format!("address add {stranger}/32 dev eth0")));
        send(&replica.netns, stranger, OUTSIDE, 9);
        assert_eq!(next_sender(&inbox), None);
        // The rule does that, in both copies.
        end(network).await;
        run("nft", "flush chain inet ingle prerouting");
        send(&replica.netns, stranger, OUTSIDE, 9);
        assert_eq!(next_sender(&inbox), Some(stranger));
    });
}

#[test]
fn docker_s_firewall_lets_replicas_out() {
    require_root!();
    require!("ip", "nft", "iptables");
    on_a_host(async |host| {
        let outside = host.connect_to_the_internet();
        let _server = serve(Some(&outside), 80);
        // What Docker does to a host.
        run("iptables", "-P FORWARD DROP");
        run("iptables", "-N DOCKER-USER");
        run("iptables", "-A FORWARD -j DOCKER-USER");
        run("iptables", "-A DOCKER-USER -j RETURN");
        let network = host.network();
        for _ in 0..2 {
            network.ensure().await.expect("ready");
        }
        let rules = run("iptables", "-S DOCKER-USER");
        assert_eq!(rules.matches("ingle0").count(), 2, "{rules}");
        let replica = network.attach(&id(1)).await.expect("a replica");
        assert_eq!(call(Some(&replica.netns), OUTSIDE, 80).expect("the internet"), IpAddr::from(UPLINK));
        assert_eq!(refusal(Some(&replica.netns), PRIVATE, 80), ErrorKind::ConnectionRefused);
    });
}
