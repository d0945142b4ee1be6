//! [`super::Network`] from a CNI conflist.
//!
//! The conflist says what is wanted. A bridge with host-local addresses, which is what nearly everybody
//! has, is carried out in process, in a few milliseconds and without any plugin being installed; a
//! plugin of another type runs as the specification says.
//!
//! ```text
//! conflist   the file, checked                    files      /etc/hosts and /etc/resolv.conf
//! addresses  who has which                        rules      the nftables table
//! netns      namespaces by name                   foreign    Docker, ufw and others on the machine
//! netlink    links, addresses, routes             clash      subnets that the host has already
//! bridge     the bridge and its ports             plugin     programs by the CNI specification
//! attach     one replica, step by step            detach     and back
//! ```
//!
//! Everything that is made carries the network's tag and the replica's id: the namespace is called
//! `<tag>.<id>`, that is written on the link (IFALIAS), the files are in a directory called `<id>`, and the
//! address is in the leases. So whatever is left by a daemon that was killed is found by
//! [`Network::attached`], and removed by [`Network::detach`].

mod address_pool;
mod attach;
mod bridge;
mod conflist;
mod detach;
mod diagnosis;
mod files;
mod guard;
mod host_firewall;
mod json;
mod netlink;
mod netns;
mod plugin;
mod rules;
mod subnet_conflict;

pub use diagnosis::diagnose;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};
use tokio::time::timeout;

use self::address_pool::Addresses;
use self::conflist::{Bridge, Conflist};
use self::files::Resolvers;
use self::guard::Guard;
use self::host_firewall::Obstacle;
use self::netlink::Netlink;
use self::plugin::Call;
use super::{Attachment, Leases, Network, NetworkError};
use crate::private_file::{blocking, if_there, names_in};
use model::config;
use model::function::ReplicaId;
use model::sync::lock;

/// What a replica's interface is called inside.
const INTERFACE: &str = "eth0";
/// How long a server inside a replica may take to be connected to: it is on the same machine.
const ACCEPT: Duration = Duration::from_secs(1);
/// The MTU on a host without a default route.
const DEFAULT_MTU: u32 = 1500;
/// The file with the result of the plugins, which they want back when the replica is detached.
const RESULT: &str = "result.json";

/// The network that a conflist describes.
#[derive(Debug)]
pub struct Cni {
    conflist: Conflist,
    /// `<tag>.`: how names of namespaces begin.
    prefix: String,
    plugin_dir: PathBuf,
    fallback_resolvers: PathBuf,
    allow: Vec<IpNet>,
    gateway_port: u16,
    run_dir: PathBuf,
    /// One directory for each replica.
    directory: PathBuf,
    addresses: Addresses,
    /// The guard of the rules. Locked while [`Network::ensure`] runs, so that two runs do not create the same bridge.
    guard: tokio::sync::Mutex<Option<Guard>>,
    /// Sockets that hold the rules of the last daemon, until the guard has them.
    inherited: Mutex<Vec<OwnedFd>>,
    shared: Mutex<Shared>,
}

/// What [`Network::ensure`] found and attachments need.
#[derive(Debug, Default)]
struct Shared {
    ready: Option<Ready>,
    /// What was warned about already.
    obstacles: Vec<Obstacle>,
}

#[derive(Debug, Clone)]
struct Ready {
    mtu: u32,
    /// The resolvers that the rules let through.
    resolvers: BTreeSet<Ipv4Addr>,
}

impl Cni {
    /// Whether the conflist can be used: what [`Cni::new`] checks, and nothing else.
    pub fn check(config: &config::Network) -> Result<(), NetworkError> {
        Conflist::load(&config.conflist, &config.plugin_dir).map(drop)
    }

    /// Returns the subnet of functions' addresses, and the address of this host in it.
    pub fn subnet(&self) -> (Ipv4Net, Ipv4Addr) {
        (self.conflist.range.subnet, self.conflist.range.gateway)
    }

