//! A host for one test, and what is around it.

use crate::support::TemporaryDirectory;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use host::network::cni::Cni;
use host::network::{Leases, MemoryLeases, NetworkError};
use model::config;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// The host's address on the side of the internet.
pub(super) const UPLINK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Somebody on the internet, who also has all the addresses below.
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Somebody in a private network that the host can reach.
pub(super) const PRIVATE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The resolver that the host uses, in the same network.
pub(super) const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 53);
/// Where clouds give away the machine's credentials.
pub(super) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The port of the gateway.
pub(super) const GATEWAY_PORT: u16 = 8080;
/// How long a connection may take that is not expected.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A host with nothing on it.
pub(super) struct Host {
    directory: TemporaryDirectory,
    pub(super) leases: Arc<dyn Leases>,
    pub(super) conflist: PathBuf,
    pub(super) plugin_dir: PathBuf,
    pub(super) allow: Vec<&'static str>,
}

/// Runs a test on a host of its own.
pub(super) fn on_a_host(test: impl AsyncFnOnce(Host) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("own namespaces");
        let no = None::<&str>;
        mount(no, "/", no, MsFlags::MS_REC | MsFlags::MS_PRIVATE, no).expect("own mounts");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), no).expect("an empty /run");
        let directory = TemporaryDirectory::new();
        let resolvers = directory.path().join("resolv.conf");
        fs::write(&resolvers, format!("nameserver {RESOLVER}\nsearch test\n")).expect("resolv.conf");
        let target = fs::canonicalize("/etc/resolv.conf").unwrap_or_else(|_| {
            // A link into /run, which is empty now.
            let link = Path::new("/etc").join(fs::read_link("/etc/resolv.conf").expect("/etc/resolv.conf"));
            fs::create_dir_all(link.parent().expect("a directory")).expect("its directory");
            fs::write(&link, "").expect("an empty resolv.conf");
            link
        });
        mount(Some(&resolvers), &target, no, MsFlags::MS_BIND, no).expect("own resolv.conf");
        run("ip", "link set lo up");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        // Threads of the runtime are started by this one, so they are on this host too.
        runtime.expect("a runtime").block_on(async move {
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR"));
            test(Host {
                leases: Arc::new(MemoryLeases::default()),
                conflist: shipped.join("cni/10-ingle.conflist"),
                plugin_dir: PathBuf::from("/usr/lib/cni"),
                allow: Vec::new(),
                directory,
            })
            .await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for run_dir in [self.directory().to_owned(), self.directory().join("daemon/run")] {
            crate::support::end_holders(&run_dir);
        }
    }
}

impl Host {
    /// The network by this host's settings.
    pub(super) fn network(&self) -> Cni {
        self.try_network().expect("a network")
    }

    pub(super) fn try_network(&self) -> Result<Cni, NetworkError> {
        let config = config::Network {
            conflist: self.conflist.clone(),
            plugin_dir: self.plugin_dir.clone(),
            resolv_conf: Path::new(env!("CARGO_MANIFEST_DIR")).join("resolv/resolv.conf"),
            allow: self.allow.iter().map(|net| net.parse().expect("a network")).collect(),
        };
        Cni::new(&config, GATEWAY_PORT, self.directory.path(), Arc::clone(&self.leases))
    }

    /// Uses a conflist with these plugins, given as JSON.
    pub(super) fn set_plugins(&mut self, version: &str, plugins: &str) {
        self.conflist = self.directory.path().join("test.conflist");
        let text = format!(r#"{{"cniVersion": "{version}", "name": "ingle", "plugins": [{plugins}]}}"#);
        fs::write(&self.conflist, text).expect("a conflist");
    }

    /// A directory that is the test's.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Connects the host to an internet, and returns its namespace.
    pub(super) fn connect_to_the_internet(&self) -> PathBuf {
        run("ip", "netns add outside");
        run("ip", "link add uplink mtu 1400 type veth peer name eth0 netns outside");
        run("ip", &format!("address add {UPLINK}/24 dev uplink"));
        run("ip", "link set uplink up");
        run("ip", &format!("route add default via {OUTSIDE}"));
        for words in ["link set lo up", "link set eth0 up", &format!("address add {OUTSIDE}/24 dev eth0")] {
            run("ip", &format!("-n outside {words}"));
        }
        for address in [PRIVATE, RESOLVER, METADATA] {
            run("ip", &format!("-n outside address add {address}/32 dev lo"));
        }
        // It knows the way to replicas, as somebody in the same network might.
        run("ip", &format!("-n outside route add 10.62.0.0/16 via {UPLINK}"));
        PathBuf::from("/run/netns/outside")
    }
}

/// Drops a network, as the end of its daemon does, and waits until its owned rules are gone.
pub(super) async fn end(network: Cni) {
    drop(network);
    eventually!(!run("nft", "list tables").contains("/owned"), "left are {}", run("nft", "list tables"));
}

/// Runs a program that must succeed, and returns what it prints.
pub(super) fn run(program: &str, arguments: &str) -> String {
    let path = crate::support::tool(program).expect("checked before");
    let output = Command::new(path).args(arguments.split_whitespace()).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs `work` in a namespace, on a thread of its own.
pub(super) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = fs::File::open(netns).expect("the namespace");
            setns(file, CloneFlags::CLONE_NEWNET).expect("to enter it");
            work()
        });
        thread.join().expect("no panic")
    })
}

/// A server; it ends when this is dropped.
pub(super) struct Server(tokio::task::JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves on all addresses of a namespace, or of the host: tells everybody what address they come from.
#[must_use = "it serves until this is dropped"]
pub(super) fn serve(netns: Option<&Path>, port: u16) -> Server {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
    // A socket stays in the namespace it was made in, whichever thread uses it.
    let listener = match netns {
        Some(netns) => inside(netns, bind),
        None => bind(),
    };
    listener.set_nonblocking(true).expect("a mode");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    Server(tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, peer.ip().to_string().as_bytes()).await;
        }
    }))
}

/// Connects to a server made by [`serve`], from a namespace or from the host, and returns what it says.
pub(super) fn call(netns: Option<&Path>, address: impl Into<IpAddr>, port: u16) -> io::Result<IpAddr> {
    let address = SocketAddr::new(address.into(), port);
    let connect = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        text.parse().map_err(io::Error::other)
    };
    match netns {
        Some(netns) => inside(netns, connect),
        None => connect(),
    }
}

/// Why [`call`] fails.
pub(super) fn refusal(netns: Option<&Path>, address: impl Into<IpAddr>, port: u16) -> io::ErrorKind {
    call(netns, address, port).expect_err("it must not get through").kind()
}

/// Sends one datagram from a namespace, with the given source.
pub(super) fn send(netns: &Path, source: IpAddr, to: impl Into<IpAddr>, port: u16) {
    let to = SocketAddr::new(to.into(), port);
    inside(netns, || {
        let socket = UdpSocket::bind((source, 0)).expect("an address to send from");
        socket.send_to(b"hello", to).expect("to send");
    });
}

/// Receives datagrams in a namespace.
pub(super) fn receiver(netns: &Path, port: u16) -> UdpSocket {
    let socket = inside(netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port"));
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// The sender of the next datagram; `None` when none comes.
pub(super) fn next_sender(socket: &UdpSocket) -> Option<IpAddr> {
    socket.recv_from(&mut [0; 16]).ok().map(|(_, sender)| sender.ip())
}
