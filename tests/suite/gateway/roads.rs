//! Every way to a server on which requests are passed on: the gateway, the watchdog, and both, one behind the other.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::{Client, Gate, PATIENCE, endpoint, mirror, replica};
use crate::support::TemporaryDirectory;
use crate::support::view::view;
use crate::watchdog::{Watchdog, free_address};

/// The limit of every way, unless a test sets another.
const LIMIT: Duration = Duration::from_secs(1);

/// A way to a server.
pub(super) struct Road {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    _gate: Option<Gate>,
    _watchdog: Option<Watchdog>,
}

impl Road {
    /// All ways to a server. What is sent may be silent for `limit`.
    pub(super) async fn all(server: SocketAddr, limit: Duration) -> Vec<Self> {
        let watchdog = || async {
            let (url, time) = (format!("http://{server}"), format!("{}ms", limit.as_millis()));
            let variables = [
                ("mode", "http"),
                ("upstream_url", url.as_str()),
                ("exec_timeout", time.as_str()),
                ("read_timeout", time.as_str()),
                ("write_timeout", time.as_str()),
            ];
            Watchdog::command("sleep 600", &variables).await
        };
        let gate = async |replica| Gate::with(&[replica], |view, _| view.timeout = limit).await;
        let (alone, behind) = (watchdog().await, watchdog().await);
        let (gateway, before) = (gate(server).await, gate(behind.address).await);
        vec![
            Self { name: "gateway", address: gateway.address, _gate: Some(gateway), _watchdog: None },
            Self { name: "watchdog", address: alone.address, _gate: None, _watchdog: Some(alone) },
            Self { name: "both", address: before.address, _gate: Some(before), _watchdog: Some(behind) },
        ]
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.expect("it listens"), left: Vec::new() }
    }
}

