//! Runs the programs of plugins by the CNI specification.
//!
//! ADD goes through the chain in the order of the file, each plugin getting the result of the one before;
//! DEL goes the other way, over all of them whatever fails, with the result that ADD ended with.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};

use crate::exec;
use crate::network::NetworkError;
use model::function::ReplicaId;

/// How long one plugin may take. They are done in tens of milliseconds; one that waits for a lock of
/// iptables takes longer.
const LIMIT: Duration = Duration::from_secs(30);

/// One entry of the conflist that is a program.
#[derive(Debug, Clone)]
pub(super) struct Plugin {
    /// Its `type`.
    pub(super) kind: String,
    /// The program.
    pub(super) program: PathBuf,
    /// Its part of the conflist.
    pub(super) config: Map<String, Value>,
}

/// What is the same for every plugin of one replica.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    /// The network's name.
    pub(super) network: &'a str,
    /// The version of the specification.
    pub(super) version: &'a str,
    /// Where plugins look for plugins, such as that of `ipam`.
    pub(super) plugin_dir: &'a Path,
    /// The replica.
    pub(super) id: &'a ReplicaId,
    /// Its namespace; `None` when that is gone.
    pub(super) netns: Option<&'a Path>,
}

/// The interface that this daemon made, for the plugins that come after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) bridge: &'a str,
    pub(super) host_link: &'a str,
    pub(super) address: Ipv4Net,
    pub(super) gateway: Ipv4Addr,
    pub(super) mac: &'a str,
}

