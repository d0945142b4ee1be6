//! The files in memory: as they are seen, as they are durable, and the changes between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a device writes in whole or not at all.
pub const SECTOR: usize = 512;
/// What the kernel writes back at once.
pub const PAGE: usize = 4096;

/// The number of the root directory.
pub(crate) const ROOT: u64 = 1;

/// A source of numbers: one below the bound it is given, which is not 0.
pub type Chance<'a> = &'a mut dyn FnMut(u64) -> u64;

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
}

/// Attributes that `fdatasync` does not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A state of a file.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) data: Vec<u8>,
    pub(crate) attributes: Attributes,
}

/// A change of a file.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write {
        offset: usize,
        data: Vec<u8>,
    },
    Resize(usize),
    /// At least so many bytes.
    Extend(usize),
    Attributes(Attributes),
}

#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) kind: Kind,
    pub(crate) seen: Content,
    pub(crate) modified: SystemTime,
    durable: Content,
    /// Since the last sync that covered them, in order.
    changes: Vec<Change>,
}

/// A name in a directory.
type Name = (u64, OsString);
/// What names stand for from now on, all at once.
type Renaming = Vec<(Name, Option<u64>)>;

/// A disk with its files.
#[derive(Debug, Clone)]
pub struct Disk {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<Name, u64>,
    durable_names: BTreeMap<Name, u64>,
    /// Changes of names since the last sync that covered them, in order.
    renamings: Vec<Renaming>,
    last: u64,
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => {
                self.extend(offset + data.len());
                self.data[*offset..offset + data.len()].copy_from_slice(data);
            }
            Change::Resize(size) => self.data.resize(*size, 0),
            Change::Extend(size) => self.extend(*size),
            Change::Attributes(attributes) => self.attributes = *attributes,
        }
    }

    fn extend(&mut self, size: usize) {
        if self.data.len() < size {
            self.data.resize(size, 0);
        }
    }
}

impl Inode {
    fn new(kind: Kind, attributes: Attributes) -> Self {
        let content = Content { data: Vec::new(), attributes };
        let (durable, modified) = (content.clone(), SystemTime::now());
        Self { kind, seen: content, modified, durable, changes: Vec::new() }
    }

    /// Makes changes durable; those of mode and owner are left out if only the data is asked for.
    fn sync(&mut self, data_only: bool) {
        let (later, now): (Vec<_>, Vec<_>) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change| data_only && matches!(change, Change::Attributes(_)));
        now.iter().for_each(|change| self.durable.apply(change));
        self.changes = later;
    }

    /// Returns what a power cut may leave.
    fn cut(&self, chance: Chance<'_>) -> Content {
        let mut left = self.durable.clone();
        let kept = Share::draw(chance);
        let piece = [usize::MAX, PAGE, SECTOR][usize::try_from(chance(3)).expect("one of three")];
        for change in &self.changes {
            let Change::Write { offset, data } = change else {
                if kept.draws(chance) {
                    left.apply(change);
                }
                continue;
            };
            let mut from = 0;
            while from < data.len() {
                // Pieces end where sectors and pages do, not where writes begin.
                let to = data.len().min(from.saturating_add(piece - (offset + from) % piece));
                let (there, grown) = (kept.draws(chance), kept.draws(chance));
                if there {
                    left.apply(&Change::Write { offset: offset + from, data: data[from..to].to_vec() });
                } else if grown {
                    left.extend(offset + to);
                }
                from = to;
            }
        }
        left
    }
}

/// How many of the changes are kept, in tenths: fair coins alone would never lose all of many changes but the last,
/// or keep all but one.
struct Share(u64);

impl Share {
    fn draw(chance: Chance<'_>) -> Self {
        Self([0, 1, 5, 9, 10][usize::try_from(chance(5)).expect("one of five")])
    }

    fn draws(&self, chance: Chance<'_>) -> bool {
        chance(10) < self.0
    }
}

impl Default for Disk {
    fn default() -> Self {
        let attributes = Attributes { mode: 0o700, uid: 0, gid: 0 };
        let root = Inode::new(Kind::Directory, attributes);
        Self {
            inodes: BTreeMap::from([(ROOT, root)]),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamings: Vec::new(),
            last: ROOT,
        }
    }
}

impl Disk {
    pub(crate) fn inode(&self, inode: u64) -> Option<&Inode> {
        self.inodes.get(&inode)
    }

    pub(crate) fn lookup(&self, directory: u64, name: &OsStr) -> Option<u64> {
        self.names.get(&(directory, name.to_owned())).copied()
    }

    /// Lists a directory.
    pub(crate) fn entries(&self, directory: u64) -> impl Iterator<Item = (&OsStr, u64)> {
        let from = Bound::Included((directory, OsString::new()));
        let to = Bound::Excluded((directory + 1, OsString::new()));
        self.names.range((from, to)).map(|((_, name), inode)| (name.as_os_str(), *inode))
    }

    /// Counts the names of a file.
    pub(crate) fn links(&self, inode: u64) -> usize {
        self.names.values().filter(|other| **other == inode).count()
    }

