//! One request, and all that answering it takes.

use std::cell::Cell;

use http1::{Alarm, RequestHead};
use tokio::time::Instant;

use super::answer::Answer;
use super::body::Body;
use super::shared::Shared;

/// What a mode is given to answer a request.
#[derive(Debug)]
pub(super) struct Call<'c, 'a> {
    pub(super) request: &'c RequestHead<'c, 'c>,
    pub(super) body: &'c mut Body<'a>,
    pub(super) answer: &'c mut Answer<'a>,
    pub(super) shared: &'c Shared,
    /// For the time that the process may take.
    pub(super) alarm: &'c mut Alarm,
    /// When all is to be done.
    pub(super) deadline: &'c Cell<Instant>,
}

impl<'c> Call<'c, '_> {
    /// The first header of this name.
    pub(super) fn header(&self, name: &str) -> Option<&'c [u8]> {
        self.request
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }
}
