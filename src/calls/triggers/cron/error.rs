//! Why a timer does not do as it is told.

use crate::queue::QueueError;
use host::store::StoreError;
use model::function::FunctionKey;

/// An error of a timer.
#[derive(Debug, thiserror::Error)]
pub enum CronError {
    /// There is no such function.
    #[error("there is no function {0}")]
    NotFound(FunctionKey),
    /// The function has no schedule.
    #[error(
        "the function {0} has no schedule: deploy it with the annotations topic: cron-function and schedule"
    )]
    NoSchedule(FunctionKey),
    /// The queue did not take the run.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}
