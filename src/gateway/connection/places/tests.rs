//! Places and memory, without connections.

use std::time::Duration;

use super::*;
use model::config::Config;

fn places(max_connections: usize, request_memory: usize) -> Arc<Places> {
    let mut limits = Limits::of(&Config::parse("", |_| None).expect("defaults"));
    (limits.max_connections, limits.request_memory) = (max_connections, request_memory);
    limits.trusted_proxies = vec!["10.9.0.0/16".parse().expect("a network")].into();
    Places::new(&limits)
}

fn client(address: &str) -> Client {
    let address = format!("{address}:1").parse().expect("an address");
    Client { address, listener: Listener::Public }
}

fn take(places: &Arc<Places>, address: &str) -> Option<Place> {
    let client = client(address);
    places.take(places.pool(&client), client.address.ip().into())
}

fn hold(place: &mut Place, bytes: usize) -> Poll<Result<(), Evicted>> {
    place.poll_hold(&mut Context::from_waker(Waker::noop()), bytes)
}

/// A connection that has waited since so many milliseconds after the beginning, and holds so much.
fn waiting(places: &Arc<Places>, address: &str, since: u64, bytes: usize) -> Place {
    let mut place = take(places, address).expect("a place");
    place.wait(places.epoch + Duration::from_millis(since));
    let _ = hold(&mut place, bytes);
    place
}

fn evicted(places: &[Place]) -> Vec<bool> {
    places.iter().map(|place| place.is_evicted()).collect()
}

#[test]
fn a_source_is_an_ipv4_address_or_a_64_of_ipv6() {
    let source = |text: &str| Source::from(text.parse::<IpAddr>().expect("an address"));
    assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
    assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
}

#[test]
fn places_of_loopback_and_trusted_proxies_are_not_taken_by_strangers() {
    let places = places(1, 1 << 20);
    let _stranger = take(&places, "192.0.2.1").expect("a place");
    assert!(take(&places, "192.0.2.2").is_none());
    assert_eq!(places.pool(&client("[::ffff:127.0.0.1]")), Pool::Loopback);
    let trusted = take(&places, "10.9.0.1").expect("a place of its own");
    assert!(take(&places, "10.9.0.2").is_none());
    let _loopback = take(&places, "127.0.0.1").expect("a place of its own");
    assert!(take(&places, "127.0.0.2").is_none());
    drop(trusted);
    assert!(take(&places, "10.9.0.2").is_some());
    assert_eq!(places.pool(&Client::LOCAL), Pool::Local);
}

#[test]
fn an_address_with_many_connections_gets_none_of_the_last_places() {
    let places = places(128, 1 << 20);
    let all: Vec<_> = std::iter::from_fn(|| take(&places, "192.0.2.1")).collect();
    assert_eq!(all.len(), 120);
    let others: Vec<_> = (2..).map_while(|n| take(&places, &format!("192.0.2.{n}"))).collect();
    assert_eq!(others.len(), 8);
    drop((all, others));
    assert!(lock(&places.table).by_source.is_empty());
}

#[test]
fn the_source_with_the_most_waiting_connections_gives_way_with_its_oldest() {
    let places = places(4, 1 << 20);
    let all = [
        waiting(&places, "192.0.2.1", 1, 0),
        waiting(&places, "192.0.2.2", 3, 0),
        waiting(&places, "192.0.2.2", 2, 0),
        take(&places, "192.0.2.2").expect("a place"),
    ];
    let stranger = Source::from(IpAddr::from([192, 0, 2, 9]));
    places.make_room(Pool::Public, 1, stranger);
    assert_eq!(evicted(&all), [false, false, true, false]);
    // It is on its way; more go only if more are wanted, and what works stays.
    places.make_room(Pool::Public, 1, stranger);
    assert_eq!(evicted(&all), [false, false, true, false]);
    // An address that has many places takes none of one that has few.
    places.make_room(Pool::Public, 9, Source::from(IpAddr::from([192, 0, 2, 2])));
    assert_eq!(evicted(&all), [false, true, true, false]);
    places.make_room(Pool::Public, 9, stranger);
    assert_eq!(evicted(&all), [true, true, true, false]);
}

