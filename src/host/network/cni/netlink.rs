//! The kernel's links, addresses and routes, in the namespace that a socket was opened in.
//!
//! A netlink socket belongs for ever to the namespace of the thread that opened it: so namespaces are
//! entered only to open one, on a thread that then ends ([`super::netns`]), and the work is done here,
//! wherever the runtime likes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use tokio::task::JoinHandle;

use super::subnet_conflict::Known;
use crate::private_file::if_there;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// One socket; closed when this is dropped, so that it does not keep its namespace alive.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A link as listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// What was written on it: IFALIAS.
    pub(super) alias: String,
    /// The bridge it is a port of.
    pub(super) master: Option<u32>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) is_bridge: bool,
}

/// A way out of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownRoute {
    pub(super) to: Ipv4Net,
    pub(super) link: u32,
    pub(super) priority: u32,
}

/// A pair of links to be made.
#[derive(Debug)]
pub(super) struct Veth<'a> {
    /// The end on the host.
    pub(super) host: &'a str,
    /// What is written on that end.
    pub(super) alias: &'a str,
    /// The bridge it becomes a port of.
    pub(super) bridge: u32,
    pub(super) hairpin: bool,
    /// The end in the replica.
    pub(super) peer: &'a str,
    /// Its hardware address.
    pub(super) mac: Mac,
    /// The replica's namespace.
    pub(super) netns: BorrowedFd<'a>,
    pub(super) mtu: u32,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread, which must be inside of a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _unsolicited) = rtnetlink::new_connection()?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// The link called `name`.
    pub(super) async fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let mut found = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        match found.try_next().await.map_err(io_error) {
            Ok(link) => Ok(link.map(read_link)),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every link.
    pub(super) async fn links(&self) -> io::Result<Vec<Link>> {
        self.handle.link().get().execute().map_ok(read_link).try_collect().await.map_err(io_error)
    }

    /// Every IPv4 address, with the index of its link.
    pub(super) async fn addresses(&self) -> io::Result<Vec<(u32, Ipv4Net)>> {
        let messages: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(io_error)?;
        Ok(messages
            .iter()
            .filter_map(|message| Some((message.header.index, read_address(message)?)))
            .collect())
    }

    /// Every IPv4 route of the main table that leads to a link.
    pub(super) async fn routes(&self) -> io::Result<Vec<KnownRoute>> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages: Vec<_> =
            self.handle.route().get(all).execute().try_collect().await.map_err(io_error)?;
        Ok(messages.iter().filter_map(read_route).collect())
    }

    /// What the host uses already, except on the link `except`.
    pub(super) async fn known(&self, except: Option<u32>) -> io::Result<Vec<Known>> {
        let names: HashMap<u32, String> =
            self.links().await?.into_iter().map(|link| (link.index, link.name)).collect();
        let addresses = self.addresses().await?.into_iter().map(|(link, net)| (link, net.trunc()));
        let routes = self.routes().await?.into_iter().map(|route| (route.link, route.to));
        Ok(addresses
            .chain(routes)
            .filter(|(link, _)| Some(*link) != except)
            .map(|(link, net)| Known {
                net,
                link: names.get(&link).cloned().unwrap_or_else(|| format!("link {link}")),
            })
            .collect())
    }

    /// The MTU of the link that the default route leads to.
    pub(super) async fn uplink_mtu(&self) -> io::Result<Option<u32>> {
        let routes = self.routes().await?;
        let default = routes.iter().filter(|route| route.to.prefix_len() == 0).min_by_key(|r| r.priority);
        let Some(default) = default else { return Ok(None) };
        let links = self.links().await?;
        Ok(links.into_iter().find(|link| link.index == default.link).map(|link| link.mtu))
    }

    /// Makes a bridge.
    pub(super) async fn add_bridge(&self, name: &str, mac: Mac) -> io::Result<()> {
        let message = LinkBridge::new(name)
            .down()
            // An address of its own: else the bridge takes the lowest of its ports', which come and go.
            .address(mac.to_vec())
            .forward_delay(0)
            .mcast_snooping(false)
            .build();
        self.handle.link().add(message).execute().await.map_err(io_error)
    }

    /// Writes `alias` on a link, and sets its MTU.
    pub(super) async fn set_link(&self, index: u32, alias: &str, mtu: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).alias(alias).mtu(mtu).build();
        self.handle.link().change(message).execute().await.map_err(io_error)
    }

    /// Switches a link on.
    pub(super) async fn up(&self, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().change(message).execute().await.map_err(io_error)
    }

    /// Gives a link an address.
    pub(super) async fn add_address(&self, index: u32, net: Ipv4Net) -> io::Result<()> {
        let request = self.handle.address().add(index, IpAddr::V4(net.addr()), net.prefix_len());
        request.execute().await.map_err(io_error)
    }

    /// Takes all IPv4 addresses but `keep` from a link; says whether `keep` was there.
    pub(super) async fn keep_address(&self, index: u32, keep: Ipv4Net) -> io::Result<bool> {
        let mut there = false;
        let request = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<_> = request.execute().try_collect().await.map_err(io_error)?;
        for message in messages {
            match read_address(&message) {
                Some(net) if net == keep => there = true,
                Some(_) => self.handle.address().del(message).execute().await.map_err(io_error)?,
                None => {}
            }
        }
        Ok(there)
    }

    /// Adds a route by way of `via`.
    pub(super) async fn add_route(&self, to: Ipv4Net, via: Ipv4Addr) -> io::Result<()> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.addr(), to.prefix_len())
            .gateway(via)
            .build();
        self.handle.route().add(message).execute().await.map_err(io_error)
    }

    /// Fixes which hardware address is behind an address: nothing needs to ask for it, and nothing that
    /// claims it is believed.
    pub(super) async fn set_neighbour(&self, link: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        let request = self.handle.neighbours().add(link, IpAddr::V4(address));
        request.link_layer_address(&mac).replace().execute().await.map_err(io_error)
    }

    /// The addresses whose neighbours on a link are fixed.
    pub(super) async fn neighbours(&self, link: u32) -> io::Result<Vec<Ipv4Addr>> {
        let messages: Vec<_> =
            self.handle.neighbours().get().execute().try_collect().await.map_err(io_error)?;
        Ok(messages
            .iter()
            .filter(|message| {
                message.header.ifindex == link && message.header.state == NeighbourState::Permanent
            })
            .flat_map(|message| &message.attributes)
            .filter_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
                _ => None,
            })
            .collect())
    }

    /// Forgets what [`Netlink::set_neighbour`] fixed; that it is gone already is success.
    pub(super) async fn delete_neighbour(&self, link: u32, address: Ipv4Addr) -> io::Result<()> {
        let mut request = self.handle.neighbours().add(link, IpAddr::V4(address));
        let message = std::mem::take(request.message_mut());
        let outcome = self.handle.neighbours().del(message).execute().await;
        if_there(outcome.map_err(io_error)).map(drop)
    }

    /// Makes a pair of links, one end of it in the replica's namespace.
    pub(super) async fn add_veth(&self, veth: &Veth<'_>) -> io::Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.peer)
            .mtu(veth.mtu)
            .address(veth.mac.to_vec())
            .setns_by_fd(veth.netns.as_raw_fd())
            .build();
        let message = LinkVeth::new(veth.host, veth.peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(veth.mtu)
            .controller(veth.bridge)
            .build();
        self.handle.link().add(message).execute().await.map_err(io_error)
    }

    /// Makes a link, which is still down, an isolated port of the bridge, and switches it on. The kernel
    /// takes settings of a port only for a link that exists, so this cannot be a part of making it.
    pub(super) async fn set_port(&self, link: u32, alias: &str, hairpin: bool) -> io::Result<()> {
        let message = LinkBridgePort::new(link).isolated(true).hairpin(hairpin).alias(alias).up().build();
        self.handle.link().set_port(message).execute().await.map_err(io_error)
    }

    /// Makes a link a port of the bridge again.
    pub(super) async fn set_master(&self, link: u32, bridge: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(link).down().controller(bridge).build();
        self.handle.link().change(message).execute().await.map_err(io_error)
    }

    /// Removes a link; that it is gone already is success.
    pub(super) async fn delete_link(&self, index: u32) -> io::Result<()> {
        match self.handle.link().del(index).execute().await.map_err(io_error) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
            outcome => outcome,
        }
    }
}

/// The kernel's error as the operating system words it.
fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn read_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            _ => {}
        }
    }
    link
}

fn read_address(message: &AddressMessage) -> Option<Ipv4Net> {
    let mut local = None;
    let mut peer = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => local = Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) => peer = Some(*address),
            _ => {}
        }
    }
    Ipv4Net::new(local.or(peer)?, message.header.prefix_len).ok()
}

fn read_route(message: &RouteMessage) -> Option<KnownRoute> {
    let header = &message.header;
    let unicast = header.kind == RouteType::Unicast && header.table == RouteHeader::RT_TABLE_MAIN;
    if !unicast || header.address_family != AddressFamily::Inet {
        return None;
    }
    let mut to = Ipv4Addr::UNSPECIFIED;
    let mut link = None;
    let mut priority = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::MultiPath(hops) => link = hops.first().map(|hop| hop.interface_index),
            RouteAttribute::Priority(value) => priority = *value,
            _ => {}
        }
    }
    let to = Ipv4Net::new(to, header.destination_prefix_length).ok()?;
    Some(KnownRoute { to, link: link?, priority })
}
