//! What to do about a function's replicas: a pure function of what there is and what is wanted.

use crate::function::ReplicaId;

/// How far a replica is, as far as the decision cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// On its way: cannot be called yet.
    Starting,
    /// Can be called.
    Ready,
    /// On its way out: counts for nothing.
    Draining,
}

/// One replica, as far as the decision cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) id: ReplicaId,
    pub(super) revision: u64,
    pub(super) stage: Stage,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Decision {
    /// Replicas of the wanted revision to launch.
    pub(super) launch: usize,
    /// Replicas to drain, or to call off if they are still starting.
    pub(super) drain: Vec<ReplicaId>,
}

/// Compares `slots` with `count` replicas of the revision `wanted`.
///
/// While replicas of an older revision serve, new ones start one at a time beside them, and each one
/// that is ready takes the place of an old one: an update needs room for one replica more.
pub(super) fn decide(slots: &[Slot], wanted: u64, count: usize) -> Decision {
    let of = |new: bool, stage: Stage| {
        slots.iter().filter(move |slot| (slot.revision == wanted) == new && slot.stage == stage)
    };
    let ready = of(true, Stage::Ready).count();
    let starting = of(true, Stage::Starting).count();
    let old = of(false, Stage::Ready).count();

    let missing = count.saturating_sub(ready + starting);
    let launch = if old > 0 { missing.min(1usize.saturating_sub(starting)) } else { missing };

    let mut drain: Vec<ReplicaId> = Vec::new();
    // Nobody waits for an old revision that has not come up.
    drain.extend(of(false, Stage::Starting).map(|slot| slot.id.clone()));
    let spare_old = old.saturating_sub(count.saturating_sub(ready));
    drain.extend(of(false, Stage::Ready).take(spare_old).map(|slot| slot.id.clone()));
    // Too many: those that do not serve yet go first, then the youngest.
    let spare = (ready + starting).saturating_sub(count);
    let spare_starting = spare.min(starting);
    drain.extend(of(true, Stage::Starting).take(spare_starting).map(|slot| slot.id.clone()));
    let youngest: Vec<_> = of(true, Stage::Ready).collect();
    drain.extend(youngest.iter().rev().take(spare - spare_starting).map(|slot| slot.id.clone()));
    Decision { launch, drain }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(list: &[(u64, Stage)]) -> Vec<Slot> {
        list.iter()
            .enumerate()
            .map(|(n, (revision, stage))| Slot {
                id: ReplicaId::from_existing(&format!("r{n}")),
                revision: *revision,
                stage: *stage,
            })
            .collect()
    }

    fn decided(list: &[(u64, Stage)], count: usize) -> (usize, Vec<String>) {
        let decision = decide(&slots(list), 2, count);
        (decision.launch, decision.drain.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_table_of_decisions() {
        use Stage::{Draining, Ready, Starting};
        for (list, count, launch, drain) in [
            // from nothing, and to nothing
            (&[][..], 1, 1, &[][..]),
            (&[], 3, 3, &[]),
            (&[(2, Ready), (2, Starting)], 0, 0, &["r1", "r0"]),
            // at rest, and on the way
            (&[(2, Ready)], 1, 0, &[]),
            (&[(2, Starting)], 1, 0, &[]),
            (&[(2, Draining)], 1, 1, &[]),
            // an update: start one beside, swap, next
            (&[(1, Ready)], 1, 1, &[]),
            (&[(1, Ready), (2, Starting)], 1, 0, &[]),
            (&[(1, Ready), (2, Ready)], 1, 0, &["r0"]),
            (&[(1, Ready), (1, Ready), (1, Ready)], 3, 1, &[]),
            (&[(1, Ready), (1, Ready), (1, Ready), (2, Ready)], 3, 1, &["r0"]),
            // a second update while the first is under way
            (&[(1, Ready), (3, Starting)], 1, 1, &["r1"]),
            // fewer
            (&[(2, Ready), (2, Ready), (2, Ready)], 1, 0, &["r2", "r1"]),
            (&[(2, Ready), (2, Starting)], 1, 0, &["r1"]),
        ] {
            let drain: Vec<String> = drain.iter().map(ToString::to_string).collect();
            assert_eq!(decided(list, count), (launch, drain), "{list:?} for {count}");
        }
    }

    proptest! {
        /// Carried out again and again, decisions end at rest with exactly what was wanted, and the
        /// number of replicas that serve never falls below what it was or is wanted to be.
        #[test]
        fn it_converges_without_a_gap(
            list in prop::collection::vec((1u64..4, prop_oneof![Just(Stage::Starting), Just(Stage::Ready)]), 0..8),
            count in 0usize..5,
        ) {
            let mut slots = slots(&list);
            let serving = |slots: &[Slot]| slots.iter().filter(|slot| slot.stage == Stage::Ready).count();
            let floor = serving(&slots).min(count);
            for round in 0..40 {
                let decision = decide(&slots, 2, count);
                slots.retain(|slot| !decision.drain.contains(&slot.id));
                prop_assert!(serving(&slots) >= floor);
                // Those that were starting come up before those that start now.
                for slot in &mut slots {
                    slot.stage = Stage::Ready;
                }
                for n in 0..decision.launch {
                    let id = ReplicaId::from_existing(&format!("new{round}-{n}"));
                    slots.push(Slot { id, revision: 2, stage: Stage::Starting });
                }
            }
            prop_assert_eq!(decide(&slots, 2, count), Decision::default());
            prop_assert_eq!(slots.iter().filter(|slot| slot.revision == 2).count(), count);
            prop_assert_eq!(slots.len(), count);
        }
    }
}
