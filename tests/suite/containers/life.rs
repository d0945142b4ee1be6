//! How containers come and go, also when containerd or a shim does.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use host::runtime::containerd::Containerd;
use host::runtime::{ContainerState, Runtime, RuntimeError, RuntimeEvent};
use model::function::ReplicaId;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::room::{Room, event, require_containerd};
use crate::support::TemporaryDirectory;
use crate::support::{Behaviour, exit_code, runtime_contract};

/// Says that it is ready, and leaves with code 0 when it gets SIGTERM.
const POLITE: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";

#[tokio::test]
async fn the_contract_of_runtimes_is_kept() {
    require_containerd!();
    let room = Room::new().await;
    let (outputs, pipes) = (Mutex::new(HashMap::new()), Mutex::new(Vec::new()));
    let request = |behaviour| {
        let request = match behaviour {
            Behaviour::Serves => room.script(json!({}), POLITE),
            Behaviour::IgnoresTerm => {
                room.script(json!({}), "trap '' TERM; echo ready; while :; do sleep 0.05; done")
            }
            Behaviour::Exits(code) => room.script(json!({}), &format!("exit {code}")),
        };
        outputs.lock().expect("no panic").insert(request.id.clone(), room.read(&request).0);
        // As the daemon does: both ends, so that the reader outlasts one container.
        for path in [&request.stdio.stdout, &request.stdio.stderr] {
            let pipe = fs::File::options().read(true).write(true).open(path).expect("open the fifo");
            pipes.lock().expect("no panic").push(pipe);
        }
        request
    };
    let ready = async |id: &ReplicaId| {
        let output = outputs.lock().expect("no panic")[id].clone();
        eventually!(output.text().contains("ready"), "{id} is not ready");
    };
    runtime_contract(room.runtime.clone(), request, ready).await;
    assert_eq!(room.leftovers().await, [""; 0]);
}

/// The directory of the freezer that holds a process, in either layout.
fn freezer(pid: u32) -> (std::path::PathBuf, &'static str, &'static str) {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("control groups");
    let of =
        |name: &str| text.lines().find_map(|line| line.split_once(name).map(|(_, path)| path.to_owned()));
    match of(":freezer:") {
        Some(path) => (format!("/sys/fs/cgroup/freezer{path}/freezer.state").into(), "FROZEN", "FROZEN"),
        None => {
            let path = of("0::").expect("a unified hierarchy");
            (format!("/sys/fs/cgroup{path}/cgroup.freeze").into(), "1", "1")
        }
    }
}

async fn running(room: &Room, id: &ReplicaId) -> u32 {
    let listed = room.runtime.containers().await.expect("a list");
    match listed.into_iter().find(|container| container.id == *id).map(|container| container.state) {
        Some(ContainerState::Running { pid }) => pid,
        other => panic!("{id} is {other:?}"),
    }
}

#[tokio::test]
async fn a_frozen_replica_still_leaves_politely() {
    require_containerd!();
    let room = Room::new().await;
    let mut events = room.runtime.events();
    for paused in [false, true] {
        let request = room.script(json!({}), POLITE);
        room.start(&request).await;
        let pid = running(&room, &request.id).await;
        let (file, freeze, frozen) = freezer(pid);
        if paused {
            let done = room.containerd.ctr(&["tasks", "pause", request.id.as_str()]);
            assert!(done.status.success(), "{done:?}");
            let listed = room.runtime.containers().await.expect("a list");
            assert_eq!(listed[0].state, ContainerState::Paused);
        } else {
            fs::write(&file, freeze).expect("freeze");
        }
        eventually!(fs::read_to_string(&file).expect("a state").trim() == frozen, "it does not freeze");
        let started = std::time::Instant::now();
        room.runtime.stop(&request.id, Duration::from_secs(10)).await.expect("stopped");
        assert_eq!(exit_code(&mut events, &request.id).await, 0, "it handled SIGTERM");
        assert!(started.elapsed() < Duration::from_secs(5), "the grace was not used up");
        room.runtime.remove(&request.id).await.expect("removed");

        // And it can be removed as it is.
        let request = room.script(json!({}), POLITE);
        room.start(&request).await;
        fs::write(freezer(running(&room, &request.id).await).0, freeze).expect("freeze");
        room.runtime.remove(&request.id).await.expect("removed");
    }
    assert_eq!(room.leftovers().await, [""; 0]);
}

