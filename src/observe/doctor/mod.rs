//! Looks at this machine for what keeps ingle from running, or from running well.
//!
//! What containers and the network need, their rooms look at themselves; here is what belongs to no
//! room: the kernel, the machine, the service. Nothing is changed, and nothing here needs the daemon.

pub mod exposure;
mod kernel;
mod machine;
mod service;

use std::path::Path;

use host::{network, runtime};
use model::config::Config;
use model::finding::Finding;

/// The configuration, if it can be used, and what is to be said of it.
pub fn configuration(path: &Path) -> (Option<Config>, Finding) {
    const CHECK: &str = "configuration";
    match host::config_file::load(path) {
        Ok(config) if path.exists() => (Some(config), Finding::ok(CHECK, path.display().to_string())),
        Ok(config) => {
            (Some(config), Finding::ok(CHECK, format!("there is no {}: defaults hold", path.display())))
        }
        Err(error) => {
            let remedy = format!("edit {}; then: ingle serve --check", path.display());
            (None, Finding::fault(CHECK, error.to_string(), remedy))
        }
    }
}

/// What this machine is like for a daemon with this configuration.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut found = vec![machine::user(), kernel::modules()];
    found.extend(runtime::containerd::diagnose(config).await);
    found.extend(network::cni::diagnose(config).await);
    found.extend(machine::disks(config));
    found.push(machine::memory());
    found.push(machine::clock().await);
    found.push(machine::state(&config.daemon.state_dir));
    found.extend(service::unit().await);
    found
}
