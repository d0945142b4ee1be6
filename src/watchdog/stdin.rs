//! The stdin of a process that answers one request after the other, and how far it has read.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::io::ioctl_fionread;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::unix::pipe;

use super::process::to_process;

/// Our end of a pipe that holds one page: it can be written to again exactly when all of it was read, and the kernel
/// tells of that. One with more pages could be written to whatever is left in it.
#[derive(Debug)]
pub(super) struct Stdin(pipe::Sender);

impl Stdin {
    /// A new pipe: our end, and its.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = to_process()?;
        // The least there is: rounded up to a page, however large that is here.
        fcntl(&ours, FcntlArg::F_SETPIPE_SZ(1))?;
        Ok((Self(ours), theirs))
    }

    /// Writes all of it; at most a page is not yet read then.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Returns when all that was written has been read.
    pub(super) async fn taken(&self) -> io::Result<()> {
        loop {
            let ready = self.0.ready(Interest::WRITABLE).await?;
            if self.unread()? == 0 {
                return Ok(());
            }
            if ready.is_write_closed() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            // It is not ready until the kernel says so again.
            let _ = self.0.try_io(|| match self.unread()? {
                0 => Ok(()),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            });
        }
    }

    /// Bytes that were written and not read.
    pub(super) fn unread(&self) -> io::Result<u64> {
        Ok(ioctl_fionread(&self.0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Reads so many bytes.
    fn read(theirs: &mut File, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        theirs.read_exact(&mut bytes).expect("bytes");
        bytes
    }

    async fn is_taken(stdin: &Stdin) -> bool {
        timeout(Duration::from_millis(50), stdin.taken()).await.is_ok()
    }

    #[tokio::test]
    async fn it_is_taken_when_the_last_byte_was_read_and_not_before() {
        let (mut stdin, theirs) = Stdin::new().expect("a pipe");
        let mut theirs = File::from(theirs);
        assert!(is_taken(&stdin).await, "there is nothing in it");
        stdin.write(b"some").await.expect("written");
        stdin.write(b" words").await.expect("written");
        assert_eq!(stdin.unread().expect("a number"), 10);
        assert!(!is_taken(&stdin).await);
        read(&mut theirs, 9);
        assert!(!is_taken(&stdin).await);
        // While somebody waits for it.
        let reading = async { tokio::task::spawn_blocking(move || (read(&mut theirs, 1), theirs)).await };
        let (taken, rest) = tokio::join!(timeout(Duration::from_secs(5), stdin.taken()), reading);
        taken.expect("in time").expect("a pipe");
        assert_eq!(rest.expect("no panic").0, b"s");
    }

    #[tokio::test]
    async fn more_than_it_holds_is_written_as_it_is_read() {
        let (mut stdin, theirs) = Stdin::new().expect("a pipe");
        let all: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let length = all.len();
        let reading = tokio::task::spawn_blocking(move || read(&mut File::from(theirs), length));
        timeout(Duration::from_secs(5), stdin.write(&all)).await.expect("in time").expect("written");
        assert!(reading.await.expect("no panic") == all);
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_not_waited_for() {
        let (mut stdin, theirs) = Stdin::new().expect("a pipe");
        stdin.write(b"some").await.expect("written");
        drop(theirs);
        let taken = timeout(Duration::from_secs(5), stdin.taken()).await.expect("in time");
        assert_eq!(taken.expect_err("nobody reads it").kind(), io::ErrorKind::BrokenPipe);
        let written = timeout(Duration::from_secs(5), stdin.write(b"more")).await.expect("in time");
        assert_eq!(written.expect_err("nobody reads it").kind(), io::ErrorKind::BrokenPipe);
    }
}
