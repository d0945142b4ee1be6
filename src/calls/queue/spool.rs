//! Payloads on disk: short ones go with the rest of their call, longer ones to a file each, head and body.
//!
//! A file is complete and on disk before the call that names it is, and is removed after it. What a crash leaves in
//! between belongs to nobody, and goes at the next start.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::payload::Payload;
use host::private_file;

/// Bytes that must stay free on the disk: the store must be able to write when the spool cannot any more.
const RESERVE: u64 = 64 << 20;
/// Bytes that are written between two looks at what is free.
const LOOK_EVERY: u64 = 1 << 20;

/// The directory of the files. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Spool(PathBuf);

impl Spool {
    /// Opens the one under `state_dir`.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("queue");
        private_file::make_directory(&directory)?;
        Ok(Self(directory))
    }

    /// Begins to take in what a call sends, of which this is the head. `inline` bytes of both may do without a file.
    pub(super) fn writer(&self, head: Vec<u8>, inline: usize) -> SpoolWriter {
        let size = head.len() as u64;
        SpoolWriter { spool: self.clone(), inline, head: size, start: head, file: None, size, looked: 0 }
    }

    /// Reads the head that a file begins with; its body can be read from what is given with it.
    pub(super) async fn read(&self, name: Uuid, head: u64, body: u64) -> io::Result<(Vec<u8>, File)> {
        let mut file = File::open(self.path(name)).await?;
        let length = file.metadata().await?.len();
        // Whoever is promised a length must get it: the next call would begin within this one.
        if length != head + body {
            let text = format!("it has {length} bytes instead of {}", head + body);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut read = Vec::new();
        (&mut file).take(head).read_to_end(&mut read).await?;
        Ok((read, file))
    }

    /// The same once more, to be removed by itself; on disk if it has a file.
    pub(super) async fn share(&self, payload: &Payload) -> io::Result<Payload> {
        let Payload::File { name, head, body } = payload else { return Ok(payload.clone()) };
        let other = Uuid::new_v4();
        tokio::fs::hard_link(self.path(*name), self.path(other)).await?;
        File::open(&self.0).await?.sync_all().await?;
        Ok(Payload::File { name: other, head: *head, body: *body })
    }

    /// Removes what a call has on the disk.
    pub(super) async fn remove(&self, payload: &Payload) {
        let Payload::File { name, .. } = payload else { return };
        let path = self.path(*name);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "what a call sent was not removed; the next start will do it");
            }
            _ => {}
        }
    }

    /// Removes all files of ours but these.
    pub(super) fn retain(&self, used: &HashSet<Uuid>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // A file system of its own has lost+found here.
            if name.is_some_and(|name: Uuid| !used.contains(&name))
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(file = %entry.path().display(), %error, "what a call sent that is gone was not removed");
            }
        }
        Ok(())
    }

    /// Fails where the disk has no room for more.
    fn look(&self) -> io::Result<()> {
        // A file system that does not answer is met by the write.
        let Ok(stat) = statvfs(&self.0) else { return Ok(()) };
        let free = stat.blocks_available() * stat.fragment_size();
        if free >= RESERVE {
            return Ok(());
        }
        let text = format!("{} MB are free, and {} MB must stay", free / 1_000_000, RESERVE / 1_000_000);
        Err(io::Error::new(io::ErrorKind::StorageFull, text))
    }

    fn path(&self, name: Uuid) -> PathBuf {
        self.0.join(name.to_string())
    }
}

/// A payload while it is taken in. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub(super) struct SpoolWriter {
    spool: Spool,
    /// Bytes that may do without a file.
    inline: usize,
    /// Bytes of the head.
    head: u64,
    /// Bytes that were taken in, as long as there is no file.
    start: Vec<u8>,
    file: Option<(Uuid, File)>,
    size: u64,
    /// How much there was when the disk was last looked at.
    looked: u64,
}

