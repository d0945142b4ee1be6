//! Exposure of the API to other machines.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use host::network::cni::Cni;
use model::config::Config;
use model::finding::Finding;
use model::wire;

const CHECK: &str = "api";

/// Checks whether the admin listener is the daemon's, and whether other machines can reach the API in plain HTTP.
/// `daemon` is the daemon's answer, if there is one.
pub async fn api(config: &Config, daemon: Option<&wire::Info>) -> Finding {
    if let Some(address) = config.gateway.admin_listen
        && let Some(fault) = admin(address, daemon.map(|info| info.admin_listen.as_deref())).await
    {
        return fault;
    }
    // The bridge is reached by this machine and by functions, which are refused the API.
    judge(config, Cni::bridge_address(&config.network).map(IpAddr::from))
}

/// Returns a fault if the daemon does not listen on `address`. `bound` is what the daemon says of its admin
/// listener; older daemons say nothing.
async fn admin(address: SocketAddr, bound: Option<Option<&str>>) -> Option<Finding> {
    let is_own = match bound {
        Some(Some(bound)) => bound == address.to_string(),
        Some(None) => return None,
        None => false,
    };
    if is_own {
        return None;
    }
    let port = format!("sport = :{}", address.port());
    let listed = host::exec::said(Path::new("ss"), &["-Hltnp", &port]).await;
    let owner = listed.as_deref().ok().and_then(owner);
    // While the daemon is stopped, systemd keeps its socket, or a program of another user takes the port.
    let is_root =
        |pid: u32| std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == 0);
    if bound.is_none() && owner.is_none_or(|(_, pid)| is_root(pid)) {
        return None;
    }
    let other = owner.map_or_else(String::new, |(name, pid)| format!(", but {name} (process {pid}) does"));
    Some(Finding::fault(
        CHECK,
        format!("the daemon does not listen on {address}, which is gateway.admin_listen{other}"),
        format!(
            "ss -ltnp '{port}'; end what listens there, or set gateway.admin_listen; then: systemctl restart ingle. \
            Send no password to that port"
        ),
    ))
}

/// Returns the name and id of the first process in a list of `ss`, in which only root sees processes of others.
fn owner(listed: &str) -> Option<(&str, u32)> {
    let (name, rest) = listed.split_once("users:((\"")?.1.split_once("\",pid=")?;
    Some((name, rest.split(',').next()?.parse().ok()?))
}

fn judge(config: &Config, bridge: Option<IpAddr>) -> Finding {
    let gateway = &config.gateway;
    let public = gateway.public_api.then_some((gateway.listen, "gateway.public_api = false"));
    let admin = gateway.admin_listen.map(|address| (address, "gateway.admin_listen = \"127.0.0.1:8081\""));
    let open = public.into_iter().chain(admin).find(|(address, _)| {
        let ip = address.ip().to_canonical();
        !ip.is_loopback() && Some(ip) != bridge
    });
    let Some((address, setting)) = open else {
        return Finding::ok(CHECK, "reachable only from this machine");
    };
    let text = match gateway.basic_auth {
        true => {
            format!("in plain HTTP at {address}: anyone on the network path can read the admin's password")
        }
        false => format!("without a password at {address}: anyone who can reach it controls this machine"),
    };
    Finding::warning(
        CHECK,
        text,
        format!("set {setting}, and put a proxy with TLS in front: docs/operating.md, HTTPS"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::finding::Verdict;

    #[test]
    fn a_listener_of_another_process_is_named() {
        let listed =
            "LISTEN 0 128 127.0.0.1:8081 0.0.0.0:* users:((\"python3\",pid=812,fd=3),(\"sh\",pid=9,fd=3))\n";
        assert_eq!(owner(listed), Some(("python3", 812)));
        assert_eq!(owner("LISTEN 0 128 127.0.0.1:8081 0.0.0.0:*\n"), None);
        assert_eq!(owner(""), None);
    }

    #[tokio::test]
    async fn an_admin_listener_that_the_daemon_does_not_have_is_a_fault() {
        // Nobody listens there: it cannot be bound.
        let address = "127.0.0.1:0".parse().expect("an address");
        assert_eq!(admin(address, Some(Some("127.0.0.1:0"))).await, None);
        assert_eq!(admin(address, Some(None)).await, None, "an older daemon");
        assert_eq!(admin(address, None).await, None, "no daemon");
        for bound in ["none", "127.0.0.1:1"] {
            let fault = admin(address, Some(Some(bound))).await.expect("a fault");
            assert_eq!(fault.verdict, Verdict::Fault);
            assert!(
                fault.text.contains("127.0.0.1:0") && fault.text.contains("gateway.admin_listen"),
                "{fault:?}"
            );
        }
    }

    #[test]
    fn an_api_in_plain_http_gets_a_warning_if_other_machines_reach_it() {
        for (settings, words) in [
            ("", Some(&["0.0.0.0:8080", "plain HTTP", "gateway.public_api"][..])),
            ("basic_auth = false", Some(&["without a password", "0.0.0.0:8080"])),
            ("listen = \"[::]:8080\"", Some(&["[::]:8080"])),
            ("listen = \"192.168.1.2:80\"", Some(&["192.168.1.2:80"])),
            ("public_api = false", None),
            (
                "public_api = false\nadmin_listen = \"0.0.0.0:1\"",
                Some(&["0.0.0.0:1", "gateway.admin_listen"]),
            ),
            ("listen = \"127.0.0.1:8080\"", None),
            ("listen = \"[::1]:8080\"", None),
            ("listen = \"[::ffff:127.0.0.1]:8080\"", None),
            ("listen = \"10.62.0.1:8080\"", None),
            ("listen = \"127.0.0.1:8080\"\nadmin_listen = \"none\"", None),
        ] {
            let config = Config::parse(&format!("[gateway]\n{settings}"), |_| None).expect("settings");
            let finding = judge(&config, Some([10, 62, 0, 1].into()));
            match words {
                None => assert_eq!(finding.verdict, Verdict::Ok, "{settings}: {finding:?}"),
                Some(words) => {
                    assert_eq!(finding.verdict, Verdict::Warning, "{settings}: {finding:?}");
                    let text = format!("{} {}", finding.text, finding.remedy.unwrap_or_default());
                    assert!(words.iter().all(|word| text.contains(word)), "{settings}: {text}");
                }
            }
        }
    }
}
