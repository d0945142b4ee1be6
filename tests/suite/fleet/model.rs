//! Any sequence of requests, ends and faults, in any interleaving, over a runtime that is watched:
//!
//! - no replica is made, created or started twice, and none after it was told to go;
//! - each one that is made is removed exactly once, but for those of an owner that panicked, which may be removed
//!   again;
//! - at no moment serve more replicas than are wanted and the one that takes the place of another;
//! - a function that was removed stays removed, across restarts too;
//! - when the faults are over, exactly what is wanted serves, and nothing else is there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::model::function::ReplicaId;
use ::model::wire::Deployment;
use control::fleet::FleetError;
use directory::{Entry, Phase};
use proptest::prelude::*;

use super::{World, key};
use crate::support::fake_runtime::Step;
use crate::support::long::long;
use crate::support::tap::{Call, Moment, Tap};

/// Sequences in the short form.
const CASES: u32 = 12;

#[derive(Debug, Clone)]
enum Action {
    /// An image that serves, one that ends at once, one that ends soon after it has answered, or one that
    /// takes its time.
    Deploy(&'static str),
    Rollback,
    Scale(u32),
    Remove,
    /// The first process of one of the containers ends.
    Kill(usize),
    Starve(usize),
    /// It ends while nobody listens, and containerd is listed.
    Vanish(usize),
    Fault(Step, Fault),
    Heal,
    Resync,
    /// Milliseconds.
    Pause(u64),
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Once,
    Fails,
    Panics,
    Away,
    /// The owner panics.
    Unspeakable,
}

/// One action, two at the same time, or the end of the daemon and its next start.
#[derive(Debug, Clone)]
enum Turn {
    One(Action),
    Both(Action, Action),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let image =
        prop::sample::select(vec!["you/echo", "you/echo", "you/exits:3", "you/fleeting:2000", "you/slow"]);
    let launch = prop::sample::select(vec![Step::Pull, Step::Prepare, Step::Create, Step::Start]);
    let fault = prop::sample::select(vec![Fault::Once, Fault::Fails, Fault::Panics, Fault::Away]);
    prop_oneof![
        6 => image.prop_map(Action::Deploy),
        2 => Just(Action::Rollback),
        4 => (0u32..4).prop_map(Action::Scale),
        2 => Just(Action::Remove),
        3 => (0usize..4).prop_map(Action::Kill),
        1 => (0usize..4).prop_map(Action::Starve),
        1 => (0usize..4).prop_map(Action::Vanish),
        2 => (launch, fault).prop_map(|(step, fault)| Action::Fault(step, fault)),
        1 => prop::sample::select(vec![Step::Stop, Step::Remove]).prop_map(|step| Action::Fault(step, Fault::Once)),
        1 => Just(Action::Fault(Step::Create, Fault::Unspeakable)),
        3 => Just(Action::Heal),
        1 => Just(Action::Resync),
        6 => (0u64..60).prop_map(Action::Pause),
    ]
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        8 => action().prop_map(Turn::One),
        4 => (action(), action()).prop_map(|(one, other)| Turn::Both(one, other)),
        1 => Just(Turn::Restart),
    ];
    prop::collection::vec(turn, 1..16)
}

/// What the runtime was asked of one replica.
#[derive(Debug, Default)]
struct Life {
    prepared: u32,
    created: u32,
    started: u32,
    /// It was told to go.
    leaving: bool,
    removed: u32,
}

/// Sees every call, and notes what must not be.
#[derive(Debug, Default)]
struct Witness {
    lives: Mutex<BTreeMap<ReplicaId, Life>>,
    faults: Mutex<Vec<String>>,
    owner_panicked: AtomicBool,
}

impl Witness {
    fn lives(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, fault: String) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replicas that were made, and not removed as often as they should be.
    fn unmatched(&self) -> Vec<String> {
        let again = self.owner_panicked.load(Ordering::Relaxed);
        let matched = |life: &Life| life.removed == 1 || (again && life.removed > 1);
        let lives = self.lives();
        let made = lives.iter().filter(|(_, life)| life.prepared > 0);
        made.filter(|(_, life)| !matched(life)).map(|(id, life)| format!("{id}: {life:?}")).collect()
    }
}

impl Tap for Witness {
    fn allows(&self, call: Call, moment: Moment, id: Option<&ReplicaId>) -> bool {
        let Some(id) = id else { return true };
        let mut lives = self.lives();
        let life = lives.entry(id.clone()).or_default();
        match (call, moment) {
            (Call::Prepare, Moment::Before) => life.prepared += 1,
            (Call::Create, Moment::Before) => life.created += 1,
            (Call::Start, Moment::Before) => life.started += 1,
            (Call::Stop | Call::Remove, Moment::Before) => life.leaving = true,
            (Call::Remove, Moment::After) => life.removed += 1,
            _ => {}
        }
        let makes = matches!(call, Call::Prepare | Call::Create | Call::Start) && moment == Moment::Before;
        let twice = life.prepared > 1 || life.created > 1 || life.started > 1;
        let found = makes && (life.leaving || twice);
        if found {
            let fault = format!("{call:?} of {id}, of which this is known: {life:?}");
            drop(lives);
            self.fault(fault);
        }
        true
    }
}

