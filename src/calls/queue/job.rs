//! One call that was accepted to be made later, as it is kept.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bounded_text::BoundedText;
use super::codec::{self, DecodeError};
use super::payload::Payload;
use super::schedule::admission::{Tenant, Usage};
use http1::MAX_METHOD;
use model::function::{FunctionKey, Incarnation};

/// Tries of a call that are remembered apart: they are kept with it in one record, which must stay small.
const KEPT_TRIES: usize = 8;
/// Bytes of an [`Excerpt`].
const KEPT_TEXT: usize = 240;
/// Bytes of head and body that are kept with what is known of their call, at most.
const INLINE: usize = 4 << 10;
/// Bytes of a record in all: what the store keeps within sled, whose nodes must stay small.
const RECORD: usize = 8 << 10;
/// Bytes that may be added to a record: all that is remembered of attempts, times, and what comes with the end.
const GROWTH: usize = KEPT_TRIES * (KEPT_TEXT + 120) + KEPT_TEXT + 400;

/// `X-Call-Id` of a call, never cut: the gateway accepts 256 bytes, each up to three bytes as text.
pub type CallId = BoundedText<768>;
/// Method of a call, never cut.
pub type Method = BoundedText<MAX_METHOD>;
/// Path or reason, cut to what is remembered.
pub type Excerpt = BoundedText<KEPT_TEXT>;
/// URL of a receiver, never cut: `EgressPolicy` accepts 1000 bytes, each up to two bytes in JSON.
pub type ReceiverUrl = BoundedText<2000>;

/// A call, from its acceptance until it has succeeded or is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Metadata of the call.
    pub facts: JobMetadata,
    /// Head and body that it sends.
    pub payload: Payload,
}

/// Metadata of a call.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMetadata {
    /// The function.
    pub function: FunctionKey,
    /// The life of the function that it was queued for: no other one makes it. Absent if any may, and in rows of earlier
    /// versions.
    pub incarnation: Option<Incarnation>,
    /// `X-Call-Id`: the client's own, or a new one. It stays the same over all attempts.
    pub call_id: CallId,
    /// Its method.
    pub method: Method,
    /// Its path and query, or how they begin.
    pub path: Excerpt,
    /// When it was accepted.
    pub queued_at: Timestamp,
    /// Not to be made before.
    pub not_before: Option<Timestamp>,
    /// How many attempts have failed.
    #[serde(default)]
    pub tried: u32,
    /// These attempts, in order. Where there are too many, those are one that failed in the same way one
    /// after the other; where none did, the first is forgotten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<Attempt>,
    /// When its first attempt began.
    pub started_at: Option<Timestamp>,
    /// For how long its answer is kept, in seconds, if its client asked for that.
    pub keep: Option<u64>,
    /// Receiver of its answer, if its client wants it. With what came of the call, this is that callback.
    pub callback: Option<Callback>,
}

impl JobMetadata {
    /// Returns the metadata of a call accepted now.
    pub fn new(function: FunctionKey, call_id: String, method: String, path: &str) -> Self {
        Self {
            function,
            incarnation: None,
            call_id: call_id.into(),
            method: method.into(),
            path: path.into(),
            queued_at: Timestamp::now(),
            not_before: None,
            tried: 0,
            tries: Vec::new(),
            started_at: None,
            keep: None,
            callback: None,
        }
    }

    /// Makes those of the callback of a call that has ended like this.
    pub(super) fn of_callback(&self, callback: Callback) -> Self {
        Self {
            callback: Some(callback),
            ..Self::new(self.function.clone(), self.call_id.to_string(), "POST".to_owned(), &self.path)
        }
    }

    /// Whether this is a callback, and the call has ended.
    pub fn is_callback(&self) -> bool {
        self.callback.as_ref().is_some_and(|callback| callback.ended.is_some())
    }

    /// How many bytes of head and body may be kept with it.
    pub(super) fn inline(&self) -> usize {
        let known = serde_json::to_vec(self).map_or(RECORD, |json| json.len());
        RECORD.saturating_sub(GROWTH + known).min(INLINE)
    }

    /// Whether somebody wants its answer.
    pub(super) fn wants_answer(&self) -> bool {
        self.keep.is_some() || self.callback.as_ref().is_some_and(|callback| callback.ended.is_none())
    }

    /// The tenant whose room it takes.
    pub(super) fn tenant(&self) -> Tenant {
        if self.is_callback() { Tenant::Receivers } else { Tenant::Function(self.function.clone()) }
    }

    /// The room that it takes with so many bytes.
    pub(super) fn usage(&self, bytes: u64) -> Usage {
        Usage { callbacks: usize::from(self.callback.is_some()), ..Usage::call(bytes) }
    }

