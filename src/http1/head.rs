//! Heads of requests and answers: parsed by `httparse`, then checked for what it leaves open.

use std::cmp::Ordering;
use std::mem::MaybeUninit;

use httparse::{Error, ParserConfig, Status};

use crate::host;

/// Headers that a head may have.
const MAX_HEADERS: usize = 128;

/// Longest method in bytes, more than twice that of any registered one.
pub const MAX_METHOD: usize = 32;

/// Largest number of options in all `Connection` lines together.
const MAX_OPTIONS: usize = 32;

/// Bytes of the longest name that [`Header`] knows.
const LONGEST_NAME: usize = 22;

/// Room for the headers of one head, on the stack and not initialised.
pub(crate) type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; MAX_HEADERS];

/// Room for the headers of one head.
pub fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; MAX_HEADERS]
}

/// Why a head was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More bytes or headers than the limit.
    #[error("the head of the request is too large or has more than {MAX_HEADERS} headers")]
    TooLarge,
    /// Malformed or ambiguous.
    #[error("{0}")]
    Bad(&'static str),
    /// Not a version of HTTP that is spoken here.
    #[error("this is not HTTP/1.1 or HTTP/1.0")]
    Version,
    /// A transfer coding other than chunked.
    #[error("the only transfer coding that is understood is chunked")]
    Coding,
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// It has so many bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
    /// It ends with the connection. Only answers can.
    UntilClose,
}

/// What the `Connection` header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// Headers that `Connection` names, one bit each: they must not be forwarded.
    named: u128,
}

/// A header that means something to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// For this connection only: never forwarded.
    Hop,
    Accept,
    Authorization,
    CallId,
    Connection,
    ContentLength,
    Cookie,
    Date,
    Expect,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    Function,
    Host,
    Prefer,
    /// Set by the gateway: what others set is not forwarded.
    Ours,
    ServiceWorkerAllowed,
    SetCookie,
    TransferEncoding,
    Upgrade,
    Via,
    WwwAuthenticate,
    Other,
}

impl Header {
    /// What `name` is.
    pub fn of(name: &str) -> Self {
        match Self::exactly(name) {
            Self::Other => Self::in_disguise(name),
            kind => kind,
        }
    }

    /// A function that gets its headers as variables, as CGI has it, cannot tell `X_Forwarded_For`
    /// from `X-Forwarded-For`: names that mean something with dashes are not passed on with
    /// underscores.
    fn in_disguise(name: &str) -> Self {
        if !name.contains('_') {
            return Self::Other;
        }
        let mut dashed = [0; LONGEST_NAME];
        let Some(dashed) = dashed.get_mut(..name.len()) else { return Self::Other };
        for (to, from) in dashed.iter_mut().zip(name.bytes()) {
            *to = if from == b'_' { b'-' } else { from };
        }
        match std::str::from_utf8(dashed).map(Self::exactly) {
            Ok(Self::Other) | Err(_) => Self::Other,
            Ok(_) => Self::Ours,
        }
    }

    /// The length decides first, so that most names cost one comparison or none.
    fn exactly(name: &str) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => Self::Hop,
            3 if is("via") => Self::Via,
            4 if is("date") => Self::Date,
            4 if is("host") => Self::Host,
            6 if is("accept") => Self::Accept,
            6 if is("cookie") => Self::Cookie,
            6 if is("expect") => Self::Expect,
            6 if is("prefer") => Self::Prefer,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("trailer") => Self::Hop,
            9 if is("x-call-id") => Self::CallId,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::Hop,
            10 if is("set-cookie") => Self::SetCookie,
            10 if is("x-function") => Self::Function,
            11 if is("x-served-by") => Self::Ours,
            12 if is("x-start-time") => Self::Ours,
            13 if is("authorization") => Self::Authorization,
            14 if is("content-length") => Self::ContentLength,
            14 if is("http2-settings") => Self::Hop,
            15 if is("x-forwarded-for") => Self::ForwardedFor,
            16 if is("x-forwarded-host") => Self::ForwardedHost,
            16 if is("proxy-connection") => Self::Hop,
            16 if is("www-authenticate") => Self::WwwAuthenticate,
            17 if is("x-forwarded-proto") => Self::ForwardedProto,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            18 if is("x-duration-seconds") => Self::Ours,
            18 if is("proxy-authenticate") => Self::Hop,
            19 if is("proxy-authorization") => Self::Hop,
            22 if is("service-worker-allowed") => Self::ServiceWorkerAllowed,
            _ => Self::Other,
        }
    }
}

