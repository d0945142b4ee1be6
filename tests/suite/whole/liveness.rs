//! The pings that systemd expects: they come for as long as the daemon runs, also while it waits for calls to end.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::LocalSet;

use crate::support::daemon::{Daemon, address, in_own_network};
use crate::support::load::{Connections, Load};

/// What the daemon is given: a ping each half of it.
const PERIOD: Duration = Duration::from_millis(400);

/// systemd, as far as it is pinged.
struct Systemd(Receiver<String>);

impl Systemd {
    /// Listens at `path`. Messages are taken at once: the socket holds ten, and the daemon waits for room.
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).trim().to_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        Self(messages)
    }

    /// Expects pings for two seconds, and none to be late; the other messages that came.
    fn expects_pings(&self, when: &str) -> Vec<String> {
        let (end, mut last, mut others) =
            (Instant::now() + Duration::from_secs(2), Instant::now(), Vec::new());
        while Instant::now() < end {
            match self.0.recv_timeout(PERIOD / 4) {
                Ok(message) if message == "WATCHDOG=1" => last = Instant::now(),
                Ok(other) => others.push(other),
                Err(_) => {}
            }
            // Beside other tests a process may wait for its turn.
            assert!(last.elapsed() < PERIOD * 3, "no ping while {when}");
        }
        others
    }
}

#[test]
fn systemd_is_pinged_while_the_daemon_idles_serves_and_drains() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(LocalSet::new().run_until(async {
        let mut daemon = Daemon::bare("").await;
        let path = daemon.containerd.path().join("notify");
        let systemd = Systemd::listen(&path);
        daemon.environment("NOTIFY_SOCKET", &path.display().to_string());
        daemon.environment("WATCHDOG_USEC", &PERIOD.as_micros().to_string());
        daemon.resume().await;
        let others = systemd.expects_pings("it starts");
        assert!(others.iter().any(|message| message.contains("READY=1")), "{others:?}");
        systemd.expects_pings("it idles");
        daemon.load(&crate::support::sample_archive()).await;
        daemon.ready("hello", serde_json::json!({})).await;
        let mut load = Load::start(address(), "GET", "/function/hello", 8, Connections::Kept);
        load.more(100).await;
        tokio::join!(load.more(2_000), async {
            systemd.expects_pings("calls run");
        });
        load.end().await;

        // A call whose body does not come: it is waited for.
        let mut call = TcpStream::connect(address()).expect("it listens");
        call.write_all(b"POST /function/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1")
            .expect("sent");
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill(Pid::from_raw(daemon.pid().expect("it runs").cast_signed()), Signal::SIGTERM).expect("sent");
        let others = systemd.expects_pings("it begins to drain");
        assert!(!others.iter().any(|message| message.contains("STOPPING=1")), "{others:?}");
        systemd.expects_pings("it drains");
        assert!(!daemon.has_ended(), "it waits for the call");
        drop(call);
        eventually!(within 60, daemon.has_ended(), "the daemon does not end: {}", daemon.log());
    }));
}
