//! As much HTTP/1.1 as a function behind a gateway needs.

use std::error::Error;
use std::io::{self, BufRead, Write};
use std::net::TcpStream;
use std::str::FromStr;

/// The largest head of a request.
const HEAD_LIMIT: usize = 128 << 10;

/// The head of a request.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    query: String,
    /// All of it, as it came.
    pub(crate) head: String,
}

impl Request {
    /// The next request; `None` when the client has no more.
    pub(crate) fn read(input: &mut impl BufRead) -> Result<Option<Self>, Box<dyn Error>> {
        let mut head = String::new();
        loop {
            let before = head.len();
            if input.read_line(&mut head)? == 0 {
                return if before == 0 { Ok(None) } else { Err("cut off in the head".into()) };
            }
            if head.len() > HEAD_LIMIT {
                return Err("the head is too long".into());
            }
            if head[before..].trim_end().is_empty() {
                head.truncate(before);
                break;
            }
        }
        let mut first = head.lines().next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (first.next(), first.next()) else {
            return Err("not a request line".into());
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Some(Self { method: method.into(), path: path.into(), query: query.into(), head }))
    }

    /// A header's value; its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// A value from the query; empty if it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(found, _)| *found == name).map_or("", |(_, value)| value)
    }

    /// A number from the query; 0 if it is not there.
    pub(crate) fn number<N: FromStr<Err: Error + 'static> + Default>(
        &self,
        name: &str,
    ) -> Result<N, Box<dyn Error>> {
        match self.text(name) {
            "" => Ok(N::default()),
            text => Ok(text.parse()?),
        }
    }
}

/// Sends a whole answer in one write.
pub(crate) fn answer(mut out: &TcpStream, request: &Request, status: u16, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let mut message = Vec::with_capacity(128 + length);
    write!(message, "HTTP/1.1 {status} {}\r\n", reason(status))?;
    if !matches!(status, 204 | 304) {
        write!(message, "content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n")?;
    }
    message.extend_from_slice(b"\r\n");
    if request.method != "HEAD" && !matches!(status, 204 | 304) {
        message.extend_from_slice(body);
    }
    out.write_all(&message)
}

/// Sends one chunk of a chunked answer; an empty one ends it.
pub(crate) fn chunk(mut out: &TcpStream, data: &[u8]) -> io::Result<()> {
    let mut message = format!("{:x}\r\n", data.len()).into_bytes();
    message.extend_from_slice(data);
    message.extend_from_slice(b"\r\n");
    out.write_all(&message)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        403 => "Forbidden",
        404 => "Not Found",
        418 => "I'm a teapot",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Told So",
    }
}
