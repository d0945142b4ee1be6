//! A file system for tests whose power can be cut.
//!
//! `Disk` keeps two states of its files: the one that programs see, and the one that syncs have made durable. Between
//! them stand the changes since, in order. `Disk::cut` returns a disk that a power cut may leave behind: all that is
//! durable, and of the changes whatever chance decides. `Mounted` serves a disk through FUSE and stops in the middle of
//! the load. Nothing here knows what is stored on it.
//!
//! # What a sync covers
//!
//! - `fsync` of a file covers its data, its size and its mode and owner. `fdatasync` leaves the last two out, as POSIX
//!   allows ("integrity completion" needs the size to find the data, but no other attribute).
//! - Neither covers the file's name. fsync(2) says: "Calling fsync() does not necessarily ensure that the entry in the
//!   directory containing the file has also reached disk. For that an explicit fsync() on a file descriptor for the
//!   directory is also needed." ext4 happens to commit the name of a new file as well; POSIX does not ask for it.
//! - `fsync` of a directory covers the names in it that were made, changed and removed, and with a rename from or to
//!   another directory its other half. It covers no file's data, and not the directory's own name.
//! - A write to a file opened with `O_SYNC` or `O_DSYNC` is covered: the kernel lets a sync follow it.
//! - `O_DIRECT` covers nothing: the data is in the device, whose cache is lost as well.
//! - `sync_file_range` covers nothing, for the same reason; sync_file_range(2) says so. `sync` and `syncfs` cover
//!   nothing either: the kernel does not pass them on to a FUSE file system. So a program that relies on one of these
//!   three fails here, the last two wrongly.
//! - A rename covers nothing. ext4's `auto_da_alloc`, which writes a file out that is renamed over another, is not
//!   what POSIX promises, and ext4 can be mounted without it.
//! - `close` covers nothing.
//!
//! # What a cut may leave of what no sync has covered
//!
//! - Each write to a file in whole, not at all, or in pieces that end at multiples of 512 bytes (sectors) or 4,096
//!   (pages): each piece is there or not, whatever becomes of those before and after it. A lost piece shows what was
//!   there before. So a later write may be there while an earlier one to the same file, or to another one, is not.
//! - A file's growth without its data: zeros. (A file system that shows what had been in those blocks, as ext4 does
//!   with `data=writeback`, is not simulated.)
//! - Each truncation, allocation and change of mode and owner: there or not.
//! - Each change of names (create, link, unlink, mkdir, rmdir, rename): there or not, in any order. ext4 and XFS keep
//!   the order of such changes; POSIX does not ask for it. A rename is atomic, also one that replaces a file.
//!   Changes of the same name stay in order.
//!
//! Times are not kept apart: a cut leaves them as they were seen. There are no symbolic links and no exchange of names.

mod disk;
mod mount;

pub use disk::{Chance, Disk, PAGE, SECTOR};
pub use mount::{Fault, Mounted, Stop};
