//! A plug in a pipe that a process writes to: bytes that fill the pipe, so that writes to it block.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Default capacity of a pipe in bytes.
const USUAL: i32 = 64 << 10;

/// The bytes that fill a pipe.
#[derive(Debug)]
#[must_use = "a pipe with a plug in it stays as it is"]
pub(super) struct Plug(Box<[u8]>);

impl Plug {
    /// Fills an empty pipe, given its read end. Returns `None` if the pipe is not empty.
    pub(super) fn put(pipe: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        // A page is the smallest capacity, and a write of one page is atomic. A pipe that contains more
        // cannot shrink to it.
        let size = match fcntl(pipe, FcntlArg::F_SETPIPE_SZ(1)) {
            Ok(size) => usize::try_from(size).unwrap_or_default(),
            Err(Errno::EBUSY) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let bytes = vec![0; size].into_boxed_slice();
        // Closed again at once: a pipe does not end while a write end is open.
        let end = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        let mut end = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(end)?;
        match end.write(&bytes) {
            Ok(count) if count == size => Ok(Some(Self(bytes))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the plug: bytes that follow were written after it was put in.
    pub(super) fn take(mut self, pipe: BorrowedFd<'_>) -> io::Result<()> {
        // A user with many pipes may not get a larger one again; the small one works, too.
        let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(USUAL));
        match nix::unistd::read(pipe, &mut self.0)? {
            count if count == self.0.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read as _};
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use super::*;

    fn pipe() -> (PipeReader, PipeWriter) {
        io::pipe().expect("a pipe")
    }

    #[test]
    fn writes_to_a_pipe_block_until_the_plug_is_removed() {
        let (mut ours, mut theirs) = pipe();
        for round in 0..100_u8 {
            let plug = Plug::put(ours.as_fd()).expect("a pipe").expect("it is empty");
            let (told, is_written) = std::sync::mpsc::channel();
            let answer = vec![round; 100_000];
            let length = answer.len();
            let writing = std::thread::spawn(move || {
                theirs.write_all(&answer).expect("written");
                told.send(()).expect("asked");
                theirs
            });
            if round < 3 {
                assert!(is_written.recv_timeout(Duration::from_millis(50)).is_err(), "it was written");
            }
            plug.take(ours.as_fd()).expect("it is in");
            let mut read = vec![0; length];
            ours.read_exact(&mut read).expect("an answer");
            assert!(read.iter().all(|byte| *byte == round), "the plug is no part of it");
            theirs = writing.join().expect("no panic");
        }
        drop(theirs);
        assert_eq!(ours.read(&mut [0]).expect("its end"), 0, "nobody else can write to it");
    }

    #[test]
    fn a_pipe_that_is_not_empty_takes_no_plug() {
        for length in [1, 4095, 4096, 4097, 65_536] {
            let (ours, mut theirs) = pipe();
            theirs.write_all(&vec![7; length]).expect("written");
            assert!(Plug::put(ours.as_fd()).expect("a pipe").is_none(), "{length} bytes");
        }
    }

    #[test]
    fn a_nonblocking_write_to_a_pipe_with_a_plug_fails_as_full() {
        let (ours, mut theirs) = pipe();
        fcntl(&theirs, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("set");
        let plug = Plug::put(ours.as_fd()).expect("a pipe").expect("it is empty");
        for length in [1, 5000] {
            let refused = theirs.write(&vec![7; length]).expect_err("it is full");
            assert_eq!(refused.kind(), io::ErrorKind::WouldBlock, "{length} bytes");
        }
        plug.take(ours.as_fd()).expect("it is in");
        assert_eq!(theirs.write(&[7]).expect("there is room"), 1);
    }
}
