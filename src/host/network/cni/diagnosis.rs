//! What keeps functions from their network on this machine: for `ingle doctor`. Changes nothing.

use std::path::Path;

use super::conflist::{Bridge, Conflist};
use super::files::Resolvers;
use super::netlink::Netlink;
use super::{host_firewall, subnet_conflict};
use crate::exec;
use model::config::Config;
use model::finding::Finding;

const CONFLIST: &str = "network configuration";
const SUBNET: &str = "subnet";
const FORWARDING: &str = "forwarding";
const FIREWALL: &str = "firewall";
const RESOLVERS: &str = "name resolution";

/// Looks at everything that the network needs of this machine.
pub async fn diagnose(config: &Config) -> Vec<Finding> {
    let path = &config.network.conflist;
    let conflist = match Conflist::load(path, &config.network.plugin_dir) {
        Ok(conflist) => conflist,
        Err(error) => {
            let remedy =
                "correct it, or take the one in the checkout's cni/ again; then: ingle serve --check";
            return vec![Finding::fault(CONFLIST, model::error::chain(&error), remedy)];
        }
    };
    let mut found =
        vec![Finding::ok(CONFLIST, format!("{} names network {}", path.display(), conflist.name))];
    if let Some(bridge) = conflist.bridge() {
        found.push(subnet(&conflist, bridge).await);
        found.push(forwarding(bridge));
    }
    found.push(nft().await);
    if let Some(bridge) = conflist.bridge() {
        found.extend(obstacles(bridge, config.gateway.listen.port()).await);
    }
    found.push(resolvers(&config.network.resolv_conf));
    found
}

async fn subnet(conflist: &Conflist, bridge: &Bridge) -> Finding {
    let known = async {
        let netlink = Netlink::open()?;
        let ours = netlink.link(&bridge.name).await?.map(|link| link.index);
        netlink.known(ours).await
    };
    let subnet = conflist.range.subnet;
    match known.await {
        Ok(known) => match subnet_conflict::with(subnet, &known) {
            None => Finding::ok(SUBNET, format!("{subnet} on bridge {} is free for functions", bridge.name)),
            Some(reason) => Finding::fault(
                SUBNET,
                reason,
                format!("edit {}; then: systemctl restart ingle", conflist.path.display()),
            ),
        },
        Err(error) => {
            Finding::warning(SUBNET, format!("not seen: {}", model::error::chain(&error)), "ip route")
        }
    }
}

/// Something else on the host may switch it off again.
fn forwarding(bridge: &Bridge) -> Finding {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if text("/proc/sys/net/ipv4/ip_forward").trim() == "1" {
        return Finding::ok(FORWARDING, "this host passes packets of functions on");
    }
    if nix::net::if_::if_nametoindex(bridge.name.as_str()).is_err() {
        return Finding::ok(FORWARDING, "off; the daemon switches it on when it starts");
    }
    Finding::fault(
        FORWARDING,
        "net.ipv4.ip_forward is 0: functions cannot reach the internet",
        "sysctl -w net.ipv4.ip_forward=1; grep -r ip_forward /etc/sysctl.conf /etc/sysctl.d shows who switches it off",
    )
}

async fn nft() -> Finding {
    match exec::version(Path::new("nft")).await {
        Ok(version) => Finding::ok("nftables", version),
        Err(reason) => {
            Finding::fault("nftables", format!("nft does not run: {reason}"), "apt-get install nftables")
        }
    }
}

async fn obstacles(bridge: &Bridge, port: u16) -> Vec<Finding> {
    let found = host_firewall::look(&bridge.name, port).await;
    if found.is_empty() {
        return vec![Finding::ok(FIREWALL, "no other firewall stops functions")];
    }
    found.into_iter().map(|o| Finding::warning(FIREWALL, o.problem, o.remedy)).collect()
}

fn resolvers(fallback: &Path) -> Finding {
    let servers = Resolvers::read(fallback).servers;
    if servers.is_empty() {
        return Finding::warning(
            RESOLVERS,
            "functions can look up no names: this host has no resolver that they can reach",
            format!("echo 'nameserver 9.9.9.9' >> {}; systemctl restart ingle", fallback.display()),
        );
    }
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    Finding::ok(RESOLVERS, format!("functions ask {}", servers.join(", ")))
}
