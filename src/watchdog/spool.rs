//! Buffers for bodies of requests that are read whole before they are used. All of them together are limited: small
//! bodies are in memory, large ones in unnamed files.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http::StatusCode;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use tokio::fs::File;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::task::spawn_blocking;

use super::body::Body;
use super::failure::Failure;
use super::settings::Settings;

/// Bytes of one body that are held in memory, if there is a disk for the rest.
const IN_MEMORY: usize = 1 << 20;
/// Size of the pieces of a body except the last, in bytes: a multiple of three, for base64.
const PIECE: usize = 48 << 10;

/// The limits and the directory of buffered bodies.
#[derive(Debug)]
pub(super) struct Spool {
    memory: Quota,
    disk: Quota,
    directory: PathBuf,
}

/// A limit for buffered bytes.
#[derive(Debug)]
struct Quota {
    /// The variable that sets the limit.
    variable: &'static str,
    limit: u64,
    used: AtomicU64,
}

/// Bytes reserved from a quota, which are released on drop.
#[derive(Debug)]
struct Share<'s> {
    quota: &'s Quota,
    bytes: u64,
}

impl Quota {
    fn new(variable: &'static str, limit: u64) -> Self {
        Self { variable, limit, used: AtomicU64::new(0) }
    }

    fn share(&self) -> Share<'_> {
        Share { quota: self, bytes: 0 }
    }
}

impl Share<'_> {
    /// Grows the share to at least this many bytes, if the quota has room for them.
    fn hold(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let add = |used: u64| used.checked_add(more).filter(|sum| *sum <= self.quota.limit);
        let held = self.quota.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        self.bytes += if held { more } else { 0 };
        held
    }

    /// Returns the failure for a body of at least this many bytes: no room now, or never.
    fn refusal(&self, bytes: u64) -> Failure {
        let Quota { variable, limit, .. } = self.quota;
        if bytes > *limit {
            let text =
                format!("the body is larger than the limit of {limit} bytes for all bodies ({variable})");
            return Failure::Request(StatusCode::PAYLOAD_TOO_LARGE, text);
        }
        Failure::Busy(format!(
            "the bodies of other requests leave no room for this one ({variable}): try again later"
        ))
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.quota.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Spool {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            memory: Quota::new("max_body_memory", settings.max_body_memory),
            disk: Quota::new("max_body_disk", settings.max_body_disk),
            directory: settings.spool_path.clone(),
        }
    }

    /// Reads a body to its end.
    pub(super) async fn read(&self, body: &mut Body<'_>) -> Result<Spooled<'_>, Failure> {
        let announced = body.announced();
        let mut memory = self.in_memory();
        let mut disk = self.disk.share();
        let mut file = None;
        let mut length = 0;
        while let Some(piece) = body.next().await? {
            length += piece.len() as u64;
            if file.is_none() {
                if length <= IN_MEMORY as u64 && memory.push(piece) {
                    continue;
                }
                file = self.file().await;
                // Reserved for the whole announced length, because part of a body is of no use.
                let whole = announced.unwrap_or(length);
                match &mut file {
                    Some(_) if !disk.hold(whole) => return Err(disk.refusal(whole)),
                    Some(file) => file.write_all(&memory.bytes).await.map_err(full)?,
                    None if memory.push(piece) => continue,
                    None => return Err(memory.share.refusal(whole)),
                }
                memory = self.in_memory();
            }
            if let Some(file) = &mut file {
                if !disk.hold(length) {
                    return Err(disk.refusal(length));
                }
                file.write_all(piece).await.map_err(full)?;
            }
        }
        let store = match file {
            None => Store::Memory(memory.bytes),
            Some(mut file) => {
                file.flush().await.map_err(full)?;
                file.rewind().await.map_err(Failure::Spool)?;
                Store::File { file, piece: Vec::new() }
            }
        };
        Ok(Spooled { store, length, given: 0, _shares: (memory.share, disk) })
    }

    /// Reads a body to its end, into memory.
    pub(super) async fn read_into_memory(&self, body: &mut Body<'_>) -> Result<InMemory<'_>, Failure> {
        let announced = body.announced();
        let mut memory = self.in_memory();
        while let Some(piece) = body.next().await? {
            if !memory.push(piece) {
                let length = (memory.bytes.len() + piece.len()) as u64;
                return Err(memory.share.refusal(announced.unwrap_or(length)));
            }
        }
        Ok(memory)
    }

    fn in_memory(&self) -> InMemory<'_> {
        InMemory { bytes: Vec::new(), share: self.memory.share() }
    }

    /// Returns a file that is deleted on close, if the directory is on disk.
    async fn file(&self) -> Option<File> {
        if self.disk.limit == 0 {
            return None;
        }
        let directory = self.directory.clone();
        let made = spawn_blocking(move || unnamed(&directory)).await.ok()?;
        made.map(File::from_std)
    }
}

