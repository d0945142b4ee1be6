//! The OCI document of a replica: what the runtime makes a container from.
//!
//! It is pure: everything that has to be looked up on the machine or in the image comes in with
//! [`Inputs`]. The defaults are Docker's, except that there are no capabilities.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::seccomp::{self, Programs};
use super::user::User;
use crate::runtime::{ContainerRequest, ImageConfig, RuntimeError};
use model::function::ReplicaId;

/// The size of `/tmp` under a read-only root.
const TMP_SIZE: &str = "64m";
/// Open files at most: enough for any server, and few enough for programs that walk through all
/// numbers.
pub(super) const OPEN_FILES: u64 = 65_536;
/// Functions are killed for want of memory before what serves them is.
const OOM_SCORE: i32 = 500;
/// The period that processor time is given out in, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// The least quota that the kernel takes, in microseconds.
const MIN_CPU_QUOTA: u64 = 1_000;
/// The least share that the kernel takes.
const MIN_CPU_SHARES: u64 = 2;
/// The longest host name.
const MAX_HOSTNAME: usize = 63;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of the host's `/proc` and `/sys` is hidden, besides [`Inputs::masked`].
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What of the host's `/proc` cannot be written.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Everything that the document is made from.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    /// What the caller wants.
    pub(super) request: &'a ContainerRequest,
    /// What the image's user means.
    pub(super) user: &'a User,
    /// Directories that the image declares as volumes, from its root and without links.
    pub(super) volumes: &'a [PathBuf],
    /// Capabilities that every function gets, with their `CAP_` prefix.
    pub(super) capabilities: &'a [String],
    /// The directory of control groups, by containerd's namespace.
    pub(super) namespace: &'a str,
    /// Whether this machine has control groups of version 2 only.
    pub(super) unified: bool,
    /// Whether swap can be limited.
    pub(super) limits_swap: bool,
    /// What else of this machine's `/sys` is hidden.
    pub(super) masked: &'a [String],
    /// How many files may be open.
    pub(super) open_files: u64,
}

/// Where containers see this machine's watchdog: where images have theirs.
const WATCHDOG: &str = "/usr/bin/fwatchdog";

/// Where commands start that have a handler, which is below it: `python3 function/handler.py`, as function images
/// have it.
const HOME: &str = "/home/app";

/// The command of an image's container, as Docker composes it.
pub(super) fn command(request: &ContainerRequest) -> Result<Vec<&str>, RuntimeError> {
    if request.watchdog.is_some() {
        return Ok(vec![WATCHDOG]);
    }
    let config = &request.image.resolved.config;
    let entrypoint = match &config.entrypoint[..] {
        // How a Dockerfile takes the entrypoint of its base image away.
        [word] if word.is_empty() => &[],
        words => words,
    };
    let command: Vec<&str> = entrypoint.iter().chain(&config.cmd).map(String::as_str).collect();
    if command.iter().all(|word| word.is_empty()) {
        return Err(RuntimeError::NoCommand { image: request.spec.image.to_string() });
    }
    Ok(command)
}

/// The document.
pub(super) fn document(inputs: &Inputs<'_>) -> Result<Value, RuntimeError> {
    let Inputs { request, user, .. } = inputs;
    let spec = &request.spec;
    let masked = inputs.masked.iter().map(String::as_str);
    let mut capabilities: Vec<String> =
        inputs.capabilities.iter().chain(&spec.capabilities).cloned().collect();
    capabilities.sort_unstable();
    capabilities.dedup();
    // Root has what it is permitted; another user keeps it only as ambient, which the kernel wants
    // to be inheritable too.
    let kept: &[String] = if user.uid == 0 { &[] } else { &capabilities };
    let is_32bit = spec.programs_32bit || request.image.resolved.config.programs_32bit;
    let programs = if is_32bit { Programs::Native32 } else { Programs::Native };
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": command(request)?,
            "env": environment(&request.image.resolved.config, request),
            "cwd": working_directory(request),
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids },
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
                "inheritable": kept,
                "ambient": kept,
            },
            "noNewPrivileges": true,
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": inputs.open_files, "hard": inputs.open_files }],
            "oomScoreAdj": OOM_SCORE,
        },
        "root": { "path": "rootfs", "readonly": spec.read_only_root },
        "hostname": hostname(&request.id),
        "mounts": mounts(request, inputs.volumes),
        "linux": {
            "cgroupsPath": cgroup(inputs.namespace, &request.id),
            "namespaces": namespaces(&request.netns, inputs.unified),
            "resources": resources(request, inputs.limits_swap),
            // The network namespace is the replica's own: ports below 1024 are nobody else's in it.
            "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0" },
            "maskedPaths": MASKED_PATHS.iter().copied().chain(masked).collect::<Vec<_>>(),
            "readonlyPaths": READONLY_PATHS,
            "seccomp": seccomp::section(std::env::consts::ARCH, &capabilities, programs),
        },
    }))
}

