//! Other firewalls on the same machine.
//!
//! Our table can only forbid. A packet that passes it can still be stopped by the chains of Docker, ufw,
//! firewalld or the operator, so replicas may have no way out, or not reach the gateway, although
//! everything of ours is right. What is done about it:
//!
//! - Docker sets iptables' FORWARD policy to DROP and leaves the chain DOCKER-USER to others: two rules are
//!   put there that let the bridge's traffic through. Our own table still refuses what replicas may not reach.
//! - Every other firewall belongs to the operator: it is left alone, and a warning names the command.

use std::path::Path;

use crate::exec;

/// Something in the way of replicas' traffic, and the command that removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) problem: String,
    pub(super) remedy: String,
}

/// Lets Docker pass our traffic, and reports what is still in the way.
pub(super) async fn clear(bridge: &str, port: u16) -> Vec<Obstacle> {
    if let Some(rules) = run("iptables", &["-w", "-S"]).await
        && has_chain(&rules, "DOCKER-USER")
    {
        for missing in missing_docker_rules(&rules, bridge) {
            // One that cannot be put there is reported below.
            let _ = run("iptables", &docker_rule(&missing)).await;
        }
    }
    look(bridge, port).await
}

/// Reports what is in the way, and changes nothing.
pub(super) async fn look(bridge: &str, port: u16) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if let Some(rules) = run("iptables", &["-w", "-S"]).await {
        if has_chain(&rules, "DOCKER-USER") {
            found.extend(missing_docker_rules(&rules, bridge).iter().map(|missing| Obstacle {
                problem: "Docker's firewall stops functions from reaching the internet".into(),
                remedy: format!("iptables {}", docker_rule(missing).join(" ")),
            }));
        }
        found.extend(in_iptables(&rules, bridge, port));
    }
    if let Some(chains) = run("nft", &["-j", "list", "chains"]).await {
        for chain in dropping_chains(&chains) {
            let words = ["list", "chain", &chain.family, &chain.table, &chain.name];
            // A chain that names the bridge was adapted by the operator already.
            if run("nft", &words).await.is_some_and(|text| !text.contains(bridge)) {
                found.push(chain.obstacle(bridge, port));
            }
        }
        if chains.contains("\"table\": \"firewalld\"") && !in_trusted_zone(bridge).await {
            found.push(Obstacle {
                problem: format!("firewalld does not trust {bridge}: functions may reach nothing"),
                remedy: format!(
                    "firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload"
                ),
            });
        }
    }
    found
}

/// What a command prints, if it is there and succeeds.
async fn run(program: &str, arguments: &[&str]) -> Option<String> {
    exec::said(Path::new(program), arguments).await.ok()
}

async fn in_trusted_zone(bridge: &str) -> bool {
    let zone = run("firewall-cmd", &[&format!("--get-zone-of-interface={bridge}")]).await;
    zone.is_some_and(|zone| zone.trim() == "trusted")
}

fn has_chain(rules: &str, chain: &str) -> bool {
    rules.lines().any(|line| line == format!("-N {chain}"))
}

/// Which of our rules DOCKER-USER lacks.
fn missing_docker_rules(rules: &str, bridge: &str) -> Vec<String> {
    [
        format!("-i {bridge} -j ACCEPT"),
        format!("-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
    ]
    .into_iter()
    .filter(|rule| !rules.lines().any(|line| line == format!("-A DOCKER-USER {rule}")))
    .collect()
}

/// The arguments that put a rule into DOCKER-USER.
fn docker_rule(rule: &str) -> Vec<&str> {
    ["-w", "-I", "DOCKER-USER"].into_iter().chain(rule.split(' ')).collect()
}

/// Reads the output of `iptables -S`.
fn in_iptables(rules: &str, bridge: &str, port: u16) -> Vec<Obstacle> {
    let drops = |chain: &str| rules.lines().any(|line| line == format!("-P {chain} DROP"));
    let adapted = |chain: &str| {
        let start = format!("-A {chain} -i {bridge} ");
        rules.lines().any(|line| line.starts_with(&start) && line.ends_with("-j ACCEPT"))
    };
    let ufw = has_chain(rules, "ufw-user-input");
    let mut found = Vec::new();
    if drops("FORWARD")
        && !has_chain(rules, "DOCKER-USER")
        && !adapted("FORWARD")
        && !adapted("ufw-user-forward")
    {
        found.push(Obstacle {
            problem: "the host's firewall stops functions from reaching the internet".into(),
            remedy: if ufw {
                format!("ufw route allow in on {bridge}")
            } else {
                format!(
                    "iptables -I FORWARD -i {bridge} -j ACCEPT; \
                     iptables -I FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
                )
            },
        });
    }
    if drops("INPUT") && !adapted("INPUT") && !adapted("ufw-user-input") {
        found.push(Obstacle {
            problem: "the host's firewall stops functions from calling the gateway".into(),
            remedy: if ufw {
                format!("ufw allow in on {bridge} to any port {port} proto tcp")
            } else {
                format!("iptables -I INPUT -i {bridge} -p tcp --dport {port} -j ACCEPT")
            },
        });
    }
    found
}

/// A chain of nftables that drops what no rule of it accepts.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: String,
}

