//! What clients ask for until the disk stops, and what they were answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::world::{LONG, World};
use crate::support::daemon::SAMPLE;

/// Clients of each kind; 64 in all.
const CLIENTS: [(Kind, usize); 3] = [(Kind::Made, 38), (Kind::Held, 16), (Kind::Long, 4)];
const NAMESPACES: usize = 2;
/// Functions that are deployed in a round at most: each is a container.
const DEPLOYED: usize = 2;
/// Calls of a function that are listed.
const LISTED: usize = 1000;
/// Held calls at most that a client queues in a round: all that are held have room in a list.
const HELD: usize = 4;

/// The functions that are there all the time.
pub(super) const FUNCTIONS: [&str; 3] = ["hello", "held", "tick"];

/// What a client queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Calls that are made at once.
    Made,
    /// Calls of a queue that is paused; every fourth is cancelled.
    Held,
    /// The same with bodies that have files.
    Long,
}

impl Kind {
    pub(super) fn function(self) -> &'static str {
        if self == Self::Made { "hello" } else { "held" }
    }
}

/// The end of a call, as the API said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) status: String,
    /// A change was acknowledged that was asked for after that. The API shows rows as soon as they are applied, and
    /// acknowledges changes when they are on disk with all before them: before, the end may not be there.
    pub(super) recorded: bool,
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) round: u32,
    pub(super) accepted: BTreeMap<String, Kind>,
    /// Calls that have ended, as the API said.
    pub(super) ended: BTreeMap<String, End>,
    /// Calls that came back although the API had shown their end.
    pub(super) shown_too_early: usize,
    /// Calls of which nobody knows whether they were cancelled.
    pub(super) perhaps_cancelled: BTreeSet<String>,
    /// Names and whether they are there; those of which nobody knows are left out.
    pub(super) functions: BTreeMap<String, bool>,
    pub(super) namespaces: BTreeMap<String, bool>,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = |names: &BTreeMap<String, bool>| names.values().filter(|there| **there).count();
        write!(
            f,
            "{} calls accepted, {} ended, {} shown as ended and not, {} functions there, {} gone, {} namespaces there, {} gone",
            self.accepted.len(),
            self.ended.len(),
            self.shown_too_early,
            there(&self.functions),
            self.functions.len() - there(&self.functions),
            there(&self.namespaces),
            self.namespaces.len() - there(&self.namespaces),
        )
    }
}

/// The body of a call.
pub(super) fn body(id: &str, kind: Kind) -> String {
    if kind == Kind::Long { id.repeat(LONG / id.len()) } else { id.to_owned() }
}

/// Asks until nobody answers.
pub(super) async fn run(world: &World) {
    world.truth.borrow_mut().round += 1;
    let queue = CLIENTS.iter().flat_map(|(kind, count)| (0..*count).map(|client| (*kind, client)));
    let queue = join_all(queue.map(|(kind, client)| calls(world, kind, client)));
    let namespaces = join_all((0..NAMESPACES).map(|client| namespaces(world, client)));
    let lists = join_all(FUNCTIONS.map(|name| list(world, name)));
    tokio::join!(queue, namespaces, functions(world), lists);
}

async fn calls(world: &World, kind: Kind, client: usize) {
    let round = world.truth.borrow().round;
    for number in 0.. {
        if kind != Kind::Made && number == HELD {
            return;
        }
        let id = format!("{kind:?}-{round}-{client}-{number}").to_lowercase();
        let url = world.daemon.url(&format!("/async-function/{}/echo", kind.function()));
        let mut call = world.daemon.client.post(url).header("X-Call-Id", &id).body(body(&id, kind));
        if kind != Kind::Made {
            call = call.header("X-Keep-Result", "1h");
        }
        let Ok(answer) = call.send().await else { return };
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        world.truth.borrow_mut().accepted.insert(id.clone(), kind);
        if kind != Kind::Held || number % 4 != 1 {
            continue;
        }
        let cancelled = world.api(Method::DELETE, &format!("/system/calls/{id}")).send().await;
        let mut truth = world.truth.borrow_mut();
        match cancelled.map(|answer| answer.status()) {
            Ok(StatusCode::ACCEPTED) => {
                truth.ended.insert(id, End { status: "cancelled".to_owned(), recorded: true });
            }
            Ok(status) => panic!("cancelling {id}: {status}"),
            Err(_) => {
                truth.perhaps_cancelled.insert(id);
                return;
            }
        }
    }
}

