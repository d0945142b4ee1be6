//! Exposure of the API to other machines.

use std::net::IpAddr;

use host::network::cni::Cni;
use model::config::Config;
use model::finding::Finding;

const CHECK: &str = "api";

/// Checks whether other machines can reach the API in plain HTTP.
pub(super) fn api(config: &Config) -> Finding {
    // The bridge is reached by this machine and by functions, which are refused the API.
    judge(config, Cni::bridge_address(&config.network).map(IpAddr::from))
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