/// The options of all `Connection` headers of a head, while they are read.
#[derive(Default)]
struct ConnectionOptions<'b> {
    connection: Connection,
    count: usize,
    /// Names of headers, as many as `named`.
    names: [&'b [u8]; MAX_OPTIONS],
    named: usize,
}

impl<'b> ConnectionOptions<'b> {
    fn add(&mut self, value: &'b [u8]) -> Result<(), HeadError> {
        for token in tokens(value) {
            self.count += 1;
            if self.count > MAX_OPTIONS {
                return Err(HeadError::Bad("Connection names more than 32 options"));
            }
            if token.eq_ignore_ascii_case(b"close") {
                self.connection.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.connection.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.connection.upgrade = true;
            } else {
                self.names[self.named] = token;
                self.named += 1;
            }
        }
        Ok(())
    }

    /// Finds the headers that the options name, in time that grows linearly with the head.
    fn find(mut self, headers: &[httparse::Header<'_>]) -> Connection {
        let names = &mut self.names[..self.named];
        if !names.is_empty() {
            // Sorted, so that not each header is compared with each name.
            names.sort_unstable_by(|one, other| compare_ignoring_case(one, other));
            for (index, header) in headers.iter().enumerate() {
                let name = header.name.as_bytes();
                let is_named = names.binary_search_by(|named| compare_ignoring_case(named, name)).is_ok();
                self.connection.named |= u128::from(is_named) << index;
            }
        }
        self.connection
    }
}

impl Connection {
    fn persists(self, http10: bool) -> bool {
        !self.close && (!http10 || self.keep_alive)
    }

    /// Returns whether `Connection` names the header at `index`, which then must not be forwarded.
    pub fn names(self, index: usize) -> bool {
        (self.named >> index) & 1 == 1
    }
}

fn compare_ignoring_case(one: &[u8], other: &[u8]) -> Ordering {
    one.iter().map(u8::to_ascii_lowercase).cmp(other.iter().map(u8::to_ascii_lowercase))
}

/// The words of a list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether an `Accept` header names JSON.
pub fn wants_json(accept: &[u8]) -> bool {
    tokens(accept).any(|range| {
        let media = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        media.eq_ignore_ascii_case(b"application/json")
    })
}

/// Decides when to parse a head that arrives in pieces: once at its start, to report early errors, and once
/// at its end. Parsing after each piece would cost N times the work for N bytes that arrive one by one.
#[derive(Debug, Default, Clone)]
pub struct HeadScan {
    /// Line breaks before the head, which are ignored (RFC 9112, section 2.2).
    blank: usize,
    /// Bytes, line breaks included, that are known not to end the head.
    seen: usize,
}

impl HeadScan {
    /// Returns whether to parse `bytes`: everything that has arrived, including the bytes of earlier calls.
    pub fn is_due(&mut self, bytes: &[u8]) -> bool {
        if self.seen == self.blank {
            self.blank += bytes[self.blank..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        }
        let Self { blank, seen } = *self;
        self.seen = bytes.len();
        if seen <= blank {
            return bytes.len() > blank;
        }
        // The end of a head is a line break after another one.
        (seen..bytes.len()).any(|at| {
            let before = &bytes[blank..at];
            bytes[at] == b'\n' && (before.ends_with(b"\n") || before.ends_with(b"\n\r"))
        })
    }

    /// Returns whether nothing of a head has arrived.
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }
}

/// What delimits a body, collected from the headers.
#[derive(Debug, Default)]
struct Delimiters {
    length: Option<u64>,
    chunked: bool,
}

impl Delimiters {
    fn add_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        // Two lengths are refused even when they are equal: nobody sends that by accident.
        if self.length.is_some() {
            return Err(HeadError::Bad("there is more than one Content-Length"));
        }
        let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
        let length = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten();
        self.length = Some(length.ok_or(HeadError::Bad("Content-Length is not a number"))?);
        Ok(())
    }

