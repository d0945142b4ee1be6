//! A disk behind FUSE, and how it stops.
//!
//! One thread serves one request after the other. At the stop it keeps the request that it is at, so that all others
//! wait in the kernel: the program sees a device that does not answer. `Mounted::cut` is called when the program has
//! been sent SIGKILL: only then are its requests answered, with errors that it does not live to see.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, SessionACL,
    TimeOrNow, WriteFlags,
};
use nix::fcntl::FallocateFlags;
use nix::mount::{MntFlags, umount2};

use crate::disk::{Attributes, Change, Disk, Kind, PAGE};

/// How long the kernel may remember what it was told: nobody else changes the files.
const TTL: Duration = Duration::from_secs(3600);
/// The size of the disk in pages: more than any test fills.
const PAGES: u64 = 16 << 20;

/// When the disk is to stop.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Writes, syncs and changes of names that are carried out before.
    pub after: u64,
    /// Then go on until there is a write to a file, or a sync of one, that has changes which no sync has covered: at
    /// such a stop the file is between its first change and its sync.
    pub inside: bool,
}

/// What the disk was at when it stopped.
#[derive(Debug, Clone)]
pub struct Stop {
    /// In words.
    pub at: String,
    /// Whether that file had changes that no sync had covered.
    pub inside: bool,
}

#[derive(Debug)]
enum Phase {
    Serving(Option<Fault>),
    Stopped(Stop),
    /// Every request fails.
    Dead,
}

#[derive(Debug)]
struct State {
    disk: Disk,
    phase: Phase,
    ignores_syncs: bool,
    /// What open directories had in them when they were opened, as readdir(3) may show it.
    listings: BTreeMap<u64, Vec<(u64, FileType, OsString)>>,
    last_listing: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A disk that is mounted. Dropping it unmounts it.
#[derive(Debug)]
pub struct Mounted {
    shared: Arc<Shared>,
    path: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Mounts a disk at a directory. With `ignores_syncs` no sync covers anything.
    pub fn new(disk: Disk, path: &Path, ignores_syncs: bool) -> io::Result<Self> {
        let listings = BTreeMap::new();
        let state = State { disk, phase: Phase::Serving(None), ignores_syncs, listings, last_listing: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("powercut".to_owned()), MountOption::DefaultPermissions];
        // Containers of other users see files of the daemon.
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(Server(shared.clone()), path, &config)?;
        Ok(Self { shared, path: path.to_owned(), session: Some(session) })
    }

    /// Says when the disk is to stop.
    pub fn arm(&self, fault: Fault) {
        let mut state = self.shared.lock();
        if matches!(state.phase, Phase::Serving(_)) {
            state.phase = Phase::Serving(Some(fault));
        }
    }

    /// Says what the disk was at when it stopped, if it has stopped.
    pub fn stopped(&self) -> Option<Stop> {
        match &self.shared.lock().phase {
            Phase::Stopped(stop) => Some(stop.clone()),
            _ => None,
        }
    }

    /// Makes everything durable that is there.
    pub fn settle(&self) {
        self.shared.lock().disk.settle();
    }

    /// Fails all requests from now on, and returns the disk with what was durable and what was not. Whoever uses it
    /// must have been sent SIGKILL.
    pub fn cut(mut self) -> Disk {
        let mut state = self.shared.lock();
        state.phase = Phase::Dead;
        let disk = std::mem::take(&mut state.disk);
        drop(state);
        self.shared.changed.notify_all();
        self.unmount();
        disk
    }

    fn unmount(&mut self) {
        let Some(session) = self.session.take() else { return };
        // A program that is being killed may still have files open.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        // The thread ends with the last of them.
        drop(session);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.shared.lock().phase = Phase::Dead;
        self.shared.changed.notify_all();
        self.unmount();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, to be looked at.
    fn read(&self) -> Result<MutexGuard<'_, State>, Errno> {
        let state = self.lock();
        if matches!(state.phase, Phase::Serving(_)) { Ok(state) } else { Err(Errno::EIO) }
    }

