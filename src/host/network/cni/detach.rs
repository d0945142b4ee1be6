//! Taking back what a replica has, and telling whether it has all of it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::netlink::Netlink;
use super::{Cni, INTERFACE, RESULT, bridge, netns};
use crate::network::NetworkError;
use crate::private_file::blocking;
use model::function::ReplicaId;

impl Cni {
    /// Runs DEL of the plugins, if there is anything they may have made for this replica.
    pub(super) async fn detach_plugins(&self, id: &ReplicaId) -> Result<(), NetworkError> {
        if self.conflist.plugins().next().is_none() {
            return Ok(());
        }
        let path = netns::path(&self.namespace_of(id));
        let directory = self.directory_of(id);
        let left = blocking(move || {
            let result = fs::read_to_string(directory.join(RESULT)).ok();
            Ok((path.exists().then_some(path), directory.exists(), result))
        });
        let (netns, has_directory, result) =
            left.await.map_err(|error| NetworkError::failed(format!("looking for {id}"), error))?;
        if netns.is_none() && !has_directory && self.addresses.of(id).is_none() {
            return Ok(());
        }
        let result: Option<Value> = result.and_then(|text| serde_json::from_str(&text).ok());
        self.call(id, netns.as_deref()).del(self.conflist.plugins(), result.as_ref()).await
    }

    /// Removes the replica's links on the host. When the namespace was there, the kernel does that.
    pub(super) async fn detach_links(
        &self,
        id: &ReplicaId,
        freed: &[Ipv4Addr],
        with_link: bool,
    ) -> io::Result<()> {
        let Some(bridge) = self.conflist.bridge() else { return Ok(()) };
        if freed.is_empty() && !with_link {
            return Ok(());
        }
        let host = Netlink::open()?;
        if with_link {
            // By what is written on them, as they are listed: not all were made under the name that is
            // given to links now.
            let name = self.namespace_of(id);
            for link in host.links().await?.into_iter().filter(|link| link.alias == name) {
                host.delete_link(link.index).await?;
            }
        }
        if let Some(index) = host.link(&bridge.name).await?.map(|link| link.index) {
            for address in freed {
                host.delete_neighbour(index, *address).await?;
            }
        }
        Ok(())
    }

    /// Whether a replica's namespace and link are as [`crate::network::Network::attach`] left them.
    pub(super) async fn is_whole(&self, id: &ReplicaId, address: Ipv4Addr) -> io::Result<bool> {
        let name = self.namespace_of(id);
        let Some(inside) = netns::open(name.clone()).await? else { return Ok(false) };
        let Some(interface) = inside.link(INTERFACE).await?.filter(|link| link.up) else { return Ok(false) };
        let addresses = inside.addresses().await?;
        if !addresses.iter().any(|(index, net)| *index == interface.index && net.addr() == address) {
            return Ok(false);
        }
        let Some(bridge) = self.conflist.bridge() else { return Ok(true) };
        let host = Netlink::open()?;
        let Some(index) = host.link(&bridge.name).await?.map(|link| link.index) else { return Ok(false) };
        let link = host.link(&bridge::host_link(&self.conflist.tag(), &name)).await?;
        if !link.is_some_and(|link| link.up && link.master == Some(index) && link.alias == name) {
            return Ok(false);
        }
        host.set_neighbour(index, address, bridge::mac_of(address)).await?;
        Ok(true)
    }
}
