//! The daemon restarted under load, with its socket kept as systemd keeps it.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::task::LocalSet;

use crate::support::daemon::{Daemon, address, in_own_network};
use crate::support::load::{Connections, Load};

/// Restarts of the daemon.
const RESTARTS: usize = 5;
/// Calls between two of them, for each kind of clients.
const CALLS: u64 = 2_000;

#[test]
fn restarts_under_load_lose_no_call() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(LocalSet::new().run_until(async {
        let mut daemon = Daemon::bare("").await;
        daemon.keep_socket();
        daemon.resume().await;
        daemon.load(&crate::support::sample_archive()).await;
        daemon.ready("hello", json!({ "labels": { "com.openfaas.scale.min": "2" } })).await;
        let mut kept = Load::start(address(), "GET", "/function/hello", 8, Connections::Kept);
        let mut new = Load::start(address(), "GET", "/function/hello", 4, Connections::New);
        for _ in 0..RESTARTS {
            tokio::join!(kept.more(CALLS), new.more(CALLS));
            // Somebody reads along, who must not hold the restart up, and is let go in order.
            let logs = daemon.api(Method::GET, "/system/logs?name=hello&follow=true&tail=0").send().await;
            let logs = logs.expect("an answer");
            assert_eq!(logs.status(), StatusCode::OK);
            let read = tokio::task::spawn_local(logs.text());
            daemon.stop().await;
            read.await.expect("no panic").expect("a whole answer");
            daemon.resume().await;
        }
        tokio::join!(kept.more(CALLS), new.more(CALLS));
        let answered = kept.end().await + new.end().await;
        eprintln!("{RESTARTS} restarts, {answered} calls, none failed");
        assert_eq!(daemon.describe("hello").await["restarts"], serde_json::Value::Null);
    }));
}
