//! The configuration: a file, overridden by the environment, read once and whole.
//!
//! Every key has one line in [`Config::read`]: its name, its default, and how it is parsed. The
//! variable of a key is its name in capitals, as `INGLE_GATEWAY_LISTEN` for `gateway.listen`.
//! All mistakes are reported at once, and nothing is bound or made while reading.
//! `docs/configuration.md` describes every key; a test holds it to this file.

mod peers;

pub use peers::{HostPatterns, TrustedProxies};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::function::{
    ImagePattern, Memory, PullPolicy, RetryPolicy, attempts, capabilities, parse_duration,
};

/// Where the configuration file is, unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/ingle/config.toml";
/// Threads that may serve calls, at most.
pub const MAX_THREADS: usize = 255;
/// Stands for the name of the file, which a parser of its text does not know.
const FILE: &str = "%FILE%";

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `gateway.*`
    pub gateway: Gateway,
    /// `functions.*`
    pub functions: Functions,
    /// `containerd.*`
    pub containerd: Containerd,
    /// `images.*`
    pub images: Images,
    /// `network.*`
    pub network: Network,
    /// `logs.*`
    pub logs: Logs,
    /// `queue.*`
    pub queue: Queue,
    /// `daemon.*`
    pub daemon: Daemon,
}

/// The HTTP side.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Address of the admin listener, which serves only the API and the metrics.
    pub admin_listen: Option<SocketAddr>,
    /// Whether the configuration sets that address; the daemon then does not start without it.
    pub admin_listen_named: bool,
    /// Whether the API is served at `listen`, too.
    pub public_api: bool,
    /// Whether the metrics are served at `listen`, too.
    pub public_metrics: bool,
    /// Whether functions may use the API and the metrics.
    pub functions_api: bool,
    /// Whether `/system` asks for the admin's password.
    pub basic_auth: bool,
    /// The largest head of a request.
    pub header_limit: usize,
    /// How long a client may take to send the head of a request, or stay silent between two.
    pub idle_timeout: Duration,
    /// How long calls that are under way may go on when the daemon stops.
    pub drain_timeout: Duration,
    /// Connections at the same time; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// Whether `POST /` takes the requests of Alexa skills.
    pub alexa: bool,
    /// Bytes that requests may hold that have not arrived whole.
    pub request_memory: usize,
    /// The proxies in front of the gateway whose `X-Forwarded-*` headers are trusted.
    pub trusted_proxies: TrustedProxies,
    /// Names of the gateway that browsers may use while the API asks for no password.
    pub hosts: HostPatterns,
}

impl Gateway {
    /// Where this machine reaches it.
    pub fn reached_at(&self) -> SocketAddr {
        let mut address = self.listen;
        if address.ip().is_unspecified() {
            let loopback: IpAddr =
                if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        address
    }
}

/// Defaults for functions.
#[derive(Debug, Clone)]
pub struct Functions {
    /// How long a call may take, from its first byte to its last.
    pub timeout: Duration,
    /// The largest body of a call in bytes.
    pub body_limit: u64,
    /// Processes and threads that a replica may have.
    pub pids: u32,
    /// Memory limit of a replica whose function sets none.
    pub memory: MemoryDefault,
    /// Largest size of a replica's writable layer in bytes.
    pub disk: u64,
    /// How long a replica may take from its start until it answers.
    pub start_timeout: Duration,
    /// Calls that may wait for a function that is starting.
    pub max_waiting: usize,
    /// How long a replica may take to leave after SIGTERM, on top of the function's timeout.
    pub stop_grace: Duration,
    /// Replicas that may be starting at the same time.
    pub parallel_starts: usize,
    /// Revisions of a function that are kept because they served, the one that serves included.
    pub revisions: usize,
    /// Capabilities that every function gets.
    pub capabilities: Vec<String>,
    /// Capabilities that a function may ask for, with their `CAP_` prefix.
    pub allowed_capabilities: Vec<String>,
    /// A directory of stack files that are deployed once.
    pub first_boot: PathBuf,
    /// The watchdog for images that have none.
    pub watchdog: PathBuf,
    /// Bytes that the files of one handler may have.
    pub handler_limit: u64,
}

/// An amount of memory, or a share of the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryDefault {
    /// An amount in bytes.
    Bytes(u64),
    /// A share in percent.
    Share(u64),
}

