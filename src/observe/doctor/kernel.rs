//! What the kernel can do.

use std::fs;
use std::path::{Path, PathBuf};

use model::finding::Finding;

const CHECK: &str = "kernel";
/// The modules that containers, their network and its rules need.
const NEEDED: [&str; 6] = ["overlay", "bridge", "veth", "nf_tables", "nft_masq", "nft_ct"];

/// Whether the modules are there, in the kernel or beside it.
pub(super) fn modules() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let directory = PathBuf::from("/lib/modules").join(release);
    if !directory.exists() {
        return Finding::ok(CHECK, format!("Linux {release}, in one piece: what it holds cannot be seen"));
    }
    let lists = ["modules.builtin", "modules.dep"];
    let lists: String =
        lists.iter().filter_map(|list| fs::read_to_string(directory.join(list)).ok()).collect();
    let loaded = |name: &str| Path::new("/sys/module").join(name).exists();
    let missing: Vec<&str> =
        NEEDED.into_iter().filter(|name| !loaded(name) && !is_listed(name, &lists)).collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, format!("Linux {release} has {}", NEEDED.join(", ")));
    }
    Finding::fault(
        CHECK,
        format!("Linux {release} has no {}", missing.join(", ")),
        "install the kernel that your system comes with, and reboot",
    )
}

/// Whether a list of module files has `name`, such as `kernel/net/bridge/bridge.ko.xz`.
fn is_listed(name: &str, list: &str) -> bool {
    list.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split('.').next().is_some_and(|stem| stem.replace('-', "_") == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_both_lists() {
        let list = "kernel/net/bridge/bridge.ko\n\
                    kernel/net/netfilter/nft-masq.ko.xz: kernel/net/netfilter/nf_tables.ko.xz\n";
        assert!(is_listed("bridge", list) && is_listed("nft_masq", list));
        for name in ["nf_tables", "overlay", "bridge_x", ""] {
            assert!(!is_listed(name, list), "{name}");
        }
    }
}
