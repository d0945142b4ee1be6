//! The network on a real kernel: each test is a host of its own.
//!
//! A host is a thread with its own network and mount namespaces ([`world::Host`]), so nothing of a test
//! touches the machine or another test, and all of it is gone when the thread ends. What a replica may
//! reach is tried with sockets, what is left behind is looked up with `ip` and `nft`.

mod flushing;
mod isolation;
mod lifecycle;
mod plugins;
mod world;

use std::sync::Arc;

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use host::network::{Attachment, Network};
use model::function::ReplicaId;

use crate::support::fake_network::FakeNetwork;
use crate::support::tap::{Open, Tapped};

fn id(n: u32) -> ReplicaId {
    ReplicaId::from_existing(&format!("env-{n:010x}"))
}

/// A port that a server inside a replica may have.
const BEHIND: u16 = 5000;

/// What everything that is built on a network relies on. `listen` begins to listen inside a replica, where its loopback
/// reaches it, until what it returns is dropped.
async fn contract(network: &dyn Network, listen: impl Fn(&Attachment) -> TcpListener) {
    network.ensure().await.expect("the first time");
    network.ensure().await.expect("and again");

    let a = network.attach(&id(1)).await.expect("a replica");
    let b = network.attach(&id(2)).await.expect("another");
    assert_ne!(a.address, b.address);
    assert_ne!(a.netns, b.netns);
    for address in [a.address, b.address] {
        assert_ne!(address, network.gateway());
    }
    let targets: Vec<_> = a.files.iter().filter_map(|file| file.target.to_str()).collect();
    assert_eq!(targets, ["/etc/hosts", "/etc/resolv.conf"]);
    assert!(a.files.iter().all(|file| file.source.is_file()), "{:?}", a.files);
    assert_eq!(network.attached().await.expect("a list"), [id(1), id(2)]);

    // What is there is not made twice, and not harmed by the attempt.
    network.attach(&id(1)).await.expect_err("it is attached");
    assert_eq!(network.adopt(&id(1), a.address).await.expect("an answer"), Some(a.clone()));

    // A server inside is seen in the replica that it is in.
    let accepts = async |n| network.accepts(&id(n), BEHIND).await.expect("an answer");
    assert!(!accepts(1).await && !accepts(2).await);
    let server = listen(&a);
    assert!(accepts(1).await && !accepts(2).await);
    assert!(!network.accepts(&id(1), BEHIND + 1).await.expect("an answer"), "on another port");
    drop(server);
    assert!(!accepts(1).await);
    network.accepts(&id(3), BEHIND).await.expect_err("there is no such replica");

    // Only what is there is taken up.
    assert_eq!(network.adopt(&id(1), b.address).await.expect("an answer"), None);
    assert_eq!(network.adopt(&id(3), a.address).await.expect("an answer"), None);
    let nowhere: IpAddr = "192.0.2.1".parse().expect("an address");
    assert_eq!(network.adopt(&id(1), nowhere).await.expect("an answer"), None);

    for _ in 0..2 {
        network.detach(&id(1)).await.expect("finding nothing is success");
    }
    network.detach(&id(3)).await.expect("also of what never was");
    eventually!(network.attached().await.expect("a list") == [id(2)], "the replica is still listed");
    assert!(a.files.iter().all(|file| !file.source.exists()), "{:?}", a.files);
    assert_eq!(network.adopt(&id(1), a.address).await.expect("an answer"), None);

    // The address rests; the name does not have to.
    let again = network.attach(&id(1)).await.expect("the same replica again");
    assert_ne!(again.address, a.address, "it was freed a moment ago");
    for n in [1, 2] {
        network.detach(&id(n)).await.expect("detached");
    }
    eventually!(network.attached().await.expect("a list").is_empty(), "something is left");
}

/// Listens inside a replica of the fake, which is nothing but its address.
fn at_its_address(replica: &Attachment) -> TcpListener {
    TcpListener::bind((replica.address, BEHIND)).expect("a port")
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    contract(&FakeNetwork::new(), at_its_address).await;
}

#[tokio::test]
async fn one_with_a_tap_before_it_keeps_the_contract() {
    let fake: Arc<dyn Network> = Arc::new(FakeNetwork::new());
    contract(&*Tapped::new(fake, Arc::new(Open)), at_its_address).await;
}

#[test]
fn the_real_one_keeps_the_contract() {
    require_root!();
    require!("ip", "nft");
    world::on_a_host(async |host| {
        let listen = |replica: &Attachment| {
            let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, BEHIND)).expect("a port");
            world::inside(&replica.netns, bind)
        };
        contract(&host.network(), listen).await;
    });
}