    /// Carries out a change of a file or of the names in a directory, which is there when it returns. If the disk
    /// stops here, it returns when the program has been killed, and fails.
    fn write(&self, inode: u64, what: &str, change: impl FnOnce(&mut Disk)) -> Result<(), Errno> {
        let mut state = self.read()?;
        let uncovered = state.disk.uncovered(inode);
        change(&mut state.disk);
        let Phase::Serving(Some(fault)) = &mut state.phase else { return Ok(()) };
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        if fault.inside && uncovered == 0 {
            return Ok(());
        }
        let path = state.disk.path_of(inode);
        let at =
            format!("{what} of {}, which had {uncovered} changes that no sync had covered", path.display());
        state.phase = Phase::Stopped(Stop { at, inside: uncovered > 0 });
        let stopped = |state: &mut State| matches!(state.phase, Phase::Stopped(_));
        drop(self.changed.wait_while(state, stopped).unwrap_or_else(PoisonError::into_inner));
        Err(Errno::EIO)
    }

    /// Carries out a change of a file.
    fn change(&self, inode: u64, what: &str, change: Change) -> Result<(), Errno> {
        self.write(inode, what, |disk| disk.change(inode, change))
    }

    /// Changes names, all at once.
    fn name(
        &self,
        directory: u64,
        what: &str,
        names: Vec<((u64, OsString), Option<u64>)>,
    ) -> Result<(), Errno> {
        self.write(directory, what, |disk| disk.name(names))
    }

    /// Carries out a sync, unless the disk stops at it.
    fn sync(&self, inode: u64, data_only: bool) -> Result<(), Errno> {
        self.write(inode, if data_only { "fdatasync" } else { "fsync" }, |_| {})?;
        let mut state = self.read()?;
        if state.ignores_syncs {
            return Ok(());
        }
        match state.disk.inode(inode).map(|inode| inode.kind) {
            Some(Kind::Directory) => state.disk.sync_directory(inode),
            _ => state.disk.sync_file(inode, data_only),
        }
        Ok(())
    }

    /// Makes a file with a name, and returns its attributes.
    fn make(
        &self,
        directory: u64,
        name: &OsStr,
        kind: Kind,
        attributes: Attributes,
    ) -> Result<FileAttr, Errno> {
        let made = self.read()?.disk.make(kind, attributes);
        self.name(directory, "a new name", vec![((directory, name.to_owned()), Some(made))])?;
        self.read()?.attributes(made)
    }

    /// Removes a name.
    fn remove(&self, directory: u64, name: &OsStr) -> Result<(), Errno> {
        let state = self.read()?;
        let inode = state.disk.lookup(directory, name).ok_or(Errno::ENOENT)?;
        // Empty for what is no directory, too.
        if state.disk.entries(inode).next().is_some() {
            return Err(Errno::ENOTEMPTY);
        }
        drop(state);
        self.name(directory, "a removal", vec![((directory, name.to_owned()), None)])
    }

    fn rename(&self, from: (u64, OsString), to: (u64, OsString), flags: RenameFlags) -> Result<(), Errno> {
        let state = self.read()?;
        let inode = state.disk.lookup(from.0, &from.1).ok_or(Errno::ENOENT)?;
        let replaced = state.disk.lookup(to.0, &to.1);
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && replaced.is_some() {
            return Err(Errno::EEXIST);
        }
        if replaced.is_some_and(|replaced| state.disk.entries(replaced).next().is_some()) {
            return Err(Errno::ENOTEMPTY);
        }
        drop(state);
        // Two names of one file stay, says rename(2).
        if replaced == Some(inode) {
            return Ok(());
        }
        self.name(to.0, "a rename", vec![(from, None), (to, Some(inode))])
    }

    fn set_attributes(
        &self,
        inode: u64,
        mode: Option<u32>,
        (uid, gid): (Option<u32>, Option<u32>),
        size: Option<u64>,
    ) -> Result<FileAttr, Errno> {
        if let Some(size) = size {
            self.change(inode, "a new size", Change::Resize(index(size)))?;
        }
        if mode.is_some() || uid.is_some() || gid.is_some() {
            let old = self.read()?.disk.inode(inode).ok_or(Errno::ENOENT)?.seen.attributes;
            let attributes = Attributes {
                mode: mode.map_or(old.mode, permissions),
                uid: uid.unwrap_or(old.uid),
                gid: gid.unwrap_or(old.gid),
            };
            self.change(inode, "new attributes", Change::Attributes(attributes))?;
        }
        self.read()?.attributes(inode)
    }