impl MemoryDefault {
    /// Returns the amount in bytes on a machine with `total` bytes. A share is rounded to whole mebibytes,
    /// and is at least as much as a small function needs.
    pub fn of(self, total: u64) -> u64 {
        const MEBIBYTE: u64 = 1 << 20;
        const LEAST: u64 = 128 * MEBIBYTE;
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Share(percent) => (total.saturating_mul(percent) / 100).max(LEAST) & !(MEBIBYTE - 1),
        }
    }
}

/// The container engine.
#[derive(Debug, Clone)]
pub struct Containerd {
    /// Its socket.
    pub socket: PathBuf,
    /// The containerd namespace that everything is kept in.
    pub namespace: String,
    /// The snapshotter; the best one that containerd has if `None`.
    pub snapshotter: Option<String>,
    /// The OCI runtime's binary, by name or path.
    pub oci_runtime: String,
}

/// Where images come from.
#[derive(Debug, Clone)]
pub struct Images {
    /// Images that may be deployed.
    pub allowed: Vec<ImagePattern>,
    /// When to ask the registry, unless a function says otherwise.
    pub pull_policy: PullPolicy,
    /// Docker's credentials file.
    pub docker_config: PathBuf,
    /// The directory with `<host>/hosts.toml`.
    pub certs_dir: PathBuf,
    /// Layers that are fetched from one registry at the same time.
    pub parallel_layers: usize,
    /// Bytes a second that a registry must send of a layer.
    pub least_rate: u64,
    /// Bytes that a compressed layer is taken to need unpacked, for each one of it.
    pub unpack_ratio: u64,
    /// The largest archive that is taken in, in bytes.
    pub max_archive: u64,
    /// How long an image stays at least that no function uses.
    pub keep_unused: Duration,
    /// How full the disk may be, in percent, before unused images go.
    pub disk_watermark: u64,
    /// How full the disk may be after that, in percent.
    pub disk_target: u64,
}

/// Addresses and rules.
#[derive(Debug, Clone)]
pub struct Network {
    /// The CNI configuration.
    pub conflist: PathBuf,
    /// Where plugin binaries are.
    pub plugin_dir: PathBuf,
    /// The resolv.conf for functions when the host has only a stub resolver.
    pub resolv_conf: PathBuf,
    /// Destinations on this host or in private networks that functions may reach, such as
    /// `10.0.0.5` or `192.168.1.0/24`. Public addresses are always reachable.
    pub allow: Vec<IpNet>,
}

/// Function output.
#[derive(Debug, Clone)]
pub struct Logs {
    /// Bytes kept per function.
    pub file_limit: u64,
    /// The longest line in bytes; a longer one is cut, with a mark.
    pub line_limit: usize,
    /// Whether lines are also sent to journald, where it runs.
    pub journal: bool,
}

