//! The sample function: a small HTTP server that can also misbehave on request.
//!
//! It needs nothing but the standard library, so that `examples/build.sh hello` makes it with one call of
//! `rustc` into a static binary of a few hundred kilobytes, and an image of that one file. It is what
//! `install.sh` deploys first, what the end-to-end tests provoke every behaviour with, and what the
//! benches call.
//!
//! ```text
//! *    /                        a line of text
//! *    anywhere, with a body    the body comes back
//! *    /echo                    the body comes back, piece by piece, as it arrives
//! GET  /env  /headers           the process's variables; the request's first line and headers
//! GET  /status/418              that status
//! GET  /big?bytes=N             a body of N bytes
//! GET  /slow?ms=N               answers after N milliseconds
//! GET  /hang                    never answers
//! GET  /stream?count=N&ms=M     N chunks, M milliseconds apart
//! GET  /cut?bytes=N             promises N bytes, sends half of them and hangs up
//! GET  /crash?code=N            the process exits
//! GET  /memory?mib=N            takes that much memory and keeps it
//! GET  /log?text=T&count=N      writes T to standard output N times (to=stderr: there; bytes=N: one long line)
//! GET  /file?path=P             a file (any other method: writes the body to it; append=true: at its end)
//! GET  /connect?to=HOST:PORT    200 when a connection can be made, else 502
//! *    with Upgrade: X          101, then every byte comes back
//! GET  /_/health  /_/ready      200; /_/ready is 503 for the first `ready_after` milliseconds
//! ```
//!
//! Variables: `port` (8080), `ready_after` and `listen_after` (milliseconds), `never_listen`,
//! `ignore_sigterm`. Values in queries are taken as they are, without decoding.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

mod body;
mod http;
mod leave;

use body::Body;
use http::{Request, answer, chunk};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let started = Instant::now();
    if variable("ignore_sigterm").is_none() {
        leave::on_sigterm();
    }
    if variable("never_listen").is_some() {
        println!("running without listening, as told");
        pause(u64::MAX);
    }
    pause(milliseconds("listen_after"));
    let port = variable("port").map_or(Ok(8080), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on port {port}");
    let ready_at = started + Duration::from_millis(milliseconds("ready_after"));
    for connection in listener.incoming() {
        let connection = connection?;
        // A thread for each connection: a gateway keeps a handful of them open and calls over those.
        let spawned = thread::Builder::new().stack_size(128 << 10).spawn(move || {
            // A client that goes away in the middle is not worth a line.
            let _ = serve(&connection, ready_at);
            let _ = connection.shutdown(Shutdown::Both);
        });
        if let Err(error) = spawned {
            eprintln!("no thread for a connection: {error}");
        }
    }
    Ok(())
}