/// Notes what the API says has ended.
async fn list(world: &World, function: &str) {
    for number in 0.. {
        let path = format!("/system/calls?function={function}&limit={LISTED}");
        let Ok(answer) = world.api(Method::GET, &path).send().await else { return };
        let Ok(listed) = answer.json::<Vec<Value>>().await else { return };
        let mut shown = Vec::new();
        for call in listed.iter().filter(|call| !call["endedAt"].is_null()) {
            let text = |field: &str| call[field].as_str().expect("text").to_owned();
            let mut truth = world.truth.borrow_mut();
            truth.ended.entry(text("callId")).or_insert(End { status: text("status"), recorded: false });
            shown.push(text("callId"));
        }
        let path = format!("/system/queues/mark-{function}");
        let mark = world.api(Method::PUT, &path).json(&json!({ "paused": number % 2 == 0 })).send().await;
        let Ok(answer) = mark else { return };
        assert_eq!(answer.status(), StatusCode::OK);
        let mut truth = world.truth.borrow_mut();
        for id in shown {
            if let Some(end) = truth.ended.get_mut(&id) {
                end.recorded = true;
            }
        }
    }
}

/// Makes a namespace, and removes the one before.
async fn namespaces(world: &World, client: usize) {
    let round = world.truth.borrow().round;
    for number in 0.. {
        let name = |number: usize| format!("ns-{round}-{client}-{number}");
        let path = format!("/system/namespace/{}", name(number));
        let made = world.api(Method::POST, &path).json(&json!({ "name": name(number) })).send().await;
        let Ok(answer) = made else { return };
        assert_eq!(answer.status(), StatusCode::CREATED);
        world.truth.borrow_mut().namespaces.insert(name(number), true);
        if number % 2 == 1 {
            let gone = name(number - 1);
            let known = world.truth.borrow_mut().namespaces.remove(&gone);
            assert_eq!(known, Some(true));
            let path = format!("/system/namespace/{gone}");
            let Ok(answer) = world.api(Method::DELETE, &path).send().await else { return };
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            world.truth.borrow_mut().namespaces.insert(gone, false);
        }
    }
}

/// Removes the functions of the rounds before, and deploys others, one after the other.
async fn functions(world: &World) {
    let round = world.truth.borrow().round;
    let there = |(name, there): (&String, &bool)| {
        (*there && !FUNCTIONS.contains(&name.as_str())).then(|| name.clone())
    };
    let mut before: Vec<String> = world.truth.borrow().functions.iter().filter_map(there).collect();
    for number in 0.. {
        if number < DEPLOYED {
            let name = format!("fn-{round}-{number}");
            let body = json!({
                "service": name, "image": SAMPLE, "annotations": { "ingle.pull-policy": "Never" },
                "envVars": { "LONG": "x".repeat(if number == 0 { 0 } else { LONG }) },
            });
            let deployed = world.api(Method::POST, "/system/functions").json(&body).send().await;
            let Ok(answer) = deployed else { return };
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            world.truth.borrow_mut().functions.insert(name, true);
        }
        let Some(gone) = before.pop() else { if number < DEPLOYED { continue } else { return } };
        world.truth.borrow_mut().functions.remove(&gone);
        let body = json!({ "functionName": gone });
        let removed = world.api(Method::DELETE, "/system/functions").json(&body).send().await;
        let Ok(answer) = removed else { return };
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "removing {gone}");
        world.truth.borrow_mut().functions.insert(gone, false);
    }
}
