//! Access to the API through each of the sockets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::daemon::{Daemon, in_own_network, run};
use crate::support::holders;

const ADMIN: &str = "http://127.0.0.1:8081";

/// Returns the status that curl gets; 000 if nothing answers.
async fn status(prefix: &[&str], arguments: &[&str]) -> String {
    let output = curl(prefix, &[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat()).await;
    String::from_utf8(output.stdout).expect("text")
}

/// Runs curl through the program that `prefix` names.
async fn curl(prefix: &[&str], arguments: &[&str]) -> Output {
    let words = [prefix, &["curl", "-s", "--noproxy", "*", "-m", "20"], arguments].concat();
    Command::new(words[0]).args(&words[1..]).output().await.expect("run curl")
}

fn socket(daemon: &Daemon) -> String {
    daemon.containerd.path().join("run-ingle/api.sock").display().to_string()
}

#[test]
fn functions_reach_the_api_only_if_allowed() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "curl");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let names = run("ip", &["netns", "list"]);
        let namespace = daemon.containerd.namespace();
        let replica =
            names.split_whitespace().find(|name| name.contains(namespace)).expect("a replica").to_owned();
        let inside = ["ip", "netns", "exec", replica.as_str()];
        let user = format!("admin:{}", daemon.password());
        let (api, metrics) = ("http://10.62.0.1:8080/system/functions", "http://10.62.0.1:8080/metrics");

        assert_eq!(status(&inside, &["http://10.62.0.1:8080/function/hello"]).await, "200");
        assert_eq!(status(&inside, &["http://10.62.0.1:8080/healthz"]).await, "200");
        assert_eq!(status(&inside, &["-u", &user, api]).await, "403");
        assert_eq!(status(&inside, &[metrics]).await, "403");
        // The same address, but this machine.
        assert_eq!(status(&["env"], &["-u", &user, api]).await, "200");
        let refused = String::from_utf8(curl(&inside, &["-u", &user, api]).await.stdout).expect("text");
        assert!(refused.contains("gateway.functions_api"), "{refused}");
        assert_eq!(status(&inside, &["http://10.62.0.1:8081/healthz"]).await, "000");

        // Even an admin listener on all addresses is closed to functions.
        daemon.stop().await;
        daemon.environment("INGLE_GATEWAY_ADMIN_LISTEN", "0.0.0.0:8081");
        daemon.environment("INGLE_GATEWAY_FUNCTIONS_API", "true");
        daemon.resume().await;
        assert_eq!(status(&["env"], &["http://10.62.0.1:8081/healthz"]).await, "200");
        assert_eq!(status(&inside, &["http://10.62.0.1:8081/healthz"]).await, "000");
        assert_eq!(status(&inside, &[api]).await, "401");
        assert_eq!(status(&inside, &["-u", &user, api]).await, "200");
        assert_eq!(status(&inside, &[metrics]).await, "200");
    });
}

#[test]
fn the_admin_listener_serves_the_api_and_no_functions() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "curl");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let user = format!("admin:{}", daemon.password());
        for public in [true, false] {
            let at = |base: &str, path: &str| format!("{base}{path}");
            let common = "http://127.0.0.1:8080";
            let (password, open) = if public { ("200", "200") } else { ("403", "403") };
            assert_eq!(status(&["env"], &["-u", &user, &at(common, "/system/functions")]).await, password);
            assert_eq!(status(&["env"], &[&at(common, "/metrics")]).await, open);
            assert_eq!(status(&["env"], &[&at(common, "/function/hello")]).await, "200");
            assert_eq!(status(&["env"], &["-u", &user, &at(ADMIN, "/system/functions")]).await, "200");
            assert_eq!(status(&["env"], &[&at(ADMIN, "/system/functions")]).await, "401");
            for path in ["/metrics", "/healthz"] {
                assert_eq!(status(&["env"], &[&at(ADMIN, path)]).await, "200", "{path}");
            }
            for path in ["/function/hello", "/async-function/hello"] {
                assert_eq!(status(&["env"], &["-d", "x", &at(ADMIN, path)]).await, "404", "{path}");
            }
            let header = ["-H", "X-Function: hello", "-o", "/dev/null"];
            assert_ne!(status(&["env"], &[&header[..], &[&at(ADMIN, "/")]].concat()).await, "200");
            if public {
                daemon.stop().await;
                daemon.environment("INGLE_GATEWAY_PUBLIC_API", "false");
                daemon.resume().await;
            }
        }
        // A port in use is an error if the key is set, or if the API has no other listener; otherwise the daemon
        // starts without it.
        daemon.stop().await;
        let other = std::net::TcpListener::bind("127.0.0.1:8081").expect("bound");
        daemon.spawn();
        assert!(!daemon.ended().success());
        for key in ["gateway.public_api = false", "gateway.admin_listen"] {
            assert!(daemon.log().contains(key), "{key}: {}", daemon.log());
        }
        daemon.environment("INGLE_GATEWAY_PUBLIC_API", "true");
        daemon.resume().await;
        assert!(daemon.log().contains("there is no admin listener"), "{}", daemon.log());
        daemon.stop().await;
        daemon.environment("INGLE_GATEWAY_ADMIN_LISTEN", "127.0.0.1:8081");
        daemon.spawn();
        assert!(!daemon.ended().success());
        assert!(daemon.log().contains("gateway.admin_listen sets another address"), "{}", daemon.log());
        drop(other);
    });
}