    /// Remembers an attempt that failed.
    pub(super) fn failed(&mut self, one: Attempt) {
        self.tried = self.tried.saturating_add(1);
        self.tries.push(one);
        if self.tries.len() > KEPT_TRIES {
            let later = |at: usize| {
                (at + 1..self.tries.len()).find(|later| self.tries[at].is_like(&self.tries[*later]))
            };
            let alike = (0..self.tries.len()).find_map(|at| Some((at, later(at)?)));
            let (at, into) = alike.unzip();
            let gone = self.tries.remove(at.unwrap_or_default());
            if let Some(into) = into {
                self.tries[into - 1].repeats += gone.repeats + 1;
            }
        }
    }

    /// All attempts are forgotten: it is made as if it were new.
    pub(super) fn reset_attempts(&mut self) {
        // Whoever asks for it again means the function that is there now.
        self.incarnation = None;
        self.tried = 0;
        self.tries.clear();
        self.started_at = None;
        self.not_before = None;
        self.queued_at = Timestamp::now();
    }
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The status that the function answered, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Why that was no success, in words.
    pub reason: Excerpt,
    /// Tries before it that failed in the same way, and are not remembered apart.
    #[serde(default, skip_serializing_if = "model::wire::is_default")]
    pub repeats: u32,
}

impl Attempt {
    /// One that ended now.
    pub(super) fn ended(at: Timestamp, took: Duration, code: Option<u16>, reason: &str) -> Self {
        let took_ms = took.as_millis().try_into().unwrap_or(u64::MAX);
        Self { at, took_ms, code, reason: reason.into(), repeats: 0 }
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.code, &self.reason) == (other.code, &other.reason)
    }
}

/// The receiver of a call's answer, and what came of the call once it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// The receiver.
    pub url: ReceiverUrl,
    /// The end of the call. While there is none, it is still to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// The end of a call, beside its answer's headers and body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Id by which a receiver knows the callback: chosen here, so that no client can take that of another.
    pub message_id: String,
    /// The status that the function answered, or that a client would have got from the gateway.
    pub status: u16,
    /// How long the last attempt took, in microseconds.
    pub took_us: u64,
    /// How many attempts before the last one failed.
    pub retries: u32,
    /// How many of them there may have been.
    pub most_retries: u32,
    /// Why the answer's body is not sent, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<Excerpt>,
}

