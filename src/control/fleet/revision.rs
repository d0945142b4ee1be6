//! Revisions to and from their records.

use std::sync::Arc;

use crate::replica::Revision;
use directory::KeptRevision;
use host::runtime::ResolvedImage;
use host::store::RevisionRecord;
use model::function::{FunctionSpec, Invalid};

/// Returns the record of a revision, as it is stored.
pub(super) fn to_record(revision: &Revision) -> RevisionRecord {
    RevisionRecord {
        number: revision.number,
        deployment: (*revision.deployment).clone(),
        created_at: revision.created_at,
        digest: revision.image.digest.clone(),
        manifest_digest: revision.image.manifest_digest.clone(),
        size: revision.image.size,
        config: revision.image.config.clone(),
        default_memory: revision.default_memory,
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
        default_memory: record.default_memory,
    })
}

/// Returns a kept revision as it is shown.
pub(super) fn kept(record: &RevisionRecord) -> KeptRevision {
    KeptRevision {
        number: record.number,
        image: record.deployment.image.clone(),
        digest: record.digest.clone(),
        created_at: record.created_at,
    }
}
