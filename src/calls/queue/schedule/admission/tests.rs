use proptest::prelude::*;

use super::*;
use crate::queue::error::QueueError;

const CALLS: usize = 10;
const BYTES: u64 = 1000;

fn tenant(index: u8) -> Tenant {
    match index {
        0 => Tenant::Receivers,
        _ => Tenant::Function(FunctionKey::parse(&format!("f{index}")).expect("a name")),
    }
}

/// Live reservations, each with what the model says it holds.
type Live = Vec<(Reservation, Tenant, Usage)>;

fn sum(live: &Live, of: Option<&Tenant>) -> Usage {
    let mut sum = Usage::default();
    live.iter().filter(|(_, owner, _)| of.is_none_or(|of| of == owner)).for_each(|(.., usage)| sum += *usage);
    sum
}

/// How much of `limit` a sender may use.
fn limit(limit: u64, sender: Sender) -> u64 {
    if sender == Sender::Timer { limit + limit.div_ceil(10) } else { limit }
}

/// The rules for bytes, from the model alone: whether `more` may be added to something of `own` bytes.
fn bytes_fit(live: &Live, owner: &Tenant, own: u64, more: u64, sender: Sender) -> bool {
    let room = limit(BYTES, sender);
    sum(live, Some(owner)).bytes - own < room.div_ceil(2) && sum(live, None).bytes + more <= room
}

/// The rules for a call.
fn call_fits(live: &Live, owner: &Tenant, callback: bool, sender: Sender) -> bool {
    let (all, room) = (sum(live, None), limit(CALLS as u64, sender));
    let of_owner = sum(live, Some(owner)).calls as u64;
    (all.calls as u64) < room
        && (*owner == Tenant::Receivers || of_owner < room.div_ceil(2))
        && !(callback && all.callbacks >= CALLS.div_ceil(2))
}

#[derive(Debug, Clone)]
enum Event {
    Reserve { tenant: u8, callback: bool, bytes: u64, announced: u64, timer: bool },
    Hold { bytes: u64 },
    Grow { which: usize, bytes: u64 },
    Clear { which: usize },
    IntoCallback { which: usize },
    Drop { which: usize },
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0u8..4, any::<bool>(), 0u64..300, 0u64..300, any::<bool>()).prop_map(
            |(tenant, callback, bytes, announced, timer)| Event::Reserve { tenant, callback, bytes, announced, timer }
        ),
        1 => (0u64..100).prop_map(|bytes| Event::Hold { bytes }),
        4 => (any::<usize>(), 0u64..600).prop_map(|(which, bytes)| Event::Grow { which, bytes }),
        1 => any::<usize>().prop_map(|which| Event::Clear { which }),
        1 => any::<usize>().prop_map(|which| Event::IntoCallback { which }),
        3 => any::<usize>().prop_map(|which| Event::Drop { which }),
        1 => Just(Event::Restart),
    ];
    prop::collection::vec(event, 0..100)
}

fn assert_equal(quota: &Quota, live: &Live) -> Result<(), TestCaseError> {
    let held = lock(&quota.0.held);
    prop_assert_eq!(held.total, sum(live, None));
    for index in 0..4 {
        let tenant = tenant(index);
        prop_assert_eq!(held.of(&tenant), sum(live, Some(&tenant)), "{:?}", tenant);
    }
    Ok(())
}

fn assert_within_limits(live: &Live) -> Result<(), TestCaseError> {
    let (all, calls, bytes) =
        (sum(live, None), limit(CALLS as u64, Sender::Timer), limit(BYTES, Sender::Timer));
    prop_assert!(all.calls as u64 <= calls && all.bytes <= bytes, "{:?}", all);
    prop_assert!(all.callbacks <= CALLS.div_ceil(2), "{:?}", all);
    for (_, owner, _) in live {
        let (share, half) = (sum(live, Some(owner)), calls.div_ceil(2));
        prop_assert!(
            *owner == Tenant::Receivers || share.calls as u64 <= half,
            "{:?} has {:?}",
            owner,
            share
        );
        let own = live.iter().filter(|(_, other, _)| other == owner);
        let largest = own.map(|(.., usage)| usage.bytes).max().unwrap_or_default();
        prop_assert!(share.bytes < bytes.div_ceil(2) + largest.max(1), "{:?} has {:?}", owner, share);
    }
    Ok(())
}

