//! More connections than there are places, in every state in which a request has not arrived whole.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::support::daemon::{Daemon, in_own_network, run};
use crate::support::long;

/// The daemon's addresses that are not loopback, and those of clients who have no part in a flood.
const ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const HONEST: [&str; 2] = ["192.0.2.9", "2001:db8:0:2::9"];
/// A trusted proxy, and its clients.
const PROXY: &str = "192.0.2.8";
const BEHIND: [&str; 2] = ["X-Forwarded-For: 203.0.113.9\r\n", "198.51.100.7"];
/// The most that an answer may take meanwhile.
const SANE: Duration = Duration::from_secs(10);
/// How long each flood goes on.
const FLOOD: Duration = Duration::from_secs(5);

/// The end of a connection that floods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It gives its memory to others: 408.
    Evicted,
    /// It gives its place to others, without a word.
    Closed,
    /// It is refused.
    Refused,
    /// 408 before it is answered; none once its answer has begun.
    EvictedUnanswered,
    /// None, for it has arrived whole.
    Never,
}

/// Whose the connections of a flood are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crowd {
    OneAddress,
    SomeAddresses,
    /// Each has an address of its own in one /64 of IPv6.
    Network,
    /// One client of a trusted proxy.
    Proxied,
}

impl Crowd {
    fn source(self, n: usize) -> IpAddr {
        match self {
            Self::OneAddress => IpAddr::from([192, 0, 2, 2]),
            Self::SomeAddresses => IpAddr::from([192, 0, 2, 2 + u8::try_from(n % 4).expect("few")]),
            Self::Network => {
                let network: Ipv6Addr = "2001:db8:0:1::".parse().expect("an address");
                Ipv6Addr::from_bits(network.to_bits() + 1 + n as u128).into()
            }
            Self::Proxied => PROXY.parse().expect("an address"),
        }
    }

    fn server(self) -> SocketAddr {
        let address = ADDRESSES[usize::from(self == Self::Network)].parse::<IpAddr>();
        (address.expect("an address"), 8080).into()
    }

    /// The address of somebody else.
    fn honest(self) -> IpAddr {
        let address = match self {
            Self::OneAddress | Self::SomeAddresses => HONEST[0],
            Self::Network => HONEST[1],
            Self::Proxied => PROXY,
        };
        address.parse().expect("an address")
    }
}

/// What one connection sends, and then no more.
#[derive(Debug, Clone)]
struct State {
    name: &'static str,
    crowd: Crowd,
    text: Vec<u8>,
    /// It goes byte by byte.
    dripping: bool,
    end: End,
}

fn states(authorization: &str) -> Vec<State> {
    let filler = "x".repeat(1000);
    let filler: String = (0..60).map(|n| format!("X-{n}: {filler}\r\n")).collect();
    let state = |name, crowd, text: String, end| {
        let forwarded = format!("Host: a\r\n{}", if crowd == Crowd::Proxied { BEHIND[0] } else { "" });
        State { name, crowd, text: text.replace("Host: a\r\n", &forwarded).into(), dripping: false, end }
    };
    let head = |line: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{authorization}{filler}");
    let body = |line: &str, length: usize| {
        format!("{}Content-Length: 262000\r\n\r\n{}", head(line), " ".repeat(length))
    };
    let whole = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    // A ClientHello begins so.
    let tls = "\x16\x03\x01\x02\x00\x01\x00\x01\u{7c}\x03\x03".to_owned() + &filler;
    let hang = "GET /function/hello/hang HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    let get = "GET /function/hello";
    let skill = body("POST /", 255 << 10);
    vec![
        state("idle", Crowd::OneAddress, whole.clone(), End::Closed),
        state("idle, of a network", Crowd::Network, whole.clone(), End::Closed),
        state("idle, of a proxy", Crowd::Proxied, whole.clone(), End::Closed),
        state("TLS", Crowd::SomeAddresses, tls, End::Refused),
        State { dripping: true, ..state("head, byte by byte", Crowd::Network, head(get), End::Evicted) },
        state("head of 60 kB", Crowd::SomeAddresses, head(get), End::Evicted),
        state("head of 60 kB, of a proxy", Crowd::Proxied, head(get), End::Evicted),
        state("half a request behind a whole one", Crowd::OneAddress, whole + &head(get), End::Evicted),
        state("call that waits", Crowd::SomeAddresses, hang, End::Never),
        state("body of a call", Crowd::Proxied, body("POST /function/hello/hang", 1), End::Evicted),
        state(
            "body of a call that is being answered",
            Crowd::Network,
            body("POST /function/hello/echo", 1),
            End::EvictedUnanswered,
        ),
        state(
            "body of an async call",
            Crowd::OneAddress,
            body("POST /async-function/hello", 1000),
            End::Evicted,
        ),
        state("body of the API", Crowd::Network, body("POST /system/functions", 255 << 10), End::Evicted),
        state("body of a skill", Crowd::SomeAddresses, skill, End::Evicted),
    ]
}