    /// Returns the address that the bridge has or will have, if the conflist can be read.
    pub fn bridge_address(config: &config::Network) -> Option<Ipv4Addr> {
        let conflist = Conflist::load(&config.conflist, &config.plugin_dir).ok()?;
        conflist.bridge().map(|_| conflist.range.gateway)
    }

    /// Reads the conflist, and checks it whole. `gateway_port` is where the daemon serves functions;
    /// files for replicas are kept under `run_dir`.
    pub fn new(
        config: &config::Network,
        gateway_port: u16,
        run_dir: &Path,
        leases: Arc<dyn Leases>,
    ) -> Result<Self, NetworkError> {
        let conflist = Conflist::load(&config.conflist, &config.plugin_dir)?;
        for net in config.allow.iter().filter(|net| rules::v4(net).is_none()) {
            tracing::warn!("network.allow: {net} is without effect: functions have IPv4 addresses only");
        }
        Ok(Self {
            prefix: format!("{}.", conflist.tag()),
            plugin_dir: config.plugin_dir.clone(),
            fallback_resolvers: config.resolv_conf.clone(),
            allow: config.allow.clone(),
            gateway_port,
            directory: run_dir.join("net"),
            addresses: Addresses::new(conflist.range, leases),
            run_dir: run_dir.to_owned(),
            guard: tokio::sync::Mutex::default(),
            inherited: Mutex::default(),
            shared: Mutex::default(),
            conflist,
        })
    }

    /// Keeps the rules that these sockets hold in force until this daemon's own are.
    #[must_use]
    pub fn inherit(self, sockets: Vec<OwnedFd>) -> Self {
        *lock(&self.inherited) = sockets;
        self
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    fn namespace_of(&self, id: &ReplicaId) -> String {
        format!("{}{id}", self.prefix)
    }

    fn directory_of(&self, id: &ReplicaId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// The replica in the name of a namespace, or in what is written on a link.
    fn replica_in(&self, name: &str) -> Option<ReplicaId> {
        let id = name.strip_prefix(&self.prefix)?;
        let good = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        good.then(|| ReplicaId::from_existing(id))
    }

    fn call<'a>(&'a self, id: &'a ReplicaId, netns: Option<&'a Path>) -> Call<'a> {
        let Conflist { name, version, .. } = &self.conflist;
        Call { network: name, version, plugin_dir: &self.plugin_dir, id, netns }
    }

    /// The MTU of links, the resolvers the rules know, and so on: what [`Network::ensure`] left.
    async fn ready(&self, resolvers: &Resolvers) -> Result<Ready, NetworkError> {
        let ready = self.shared().ready.clone();
        match ready {
            Some(ready) if resolvers.servers.iter().all(|server| ready.resolvers.contains(server)) => {
                Ok(ready)
            }
            _ => {
                self.ensure().await?;
                let ready = self.shared().ready.clone();
                Ok(ready.expect("ensure leaves it when it succeeds"))
            }
        }
    }

    async fn ensure_bridge(&self, netlink: &Netlink, bridge: &Bridge, mtu: u32) -> Result<(), NetworkError> {
        let index = bridge::ensure(netlink, bridge, &self.conflist.tag(), &self.conflist.range, mtu).await?;
        let address_of = |alias: &str| self.addresses.of(&self.replica_in(alias)?);
        let in_use = |address| self.addresses.is_used(address);
        bridge::forget_neighbours(netlink, index, in_use).await.map_err(|error| {
            NetworkError::failed(format!("removing old neighbours on {}", bridge.name), error)
        })?;
        bridge::repair_ports(netlink, index, &self.prefix, bridge.hairpin, address_of)
            .await
            .map_err(|error| NetworkError::failed(format!("repairing the ports of {}", bridge.name), error))
    }

    /// Warns of what other firewalls stop, once.
    async fn look_for_obstacles(&self, bridge: &str) {
        let found = host_firewall::clear(bridge, self.gateway_port).await;
        let mut shared = self.shared();
        for Obstacle { problem, remedy } in found.iter().filter(|o| !shared.obstacles.contains(o)) {
            tracing::warn!("{problem}; to change that: {remedy}");
        }
        shared.obstacles = found;
    }
}

