//! What keeps containers from running on this machine: for `ingle doctor`. Changes nothing.

use std::path::Path;
use std::time::Duration;

use super::cgroup::Hierarchies;
use super::client::Client;
use super::{capabilities, check_version, images, version};
use crate::exec;
use model::config::{self, Config};
use model::finding::Finding;

const CONTAINERD: &str = "containerd";
const SNAPSHOTTER: &str = "snapshotter";
const OCI_RUNTIME: &str = "OCI runtime";
const CGROUPS: &str = "control groups";
/// How long containerd may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Looks at everything that containers need of this machine.
pub async fn diagnose(config: &Config) -> Vec<Finding> {
    let mut found = containerd(config).await;
    found.push(oci_runtime(&config.containerd.oci_runtime).await);
    found.push(match Hierarchies::detect() {
        Ok(hierarchies) => control_groups(&hierarchies),
        Err(error) => Finding::warning(CGROUPS, format!("not seen: {error}"), "mount | grep cgroup"),
    });
    if let Err(error) = capabilities(&config.functions.capabilities) {
        found.push(Finding::fault("capabilities", error.to_string(), "correct functions.capabilities"));
    }
    found
}

async fn containerd(config: &Config) -> Vec<Finding> {
    let config::Containerd { socket, namespace, snapshotter, .. } = &config.containerd;
    let ask = async {
        let client = Client::new(socket, namespace)?;
        let version = version(&client).await?;
        check_version(&version)?;
        let snapshotter = images::detect_snapshotter(&client, snapshotter.as_deref()).await;
        Ok::<_, crate::runtime::RuntimeError>((version, snapshotter))
    };
    let remedy = format!("systemctl start containerd; journalctl -u containerd -n 50; {}", access(socket));
    match tokio::time::timeout(ANSWER_WITHIN, ask).await {
        Ok(Ok((version, snapshotter))) => vec![
            Finding::ok(CONTAINERD, format!("{version} at {}", socket.display())),
            match snapshotter {
                Ok(name) => Finding::ok(SNAPSHOTTER, name),
                Err(error) => Finding::fault(
                    SNAPSHOTTER,
                    model::error::chain(&error),
                    "ctr plugins ls; containerd.snapshotter names another",
                ),
            },
        ],
        Ok(Err(error)) => vec![Finding::fault(CONTAINERD, model::error::chain(&error), remedy)],
        Err(_) => {
            let text = format!("does not answer at {} within {ANSWER_WITHIN:?}", socket.display());
            vec![Finding::fault(CONTAINERD, text, "systemctl restart containerd; functions run on")]
        }
    }
}

/// What else may be wrong with a socket.
fn access(socket: &Path) -> String {
    format!("containerd.socket names another than {}", socket.display())
}

async fn oci_runtime(name: &str) -> Finding {
    match exec::version(Path::new(name)).await {
        Ok(version) => Finding::ok(OCI_RUNTIME, version),
        Err(reason) => Finding::fault(
            OCI_RUNTIME,
            format!("{name} does not run: {reason}"),
            format!("apt-get install {name}, or name another as containerd.oci_runtime"),
        ),
    }
}

fn control_groups(hierarchies: &Hierarchies) -> Finding {
    let there = hierarchies.controllers();
    let missing: Vec<&str> =
        CONTROLLERS.into_iter().filter(|wanted| !there.iter().any(|name| name == wanted)).collect();
    if missing.is_empty() {
        let version = if hierarchies.unified() { "version 2" } else { "version 1" };
        return Finding::ok(CGROUPS, format!("{version}, with {}", CONTROLLERS.join(", ")));
    }
    let of_a_pi =
        std::fs::read_to_string("/proc/device-tree/model").is_ok_and(|m| m.contains("Raspberry Pi"));
    Finding::fault(
        CGROUPS,
        format!("the kernel has no controller {}: limits have no effect", missing.join(", ")),
        if of_a_pi {
            "add cgroup_enable=memory cgroup_memory=1 to the one line of /boot/firmware/cmdline.txt, and reboot"
                .to_owned()
        } else {
            format!("start the kernel with cgroup_enable={}", missing.join(","))
        },
    )
}
