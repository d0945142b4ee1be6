//! Gives out addresses, each to one replica at a time.
//!
//! Invariants
//! - An address goes round: it is given out again only after all others, and never while it is in
//!   quarantine, because the kernel takes a namespace apart some time after it was removed.
//! - Whatever is given out is in the leases first.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::conflist::Range;
use crate::network::Leases;
use model::function::ReplicaId;
use model::sync::lock;

/// How long a freed address rests. Taking a namespace apart takes the kernel milliseconds, and a
/// second or two on a machine that is busy with many.
pub(super) const QUARANTINE: Duration = Duration::from_secs(5);

/// Who has which address.
#[derive(Debug)]
pub(super) struct Addresses {
    range: Range,
    leases: Arc<dyn Leases>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    used: BTreeMap<Ipv4Addr, ReplicaId>,
    /// Freed, with the time when.
    resting: BTreeMap<Ipv4Addr, Instant>,
    /// Given out last.
    last: Ipv4Addr,
}

impl Addresses {
    /// The addresses of `range`, without those in `leases`.
    pub(super) fn new(range: Range, leases: Arc<dyn Leases>) -> Self {
        let mut used = BTreeMap::new();
        for (address, id) in leases.all() {
            match address {
                // Also outside of the range, which may have been another one: it is still somebody's.
                IpAddr::V4(address) => _ = used.insert(address, id),
                IpAddr::V6(_) => leases.delete(address),
            }
        }
        let state = State { used, resting: BTreeMap::new(), last: range.last };
        Self { range, leases, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Gives out the next free address, or says how many are in use.
    pub(super) fn take(&self, id: &ReplicaId, now: Instant) -> Result<Ipv4Addr, usize> {
        let mut state = self.state();
        state.resting.retain(|_, since| now.duration_since(*since) < QUARANTINE);
        let (first, last) = (self.range.first.to_bits(), self.range.last.to_bits());
        let start = state.last.to_bits();
        let free =
            (start + 1..=last).chain(first..=start.min(last)).map(Ipv4Addr::from_bits).find(|address| {
                *address != self.range.gateway
                    && !state.used.contains_key(address)
                    && !state.resting.contains_key(address)
            });
        let Some(address) = free else { return Err(state.used.len() + state.resting.len()) };
        self.leases.put(IpAddr::V4(address), id);
        state.used.insert(address, id.clone());
        state.last = address;
        Ok(address)
    }

    /// Marks `address` as belonging to `id`, unless it is another replica's.
    pub(super) fn adopt(&self, address: Ipv4Addr, id: &ReplicaId) -> Result<(), ReplicaId> {
        let mut state = self.state();
        if let Some(other) = state.used.get(&address).filter(|owner| *owner != id) {
            return Err(other.clone());
        }
        self.leases.put(IpAddr::V4(address), id);
        state.used.insert(address, id.clone());
        state.resting.remove(&address);
        Ok(())
    }

    /// Frees whatever `id` has; it rests from `now` on. Returns what that was.
    pub(super) fn release(&self, id: &ReplicaId, now: Instant) -> Vec<Ipv4Addr> {
        let mut state = self.state();
        let freed: Vec<Ipv4Addr> =
            state.used.iter().filter(|(_, owner)| *owner == id).map(|(address, _)| *address).collect();
        for address in &freed {
            state.used.remove(address);
            state.resting.insert(*address, now);
            self.leases.delete(IpAddr::V4(*address));
        }
        freed
    }

    /// The address of `id`.
    pub(super) fn of(&self, id: &ReplicaId) -> Option<Ipv4Addr> {
        self.state().used.iter().find(|(_, owner)| *owner == id).map(|(address, _)| *address)
    }

    /// Whether anybody has `address`.
    pub(super) fn is_used(&self, address: Ipv4Addr) -> bool {
        self.state().used.contains_key(&address)
    }

    /// Every address in use, with whom it belongs to.
    pub(super) fn all(&self) -> Vec<(Ipv4Addr, ReplicaId)> {
        self.state().used.iter().map(|(address, id)| (*address, id.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::MemoryLeases;

    fn small() -> Range {
        Range {
            subnet: "10.9.8.0/29".parse().unwrap(),
            first: "10.9.8.1".parse().unwrap(),
            last: "10.9.8.6".parse().unwrap(),
            gateway: "10.9.8.2".parse().unwrap(),
        }
    }

    fn id(n: usize) -> ReplicaId {
        ReplicaId::from_existing(&format!("env-{n:010x}"))
    }

    fn host(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 8, n)
    }

    #[test]
    fn addresses_go_round_and_rest_before_they_come_again() {
        let addresses = Addresses::new(small(), Arc::new(MemoryLeases::default()));
        let start = Instant::now();
        assert_eq!(addresses.take(&id(0), start), Ok(host(1)));
        assert_eq!(addresses.take(&id(1), start), Ok(host(3)), "the gateway's is not given out");
        assert_eq!(addresses.release(&id(0), start), [host(1)]);
        for n in 4..=6 {
            assert_eq!(addresses.take(&id(usize::from(n)), start), Ok(host(n)));
        }
        assert_eq!(addresses.take(&id(9), start), Err(5), "the one that is free rests");
        assert_eq!(addresses.take(&id(9), start + QUARANTINE), Ok(host(1)));
    }

    #[test]
    fn leases_outlive_the_process() {
        let leases = Arc::new(MemoryLeases::default());
        let before = Addresses::new(small(), Arc::clone(&leases) as Arc<dyn Leases>);
        before.take(&id(0), Instant::now()).unwrap();
        let after = Addresses::new(small(), leases);
        assert_eq!(after.of(&id(0)), Some(host(1)));
        assert_eq!(after.take(&id(1), Instant::now()), Ok(host(3)));
    }

    #[test]
    fn an_address_in_use_is_adopted_by_its_owner_only() {
        let addresses = Addresses::new(small(), Arc::new(MemoryLeases::default()));
        assert_eq!(addresses.adopt(host(4), &id(0)), Ok(()));
        assert_eq!(addresses.adopt(host(4), &id(0)), Ok(()));
        assert_eq!(addresses.adopt(host(4), &id(1)), Err(id(0)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(usize),
        Release(usize),
        Adopt(u8, usize),
        Wait(u64),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..9usize).prop_map(Step::Take),
            3 => (0..9usize).prop_map(Step::Release),
            1 => (1..7u8, 0..9usize).prop_map(|(n, who)| Step::Adopt(n, who)),
            2 => (0..7u64).prop_map(Step::Wait),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_given_out_twice(steps in prop::collection::vec(step(), 1..80)) {
            let leases = Arc::new(MemoryLeases::default());
            let mut addresses = Addresses::new(small(), Arc::clone(&leases) as Arc<dyn Leases>);
            let mut now = Instant::now();
            let mut owners: BTreeMap<Ipv4Addr, ReplicaId> = BTreeMap::new();
            let mut freed: BTreeMap<Ipv4Addr, Instant> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Take(who) => match addresses.take(&id(who), now) {
                        Ok(address) => {
                            prop_assert!(small().subnet.contains(&address) && address != small().gateway);
                            prop_assert!((small().first..=small().last).contains(&address));
                            prop_assert!(!owners.contains_key(&address), "{address} is in use");
                            if let Some(since) = freed.remove(&address) {
                                prop_assert!(now.duration_since(since) >= QUARANTINE, "{address} rests");
                            }
                            owners.insert(address, id(who));
                        }
                        Err(_) => {
                            let resting = freed
                                .iter()
                                .filter(|(a, since)| {
                                    **a != small().gateway && !owners.contains_key(a) && now.duration_since(**since) < QUARANTINE
                                })
                                .count();
                            let used = owners.keys().filter(|a| **a != small().gateway).count();
                            prop_assert_eq!(used + resting, 5, "refused although one is free");
                        }
                    },
                    Step::Release(who) => {
                        for address in addresses.release(&id(who), now) {
                            prop_assert_eq!(owners.remove(&address), Some(id(who)));
                            freed.insert(address, now);
                        }
                        prop_assert!(!owners.values().any(|owner| *owner == id(who)));
                    }
                    Step::Adopt(n, who) => {
                        if addresses.adopt(host(n), &id(who)).is_ok() {
                            prop_assert!(owners.get(&host(n)).is_none_or(|owner| *owner == id(who)));
                            owners.insert(host(n), id(who));
                            freed.remove(&host(n));
                        }
                    }
                    Step::Wait(seconds) => now += Duration::from_secs(seconds),
                    Step::Restart => {
                        addresses = Addresses::new(small(), Arc::clone(&leases) as Arc<dyn Leases>);
                        freed.clear();
                    }
                }
                let kept: BTreeMap<_, _> = leases.all().into_iter().collect();
                let used = owners.iter().map(|(a, who)| (IpAddr::V4(*a), who.clone())).collect();
                prop_assert_eq!(kept, used);
            }
        }
    }
}