    fn allocate(&self, inode: u64, end: u64, mode: i32) -> Result<(), Errno> {
        match FallocateFlags::from_bits_retain(mode) {
            FallocateFlags::FALLOC_FL_KEEP_SIZE => Ok(()),
            mode if mode.is_empty() => self.change(inode, "an allocation", Change::Extend(index(end))),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

impl State {
    fn attributes(&self, number: u64) -> Result<FileAttr, Errno> {
        let inode = self.disk.inode(number).ok_or(Errno::ENOENT)?;
        let (links, size) = match inode.kind {
            Kind::Directory => (2, PAGE),
            Kind::File => (self.disk.links(number), inode.seen.data.len()),
        };
        let Attributes { mode, uid, gid } = inode.seen.attributes;
        Ok(FileAttr {
            ino: INodeNo(number),
            size: size as u64,
            blocks: size.div_ceil(512) as u64,
            atime: inode.modified,
            mtime: inode.modified,
            ctime: inode.modified,
            crtime: inode.modified,
            kind: file_type(inode.kind),
            perm: mode,
            nlink: u32::try_from(links).unwrap_or(u32::MAX),
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
    }
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits")
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("64 bits")
}

fn attributes(request: &Request, mode: u32) -> Attributes {
    Attributes { mode: permissions(mode), uid: request.uid(), gid: request.gid() }
}

#[derive(Debug)]
struct Server(Arc<Shared>);

/// Answers a request with what was found, or with the error.
macro_rules! answer {
    ($found:expr, $reply:ident, $name:pat => $answer:expr) => {
        match $found {
            Ok($name) => $answer,
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.read().and_then(|state| {
            let inode = state.disk.lookup(parent.0, name).ok_or(Errno::ENOENT)?;
            state.attributes(inode)
        });
        answer!(found, reply, found => reply.entry(&TTL, &found, Generation(0)));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(self.0.read().and_then(|state| state.attributes(inode.0)), reply, found => reply.attr(&TTL, &found));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(self.0.set_attributes(inode.0, mode, (uid, gid), size), reply, found => reply.attr(&TTL, &found));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        answer!(self.0.make(parent.0, name, Kind::Directory, attributes(request, mode)), reply, found => reply.entry(&TTL, &found, Generation(0)));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.0.make(parent.0, name, Kind::File, attributes(request, mode));
        answer!(made, reply, made => reply.created(&TTL, &made, Generation(0), FileHandle(0), FopenFlags::empty()));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self.0.remove(parent.0, name), reply, () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(self.0.remove(parent.0, name), reply, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name.to_owned()), (new_parent.0, new_name.to_owned()));
        answer!(self.0.rename(from, to, flags), reply, () => reply.ok());
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.0.name(parent.0, "a link", vec![((parent.0, name.to_owned()), Some(inode.0))]);
        answer!(linked.and_then(|()| self.0.read()?.attributes(inode.0)), reply, found => reply.entry(&TTL, &found, Generation(0)));
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer!(self.0.read(), reply, state => {
            let data = state.disk.inode(inode.0).map_or(&[][..], |inode| &inode.seen.data);
            let from = data.len().min(index(offset));
            reply.data(&data[from..data.len().min(from + index(u64::from(size)))]);
        });
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let change = Change::Write { offset: index(offset), data: data.to_owned() };
        let written = self.0.change(inode.0, "a write", change);
        answer!(written, reply, () => reply.written(u32::try_from(data.len()).expect("a request's length")));
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer!(self.0.allocate(inode.0, offset + length, mode), reply, () => reply.ok());
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        answer!(self.0.sync(inode.0, data_only), reply, () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        answer!(self.0.sync(inode.0, data_only), reply, () => reply.ok());
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(self.0.read(), reply, mut state => {
            let own = [".", ".."].map(|name| (inode.0, FileType::Directory, OsString::from(name)));
            let entries = state.disk.entries(inode.0).filter_map(|(name, inode)| {
                Some((inode, file_type(state.disk.inode(inode)?.kind), name.to_owned()))
            });
            let listing = own.into_iter().chain(entries).collect();
            state.last_listing += 1;
            let handle = state.last_listing;
            state.listings.insert(handle, listing);
            reply.opened(FileHandle(handle), FopenFlags::empty());
        });
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        answer!(self.0.read(), reply, state => {
            let listing = state.listings.get(&handle.0).map_or(&[][..], Vec::as_slice);
            for (at, (inode, kind, name)) in listing.iter().enumerate().skip(index(offset)) {
                if reply.add(INodeNo(*inode), at as u64 + 1, *kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.0.lock().listings.remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let page = u32::try_from(PAGE).expect("a page's size");
        reply.statfs(PAGES, PAGES, PAGES, 1 << 20, 1 << 20, page, 255, page);
    }
}

#[cfg(test)]
mod tests;
