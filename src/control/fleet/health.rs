//! Keeps asking a replica with a health probe whether it still can serve.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::command::Command;
use crate::replica;
use directory::Endpoint;
use model::function::Probe;

/// Asks until `cancel` is set; tells the owner when the probe has failed too often in a row, and ends.
pub(super) async fn watch(
    endpoint: Arc<Endpoint>,
    probe: Probe,
    owner: mpsc::Sender<Command>,
    cancel: CancellationToken,
) {
    let asking = async {
        sleep(probe.initial_delay).await;
        let mut failures = 0;
        loop {
            sleep(probe.period).await;
            match ask(&endpoint, &probe).await {
                Ok(()) => failures = 0,
                Err(reason) => {
                    failures += 1;
                    if failures >= probe.failure_threshold {
                        return format!("failed its health probe {failures} times: {reason}");
                    }
                }
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        reason = asking => {
            // The owner may be gone, and the replica with it.
            let _ = owner.send(Command::Unhealthy { id: endpoint.id.clone(), reason }).await;
        }
    }
}

async fn ask(endpoint: &Endpoint, probe: &Probe) -> Result<(), String> {
    let path = &probe.path;
    let answer = timeout(probe.timeout, async {
        let stream = TcpStream::connect(endpoint.address).await.map_err(|error| error.to_string())?;
        replica::get(stream, endpoint.address, path).await
    });
    match answer.await {
        Ok(Ok(status)) if replica::is_healthy(status) => Ok(()),
        Ok(Ok(status)) => Err(format!("GET {path} answered {status}")),
        Ok(Err(error)) => Err(format!("GET {path} failed: {error}")),
        Err(_) => Err(format!("GET {path} took over {:?}", probe.timeout)),
    }
}