impl Job {
    /// As it is stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode(&self.facts, &self.payload)
    }

    /// Reads what [`Self::encode`] made.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes).map(|(facts, payload)| Self { facts, payload })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::queue::{CallRecord, CallState, Start};

    fn job(payload: Payload) -> Job {
        let function = FunctionKey::parse("resize.dev").expect("a name");
        let mut facts = JobMetadata::new(function, "one\ntwo \"three\"".into(), "POST".into(), "/a%20b?c=1");
        facts.failed(Attempt::ended(Timestamp::UNIX_EPOCH, Duration::from_millis(5), Some(500), "500\nno"));
        Job { facts, payload }
    }

    #[test]
    fn a_job_decodes_to_what_was_encoded() {
        let head = b"POST / HTTP/1.1\r\nX: \xff\r\n".to_vec();
        for payload in [
            Payload::Inline { head: head.clone(), body: Vec::new() },
            Payload::Inline { head, body: b"\n\0\xff{}".to_vec() },
            Payload::File { name: Uuid::from_u128(7), head: 9, body: 1 << 40 },
        ] {
            let job = job(payload);
            assert_eq!(Job::decode(&job.encode()).expect("readable"), job);
        }
    }

    #[test]
    fn a_corrupt_row_does_not_decode() {
        let bytes = job(Payload::File { name: Uuid::nil(), head: 1, body: 1 }).encode();
        for damaged in [&bytes[..0], &bytes[..20], &bytes[..bytes.len() - 1], b"{}\n"] {
            assert!(Job::decode(damaged).is_err(), "{}", String::from_utf8_lossy(damaged));
        }
    }

    #[test]
    fn the_reason_of_every_try_is_kept() {
        let mut facts =
            JobMetadata::new(FunctionKey::parse("a").expect("a name"), "i".into(), "POST".into(), "/");
        let mut fail = |at: i64, code| {
            let at = Timestamp::from_second(at).expect("a time");
            facts.failed(Attempt::ended(at, Duration::ZERO, Some(code), "it failed"));
        };
        for (at, code) in (0..).zip([500, 502].into_iter().chain([503; 60]).chain([504; 37]).chain([500])) {
            fail(at, code);
        }
        let kept = |facts: &JobMetadata| -> Vec<_> {
            facts.tries.iter().map(|one| (one.code.unwrap_or_default(), one.repeats)).collect()
        };
        let count = |code| {
            let of = facts.tries.iter().filter(|one| one.code == Some(code));
            of.map(|one| one.repeats + 1).sum::<u32>()
        };
        assert_eq!([500, 502, 503, 504].map(count), [2, 1, 60, 37], "{:?}", kept(&facts));
        assert_eq!((facts.tried, facts.tries.len()), (100, KEPT_TRIES));
        let last = facts.tries.last().expect("one");
        assert_eq!((last.at.as_second(), last.code, last.repeats), (99, Some(500), 1));
        assert!(facts.tries.is_sorted_by_key(|one| one.at));
        // Also those that were not one after the other.
        let mut facts = JobMetadata { tries: Vec::new(), ..facts };
        for code in [500, 501].into_iter().chain([502, 503].into_iter().cycle().take(30)) {
            facts.failed(Attempt::ended(Timestamp::UNIX_EPOCH, Duration::ZERO, Some(code), "it failed"));
        }
        let count = |code| {
            let of = facts.tries.iter().filter(|one| one.code == Some(code));
            of.map(|one| one.repeats + 1).sum::<u32>()
        };
        assert_eq!([500, 501, 502, 503].map(count), [1, 1, 15, 15], "{:?}", kept(&facts));
        // Where none is like another, the last ones are kept.
        let mut facts = JobMetadata { tries: Vec::new(), ..facts };
        for code in 500..520 {
            facts.failed(Attempt::ended(Timestamp::UNIX_EPOCH, Duration::ZERO, Some(code), "it failed"));
        }
        assert_eq!(kept(&facts), (512..520).map(|code| (code, 0)).collect::<Vec<_>>());
    }

    /// Fills a call with text chosen by its client and its function, wherever they can.
    fn filled(chosen: &str) -> (Job, CallRecord) {
        let function = FunctionKey::parse(&format!("{}.{}", "f".repeat(63), "n".repeat(63))).expect("a name");
        let mut facts = JobMetadata::new(function, chosen.into(), chosen.into(), chosen);
        facts.incarnation = Some(Incarnation::new(u64::MAX));
        facts.keep = Some(u64::MAX);
        facts.callback = Some(Callback { url: chosen.into(), ended: None });
        let inline = facts.inline();
        assert!(inline > 512, "{inline}: short calls have files");
        let payload = Payload::Inline { head: vec![b'h'; 100], body: vec![b'b'; inline - 100] };
        let mut job = Job { facts, payload };
        for code in 500..600 {
            job.facts.failed(Attempt::ended(Timestamp::now(), Duration::MAX, Some(code), chosen));
        }
        job.facts.started_at = Some(Timestamp::now());
        job.facts.not_before = Some(Timestamp::now());
        assert_eq!((job.facts.tried, job.facts.tries.len()), (100, KEPT_TRIES));
        let ended = Ended {
            message_id: Uuid::nil().to_string(),
            status: 500,
            took_us: u64::MAX,
            retries: u32::MAX,
            most_retries: u32::MAX,
            omitted: Some(chosen.into()),
        };
        job.facts.callback = Some(Callback { url: chosen.into(), ended: Some(ended) });
        let record = CallRecord {
            ended_at: Some(Timestamp::now()),
            start: Some(Start::Cold),
            received: Some(u64::MAX),
            result_until: Some(Timestamp::now()),
            omitted: Some(chosen.into()),
            ..CallRecord::of(&job.facts, &job.payload, CallState::Cancelled)
        };
        (job, record)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_row_stays_small_whatever_its_client_and_its_function_send(
            piece in prop_oneof![".{1,8}", "[\"\\\\]", "\u{fffd}", "\u{1}", "M"],
            count in prop_oneof![0_usize..100, 0_usize..70_000],
        ) {
            let (job, record) = filled(&piece.repeat(count));
            let rows = [job.encode(), record.encode(&job.payload)].map(|row| row.len());
            prop_assert!(rows.iter().all(|size| *size <= RECORD), "{rows:?} bytes with {count} times {piece:?}");
        }
    }

    #[test]
    fn a_row_of_an_earlier_version_is_bounded_when_it_is_read() {
        let job = job(Payload::nothing());
        let written = String::from_utf8(job.encode()).expect("text");
        let long = written.replace("\"POST\"", &format!("\"{}\"", "M".repeat(60_000)));
        let read = Job::decode(long.as_bytes()).expect("readable");
        assert_eq!(&*read.facts.method, format!("{}…", "M".repeat(MAX_METHOD)));
        assert!(read.encode().len() < RECORD);
    }

    #[test]
    fn a_plain_call_has_all_of_the_room_in_its_row() {
        let plain =
            JobMetadata::new(FunctionKey::parse("a").expect("a name"), "i".repeat(36), "POST".into(), "/");
        assert_eq!(plain.inline(), INLINE);
    }
}
