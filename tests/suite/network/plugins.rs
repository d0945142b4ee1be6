//! Plugins that are programs: Debian's, and ones that misbehave.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use host::network::Network;

use super::id;
use super::world::{call, inside, on_a_host, run, serve};
use crate::support::TemporaryDirectory;

const BRIDGE: &str = r#"{"type": "bridge", "bridge": "ingle0", "isDefaultGateway": true, "ipMasq": true,
    "ipam": {"type": "host-local", "subnet": "10.62.0.0/16"}}"#;

#[test]
fn debian_s_plugins_run_after_the_bridge() {
    require_root!();
    require!("ip", "nft", "tc", "/usr/lib/cni/tuning", "/usr/lib/cni/bandwidth");
    on_a_host(async |mut host| {
        for version in ["0.4.0", "1.0.0"] {
            host.set_plugins(
                version,
                &format!(
                    r#"{BRIDGE}, {{"type": "portmap", "capabilities": {{"portMappings": true}}}}, {{"type": "firewall"}},
                    {{"type": "tuning", "sysctl": {{"net.ipv4.conf.all.arp_announce": "2"}}}},
                    {{"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 8000000,
                      "egressRate": 8000000, "egressBurst": 8000000}}"#
                ),
            );
            let network = host.network();
            network.ensure().await.expect("ready");
            let replica = network.attach(&id(1)).await.expect("attached");
            let key = "/proc/sys/net/ipv4/conf/all/arp_announce";
            assert_eq!(inside(&replica.netns, || fs::read_to_string(key).expect("a key")), "2\n");
            let shaped = run("tc", "qdisc show");
            assert!(shaped.contains("tbf"), "{shaped}");
            let server = serve(Some(&replica.netns), 80);
            assert!(call(None, replica.address, 80).is_ok());
            drop(server);
            network.detach(&id(1)).await.expect("detached");
            let left = || run("ip", "-o link").lines().filter(|l| !l.contains(": lo:")).count();
            eventually!(left() == 1, "more than the bridge is left: {}", run("ip", "-o link"));
        }
    });
}

#[test]
fn debian_s_ptp_makes_the_link() {
    require_root!();
    require!("ip", "nft", "/usr/lib/cni/ptp", "/usr/lib/cni/host-local");
    on_a_host(async |mut host| {
        let data = host.directory().join("addresses").display().to_string();
        host.set_plugins(
            "1.0.0",
            &format!(
                r#"{{"type": "ptp", "ipMasq": false, "ipam": {{"type": "host-local", "subnet": "10.62.7.0/24",
                    "dataDir": "{data}", "routes": [{{"dst": "0.0.0.0/0"}}]}}}}"#
            ),
        );
        let network = host.network();
        network.ensure().await.expect("ready");
        let a = network.attach(&id(1)).await.expect("attached");
        let b = network.attach(&id(2)).await.expect("attached");
        let in_replicas = [serve(Some(&a.netns), 80), serve(Some(&b.netns), 80)];
        let _on_the_host = [serve(None, 8080), serve(None, 2222)];
        assert!(call(None, a.address, 80).is_ok());
        assert!(call(Some(&a.netns), network.gateway(), 8080).is_ok());
        assert!(call(Some(&a.netns), network.gateway(), 2222).is_err());
        assert!(call(Some(&a.netns), b.address, 80).is_err(), "apart here too");

        drop(in_replicas);
        let network = host.network();
        assert_eq!(network.adopt(&id(1), a.address).await.expect("an answer"), Some(a.clone()));
        for n in [1, 2] {
            network.detach(&id(n)).await.expect("detached");
        }
        assert_eq!(network.attached().await.expect("a list"), []);
        let kept = fs::read_dir(format!("{data}/ingle")).expect("host-local's directory");
        let kept = kept
            .filter(|f| f.as_ref().is_ok_and(|f| f.file_name().to_string_lossy().starts_with("10.")))
            .count();
        assert_eq!(kept, 0, "host-local keeps no address");
        eventually!(run("ip", "-o link").lines().count() == 1, "left: {}", run("ip", "-o link"));
    });
}

#[test]
fn a_plugin_that_fails_leaves_nothing_and_says_why() {
    require_root!();
    require!("ip", "nft");
    on_a_host(async |mut host| {
        host.plugin_dir = host.directory().join("plugins");
        fs::create_dir(&host.plugin_dir).expect("a directory");
        let program = host.plugin_dir.join("moody");
        let mood = host.directory().join("mood");
        let log = host.directory().join("log");
        let text = format!(
            "#!/bin/sh\necho $CNI_COMMAND \"$CNI_NETNS\" >> {log}\n\
             [ -e {mood} ] && {{ echo '{{\"code\": 11, \"msg\": \"not today\"}}'; exit 1; }}\n\
             [ $CNI_COMMAND = DEL ] || echo '{{}}'\nexit 0\n",
            log = log.display(),
            mood = mood.display(),
        );
        fs::write(&program, text).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        host.set_plugins("1.0.0", &format!(r#"{BRIDGE}, {{"type": "moody"}}"#));
        let network = host.network();
        network.ensure().await.expect("ready");

        fs::write(&mood, "").expect("a bad mood");
        let error = network.attach(&id(1)).await.expect_err("it fails");
        assert_eq!(error.to_string(), format!("plugin moody (ADD for {}) failed", id(1)));
        assert_eq!(std::error::Error::source(&error).expect("a cause").to_string(), "code 11: not today");
        assert_eq!(run("ip", "netns list"), "", "the namespace is gone");
        assert_eq!(host.leases.all(), [], "and the address");
        // DEL failed as well, so it is asked again until it succeeds.
        assert_eq!(network.attached().await.expect("a list"), [id(1)]);
        fs::remove_file(&mood).expect("a better mood");
        network.detach(&id(1)).await.expect("detached");
        assert_eq!(network.attached().await.expect("a list"), []);
        let netns = format!("/var/run/netns/ingle.{}", id(1));
        let log = fs::read_to_string(log).expect("a log");
        assert_eq!(log, format!("ADD {netns}\nDEL {netns}\nDEL \n"));
        network.detach(&id(1)).await.expect("nothing to do, and nothing done");
    });
}

#[test]
fn a_broken_conflist_is_an_error_at_start() {
    on_a_host_without_root(|host| {
        host("{", "is not JSON");
        host(
            r#"{"cniVersion": "1.0.0", "name": "ingle", "plugins": [{"type": "bridge", "mtu": "big"}]}"#,
            "mtu",
        );
    });
}

/// Gives conflists to a network that is never made ready, which needs no root.
fn on_a_host_without_root(test: impl FnOnce(&dyn Fn(&str, &str))) {
    use host::network::{MemoryLeases, cni::Cni};
    let directory = TemporaryDirectory::new();
    let path = directory.path().join("broken.conflist");
    test(&|text, part| {
        fs::write(&path, text).expect("a file");
        let config = model::config::Network {
            conflist: path.clone(),
            plugin_dir: "/usr/lib/cni".into(),
            resolv_conf: "/etc/ingle/resolv.conf".into(),
            allow: Vec::new(),
        };
        let error = Cni::new(&config, 8080, directory.path(), std::sync::Arc::new(MemoryLeases::default()));
        let error = error.expect_err("a broken file").to_string();
        assert!(error.contains("broken.conflist") && error.contains(part), "{error}");
    });
}
