//! A function as its owner would publish it, without one.

use std::sync::Arc;
use std::time::Duration;

use directory::{Endpoint, Phase, View};
use model::function::FunctionSpec;
use model::wire::Deployment;

/// A view of the function `name` with these replicas: ready if there are any, else starting.
pub(crate) fn view(name: &str, endpoints: Vec<Arc<Endpoint>>) -> View {
    let deployment =
        Deployment { service: name.to_owned(), image: "example/image:1".to_owned(), ..Default::default() };
    let spec = FunctionSpec::try_from(&deployment).expect("a valid deployment");
    View {
        deployment: Arc::new(deployment),
        spec: Arc::new(spec),
        revision: 1,
        phase: if endpoints.is_empty() { Phase::Starting } else { Phase::Ready },
        reason: None,
        update: None,
        progress: None,
        endpoints,
        desired: 1,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        image_digest: None,
        restarts: 0,
        oom_kills: 0,
        default_memory: None,
        last_exit: None,
        revisions: Arc::default(),
        retry_at: None,
        crash_looping: false,
        timeout: Duration::from_secs(60),
        body_limit: 100 << 20,
    }
}
