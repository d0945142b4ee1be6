//! A gateway of a few lines, to see what the client commands send and how they take what they get.
//!
//! It speaks HTTP by hand, so that a test can answer anything, and sees each request as it was sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A header's value, if it was sent.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// `METHOD target`
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    fn read(from: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut request = Self::default();
        let first = line(from)?;
        let mut words = first.split(' ');
        request.method = words.next()?.to_owned();
        request.target = words.next()?.to_owned();
        loop {
            let header = line(from)?;
            let Some((name, value)) = header.split_once(':') else { break };
            request.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        if let Some(length) = request.header("content-length") {
            request.body = vec![0; length.parse().expect("a content length")];
            from.read_exact(&mut request.body).ok()?;
        } else if request.header("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(&line(from)?, 16).expect("a chunk's size");
                let start = request.body.len();
                request.body.resize(start + size, 0);
                from.read_exact(&mut request.body[start..]).ok()?;
                line(from)?;
                if size == 0 {
                    break;
                }
            }
        }
        Some(request)
    }
}

fn line(from: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    match from.read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end().to_owned()),
    }
}

/// An answer.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
    /// The length that is announced, where it is not the body's own.
    announced: Option<usize>,
}

enum Body {
    Whole(Vec<u8>),
    /// One chunk for each message, until the sender has gone.
    Parts(Receiver<Vec<u8>>),
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(body.into()), announced: None }
    }

    pub(crate) fn parts(parts: Receiver<Vec<u8>>) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Parts(parts), announced: None }
    }

    /// Ends before the length that it announces.
    pub(crate) fn cut_off(mut self, announced: usize) -> Self {
        self.announced = Some(announced);
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn write(self, mut to: TcpStream) -> std::io::Result<()> {
        write!(to, "HTTP/1.1 {} Status\r\nConnection: close\r\n", self.status)?;
        for (name, value) in self.headers {
            write!(to, "{name}: {value}\r\n")?;
        }
        match self.body {
            Body::Whole(body) => {
                write!(to, "Content-Length: {}\r\n\r\n", self.announced.unwrap_or(body.len()))?;
                to.write_all(&body)
            }
            Body::Parts(parts) => {
                write!(to, "Transfer-Encoding: chunked\r\n\r\n")?;
                for part in parts {
                    write!(to, "{:x}\r\n", part.len())?;
                    to.write_all(&part)?;
                    to.write_all(b"\r\n")?;
                }
                to.write_all(b"0\r\n\r\n")
            }
        }
    }
}

/// The gateway: it lives on as a thread until the test's process ends.
pub(crate) struct Gateway {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Gateway {
    /// Answers each request, one after the other, with what `answer` makes of it.
    pub(crate) fn start(mut answer: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind to loopback");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("accept");
                let mut reader = BufReader::new(stream.try_clone().expect("clone"));
                let Some(request) = Request::read(&mut reader) else { continue };
                log.lock().expect("the list").push(request.clone());
                // A client that goes away before the end is what some tests are about.
                let _ = answer(&request).write(stream);
            }
        });
        Self { url, seen }
    }

    /// Gives these answers one after the other, and the last one for ever.
    pub(crate) fn script(replies: Vec<(u16, &str)>) -> Self {
        let replies: Vec<_> = replies.into_iter().map(|(status, body)| (status, body.to_owned())).collect();
        let mut next = 0;
        Self::start(move |_| {
            let (status, body) = &replies[next.min(replies.len() - 1)];
            next += 1;
            Reply::new(*status, body.as_bytes())
        })
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("the list").clone()
    }

    /// Their first lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Request::line).collect()
    }
}
