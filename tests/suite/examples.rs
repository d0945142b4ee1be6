//! The sample function, by itself: what the end-to-end tests and the benches rely on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::TemporaryDirectory;
use crate::support::sample_archive;

/// The sample's binary out of its archive, running on a port of its own.
struct Sample {
    process: Child,
    port: u16,
    _files: TemporaryDirectory,
}

impl Sample {
    fn start(variables: &[(&str, &str)]) -> Self {
        let files = TemporaryDirectory::new();
        for (archive, member) in
            [(sample_archive(), "layer.tar"), (files.path().join("layer.tar"), "./hello")]
        {
            let untar =
                Command::new("tar").arg("-xf").arg(&archive).arg(member).current_dir(files.path()).status();
            assert!(untar.expect("run tar").success(), "{member} is in {}", archive.display());
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("find a free port")
            .port();
        let mut process = Command::new(files.path().join("hello"))
            .env_clear()
            .env("port", port.to_string())
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the sample");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("read its first line");
        assert_eq!(line, format!("listening on port {port}\n"));
        Self { process, port, _files: files }
    }

    /// Sends bytes on one connection and reads all that comes back.
    fn send(&self, request: &str) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        connection.set_read_timeout(Some(Duration::from_secs(10))).expect("set a time limit");
        connection.write_all(request.as_bytes()).expect("send");
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).expect("read the answer");
        String::from_utf8(answer).expect("text")
    }

    fn get(&self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or_else(|| panic!("no body in {answer:?}"), |(_, body)| body)
}

#[test]
fn it_answers_what_its_table_says() {
    let sample = Sample::start(&[("colour", "green"), ("ready_after", "60000")]);
    assert_eq!(body(&sample.get("/")), "Hello from a function on ingle.\n");
    assert_eq!(
        body(&sample.send("POST / HTTP/1.1\r\nconnection: close\r\n\r\n")),
        "Hello from a function on ingle.\n"
    );
    assert_eq!(status(&sample.get("/_/health")), 200);
    assert_eq!(status(&sample.get("/_/ready")), 503);
    assert_eq!(status(&sample.get("/status/418")), 418);
    assert_eq!(status(&sample.get("/nothing")), 404);
    assert!(body(&sample.get("/env")).contains("colour=green\n"));
    assert!(body(&sample.get("/headers")).starts_with("GET /headers HTTP/1.1\r\nhost: x\r\n"));
    assert_eq!(body(&sample.get("/big?bytes=100000")).len(), 100_000);
    assert_eq!(body(&sample.get("/stream?count=2&ms=1")), "8\r\nchunk 1\n\r\n8\r\nchunk 2\n\r\n0\r\n\r\n");
    assert_eq!(body(&sample.get("/cut?bytes=100")).len(), 50);
    assert!(body(&sample.get("/file?path=/proc/self/status")).starts_with("Name:\thello"));
    assert_eq!(status(&sample.get(&format!("/connect?to=127.0.0.1:{}", sample.port))), 200);
    assert_eq!(status(&sample.get("/connect?to=127.0.0.1:1")), 502);
}

#[test]
fn bodies_come_back_whichever_way_their_length_is_given() {
    let sample = Sample::start(&[]);
    // Three requests on one connection: each must end where the next begins.
    let answers = sample.send(
        "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nfirst\
         POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nsec\r\n3\r\nond\r\n0\r\n\r\n\
         POST /echo HTTP/1.1\r\ncontent-length: 5\r\nconnection: close\r\n\r\nthird",
    );
    for part in ["\r\n\r\nfirst", "\r\n\r\nsecond", "\r\n\r\n5\r\nthird\r\n0\r\n\r\n"] {
        assert!(answers.contains(part), "{part:?} is not in {answers:?}");
    }
}

#[test]
fn an_upgraded_connection_returns_every_byte() {
    let sample = Sample::start(&[]);
    let mut connection = TcpStream::connect(("127.0.0.1", sample.port)).expect("connect");
    connection
        .write_all(b"GET /x HTTP/1.1\r\nupgrade: raw\r\nconnection: upgrade\r\n\r\nping")
        .expect("send");
    connection.shutdown(std::net::Shutdown::Write).expect("shut down");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("read");
    assert_eq!(status(&answer), 101);
    assert_eq!(body(&answer), "ping");
}

#[test]
fn sigterm_ends_it_at_once_and_with_success() {
    let mut sample = Sample::start(&[]);
    let pid = Pid::from_raw(i32::try_from(sample.process.id()).expect("a pid"));
    let sent = Instant::now();
    kill(pid, Signal::SIGTERM).expect("send SIGTERM");
    assert!(sample.process.wait().expect("wait").success());
    assert!(sent.elapsed() < Duration::from_secs(2), "it took {:?}", sent.elapsed());
}
