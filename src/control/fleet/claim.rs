//! Tells what may be removed of containers that no owner knows, and takes up functions whose records are lost.
//!
//! Invariants
//! - A container is removed only if its function's removal has begun, or its function is there and has no use for it.
//! - Any other container is left running, and named as an orphan.

use std::collections::BTreeMap;

use super::context::Context;
use host::runtime::{ContainerRecord, ContainerState, label};
use host::store::{FunctionRecord, Store, Tombstone};
use model::function::{FunctionKey, FunctionSpec, Incarnation};
use model::wire;

/// The function that a container says it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) key: FunctionKey,
    /// Absent on containers of earlier versions.
    pub(super) incarnation: Option<Incarnation>,
}

impl Owned {
    pub(super) fn of(container: &ContainerRecord) -> Option<Self> {
        let text = |label: &str| container.labels.get(label).map(String::as_str);
        let (name, namespace) = (text(label::FUNCTION)?, text(label::NAMESPACE)?);
        Some(Self {
            key: FunctionKey::new(name.parse().ok()?, namespace.parse().ok()?),
            incarnation: text(label::INCARNATION).and_then(Incarnation::from_existing),
        })
    }

    /// Reports whether it belongs to this life of its function, as far as it says.
    pub(super) fn is_of(&self, incarnation: &Incarnation) -> bool {
        self.incarnation.as_ref().is_none_or(|own| own == incarnation)
    }
}

/// Reports why a container that no owner knows must be left as it is; `None` if it may be removed.
pub(super) fn orphan(
    store: &Store,
    tombstones: &[Tombstone],
    container: &ContainerRecord,
) -> Option<wire::Orphan> {
    // Remains that carry nothing, as of a shim that was killed: nothing can be called.
    if container.labels.is_empty() {
        return None;
    }
    let orphan = |function: String, reason: String| {
        Some(wire::Orphan {
            replica: container.id.to_string(),
            function,
            running: matches!(container.state, ContainerState::Running { .. } | ContainerState::Paused),
            reason,
        })
    };
    let Some(owned) = Owned::of(container) else {
        return orphan(String::new(), "its labels name no function".to_owned());
    };
    let is_removed =
        |tombstone: &Tombstone| tombstone.key == owned.key && owned.is_of(&tombstone.incarnation);
    if tombstones.iter().any(is_removed) {
        return None;
    }
    let function = owned.key.to_string();
    match store.incarnation(&owned.key) {
        Some(incarnation) if owned.is_of(&incarnation) => None,
        Some(_) => orphan(function, "it belongs to an earlier function of this name".to_owned()),
        None => {
            let state = container.labels.get(label::STATE).map(String::as_str);
            let reason = match state {
                Some(state) if state != store.identity() => {
                    format!("it belongs to another state directory, with identity {state}")
                }
                _ => "its function has no record, and was not removed".to_owned(),
            };
            orphan(function, reason)
        }
    }
}

/// Returns the records of functions that were lost: containers of this state directory carry them, and no removal of
/// them has begun.
pub(super) async fn lost(context: &Context, containers: &[ContainerRecord]) -> Vec<FunctionRecord> {
    let store = &context.store;
    let tombstones = store.tombstones();
    let mut found: BTreeMap<FunctionKey, Vec<(FunctionRecord, bool)>> = BTreeMap::new();
    for container in containers {
        let Some(Owned { key, incarnation: Some(incarnation) }) = Owned::of(container) else { continue };
        let tombstone = Tombstone { key: key.clone(), incarnation };
        let is_ours = container.labels.get(label::STATE).is_some_and(|state| state == store.identity());
        if !is_ours || store.incarnation(&key).is_some() || tombstones.contains(&tombstone) {
            continue;
        }
        let record = match context.runtime.record(&container.id).await {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(replica = %container.id, error = &error as &dyn std::error::Error, "the record that a container carries cannot be read");
                continue;
            }
        };
        let record = record.and_then(|bytes| FunctionRecord::of_container(&bytes));
        if let Some(record) = record.filter(|record| {
            record.key == key
                && record.incarnation == tombstone.incarnation
                && FunctionSpec::try_from(&record.wanted.deployment).is_ok()
        }) {
            let runs = matches!(container.state, ContainerState::Running { .. });
            found.entry(key).or_default().push((record, runs));
        }
    }
    found.into_values().filter_map(latest).collect()
}

/// Makes one record of those that the containers of a function carry: of its latest revision, and the one that serves
/// until that is ready.
fn latest(mut carried: Vec<(FunctionRecord, bool)>) -> Option<FunctionRecord> {
    carried.sort_by_key(|(record, _)| (record.wanted.created_at, record.wanted.number));
    let (mut record, _) = carried.last()?.clone();
    let of_same_life = |(other, _): &&(FunctionRecord, bool)| other.incarnation == record.incarnation;
    let serving = carried.iter().filter(of_same_life).rfind(|(_, runs)| *runs);
    record.serving = serving
        .map(|(serving, _)| serving.wanted.clone())
        .filter(|serving| serving.number != record.wanted.number);
    record.last_revision = record.last_revision.max(record.wanted.number);
    Some(record)
}