/// Sees every view that is published, and notes more replicas than are wanted.
async fn watch(entry: Arc<Entry>, witness: Arc<Witness>) {
    let mut views = entry.watch();
    loop {
        let view = entry.view();
        let room = if view.phase == Phase::Removing { 0 } else { view.desired as usize + 1 };
        if view.endpoints.len() > room {
            let ids: Vec<_> = view.endpoints.iter().map(|endpoint| &endpoint.id).collect();
            witness.fault(format!("{ids:?} serve, there is room for {room}: {}", view.phase));
        }
        drop(view);
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Whether the function is there, as far as the answers tell.
fn is_there(world: &World) -> bool {
    world.fleet.describe(&key()).is_ok()
}

async fn act(world: &World, witness: &Arc<Witness>, number: usize, action: &Action) {
    let nth = |n: usize| {
        let all = world.runtime.leftovers();
        (!all.is_empty()).then(|| all[n % all.len()].clone())
    };
    let gone = |result: Result<(), FleetError>| match result {
        Ok(()) | Err(FleetError::NotFound(_)) => {}
        // Its owner panicked over it; the answer is lost, and nothing else.
        Err(FleetError::BrokeOff) if witness.owner_panicked.load(Ordering::Relaxed) => {}
        Err(error) => witness.fault(format!("{action:?}: {error}")),
    };
    match action {
        Action::Deploy(image) => {
            // Each image under a name of its own, so that the order can be told.
            let env = BTreeMap::from([("n".to_owned(), number.to_string())]);
            let deployment = Deployment {
                service: "f".into(),
                image: (*image).into(),
                env_vars: Some(env),
                ..Deployment::default()
            };
            gone(world.fleet.deploy(deployment, false).await.map(drop));
            if let Some(entry) = world.fleet.directory().get(&key()) {
                tokio::spawn(watch(entry, witness.clone()));
            }
        }
        Action::Rollback => match world.fleet.rollback(&key(), None).await {
            Err(FleetError::NothingBefore { .. }) => {}
            other => gone(other.map(drop)),
        },
        Action::Scale(replicas) => gone(world.fleet.scale(&key(), *replicas).await),
        Action::Remove => gone(world.fleet.remove(&key()).await),
        Action::Kill(n) => nth(*n).iter().for_each(|id| world.runtime.kill(id)),
        Action::Starve(n) => nth(*n).iter().for_each(|id| world.runtime.starve(id)),
        Action::Vanish(n) => {
            nth(*n).iter().for_each(|id| world.runtime.vanish(id));
            world.runtime.resync();
        }
        Action::Fault(step, fault) => match fault {
            Fault::Once => world.runtime.fail_once(*step),
            Fault::Fails => world.runtime.fail_at(*step),
            Fault::Panics => world.runtime.panic_at(*step),
            Fault::Away => world.runtime.away_at(&[*step]),
            Fault::Unspeakable => {
                witness.owner_panicked.store(true, Ordering::Relaxed);
                world.runtime.unspeakable_at(*step);
            }
        },
        Action::Heal => world.runtime.heal(),
        Action::Resync => world.runtime.resync(),
        Action::Pause(millis) => tokio::time::sleep(Duration::from_millis(*millis)).await,
    }
}

async fn carry_out(turns: &[Turn]) {
    let witness = Arc::<Witness>::default();
    let mut world = World::tapped(witness.clone()).await;
    for (number, turn) in turns.iter().enumerate() {
        match turn {
            Turn::One(action) => act(&world, &witness, number, action).await,
            Turn::Both(one, other) => {
                tokio::join!(act(&world, &witness, number, one), act(&world, &witness, number, other));
            }
            Turn::Restart => {
                let there = is_there(&world);
                world = world.restart().await;
                assert_eq!(is_there(&world), there, "turn {number}: a restart changes nothing");
            }
        }
        let removed = matches!(turn, Turn::One(Action::Remove));
        assert!(!removed || !is_there(&world), "turn {number}: it was removed");
        assert_eq!(witness.faults(), [""; 0], "turn {number}");
    }
    // The faults are over.
    world.runtime.heal();
    let number = world.deploy("you/echo:last").await;
    world.fleet.scale(&key(), 2).await.expect("scaled");
    let settled = || {
        let found = world.status();
        found.revision == number && found.available_replicas == 2 && found.update.is_none()
    };
    eventually!(within 20, settled(), "it does not come up: {:?}", world.status());
    eventually!(within 20, world.runtime.leftovers().len() == 2, "{:?}", world.runtime.leftovers());
    world.fleet.remove(&key()).await.expect("removed");
    assert!(!is_there(&world), "it was removed");
    eventually!(within 20, world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
    let world = world.restart().await;
    assert!(!is_there(&world), "it was removed");
    assert_eq!(witness.unmatched(), [""; 0]);
    assert_eq!(witness.faults(), [""; 0]);
    world.fleet.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: long().map_or(CASES, |long| long.rounds),
        // Each attempt takes about a second.
        max_shrink_iters: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_requests_and_faults_keeps_every_promise(turns in turns()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(carry_out(&turns));
    }
}