fn head(method: &str, headers: &str) -> String {
    format!("{method} /function/env HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

/// A server that says what its test tells it to, once a request's head has come.
struct Told {
    address: SocketAddr,
    say: mpsc::UnboundedSender<&'static str>,
    /// Requests whose heads have come.
    come: mpsc::UnboundedReceiver<()>,
    /// Connections that have ended.
    ended: mpsc::UnboundedReceiver<()>,
}

async fn told() -> Told {
    let (tell, mut words) = mpsc::unbounded_channel::<(Client, usize)>();
    let (say, mut said) = mpsc::unbounded_channel::<&'static str>();
    let (comes, come) = mpsc::unbounded_channel();
    let (end, ended) = mpsc::unbounded_channel();
    let address = replica(move |connection, number| {
        let tell = tell.clone();
        async move { drop(tell.send((connection, number))) }
    })
    .await;
    tokio::spawn(async move {
        while let Some((mut connection, _)) = words.recv().await {
            // One that is only looked at ends before a request.
            while connection.left.windows(4).all(|part| part != b"\r\n\r\n") && connection.more().await {}
            if connection.left.is_empty() {
                continue;
            }
            connection.left.clear();
            if comes.send(()).is_err() {
                return;
            }
            loop {
                tokio::select! {
                    word = said.recv() => match word {
                        Some("") => break,
                        Some(word) => connection.send(word).await,
                        None => return,
                    },
                    more = connection.more() => if !more { break },
                }
            }
            if end.send(()).is_err() {
                return;
            }
        }
    });
    Told { address, say, come, ended }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_piece_of_a_response_comes_as_it_is_sent_and_the_head_before_all() {
    let server = told().await;
    let say = &server.say;
    for road in Road::all(server.address, PATIENCE).await {
        for framing in ["Transfer-Encoding: chunked", "Connection: close"] {
            let mut client = road.connect().await;
            client.send(head("GET", "Accept: text/event-stream\r\n")).await;
            let first: &str = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").leak();
            say.send(first).expect("it listens");
            let answer = client.head().await;
            assert_eq!(answer.code, 200, "{} {framing}", road.name);
            for number in 0..5 {
                let event = format!("data: {number}\n\n");
                let sent = match framing {
                    "Connection: close" => event.clone(),
                    _ => format!("{:x}\r\n{event}\r\n", event.len()),
                };
                say.send(sent.leak()).expect("it listens");
                // The next one is not sent before.
                client.until(&event).await;
            }
            say.send("").expect("it listens");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interim_response_comes_before_the_other() {
    let server = told().await;
    let say = &server.say;
    for road in Road::all(server.address, PATIENCE).await {
        let mut client = road.connect().await;
        client.send(head("GET", "")).await;
        say.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n").expect("it listens");
        let hints = client.head().await;
        assert_eq!((hints.code, hints.header("link")), (103, Some("</a.css>; rel=preload")), "{}", road.name);
        say.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("it listens");
        assert_eq!(client.answer().await.body, "ok", "{}", road.name);
        say.send("").expect("it listens");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_open_for_as_long_as_something_moves() {
    let server = replica(|mut connection, _| async move {
        if connection.more().await {
            connection.until("\r\n\r\n").await;
            let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";
            connection.send(switch).await;
            while connection.more().await {
                let echo = std::mem::take(&mut connection.left);
                connection.send(echo).await;
            }
        }
    })
    .await;
    let roads = Road::all(server, LIMIT).await;
    let tries = roads.iter().map(|road| async move {
        let mut client = road.connect().await;
        client.send(head("GET", "Connection: Upgrade\r\nUpgrade: echo\r\n")).await;
        assert_eq!(client.head().await.code, 101, "{}", road.name);
        let begin = Instant::now();
        while begin.elapsed() < LIMIT * 3 {
            client.send("ping").await;
            assert_eq!(client.exactly(4).await, b"ping", "{} after {:?}", road.name, begin.elapsed());
            sleep(LIMIT / 4).await;
        }
        assert_eq!(client.rest().await, b"", "{}: it ends once nothing moves", road.name);
    });
    futures_util::future::join_all(tries).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_may_take_longer_than_the_limit_while_it_comes() {
    let server = replica(|mut connection, _| async move {
        if connection.more().await {
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for _ in 0..10 {
                sleep(LIMIT / 4).await;
                connection.send("1\r\nx\r\n").await;
            }
            connection.send("0\r\n\r\n").await;
            // Of this one no more than the head ever comes.
            connection.left.clear();
            while connection.more().await {}
        }
    })
    .await;
    let roads = Road::all(server, LIMIT).await;
    let tries = roads.iter().map(|road| async move {
        let mut client = road.connect().await;
        client.send(head("GET", "")).await;
        assert_eq!(client.answer().await.body, "x".repeat(10), "{}", road.name);
    });
    futures_util::future::join_all(tries).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_the_connection_to_the_server_with_it() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"] {
        let Told { address, say, mut come, mut ended } = told().await;
        for road in Road::all(address, PATIENCE * 2).await {
            for request in [head("GET", ""), head("POST", "Content-Length: 2\r\n") + "ab"] {
                let mut client = road.connect().await;
                client.send(&request).await;
                assert_eq!(timeout(PATIENCE, come.recv()).await, Ok(Some(())), "{} {request}", road.name);
                if !begun.is_empty() {
                    say.send(begun).expect("it listens");
                    client.head().await;
                }
                drop(client);
                let left = Instant::now();
                let end = timeout(PATIENCE, ended.recv()).await;
                assert_eq!(end, Ok(Some(())), "{} {request} {begun}", road.name);
                println!("{}: {:?} after its client", road.name, left.elapsed());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_take_longer_than_the_limit_while_it_comes() {
    let server = replica(|mut connection, _| async move {
        if connection.more().await {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
            connection.until("0\r\n\r\n").await;
            connection.send("ok").await;
        }
    })
    .await;
    let roads = Road::all(server, LIMIT).await;
    let tries = roads.iter().map(|road| async move {
        let mut client = road.connect().await;
        client.send(head("POST", "Transfer-Encoding: chunked\r\n")).await;
        assert_eq!(client.head().await.code, 200, "{}", road.name);
        for _ in 0..10 {
            client.send("5\r\nhello\r\n").await;
            sleep(LIMIT / 4).await;
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.exactly(2).await, b"ok", "{}", road.name);
    });
    futures_util::future::join_all(tries).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_after_write_timeout() {
    let (end, mut ended) = mpsc::unbounded_channel();
    let server = replica(move |mut connection, _| {
        let end = end.clone();
        async move {
            if connection.more().await {
                connection.send("HTTP/1.1 200 OK\r\n\r\n").await;
                while connection.stream.write_all(&[b'x'; 100]).await.is_ok() {}
                end.send(()).expect("the test waits");
            }
        }
    })
    .await;
    let url = format!("http://{server}");
    let variables =
        [("mode", "http"), ("upstream_url", url.as_str()), ("exec_timeout", "0"), ("write_timeout", "1s")];
    let watchdog = Watchdog::command("sleep 600", &variables).await;
    let mut client = TcpStream::connect(watchdog.address).await.expect("it listens");
    client.write_all(head("GET", "").as_bytes()).await.expect("sent");
    assert_eq!(timeout(PATIENCE, ended.recv()).await, Ok(Some(())), "the server is still read from");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_follows_a_body_whose_end_is_not_known() {
    let server = mirror().await;
    for road in Road::all(server, PATIENCE).await {
        let mut client = road.connect().await;
        client.send(head("POST", "Transfer-Encoding: chunked\r\n") + "1\r\na\r").await;
        sleep(Duration::from_millis(100)).await;
        client.send("\n5\rQabcd\r\n0\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.code, answer.header("connection")), (400, Some("close")), "{}", road.name);
        client.stream.shutdown().await.expect("said all");
        assert_eq!(client.rest().await, b"", "{}", road.name);
    }
    // Nor one that was not asked for.
    let roads = Road::all(server, PATIENCE).await;
    let watchdog = roads.iter().find(|road| road.name == "watchdog").expect("one of them");
    let mut client = watchdog.connect().await;
    let asks = "Content-Length: 40\r\nExpect: 100-continue\r\n";
    client.send(format!("POST /_/health HTTP/1.1\r\nHost: a\r\n{asks}\r\n")).await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.header("connection")), (200, Some("close")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_after_an_early_response_is_answered() {
    // Answers at the first byte, and reads nothing more for as long as it can.
    let server = replica(|mut connection, _| async move {
        if connection.more().await {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly").await;
            sleep(PATIENCE).await;
        }
    })
    .await;
    for road in Road::all(server, PATIENCE).await {
        for length in [3, 100_000, 1_000_000] {
            for chunked in [false, true] {
                let mut client = road.connect().await;
                let body = "x".repeat(length);
                let (headers, first, rest) = match chunked {
                    true => (
                        "Transfer-Encoding: chunked\r\n".into(),
                        format!("{length:x}\r\n"),
                        body + "\r\n0\r\n\r\n",
                    ),
                    false => (format!("Content-Length: {length}\r\n"), String::new(), body),
                };
                client.send(head("POST", &headers) + &first).await;
                let answer = client.answer().await;
                assert_eq!((answer.code, &*answer.body), (200, "early"), "{}", road.name);
                let closes = answer.header("connection") == Some("close");
                client.send(rest).await;
                client.send(head("GET", "")).await;
                if !closes {
                    assert_eq!(client.answer().await.body, "early", "{} {length} {chunked}", road.name);
                }
            }
        }
    }
}

/// Node, whose connections end 500 ms after their last response.
const NODE: &str = r#"
const server = require("http").createServer((request, response) => {
    let length = 0;
    request.on("data", piece => length += piece.length);
    request.on("end", () => response.end(`${request.method} ${length}`));
});
server.keepAliveTimeout = Number(process.argv[3]);
server.listen(Number(process.argv[2]), "127.0.0.1");
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_on_a_kept_connection_that_node_closes() {
    require!("node");
    let directory = TemporaryDirectory::new();
    let script = directory.path().join("server.js");
    std::fs::write(&script, NODE).expect("written");
    let address = free_address();
    // Node's own default.
    let mut node = tokio::process::Command::new("node")
        .args([script.as_os_str(), address.port().to_string().as_ref(), "5000".as_ref()])
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    eventually!(TcpStream::connect(address).await.is_ok(), "node does not listen");
    let roads = Road::all(address, PATIENCE).await;
    // Side by side, each a little nearer to the moment at which it is closed.
    let tries = roads.iter().flat_map(|road| (0..24).map(move |number| (road, number)));
    let tries = tries.map(|(road, number)| async move {
        let mut client = road.connect().await;
        for pause in [Duration::from_millis(4850 + 10 * number), Duration::ZERO] {
            client.send(head("POST", "Content-Length: 3\r\n") + "abc").await;
            let answer = client.answer().await;
            assert_eq!((answer.code, &*answer.body), (200, "POST 3"), "{} {number}", road.name);
            sleep(pause).await;
        }
    });
    futures_util::future::join_all(tries).await;
    node.kill().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_sent_on_a_connection_that_its_server_may_be_closing() {
    // Closes what was idle for long at the moment at which a request comes.
    let server = replica(|mut connection, _| async move {
        let mut last = Instant::now();
        while connection.more().await && last.elapsed() < Duration::from_millis(4500) {
            if connection.left.ends_with(b"abc") {
                connection.left.clear();
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                last = Instant::now();
            }
        }
    })
    .await;
    let roads = Road::all(server, PATIENCE).await;
    let tries = roads.iter().map(|road| async move {
        let mut client = road.connect().await;
        for pause in [Duration::from_secs(5), Duration::ZERO] {
            client.send(head("POST", "Content-Length: 3\r\n") + "abc").await;
            assert_eq!(client.answer().await.body, "ok", "{}", road.name);
            sleep(pause).await;
        }
    });
    futures_util::future::join_all(tries).await;
}