#[tokio::test]
async fn control_groups_that_a_killed_oci_runtime_left_are_removed_with_what_runs_in_them() {
    require_containerd!();
    let room = Room::new().await;
    let request = room.script(json!({}), POLITE);
    room.runtime.prepare(&request.layer()).await.expect("prepared");
    // As runc leaves them that is killed between making them and writing down that it has.
    let roots = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let roots = roots.lines().filter(|line| line.contains(" - cgroup"));
    let groups: Vec<_> = roots
        .filter_map(|line| line.split(' ').nth(4))
        .map(|root| Path::new(root).join(room.containerd.namespace()).join(request.id.as_str()))
        .collect();
    let mut left = Command::new("sleep").arg("600").spawn().expect("start a process");
    for group in &groups {
        fs::create_dir_all(group).expect("make a control group");
        // Those of processors refuse processes until they are set up.
        let _ = fs::write(group.join("cgroup.procs"), left.id().to_string());
    }
    room.runtime.remove(&request.id).await.expect("removed");
    let there: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
    assert!(there.is_empty(), "{there:?}");
    let ended = left.wait().expect("wait for the process");
    assert_eq!(ended.signal(), Some(9));
    assert_eq!(room.leftovers().await, [""; 0]);
}

#[tokio::test]
async fn a_replica_whose_shim_was_killed_is_ended_and_removed() {
    require_containerd!();
    let room = Room::new().await;
    for removed_at_once in [false, true] {
        let mut events = room.runtime.events();
        let request = room.script(json!({}), POLITE);
        room.start(&request).await;
        let pid = running(&room, &request.id).await;
        let socket = room.containerd.shim_socket(request.id.as_str());
        assert!(fs::exists(&socket).expect("a directory"), "its shim listens somewhere else");
        for (shim, _) in room.containerd.shims() {
            kill(Pid::from_raw(shim.cast_signed()), Signal::SIGKILL).expect("kill the shim");
        }
        if removed_at_once {
            room.runtime.remove(&request.id).await.expect("removed");
        } else {
            exit_code(&mut events, &request.id).await;
            room.runtime.stop(&request.id, Duration::from_secs(5)).await.expect("nothing runs");
            room.runtime.remove(&request.id).await.expect("removed");
        }
        eventually!(!fs::exists(format!("/proc/{pid}")).expect("proc"), "its process still runs");
        assert!(!fs::exists(&socket).expect("a directory"), "its shim's socket is left");
        assert_eq!(room.leftovers().await, [""; 0]);
        assert_eq!(groups(&room, &request.id), [""; 0]);
    }
}

#[tokio::test]
async fn a_shim_and_notes_that_containerd_knows_nothing_of_are_removed() {
    require_containerd!();
    let mut room = Room::new().await;
    let request = room.script(json!({}), POLITE);
    let id = request.id.clone();
    room.start(&request).await;
    let pid = running(&room, &id).await;
    let shims = room.containerd.shims();
    let [(shim, _)] = shims[..] else { panic!("{shims:?}") };
    // As when containerd is killed before it notes that there is a shim.
    room.containerd.end(Signal::SIGKILL);
    let bundles = room.containerd.path().join("state/io.containerd.runtime.v2.task");
    let bundle = bundles.join(room.containerd.namespace()).join(id.as_str());
    umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH).expect("it is mounted");
    fs::remove_dir_all(&bundle).expect("it is there");
    room.containerd.resume().await;
    let socket = room.containerd.shim_socket(id.as_str());
    let state = Path::new("/run/containerd/runc").join(room.containerd.namespace()).join(id.as_str());
    let runs = |pid| fs::exists(format!("/proc/{pid}/exe")).expect("proc");
    assert!(runs(shim) && runs(pid) && socket.exists() && state.exists(), "containerd has ended it");

    eventually!(room.runtime.remove(&id).await.is_ok(), "it is not removed");
    eventually!(!runs(shim) && !runs(pid), "it still runs");
    assert!(!socket.exists() && !state.exists(), "{} or {}", socket.display(), state.display());
    assert_eq!(room.leftovers().await, [""; 0]);
    assert_eq!(groups(&room, &id), [""; 0]);
}

/// The control groups of a replica.
fn groups(room: &Room, id: &ReplicaId) -> Vec<String> {
    hierarchies()
        .map(|root| root.join(room.containerd.namespace()).join(id.as_str()))
        .filter(|group| group.exists())
        .map(|group| group.display().to_string())
        .collect()
}

/// Where control groups can be made.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let below = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    let all: Vec<PathBuf> = below.chain([root.clone()]).collect();
    all.into_iter().filter(|root| root.join("cgroup.procs").exists() && !root.ends_with("cpuset"))
}

