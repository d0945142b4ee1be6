//! What a process writes, read from its pipe.

use std::cell::RefCell;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

/// Bytes that are read at once: what a pipe holds, mostly.
const PIECE: usize = 64 << 10;
/// Pieces of memory that are kept for the next request: what is given back to the system comes back page by page.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Memory to read into.
#[derive(Debug)]
pub(super) struct Piece(Box<[u8]>);

impl Piece {
    pub(super) fn take() -> Self {
        Self(FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; PIECE].into()))
    }

    /// The first bytes of it.
    pub(super) fn first(&self, count: usize) -> &[u8] {
        &self.0[..count]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(std::mem::take(&mut self.0));
            }
        });
    }
}

/// Our end of a pipe from a process. The runtime learns of it when it is first waited for: most processes end before
/// that, and to be told of each pipe costs more than to read it.
#[derive(Debug)]
pub(super) enum Source {
    New(PipeReader),
    Watched(Receiver),
    /// Nothing more comes, or nobody listens.
    Closed,
}

impl Source {
    /// A pipe: our end, and that of the process.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = io::pipe()?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self::New(ours), theirs.into()))
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self, Self::Closed)
    }

    /// Waits for something, and reads it; 0 when nothing more comes. May be given up and called again. Fails where
    /// the runtime cannot watch it, as when there is no memory for that.
    pub(super) async fn read(&mut self, piece: &mut Piece) -> io::Result<usize> {
        if let Self::New(_) = self
            && let Self::New(pipe) = std::mem::replace(self, Self::Closed)
        {
            *self = Self::Watched(Receiver::from_owned_fd_unchecked(pipe.into())?);
        }
        let Self::Watched(pipe) = self else { return Ok(0) };
        // One that cannot be read has nothing more to give.
        let count = pipe.read(&mut piece.0).await.unwrap_or(0);
        if count == 0 {
            *self = Self::Closed;
        }
        Ok(count)
    }

    /// Gives what is in the pipe now, piece by piece, and nothing that is written meanwhile beyond what it holds:
    /// others may hold it open for ever, and write for ever.
    pub(super) fn left(&self) -> Left<'_> {
        let pipe = self.pipe();
        Left { pipe, left: pipe.map_or(0, capacity) }
    }

    fn pipe(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::New(pipe) => Some(pipe.as_fd()),
            Self::Watched(pipe) => Some(pipe.as_fd()),
            Self::Closed => None,
        }
    }
}

/// What is left in a pipe.
#[derive(Debug)]
pub(super) struct Left<'s> {
    pipe: Option<BorrowedFd<'s>>,
    left: usize,
}

impl Left<'_> {
    /// Reads the next piece of it, if there is one.
    pub(super) fn next(&mut self, piece: &mut Piece) -> Option<usize> {
        let pipe = self.pipe.filter(|_| self.left > 0)?;
        loop {
            match nix::unistd::read(pipe, &mut piece.0[..self.left.min(PIECE)]) {
                Ok(0) => return None,
                Ok(count) => {
                    self.left -= count;
                    return Some(count);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Bytes that a pipe can hold: whoever writes to it may have asked for more than usual.
fn capacity(pipe: BorrowedFd<'_>) -> usize {
    fcntl(pipe, FcntlArg::F_GETPIPE_SZ).ok().and_then(|size| size.try_into().ok()).unwrap_or(PIECE)
}
