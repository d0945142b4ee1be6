//! Function output: read from FIFOs, kept in bounded files, sent to journald, served by the API.

mod error;
mod query;

pub use error::LogError;
pub use query::Query;

use std::path::Path;
use std::sync::Arc;

use futures_util::Stream;

use crate::function::{FunctionKey, ReplicaId};
use crate::{config, runtime, wire};

/// The output of all functions.
#[derive(Debug)]
pub struct Logs {}

#[expect(clippy::todo, reason = "being written")]
#[expect(clippy::unused_async, reason = "being written")]
impl Logs {
    /// Output of functions, with files under `state_dir` and FIFOs under `run_dir`.
    pub fn new(_config: &config::Logs, _state_dir: &Path, _run_dir: &Path) -> Result<Arc<Self>, LogError> {
        todo!()
    }

    /// Makes the FIFOs of a replica, or takes up those that are there, and reads them from now on.
    pub fn open(&self, _key: &FunctionKey, _id: &ReplicaId) -> Result<runtime::Stdio, LogError> {
        todo!()
    }

    /// Reads what is left in a replica's FIFOs and removes them. Finding none is success.
    pub async fn close(&self, _id: &ReplicaId) {
        todo!()
    }

    /// Every replica that has FIFOs, whether they are read or were left by an earlier daemon.
    pub fn attached(&self) -> Vec<ReplicaId> {
        todo!()
    }

    /// Every function that has files, deployed or not.
    pub fn kept(&self) -> Vec<FunctionKey> {
        todo!()
    }

    /// The lines of a function, oldest first.
    pub fn query(
        &self,
        _key: &FunctionKey,
        _query: Query,
    ) -> impl Stream<Item = wire::LogLine> + Send + use<> {
        futures_util::stream::empty()
    }

    /// The last lines that a replica wrote, oldest first; kept for a little while after
    /// [`Logs::close`], which makes sure that its last words are among them.
    pub fn last_lines(&self, _id: &ReplicaId, _n: usize) -> Vec<String> {
        todo!()
    }

    /// Deletes a function's files and ends the streams of those who follow it.
    pub async fn remove(&self, _key: &FunctionKey) {
        todo!()
    }

    /// Stops reading and writes out what was read. The FIFOs stay, for the next daemon.
    pub async fn shutdown(&self) {
        todo!()
    }
}
