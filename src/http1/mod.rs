//! HTTP/1.1 as bytes, in both directions: heads, and how bodies are delimited. No I/O beyond
//! filling a buffer.
//!
//! The data path speaks HTTP itself instead of through hyper, because it is what this program
//! exists for and it was measured: against nginx's `proxy_pass` with the same backend on two cores,
//! hyper on both sides of a prototype made 0.95 of nginx's calls a second with 64 clients before
//! timeouts and limits were added, this codec 1.09. What it saves is the header maps and the
//! hand-over between a connection's task and its body.
//!
//! It is stricter than most: whatever two programs could read in two ways is refused, because a
//! gateway and a function that disagree on where a request ends are a way to smuggle one.

mod alarm;
mod buffer;
mod decoder;
mod head;

pub(crate) use alarm::Alarm;
pub(crate) use buffer::Buffer;
pub(crate) use decoder::{Decoder, end_chunks, push_chunk};
pub(crate) use head::{Framing, HeadError, Header, RequestHead, ResponseHead, ends_after, slots, wants_json};
