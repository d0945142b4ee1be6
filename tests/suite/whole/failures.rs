//! Every step of a launch fails on a real containerd and a real network, before it is carried out and after it:
//! nothing is left, the reason is said, and the function comes up when the fault is gone.
//!
//! The fleet is in the test's own process, with a tap between it and the real parts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control::fleet::Fleet;
use directory::Phase;
use host::bundles::Handlers;
use host::logs::Logs;
use host::network::Network;
use host::network::cni::Cni;
use host::runtime::Runtime;
use host::runtime::containerd::Containerd;
use host::secrets::Secrets;
use host::store::Store;
use model::config::Config;
use model::function::{FunctionKey, ReplicaId};
use model::wire::Deployment;

use crate::support::daemon::{Daemon, SAMPLE, in_own_network};
use crate::support::inventory::Surveyor;
use crate::support::tap::{Call, Moment, Tap, Tapped};

/// Refuses one call at one moment, for as long as it is told to.
#[derive(Debug, Default)]
struct Fault(Mutex<Option<(Call, Moment)>>);

impl Fault {
    fn set(&self, fault: Option<(Call, Moment)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Tap for Fault {
    fn allows(&self, call: Call, moment: Moment, _: Option<&ReplicaId>) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) != Some((call, moment))
    }
}

#[test]
fn a_launch_that_fails_at_any_step_leaves_nothing() {
    require_root!();
    require!("containerd", "ctr", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::bare("[logs]\njournal = false\n").await;
        let (fleet, fault) = fleet(&daemon).await;
        let key = FunctionKey::parse("hello").expect("a name");
        let nothing = BTreeMap::from([("hello".to_owned(), 0)]);
        for call in [Call::Pull, Call::Attach, Call::Prepare, Call::Create, Call::Start] {
            for moment in [Moment::Before, Moment::After] {
                fault.set(Some((call, moment)));
                let deployment = Deployment {
                    service: "hello".into(),
                    image: SAMPLE.into(),
                    annotations: Some(BTreeMap::from([("ingle.pull-policy".into(), "Never".into())])),
                    ..Deployment::default()
                };
                fleet.deploy(deployment, false).await.expect("accepted");
                let found = || fleet.describe(&key).expect("it is there");
                eventually!(
                    found().phase == Phase::BackingOff.to_string(),
                    "{call:?} {moment:?}: {:?}",
                    found()
                );
                let reason = found().reason.unwrap_or_default();
                assert!(reason.contains("the test wants"), "{call:?} {moment:?}: {reason}");
                // Attempts go on, each for a moment; between them there is nothing.
                eventually!(
                    differences(&daemon, &nothing).await.is_empty(),
                    "{call:?} {moment:?}: {:#?}",
                    differences(&daemon, &nothing).await
                );
                fault.set(None);
                eventually!(
                    within 30,
                    found().phase == Phase::Ready.to_string(),
                    "{call:?} {moment:?}: {:?}",
                    found()
                );
                fleet.remove(&key).await.expect("removed");
                eventually!(
                    differences(&daemon, &BTreeMap::new()).await.is_empty(),
                    "{call:?} {moment:?}: {:#?}",
                    differences(&daemon, &BTreeMap::new()).await
                );
            }
        }
        fleet.stop().await;
    });
}

#[test]
fn a_removal_that_fails_at_any_step_is_made_up_for() {
    require_root!();
    require!("containerd", "ctr", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::bare("[logs]\njournal = false\n").await;
        let (fleet, fault) = fleet(&daemon).await;
        let key = FunctionKey::parse("hello").expect("a name");
        for call in [Call::Stop, Call::Remove, Call::Detach] {
            for moment in [Moment::Before, Moment::After] {
                let deployment = Deployment {
                    service: "hello".into(),
                    image: SAMPLE.into(),
                    annotations: Some(BTreeMap::from([("ingle.pull-policy".into(), "Never".into())])),
                    ..Deployment::default()
                };
                fleet.deploy(deployment, false).await.expect("accepted");
                let found = || fleet.describe(&key).expect("it is there");
                eventually!(found().phase == Phase::Ready.to_string(), "{call:?} {moment:?}: {:?}", found());
                fault.set(Some((call, moment)));
                fleet.remove(&key).await.expect("removed");
                // Longer than all attempts of the owner take.
                tokio::time::sleep(Duration::from_millis(700)).await;
                fault.set(None);
                eventually!(
                    within 20,
                    differences(&daemon, &BTreeMap::new()).await.is_empty(),
                    "{call:?} {moment:?}: {:#?}",
                    differences(&daemon, &BTreeMap::new()).await
                );
            }
        }
        fleet.stop().await;
    });
}

/// A fleet over the real parts of this daemon, which is not started, with the sample image loaded.
async fn fleet(daemon: &Daemon) -> (Arc<Fleet>, Arc<Fault>) {
    let config = Config::parse(daemon.settings(), |_| None).expect("settings");
    let (state, run) = (&config.daemon.state_dir, &config.daemon.run_dir);
    for directory in [state, run] {
        std::fs::create_dir_all(directory).expect("make a directory");
    }
    let fault = Arc::<Fault>::default();
    let store = Arc::new(Store::open(state).expect("a store"));
    let logs = Logs::new(&config.logs, state, run).expect("logs");
    let secrets = Secrets::open(state).expect("secrets");
    let network =
        Cni::new(&config.network, config.gateway.listen.port(), run, store.clone()).expect("a network");
    network.ensure().await.expect("a bridge");
    let containerd = Containerd::connect(&config).await.expect("containerd");
    containerd.load(crate::support::sample_archive(), None).await.expect("the sample is loaded");
    let runtime: Arc<dyn Runtime> = Arc::new(containerd);
    let network: Arc<dyn Network> = Arc::new(network);
    let runtime: Arc<dyn Runtime> = Tapped::new(runtime, fault.clone());
    let network: Arc<dyn Network> = Tapped::new(network, fault.clone());
    let handlers = Handlers::open(state, config.functions.handler_limit).expect("handlers");
    let fleet = Fleet::new(&config, runtime, network, logs, secrets, handlers, store).expect("a fleet");
    fleet.start().await.expect("started");
    (fleet, fault)
}

/// What is not as it should be, but for FIFOs that a daemon would hold open: there is none.
async fn differences(daemon: &Daemon, owned: &BTreeMap<String, usize>) -> Vec<String> {
    Surveyor::of(daemon).look().await.differences(owned)
}
