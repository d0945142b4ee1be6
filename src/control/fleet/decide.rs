//! What to do about a function's replicas: a pure function of what there is and what is wanted.

use model::function::ReplicaId;

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

    /// What may happen between two decisions; numbers choose among the replicas that there are.
    #[derive(Debug, Clone)]
    enum Event {
        Deploy,
        /// The update did not come up: what served before is wanted again.
        GiveUp,
        Scale(usize),
        Remove,
        /// A start ends well, or not.
        Starts(usize),
        Fails(usize),
        /// A replica that serves ends, by itself or for want of memory, or fails its health probe.
        Ends(usize),
        /// All of one that drained, or was called off, is gone.
        Gone(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            2 => Just(Event::Deploy),
            1 => Just(Event::GiveUp),
            2 => (0usize..5).prop_map(Event::Scale),
            6 => (0usize..8).prop_map(Event::Starts),
            2 => (0usize..8).prop_map(Event::Fails),
            2 => (0usize..8).prop_map(Event::Ends),
            4 => (0usize..8).prop_map(Event::Gone),
        ];
        (prop::collection::vec(event, 0..60), prop::option::of(30usize..60)).prop_map(
            |(mut events, removed)| {
                if let Some(at) = removed.filter(|at| *at < events.len()) {
                    events.insert(at, Event::Remove);
                }
                events
            },
        )
    }

    /// The owner's part in small: carries decisions out as it does.
    #[derive(Debug, Default)]
    struct Model {
        slots: Vec<Slot>,
        /// Starts that were called off, and have not ended yet.
        called_off: Vec<ReplicaId>,
        launched: usize,
        wanted: u64,
        serving: u64,
        count: usize,
        removed: bool,
    }

    impl Model {
        /// The id of the `n`th replica at this stage, around and around.
        fn pick(&self, stage: Stage, n: usize) -> Option<ReplicaId> {
            let all: Vec<&Slot> = self.slots.iter().filter(|slot| slot.stage == stage).collect();
            (!all.is_empty()).then(|| all[n % all.len()].id.clone())
        }

        fn slot(&mut self, id: &ReplicaId) -> &mut Slot {
            self.slots.iter_mut().find(|slot| slot.id == *id).expect("it was picked")
        }

        fn forget(&mut self, id: &ReplicaId) {
            self.slots.retain(|slot| slot.id != *id);
            self.called_off.retain(|other| other != id);
        }

        fn happens(&mut self, event: &Event) {
            match event {
                Event::Deploy => self.wanted += 1,
                Event::GiveUp => self.wanted = self.serving,
                Event::Scale(count) => self.count = *count,
                Event::Remove => self.removed = true,
                Event::Starts(n) => {
                    let Some(id) = self.pick(Stage::Starting, *n) else { return };
                    let called_off = self.called_off.contains(&id);
                    let slot = self.slot(&id);
                    slot.stage = if called_off { Stage::Draining } else { Stage::Ready };
                    let revision = slot.revision;
                    if !called_off && revision == self.wanted {
                        self.serving = revision;
                    }
                }
                Event::Fails(n) => {
                    if let Some(id) = self.pick(Stage::Starting, *n) {
                        self.forget(&id);
                    }
                }
                Event::Ends(n) => {
                    if let Some(id) = self.pick(Stage::Ready, *n) {
                        self.slot(&id).stage = Stage::Draining;
                    }
                }
                Event::Gone(n) => {
                    if let Some(id) = self.pick(Stage::Draining, *n) {
                        self.forget(&id);
                    }
                }
            }
        }

        fn serving(&self) -> usize {
            self.slots.iter().filter(|slot| slot.stage == Stage::Ready).count()
        }

        fn reconcile(&mut self) -> Result<(), TestCaseError> {
            let count = if self.removed { 0 } else { self.count };
            let before = self.serving();
            let decision = decide(&self.slots, self.wanted, count);
            for id in &decision.drain {
                let stage = self.slot(id).stage;
                match stage {
                    Stage::Starting if !self.called_off.contains(id) => self.called_off.push(id.clone()),
                    Stage::Starting => {}
                    Stage::Ready => self.slot(id).stage = Stage::Draining,
                    Stage::Draining => prop_assert!(false, "{id} is drained twice"),
                }
            }
            prop_assert!(self.serving() >= before.min(count), "what serves is taken away too early");
            prop_assert!(self.serving() <= count, "more serve than are wanted");
            for _ in 0..decision.launch {
                self.launched += 1;
                let id = ReplicaId::from_existing(&format!("r{}", self.launched));
                self.slots.push(Slot { id, revision: self.wanted, stage: Stage::Starting });
            }
            let alive = |slot: &&Slot| slot.stage != Stage::Draining && !self.called_off.contains(&slot.id);
            let alive = self.slots.iter().filter(alive).count();
            let room = usize::from(count > 0);
            prop_assert!(alive <= count + room, "{alive} for {count}: {:?}", self.slots);
            prop_assert!(!self.removed || decision.launch == 0, "a removed function is started");
            // Nothing is left to be done before something happens.
            let again = decide(&self.slots, self.wanted, count);
            prop_assert!(again.launch == 0, "{again:?} right after {decision:?}");
            prop_assert!(again.drain.iter().all(|id| self.called_off.contains(id)), "{again:?}");
            Ok(())
        }
    }

    proptest! {
        /// Whatever happens, in whatever order: there is room for one replica more than are wanted and for no
        /// other, what serves is kept while it is wanted, and a removed function is never started again.
        #[test]
        fn any_order_of_events_keeps_the_bounds(count in 0usize..5, events in events()) {
            let mut model = Model { count, wanted: 1, ..Model::default() };
            model.reconcile()?;
            for event in &events {
                model.happens(event);
                model.reconcile()?;
            }
            // Left alone, it comes to rest.
            for _ in 0..200 {
                model.happens(&Event::Starts(0));
                model.happens(&Event::Gone(0));
                model.reconcile()?;
            }
            let count = if model.removed { 0 } else { model.count };
            prop_assert_eq!((model.slots.len(), model.serving()), (count, count));
            prop_assert!(model.slots.iter().all(|slot| slot.revision == model.wanted));
        }
    }
}