    fn add_coding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::Coding);
        }
        self.chunked = true;
        Ok(())
    }

    fn check(&self, http10: bool) -> Result<(), HeadError> {
        if self.chunked && self.length.is_some() {
            return Err(HeadError::Bad("there are both Content-Length and Transfer-Encoding"));
        }
        if self.chunked && http10 {
            return Err(HeadError::Bad("HTTP/1.0 has no Transfer-Encoding"));
        }
        Ok(())
    }
}

/// The head of a request, checked.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    pub method: &'b str,
    /// As it stands in the request line.
    pub target: &'b str,
    pub http10: bool,
    pub headers: &'h [httparse::Header<'b>],
    pub framing: Framing,
    pub connection: Connection,
    /// The protocol that the client wants to change to.
    pub upgrade: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Errors are wanted as JSON.
    pub json: bool,
    /// There is a `Prefer` header.
    pub prefers: bool,
    /// Whether there is a `Via` header.
    pub via: bool,
    /// The requested host and port: the authority of the target if it has one, else the `Host` header.
    pub host: Option<&'b str>,
}

impl<'h, 'b> RequestHead<'h, 'b> {
    /// Reads a head from the front of `bytes`, and its length. `None` when there is more to come.
    pub fn parse(bytes: &'b [u8], slots: &'h mut Slots<'b>) -> Result<Option<(Self, usize)>, HeadError> {
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, slots) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        // A CR is only ever there in front of a LF; a LF without one ends a line for some and not for
        // others.
        let count = |byte: u8| bytes[..length].iter().filter(|other| **other == byte).count();
        if count(b'\r') != count(b'\n') {
            return Err(HeadError::Bad("a line ends with LF instead of CR LF"));
        }
        let headers: &'h [httparse::Header<'b>] = request.headers;
        let http10 = request.version == Some(0);
        let method = request.method.ok_or(HeadError::Bad("there is no method"))?;
        let target = request.path.ok_or(HeadError::Bad("there is no target"))?;
        if method.len() > MAX_METHOD {
            return Err(HeadError::Bad("the method has more than 32 bytes"));
        }
        let (mut hosts, mut upgrades, mut h2) = (None, false, false);
        let (mut expects_continue, mut json, mut prefers, mut via) = (false, false, false, false);
        let mut options = ConnectionOptions::default();
        let mut delimiters = Delimiters::default();
        for header in headers {
            match Header::of(header.name) {
                Header::Host if hosts.is_some() => {
                    return Err(HeadError::Bad("there is more than one Host header"));
                }
                Header::Host => hosts = Some(checked_host(header.value)?),
                Header::Accept => json |= wants_json(header.value),
                Header::Prefer => prefers = true,
                Header::Via => via = true,
                Header::Connection => options.add(header.value)?,
                Header::ContentLength => delimiters.add_length(header.value)?,
                Header::TransferEncoding => delimiters.add_coding(header.value)?,
                Header::Expect => {
                    expects_continue |= header.value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
                }
                Header::Upgrade => {
                    upgrades = true;
                    h2 |= tokens(header.value).any(|token| token.eq_ignore_ascii_case(b"h2c"));
                }
                _ => {}
            }
        }
        delimiters.check(http10)?;
        let connection = options.find(headers);
        if hosts.is_none() && !http10 {
            return Err(HeadError::Bad("a request needs a Host header"));
        }
        let host = match host::authority(target) {
            // The header has no effect, but an invalid host in it is refused all the same.
            Some(authority) => Some(checked_host(authority.as_bytes())?),
            None => hosts,
        };
        let framing = match delimiters.length {
            _ if delimiters.chunked => Framing::Chunked,
            None | Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
        };
        let head = Self {
            method,
            target,
            http10,
            headers,
            framing,
            connection,
            // HTTP/2 over a tunnel would be requests that no rule of this gateway sees; and where a body
            // ends and the tunnel begins is not for us to guess.
            upgrade: upgrades && connection.upgrade && framing == Framing::None && !http10 && !h2,
            expects_continue: expects_continue && !http10,
            json,
            prefers,
            via,
            host,
        };
        Ok(Some((head, length)))
    }

    /// Whether the connection can carry another request after this one.
    pub fn persists(&self) -> bool {
        self.connection.persists(self.http10)
    }

    /// The first header of this kind.
    pub fn header(&self, kind: Header) -> Option<&'b [u8]> {
        self.headers.iter().find(|header| Header::of(header.name) == kind).map(|header| header.value)
    }
}

