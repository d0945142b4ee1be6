//! Finds out whether the host already uses addresses of the replicas' subnet.

use ipnet::Ipv4Net;

/// Routes for more than this are about "everything else", such as the halves of the internet that a
/// VPN puts before the default route.
const WIDEST: u8 = 8;

/// A network that the host already has, and on which link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) net: Ipv4Net,
    pub(super) link: String,
}

/// Says which of the host's networks overlaps `subnet`, if one does.
pub(super) fn with(subnet: Ipv4Net, known: &[Known]) -> Option<String> {
    known
        .iter()
        .filter(|known| known.net.prefix_len() >= WIDEST)
        .find(|known| known.net.contains(&subnet) || subnet.contains(&known.net))
        .map(|Known { net, link }| {
            format!(
                "subnet {subnet} overlaps {net}, which this host has on {link}; \
                 set subnet under ipam to a network that is free here, such as {}",
                free(known)
            )
        })
}

/// A subnet that does not clash, to propose.
fn free(known: &[Known]) -> Ipv4Net {
    (16..=31)
        .map(|n| std::net::Ipv4Addr::new(172, n, 0, 0))
        .chain((64..=250).map(|n| std::net::Ipv4Addr::new(10, n, 0, 0)))
        .map(|start| Ipv4Net::new_assert(start, 16))
        .find(|net| !known.iter().any(|k| k.net.contains(net) || net.contains(&k.net)))
        .unwrap_or_else(|| Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 62, 0, 0), 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(items: &[(&str, &str)]) -> Vec<Known> {
        items.iter().map(|(net, link)| Known { net: net.parse().unwrap(), link: (*link).into() }).collect()
    }

    #[test]
    fn a_clash_names_both_networks_and_the_way_out() {
        let subnet = "10.62.0.0/16".parse().unwrap();
        let host =
            known(&[("192.168.1.0/24", "eth0"), ("10.62.3.0/24", "wg0"), ("172.17.0.0/16", "docker0")]);
        assert_eq!(
            with(subnet, &host).unwrap(),
            "subnet 10.62.0.0/16 overlaps 10.62.3.0/24, which this host has on wg0; set subnet under ipam to a \
             network that is free here, such as 172.16.0.0/16"
        );
        assert!(with(subnet, &known(&[("10.0.0.0/8", "eth1")])).is_some());
    }

    #[test]
    fn routes_for_everything_do_not_clash() {
        let subnet = "10.62.0.0/16".parse().unwrap();
        assert_eq!(with(subnet, &known(&[("0.0.0.0/0", "eth0"), ("0.0.0.0/1", "tun0")])), None);
    }
}
