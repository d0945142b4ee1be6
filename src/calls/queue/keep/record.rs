//! Records of calls that have ended, with their answers if those were asked for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantNames};

use crate::queue::codec::{self, DecodeError};
use crate::queue::job::{Attempt, CallId, Excerpt, JobMetadata, Method};
use crate::queue::payload::Payload;
use model::function::{FunctionKey, none_of};

/// How a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = String, parse_err_fn = none_of::<CallState>)]
pub enum CallState {
    /// Could be made now.
    Queued,
    /// Waits for its next attempt.
    Waiting,
    /// Is being made.
    Running,
    /// Was answered as it should be.
    Done,
    /// Was given up.
    Failed,
    /// Was cancelled.
    Cancelled,
}

/// The start of a function that an attempt met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Start {
    /// There was no replica: the attempt waited for one.
    Cold,
    /// There was a replica.
    Warm,
}

/// One call, as it is or as it was.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// How it is.
    pub state: CallState,
    /// The function.
    pub function: FunctionKey,
    /// `X-Call-Id`
    pub call_id: CallId,
    /// Its method.
    pub method: Method,
    /// Its path and query, or how they begin.
    pub path: Excerpt,
    /// Bytes of its body.
    pub sent: u64,
    /// When it was accepted.
    pub queued_at: Timestamp,
    /// When its first attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How many attempts there were, or have failed so far.
    pub tries: u32,
    /// Start of the function that the last attempt met.
    pub start: Option<Start>,
    /// The status that the last attempt was answered, or that a client would have been answered.
    pub code: Option<u16>,
    /// Bytes of the answer's body.
    pub received: Option<u64>,
    /// Why it failed, or failed the last time, or why its function takes no call now.
    pub reason: Option<Excerpt>,
    /// Attempts that failed or were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// Until when its answer is kept.
    pub result_until: Option<Timestamp>,
    /// Why the answer's body is not kept, if it is not.
    pub omitted: Option<Excerpt>,
}

impl CallRecord {
    /// Makes that of a call that has not ended.
    pub(in crate::queue) fn of(facts: &JobMetadata, payload: &Payload, state: CallState) -> Self {
        Self {
            state,
            function: facts.function.clone(),
            call_id: facts.call_id.clone(),
            method: facts.method.clone(),
            path: facts.path.clone(),
            sent: payload.body_size(),
            queued_at: facts.queued_at,
            started_at: facts.started_at,
            ended_at: None,
            tries: facts.tried,
            start: None,
            code: facts.tries.last().and_then(|last| last.code),
            received: None,
            reason: facts.tries.last().map(|last| last.reason.clone()),
            attempts: facts.tries.clone(),
            result_until: None,
            omitted: None,
        }
    }

    /// As it is stored, with the answer.
    pub(in crate::queue) fn encode(&self, answer: &Payload) -> Vec<u8> {
        codec::encode(self, answer)
    }

    /// Reads what [`Self::encode`] made.
    pub(in crate::queue) fn decode(bytes: &[u8]) -> Result<(Self, Payload), DecodeError> {
        codec::decode(bytes)
    }
}
