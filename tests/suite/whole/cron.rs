//! A function that is called every second, while the daemon is killed again and again: each second is accounted for
//! once, and what was accepted is made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::commands::libraries;
use crate::support::TemporaryDirectory;
use crate::support::daemon::{Daemon, in_own_network};
use crate::support::long::{Chance, VARIABLE, long};
use crate::support::{Item, busybox, write_archive};

/// Kills in the short form, which `tests/run` runs.
const ROUNDS: u32 = 6;
const IMAGE: &str = "docker.io/ingle-test/notes:1";
/// Notes what it is called for, and shows its notes.
const SCRIPT: &str = "#!/bin/sh
case $Http_Path in
/notes) touch /tmp/notes && cat /tmp/notes ;;
*) echo \"$Http_X_Scheduled_At $Http_X_Call_Id\" >>/tmp/notes ;;
esac
";

/// The timer of the one function that has one.
async fn timer(daemon: &Daemon) -> Value {
    let answer = daemon.api(Method::GET, "/system/cron").send().await.expect("an answer");
    answer.json::<Value>().await.expect("JSON")[0].clone()
}

/// Its notes: when a run was due, and by which calls it came.
async fn notes(daemon: &Daemon) -> BTreeMap<Timestamp, BTreeSet<String>> {
    let (status, text) = daemon.call("tick/notes").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let mut notes: BTreeMap<Timestamp, BTreeSet<String>> = BTreeMap::new();
    for (due, id) in text.lines().filter_map(|line| line.split_once(' ')) {
        notes.entry(due.parse().expect("a time")).or_default().insert(id.to_owned());
    }
    notes
}

/// The timer and the notes at a moment between two runs, when more than so many were accepted.
async fn quiet(daemon: &Daemon, more_than: u64) -> (Value, BTreeMap<Timestamp, BTreeSet<String>>) {
    let (mut before, mut found, mut after);
    eventually!(
        within 60,
        {
            (before, found, after) = (timer(daemon).await, notes(daemon).await, timer(daemon).await);
            let accepted = after["accepted"].as_u64().expect("a count");
            // Each that was accepted is waited for; then there may be more only if one came twice.
            before == after && after["lastRun"]["outcome"] == "made" && accepted > more_than && found.len() as u64 >= accepted
        },
        "{after:#} {found:?} {}", daemon.log()
    );
    (after, found)
}

#[test]
fn each_second_is_accounted_for_once_however_often_the_daemon_is_killed() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "busybox", "ldd");
    in_own_network(async {
        let asked = long();
        let rounds = asked.map_or(ROUNDS, |long| long.rounds);
        let seed = asked.and_then(|long| long.seed).unwrap_or_else(Chance::any_seed);
        println!("{rounds} rounds with seed {seed}: {VARIABLE}={rounds},{seed}");
        let mut chance = Chance::new(seed);
        let watchdog = crate::support::watchdog();
        let mut daemon = Daemon::start(&format!("[functions]\nwatchdog = {watchdog:?}\n")).await;
        let directory = TemporaryDirectory::new();
        let archive = directory.path().join("notes.tar");
        let mut items = busybox();
        items.extend(["bin/cat", "bin/touch"].map(|name| Item::Link(name, "busybox")));
        items.push(Item::File("bin/note", SCRIPT.into(), 0o755));
        items.extend(libraries(watchdog));
        write_archive(&archive, IMAGE, &items, &json!({ "Cmd": ["/bin/sh"] }));
        daemon.load(&archive).await;
        let annotations =
            json!({ "topic": "cron-function", "schedule": "@every 1s", "ingle.pull-policy": "Never" });
        let tick = json!({ "image": IMAGE, "envProcess": "/bin/note", "annotations": annotations, "readOnlyRootFilesystem": true });
        daemon.ready("tick", tick).await;
        let created =
            daemon.describe("tick").await["createdAt"].as_str().expect("a time").parse::<Timestamp>();
        let created = created.expect("a time").as_second();

        for _ in 0..rounds {
            tokio::time::sleep(Duration::from_millis(300 + chance.below(2000))).await;
            daemon.end(Signal::SIGKILL);
            daemon.resume().await;
        }
        let begun = timer(&daemon).await["accepted"].as_u64().expect("a count");
        let (seen, found) = quiet(&daemon, begun + 2).await;
        let twice: Vec<_> = found.iter().filter(|(_, ids)| ids.len() > 1).collect();
        assert!(twice.is_empty(), "accepted more than once: {twice:?}");
        assert_eq!(found.len() as u64, seen["accepted"], "{seen:#}");
        let last = seen["lastRun"]["due"].as_str().expect("due").parse::<Timestamp>().expect("a time");
        let accounted =
            ["accepted", "skipped", "missedRuns"].map(|count| seen[count].as_i64().expect("a count"));
        assert_eq!(accounted.iter().sum::<i64>(), last.as_second() - created, "{seen:#}");
        println!("{accounted:?} runs accepted, left out, missed");
        daemon.remove("tick").await;
        daemon.nothing_left().await;
    });
}