impl Call<'_> {
    /// Runs ADD of all `plugins`, the first with `result`, and returns the last result.
    pub(super) async fn add<'p>(
        &self,
        plugins: impl IntoIterator<Item = &'p Plugin>,
        mut result: Option<Value>,
    ) -> Result<Option<Value>, NetworkError> {
        for plugin in plugins {
            let stdout = self.run("ADD", plugin, result.as_ref()).await?;
            let parsed = serde_json::from_slice(&stdout).map_err(|error| {
                NetworkError::failed(format!("plugin {} (ADD for {})", plugin.kind, self.id), error)
            })?;
            result = Some(parsed);
        }
        Ok(result)
    }

    /// Runs DEL of all `plugins`, last first. Returns the first failure, after all were run.
    pub(super) async fn del<'p>(
        &self,
        plugins: impl DoubleEndedIterator<Item = &'p Plugin>,
        result: Option<&Value>,
    ) -> Result<(), NetworkError> {
        let mut outcome = Ok(());
        for plugin in plugins.rev() {
            outcome = outcome.and(self.run("DEL", plugin, result).await.map(drop));
        }
        outcome
    }

    async fn run(
        &self,
        command: &str,
        plugin: &Plugin,
        result: Option<&Value>,
    ) -> Result<Vec<u8>, NetworkError> {
        let mut config = plugin.config.clone();
        config.insert("name".into(), self.network.into());
        config.insert("cniVersion".into(), self.version.into());
        if let Some(result) = result {
            config.insert("prevResult".into(), result.clone());
        }
        let operation = || format!("plugin {} ({command} for {})", plugin.kind, self.id);
        let netns = self.netns.map(Path::to_string_lossy).unwrap_or_default();
        let path = self.plugin_dir.to_string_lossy();
        let environment = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", self.id.as_str()),
            ("CNI_NETNS", netns.as_ref()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", path.as_ref()),
        ];
        let input = Value::Object(config).to_string();
        let output = exec::run(&plugin.program, &[], &environment, input.as_bytes(), LIMIT)
            .await
            .map_err(|error| NetworkError::failed(operation(), error))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let reason = failure(&output.stdout).unwrap_or_else(|| exec::complaint(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        let reason = match stderr.trim() {
            "" => reason,
            said if reason.contains(said) => reason,
            said => format!("{reason}; it also said: {said}"),
        };
        Err(NetworkError::failed(operation(), reason))
    }
}

/// The error that a plugin writes to its standard output.
fn failure(stdout: &[u8]) -> Option<String> {
    let json: Value = serde_json::from_slice(stdout).ok()?;
    let message = json["msg"].as_str()?;
    let details = json["details"].as_str().filter(|details| !details.is_empty());
    Some(format!("code {}: {message}{}", json["code"], details.map(|d| format!(": {d}")).unwrap_or_default()))
}

/// The result of an interface that this daemon made.
pub(super) fn result(version: &str, netns: &Path, made: Made<'_>) -> Value {
    let mut address = json!({
        "interface": 2, "address": made.address.to_string(), "gateway": made.gateway.to_string(),
    });
    if version.starts_with("0.") {
        // Left out since 1.0.0.
        address["version"] = "4".into();
    }
    json!({
        "cniVersion": version,
        "interfaces": [
            { "name": made.bridge },
            { "name": made.host_link },
            { "name": "eth0", "mac": made.mac, "sandbox": netns },
        ],
        "ips": [address],
        "routes": [{ "dst": "0.0.0.0/0", "gw": made.gateway.to_string() }],
        "dns": {},
    })
}

/// The replica's address in the result of a plugin that made the interface.
pub(super) fn address_in(result: &Value) -> io::Result<Ipv4Addr> {
    result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip["address"].as_str()?.parse::<Ipv4Net>().ok())
        .map(|net| net.addr())
        .next()
        .ok_or_else(|| io::Error::other(format!("there is no IPv4 address in its result {result}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(directory: &Path, kind: &str, text: &str) -> Plugin {
        use std::os::unix::fs::PermissionsExt;
        let program = directory.join(kind);
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = json!({ "type": kind, "key": 1 });
        Plugin { kind: kind.into(), program, config: config.as_object().unwrap().clone() }
    }

    fn call<'a>(directory: &'a Path, id: &'a ReplicaId) -> Call<'a> {
        let netns = Some(Path::new("/run/netns/x"));
        Call { network: "net", version: "1.0.0", plugin_dir: directory, id, netns }
    }

    #[tokio::test]
    async fn each_plugin_gets_the_result_of_the_one_before_and_del_goes_back() {
        let directory = tempfile::tempdir().unwrap();
        let id = ReplicaId::from_existing("env-0000000001");
        let log = directory.path().join("log");
        let text = format!(
            "echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $(basename $0) $(cat)\" >> {log}\n\
             [ $CNI_COMMAND = DEL ] || echo \"{{\\\"by\\\":\\\"$(basename $0)\\\"}}\"",
            log = log.display()
        );
        let plugins = ["one", "two"].map(|kind| script(directory.path(), kind, &text));
        let call = call(directory.path(), &id);
        let result = call.add(&plugins, None).await.unwrap();
        assert_eq!(result, Some(json!({ "by": "two" })));
        call.del(plugins.iter(), result.as_ref()).await.unwrap();
        let log = std::fs::read_to_string(log).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        let start = "env-0000000001 /run/netns/x eth0";
        assert_eq!(
            lines,
            [
                format!(r#"ADD {start} one {{"cniVersion":"1.0.0","key":1,"name":"net","type":"one"}}"#),
                format!(
                    r#"ADD {start} two {{"cniVersion":"1.0.0","key":1,"name":"net","prevResult":{{"by":"one"}},"type":"two"}}"#
                ),
                format!(
                    r#"DEL {start} two {{"cniVersion":"1.0.0","key":1,"name":"net","prevResult":{{"by":"two"}},"type":"two"}}"#
                ),
                format!(
                    r#"DEL {start} one {{"cniVersion":"1.0.0","key":1,"name":"net","prevResult":{{"by":"two"}},"type":"one"}}"#
                ),
            ]
        );
    }

    #[tokio::test]
    async fn a_failure_carries_the_plugins_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let id = ReplicaId::from_existing("env-0000000001");
        let text = r#"echo '{"cniVersion":"1.0.0","code":7,"msg":"no luck","details":"at all"}'; echo hm >&2; exit 1"#;
        let plugins = [script(directory.path(), "bad", text), script(directory.path(), "mute", "exit 9")];
        let call = call(directory.path(), &id);
        let chain = |error: NetworkError| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", cause.unwrap_or_default())
        };
        assert_eq!(
            chain(call.add(&plugins[..1], None).await.unwrap_err()),
            "plugin bad (ADD for env-0000000001) failed: code 7: no luck: at all; it also said: hm"
        );
        assert_eq!(
            chain(call.del(plugins.iter(), None).await.unwrap_err()),
            "plugin mute (DEL for env-0000000001) failed: exit status: 9"
        );
    }

    #[test]
    fn the_address_is_read_from_a_result() {
        let made = Made {
            bridge: "ingle0",
            host_link: "ing0",
            address: "10.62.0.9/16".parse().unwrap(),
            gateway: "10.62.0.1".parse().unwrap(),
            mac: "0a:58:0a:3e:00:09",
        };
        for version in ["0.4.0", "1.0.0"] {
            let result = result(version, Path::new("/run/netns/x"), made);
            assert_eq!(address_in(&result).unwrap(), Ipv4Addr::new(10, 62, 0, 9));
            assert_eq!(result["ips"][0]["version"].is_string(), version == "0.4.0");
        }
        assert!(address_in(&json!({ "ips": [{ "address": "fd00::2/64" }] })).is_err());
    }
}