/// Kilobytes of memory that the daemon has, or had at most.
fn resident(daemon: &Daemon, field: &str) -> u64 {
    let pid = daemon.pid().expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a size");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Connections of a flood that have ended with 408, and those that were cut in the middle of their answers.
#[derive(Debug, Default)]
struct Ended {
    evicted: AtomicUsize,
    cut: AtomicUsize,
}

/// One connection of the flood, which begins anew when it was closed.
async fn attack(source: IpAddr, state: Arc<State>, ended: Arc<Ended>) {
    loop {
        let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.expect("a socket");
        if socket.bind((source, 0).into()).is_err() {
            // All ports of the address are in use.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        let Ok(mut stream) = socket.connect(state.crowd.server()).await else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let (mut reader, mut writer) = stream.split();
        let write = async {
            for piece in state.text.chunks(if state.dripping { 1 } else { usize::MAX }) {
                writer.write_all(piece).await?;
                if state.dripping {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            std::future::pending::<std::io::Result<()>>().await
        };
        let mut answer = Vec::new();
        tokio::select! {
            _ = write => {}
            _ = reader.read_to_end(&mut answer) => {}
        }
        if answer.windows(13).any(|text| text == b"HTTP/1.1 408 ") {
            ended.evicted.fetch_add(1, Ordering::Relaxed);
        } else if answer.starts_with(b"HTTP/1.1 200 ") {
            ended.cut.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Asks from an address that has no part in the flood, on a new connection each time; returns the longest time.
async fn ask(daemon: &Daemon, crowd: Crowd, name: &str) -> Duration {
    let stranger = crowd.server();
    let urls = [
        daemon.url("/healthz"),
        "http://127.0.0.1:8081/system/functions".to_owned(),
        format!("http://{stranger}/healthz"),
        format!("http://{stranger}/function/honest"),
    ];
    let mut longest = Duration::ZERO;
    for url in urls {
        let asked = Instant::now();
        let client = reqwest::Client::builder()
            .local_address((!url.contains("127.0.0.1")).then(|| crowd.honest()))
            .build()
            .expect("a client");
        let request = client.get(&url).basic_auth("admin", Some(daemon.password()));
        let request = request.header("X-Forwarded-For", BEHIND[1]);
        let answer = tokio::time::timeout(SANE, request.send()).await;
        let answer = answer.unwrap_or_else(|_| panic!("{name}: {url} is not answered"));
        let status = answer.unwrap_or_else(|error| panic!("{name}: {url}: {error}")).status();
        assert_eq!(status, StatusCode::OK, "{name}: {url}");
        longest = longest.max(asked.elapsed());
    }
    longest
}

/// With `INGLE_TESTS_LONG` as many connections as there are places by default, and the default memory.
#[test]
fn a_flood_of_unfinished_requests_takes_no_more_than_its_memory_and_locks_nobody_out() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let (connections, memory) =
            if long::long().is_some() { (8192, 64_u64 << 10) } else { (512, 2 << 10) };
        // For all that is no request: the task of each connection, which has 10 KB without optimization, and what the
        // allocator gives back later.
        let slack = (16 << 10) + 16 * connections as u64;
        let numbers = (1..10).map(|n| format!("192.0.2.{n}/32"));
        let addresses = [ADDRESSES[1], HONEST[1]].into_iter().map(|address| format!("{address}/128"));
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0").expect("a setting of this namespace");
        for address in numbers.chain(addresses) {
            run("ip", &["address", "add", &address, "dev", "lo"]);
        }
        // All addresses of this network are here.
        run("ip", &["-6", "route", "add", "local", "2001:db8:0:1::/64", "dev", "lo"]);
        fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").expect("a setting of this namespace");
        // Otherwise ports run out, and looking for a free one takes all of a processor.
        fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "1000").expect("a setting of this namespace");
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000")
            .expect("a setting of this namespace");
        // The flood has a thread of its own, or it would keep those who ask waiting.
        let clients = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let clients: &Runtime = Box::leak(Box::new(clients.expect("a runtime")));
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("no more than allowed");
        let mut daemon = Daemon::bare("").await;
        daemon.environment("INGLE_GATEWAY_MAX_CONNECTIONS", &connections.to_string());
        daemon.environment("INGLE_GATEWAY_REQUEST_MEMORY", &format!("{memory}Ki"));
        daemon.environment("INGLE_GATEWAY_LISTEN", "[::]:8080");
        daemon.environment("INGLE_GATEWAY_TRUSTED_PROXIES", PROXY);
        daemon.environment("INGLE_GATEWAY_ALEXA", "true");
        daemon.resume().await;
        daemon.load(&crate::support::sample_archive()).await;
        daemon.ready("hello", json!({ "annotations": { "ingle.timeout": "10m" } })).await;
        // Whoever is not part of the flood has a function that is not busy with it.
        daemon.ready("honest", json!({})).await;
        let authorization =
            reqwest::Client::new().get("http://a").basic_auth("admin", Some(daemon.password())).build();
        let authorization = authorization.expect("a request").headers()["authorization"].clone();
        let authorization = format!("Authorization: {}\r\n", authorization.to_str().expect("text"));

        let mut wrong: Vec<String> = Vec::new();
        let before = resident(&daemon, "VmRSS");
        println!("{before} kB before, {} kB of them anonymous", resident(&daemon, "RssAnon"));
        for state in states(&authorization) {
            let (name, state) = (state.name, Arc::new(state));
            fs::write(format!("/proc/{}/clear_refs", daemon.pid().expect("it runs")), "5").expect("reset");
            let slow = tokio::spawn(daemon.client.get(daemon.url("/function/honest/slow?ms=6000")).send());
            let (mut flood, ended) = (JoinSet::new(), Arc::new(Ended::default()));
            // A quarter more than there are places.
            for n in 0..connections + connections / 4 {
                let attack = attack(state.crowd.source(n), state.clone(), ended.clone());
                flood.spawn_on(attack, clients.handle());
            }
            let begin = Instant::now();
            let mut longest = Duration::ZERO;
            while begin.elapsed() < FLOOD {
                longest = longest.max(ask(&daemon, state.crowd, name).await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let peak = resident(&daemon, "VmHWM");
            let (evicted, cut) = (ended.evicted.load(Ordering::Relaxed), ended.cut.load(Ordering::Relaxed));
            let answer = slow.await.expect("no panic").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(answer.status(), StatusCode::OK, "{name}: the call that was under way");
            flood.shutdown().await;
            let stopped = Instant::now();
            // What it held is wanted by nobody, or the next one would meet it.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut after = resident(&daemon, "VmRSS");
            while after * 2 > before * 3 && stopped.elapsed() < Duration::from_secs(60) {
                tokio::time::sleep(Duration::from_millis(500)).await;
                after = resident(&daemon, "VmRSS");
            }
            println!(
                "{name}: {peak} kB at most, {after} kB {:?} after ({} kB anonymous); longest answer {longest:?}; \
                 {evicted} times 408, {cut} answers cut",
                stopped.elapsed(),
                resident(&daemon, "RssAnon")
            );
            if peak > before + memory + slack {
                wrong.push(format!("{name}: {before} kB before, {peak} kB at most"));
            }
            if after * 2 > before * 3 {
                wrong.push(format!("{name}: {before} kB before, {after} kB a minute after"));
            }
            match state.end {
                End::Evicted if evicted == 0 => wrong.push(format!("{name}: none gave way")),
                End::Closed | End::Never if evicted > 0 => {
                    wrong.push(format!("{name}: {evicted} gave way"));
                }
                End::EvictedUnanswered | End::Never if cut > 0 => {
                    wrong.push(format!("{name}: {cut} answers were cut"))
                }
                _ => {}
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        daemon.remove("hello").await;
        daemon.remove("honest").await;
        daemon.nothing_left().await;
    });
}