/// Creates an unnamed file in a directory, unless that is in memory or not writable.
fn unnamed(directory: &Path) -> Option<std::fs::File> {
    let file = tempfile::tempfile_in(directory).ok()?;
    let kind = fstatfs(&file).ok()?.filesystem_type();
    (kind != TMPFS_MAGIC).then_some(file)
}

fn full(error: io::Error) -> Failure {
    Failure::Busy(format!("the body cannot be written to the disk: {error}"))
}

/// A body in memory.
#[derive(Debug)]
pub(super) struct InMemory<'s> {
    bytes: Vec<u8>,
    share: Share<'s>,
}

impl InMemory<'_> {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Adds a piece, if there is room for it.
    fn push(&mut self, piece: &[u8]) -> bool {
        let needed = self.bytes.len() + piece.len();
        let capacity = self.bytes.capacity();
        if needed > capacity {
            // Doubled, so that reallocations are rare.
            let wanted = [needed.max(capacity * 2), needed];
            let Some(held) = wanted.into_iter().find(|wanted| self.share.hold(*wanted as u64)) else {
                return false;
            };
            self.bytes.reserve_exact(held - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        true
    }
}

/// A whole body, which is read once.
#[derive(Debug)]
pub(super) struct Spooled<'s> {
    store: Store,
    length: u64,
    given: u64,
    _shares: (Share<'s>, Share<'s>),
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    File { file: File, piece: Vec<u8> },
}

impl Spooled<'_> {
    /// Returns the length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns the whole body, if it has at most `limit` bytes.
    pub(super) fn small(&self, limit: usize) -> Option<&[u8]> {
        match &self.store {
            Store::Memory(bytes) if bytes.len() <= limit => Some(bytes),
            _ => None,
        }
    }

    /// Appends the next piece to `out`; `false` at the end.
    pub(super) fn poll_append(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<bool>> {
        let left = self.length - self.given;
        let count = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let from = usize::try_from(self.given).unwrap_or(usize::MAX);
        let count = match &mut self.store {
            _ if count == 0 => return Poll::Ready(Ok(false)),
            Store::Memory(bytes) => {
                out.extend_from_slice(&bytes[from..from + count]);
                count
            }
            Store::File { file, .. } => {
                let start = out.len();
                out.resize(start + count, 0);
                let mut piece = ReadBuf::new(&mut out[start..]);
                let read = Pin::new(file).poll_read(cx, &mut piece);
                let count = piece.filled().len();
                out.truncate(start + count);
                ready!(read)?;
                count
            }
        };
        self.given += count as u64;
        let error = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than the body");
        Poll::Ready(if count > 0 { Ok(true) } else { Err(error()) })
    }

    /// Returns the next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        let left = self.length - self.given;
        let count = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        if count == 0 {
            return Ok(None);
        }
        let from = usize::try_from(self.given).unwrap_or(usize::MAX);
        self.given += count as u64;
        Ok(Some(match &mut self.store {
            Store::Memory(bytes) => &bytes[from..from + count],
            Store::File { file, piece } => {
                piece.resize(count, 0);
                file.read_exact(piece).await.map_err(Failure::Spool)?;
                piece
            }
        }))
    }
}