#[async_trait]
impl Network for Cni {
    async fn ensure(&self) -> Result<(), NetworkError> {
        let mut guard = self.guard.lock().await;
        let failed = |error| NetworkError::failed("looking at this host's network", error);
        let Conflist { path, range, .. } = &self.conflist;
        netns::prepare_directory()
            .await
            .map_err(|error| NetworkError::failed("preparing the directory of namespaces", error))?;

        let netlink = Netlink::open().map_err(failed)?;
        let mut mtu = None;
        if let Some(bridge) = self.conflist.bridge() {
            let ours = netlink.link(&bridge.name).await.map_err(failed)?.map(|link| link.index);
            let known = netlink.known(ours).await.map_err(failed)?;
            if let Some(reason) = subnet_conflict::with(range.subnet, &known) {
                return Err(NetworkError::Config { path: path.clone(), reason });
            }
            mtu = bridge.mtu.or(netlink.uplink_mtu().await.map_err(failed)?);
        }
        let mtu = mtu.unwrap_or(DEFAULT_MTU);

        let (fallback, directory) = (self.fallback_resolvers.clone(), self.directory.clone());
        let resolvers = blocking(move || {
            let now = Resolvers::read(&fallback);
            Ok(now.servers.into_iter().chain(files::servers_in(&directory)?).collect::<BTreeSet<_>>())
        });
        let resolvers = resolvers
            .await
            .map_err(|error| NetworkError::failed("reading the resolvers of functions", error))?;
        if resolvers.is_empty() {
            tracing::warn!(
                "functions can look up no names: this host has no resolver that they can reach; \
                 name one in {}",
                self.fallback_resolvers.display()
            );
        }

        // Before the bridge: there is no moment at which replicas are connected and not confined.
        let rules = rules::Rules {
            table: &self.conflist.tag(),
            bridge: self.conflist.bridge().map(|bridge| bridge.name.as_str()),
            range: *range,
            gateway_port: self.gateway_port,
            masquerade: self.conflist.bridge().is_some_and(|bridge| bridge.masquerade),
            resolvers: &resolvers,
            allow: &self.allow,
        };
        let guard = match &mut *guard {
            Some(guard) => guard,
            none => none.insert(Guard::start(&self.run_dir, std::mem::take(&mut *lock(&self.inherited)))?),
        };
        guard.load(rules.table()).await?;
        if let Some(bridge) = self.conflist.bridge() {
            self.ensure_bridge(&netlink, bridge, mtu).await?;
            self.look_for_obstacles(&bridge.name).await;
        }
        self.shared().ready = Some(Ready { mtu, resolvers });
        Ok(())
    }

    async fn attach(&self, id: &ReplicaId) -> Result<Attachment, NetworkError> {
        let (directory, netns) = (self.directory_of(id), netns::path(&self.namespace_of(id)));
        let fallback = self.fallback_resolvers.clone();
        let found = blocking(move || Ok((directory.exists() || netns.exists(), Resolvers::read(&fallback))));
        let (there, resolvers) =
            found.await.map_err(|error| NetworkError::failed(format!("looking for {id}"), error))?;
        if there || self.addresses.of(id).is_some() {
            return Err(NetworkError::failed(
                format!("attaching {id}"),
                "it is attached already; detach it first",
            ));
        }
        let attached = match self.conflist.bridge() {
            Some(bridge) => self.attach_to_bridge(id, bridge, resolvers).await,
            None => self.attach_by_plugin(id, resolvers).await,
        };
        if attached.is_err()
            && let Err(error) = self.detach(id).await
        {
            tracing::warn!(replica = %id, error = %error, "what a failed attachment left will be removed later");
        }
        attached
    }

