//! What a function may use.

use host::runtime::{Runtime, RuntimeEvent};
use serde_json::json;

use super::room::{Room, event, require_containerd};

#[tokio::test]
async fn memory_over_the_limit_kills_and_is_told() {
    require_containerd!();
    let room = Room::new().await;
    let command = ["/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"];
    let request = room.request(json!({ "limits": { "memory": "32Mi" } }), &command);
    let mut events = room.runtime.events();
    room.launch(&request).await;
    // It may die before its shim looks out for that. Whoever hears of the end has to know why.
    let id = &request.id;
    event(&mut events, &RuntimeEvent::OutOfMemory { id: id.clone(), kills: 1 }).await;
    event(&mut events, &RuntimeEvent::Exited { id: id.clone(), code: 128 + 9 }).await;
    room.runtime.remove(&request.id).await.expect("removed");

    let request = room.request(json!({ "limits": { "memory": "1Gi" } }), &command);
    assert_eq!(room.run(&request).await.code, 0, "within the limit it runs");
}

#[tokio::test]
async fn an_oom_kill_is_reported_although_the_first_process_survives() {
    require_containerd!();
    let room = Room::new().await;
    let script = "busybox dd if=/dev/zero of=/dev/null bs=256M count=1; busybox dd if=/dev/zero of=/dev/null bs=256M \
        count=1; echo ready; sleep 60";
    let request = room.script(json!({ "limits": { "memory": "32Mi" } }), script);
    let mut events = room.runtime.events();
    room.start(&request).await;
    let id = &request.id;
    let told = async {
        loop {
            if let RuntimeEvent::OutOfMemory { id: told, .. } = events.recv().await.expect("events go on") {
                assert_eq!(told, *id);
                return;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), told).await.expect("it is told");
    assert_eq!(room.runtime.oom_kills(id).await.expect("counted"), 2);
    assert!(room.runtime.usage(id).await.is_ok(), "it runs");
    room.runtime.remove(id).await.expect("removed");
}

#[tokio::test]
async fn a_memory_limit_does_not_limit_swap() {
    require_containerd!();
    let room = Room::new().await;
    let script = "cat /sys/fs/cgroup/memory.swap.max 2>/dev/null || \
        cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || echo not counted";
    let output = room.output(json!({ "limits": { "memory": "32Mi" } }), script).await;
    let unlimited = match output.trim() {
        // Version 2; version 1 without swap accounting; version 1.
        "max" | "not counted" => true,
        number => number.parse::<u64>().expect("a number") > 1 << 60,
    };
    assert!(unlimited, "{output}");
}

#[tokio::test]
async fn the_files_of_a_replica_are_measured() {
    require_containerd!();
    let room = Room::new().await;
    let script = "echo ready; read -r x </dev/zero || true; sleep 60";
    let empty = room.script(json!({}), script);
    room.start(&empty).await;
    let full =
        room.script(json!({}), "dd if=/dev/zero of=/file bs=1M count=20 2>/dev/null; echo ready; sleep 60");
    room.start(&full).await;
    let measure = async |id| room.runtime.footprint(id).await.expect("measured");
    let (before, after) = (measure(&empty.id).await, measure(&full.id).await);
    assert!(before.bytes < 1 << 20 && before.files < 100, "{before:?}");
    assert!((20 << 20..22 << 20).contains(&after.bytes), "{after:?}");
    for id in [&empty.id, &full.id] {
        room.runtime.remove(id).await.expect("removed");
        assert!(room.runtime.footprint(id).await.is_err(), "there is nothing to measure");
    }
}

#[tokio::test]
async fn files_count_however_a_replica_hides_them() {
    require_containerd!();
    let room = Room::new().await;
    let write = "dd if=/dev/zero bs=1M count=20 2>/dev/null";
    let name = "d".repeat(250);
    let nested =
        format!("i=0; while [ $i -lt 20 ]; do mkdir {name}; cd {name}; i=$((i+1)); done; {write} >file");
    let many = "mkdir /many; cd /many; i=0; while [ $i -lt 3000 ]; do : >$i; i=$((i+1)); done";
    let scripts = [
        // A file without a name, which one process holds.
        (format!("exec 3>/file; rm /file; {write} >&3"), 20, 0),
        // The same in another process than the first.
        (format!("(exec 3>/file; rm /file; {write} >&3; echo ready; sleep 60) & exec 3>&-"), 20, 0),
        // A program without a name that runs: a mapping holds it.
        (format!("cp /bin/busybox /sleep; {write} >>/sleep; /sleep 60 & sleep 1; rm /sleep"), 20, 0),
        // Below a path that is longer than the kernel takes.
        (nested, 20, 21),
        (many.to_owned(), 0, 3001),
    ];
    for (script, megabytes, files) in scripts {
        let request = room.script(json!({}), &format!("cd /; {script}; echo ready; sleep 60"));
        room.start(&request).await;
        let over = async || {
            let found = room.runtime.footprint(&request.id).await.expect("measured");
            found.bytes >= megabytes << 20 && found.files >= files
        };
        eventually!(over().await, "{script}: {:?}", room.runtime.footprint(&request.id).await);
        room.runtime.remove(&request.id).await.expect("removed");
    }
    assert_eq!(room.leftovers().await, [""; 0]);
}

#[tokio::test]
async fn processes_and_processor_time_are_limited() {
    require_containerd!();
    let room = Room::new().await;
    let mut request = room.script(json!({}), "for i in 1 2 3 4 5 6 7 8 9; do sleep 3 & done; echo all");
    request.pids = 5;
    let ended = room.run(&request).await;
    assert!(ended.stderr.contains("fork") && !ended.stdout.contains("all"), "{ended:?}");

    let script = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us \
        /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.weight";
    let deployment = json!({ "limits": { "cpu": "250m" }, "requests": { "cpu": "500m" } });
    let output = room.output(deployment, script).await;
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words[..2], ["25000", "100000"], "{output}");
    // 512 shares, and what runtimes make of them in version 2.
    assert!(["512", "20", "59"].contains(&words[2]), "{output}");
}

#[tokio::test]
async fn usage_is_measured_while_it_runs() {
    require_containerd!();
    let room = Room::new().await;
    let request =
        room.script(json!({}), "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo ready; sleep 60");
    room.start(&request).await;
    let usage = room.runtime.usage(&request.id).await.expect("usage");
    assert!(usage.cpu.as_millis() > 10 && usage.cpu.as_secs() < 20, "{usage:?}");
    assert!(usage.memory > 50_000 && usage.memory < 64 << 20, "{usage:?}");

    // Another daemon does not know the process yet.
    let config = room.containerd.config("");
    let other = host::runtime::containerd::Containerd::connect(&config).await.expect("a connection");
    assert!(other.usage(&request.id).await.expect("usage").cpu >= usage.cpu);
    room.runtime.remove(&request.id).await.expect("removed");
}
