//! The FIFOs of one replica: `<directory>/<id>/stdout` and `stderr`.
//!
//! Invariant: our end is open for reading and writing, so that neither side ever sees the other one
//! missing. What is written while no daemon runs stays in the pipe: containerd's shim holds it open.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::net::unix::pipe;

use super::LogError;
use crate::private_file::if_there;
use crate::runtime::Stdio;

/// What a pipe may hold, so that a function can go on writing while the daemon restarts.
const PIPE: nix::libc::c_int = 1 << 20;

/// Makes the FIFOs in `directory`, or takes up those that are there, and opens them.
pub(super) fn open(directory: &Path) -> Result<(Stdio, [pipe::Receiver; 2]), LogError> {
    let made = match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(source) => return Err(LogError::Directory { path: directory.to_owned(), source }),
    };
    let stdio = Stdio { stdout: directory.join("stdout"), stderr: directory.join("stderr") };
    let opened = open_one(&stdio.stdout).and_then(|stdout| Ok([stdout, open_one(&stdio.stderr)?]));
    if opened.is_err() && made {
        remove(directory);
    }
    Ok((stdio, opened?))
}

fn open_one(path: &Path) -> Result<pipe::Receiver, LogError> {
    let failed = |source: io::Error| LogError::Fifo { path: path.to_owned(), source };
    match mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) => {}
        Err(Errno::EEXIST) => {
            let kind = fs::symlink_metadata(path).map_err(failed)?.file_type();
            if !kind.is_fifo() {
                return Err(failed(io::Error::other("there is something else in its place")));
            }
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(path).map_err(failed)?;
    // A smaller pipe works as well.
    let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
    Ok(pipe)
}

/// Removes the FIFOs and their directory, as far as they are there.
pub(super) fn remove(directory: &Path) {
    if let Err(error) = if_there(fs::remove_dir_all(directory)) {
        tracing::warn!(directory = %directory.display(), %error, "FIFOs could not be removed");
    }
}