    /// Returns the path of a file from the root, for messages.
    pub(crate) fn path_of(&self, inode: u64) -> PathBuf {
        match self.names.iter().find(|(_, named)| **named == inode) {
            Some(((directory, name), _)) => self.path_of(*directory).join(name),
            None if inode == ROOT => PathBuf::new(),
            None => PathBuf::from("a file that was removed"),
        }
    }

    /// Makes a file without a name.
    pub(crate) fn make(&mut self, kind: Kind, attributes: Attributes) -> u64 {
        self.last += 1;
        self.inodes.insert(self.last, Inode::new(kind, attributes));
        self.last
    }

    /// Changes names, all at once.
    pub(crate) fn name(&mut self, renaming: Renaming) {
        apply(&mut self.names, &renaming);
        self.renamings.push(renaming);
    }

    /// Changes a file.
    pub(crate) fn change(&mut self, inode: u64, change: Change) {
        let Some(inode) = self.inodes.get_mut(&inode) else { return };
        inode.seen.apply(&change);
        inode.modified = SystemTime::now();
        inode.changes.push(change);
    }

    /// The number of changes that no sync has covered: of a file, or of the names in a directory.
    pub(crate) fn uncovered(&self, inode: u64) -> usize {
        let names = |renaming: &&Renaming| renaming.iter().any(|((directory, _), _)| *directory == inode);
        self.inodes.get(&inode).map_or(0, |inode| inode.changes.len())
            + self.renamings.iter().filter(names).count()
    }

    /// Makes durable what `fsync` of a file covers, or `fdatasync`.
    pub(crate) fn sync_file(&mut self, inode: u64, data_only: bool) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.sync(data_only);
        }
    }

    /// Makes durable what `fsync` of a directory covers.
    pub(crate) fn sync_directory(&mut self, directory: u64) {
        self.sync_file(directory, false);
        // With a change that is covered go the earlier ones of the same names, which may be in another directory.
        let mut names = BTreeSet::new();
        let mut covered = Vec::new();
        let mut left = Vec::new();
        for renaming in std::mem::take(&mut self.renamings).into_iter().rev() {
            if renaming.iter().any(|(name, _)| name.0 == directory || names.contains(name)) {
                names.extend(renaming.iter().map(|(name, _)| name.clone()));
                covered.push(renaming);
            } else {
                left.push(renaming);
            }
        }
        covered.iter().rev().for_each(|renaming| apply(&mut self.durable_names, renaming));
        self.renamings = left.into_iter().rev().collect();
    }

    /// Makes everything durable, as the kernel does by itself when nothing happens for half a minute.
    pub fn settle(&mut self) {
        self.inodes.values_mut().for_each(|inode| inode.sync(false));
        self.durable_names = self.names.clone();
        self.renamings.clear();
    }

    /// Returns a disk that a power cut may leave.
    #[must_use]
    pub fn cut(&self, chance: Chance<'_>) -> Self {
        let mut names = self.durable_names.clone();
        let kept = Share::draw(chance);
        for renaming in &self.renamings {
            if kept.draws(chance) {
                apply(&mut names, renaming);
            }
        }
        let mut left = Self { last: self.last, names, ..Self::default() };
        // What has no name any more is gone, with all that is below it.
        let mut directories = vec![ROOT];
        let mut reached = BTreeSet::from([ROOT]);
        while let Some(directory) = directories.pop() {
            for (_, inode) in left.entries(directory) {
                if reached.insert(inode) && self.inodes[&inode].kind == Kind::Directory {
                    directories.push(inode);
                }
            }
        }
        left.names.retain(|(directory, _), _| reached.contains(directory));
        left.durable_names.clone_from(&left.names);
        for number in reached {
            let inode = &self.inodes[&number];
            let content = inode.cut(chance);
            let (kind, modified) = (inode.kind, inode.modified);
            let inode =
                Inode { kind, modified, seen: content.clone(), durable: content, changes: Vec::new() };
            left.inodes.insert(number, inode);
        }
        left
    }

    /// Lists the files with their paths from the root and their sizes.
    pub fn files(&self) -> Vec<(PathBuf, usize)> {
        let file = |inode: &u64| self.inodes.get(inode).filter(|inode| inode.kind == Kind::File);
        let named = |inode: &u64| Some((self.path_of(*inode), file(inode)?.seen.data.len()));
        let mut files: Vec<_> = self.names.values().filter_map(named).collect();
        files.sort();
        files
    }

    /// Changes the bytes of a file as a failing device does: what was durable is not there any more.
    pub fn damage(&mut self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let inode = path.iter().try_fold(ROOT, |directory, name| self.lookup(directory, name));
        let inode = inode.and_then(|inode| self.inodes.get_mut(&inode)).expect("a file of the disk");
        inode.sync(false);
        change(&mut inode.durable.data);
        inode.seen = inode.durable.clone();
    }
}

fn apply(names: &mut BTreeMap<Name, u64>, renaming: &Renaming) {
    for (name, inode) in renaming {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

#[cfg(test)]
mod tests;
