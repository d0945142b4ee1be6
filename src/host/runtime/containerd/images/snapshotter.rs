//! Which of containerd's snapshotters holds the layers.

use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::introspection_client::IntrospectionClient;

use super::super::client::Client;
use crate::runtime::RuntimeError;

/// Best first. What comes after the first one is slow, needs a helper, or copies every layer.
const PREFERRED: [&str; 3] = ["overlayfs", "fuse-overlayfs", "native"];

/// The snapshotter to use: the one that is `configured`, else the best one that works here.
pub(in crate::runtime::containerd) async fn detect_snapshotter(
    client: &Client,
    configured: Option<&str>,
) -> Result<String, RuntimeError> {
    let request = PluginsRequest { filters: vec!["type==io.containerd.snapshotter.v1".into()] };
    let plugins = IntrospectionClient::new(client.channel())
        .plugins(client.request(request))
        .await
        .map_err(|status| client.error("listing the snapshotters", status))?
        .into_inner()
        .plugins;
    let working =
        plugins.into_iter().filter(|plugin| plugin.init_err.is_none()).map(|plugin| plugin.id).collect();
    let chosen = choose(working, configured)?;
    if configured.is_none() && chosen != PREFERRED[0] {
        tracing::warn!(
            snapshotter = chosen,
            "containerd has no overlayfs snapshotter that works here: images take more time and disk"
        );
    }
    Ok(chosen)
}

fn choose(mut working: Vec<String>, configured: Option<&str>) -> Result<String, RuntimeError> {
    let has = |name: &str| working.iter().any(|other| other == name);
    let found = match configured {
        Some(name) => Some(name).filter(|name| has(name)),
        None => PREFERRED.into_iter().find(|name| has(name)),
    };
    if let Some(name) = found {
        return Ok(name.to_owned());
    }
    working.sort();
    let list = if working.is_empty() { "none".to_owned() } else { working.join(", ") };
    Err(RuntimeError::BadRequest(match configured {
        Some(name) => {
            format!(
                "containerd.snapshotter = {name:?}: containerd has no such snapshotter that works here; it has {list}"
            )
        }
        None => format!(
            "containerd has no snapshotter that can be used (it has {list}): load the kernel module with 'modprobe overlay' and restart containerd"
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_best_one_is_taken_and_a_missing_one_is_an_error_that_lists_the_others() {
        assert_eq!(choose(names("native btrfs overlayfs"), None).unwrap(), "overlayfs");
        assert_eq!(choose(names("native btrfs"), None).unwrap(), "native");
        assert_eq!(choose(names("native btrfs"), Some("btrfs")).unwrap(), "btrfs");
        let error = choose(names("native btrfs"), Some("zfs")).unwrap_err().to_string();
        assert!(error.contains("\"zfs\"") && error.contains("btrfs, native"), "{error}");
        assert!(choose(names("devmapper"), None).unwrap_err().to_string().contains("modprobe overlay"));
    }
}