/// Calls that are made later.
#[derive(Debug, Clone)]
pub struct Queue {
    /// The largest body in bytes.
    pub body_limit: u64,
    /// Calls that may be queued.
    pub max_calls: usize,
    /// Bytes that they may send together.
    pub max_size: u64,
    /// How long a call is tried that its function has no room for.
    pub max_age: Duration,
    /// How long a call is kept that was given up.
    pub keep_dead: Duration,
    /// Calls at most that were given up and are kept.
    pub max_dead: usize,
    /// Bytes that they may send together.
    pub max_dead_size: u64,
    /// Calls that are made at the same time, in all.
    pub parallel_calls: usize,
    /// Of one named queue.
    pub parallel_calls_per_queue: usize,
    /// Of one function, unless it says otherwise.
    pub parallel_calls_per_function: usize,
    /// How a call that failed is made again, unless its function says otherwise; and a callback.
    pub retry: RetryPolicy,
    /// How long a call is remembered that has ended.
    pub keep_records: Duration,
    /// Calls at most that have ended and are remembered.
    pub max_records: usize,
    /// How long an answer may be kept.
    pub keep_results: Duration,
    /// Bytes that answers may have together that are kept.
    pub max_results_size: u64,
    /// The largest body in bytes of an answer that is kept, or sent to a callback's receiver.
    pub answer_limit: u64,
    /// How long a receiver may take for a callback.
    pub callback_timeout: Duration,
    /// Hosts that callbacks may be sent to; all if empty.
    pub callback_hosts: HostPatterns,
    /// Destinations on this host or in private networks that callbacks may reach.
    pub callback_networks: Vec<IpNet>,
    /// The file with the secrets that callbacks are signed with.
    pub callback_secret_file: Option<PathBuf>,
}

impl Daemon {
    /// Returns the path of the socket through which commands on this machine reach the daemon.
    pub fn api_socket(&self) -> PathBuf {
        self.run_dir.join("api.sock")
    }
}

/// The process itself.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// What must survive a reboot.
    pub state_dir: PathBuf,
    /// What must not.
    pub run_dir: PathBuf,
    /// What to log: a `tracing` filter such as `info` or `ingle::fleet=debug,info`.
    pub log: String,
    /// Threads that serve calls.
    pub threads: usize,
}

/// Every mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid configuration{}", .mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect::<String>())]
pub struct ConfigError {
    /// One line for each, with the key or variable, the value and what would be right.
    pub mistakes: Vec<String>,
}

impl ConfigError {
    /// Names the file in those mistakes that concern it as a whole.
    pub fn in_file(mut self, path: &Path) -> Self {
        for mistake in &mut self.mistakes {
            *mistake = mistake.replace(FILE, &path.display().to_string());
        }
        self
    }
}

