//! The daemon killed again and again while calls are queued: none that it accepted is lost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, in_own_network};
use crate::support::long::{Chance, VARIABLE, long};

/// Kills in the short form, which `tests/run` runs.
const ROUNDS: u32 = 6;
/// Clients that queue calls.
const CLIENTS: usize = 4;

/// Queues calls until the daemon does not answer; the ids of those that it accepted.
async fn queue(daemon: &Daemon, client: usize, round: u32, accepted: Arc<Mutex<Vec<String>>>) {
    let http = daemon.client.clone();
    for number in 0.. {
        let id = format!("call-{round}-{client}-{number}");
        let url = daemon.url(&format!("/async-function/hello/file?path=/tmp/{id}"));
        match http.post(url).body(body(&id)).send().await {
            Ok(answer) => {
                assert_eq!(answer.status(), StatusCode::ACCEPTED);
                accepted.lock().expect("no panic").push(id);
            }
            Err(_) => return,
        }
    }
}

/// What the queues and the directory of bodies hold.
async fn left(daemon: &Daemon) -> (Value, usize) {
    let queues = daemon.api(Method::GET, "/system/queues").send().await.expect("an answer");
    let bodies = std::fs::read_dir(daemon.state_dir().join("queue")).expect("there").count();
    (queues.json().await.expect("JSON"), bodies)
}

/// What a call has its function write into a file: every tenth goes through a file on its way, too.
fn body(id: &str) -> String {
    id.repeat(if id.ends_with('0') { 1000 } else { 1 })
}

#[test]
fn what_was_accepted_is_made_however_often_the_daemon_is_killed() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let asked = long();
        let rounds = asked.map_or(ROUNDS, |long| long.rounds);
        let seed = asked.and_then(|long| long.seed).unwrap_or_else(Chance::any_seed);
        println!("{rounds} rounds with seed {seed}: {VARIABLE}={rounds},{seed}");
        let mut chance = Chance::new(seed);
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({ "readOnlyRootFilesystem": true })).await;
        let accepted = Arc::new(Mutex::new(Vec::new()));
        for round in 0..rounds {
            let queueing = (0..CLIENTS).map(|client| queue(&daemon, client, round, accepted.clone()));
            let kill = async {
                tokio::time::sleep(Duration::from_millis(20 + chance.below(400))).await;
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(daemon.pid().expect("it runs").try_into().expect("a pid")),
                    Signal::SIGKILL,
                )
                .expect("it runs");
            };
            futures_util::future::join(futures_util::future::join_all(queueing), kill).await;
            daemon.end(Signal::SIGKILL);
            daemon.resume().await;
        }
        eventually!(
            within 120,
            {
                let (queues, bodies) = left(&daemon).await;
                let queues = queues.as_array().expect("a list").clone();
                let is_empty = |queue: &Value| ["ready", "waiting", "running"].iter().all(|state| queue[state] == 0);
                bodies == 0 && queues.iter().all(is_empty)
            },
            "{:?}",
            left(&daemon).await
        );
        let dead = daemon.api(Method::GET, "/system/dead").send().await.expect("an answer");
        assert_eq!(dead.json::<Value>().await.expect("JSON"), json!([]));
        let accepted = accepted.lock().expect("no panic").clone();
        assert!(accepted.len() > rounds as usize, "hardly anything was queued");
        for id in &accepted {
            let (status, written) = daemon.call(&format!("hello/file?path=/tmp/{id}")).await;
            assert_eq!(status, StatusCode::OK, "{id} of {} was lost: {}", accepted.len(), daemon.log());
            assert!(written == body(id), "{id} was made with another body");
        }
        println!("{} calls accepted, none lost", accepted.len());
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}
