//! What a function finds inside its container.

use std::process::Command;
use std::sync::Arc;

use host::runtime::{ContainerRequest, Image, ImageConfig, Mount, RuntimeError};
use serde_json::json;

use super::room::{Room, require_containerd};
use crate::support::TemporaryDirectory;
use crate::support::{Item, busybox};

/// Changes the image's configuration under a request.
fn configure(request: &mut ContainerRequest, change: impl FnOnce(&mut ImageConfig)) {
    let mut image = Image::clone(&request.image);
    change(&mut image.resolved.config);
    request.image = Arc::new(image);
}

#[tokio::test]
async fn the_image_and_the_request_say_what_runs() {
    require_containerd!();
    let room = Room::new().await;
    let mut request = room.script(
        json!({ "envProcess": "cat -n", "envVars": { "STRONG": "function" } }),
        "pwd; hostname; echo $0 $1; env; ls -d /new/dir",
    );
    request.env.extend([("STRONG".into(), "daemon".into()), ("MIDDLE".into(), "daemon".into())]);
    configure(&mut request, |config| {
        config.cmd = vec!["name".into(), "argument".into()];
        config.working_dir = "/new/dir".into();
        config.env = ["STRONG=image", "MIDDLE=image", "WEAK=image"].map(str::to_owned).to_vec();
    });
    let ended = room.run(&request).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let mut lines = ended.stdout.lines();
    assert_eq!(lines.next(), Some("/new/dir"));
    assert_eq!(lines.next(), Some(request.id.as_str()));
    assert_eq!(lines.next(), Some("name argument"));
    for line in ["STRONG=function", "MIDDLE=daemon", "WEAK=image", "fprocess=cat -n"] {
        assert!(ended.stdout.lines().any(|found| found == line), "{line} is not in {}", ended.stdout);
    }
    assert!(ended.stdout.contains("PATH=/usr/local/sbin:"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_user_is_one_of_the_images_own() {
    require_containerd!();
    let room = Room::new().await;
    for (user, expected) in [
        ("", "0 0 0"),
        ("app", "1000 1001 44 1001"),
        ("1000", "1000 1001 44 1001"),
        ("app:video", "1000 44 44"),
        ("77:88", "77 88 88"),
        ("77", "77 0 0"),
    ] {
        // The second time the user is remembered.
        for _ in 0..2 {
            let mut request =
                room.script(json!({}), "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n)");
            configure(&mut request, |config| config.user = user.into());
            let ended = room.run(&request).await;
            let mut groups: Vec<&str> = ended.stdout.split_whitespace().collect();
            groups.dedup();
            let mut wanted: Vec<&str> = expected.split_whitespace().collect();
            wanted.dedup();
            assert_eq!(groups, wanted, "{user:?}: {ended:?}");
        }
    }
    for (user, missing) in [("ghost", "user \"ghost\""), ("app:ghosts", "group \"ghosts\"")] {
        let mut request = room.script(json!({}), "true");
        configure(&mut request, |config| config.user = user.into());
        let error = room_refuses(&room, &request).await;
        assert!(matches!(error, RuntimeError::BadRequest(_)), "{error:?}");
        assert!(error.to_string().contains(missing), "{error}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&*room.containerd.path().to_string_lossy()), "{mounts}");
}

#[tokio::test]
async fn root_is_in_the_groups_of_the_image_that_name_it() {
    require_containerd!();
    let mut items = busybox();
    items.retain(|item| !matches!(item, Item::File("etc/group", ..)));
    items.push(Item::text("etc/group", "root:x:0:\nwheel:x:10:root,app\nvideo:x:44:app\napp:x:1001:\n"));
    let room = Room::with(&items, "").await;
    for (user, expected) in [
        ("", "0 10"),
        ("root", "0 10"),
        ("0", "0 10"),
        ("0:0", "0"),
        ("app", "10 44 1001"),
        ("1000:1000", "1000"),
    ] {
        let mut request = room.script(json!({}), "echo $(grep ^Groups: /proc/self/status | cut -f 2)");
        configure(&mut request, |config| config.user = user.into());
        let ended = room.run(&request).await;
        assert_eq!(ended.stdout.trim(), expected, "{user:?}: {ended:?}");
    }
}

#[tokio::test]
async fn an_image_without_a_user_runs_whatever_its_files_of_users_are() {
    require_containerd!();
    let large = "other:x:5:\n".repeat(2 << 20);
    for odd in [
        Item::Link("etc/group", "group"),
        Item::Link("etc/passwd", "passwd"),
        Item::text("etc/group", &large),
    ] {
        let mut items = busybox();
        items.retain(|item| !matches!(item, Item::File("etc/passwd" | "etc/group", ..)));
        items.push(odd);
        let room = Room::with(&items, "").await;
        let ended = room.run(&room.script(json!({}), "grep ^Groups: /proc/self/status | cut -f 2")).await;
        assert_eq!(ended.stdout.trim(), "0", "{ended:?}");
    }
}

#[tokio::test]
async fn a_volume_is_there_and_can_be_written_whatever_the_root_is() {
    require_containerd!();
    let host = TemporaryDirectory::new();
    let outside: &'static str = host.path().display().to_string().leak();
    let mut items = busybox();
    items.push(Item::text("data/seed", "seed"));
    items.push(Item::Link("link", "/data"));
    items.push(Item::Link("out", outside));
    let room = Room::with(&items, "").await;
    let script =
        "echo x > /prometheus/new; cat /prometheus/new /data/seed; echo >> /data/seed; echo > /deep/er/est/x;
        echo > /link/through; ls /data /deep/er/est; stat -c %a:%u /prometheus; echo > /free && echo free";
    for read_only in [false, true] {
        let mut request = room.script(json!({ "readOnlyRootFilesystem": read_only }), script);
        configure(&mut request, |config| {
            config.volumes = ["/prometheus", "/data/", "deep/er/est", "/link", "/", "/proc/x", "/tmp"]
                .map(str::to_owned)
                .to_vec();
        });
        let ended = room.run(&request).await;
        let lines: Vec<_> = ended.stdout.split_whitespace().filter(|line| *line != "free").collect();
        let wanted = "x seed/data: seed through /deep/er/est: x 755:0";
        assert_eq!(lines.join(" "), wanted, "{read_only} {ended:?}");
        assert_eq!(ended.stdout.contains("free"), !read_only, "{ended:?}");
    }
    // A link that leads out of the image means what is in it.
    let mut request = room.script(json!({ "readOnlyRootFilesystem": true }), "echo > /out/x/y && echo wrote");
    configure(&mut request, |config| config.volumes = vec!["/out/x".into()]);
    let ended = room.run(&request).await;
    assert_eq!(ended.stdout.trim(), "wrote", "{ended:?}");
    let mut request = room.script(json!({}), "true");
    configure(&mut request, |config| config.volumes = vec!["/data/seed".into()]);
    let error = room_refuses(&room, &request).await;
    assert!(error.to_string().contains("volumes") && error.to_string().contains("/data/seed"), "{error}");
    assert_eq!(std::fs::read_dir(host.path()).expect("listed").count(), 0);
}

/// Creating fails, and leaves nothing.
async fn room_refuses(room: &Room, request: &ContainerRequest) -> RuntimeError {
    use host::runtime::Runtime;
    let error = room.runtime.create(request).await.expect_err("it is refused");
    assert_eq!(room.leftovers().await, [""; 0]);
    error
}

#[tokio::test]
async fn a_link_in_the_image_cannot_read_the_hosts_users() {
    require_containerd!();
    let host = TemporaryDirectory::new();
    let file = host.path().join("passwd");
    std::fs::write(&file, "thief:x:0:0::/:/bin/sh\n").expect("a file");
    let absolute: &'static str = file.display().to_string().leak();
    let climbing: &'static str = format!("../../../../../../../..{absolute}").leak();
    for target in [absolute, climbing] {
        let mut items = busybox();
        items.retain(|item| !matches!(item, Item::File("etc/passwd", ..)));
        items.push(Item::Link("etc/passwd", target));
        let room = Room::with(&items, "").await;
        let mut request = room.script(json!({}), "true");
        configure(&mut request, |config| config.user = "thief".into());
        let error = room_refuses(&room, &request).await;
        assert!(error.to_string().contains("\"thief\""), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_start_is_refused_and_leaves_nothing() {
    require_containerd!();
    let room = Room::new().await;

    let mut request = room.request(json!({}), &[]);
    assert!(matches!(room_refuses(&room, &request).await, RuntimeError::NoCommand { .. }));

    request = room.request(json!({}), &["/no/such/program"]);
    let error = room_refuses(&room, &request).await;
    assert!(matches!(error, RuntimeError::BadRequest(_)), "{error:?}");
    assert!(error.to_string().contains("cannot run: exec: \"/no/such/program\""), "{error}");

    request = room.script(json!({}), "true");
    request.netns = "/run/netns/ingle-test-none".into();
    room_refuses(&room, &request).await;

    request = room.script(json!({}), "true");
    let mut image = Image::clone(&request.image);
    image.chain_id = format!("sha256:{}", "0".repeat(64));
    request.image = Arc::new(image);
    let error = room_refuses(&room, &request).await;
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_function_has_no_privileges() {
    require_containerd!();
    let room = Room::new().await;
    for user in ["", "app"] {
        let mut request = room.script(
            json!({}),
            "cat /proc/self/status; mount -t tmpfs x /mnt; chown 5 /etc/passwd; cat /proc/kcore | wc -c;
             echo 0 > /proc/sys/kernel/domainname; ls /sys/firmware /proc/acpi | grep -v :; ls /dev",
        );
        configure(&mut request, |config| config.user = user.into());
        let ended = room.run(&request).await;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let line = format!("{set}:\t0000000000000000");
            assert!(ended.stdout.contains(&line), "{line} is not in {}", ended.stdout);
        }
        assert!(ended.stdout.contains("NoNewPrivs:\t1\n"), "{}", ended.stdout);
        assert!(ended.stdout.contains("Seccomp:\t2\n"), "{}", ended.stdout);
        for part in ["mount: ", "chown: ", "domainname"] {
            assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
        }
        // Nothing of the masked paths, and no device but the harmless ones.
        let rest = ended.stdout.split("\n0\n").nth(1).expect("kcore is empty");
        // A link to kcore, made where the host has that.
        let words: Vec<&str> = rest.split_whitespace().filter(|word| *word != "core").collect();
        let known = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
        assert_eq!(words.join(" "), known);
    }
}

#[tokio::test]
async fn capabilities_are_those_that_were_added() {
    require_containerd!();
    let room = Room::with(&busybox(), "[functions]\ncapabilities = [\"CAP_CHOWN\"]\n").await;
    for user in ["", "app"] {
        let deployment = json!({ "annotations": { "ingle.capabilities": "NET_RAW" } });
        let mut request =
            room.script(deployment, "grep Cap /proc/self/status; chown 5 /bin/busybox && echo chowned");
        configure(&mut request, |config| config.user = user.into());
        let ended = room.run(&request).await;
        // CAP_CHOWN is 0, CAP_NET_RAW is 13.
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let line = format!("{set}:\t0000000000002001");
            assert!(ended.stdout.contains(&line), "{line} is not in {}", ended.stdout);
        }
        assert!(ended.stdout.contains("chowned"), "{ended:?}");
    }
}

#[tokio::test]
async fn system_calls_that_reach_the_host_are_refused() {
    require_containerd!();
    require!("cc");
    let directory = TemporaryDirectory::new();
    let (source, program) = (directory.path().join("calls.c"), directory.path().join("calls"));
    std::fs::write(&source, CALLS).expect("a file");
    let cc = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&program).arg(&source).output();
    let cc = cc.expect("run cc");
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    let mut items = busybox();
    items.push(Item::File("bin/calls", std::fs::read(&program).expect("the program"), 0o755));
    let room = Room::with(&items, "").await;
    let ended = room.run(&room.request(json!({}), &["/bin/calls"])).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let (eperm, enosys) = (nix::errno::Errno::EPERM as i32, nix::errno::Errno::ENOSYS as i32);
    for (call, errno) in [
        ("unshare", eperm),
        ("mount", eperm),
        ("keyctl", eperm),
        ("add_key", eperm),
        ("bpf", eperm),
        ("userfaultfd", eperm),
        ("perf_event_open", eperm),
        ("io_uring_setup", eperm),
        ("personality", eperm),
        ("clone_newuser", eperm),
        ("clone3", enosys),
        ("vsock", eperm),
        ("getpid", 0),
        ("personality_query", 0),
        ("inet", 0),
    ] {
        let line = format!("{call}={errno}");
        assert!(ended.stdout.lines().any(|found| found == line), "{line} is not in {}", ended.stdout);
    }
}

/// Makes system calls and prints the error of each. The arguments are such that the kernel itself
/// would answer otherwise.
const CALLS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void report(const char *name, long result) {
    printf("%s=%d\n", name, result < 0 ? errno : 0);
}

int main(void) {
    report("unshare", syscall(SYS_unshare, CLONE_NEWUSER));
    report("mount", syscall(SYS_mount, 0, 0, 0, 0, 0));
    report("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    report("add_key", syscall(SYS_add_key, 0, 0, 0, 0, 0));
    report("bpf", syscall(SYS_bpf, 9999, 0, 0));
    report("userfaultfd", syscall(SYS_userfaultfd, 1));
    report("perf_event_open", syscall(SYS_perf_event_open, 0, 0, 0, 0, 0));
    report("io_uring_setup", syscall(SYS_io_uring_setup, 0, 0));
    report("personality", syscall(SYS_personality, 0x0400000));
    report("clone_newuser", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    report("clone3", syscall(SYS_clone3, 0, 0));
    report("vsock", syscall(SYS_socket, 40, SOCK_STREAM, 0));
    report("getpid", syscall(SYS_getpid));
    report("personality_query", syscall(SYS_personality, 0xffffffff));
    report("inet", syscall(SYS_socket, AF_INET, SOCK_STREAM, 0));
    return 0;
}
"#;

#[tokio::test]
async fn a_read_only_root_has_a_small_tmp() {
    require_containerd!();
    let room = Room::new().await;
    let script = "touch /file 2>/dev/null && echo wrote /; touch /tmp/file && echo wrote /tmp;
        stat -c %a /tmp; df -k /tmp | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2";
    let output = room.output(json!({ "readOnlyRootFilesystem": true }), script).await;
    assert_eq!(output, "wrote /tmp\n1777\n65536\n");
    let output = room.output(json!({}), "touch /file && echo wrote /").await;
    assert_eq!(output, "wrote /\n");
}

#[tokio::test]
async fn files_of_the_host_are_shown_read_only() {
    require_containerd!();
    let room = Room::new().await;
    let shown = room.containerd.path().join("shown");
    std::fs::write(&shown, "a secret").expect("a file");
    for read_only in [false, true] {
        let mut request = room.script(
            json!({ "readOnlyRootFilesystem": read_only }),
            "cat /var/openfaas/secrets/api-key /etc/hosts; echo x > /var/openfaas/secrets/api-key; rm /etc/hosts; true",
        );
        for target in ["/var/openfaas/secrets/api-key", "/etc/hosts"] {
            let mount = Mount { source: shown.clone(), target: target.into(), holds_programs: false };
            request.mounts.push(mount);
        }
        let ended = room.run(&request).await;
        assert_eq!(ended.stdout, "a secreta secret");
        assert!(ended.stderr.contains("Read-only file system"), "{ended:?}");
    }
    assert_eq!(std::fs::read_to_string(&shown).expect("a file"), "a secret");
}
