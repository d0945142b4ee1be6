//! The whole life of an installation: install, run again, upgrade, mend, uninstall, purge.
//!
//! The real installer with a real containerd, on file systems and in a network of its own, without systemd.
//! With systemd it is `tests/vm/run` that does the like.

use std::path::Path;
use std::process::Command;

use crate::support::TemporaryDirectory;
use crate::support::{sample_archive, unique_name};

#[test]
fn from_the_first_run_to_the_purge() {
    require_root!();
    require!("unshare", "containerd", "ctr", "runc", "ip", "nft", "curl", "pgrep");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checkout = TemporaryDirectory::new();
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
        .arg(project.join("tests/suite/installation/run.sh"))
        .args([project, Path::new(env!("CARGO_BIN_EXE_ingle")), &sample_archive(), checkout.path()])
        .arg(unique_name())
        .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .expect("run unshare");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
