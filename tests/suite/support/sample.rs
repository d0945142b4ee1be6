//! The sample image, built when it is older than its sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The archive of `examples/hello`, as `docker save` would write it; the image is
/// `docker.io/examples/hello:latest`, its command is `/hello`, its user 1000.
pub(crate) fn sample_archive() -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let archive = project.join("target/examples/hello.tar");
    fs::create_dir_all(project.join("target/examples")).expect("make target/examples");
    // Tests are processes of their own: the first builds, the others wait here and find it done.
    let lock = fs::File::create(archive.with_extension("lock")).expect("make the lock file");
    lock.lock().expect("lock");
    if modified(&archive)
        < newest(&project.join("examples/hello")).max(modified(&project.join("examples/build.sh")))
    {
        let built = Command::new(project.join("examples/build.sh")).arg("hello").arg(&archive).output();
        let built = built.expect("run examples/build.sh");
        assert!(built.status.success(), "examples/build.sh: {}", String::from_utf8_lossy(&built.stderr));
    }
    archive
}

/// When anything under `directory` last changed.
fn newest(directory: &Path) -> SystemTime {
    let entries = fs::read_dir(directory).expect("read the directory of examples");
    let paths = entries.map(|entry| entry.expect("read an entry").path());
    paths
        .map(|path| if path.is_dir() { newest(&path) } else { modified(&path) })
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