impl Chain {
    fn obstacle(&self, bridge: &str, port: u16) -> Obstacle {
        let chain = format!("{} {} {}", self.family, self.table, self.name);
        if self.hook == "forward" {
            Obstacle {
                problem: format!("the nftables chain {chain} stops functions from reaching the internet"),
                remedy: format!(
                    "nft insert rule {chain} iifname {bridge} accept; \
                     nft insert rule {chain} oifname {bridge} ct state established,related accept"
                ),
            }
        } else {
            Obstacle {
                problem: format!("the nftables chain {chain} stops functions from calling the gateway"),
                remedy: format!("nft insert rule {chain} iifname {bridge} tcp dport {port} accept"),
            }
        }
    }
}

/// Reads the output of `nft -j list chains`. The tables that iptables itself keeps are left out.
fn dropping_chains(json: &str) -> Vec<Chain> {
    let json: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    json["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| &item["chain"])
        .filter(|chain| {
            let is =
                |key: &str, words: &[&str]| chain[key].as_str().is_some_and(|word| words.contains(&word));
            is("policy", &["drop"])
                && is("hook", &["forward", "input"])
                && is("family", &["ip", "inet"])
                && !(is("family", &["ip"]) && is("table", &["filter"]) && is("name", &["FORWARD", "INPUT"]))
        })
        .map(|chain| Chain {
            family: text(chain, "family"),
            table: text(chain, "table"),
            name: text(chain, "name"),
            hook: text(chain, "hook"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_firewall_is_no_obstacle() {
        let rules = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n";
        assert_eq!(in_iptables(rules, "ingle0", 8080), []);
    }

    #[test]
    fn docker_gets_the_two_rules_once() {
        let rules = "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n\
                     -A DOCKER-USER -j RETURN\n";
        let missing = missing_docker_rules(rules, "ingle0");
        assert_eq!(missing.len(), 2);
        let after: String = missing.iter().map(|rule| format!("-A DOCKER-USER {rule}\n")).collect();
        assert_eq!(missing_docker_rules(&after, "ingle0"), [""; 0]);
        assert_eq!(in_iptables(rules, "ingle0", 8080), []);
    }

    #[test]
    fn ufw_is_named_with_its_own_commands() {
        let rules = "-P INPUT DROP\n-P FORWARD DROP\n-N ufw-user-input\n-N ufw-user-forward\n";
        let found = in_iptables(rules, "ingle0", 8080);
        assert_eq!(found[0].remedy, "ufw route allow in on ingle0");
        assert_eq!(found[1].remedy, "ufw allow in on ingle0 to any port 8080 proto tcp");
        let adapted = format!(
            "{rules}-A ufw-user-input -i ingle0 -p tcp -m tcp --dport 8080 -j ACCEPT\n\
             -A ufw-user-forward -i ingle0 -j ACCEPT\n"
        );
        assert_eq!(in_iptables(&adapted, "ingle0", 8080), []);
    }

    #[test]
    fn a_chain_of_the_operators_that_drops_is_found() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "inet", "table": "filter", "name": "forward", "type": "filter",
                       "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "filter", "name": "output", "hook": "output", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "ingle", "name": "to_host"}}]}"#;
        let chains = dropping_chains(json);
        assert_eq!(chains.len(), 1);
        let obstacle = chains[0].obstacle("ingle0", 8080);
        assert!(obstacle.remedy.starts_with("nft insert rule inet filter forward iifname ingle0 accept"));
        assert_eq!(dropping_chains("not json"), []);
    }
}
