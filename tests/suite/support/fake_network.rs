//! A network in memory, for tests of what is built on one.
//!
//! Addresses are of 127.0.0.0/8, so a test can listen where a replica would. It passes the same contract
//! as the real one (`network.rs`).

use crate::support::TemporaryDirectory;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use host::network::{Attachment, Network, NetworkError};
use host::runtime::Mount;
use model::function::ReplicaId;

/// The last byte of the address that was given out last by any fake of this process.
static LAST: AtomicU8 = AtomicU8::new(0);

/// A network that gives out addresses and remembers who has them.
#[derive(Debug)]
pub(crate) struct FakeNetwork {
    files: TemporaryDirectory,
    attached: Mutex<BTreeMap<ReplicaId, IpAddr>>,
    broken: AtomicBool,
}

impl FakeNetwork {
    pub(crate) fn new() -> Self {
        let files = TemporaryDirectory::new();
        Self { files, attached: Mutex::default(), broken: AtomicBool::new(false) }
    }

    /// From now on, whether [`Network::attach`] fails.
    #[allow(dead_code, reason = "for tests of what is built on a network")]
    pub(crate) fn break_attach(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// The address of a replica that is attached.
    #[allow(dead_code, reason = "for tests of what is built on a network")]
    pub(crate) fn address(&self, id: &ReplicaId) -> Option<IpAddr> {
        self.replicas().get(id).copied()
    }

    fn replicas(&self) -> std::sync::MutexGuard<'_, BTreeMap<ReplicaId, IpAddr>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self, id: &ReplicaId) -> PathBuf {
        self.files.path().join(id.as_str())
    }

    fn attachment(&self, id: &ReplicaId, address: IpAddr) -> Attachment {
        let file = |name: &str| Mount {
            source: self.directory(id).join(name),
            target: Path::new("/etc").join(name),
            holds_programs: false,
        };
        Attachment {
            address,
            netns: Path::new("/run/netns").join(format!("fake.{id}")),
            files: vec![file("hosts"), file("resolv.conf")],
        }
    }
}

/// An address that no other test has: two bytes of it are from the process, as each test has its own.
fn next_address() -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let last = LAST.fetch_add(1, Ordering::Relaxed) % 253 + 2;
    // 127.0.0.0/16 and its like are what tests choose by hand.
    IpAddr::V4(Ipv4Addr::new(127, high | 0x40, low, last))
}

#[async_trait]
impl Network for FakeNetwork {
    async fn ensure(&self) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn attach(&self, id: &ReplicaId) -> Result<Attachment, NetworkError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(NetworkError::failed(format!("attaching {id}"), "the test said so"));
        }
        let mut replicas = self.replicas();
        if replicas.contains_key(id) {
            return Err(NetworkError::failed(format!("attaching {id}"), "it is attached already"));
        }
        let address = next_address();
        let attachment = self.attachment(id, address);
        std::fs::create_dir_all(self.directory(id))
            .and_then(|()| attachment.files.iter().try_for_each(|file| std::fs::write(&file.source, "")))
            .map_err(|error| NetworkError::failed(format!("writing the files of {id}"), error))?;
        replicas.insert(id.clone(), address);
        Ok(attachment)
    }

    async fn detach(&self, id: &ReplicaId) -> Result<(), NetworkError> {
        if self.replicas().remove(id).is_some() {
            std::fs::remove_dir_all(self.directory(id))
                .map_err(|error| NetworkError::failed(format!("removing the files of {id}"), error))?;
        }
        Ok(())
    }

    async fn adopt(&self, id: &ReplicaId, address: IpAddr) -> Result<Option<Attachment>, NetworkError> {
        let same = self.replicas().get(id) == Some(&address);
        Ok(same.then(|| self.attachment(id, address)))
    }

    /// A replica has nothing but its address: what accepts there does so inside it.
    async fn accepts(&self, id: &ReplicaId, port: u16) -> Result<bool, NetworkError> {
        let address = self.replicas().get(id).copied();
        let address = address.ok_or_else(|| {
            NetworkError::failed(format!("connecting to port {port} inside {id}"), "it is not attached")
        })?;
        Ok(tokio::net::TcpStream::connect((address, port)).await.is_ok())
    }

    async fn attached(&self) -> Result<Vec<ReplicaId>, NetworkError> {
        Ok(self.replicas().keys().cloned().collect())
    }

    fn gateway(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    }
}