/// The head of an answer, checked.
#[derive(Debug)]
pub struct ResponseHead<'h, 'b> {
    pub code: u16,
    pub reason: &'b str,
    pub headers: &'h [httparse::Header<'b>],
    pub framing: Framing,
    pub connection: Connection,
    pub http10: bool,
    /// It has no body, and speaks of one.
    contradicts: bool,
}

impl<'h, 'b> ResponseHead<'h, 'b> {
    /// Reads a head from the front of `bytes`, and its length. `None` when there is more to come.
    /// `to_head`: it answers a HEAD request, so no body follows whatever the headers say.
    pub fn parse(
        bytes: &'b [u8],
        slots: &'h mut Slots<'b>,
        to_head: bool,
    ) -> Result<Option<(Self, usize)>, HeadError> {
        let mut response = httparse::Response::new(&mut []);
        let parser = ParserConfig::default();
        let length = match parser.parse_response_with_uninit_headers(&mut response, bytes, slots) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        let headers: &'h [httparse::Header<'b>] = response.headers;
        let http10 = response.version == Some(0);
        let mut options = ConnectionOptions::default();
        let mut delimiters = Delimiters::default();
        for header in headers {
            match Header::of(header.name) {
                Header::Connection => options.add(header.value)?,
                Header::ContentLength => delimiters.add_length(header.value)?,
                Header::TransferEncoding => delimiters.add_coding(header.value)?,
                _ => {}
            }
        }
        delimiters.check(http10)?;
        let connection = options.find(headers);
        let code = response.code.ok_or(HeadError::Bad("there is no status"))?;
        if !(100..=999).contains(&code) {
            return Err(HeadError::Bad("the status is not a number of three digits"));
        }
        let bodiless = to_head || code < 200 || code == 204 || code == 304;
        let speaks_of_one = delimiters.chunked || delimiters.length.map_or(to_head, |length| length > 0);
        let contradicts = bodiless && speaks_of_one;
        let framing = match delimiters.length {
            _ if bodiless => Framing::None,
            _ if delimiters.chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        };
        // `httparse` gives no reason when it has bytes beyond ASCII; the reason means nothing anyway.
        let reason = response.reason.unwrap_or_default();
        Ok(Some((Self { code, reason, headers, framing, connection, http10, contradicts }, length)))
    }

    /// Whether the connection can carry another call after this one. Not after a body that must not
    /// come and was announced: one that comes all the same would be the answer to the next call.
    pub fn persists(&self) -> bool {
        self.connection.persists(self.http10) && self.framing != Framing::UntilClose && !self.contradicts
    }
}

fn checked_host(value: &[u8]) -> Result<&str, HeadError> {
    host::host(value).ok_or(HeadError::Bad(
        "the requested host is invalid: it must be a name or an address, with an optional port",
    ))
}

fn refused(error: Error) -> HeadError {
    match error {
        Error::TooManyHeaders => HeadError::TooLarge,
        Error::HeaderName => HeadError::Bad("a header's name has a forbidden character"),
        Error::HeaderValue => HeadError::Bad("a header's value has a forbidden character"),
        Error::NewLine => HeadError::Bad("a line does not end with a line break"),
        Error::Status => HeadError::Bad("the status line is malformed"),
        Error::Token => HeadError::Bad("the request line is malformed"),
        Error::Version => HeadError::Version,
    }
}

#[cfg(test)]
mod tests;