impl Config {
    /// Reads a file's text with the given environment.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let table = text.parse::<toml::Table>().map_err(|error| ConfigError {
            mistakes: vec![format!("{FILE}: {}", error.to_string().trim_end())],
        })?;
        let mut reader = Reader { table, variable: &variable, known: BTreeMap::new(), mistakes: Vec::new() };
        let config = Self::read(&mut reader);
        let Images { disk_watermark, disk_target, .. } = config.images;
        if disk_target > disk_watermark {
            reader.mistakes.push(format!(
                "images.disk_target: {disk_target}% is above images.disk_watermark, which is {disk_watermark}%"
            ));
        }
        let Gateway { request_memory, header_limit, .. } = config.gateway;
        if request_memory < header_limit {
            reader.mistakes.push(format!(
                "gateway.request_memory: {request_memory} bytes are less than one head may have (gateway.header_limit)"
            ));
        }
        if config.queue.callback_secret_file.is_some() && config.queue.callback_hosts.is_empty() {
            // Otherwise anybody could have us sign what he likes, for himself, and pass it on as ours.
            reader.mistakes.push(
                "queue.callback_secret_file: name the hosts that may have signed callbacks in queue.callback_hosts"
                    .into(),
            );
        }
        reader.refuse_unknown();
        if reader.mistakes.is_empty() { Ok(config) } else { Err(ConfigError { mistakes: reader.mistakes }) }
    }

    /// The keys, in the order of `docs/configuration.md`.
    fn read(from: &mut Reader<'_>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let public_api = from.get("gateway.public_api", "true", boolean);
        Self {
            gateway: Gateway {
                listen: from.get("gateway.listen", "0.0.0.0:8080", listen),
                admin_listen: from.get("gateway.admin_listen", "127.0.0.1:8081", |text| match text {
                    "" | "none" => Ok(None),
                    address => listen(address).map(Some),
                }),
                admin_listen_named: from.is_named("gateway.admin_listen"),
                public_api,
                public_metrics: from
                    .get("gateway.public_metrics", "", |text| match text {
                        "" => Ok(None),
                        text => boolean(text).map(Some),
                    })
                    .unwrap_or(public_api),
                functions_api: from.get("gateway.functions_api", "false", boolean),
                basic_auth: from.get("gateway.basic_auth", "true", boolean),
                header_limit: from.get("gateway.header_limit", "64Ki", size),
                idle_timeout: from.get("gateway.idle_timeout", "75s", duration),
                drain_timeout: from.get("gateway.drain_timeout", "75s", duration),
                max_connections: from.get("gateway.max_connections", "8192", count),
                alexa: from.get("gateway.alexa", "false", boolean),
                request_memory: from.get("gateway.request_memory", "64Mi", size),
                trusted_proxies: from
                    .get("gateway.trusted_proxies", "", |text| networks(text).map(TrustedProxies::from)),
                hosts: from.get("gateway.hosts", "", hosts),
            },
            functions: Functions {
                timeout: from.get("functions.timeout", "60s", duration),
                body_limit: from.get("functions.body_limit", "100Mi", size),
                pids: from.get("functions.pids", "1024", |text| {
                    count(text).and_then(|n| u32::try_from(n).map_err(|_| "too large".to_owned()))
                }),
                memory: from.get("functions.memory", "50%", memory),
                disk: from.get("functions.disk", "1Gi", size),
                start_timeout: from.get("functions.start_timeout", "60s", duration),
                max_waiting: from.get("functions.max_waiting", "256", count),
                stop_grace: from.get("functions.stop_grace", "10s", duration),
                parallel_starts: from.get("functions.parallel_starts", &cores.to_string(), count),
                revisions: from.get("functions.revisions", "5", count),
                capabilities: from.get("functions.capabilities", "", |text| Ok(list(text))),
                allowed_capabilities: from.get(
                    "functions.allowed_capabilities",
                    "NET_BIND_SERVICE,CHOWN,FOWNER,SETUID,SETGID,KILL",
                    capabilities,
                ),
                first_boot: from.get("functions.first_boot", "/etc/ingle/functions.d", path),
                watchdog: from.get("functions.watchdog", "/usr/local/lib/ingle/fwatchdog", path),
                handler_limit: from.get("functions.handler_limit", "64Mi", size),
            },
            containerd: Containerd {
                socket: from.get("containerd.socket", "/run/containerd/containerd.sock", path),
                namespace: from.get("containerd.namespace", "ingle", text),
                snapshotter: from.get("containerd.snapshotter", "", |name| {
                    Ok(Some(name.to_owned()).filter(|n| !n.is_empty()))
                }),
                oci_runtime: from.get("containerd.oci_runtime", "runc", text),
            },
            images: Images {
                allowed: from.get("images.allowed", "*", images),
                pull_policy: from.get("images.pull_policy", "Always", str::parse),
                docker_config: from.get("images.docker_config", "/root/.docker/config.json", path),
                certs_dir: from.get("images.certs_dir", "/etc/containerd/certs.d", path),
                parallel_layers: from.get("images.parallel_layers", "4", count),
                least_rate: from.get("images.least_rate", "1Ki", size),
                unpack_ratio: from.get("images.unpack_ratio", "3", ratio),
                max_archive: from.get("images.max_archive", "16Gi", size),
                keep_unused: from.get("images.keep_unused", "1h", duration),
                disk_watermark: from.get("images.disk_watermark", "85%", percent),
                disk_target: from.get("images.disk_target", "80%", percent),
            },
            network: Network {
                conflist: from.get("network.conflist", "/etc/cni/net.d/10-ingle.conflist", path),
                plugin_dir: from.get("network.plugin_dir", "/usr/lib/cni", path),
                resolv_conf: from.get("network.resolv_conf", "/etc/ingle/resolv.conf", path),
                allow: from.get("network.allow", "", networks),
            },
            logs: Logs {
                file_limit: from.get("logs.file_limit", "10Mi", size),
                line_limit: from.get("logs.line_limit", "64Ki", size),
                journal: from.get("logs.journal", "true", boolean),
            },
            queue: Queue {
                body_limit: from.get("queue.body_limit", "10Mi", size),
                max_calls: from.get("queue.max_calls", "100000", count),
                max_size: from.get("queue.max_size", "1Gi", size),
                max_age: from.get("queue.max_age", "24h", duration),
                keep_dead: from.get("queue.keep_dead", "168h", duration),
                max_dead: from.get("queue.max_dead", "10000", count),
                max_dead_size: from.get("queue.max_dead_size", "1Gi", size),
                parallel_calls: from.get("queue.parallel_calls", "100", count),
                parallel_calls_per_queue: from.get("queue.parallel_calls_per_queue", "100", count),
                parallel_calls_per_function: from.get("queue.parallel_calls_per_function", "10", count),
                retry: RetryPolicy {
                    attempts: from.get("queue.retry_attempts", "10", attempts),
                    codes: from.get("queue.retry_codes", "408,429,500,502,504", str::parse),
                    min_wait: from.get("queue.retry_min_wait", "10s", duration),
                    max_wait: from.get("queue.retry_max_wait", "120s", duration),
                    jitter: from.get("queue.retry_jitter", "equal", str::parse),
                },
                keep_records: from.get("queue.keep_records", "24h", duration),
                max_records: from.get("queue.max_records", "10000", |text| {
                    text.parse().map_err(|_| "is not a whole number".into())
                }),
                keep_results: from.get("queue.keep_results", "24h", duration),
                max_results_size: from.get("queue.max_results_size", "256Mi", size),
                answer_limit: from.get("queue.answer_limit", "10Mi", size),
                callback_timeout: from.get("queue.callback_timeout", "30s", duration),
                callback_hosts: from.get("queue.callback_hosts", "", hosts),
                callback_networks: from.get("queue.callback_networks", "", networks),
                callback_secret_file: from.get("queue.callback_secret_file", "", |text| {
                    (!text.is_empty()).then(|| path(text)).transpose()
                }),
            },
            daemon: Daemon {
                state_dir: from.get("daemon.state_dir", "/var/lib/ingle", path),
                run_dir: from.get("daemon.run_dir", "/run/ingle", path),
                log: from.get("daemon.log", "info", text),
                threads: from.get("daemon.threads", &cores.min(MAX_THREADS).to_string(), threads),
            },
        }
    }
}

