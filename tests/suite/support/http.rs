//! An HTTP client for loads: it says exactly how each call went, and never tries one again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// No connection could be made.
    #[error("no connection could be made: {0}")]
    NoConnection(io::Error),
    /// The connection ended before the answer did.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// Nothing, or not all, came within this time.
    #[error("no answer, or not all of it, within {0:?}")]
    Hung(Duration),
}

/// One client: a call at a time, over a kept connection or over a new one each.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    keep: bool,
    limit: Duration,
    kept: Option<TcpStream>,
}

impl Client {
    /// A client of the server at `address`, which keeps its connection or not, and gives up on a call
    /// after `limit`.
    pub(crate) fn new(address: SocketAddr, keep: bool, limit: Duration) -> Self {
        Self { address, keep, limit, kept: None }
    }

    /// Makes a call without a body.
    pub(crate) async fn call(&mut self, method: &str, path: &str) -> Result<Answer, Lost> {
        // Whatever becomes of this call, its connection is kept only by a whole answer.
        let kept = self.kept.take();
        match tokio::time::timeout(self.limit, self.exchange(kept, method, path)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Lost::Hung(self.limit)),
        }
    }

    async fn exchange(&mut self, kept: Option<TcpStream>, method: &str, path: &str) -> Result<Answer, Lost> {
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await.map_err(Lost::NoConnection)?;
                stream.set_nodelay(true).map_err(Lost::NoConnection)?;
                stream
            }
        };
        let close = if self.keep { "" } else { "connection: close\r\n" };
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n{close}\r\n", self.address);
        stream.write_all(request.as_bytes()).await.map_err(Lost::Broken)?;
        let (answer, keep) = read(&mut stream).await.map_err(Lost::Broken)?;
        if self.keep && keep {
            self.kept = Some(stream);
        }
        Ok(answer)
    }
}

/// Reads one answer, and whether another may follow it.
async fn read(stream: &mut TcpStream) -> io::Result<(Answer, bool)> {
    let mut bytes = Vec::with_capacity(2048);
    loop {
        if let Some(head) = head(&bytes)? {
            while bytes.len() < head.length + head.body {
                more(stream, &mut bytes).await?;
            }
            if bytes.len() > head.length + head.body {
                return Err(malformed("more than one answer"));
            }
            let body = String::from_utf8_lossy(&bytes[head.length..]).into_owned();
            return Ok((Answer { status: head.status, body }, head.keep));
        }
        more(stream, &mut bytes).await?;
    }
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(bytes).await? {
        0 => {
            let reason = format!("closed after {} bytes of the answer", bytes.len());
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
        }
        _ => Ok(()),
    }
}

struct Head {
    /// Its own length and that of the body.
    length: usize,
    body: usize,
    status: u16,
    keep: bool,
}

/// The head of an answer, once all of it is there.
fn head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = match parsed.parse(bytes).map_err(|error| malformed(&error.to_string()))? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let status = parsed.code.unwrap_or_default();
    let value = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let body = value("content-length").and_then(|text| text.parse().ok());
    Ok(Some(Head {
        length,
        body: body.ok_or_else(|| malformed("no content-length"))?,
        status,
        keep: !value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    }))
}

fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed answer: {reason}"))
}

mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    /// A client of a server that sends each of `answers` on a connection of its own, and closes those
    /// that it has sent something on.
    async fn client_of(answers: Vec<&'static str>, keep: bool) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut silent = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await.expect("a request");
                stream.write_all(answer.as_bytes()).await.expect("sent");
                if answer.is_empty() {
                    silent.push(stream);
                }
            }
            drop(listener);
            std::future::pending::<()>().await;
        });
        Client::new(address, keep, LIMIT)
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_or_the_call_is_lost() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi";
        let mut client = client_of(vec![whole, cut, ""], true).await;
        assert_eq!(
            client.call("GET", "/").await.expect("an answer"),
            Answer { status: 200, body: "hi".into() }
        );
        assert!(matches!(client.call("GET", "/").await, Err(Lost::Broken(_))));
        assert!(matches!(client.call("GET", "/").await, Err(Lost::Hung(LIMIT))));
        eventually!(
            matches!(client.call("GET", "/").await, Err(Lost::NoConnection(_))),
            "somebody listens still"
        );
    }

    #[tokio::test]
    async fn a_kept_connection_that_is_closed_is_a_call_that_is_lost() {
        let kept = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let mut client = client_of(vec![kept, kept], true).await;
        assert!(client.call("GET", "/").await.is_ok());
        assert!(matches!(client.call("GET", "/").await, Err(Lost::Broken(_))), "it was not tried again");
        let mut client = client_of(vec![kept, kept], false).await;
        assert!(client.call("GET", "/").await.is_ok());
        assert!(client.call("GET", "/").await.is_ok());
    }
}