#[test]
fn local_commands_need_no_password_and_use_only_the_socket() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "curl", "setpriv");
    in_own_network(async {
        let mut daemon = Daemon::bare("").await;
        daemon.environment("INGLE_GATEWAY_PUBLIC_API", "false");
        daemon.resume().await;
        let directory = daemon.containerd.path().to_owned();
        // A proxy that must get no connection.
        let proxy = std::net::TcpListener::bind("127.0.0.1:9971").expect("bound");
        proxy.set_nonblocking(true).expect("set");
        let ingle = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ingle"));
            command.args(arguments).env_clear().env("HOME", &directory).stdin(Stdio::null());
            command.env("INGLE_DAEMON_RUN_DIR", directory.join("run-ingle"));
            command.env("INGLE_DAEMON_STATE_DIR", directory.join("state-ingle"));
            command.env("http_proxy", "http://127.0.0.1:9971").env("ALL_PROXY", "http://127.0.0.1:9971");
            command
        };
        let ok = |output: Output| {
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        let archive = crate::support::sample_archive().display().to_string();
        ok(ingle(&["image", "load", &archive]).output().await.expect("run"));
        let deploy = ["deploy", "hello", "--image", crate::support::daemon::SAMPLE, "--pull-policy", "Never"];
        let out = ok(ingle(&deploy).output().await.expect("run"));
        assert!(out.contains("http://127.0.0.1:8080/function/hello"), "{out}");
        for arguments in [
            &["list"][..],
            &["list", "-g", "http://127.0.0.1:8080"],
            &["list", "-g", "localhost:8081"],
            &["doctor", "--config", &directory.join("config.toml").display().to_string()],
        ] {
            let output = ingle(arguments).output().await.expect("run");
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(out.contains("hello") || out.contains("answers at"), "{arguments:?}: {output:?}");
        }
        let out = ok(ingle(&["invoke", "hello", "-d", "x"]).output().await.expect("run"));
        assert_eq!(out, "x");

        // Followed logs arrive as they are written.
        let mut follow = ingle(&["logs", "hello", "--follow", "--tail", "1"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("run");
        let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
        let mut next = async || tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
        next().await.expect("in time").expect("readable").expect("a line");
        ok(ingle(&["invoke", "hello", "--path", "/log?text=while-it-is-followed"])
            .output()
            .await
            .expect("run"));
        let line = next().await.expect("in time").expect("readable").expect("a line");
        assert!(line.contains("while-it-is-followed"), "{line}");
        drop(follow);
        assert!(proxy.accept().is_err(), "somebody asked the proxy");

        // The modes, and the clients that are admitted after somebody has changed them.
        let mode = |path: &str| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let socket = socket(&daemon);
        let run = directory.join("run-ingle");
        assert_eq!((mode(&run.display().to_string()), mode(&socket)), (0o700, 0o600));
        for (path, mode) in [(directory.as_path(), 0o755), (&run, 0o755), (Path::new(&socket), 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
        }
        let arguments = ["--unix-socket", &socket, "http://localhost/system/info"];
        assert_eq!(status(&["env"], &arguments).await, "200");
        let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
        assert_eq!(status(&nobody, &arguments).await, "000");
    });
}

#[test]
fn the_gateway_can_listen_on_the_bridge_before_it_exists() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "curl");
    in_own_network(async {
        let mut daemon = Daemon::bare("").await;
        daemon.environment("INGLE_GATEWAY_LISTEN", "10.62.0.1:8080");
        daemon.spawn();
        let healthz = "http://10.62.0.1:8080/healthz";
        eventually!(within 30, status(&["env"], &[healthz]).await == "200", "{}", daemon.log());
        assert_eq!(status(&["env"], &["http://127.0.0.1:8080/healthz"]).await, "000");
        // The machine's own address is admitted, although it is in the subnet of functions.
        let user = format!("admin:{}", daemon.password());
        assert_eq!(status(&["env"], &["-u", &user, "http://10.62.0.1:8080/system/info"]).await, "200");
        daemon.stop().await;
    });
}