impl SpoolWriter {
    /// Bytes so far, of the head and the body.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes in the next piece of the body.
    pub(super) async fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.size += piece.len() as u64;
        if self.file.is_none() {
            if self.start.len() + piece.len() <= self.inline {
                self.start.extend_from_slice(piece);
                return Ok(());
            }
            self.open().await?;
        }
        if self.size >= self.looked + LOOK_EVERY {
            self.spool.look()?;
            self.looked = self.size;
        }
        match &mut self.file {
            Some((_, file)) => file.write_all(piece).await,
            None => Ok(()),
        }
    }

    /// From now on there is a file.
    async fn open(&mut self) -> io::Result<()> {
        self.spool.look()?;
        let name = Uuid::new_v4();
        let file = File::create_new(self.spool.path(name)).await?;
        let (_, file) = self.file.insert((name, file));
        file.write_all(&std::mem::take(&mut self.start)).await
    }

    /// Head and body, on disk if they have a file. Whoever drops them without keeping them must remove them.
    pub(super) async fn finish(mut self) -> io::Result<Payload> {
        if self.file.is_none() && self.start.len() > self.inline {
            self.open().await?;
        }
        let Some((name, file)) = &mut self.file else {
            let mut head = std::mem::take(&mut self.start);
            let body = head.split_off(usize::try_from(self.head).unwrap_or(usize::MAX).min(head.len()));
            return Ok(Payload::Inline { head, body });
        };
        let name = *name;
        file.flush().await?;
        file.sync_data().await?;
        File::open(&self.spool.0).await?.sync_all().await?;
        self.file = None;
        Ok(Payload::File { name, head: self.head, body: self.size - self.head })
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        if let Some((name, _)) = self.file.take() {
            // The next start would remove it too.
            let _ = std::fs::remove_file(self.spool.path(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INLINE: usize = 4 << 10;

    fn spool() -> (tempfile::TempDir, Spool) {
        let state = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(state.path()).expect("opened");
        (state, spool)
    }

    fn files(spool: &Spool) -> usize {
        std::fs::read_dir(&spool.0).expect("a directory").count()
    }

    async fn payload(spool: &Spool, head: &[u8], pieces: &[&[u8]]) -> Payload {
        let mut draft = spool.writer(head.to_vec(), INLINE);
        for piece in pieces {
            draft.push(piece).await.expect("written");
        }
        draft.finish().await.expect("finished")
    }

    #[tokio::test]
    async fn a_short_payload_is_inline_and_a_longer_one_has_a_file() {
        let (_state, spool) = spool();
        let inline = |head: &[u8], body: &[u8]| Payload::Inline { head: head.to_vec(), body: body.to_vec() };
        assert_eq!(payload(&spool, b"head", &[]).await, inline(b"head", b""));
        let short = vec![7; INLINE - 4];
        assert_eq!(payload(&spool, b"head", &[&short[..9], &short[9..]]).await, inline(b"head", &short));
        assert_eq!(files(&spool), 0);
        let long_head = vec![b'h'; INLINE + 1];
        for (head, pieces) in
            [(&b"head"[..], vec![&short[..], b"x", b"yz"]), (&long_head, vec![]), (&long_head, vec![b"b"])]
        {
            let body = pieces.concat();
            let long = payload(&spool, head, &pieces).await;
            let Payload::File { name, head: heads, body: bodies } = long else {
                panic!("{long:?} is kept in memory")
            };
            assert_eq!((heads, bodies), (head.len() as u64, body.len() as u64));
            let (found, mut rest) = spool.read(name, heads, bodies).await.expect("there");
            assert_eq!(found, head);
            let mut found = Vec::new();
            rest.read_to_end(&mut found).await.expect("read");
            assert_eq!(found, body);
            std::fs::write(spool.path(name), b"cut").expect("written");
            let error = spool.read(name, heads, bodies).await.expect_err("it is cut");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            spool.remove(&long).await;
            spool.remove(&long).await;
            assert_eq!(files(&spool), 0);
        }
    }

    #[tokio::test]
    async fn an_unfinished_or_unused_file_is_removed() {
        let (_state, spool) = spool();
        let mut draft = spool.writer(Vec::new(), INLINE);
        draft.push(&[0; INLINE + 1]).await.expect("written");
        assert_eq!(files(&spool), 1);
        drop(draft);
        assert_eq!(files(&spool), 0);
        let mut kept = HashSet::new();
        for _ in 0..2 {
            if let Payload::File { name, .. } = payload(&spool, b"", &[&[0; INLINE + 1]]).await {
                kept = HashSet::from([name]);
            }
        }
        std::fs::create_dir(spool.0.join("lost+found")).expect("made");
        spool.retain(&kept).expect("cleaned");
        assert_eq!(files(&spool), 2, "the one that is used, and what is not ours");
        let name = *kept.iter().next().expect("one");
        spool.read(name, 0, INLINE as u64 + 1).await.expect("it is the one that is used");
    }
}