/// The name of the variable that overrides `key`.
fn variable_of(key: &str) -> String {
    format!("INGLE_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Hands out values and collects mistakes; notes the keys that there are, with their defaults.
struct Reader<'a> {
    table: toml::Table,
    variable: &'a dyn Fn(&str) -> Option<String>,
    known: BTreeMap<&'static str, String>,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    /// The value of `key`: from its variable, else the file, else `default`. A mistake is noted, and
    /// the default stands in, so that reading goes on to the next mistake.
    fn get<T>(&mut self, key: &'static str, default: &str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.known.insert(key, default.to_owned());
        let variable = variable_of(key);
        let found = match (self.variable)(&variable) {
            Some(text) => Some((format!("{variable}={text:?}"), text)),
            None => self.in_file(key),
        };
        if let Some((shown, text)) = found {
            match parse(&text) {
                Ok(value) => return value,
                Err(reason) => self.mistakes.push(format!("{shown}: {reason}")),
            }
        }
        parse(default).unwrap_or_else(|reason| unreachable!("the default of {key} does not parse: {reason}"))
    }

    /// Returns whether the file or the environment has a value for `key`.
    fn is_named(&self, key: &str) -> bool {
        let in_file = |(section, name)| self.table.get(section)?.get(name);
        (self.variable)(&variable_of(key)).is_some() || key.split_once('.').and_then(in_file).is_some()
    }

    /// The file's value as text, and how to show it in a mistake.
    fn in_file(&mut self, key: &str) -> Option<(String, String)> {
        let (section, name) = key.split_once('.')?;
        let value = self.table.get(section)?.as_table()?.get(name)?;
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(_) | toml::Value::Boolean(_) => value.to_string(),
            toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => {
                self.mistakes.push(format!("{key}: a {} does not fit here", other.type_str()));
                return None;
            }
        };
        Some((format!("{key} = {value}"), text))
    }

    fn refuse_unknown(&mut self) {
        for (section, value) in &self.table {
            let Some(table) = value.as_table() else {
                self.mistakes.push(format!("{section}: stands outside of a [section]"));
                continue;
            };
            for name in table.keys() {
                let key = format!("{section}.{name}");
                if !self.known.contains_key(key.as_str()) {
                    self.mistakes.push(format!("{key}: there is no such key (see docs/configuration.md)"));
                }
            }
        }
    }
}

fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) }
}

fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("is not an absolute path".into()) }
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "write true or false".into())
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "is not a whole number above 0".into())
}

fn ratio(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "is not a whole number".into())
}

fn threads(text: &str) -> Result<usize, String> {
    let threads = count(text)?;
    if threads > MAX_THREADS { Err(format!("is over {MAX_THREADS}")) } else { Ok(threads) }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not an address and port such as 0.0.0.0:8080 or [::]:8080".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).map_err(|_| "is not a duration (use 30s, 5m, 1h)".to_owned())?;
    if time.is_zero() { Err("is 0 (use 30s, 5m, 1h)".into()) } else { Ok(time) }
}

fn size<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let bytes = Memory::parse_any(text).map_err(|_| "is not a size (use 64Ki, 100Mi, 1Gi)".to_owned())?;
    T::try_from(bytes).map_err(|_| "is too large".into())
}

fn percent(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
    number.filter(|number| *number <= 100).ok_or_else(|| "is not a share from 0% to 100%".into())
}

fn memory(text: &str) -> Result<MemoryDefault, String> {
    if text.ends_with('%') {
        let share = percent(text)?;
        return if share == 0 { Err("is 0%".into()) } else { Ok(MemoryDefault::Share(share)) };
    }
    match Memory::parse(text)?.bytes() {
        0 => Err("is 0, with which no container can start".into()),
        bytes => Ok(MemoryDefault::Bytes(bytes)),
    }
}

fn images(text: &str) -> Result<Vec<ImagePattern>, String> {
    let patterns: Vec<ImagePattern> = list(text).iter().map(|item| item.parse()).collect::<Result<_, _>>()?;
    if patterns.is_empty() { Err("names none: write * for all images".into()) } else { Ok(patterns) }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    list(text)
        .iter()
        .map(|item| {
            item.parse::<IpNet>()
                .or_else(|_| item.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| format!("{item:?} is not an address or network such as 192.168.1.0/24"))
        })
        .collect()
}

/// Names of hosts, or `*.` and what they end with.
fn hosts(text: &str) -> Result<HostPatterns, String> {
    let is_name = |name: &str| {
        let is_allowed = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'[' | b']')
        };
        !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_allowed)
    };
    list(text)
        .into_iter()
        .map(|item| match is_name(item.strip_prefix("*.").unwrap_or(&item)) {
            true => Ok(item.trim_end_matches('.').to_ascii_lowercase()),
            false => Err(format!("{item:?} is not a host such as example.org or *.example.org")),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(HostPatterns::from)
}

#[cfg(test)]
mod tests;