#[tokio::test]
async fn control_groups_that_no_container_has_are_listed_once_they_stay_empty() {
    require_containerd!();
    let room = Room::new().await;
    let request = room.script(json!({}), POLITE);
    room.start(&request).await;
    let listed = async || {
        let found = room.runtime.containers().await.expect("a list");
        found.into_iter().map(|container| (container.id, container.state)).collect::<Vec<_>>()
    };
    let running = listed().await;
    let stray = ReplicaId::from_existing("stray-0000000001");
    for root in hierarchies() {
        let group = root.join(room.containerd.namespace()).join(stray.as_str());
        fs::create_dir_all(group).expect("a control group");
    }
    assert_eq!(listed().await, running, "it may be about to be filled");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    let mut both = running.clone();
    both.push((stray.clone(), ContainerState::NoTask));
    both.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(listed().await, both);
    room.runtime.remove(&stray).await.expect("removed");
    assert_eq!(groups(&room, &stray), [""; 0]);
    assert_eq!(listed().await, running);
    assert!(!groups(&room, &request.id).is_empty());
    room.runtime.remove(&request.id).await.expect("removed");
    assert_eq!(groups(&room, &request.id), [""; 0]);
    assert_eq!(room.leftovers().await, [""; 0]);
}

#[tokio::test]
async fn containers_outlive_containerd_and_its_return_is_told() {
    require_containerd!();
    let mut room = Room::new().await;
    let request = room.script(json!({}), "trap 'exit 5' TERM; while :; do echo ready; sleep 0.05; done");
    let output = room.start(&request).await;
    let pid = running(&room, &request.id).await;
    let mut events = room.runtime.events();

    room.containerd.pause();
    let error = room.runtime.containers().await.expect_err("containerd is away");
    assert!(matches!(error, RuntimeError::Down { .. }), "{error:?}");
    assert!(matches!(room.runtime.remove(&request.id).await, Err(RuntimeError::Down { .. })));
    assert!(matches!(Containerd::connect(&room.containerd.config("")).await, Err(RuntimeError::Down { .. })));
    let before = output.text().len();
    eventually!(output.text().len() > before, "its output stopped with containerd");

    room.containerd.resume().await;
    event(&mut events, &RuntimeEvent::Resync).await;
    assert_eq!(running(&room, &request.id).await, pid, "it is the same process");
    assert!(room.runtime.usage(&request.id).await.expect("usage").memory > 0);
    let before = output.text().len();
    eventually!(output.text().len() > before, "its output stopped when containerd came back");

    room.runtime.stop(&request.id, Duration::from_secs(10)).await.expect("stopped");
    assert_eq!(exit_code(&mut events, &request.id).await, 5);
    room.runtime.remove(&request.id).await.expect("removed");
    assert_eq!(room.leftovers().await, [""; 0]);
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_listed_and_removed() {
    require_containerd!();
    let room = Room::new().await;
    let request = room.script(json!({}), POLITE);
    room.start(&request).await;
    let id = request.id.as_str();
    // As a daemon killed after it made the snapshot leaves it.
    room.containerd.ctr(&["tasks", "delete", "--force", id]);
    room.containerd.ctr(&["containers", "delete", "--keep-snapshot", id]);
    let listed = room.runtime.containers().await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id.as_str(), listed[0].state), (id, ContainerState::NoTask));
    assert_eq!(listed[0].labels.get("ingle/revision").map(String::as_str), Some("3"));

    // A later one of the same id takes its place.
    let mut later = room.script(json!({}), POLITE);
    later.id = request.id.clone();
    room.start(&later).await;
    room.runtime.remove(&request.id).await.expect("removed");
    assert_eq!(room.leftovers().await, [""; 0]);
}

#[tokio::test]
async fn an_old_or_absent_containerd_is_said() {
    let directory = TemporaryDirectory::new();
    let socket = directory.path().join("none.sock");
    let text = format!("[containerd]\nsocket = {:?}\n", socket.display().to_string());
    let config = model::config::Config::parse(&text, |_| None).expect("a configuration");
    let error = Containerd::connect(&config).await.expect_err("nobody is there");
    assert!(error.to_string().contains("none.sock"), "{error}");
}

#[tokio::test]
async fn the_configured_oci_runtime_is_used() {
    require_containerd!();
    let room = Room::new().await;
    let mut config = room.containerd.config("");
    let runc = crate::support::tool("runc").expect("runc");
    config.containerd.oci_runtime = runc.display().to_string();
    let other = Containerd::connect(&config).await.expect("a connection");
    let mut events = other.events();
    let request = room.script(json!({}), "exit 4");
    let _output = room.read(&request);
    other.create(&request).await.expect("created");
    other.start(&request.id).await.expect("started");
    assert_eq!(exit_code(&mut events, &request.id).await, 4);
    other.remove(&request.id).await.expect("removed");

    config.containerd.oci_runtime = "/no/such/runtime".into();
    let other = Containerd::connect(&config).await.expect("a connection");
    let error = other.create(&room.script(json!({}), "true")).await.expect_err("there is no runtime");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(format!("{error}: {cause}").contains("/no/such/runtime"), "{error}: {cause}");
    assert_eq!(room.leftovers().await, [""; 0]);
}