/// A stand-in for systemd that keeps the daemon's sockets by name, and gives them to the next daemon.
const SUPERVISOR: &str = r#"#!/usr/bin/python3
import array, ctypes, fcntl, os, signal, socket, sys, threading

kept = {}
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(os.environ["NOTIFY_SOCKET"])

def take():
    while True:
        text, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(64))
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        said = dict(line.split("=", 1) for line in text.decode().splitlines())
        if "FDSTOREREMOVE" in said:
            for fd in kept.pop(said["FDNAME"], []):
                os.close(fd)
        elif "FDSTORE" in said:
            kept.setdefault(said["FDNAME"], []).extend(fds)

def start():
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for name in sorted(kept) for fd in kept[name]]
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for index, fd in enumerate(fds):
            os.dup2(fd, 3 + index)
        os.closerange(3 + len(fds), 256)
        if fds:
            os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
        os.execv(os.environ["SUPERVISED"], [os.environ["SUPERVISED"], *sys.argv[1:]])
    for fd in fds:
        os.close(fd)
    return child

signals = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
threading.Thread(target=take, daemon=True).start()
child = start()
while True:
    signal_number = signal.sigwait(signals)
    if signal_number == signal.SIGUSR2:
        child = start()
        continue
    os.kill(child, signal.SIGKILL if signal_number == signal.SIGUSR1 else signal.SIGTERM)
    os.waitpid(child, 0)
    if signal_number == signal.SIGTERM:
        sys.exit(0)
    open(os.environ["NOTIFY_SOCKET"] + ".away", "w").write(" ".join(sorted(kept)))
"#;

#[test]
fn every_socket_is_kept_while_the_daemon_restarts() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "curl", "python3");
    in_own_network(async {
        let mut daemon = Daemon::bare("").await;
        let directory = daemon.containerd.path().to_owned();
        let (supervisor, notify) = (directory.join("supervisor"), directory.join("notify"));
        fs::write(&supervisor, SUPERVISOR).expect("written");
        fs::set_permissions(&supervisor, fs::Permissions::from_mode(0o755)).expect("a program");
        daemon.environment("SUPERVISED", env!("CARGO_BIN_EXE_ingle"));
        daemon.environment("NOTIFY_SOCKET", &notify.display().to_string());
        daemon.run_as(supervisor);
        daemon.resume().await;
        let socket = socket(&daemon);
        let signal = |daemon: &Daemon, signal: Signal| {
            let pid = daemon.pid().expect("it runs");
            kill(Pid::from_raw(pid.cast_signed()), signal).expect("sent");
        };
        for _ in 0..2 {
            signal(&daemon, Signal::SIGUSR1);
            let away = directory.join("notify.away");
            eventually!(within 30, away.exists(), "it does not go: {}", daemon.log());
            eventually!(
                fs::read_to_string(&away).expect("there") == "admin api gateway rules",
                "kept: {:?}",
                fs::read_to_string(&away)
            );
            fs::remove_file(away).expect("removed");
            // systemd kills the rest of the service, too.
            holders().into_iter().for_each(|holder| kill(holder, Signal::SIGKILL).expect("killed"));
            eventually!(holders().is_empty(), "left are {:?}", holders());
            run("nft", &["flush", "ruleset"]);
            let kept = run("nft", &["list", "tables"]);
            assert!(kept.lines().count() == 1 && kept.contains("/owned"), "left of the rules is {kept:?}");
            let info = ["--unix-socket", &socket, "http://localhost/system/info"];
            let waiting = async {
                tokio::join!(
                    status(&["env"], &["http://127.0.0.1:8080/healthz"]),
                    status(&["env"], &["http://127.0.0.1:8081/healthz"]),
                    status(&["env"], &info),
                )
            };
            let back = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                signal(&daemon, Signal::SIGUSR2);
            };
            let (answers, ()) = tokio::join!(waiting, back);
            assert_eq!(answers, ("200".into(), "200".into(), "200".into()), "{}", daemon.log());
            let tables = || run("nft", &["list", "tables"]);
            eventually!(
                tables().lines().count() == 2 && !tables().contains(&kept),
                "of the next daemon: {}, before {kept}",
                tables()
            );
        }
        daemon.stop().await;
    });
}
