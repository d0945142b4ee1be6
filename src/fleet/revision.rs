//! Revisions to and from their records.

use std::path::Path;
use std::sync::Arc;

use super::FleetError;
use super::directory::KeptRevision;
use crate::function::{FunctionSpec, Invalid};
use crate::handlers::Handlers;
use crate::replica::{Revision, needs_watchdog};
use crate::runtime::ResolvedImage;
use crate::secrets::{SecretError, Secrets};
use crate::store::RevisionRecord;

/// What is stored of a revision.
pub(super) fn to_record(revision: &Revision) -> RevisionRecord {
    RevisionRecord {
        number: revision.number,
        deployment: (*revision.deployment).clone(),
        created_at: revision.created_at,
        digest: revision.image.digest.clone(),
        manifest_digest: revision.image.manifest_digest.clone(),
        size: revision.image.size,
        config: revision.image.config.clone(),
    }
}

/// The revision that was stored.
pub(super) fn from_record(record: &RevisionRecord) -> Result<Revision, Invalid> {
    let spec = FunctionSpec::try_from(&record.deployment)?;
    Ok(Revision {
        number: record.number,
        image: ResolvedImage {
            image: spec.image.clone(),
            digest: record.digest.clone(),
            manifest_digest: record.manifest_digest.clone(),
            config: record.config.clone(),
            size: record.size,
        },
        deployment: Arc::new(record.deployment.clone()),
        spec: Arc::new(spec),
        created_at: record.created_at,
    })
}

/// What is shown of a revision that is kept.
pub(super) fn kept(record: &RevisionRecord) -> KeptRevision {
    KeptRevision {
        number: record.number,
        image: record.deployment.image.clone(),
        digest: record.digest.clone(),
        created_at: record.created_at,
    }
}

/// Refuses a schedule in a time zone that this machine does not know.
pub(super) fn check_schedule(spec: &FunctionSpec) -> Result<(), Invalid> {
    let Some(cron) = &spec.cron else { return Ok(()) };
    cron.schedule.timetable().map(drop).map_err(|reason| Invalid::new("annotations.schedule", reason))
}

/// Refuses a function that asks for a secret which is not there.
pub(super) fn check_secrets(secrets: &Secrets, spec: &FunctionSpec) -> Result<(), FleetError> {
    let mounted = secrets.mount(&spec.key.namespace, &spec.secrets);
    mounted.map(drop).map_err(|error| match error {
        SecretError::NotFound { secret, namespace } => {
            FleetError::SecretNotFound { secret: secret.to_string(), namespace }
        }
        other => FleetError::Secrets(other),
    })
}

/// Refuses a function whose code is not there.
pub(super) fn check_handler(handlers: &Handlers, spec: &FunctionSpec) -> Result<(), FleetError> {
    let mounted = spec.handler.as_ref().map(|handler| handlers.mount(handler)).transpose();
    mounted.map(drop).map_err(FleetError::Handler)
}

/// Refuses what there is nothing to run for.
pub(super) fn check_command(
    image: &ResolvedImage,
    spec: &FunctionSpec,
    watchdog: &Path,
) -> Result<(), FleetError> {
    if needs_watchdog(spec, &image.config) {
        // Looked for now: the next replica may start when nobody watches.
        return if watchdog.is_file() { Ok(()) } else { Err(FleetError::NoWatchdog(watchdog.to_owned())) };
    }
    if image.config.entrypoint.is_empty() && image.config.cmd.is_empty() {
        return Err(crate::runtime::RuntimeError::NoCommand { image: image.image.to_string() }.into());
    }
    Ok(())
}

/// A number that tells a replica from all others, those of earlier lives of the daemon included.
pub(super) fn unique() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    u64::from_le_bytes(bytes)
}
