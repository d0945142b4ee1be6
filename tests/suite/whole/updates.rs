//! Updates in a row under constant load: no call fails.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::LocalSet;

use crate::support::daemon::{Daemon, address, in_own_network};
use crate::support::load::{Connections, Load};
use crate::support::long::long;

const UPDATES: u32 = 20;
/// Calls together, at least: of the short form, which `tests/run` runs, and of the long one.
const CALLS: (u64, u64) = (4_000, 20_000);
/// Calls of each kind after each update, at least.
const BETWEEN: u64 = 10;
/// How long a load may take for those.
const PROGRESS: Duration = Duration::from_secs(10);

#[test]
fn twenty_updates_in_a_row_under_load_fail_no_call() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(LocalSet::new().run_until(async {
        let wanted = if long().is_some() { CALLS.1 } else { CALLS.0 };
        let daemon = Daemon::start("").await;
        let version = |version: u32| json!({ "envVars": { "version": version.to_string() } });
        daemon.ready("hello", version(1)).await;
        // Calls that may not be made twice too: nothing hides a replica that ended too early.
        let mut loads = Vec::new();
        for method in ["GET", "POST"] {
            for connections in [Connections::Kept, Connections::New] {
                loads.push(Load::start(address(), method, "/function/hello/env", 2, connections));
            }
        }
        // And calls that are in flight whenever a replica is taken out.
        loads.push(Load::start(address(), "POST", "/function/hello/slow?ms=100", 8, Connections::Kept));
        let began = Instant::now();
        for update in 2..=UPDATES + 1 {
            daemon.ready("hello", version(update)).await;
            let body = daemon.call("hello/env").await.1;
            assert!(body.contains(&format!("version={update}\n")), "after update {update}: {body}");
            for load in &mut loads {
                let more = tokio::time::timeout(PROGRESS, load.more(BETWEEN)).await;
                assert!(more.is_ok(), "no progress after update {update}: {load:?}");
            }
        }
        let each = wanted.div_ceil(4);
        for load in &mut loads[..4] {
            while load.answered() < each {
                let more = tokio::time::timeout(PROGRESS, load.more(BETWEEN)).await;
                assert!(more.is_ok(), "no progress: {load:?}");
            }
        }
        let mut answered = Vec::new();
        for load in loads {
            answered.push(load.end().await);
        }
        let all: u64 = answered.iter().sum();
        assert!(all >= wanted, "{answered:?}");
        println!("{UPDATES} updates in {:?}, {all} calls, none failed: {answered:?}", began.elapsed());
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    }));
}