/// Answers one request after the other until the client leaves or a request says so.
fn serve(connection: &TcpStream, ready_at: Instant) -> Outcome {
    connection.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(16 << 10, connection);
    while let Some(request) = Request::read(&mut input)? {
        let mut body = Body::of(&request, &mut input);
        if request.header("upgrade").is_some() {
            return upgrade(&request, input, connection);
        }
        let keep = route(&request, &mut body, connection, ready_at)?;
        // What is left of the body stands before the next request.
        std::io::copy(&mut body, &mut std::io::sink())?;
        if !keep || request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

/// Answers one request; `false` means that the connection cannot be used again.
fn route(
    request: &Request,
    body: &mut Body<'_, '_>,
    mut out: &TcpStream,
    ready_at: Instant,
) -> Result<bool, Box<dyn Error>> {
    let get = matches!(request.method.as_str(), "GET" | "HEAD");
    match request.path.as_str() {
        "/_/health" => answer(out, request, 200, b"OK\n")?,
        "/_/ready" if Instant::now() < ready_at => answer(out, request, 503, b"not yet\n")?,
        "/_/ready" => answer(out, request, 200, b"OK\n")?,
        "/echo" => echo(request, body, out)?,
        "/env" => {
            let lines = std::env::vars_os()
                .map(|(name, value)| format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy()));
            answer(out, request, 200, lines.collect::<String>().as_bytes())?;
        }
        "/headers" => answer(out, request, 200, request.head.as_bytes())?,
        "/big" => answer(out, request, 200, &vec![b'.'; request.number("bytes")?])?,
        "/slow" => {
            pause(request.number("ms")?);
            answer(out, request, 200, b"at last\n")?;
        }
        "/hang" => {
            // Ends when the gateway gives up and closes the connection.
            let _ = (&mut &*out).read(&mut [0]);
            return Ok(false);
        }
        "/stream" => {
            out.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n",
            )?;
            for n in 1..=request.number::<u32>("count")? {
                chunk(out, format!("chunk {n}\n").as_bytes())?;
                pause(request.number("ms")?);
            }
            chunk(out, b"")?;
        }
        "/cut" => {
            let promised = request.number::<usize>("bytes")?;
            out.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {promised}\r\n\r\n").as_bytes())?;
            out.write_all(&vec![b'.'; promised / 2])?;
            return Ok(false);
        }
        "/crash" => {
            eprintln!("crashing, as told");
            leave::now(request.number("code")?);
        }
        "/memory" => {
            // Written to, so that the pages are really there; leaked, so that they stay.
            Vec::leak(vec![1_u8; request.number::<usize>("mib")? << 20]);
            answer(out, request, 200, b"taken\n")?;
        }
        "/log" => {
            log(request)?;
            answer(out, request, 200, b"written\n")?;
        }
        "/file" if get => match std::fs::read(request.text("path")) {
            Ok(content) => answer(out, request, 200, &content)?,
            Err(error) => answer(out, request, 404, format!("{error}\n").as_bytes())?,
        },
        "/file" => {
            let mut content = Vec::new();
            body.read_to_end(&mut content)?;
            let append = request.text("append") == "true";
            let file = OpenOptions::new()
                .create(true)
                .write(true)
                .append(append)
                .truncate(!append)
                .open(request.text("path"));
            match file.and_then(|mut file| file.write_all(&content)) {
                Ok(()) => answer(out, request, 200, b"written\n")?,
                Err(error) => answer(out, request, 403, format!("{error}\n").as_bytes())?,
            }
        }
        "/connect" => match connect(request.text("to")) {
            Ok(()) => answer(out, request, 200, b"connected\n")?,
            Err(error) => answer(out, request, 502, format!("{error}\n").as_bytes())?,
        },
        path => match path.strip_prefix("/status/").map(str::parse) {
            Some(Ok(code)) => answer(out, request, code, b"as told\n")?,
            _ => {
                let mut content = Vec::new();
                body.read_to_end(&mut content)?;
                match path {
                    _ if !content.is_empty() => answer(out, request, 200, &content)?,
                    "/" => answer(out, request, 200, b"Hello from a function on ingle.\n")?,
                    _ => answer(out, request, 404, b"no such path; see examples/hello/main.rs\n")?,
                }
            }
        },
    }
    Ok(true)
}

/// Sends every piece of the body back as soon as it is there.
fn echo(request: &Request, body: &mut Body<'_, '_>, mut out: &TcpStream) -> Outcome {
    let kind = request.header("content-type").unwrap_or("application/octet-stream");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n");
    out.write_all(head.as_bytes())?;
    let mut piece = [0; 16 << 10];
    loop {
        let length = body.read(&mut piece)?;
        chunk(out, &piece[..length])?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Switches to the protocol that the client asks for, and returns every byte.
fn upgrade(request: &Request, mut input: BufReader<&TcpStream>, mut out: &TcpStream) -> Outcome {
    let protocol = request.header("upgrade").unwrap_or_default();
    let head =
        format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
    out.write_all(head.as_bytes())?;
    loop {
        let piece = input.fill_buf()?;
        if piece.is_empty() {
            return Ok(());
        }
        out.write_all(piece)?;
        let length = piece.len();
        input.consume(length);
    }
}

/// Writes what `/log` was asked to write.
fn log(request: &Request) -> Outcome {
    let line = match request.number::<usize>("bytes")? {
        0 => format!("{}\n", request.text("text")).into_bytes(),
        length => [vec![b'x'; length], vec![b'\n']].concat(),
    };
    for _ in 0..request.number::<usize>("count")?.max(1) {
        if request.text("to") == "stderr" {
            std::io::stderr().write_all(&line)?;
        } else {
            std::io::stdout().write_all(&line)?;
        }
    }
    Ok(std::io::stdout().flush()?)
}

/// Whether a TCP connection can be made within two seconds.
fn connect(to: &str) -> std::io::Result<()> {
    let address = to.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(drop)
}

#[allow(clippy::disallowed_methods, reason = "a program of its own: it has no config.rs")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A variable as milliseconds; 0 if it is not there.
fn milliseconds(name: &str) -> u64 {
    variable(name).and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[allow(clippy::disallowed_methods, reason = "a thread for each connection: it blocks nobody else")]
fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
