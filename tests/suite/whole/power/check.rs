//! What of that which was acknowledged is there after a cut.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::load::{FUNCTIONS, Kind, body};
use super::world::World;

/// Rounds back that calls are looked for after each cut; of all, at the end.
const ROUNDS: u32 = 3;
/// Faults of one kind that are named.
const NAMED: usize = 5;

/// Everything that can be told at once.
pub(super) async fn all(world: &World) -> Vec<String> {
    let mut faults = names(world).await;
    let since = world.truth.borrow().round.saturating_sub(ROUNDS);
    let recent = |id: &str| {
        id.split('-').nth(1).and_then(|round| round.parse().ok()).is_none_or(|round: u32| round > since)
    };
    faults.extend(calls(world, recent).await);
    for name in FUNCTIONS {
        let mut last = String::new();
        for _ in 0..100 {
            let (status, text) = world.daemon.call(&format!("{name}/echo")).await;
            last = format!("{status} {text}");
            if status == StatusCode::OK {
                break;
            }
            tokio::time::sleep(crate::support::POLL).await;
        }
        if !last.starts_with("200") {
            faults.push(format!("function {name} does not serve: {last}"));
        }
    }
    faults
}

/// Functions and namespaces.
async fn names(world: &World) -> Vec<String> {
    let listed = world.get("/system/functions").await;
    let functions: Vec<&str> =
        listed.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    let found = world.get("/system/namespaces").await;
    let namespaces: Vec<&str> = found.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut truth = world.truth.borrow_mut();
    // Those of which nobody knew are there, as it turns out.
    for name in &functions {
        truth.functions.entry((*name).to_owned()).or_insert(true);
    }
    let mut faults = Vec::new();
    for (kind, known, found) in
        [("function", &truth.functions, &functions), ("namespace", &truth.namespaces, &namespaces)]
    {
        for (name, there) in known {
            match (there, found.contains(&name.as_str())) {
                (true, false) => faults.push(format!("{kind} {name} was acknowledged, and is lost")),
                (false, true) => faults.push(format!("{kind} {name} was removed, and is there again")),
                _ => {}
            }
        }
    }
    faults
}

/// Calls whose id is `meant`. Those that are wrong are told once.
async fn calls(world: &World, meant: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = BTreeMap::new();
    for function in FUNCTIONS {
        let listed = world.get(&format!("/system/calls?function={function}&limit=1000")).await;
        for call in listed.as_array().into_iter().flatten() {
            let text = |field: &str| call[field].as_str().unwrap_or_default().to_owned();
            found.insert(text("callId"), text("status"));
        }
    }
    let (accepted, ended) = {
        let truth = world.truth.borrow();
        let ids = |ids: Vec<&String>| ids.into_iter().filter(|id| meant(id)).cloned().collect::<Vec<_>>();
        (ids(truth.accepted.keys().collect()), ids(truth.ended.keys().collect()))
    };
    let mut faults: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let all: std::collections::BTreeSet<String> = accepted.into_iter().chain(ended).collect();
    for id in all {
        let status = match found.get(&id) {
            Some(status) => Some(status.clone()),
            None => world.get(&format!("/system/calls/{id}")).await["status"].as_str().map(str::to_owned),
        };
        let mut truth = world.truth.borrow_mut();
        let ended = truth.ended.get(&id);
        let fault = match (&status, ended) {
            (None, Some(_)) => "records of calls that had ended are lost",
            (None, None) => "accepted calls are lost",
            (Some(status), Some(ended)) if *status != ended.status && ended.recorded => {
                "calls came back whose end was on disk"
            }
            (Some(status), Some(ended)) if *status != ended.status => {
                truth.shown_too_early += 1;
                truth.ended.remove(&id);
                continue;
            }
            (Some(status), None) if status == "cancelled" && !truth.perhaps_cancelled.contains(&id) => {
                "calls were cancelled by nobody"
            }
            _ => continue,
        };
        faults.entry(fault).or_default().push(format!("{id} ({})", status.as_deref().unwrap_or("unknown")));
        truth.accepted.remove(&id);
        truth.ended.remove(&id);
    }
    let fault = |(fault, ids): (&str, Vec<String>)| {
        format!("{} {fault}: {} …", ids.len(), ids[..ids.len().min(NAMED)].join(", "))
    };
    faults.into_iter().map(fault).collect()
}

/// The calls of all rounds, when those that were held are made.
pub(super) async fn finally(world: &World) -> Vec<String> {
    let go_on = world.api(Method::PUT, "/system/queues/held").json(&json!({ "paused": false }));
    assert!(go_on.send().await.expect("an answer").status().is_success());
    let left = async || {
        let listed = world.get("/system/calls?status=queued&limit=1000").await;
        let running = world.get("/system/calls?status=running&limit=1000").await;
        let count = |listed: &Value, name: &str| {
            listed.as_array().into_iter().flatten().filter(|call| call["name"] != name).count()
        };
        count(&listed, "tick") + count(&running, "tick")
    };
    eventually!(within 120, left().await == 0, "{} calls are left", left().await);
    let mut faults = calls(world, |_| true).await;
    let held: Vec<(String, Kind)> = {
        let truth = world.truth.borrow();
        let held = truth.accepted.iter().filter(|(id, kind)| {
            **kind != Kind::Made && !truth.ended.contains_key(*id) && !truth.perhaps_cancelled.contains(*id)
        });
        held.map(|(id, kind)| (id.clone(), *kind)).collect()
    };
    for (id, kind) in &held {
        let answer =
            world.api(Method::GET, &format!("/system/calls/{id}/answer")).send().await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        if status != StatusCode::OK || text != body(id, *kind) {
            faults.push(format!(
                "{id} was answered {status} with {} bytes, which are not those that it sent",
                text.len()
            ));
        }
    }
    println!("{} calls that were held are made, as they were sent", held.len());
    faults
}
