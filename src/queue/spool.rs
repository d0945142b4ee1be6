//! Bodies of calls that are made later: short ones go with the rest of the call, longer ones to a file each.
//!
//! A file is complete and on disk before the call that names it is, and is removed after it. What a crash leaves in
//! between belongs to nobody, and goes at the next start.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use super::job::Body;
use crate::secrets::file::private_directory;

/// Bytes of a body that is kept with its call. sled's nodes must stay small.
const INLINE: usize = 4 << 10;

/// The directory of the files. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Spool(PathBuf);

impl Spool {
    /// That under `state_dir`.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("queue");
        private_directory(&directory)?;
        Ok(Self(directory))
    }

    /// Begins to take in a body.
    pub(super) fn draft(&self) -> Draft {
        Draft { spool: self.clone(), start: Vec::new(), file: None, size: 0 }
    }

    /// Opens the file of a body.
    pub(super) async fn file(&self, name: Uuid) -> io::Result<File> {
        File::open(self.path(name)).await
    }

    /// Removes what a body has on the disk.
    pub(super) async fn remove(&self, body: &Body) {
        if let Body::File { name, .. } = body {
            self.remove_file(*name).await;
        }
    }

    async fn remove_file(&self, name: Uuid) {
        let path = self.path(name);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "the body of a call was not removed; the next start will do it");
            }
            _ => {}
        }
    }

    /// Removes all files but these.
    pub(super) fn retain(&self, used: &HashSet<Uuid>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if name.is_none_or(|name: Uuid| !used.contains(&name)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, name: Uuid) -> PathBuf {
        self.0.join(name.to_string())
    }
}

/// A body that is being taken in. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    spool: Spool,
    start: Vec<u8>,
    file: Option<(Uuid, File)>,
    size: u64,
}

impl Draft {
    /// Takes in the next piece.
    pub async fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.size += piece.len() as u64;
        if self.file.is_none() {
            if self.start.len() + piece.len() <= INLINE {
                self.start.extend_from_slice(piece);
                return Ok(());
            }
            let name = Uuid::new_v4();
            let file = File::create_new(self.spool.path(name)).await?;
            let (_, file) = self.file.insert((name, file));
            file.write_all(&std::mem::take(&mut self.start)).await?;
        }
        if let Some((_, file)) = &mut self.file {
            file.write_all(piece).await?;
        }
        Ok(())
    }

    /// The whole body, on disk if it has a file. Whoever drops it without keeping it must remove it.
    pub async fn finish(mut self) -> io::Result<Body> {
        let Some((name, file)) = &mut self.file else {
            return Ok(Body::Inline(std::mem::take(&mut self.start)));
        };
        let name = *name;
        file.flush().await?;
        file.sync_data().await?;
        File::open(&self.spool.0).await?.sync_all().await?;
        self.file = None;
        Ok(Body::File { name, size: self.size })
    }
}

impl Drop for Draft {
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

    fn spool() -> (tempfile::TempDir, Spool) {
        let state = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(state.path()).expect("opened");
        (state, spool)
    }

    fn files(spool: &Spool) -> usize {
        std::fs::read_dir(&spool.0).expect("a directory").count()
    }

    async fn body(spool: &Spool, pieces: &[&[u8]]) -> Body {
        let mut draft = spool.draft();
        for piece in pieces {
            draft.push(piece).await.expect("written");
        }
        draft.finish().await.expect("finished")
    }

    #[tokio::test]
    async fn a_short_body_is_kept_and_a_longer_one_has_a_file() {
        let (_state, spool) = spool();
        assert_eq!(body(&spool, &[]).await, Body::Inline(Vec::new()));
        let short = vec![7; INLINE];
        assert_eq!(body(&spool, &[&short[..9], &short[9..]]).await, Body::Inline(short.clone()));
        assert_eq!(files(&spool), 0);
        let long = body(&spool, &[&short, b"x", b"yz"]).await;
        let Body::File { name, size } = long else { panic!("{long:?} is kept in memory") };
        assert_eq!(size, INLINE as u64 + 3);
        let content = std::fs::read(spool.path(name)).expect("there");
        assert_eq!((content.len() as u64, &content[INLINE..]), (size, &b"xyz"[..]));
        spool.remove(&long).await;
        spool.remove(&long).await;
        assert_eq!(files(&spool), 0);
    }

    #[tokio::test]
    async fn what_was_not_finished_or_is_not_used_leaves_nothing() {
        let (_state, spool) = spool();
        let mut draft = spool.draft();
        draft.push(&[0; INLINE + 1]).await.expect("written");
        assert_eq!(files(&spool), 1);
        drop(draft);
        assert_eq!(files(&spool), 0);
        let mut kept = HashSet::new();
        for _ in 0..2 {
            if let Body::File { name, .. } = body(&spool, &[&[0; INLINE + 1]]).await {
                kept = HashSet::from([name]);
            }
        }
        spool.retain(&kept).expect("cleaned");
        assert_eq!(files(&spool), 1);
        let name = *kept.iter().next().expect("one");
        spool.file(name).await.expect("it is the one that is used");
    }
}
