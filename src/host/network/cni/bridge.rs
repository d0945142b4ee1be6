//! The bridge, and the link from it to each replica.
//!
//! Ports are isolated: the kernel forwards no frame from one to another, so replicas share an Ethernet
//! with the host only. What they send through the host is up to [`super::rules`].

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

use super::conflist::{Bridge, Range};
use super::netlink::{Link, Mac, Netlink, Veth};
use crate::network::NetworkError;
use crate::private_file::if_there;

/// The index of `lo` in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// The hardware address of whoever has `address`. Derived, so that it is known without asking.
pub(super) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    // Bit 1 of the first byte: given locally, not by a manufacturer.
    [0x0a, 0x58, a, b, c, d]
}

/// The name of the host's end of the link to the replica whose namespace is called `netns`, in the
/// network marked `tag`. Links' names have 15 bytes at most, so it is a hash; IFALIAS has the full name.
pub(super) fn host_link(tag: &str, netns: &str) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = |text: &str, length: usize| -> String {
        let digest = Sha256::digest(text.as_bytes());
        digest[..length].iter().map(|byte| char::from(LETTERS[usize::from(byte & 31)])).collect()
    };
    format!("ing{}{}", hash(tag, 3), hash(netns, 9))
}

/// Makes sure that the bridge is there, is ours, and is as the conflist wants it. Returns its index.
pub(super) async fn ensure(
    netlink: &Netlink,
    bridge: &Bridge,
    tag: &str,
    range: &Range,
    mtu: u32,
) -> Result<u32, NetworkError> {
    let name = &bridge.name;
    let failed = |error| NetworkError::failed(format!("setting up the bridge {name}"), error);
    let link = match netlink.link(name).await.map_err(failed)? {
        Some(link) => {
            check_ours(netlink, &link, tag).await?;
            link
        }
        None => {
            netlink.add_bridge(name, mac_of(range.gateway)).await.map_err(failed)?;
            netlink.link(name).await.map_err(failed)?.ok_or_else(|| {
                NetworkError::failed(format!("setting up the bridge {name}"), "it vanished once it was made")
            })?
        }
    };
    if link.alias != tag || link.mtu != mtu {
        netlink.set_link(link.index, tag, mtu).await.map_err(failed)?;
    }
    set_sysctls(name).map_err(failed)?;
    let address = address_in(range, range.gateway);
    if !netlink.keep_address(link.index, address).await.map_err(failed)? {
        netlink.add_address(link.index, address).await.map_err(failed)?;
    }
    netlink.up(link.index).await.map_err(failed)?;
    Ok(link.index)
}

/// Refuses a link that somebody else made: the rules would cut off whatever it is for.
async fn check_ours(netlink: &Netlink, link: &Link, tag: &str) -> Result<(), NetworkError> {
    let name = &link.name;
    let failed = |error| NetworkError::failed(format!("looking at the bridge {name}"), error);
    let refuse = |what: &str| {
        Err(NetworkError::failed(
            format!("setting up the bridge {name}"),
            format!(
                "{what}; give bridge another name in the conflist, or remove it with ip link delete {name}"
            ),
        ))
    };
    if !link.is_bridge {
        return refuse("there is a link of that name which is no bridge");
    }
    if link.alias == tag {
        return Ok(());
    }
    let links = netlink.links().await.map_err(failed)?;
    let addresses = netlink.addresses().await.map_err(failed)?;
    let in_use = !link.alias.is_empty()
        || links.iter().any(|port| port.master == Some(link.index))
        || addresses.iter().any(|(index, _)| *index == link.index);
    // One that is bare is ours from a start that was cut short before it could be marked.
    if in_use { refuse("there is a bridge of that name which this network did not make") } else { Ok(()) }
}

fn set_sysctls(bridge: &str) -> io::Result<()> {
    let sys = Path::new("/proc/sys/net");
    let v4 = sys.join("ipv4/conf").join(bridge);
    let forward = sys.join("ipv4/ip_forward");
    if fs::read_to_string(&forward)?.trim() != "1" {
        tracing::info!("switching on net.ipv4.ip_forward: functions reach the internet through this host");
        fs::write(&forward, "1")?;
    }
    fs::write(v4.join("forwarding"), "1")?;
    // Else a replica could send to the host's 127.0.0.1 with a route to it.
    fs::write(v4.join("route_localnet"), "0")?;
    // A kernel without IPv6 has none.
    if_there(fs::write(sys.join("ipv6/conf").join(bridge).join("disable_ipv6"), "1")).map(drop)
}