/// Where a replica's control groups are. It is a path in the file system's own terms, which every
/// init system leaves alone, rather than a unit of systemd's, which is not everywhere.
fn cgroup(namespace: &str, id: &ReplicaId) -> String {
    format!("/{namespace}/{id}")
}

/// Variables, each once: the image's are weaker than the daemon's, these weaker than the function's.
fn environment(config: &ImageConfig, request: &ContainerRequest) -> Vec<String> {
    let mut variables: BTreeMap<&str, &str> =
        BTreeMap::from([("PATH", DEFAULT_PATH), ("HOSTNAME", hostname(&request.id))]);
    // A line without a name, or without a value, is no variable: runtimes refuse it.
    let lines = config.env.iter().filter_map(|line| line.split_once('='));
    variables.extend(lines.filter(|(name, _)| !name.is_empty()));
    for stronger in [&request.env, &request.spec.env_vars] {
        variables.extend(stronger.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    }
    if let Some(process) = &request.spec.env_process {
        variables.insert("fprocess", process);
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn working_directory(request: &ContainerRequest) -> String {
    if request.spec.handler.is_some() {
        return HOME.to_owned();
    }
    match request.image.resolved.config.working_dir.as_str() {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    }
}

/// The id, cut to what a host name may have; its end is what tells replicas apart.
fn hostname(id: &ReplicaId) -> &str {
    let text = id.as_str();
    text[text.len().saturating_sub(MAX_HOSTNAME)..].trim_start_matches('-')
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}

/// Directories that are mounted whatever the image says.
const KERNEL: [&str; 3] = ["proc", "sys", "dev"];

fn mounts(request: &ContainerRequest, volumes: &[PathBuf]) -> Vec<Value> {
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    if request.spec.read_only_root {
        // The replica's own layer, where the root above it cannot be written. The source is seen from the bundle.
        let own = |path: &Path| {
            let path = path.display();
            mount(&format!("/{path}"), "bind", &format!("rootfs/{path}"), &["bind", "nosuid", "nodev"])
        };
        let is_shown = |path: &Path| {
            !path.as_os_str().is_empty() && !KERNEL.iter().any(|kernels| path.starts_with(kernels))
        };
        let tmp = Path::new("tmp");
        let mut volumes: Vec<&Path> =
            volumes.iter().map(PathBuf::as_path).filter(|path| is_shown(path)).collect();
        if volumes.iter().any(|path| path.starts_with(tmp)) {
            // What is mounted there would hide them.
            volumes.push(tmp);
        } else {
            // Programs may be run from it: many language runtimes unpack libraries there.
            let size = format!("size={TMP_SIZE}");
            mounts.push(mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777", &size]));
        }
        volumes.sort_unstable();
        volumes.dedup();
        mounts.extend(volumes.into_iter().map(own));
    }
    if let Some(watchdog) = &request.watchdog {
        let source = watchdog.display().to_string();
        mounts.push(mount(WATCHDOG, "bind", &source, &["bind", "ro", "nosuid", "nodev"]));
    }
    let options = ["rbind", "ro", "nosuid", "nodev", "noexec"];
    for shown in &request.mounts {
        mounts.push(json!({
            "destination": shown.target,
            "type": "bind",
            "source": shown.source,
            "options": if shown.holds_programs { &options[..4] } else { &options },
        }));
    }
    mounts
}

fn namespaces(netns: &Path, unified: bool) -> Vec<Value> {
    let mut namespaces: Vec<Value> =
        ["pid", "ipc", "uts", "mount"].iter().map(|kind| json!({ "type": kind })).collect();
    namespaces.push(json!({ "type": "network", "path": netns }));
    if unified {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    namespaces
}

fn resources(request: &ContainerRequest, limits_swap: bool) -> Value {
    let ContainerRequest { spec, pids, .. } = request;
    let mut resources = json!({
        // The runtime adds the harmless ones (null, zero, random, tty, ...) to any list.
        "devices": [{ "allow": false, "access": "rwm" }],
        "pids": { "limit": pids },
    });
    if let Some(bytes) = request.memory {
        // Swap is not limited, so that unused pages may be swapped out: -1 is `max` in memory.swap.max, and
        // no limit of memory.memsw in version 1. Without swap accounting nothing limits it anyway.
        resources["memory"] =
            if limits_swap { json!({ "limit": bytes, "swap": -1 }) } else { json!({ "limit": bytes }) };
    }
    let mut cpu = serde_json::Map::new();
    if let Some(limit) = &spec.limits.cpu {
        let quota = limit.millis().saturating_mul(CPU_PERIOD / 1_000).max(MIN_CPU_QUOTA);
        cpu.insert("period".into(), CPU_PERIOD.into());
        cpu.insert("quota".into(), quota.into());
    }
    if let Some(request) = &spec.requests.cpu {
        let shares = (request.millis().saturating_mul(1024) / 1_000).clamp(MIN_CPU_SHARES, 262_144);
        cpu.insert("shares".into(), shares.into());
    }
    if !cpu.is_empty() {
        resources["cpu"] = cpu.into();
    }
    resources
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use model::function::{FunctionSpec, Incarnation, Memory};

    use super::*;
    use crate::runtime::{Image, Mount, ResolvedImage, Stdio};

    fn request(deployment: Value, config: ImageConfig) -> ContainerRequest {
        let deployment = serde_json::from_value(deployment).expect("a deployment");
        let spec = FunctionSpec::try_from(&deployment).expect("valid");
        let memory = spec.limits.memory.as_ref().map(Memory::bytes);
        ContainerRequest {
            id: ReplicaId::new(&spec.key.name, 7),
            image: Arc::new(Image {
                resolved: ResolvedImage {
                    image: spec.image.clone(),
                    digest: "sha256:1".into(),
                    manifest_digest: "sha256:2".into(),
                    config,
                    size: 1,
                },
                chain_id: "sha256:3".into(),
            }),
            spec: Arc::new(spec),
            revision: 1,
            incarnation: Incarnation::new(7),
            state: "state".into(),
            record: b"record".to_vec(),
            address: Ipv4Addr::LOCALHOST.into(),
            netns: "/run/netns/x".into(),
            stdio: Stdio { stdout: "/o".into(), stderr: "/e".into() },
            mounts: vec![Mount {
                source: "/run/x/hosts".into(),
                target: "/etc/hosts".into(),
                holds_programs: false,
            }],
            env: BTreeMap::from([("A".into(), "daemon".into()), ("B".into(), "daemon".into())]),
            pids: 99,
            memory,
            watchdog: None,
        }
    }

    fn config() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/bin/watchdog".into()],
            cmd: vec!["serve".into()],
            env: vec!["A=image".into(), "B=image".into(), "C=image=x".into()],
            working_dir: "/home/app".into(),
            user: "app".into(),
            ..ImageConfig::default()
        }
    }

    fn built(request: &ContainerRequest, user: &User, unified: bool) -> Value {
        let inputs = Inputs {
            request,
            user,
            volumes: &["data".into(), "proc/x".into(), "".into()],
            capabilities: &[],
            namespace: "ingle",
            unified,
            limits_swap: true,
            masked: &["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
            open_files: OPEN_FILES,
        };
        document(&inputs).expect("a document")
    }

    fn full() -> Value {
        json!({
            "service": "env", "image": "a/b:1", "envProcess": "cat -n", "envVars": { "A": "function" },
            "readOnlyRootFilesystem": true,
            "annotations": { "ingle.capabilities": "CAP_NET_RAW" },
            "limits": { "memory": "64Mi", "cpu": "250m" }, "requests": { "cpu": "100m" },
        })
    }

    #[test]
    fn every_key_is_one_that_the_specification_has() {
        let user = User { uid: 1000, gid: 1000, additional_gids: vec![5] };
        let ours = built(&request(full(), config()), &user, true);
        let typed: oci_spec::runtime::Spec = serde_json::from_value(ours.clone()).expect("an OCI document");
        let mut theirs = serde_json::to_value(typed).expect("serialisable");
        // Sets, which they sort in their own way.
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            theirs["process"]["capabilities"][set] = ours["process"]["capabilities"][set].clone();
        }
        assert_eq!(ours, theirs);
    }

    #[test]
    fn this_machines_watchdog_runs_instead_of_the_images_command() {
        let watchdog = Some("/usr/local/lib/ingle/fwatchdog".into());
        let request = ContainerRequest { watchdog, ..request(full(), ImageConfig::default()) };
        let document = built(&request, &User::default(), false);
        assert_eq!(document["process"]["args"], json!(["/usr/bin/fwatchdog"]));
        let mounts = document["mounts"].as_array().expect("a list");
        let shown =
            mounts.iter().find(|mount| mount["destination"] == "/usr/bin/fwatchdog").expect("a mount");
        assert_eq!(shown["source"], "/usr/local/lib/ingle/fwatchdog");
        assert_eq!(shown["options"], json!(["bind", "ro", "nosuid", "nodev"]), "it must be run from there");
    }

    #[test]
    fn the_command_is_entrypoint_and_cmd() {
        let built = built(&request(full(), config()), &User::default(), false);
        assert_eq!(built["process"]["args"], json!(["/bin/watchdog", "serve"]));
        assert_eq!(built["process"]["cwd"], "/home/app");

        let error = command(&request(full(), ImageConfig::default())).expect_err("no command");
        assert!(matches!(error, RuntimeError::NoCommand { image } if image == "a/b:1"));
    }

    #[test]
    fn an_entrypoint_of_one_empty_word_is_none() {
        let of = |entrypoint: &[&str], cmd: &[&str]| {
            let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            let config = ImageConfig { entrypoint: words(entrypoint), cmd: words(cmd), ..config() };
            command(&request(full(), config)).map(|words| words.join(" ")).ok()
        };
        assert_eq!(of(&[""], &["/serve", "one"]).as_deref(), Some("/serve one"));
        assert_eq!(of(&[], &["/serve"]).as_deref(), Some("/serve"));
        assert_eq!(of(&["/entry"], &["", "one"]).as_deref(), Some("/entry  one"));
        assert_eq!(of(&[""], &[]), None);
        assert_eq!(of(&[""], &[""]), None);
    }

    #[test]
    fn a_working_directory_is_absolute() {
        for (said, wanted) in [("", "/"), ("srv", "/srv"), ("./a", "/./a"), ("/home/app", "/home/app")] {
            let config = ImageConfig { working_dir: said.into(), ..config() };
            let built = built(&request(full(), config), &User::default(), false);
            assert_eq!(built["process"]["cwd"], wanted, "{said:?}");
        }
    }

    #[test]
    fn a_line_that_is_no_variable_is_left_out() {
        let env = ["NAME", "=value", "", "GOOD==x", "EMPTY="].map(str::to_owned).to_vec();
        let config = ImageConfig { env, ..config() };
        let built = built(&request(full(), config), &User::default(), false);
        let env: Vec<&str> =
            built["process"]["env"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert!(env.contains(&"GOOD==x") && env.contains(&"EMPTY="), "{env:?}");
        assert!(env.iter().all(|line| !line.starts_with('=') && line.contains('=')), "{env:?}");
        assert!(!env.iter().any(|line| line.starts_with("NAME")), "{env:?}");
    }

    #[test]
    fn a_volume_is_the_replicas_own_under_a_read_only_root() {
        let mounted = |deployment: Value| {
            let built = built(&request(deployment, config()), &User::default(), false);
            let mounts = built["mounts"].as_array().expect("a list").clone();
            let sources: Vec<_> =
                mounts.iter().filter_map(|mount| mount["source"].as_str()).map(str::to_owned).collect();
            (sources.into_iter().filter(|source| source.starts_with("rootfs")).collect::<Vec<_>>(), mounts)
        };
        let (bound, mounts) = mounted(full());
        assert_eq!(bound, ["rootfs/data"]);
        let position = |target: &str| mounts.iter().position(|mount| mount["destination"] == target);
        assert!(position("/tmp") < position("/data") && position("/data") < position("/etc/hosts"));
        assert!(mounted(json!({ "service": "env", "image": "a/b:1" })).0.is_empty());
        // One below /tmp is not hidden by what is mounted there.
        let below = super::mounts(&request(full(), config()), &["tmp/a/b".into()]);
        let at =
            |target: &str| below.iter().find(|mount| mount["destination"] == target).expect(target).clone();
        assert_eq!(
            (&at("/tmp")["source"], &at("/tmp/a/b")["source"]),
            (&json!("rootfs/tmp"), &json!("rootfs/tmp/a/b"))
        );
    }

    #[test]
    fn an_image_of_32_bits_runs_without_being_told() {
        let architectures = |programs_32bit| {
            let config = ImageConfig { programs_32bit, ..config() };
            built(&request(full(), config), &User::default(), false)["linux"]["seccomp"]["architectures"]
                .clone()
        };
        assert_ne!(architectures(true), architectures(false));
    }

    #[test]
    fn the_functions_own_variables_are_strongest() {
        let built = built(&request(full(), config()), &User::default(), false);
        let env = built["process"]["env"].as_array().expect("a list");
        for line in
            ["A=function", "B=daemon", "C=image=x", "fprocess=cat -n", &format!("PATH={DEFAULT_PATH}")]
        {
            assert!(env.iter().any(|found| found == line), "{line} is not in {env:?}");
        }
    }

    #[test]
    fn limits_become_those_of_control_groups() {
        let built = built(&request(full(), config()), &User::default(), false);
        let resources = &built["linux"]["resources"];
        assert_eq!(resources["memory"]["limit"], 64 << 20);
        assert_eq!(resources["cpu"], json!({ "period": 100_000, "quota": 25_000, "shares": 102 }));
        assert_eq!(resources["pids"]["limit"], 99);
        assert_eq!(built["linux"]["cgroupsPath"], "/ingle/env-0000000007");
    }

    #[test]
    fn a_memory_limit_does_not_limit_swap() {
        let request = ContainerRequest { memory: Some(1 << 30), ..request(full(), config()) };
        let user = User::default();
        let memory = |limits_swap, unified| {
            let inputs = Inputs {
                request: &request,
                user: &user,
                volumes: &[],
                capabilities: &[],
                namespace: "ingle",
                unified,
                limits_swap,
                masked: &[],
                open_files: OPEN_FILES,
            };
            document(&inputs).expect("a document")["linux"]["resources"]["memory"].clone()
        };
        // A limit of memory and swap together that equals that of memory would become `memory.swap.max = 0`.
        for unified in [true, false] {
            assert_eq!(memory(true, unified), json!({ "limit": 1 << 30, "swap": -1 }));
        }
        assert_eq!(
            memory(false, false),
            json!({ "limit": 1 << 30 }),
            "without swap accounting it cannot be written"
        );
    }

    #[test]
    fn capabilities_reach_a_user_that_is_not_root() {
        let request = request(full(), config());
        let root = built(&request, &User::default(), false);
        let other = built(&request, &User { uid: 9, ..User::default() }, false);
        let of = |built: &Value, set: &str| built["process"]["capabilities"][set].clone();
        assert_eq!(of(&root, "effective"), json!(["CAP_NET_RAW"]));
        assert_eq!(of(&root, "ambient"), json!([]));
        assert_eq!(of(&other, "ambient"), json!(["CAP_NET_RAW"]));
        assert_eq!(of(&other, "inheritable"), json!(["CAP_NET_RAW"]));
    }

    #[test]
    fn a_plain_function_has_none_of_it() {
        let request = request(json!({ "service": "env", "image": "a/b:1" }), config());
        let built = built(&request, &User::default(), false);
        assert_eq!(built["process"]["capabilities"]["bounding"], json!([]));
        assert_eq!(built["process"]["noNewPrivileges"], true);
        assert_eq!(built["root"]["readonly"], false);
        assert!(built["linux"]["resources"].get("memory").is_none());
        assert!(built["linux"]["resources"].get("cpu").is_none());
        let mounts = built["mounts"].as_array().expect("a list");
        assert!(!mounts.iter().any(|mount| mount["destination"] == "/tmp"));
        let hosts = mounts.iter().find(|mount| mount["destination"] == "/etc/hosts").expect("a mount");
        assert!(hosts["options"].as_array().expect("a list").contains(&json!("ro")));
        let namespaces = built["linux"]["namespaces"].as_array().expect("a list");
        assert!(namespaces.contains(&json!({ "type": "network", "path": "/run/netns/x" })));
        assert!(!namespaces.contains(&json!({ "type": "cgroup" })));
    }
}
