//! A watchdog that says too early that it is ready, as that of OpenFaaS does; built by `rustc` alone, for images of
//! tests (`../early.rs`). It is no module of the suite.
//!
//! ```text
//! fwatchdog                         starts $fprocess, and listens at once: 200 to /_/health and /_/ready; all else is
//!                                   passed on to $upstream_url, and answered with 500 while nobody is there
//! fwatchdog after MS COMMAND...     runs a command, MS milliseconds late
//! fwatchdog serve PORT              a server
//! ```

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, exit};
use std::thread;
use std::time::Duration;

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => watch(),
        ["after", time, program, ref arguments @ ..] => {
            thread::sleep(Duration::from_millis(time.parse().expect("milliseconds")));
            Err(Command::new(program).args(arguments).exec())
        }
        ["serve", port] => {
            let port: u16 = port.parse().expect("a port");
            listen(&format!("127.0.0.1:{port}"), |stream| {
                if let Some((_, body)) = request(stream)? {
                    answer(stream, "200 OK", &body)?;
                }
                Ok(())
            })
        }
        _ => panic!("{words:?}"),
    }
}

fn watch() -> io::Result<()> {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    assert_eq!(variable("mode"), "http");
    let upstream = variable("upstream_url").strip_prefix("http://").expect("an address").to_owned();
    let command = variable("fprocess");
    let mut words = command.split(' ');
    let mut process = Command::new(words.next().expect("a command")).args(words).spawn()?;
    thread::spawn(move || {
        eprintln!("the process has ended: {:?}", process.wait());
        exit(1);
    });
    listen("0.0.0.0:8080", move |stream| {
        let Some((head, body)) = request(stream)? else { return Ok(()) };
        if head.split(' ').nth(1).is_some_and(|path| path.starts_with("/_/")) {
            return answer(stream, "200 OK", b"OK");
        }
        match TcpStream::connect(&upstream) {
            Ok(mut server) => {
                server.write_all(closing(&head).as_bytes())?;
                server.write_all(&body)?;
                let Some((head, start)) = message(&mut server)? else {
                    return answer(stream, "500 Internal Server Error", b"no answer");
                };
                stream.write_all(closing(&head).as_bytes())?;
                stream.write_all(&start)?;
                io::copy(&mut server, stream).map(drop)
            }
            Err(error) => answer(stream, "500 Internal Server Error", error.to_string().as_bytes()),
        }
    })
}

/// Serves one request on each connection.
fn listen(
    address: &str,
    serve: impl Fn(&mut TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> io::Result<()> {
    for connection in TcpListener::bind(address)?.incoming() {
        let (mut stream, serve) = (connection?, serve.clone());
        thread::spawn(move || serve(&mut stream));
    }
    Ok(())
}

/// A head, and what has come of the body.
fn message(stream: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), body)));
        }
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}

/// A head and its whole body, which has a length.
fn request(stream: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let Some((head, mut body)) = message(stream)? else { return Ok(None) };
    let length = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    let length: usize = head.lines().find_map(length).unwrap_or(0);
    let seen = body.len();
    body.resize(length, 0);
    if seen < length {
        stream.read_exact(&mut body[seen..])?;
    }
    Ok(Some((head, body)))
}

/// A head that says that its connection ends.
fn closing(head: &str) -> String {
    let mut lines = head.split_inclusive("\r\n");
    let first = lines.next().unwrap_or_default();
    let others = lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    [first, "Connection: close\r\n"].into_iter().chain(others).collect()
}

fn answer(stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat())
}