/// Makes the link that `veth` describes and sets up the replica's end of it.
pub(super) async fn connect(
    host: &Netlink,
    inside: &Netlink,
    veth: &Veth<'_>,
    bridge: &Bridge,
    range: &Range,
    address: Ipv4Addr,
) -> Result<(), NetworkError> {
    let name = veth.host;
    let step = |what: &str| {
        let operation = format!("{what} for {}", veth.alias);
        move |error: io::Error| NetworkError::failed(operation, error)
    };
    if let Err(error) = host.add_veth(veth).await {
        if error.kind() != io::ErrorKind::AlreadyExists || !remove_old(host, veth).await? {
            return Err(step("making the link")(error));
        }
        host.add_veth(veth).await.map_err(step("making the link"))?;
    }
    let link = host.link(name).await.map_err(step("finding the link"))?.map(|link| link.index);
    let link = link.ok_or_else(|| step("finding the link")(io::Error::other("it vanished")))?;
    host.set_port(link, veth.alias, veth.hairpin).await.map_err(step("isolating the link"))?;
    host.set_neighbour(veth.bridge, address, veth.mac).await.map_err(step("fixing the neighbour"))?;

    inside.up(LOOPBACK).await.map_err(step("switching on lo"))?;
    let peer = inside.link(veth.peer).await.map_err(step("finding the link inside"))?.map(|link| link.index);
    let peer = peer.ok_or_else(|| step("finding the link inside")(io::Error::other("it vanished")))?;
    inside.add_address(peer, address_in(range, address)).await.map_err(step("setting the address"))?;
    inside.up(peer).await.map_err(step("switching on the link inside"))?;
    for route in &bridge.routes {
        inside.add_route(route.to, route.via).await.map_err(step("setting the route"))?;
    }
    Ok(())
}

/// Removes the link of an earlier attachment of the same replica that the kernel has not yet taken apart.
async fn remove_old(host: &Netlink, veth: &Veth<'_>) -> Result<bool, NetworkError> {
    let failed = |error| NetworkError::failed(format!("removing the old link {}", veth.host), error);
    match host.link(veth.host).await.map_err(failed)? {
        // Two replicas whose hashes are the same: not to be taken from the other.
        Some(link) if !link.alias.is_empty() && link.alias != veth.alias => Ok(false),
        Some(link) => host.delete_link(link.index).await.map_err(failed).map(|()| true),
        None => Ok(true),
    }
}

/// Removes the neighbours that were fixed for replicas which are gone.
pub(super) async fn forget_neighbours(
    netlink: &Netlink,
    index: u32,
    in_use: impl Fn(Ipv4Addr) -> bool,
) -> io::Result<()> {
    // An address is in use before its neighbour is fixed, so asking after the listing is right.
    for address in netlink.neighbours(index).await? {
        if !in_use(address) {
            netlink.delete_neighbour(index, address).await?;
        }
    }
    Ok(())
}

/// Puts back what replicas lost when the bridge was taken away under them: their links are still there,
/// but are ports of nothing. `address_of` knows a replica's address by what is written on its link.
pub(super) async fn repair_ports(
    netlink: &Netlink,
    index: u32,
    prefix: &str,
    hairpin: bool,
    address_of: impl Fn(&str) -> Option<Ipv4Addr>,
) -> io::Result<()> {
    for link in netlink.links().await? {
        if link.alias.starts_with(prefix) && link.master != Some(index) {
            tracing::warn!(
                link = link.name,
                replica = link.alias,
                "connecting a function's link to the bridge again"
            );
            netlink.set_master(link.index, index).await?;
            netlink.set_port(link.index, &link.alias, hairpin).await?;
            if let Some(address) = address_of(&link.alias) {
                netlink.set_neighbour(index, address, mac_of(address)).await?;
            }
        }
    }
    Ok(())
}

/// An address with the length of the subnet that it is in.
pub(super) fn address_in(range: &Range, address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(address, range.subnet.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_fit_and_differ() {
        let name = host_link("ingle", "ingle.env-0000000001");
        assert_eq!(name.len(), 15);
        assert!(name.starts_with("ing"));
        assert_ne!(name, host_link("ingle", "ingle.env-0000000002"));
        assert_ne!(name[..6], host_link("ingle-b", "x")[..6]);
    }

    #[test]
    fn hardware_addresses_are_local_and_unicast() {
        let mac = mac_of(Ipv4Addr::new(10, 62, 0, 9));
        assert_eq!(mac[0] & 0b11, 0b10);
        assert_eq!(mac[2..], [10, 62, 0, 9]);
    }
}