proptest! {
    /// Whatever is reserved, grows and is dropped: the quota holds what the live reservations hold together, admits
    /// exactly what the rules let in, and nothing once all are gone.
    #[test]
    fn quota_equals_the_sum_of_live_reservations(events in events()) {
        let mut quota = Quota::new(CALLS, BYTES);
        let mut live: Live = Vec::new();
        // Whether something is held that nobody has admitted.
        let mut forced = false;
        for event in events {
            let count = live.len();
            let pick = |which: usize| which.checked_rem(count);
            forced |= matches!(event, Event::Hold { .. } | Event::IntoCallback { .. } | Event::Restart);
            match event {
                Event::Reserve { tenant: index, callback, bytes, announced, timer } => {
                    let owner = tenant(index);
                    let sender = if timer { Sender::Timer } else { Sender::Client };
                    let usage = Usage { callbacks: usize::from(callback), ..Usage::call(bytes) };
                    let fits = call_fits(&live, &owner, callback, sender)
                        && bytes_fit(&live, &owner, 0, bytes + announced, sender);
                    let reserved = quota.reserve(owner.clone(), usage, announced, sender);
                    prop_assert_eq!(reserved.is_ok(), fits, "{:?}", reserved);
                    live.extend(reserved.ok().map(|reservation| (reservation, owner, usage)));
                }
                Event::Hold { bytes } => {
                    let usage = Usage::bytes(bytes);
                    live.push((quota.hold(Tenant::Receivers, usage), Tenant::Receivers, usage));
                }
                Event::Grow { which, bytes } => if let Some(at) = pick(which) {
                    let (_, owner, usage) = &live[at];
                    let more = bytes.saturating_sub(usage.bytes);
                    let fits = more == 0 || bytes_fit(&live, owner, usage.bytes, more, Sender::Client);
                    let (reservation, _, usage) = &mut live[at];
                    prop_assert_eq!(reservation.grow(bytes).is_ok(), fits);
                    usage.bytes += if fits { more } else { 0 };
                }
                Event::Clear { which } => if let Some(at) = pick(which) {
                    live[at].0.clear();
                    live[at].2.bytes = 0;
                }
                Event::IntoCallback { which } => if let Some(at) = pick(which) && live[at].2.calls == 0 {
                    let (reservation, owner, usage) = live.swap_remove(at);
                    live.push((reservation.into_callback(), owner, Usage { calls: 1, callbacks: 1, ..usage }));
                }
                Event::Drop { which } => if let Some(at) = pick(which) {
                    live.swap_remove(at);
                }
                // What is on the disk is held again, whatever the limits are.
                Event::Restart => {
                    let next = Quota::new(CALLS, BYTES);
                    let found = live.drain(..).map(|(_, owner, usage)| (next.hold(owner.clone(), usage), owner, usage));
                    let found: Live = found.collect();
                    assert_equal(&quota, &Vec::new())?;
                    (quota, live) = (next, found);
                }
            }
            assert_equal(&quota, &live)?;
            if !forced {
                assert_within_limits(&live)?;
            }
        }
        live.clear();
        let held = lock(&quota.0.held);
        prop_assert_eq!(held.total, Usage::default());
        prop_assert!(held.tenants.is_empty(), "{:?} are remembered for nothing", held.tenants);
    }
}

/// The text of a refusal.
fn refusal<T: std::fmt::Debug>(reserved: Result<T, Full>) -> String {
    QueueError::from(reserved.expect_err("there is no room")).to_string()
}

#[test]
fn a_refusal_names_the_limit_that_was_reached() {
    let quota = Quota::new(4, 100);
    let one = |index, callbacks, bytes, sender| {
        quota.reserve(tenant(index), Usage { callbacks, ..Usage::call(bytes) }, 0, sender)
    };
    let holds = |what: &str| format!("the queue holds {what} already: try again later");
    let _first =
        [one(1, 1, 49, Sender::Client), one(1, 1, 0, Sender::Client)].map(|call| call.expect("room"));
    assert_eq!(
        refusal(one(2, 1, 0, Sender::Client)),
        holds("2 calls with callbacks (half of queue.max_calls)")
    );
    let error = refusal(one(1, 0, 0, Sender::Client));
    assert_eq!(error, holds("2 calls of f1.openfaas-fn (half of queue.max_calls)"));
    assert_eq!(refusal(one(2, 0, 52, Sender::Client)), holds("100 bytes (queue.max_size)"));
    let second = one(2, 0, 50, Sender::Client).expect("room");
    let error = refusal(one(2, 0, 0, Sender::Client));
    assert_eq!(error, holds("50 bytes for f2.openfaas-fn (half of queue.max_size)"));
    let _third = one(3, 0, 0, Sender::Client).expect("room");
    assert_eq!(refusal(one(4, 0, 0, Sender::Client)), holds("4 calls (queue.max_calls)"));
    let by_timer = one(4, 0, 10, Sender::Timer).expect("a tenth is for timers");
    assert_eq!(refusal(one(5, 0, 0, Sender::Timer)), holds("4 calls (queue.max_calls)"));
    drop(second);
    drop(by_timer);
    let mut response = quota.hold(Tenant::Receivers, Usage::default());
    response.grow(51).expect("so much is left");
    let error = refusal(response.grow(52));
    assert_eq!(error, holds("100 bytes (queue.max_size)"));
    response.clear();
    let _full = one(4, 0, 40, Sender::Client).expect("there is room again");
}
