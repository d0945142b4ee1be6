//! Attaching a replica: each step in its order. What fails half-way is taken back by the caller, with
//! [`Network::detach`].

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Instant;

use serde_json::Value;

use super::conflist::{Bridge, Conflist};
use super::files::{self, Resolvers};
use super::netlink::{Netlink, Veth};
use super::plugin::{self, Made};
use super::{Cni, INTERFACE, RESULT, bridge, netns};
use crate::network::{Attachment, Network, NetworkError};
use crate::private_file::blocking;
use crate::runtime::Mount;
use model::function::ReplicaId;

impl Cni {
    /// Attaches by the bridge of the conflist.
    pub(super) async fn attach_to_bridge(
        &self,
        id: &ReplicaId,
        bridge: &Bridge,
        resolvers: Resolvers,
    ) -> Result<Attachment, NetworkError> {
        let failed = |what: &str, error: io::Error| NetworkError::failed(format!("{what} of {id}"), error);
        let Conflist { range, path, .. } = &self.conflist;
        let ready = self.ready(&resolvers).await?;
        let address = self.addresses.take(id, Instant::now()).map_err(|used| NetworkError::NoAddress {
            subnet: range.subnet.to_string(),
            used,
            path: path.clone(),
        })?;
        let files = self.write_files(id, address, resolvers).await?;
        let name = self.namespace_of(id);
        let (netns, inside) =
            netns::create(name.clone()).await.map_err(|error| failed("making the namespace", error))?;
        let host = Netlink::open().map_err(|error| failed("opening a socket for the link", error))?;
        let link = bridge::host_link(&self.conflist.tag(), &name);
        let mac = bridge::mac_of(address);
        let veth = Veth {
            host: &link,
            alias: &name,
            bridge: self.bridge_index(&host, bridge).await?,
            hairpin: bridge.hairpin,
            peer: INTERFACE,
            mac,
            netns: netns.file().as_fd(),
            mtu: ready.mtu,
        };
        bridge::connect(&host, &inside, &veth, bridge, range, address).await?;
        let netns = netns::path(&name);
        if !self.conflist.chained.is_empty() {
            let made = Made {
                bridge: &bridge.name,
                host_link: &link,
                address: bridge::address_in(range, address),
                gateway: range.gateway,
                mac: &mac.map(|byte| format!("{byte:02x}")).join(":"),
            };
            let first = plugin::result(&self.conflist.version, &netns, made);
            let call = self.call(id, Some(&netns));
            self.keep_result(id, &first).await?;
            if let Some(result) = call.add(&self.conflist.chained, Some(first)).await? {
                self.keep_result(id, &result).await?;
            }
        }
        Ok(Attachment { address: IpAddr::V4(address), netns, files })
    }

    /// Attaches by a plugin, which chooses the address.
    pub(super) async fn attach_by_plugin(
        &self,
        id: &ReplicaId,
        resolvers: Resolvers,
    ) -> Result<Attachment, NetworkError> {
        self.ready(&resolvers).await?;
        let failed = |what: &str, error: io::Error| NetworkError::failed(format!("{what} of {id}"), error);
        let directory = self.directory_of(id);
        // From here on the replica is listed, whatever happens.
        blocking(move || fs::create_dir_all(directory))
            .await
            .map_err(|error| failed("making the directory", error))?;
        let name = self.namespace_of(id);
        let (_netns, inside) =
            netns::create(name.clone()).await.map_err(|error| failed("making the namespace", error))?;
        inside.up(bridge::LOOPBACK).await.map_err(|error| failed("switching on lo", error))?;
        let netns = netns::path(&name);
        let result = self.call(id, Some(&netns)).add(self.conflist.plugins(), None).await?;
        let result = result.expect("a conflist without a bridge has at least one plugin");
        self.keep_result(id, &result).await?;
        let address = plugin::address_in(&result).map_err(|error| failed("reading the address", error))?;
        self.addresses.adopt(address, id).map_err(|other| {
            failed("taking the address", io::Error::other(format!("{address} belongs to {other}")))
        })?;
        let files = self.write_files(id, address, resolvers).await?;
        Ok(Attachment { address: IpAddr::V4(address), netns, files })
    }

    /// The bridge's index; the bridge is put back if somebody took it away.
    async fn bridge_index(&self, host: &Netlink, bridge: &Bridge) -> Result<u32, NetworkError> {
        let failed = |error| NetworkError::failed(format!("finding the bridge {}", bridge.name), error);
        if let Some(link) = host.link(&bridge.name).await.map_err(failed)? {
            return Ok(link.index);
        }
        self.ensure().await?;
        let link = host.link(&bridge.name).await.map_err(failed)?;
        link.map(|link| link.index).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    async fn keep_result(&self, id: &ReplicaId, result: &Value) -> Result<(), NetworkError> {
        let (path, text) = (self.directory_of(id).join(RESULT), result.to_string());
        blocking(move || fs::write(path, text))
            .await
            .map_err(|error| NetworkError::failed(format!("keeping the plugins' result of {id}"), error))
    }

    /// Writes the replica's files.
    pub(super) async fn write_files(
        &self,
        id: &ReplicaId,
        address: Ipv4Addr,
        resolvers: Resolvers,
    ) -> Result<Vec<Mount>, NetworkError> {
        let (directory, owner, gateway) = (self.directory_of(id), id.clone(), self.conflist.range.gateway);
        blocking(move || files::write(&directory, &owner, address, gateway, &resolvers))
            .await
            .map_err(|error| NetworkError::failed(format!("writing hosts and resolv.conf of {id}"), error))
    }
}
