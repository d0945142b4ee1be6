//! Who reaches the API.

use std::net::IpAddr;

use host::network::cni::Cni;
use model::config::Config;
use model::finding::Finding;

const CHECK: &str = "api";

/// Whether other machines reach the API, which speaks plain HTTP.
pub(super) fn api(config: &Config) -> Finding {
    // On the bridge there are functions, which get no API, and this machine.
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
        return Finding::ok(CHECK, "for this machine alone");
    };
    let text = match gateway.basic_auth {
        true => format!("in plain HTTP at {address}: whoever is on the way reads the admin's password"),
        false => format!("without a password at {address}: whoever reaches it has this machine"),
    };
    Finding::warning(CHECK, text, format!("{setting}, and a proxy with TLS: docs/operating.md, HTTPS"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::finding::Verdict;

    #[test]
    fn an_api_in_plain_http_is_warned_of_where_other_machines_reach_it() {
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