#[test]
fn memory_is_taken_from_the_source_that_holds_the_most_and_not_from_what_works() {
    let places = places(100, 30 << 10);
    let mut all = vec![
        waiting(&places, "127.0.0.1", 0, 14 << 10),
        waiting(&places, "192.0.2.1", 1, 2 << 10),
        waiting(&places, "192.0.2.2", 3, 6 << 10),
        waiting(&places, "192.0.2.2", 2, 6 << 10),
    ];
    assert_eq!(evicted(&all), [false; 4]);
    all.push(waiting(&places, "192.0.2.1", 4, 4 << 10));
    assert_eq!(evicted(&all), [false, false, false, true, false]);
    // It has not gone yet, so the next one waits.
    all.push(waiting(&places, "192.0.2.1", 5, 2 << 10));
    assert!(hold(&mut all[4], 4 << 10).is_pending());
    // What was told to give way, and works now, has been whole in time.
    all[3].work();
    assert!(hold(&mut all[4], 4 << 10).is_ready());
    all[3].wait(Instant::now());
    assert!(!all[3].is_evicted());
    drop(all);
    assert_eq!(places.memory.available_permits(), 30 << 10);
    assert_eq!(places.leaving.load(Ordering::Relaxed), 0);
}

#[test]
fn behind_a_trusted_proxy_the_client_that_holds_the_most_gives_way() {
    let places = places(100, 30 << 10);
    let mut all: Vec<_> = (0..7).map(|n| waiting(&places, "10.9.0.1", n, 4 << 10)).collect();
    for (number, place) in all.iter().enumerate() {
        let client = if number < 3 { format!("192.0.2.{number}") } else { "192.0.2.9".to_owned() };
        place.attribute(client.parse().expect("an address"));
    }
    all.push(waiting(&places, "10.9.0.1", 8, 4 << 10));
    assert_eq!(evicted(&all), [false, false, false, true, true, false, false, false]);
}

#[test]
fn while_memory_is_short_it_is_reserved_before_anything_is_read() {
    let places = places(128, 256 << 10);
    let all: Vec<_> = (0..20).map(|n| waiting(&places, "192.0.2.1", n, 16 << 10)).collect();
    let room =
        |place: &mut Place| place.poll_room(&mut Context::from_waker(Waker::noop()), 16 << 10).is_ready();
    let mut next = take(&places, "192.0.2.2").expect("a place");
    assert!(next.is_pressed());
    assert!(!room(&mut next));
    drop(all);
    assert!(room(&mut next));
    next.work();
    assert!(!next.is_pressed());
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_memory_is_none_for_the_client() {
    let places = places(128, 64 << 10);
    let mut all: Vec<_> = (0..4).map(|n| waiting(&places, "192.0.2.1", 100 + n, 16 << 10)).collect();
    // It has waited longest, but for the others.
    let mut first = take(&places, "192.0.2.1").expect("a place");
    first.wait(places.epoch);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(hold(&mut first, 16 << 10).is_pending());
    all.retain(|place| !place.is_evicted());
    assert_eq!(hold(&mut first, 16 << 10), Poll::Ready(Ok(())));
    let mut second = take(&places, "192.0.2.2").expect("a place");
    let _ = hold(&mut second, 16 << 10);
    assert!(all[0].is_evicted());
    assert!(!first.is_evicted());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_memory_gets_it_while_evictions_are_obeyed() {
    let places = places(1 << 16, 1 << 20);
    let mut all = std::collections::VecDeque::new();
    for number in 0..10_000_u32 {
        let source = Source(u64::from(number % 7));
        let mut place = places.take(Pool::Public, source).expect("a place");
        tokio::time::advance(Duration::from_millis(1)).await;
        place.wait(Instant::now());
        let bytes = 1 + (number as usize * 37) % 90_000;
        if hold(&mut place, bytes).is_pending() {
            all.retain(|place: &Place| !place.is_evicted());
            assert_eq!(hold(&mut place, bytes), Poll::Ready(Ok(())), "at {number}");
        }
        all.push_back(place);
    }
    assert!(all.len() > 10, "only {} are left", all.len());
}
