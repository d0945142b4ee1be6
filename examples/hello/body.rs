//! The body of a request, whichever way its length is given.

use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;

use crate::http::Request;

/// Reads to the end of one body, and not into the next request.
pub(crate) struct Body<'a, 'b> {
    input: &'a mut BufReader<&'b TcpStream>,
    /// What is left of the body, or of the current chunk.
    left: u64,
    chunked: bool,
    ended: bool,
}

impl<'a, 'b> Body<'a, 'b> {
    pub(crate) fn of(request: &Request, input: &'a mut BufReader<&'b TcpStream>) -> Self {
        let chunked =
            request.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let left = request.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        Self { input, left: if chunked { 0 } else { left }, chunked, ended: !chunked && left == 0 }
    }

    /// Reads the line before a chunk, and for the last chunk what stands after it.
    fn next_chunk(&mut self) -> io::Result<()> {
        let mut line = self.line()?;
        if line.is_empty() {
            // The end of the chunk before.
            line = self.line()?;
        }
        let size = line.split(';').next().unwrap_or_default();
        self.left = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if self.left == 0 {
            while !self.line()?.is_empty() {}
            self.ended = true;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Read for Body<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.chunked && !self.ended {
            self.next_chunk()?;
        }
        if self.ended || into.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let length = self.input.read(&mut into[..most])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= length as u64;
        self.ended = self.left == 0 && !self.chunked;
        Ok(length)
    }
}