    async fn detach(&self, id: &ReplicaId) -> Result<(), NetworkError> {
        let failed = |what: &str, error: io::Error| {
            NetworkError::failed(format!("removing the {what} of {id}"), error)
        };
        // Each step is tried whatever became of the one before; the first failure is reported.
        let plugins = self.detach_plugins(id).await;
        let namespace = netns::remove(self.namespace_of(id)).await;
        let gone = namespace.as_ref().is_ok_and(|removed| *removed);
        let freed = self.addresses.release(id, Instant::now());
        let links = self.detach_links(id, &freed, !gone).await;
        let directory = self.directory_of(id);
        let files = blocking(move || if_there(fs::remove_dir_all(directory)).map(drop));
        // The directory is what lists the replica, so that plugins which failed are asked again.
        let files = if plugins.is_err() { Ok(()) } else { files.await };
        namespace.map_err(|error| failed("namespace", error))?;
        links.map_err(|error| failed("link", error))?;
        files.map_err(|error| failed("files", error))?;
        plugins
    }

    async fn adopt(&self, id: &ReplicaId, address: IpAddr) -> Result<Option<Attachment>, NetworkError> {
        // In another subnet than that of the conflist it is from before the conflist was changed.
        let v4 = match address {
            IpAddr::V4(v4) if self.conflist.range.subnet.contains(&v4) => v4,
            _ => return Ok(None),
        };
        let whole = self.is_whole(id, v4).await;
        if !whole.map_err(|error| NetworkError::failed(format!("looking at the network of {id}"), error))? {
            return Ok(None);
        }
        if let Err(other) = self.addresses.adopt(v4, id) {
            tracing::warn!(replica = %id, %address, %other, "not taken up: its address belongs to another replica");
            return Ok(None);
        }
        let directory = self.directory_of(id);
        let files = match blocking({
            let directory = directory.clone();
            move || Ok(files::are_there(&directory))
        })
        .await
        {
            Ok(true) => files::mounts(&directory),
            _ => self.write_files(id, v4, Resolvers::read(&self.fallback_resolvers)).await?,
        };
        Ok(Some(Attachment { address, netns: netns::path(&self.namespace_of(id)), files }))
    }

    async fn accepts(&self, id: &ReplicaId, port: u16) -> Result<bool, NetworkError> {
        let failed = |error| NetworkError::failed(format!("connecting to port {port} inside {id}"), error);
        let no_namespace = || io::Error::other("it has no network namespace");
        let connected = async {
            let socket = netns::tcp_socket(self.namespace_of(id)).await?.ok_or_else(no_namespace)?;
            match timeout(ACCEPT, socket.connect((Ipv4Addr::LOCALHOST, port).into())).await {
                // A port that clients are given, too, is at times connected to itself.
                Ok(Ok(stream)) => Ok(stream.local_addr()? != stream.peer_addr()?),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
                Ok(Err(error)) => Err(error),
                // Where nobody listens a connection is refused at once: more are waiting than are accepted.
                Err(_) => Ok(true),
            }
        };
        connected.await.map_err(failed)
    }

    async fn attached(&self) -> Result<Vec<ReplicaId>, NetworkError> {
        let failed = |error| NetworkError::failed("listing what replicas have on this host", error);
        let mut found: BTreeSet<ReplicaId> = self.addresses.all().into_iter().map(|(_, id)| id).collect();
        let namespaces = netns::list(self.prefix.clone()).await.map_err(failed)?;
        found.extend(namespaces.iter().filter_map(|name| self.replica_in(name)));
        let links = Netlink::open().map_err(failed)?.links().await.map_err(failed)?;
        found.extend(links.iter().filter_map(|link| self.replica_in(&link.alias)));
        let directory = self.directory.clone();
        let directories = blocking(move || names_in(&directory)).await.map_err(failed)?;
        found.extend(directories.iter().filter_map(|id| self.replica_in(&format!("{}{id}", self.prefix))));
        Ok(found.into_iter().collect())
    }

    fn gateway(&self) -> IpAddr {
        IpAddr::V4(self.conflist.range.gateway)
    }
}
