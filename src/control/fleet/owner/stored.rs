//! What an owner begins with.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::fleet::{FleetError, revision};
use crate::replica::Revision;
use directory::KeptRevision;
use host::store::FunctionRecord;
use model::function::{Incarnation, ReplicaId};

/// What is stored of a function, parsed.
#[derive(Debug)]
pub(in crate::fleet) struct StoredFunction {
    pub(in crate::fleet) record: FunctionRecord,
    pub(in crate::fleet) wanted: Arc<Revision>,
    /// What serves, as far as is known.
    pub(in crate::fleet) serving: Option<Arc<Revision>>,
    /// The revisions that served and are kept, oldest first.
    pub(in crate::fleet) history: Arc<[KeptRevision]>,
}

impl StoredFunction {
    /// A function that was deployed just now.
    pub(in crate::fleet) fn new(record: FunctionRecord, wanted: Revision) -> Self {
        let history = record.revisions.iter().map(revision::kept).collect();
        Self { record, wanted: Arc::new(wanted), serving: None, history }
    }

    /// A function that was deployed before, with what else is stored of it.
    pub(in crate::fleet) fn read(record: FunctionRecord) -> Result<Self, FleetError> {
        let wanted = Arc::new(revision::from_record(&record.wanted)?);
        let history: Arc<[KeptRevision]> = record.revisions.iter().map(revision::kept).collect();
        let served = history.iter().any(|kept| kept.number == wanted.number);
        let serving = match &record.serving {
            Some(serving) => Some(Arc::new(revision::from_record(serving)?)),
            None => served.then(|| wanted.clone()),
        };
        Ok(Self { record, wanted, serving, history })
    }
}

/// A replica that may have outlived the daemon.
#[derive(Debug)]
pub(in crate::fleet) struct AdoptableReplica {
    pub(in crate::fleet) id: ReplicaId,
    /// Absent on containers of earlier versions.
    pub(in crate::fleet) incarnation: Option<Incarnation>,
    pub(in crate::fleet) revision: u64,
    pub(in crate::fleet) address: SocketAddr,
}
