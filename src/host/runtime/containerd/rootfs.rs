//! Reads files in an image's root file system, which is not to be trusted, and makes directories in it.
//!
//! Invariants
//! - The mount exists only in the mount namespace of a thread that ends with the call, so a daemon
//!   that is killed leaves nothing mounted.
//! - What is read is mounted read-only, and a path in it cannot lead out of it: not by `..`, not by an
//!   absolute symlink.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use containerd_client::types::Mount;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// The largest file that is read; more is an error.
const MAX_FILE: u64 = 16 << 20;
/// Links that a path may lead over which is to be made.
const MAX_LINKS: usize = 40;
/// Where the private mount goes. It must be a directory on every machine, and nothing is read from
/// it by the thread that covers it.
const MOUNT_POINT: &str = "/proc";

/// The text of each of `paths` in the file system that `mounts` describe; empty where there is no
/// such file.
pub(super) async fn read_files<const N: usize>(
    mounts: Vec<Mount>,
    paths: [&'static str; N],
) -> io::Result<[String; N]> {
    within(mounts, Access::Read, move |root| read_below(root, paths)).await
}

/// Makes each of `paths` a directory in the file system that `mounts` describe, where there is none. Returns where
/// they are, from its root and without links, so that these paths lead nowhere else whoever follows them.
pub(super) async fn make_directories(mounts: Vec<Mount>, paths: Vec<String>) -> io::Result<Vec<PathBuf>> {
    // Opened before the mount covers it.
    let links = open_directory(Path::new("/proc/self/fd"))?;
    within(mounts, Access::Write, move |root| {
        let root = open_directory(root)?;
        paths.iter().map(|path| make_below(&root, path, &links)).collect()
    })
    .await
}

/// Purpose of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    /// Nobody else may have the file system mounted.
    Write,
}

/// Does `work` on the root of the file system that `mounts` describe, on a thread of its own: it gets its own mount
/// namespace, for good.
async fn within<T: Send + 'static>(
    mounts: Vec<Mount>,
    access: Access,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("image-files".into()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = send.send(mounted(&mounts, access, work));
    })?;
    receive.await.unwrap_or_else(|_| Err(io::Error::other("the thread that reads the image panicked")))
}

fn mounted<T>(mounts: &[Mount], access: Access, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for mount in mounts {
        mount_here(mount, access)?;
    }
    let outcome = work(Path::new(MOUNT_POINT));
    // The namespace would take it away too, but a little after the thread has ended, and the next
    // user of an overlay's directories should find them free.
    for _ in mounts {
        umount(MOUNT_POINT)?;
    }
    outcome
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Makes a directory below `root`, with those on the way to it that are not there; returns its path. `links` is the
/// directory with a link for each of this process's descriptors.
fn make_below(root: &OwnedFd, path: &str, links: &OwnedFd) -> io::Result<PathBuf> {
    let failed = |error: Errno| io::Error::new(io::Error::from(error).kind(), format!("{path}: {error}"));
    let open = |path: &Path| {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(root, if path.as_os_str().is_empty() { Path::new(".") } else { path }, how)
    };
    // Without links and `..`, at any time.
    let (mut real, mut followed) = (PathBuf::new(), 0);
    let mut left: Vec<OsString> = parts(Path::new(path));
    while let Some(name) = left.pop() {
        if name == ".." {
            real.pop();
            continue;
        }
        let wanted = real.join(&name);
        let opened = match open(&wanted) {
            Err(Errno::ENOENT) => {
                let above = open(&real).map_err(failed)?;
                match mkdirat(&above, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
                    // A link to what is not there yet.
                    Err(Errno::EEXIST) if followed < MAX_LINKS => {
                        let target = PathBuf::from(readlinkat(&above, name.as_os_str()).map_err(failed)?);
                        if target.is_absolute() {
                            real = PathBuf::new();
                        }
                        left.extend(parts(&target));
                        followed += 1;
                        continue;
                    }
                    made => made.map_err(failed)?,
                }
                open(&wanted)
            }
            opened => opened,
        };
        let [top, found] =
            [root, &opened.map_err(failed)?].map(|of| readlinkat(links, &*of.as_raw_fd().to_string()));
        let found = PathBuf::from(found.map_err(failed)?);
        real = found.strip_prefix(top.map_err(failed)?).map_err(io::Error::other)?.to_owned();
    }
    Ok(real)
}

/// The parts of a path, last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let of = |part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(of).collect()
}

fn read_below<const N: usize>(root: &Path, paths: [&str; N]) -> io::Result<[String; N]> {
    let root = open_directory(root)?;
    let mut texts = [const { String::new() }; N];
    for (text, path) in texts.iter_mut().zip(paths) {
        *text = read_file(&root, path)
            .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    }
    Ok(texts)
}

fn read_file(root: &OwnedFd, path: &str) -> io::Result<String> {
    let how = OpenHow::new()
        // An image may hold a FIFO in the file's place: do not wait for its other end.
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, path, how) {
        Ok(file) => file,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    if SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(io::Error::other("is not a file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("is larger than 16 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn mount_here(wanted: &Mount, access: Access) -> io::Result<()> {
    let read_only = if access == Access::Read { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let safe = read_only | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match wanted.r#type.as_str() {
        "overlay" => {
            let (directory, options) = overlay(&wanted.options, access)?;
            // This thread's alone, like the mount namespace.
            std::env::set_current_dir(directory)?;
            mount(Some("overlay"), MOUNT_POINT, Some("overlay"), safe, Some(options.as_str()))?;
        }
        "bind" => {
            let source = Some(wanted.source.as_str());
            mount(source, MOUNT_POINT, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
            // A bind mount takes its flags only when it is mounted again.
            let again = safe | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            mount(None::<&str>, MOUNT_POINT, None::<&str>, again, None::<&str>)?;
        }
        other => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "a snapshot mounted as {other:?} cannot be looked into; use a numeric user and group in the image"
                ),
            ));
        }
    }
    Ok(())
}

/// The options of an overlay of the same layers, and the directory that its paths are relative to: a
/// page of options is all that mount(2) takes, and full paths fill it at 50 layers.
fn overlay(options: &[String], access: Access) -> io::Result<(PathBuf, String)> {
    let value = |key: &str| options.iter().find_map(|option| option.strip_prefix(key));
    let lower = value("lowerdir=").ok_or_else(|| io::Error::other("the overlay has no lowerdir"))?;
    let (upper, work) = (value("upperdir="), value("workdir="));
    let all: Vec<&Path> =
        [upper, work].into_iter().flatten().chain(lower.split(':')).map(Path::new).collect();
    let mut common = all[0];
    while !all.iter().all(|layer| layer.starts_with(common) && *layer != common) {
        common =
            common.parent().ok_or_else(|| io::Error::other(format!("lowerdir={lower} is not absolute")))?;
    }
    let relative = |path: &str| {
        let path = Path::new(path).strip_prefix(common).map_err(io::Error::other)?;
        Ok::<_, io::Error>(path.to_string_lossy().into_owned())
    };
    let lower: Vec<String> = lower.split(':').map(relative).collect::<io::Result<_>>()?;
    let mut text = match (access, upper, work) {
        (Access::Write, Some(upper), Some(work)) => {
            format!("upperdir={},workdir={},lowerdir={}", relative(upper)?, relative(work)?, lower.join(":"))
        }
        (Access::Write, ..) => return Err(io::Error::other("the overlay has no upperdir")),
        // The upper directory, still empty, becomes the topmost layer: an overlay without an upper
        // directory needs two layers.
        (Access::Read, upper, _) => {
            let upper = upper.map(relative).transpose()?;
            format!("lowerdir={}", upper.into_iter().chain(lower).collect::<Vec<_>>().join(":"))
        }
    };
    for option in
        options.iter().filter(|option| option.starts_with("userxattr") || option.starts_with("index="))
    {
        text = format!("{text},{option}");
    }
    Ok((common.to_owned(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_mounted_with_short_paths() {
        let options = ["index=off", "workdir=/s/9/work", "upperdir=/s/9/fs", "lowerdir=/s/2/fs:/s/1/fs"];
        let options = options.map(str::to_owned);
        let (directory, text) = overlay(&options, Access::Read).expect("options");
        assert_eq!(directory, Path::new("/s"));
        assert_eq!(text, "lowerdir=9/fs:2/fs:1/fs,index=off");
        let (directory, text) = overlay(&options, Access::Write).expect("options");
        assert_eq!(directory, Path::new("/s"));
        assert_eq!(text, "upperdir=9/fs,workdir=9/work,lowerdir=2/fs:1/fs,index=off");

        let lower = ["lowerdir=/a/1/fs:/b/1/fs".to_owned()];
        let (directory, text) = overlay(&lower, Access::Read).expect("options");
        assert_eq!((directory.as_path(), text.as_str()), (Path::new("/"), "lowerdir=a/1/fs:b/1/fs"));
        assert!(overlay(&lower, Access::Write).is_err());
        assert!(overlay(&["upperdir=/s/9/fs".to_owned()], Access::Read).is_err());
    }

    #[test]
    fn a_directory_is_made_inside_whatever_links_say() {
        let outside = tempfile::tempdir().expect("a directory");
        let image = tempfile::tempdir().expect("a directory");
        let below = |name: &str| image.path().join(name);
        std::os::unix::fs::symlink(outside.path(), below("absolute")).expect("a link");
        std::os::unix::fs::symlink("../../../..", below("climbing")).expect("a link");
        std::os::unix::fs::symlink("/real/one", below("link")).expect("a link");
        std::os::unix::fs::symlink("/run/later", below("dangling")).expect("a link");
        std::os::unix::fs::symlink("none/../../run", below("up")).expect("a link");
        std::os::unix::fs::symlink("loop", below("loop")).expect("a link");
        std::fs::create_dir_all(below("real/one")).expect("a directory");
        std::fs::write(below("file"), "").expect("a file");
        let root = open_directory(image.path()).expect("opened");
        let links = open_directory(Path::new("/proc/self/fd")).expect("opened");
        let made = |path| make_below(&root, path, &links);
        for (path, real) in [
            ("/data", "data"),
            ("/data/", "data"),
            ("a/b/../c", "a/c"),
            ("/dangling/x", "run/later/x"),
            ("/up/y", "run/y"),
            ("/link/two", "real/one/two"),
            ("/climbing/x", "x"),
            ("/", ""),
        ] {
            assert_eq!(made(path).expect(path), Path::new(real));
            assert!(below(real).is_dir(), "{path}");
        }
        assert!(made("/file").expect_err("a file").to_string().contains("/file"));
        assert!(made("/loop/x").is_err());
        // The link means a path in the image.
        let inside = made("/absolute/x").expect("made");
        assert_eq!(Path::new("/").join(inside), outside.path().join("x"));
        assert_eq!(std::fs::read_dir(outside.path()).expect("listed").count(), 0);
    }

    #[test]
    fn a_link_cannot_lead_out_and_only_files_are_read() {
        let outside = tempfile::tempdir().expect("a directory");
        std::fs::write(outside.path().join("secret"), "secret").expect("a file");
        let image = tempfile::tempdir().expect("a directory");
        let below = |name: &str| image.path().join(name);
        std::os::unix::fs::symlink(outside.path().join("secret"), below("absolute")).expect("a link");
        std::os::unix::fs::symlink("../../../../../../etc/passwd", below("climbing")).expect("a link");
        std::os::unix::fs::symlink("/plain", below("inside")).expect("a link");
        std::fs::write(below("plain"), "text").expect("a file");
        std::fs::create_dir(below("directory")).expect("a directory");
        std::fs::write(below("large"), vec![b'x'; 17 << 20]).expect("a file");
        nix::unistd::mkfifo(&below("fifo"), Mode::S_IRWXU).expect("a fifo");

        let read = |path| read_below(image.path(), [path]).map(|[text]| text);
        assert_eq!(read("/absolute").expect("resolved in the image"), "");
        assert_eq!(read("/climbing").expect("resolved in the image"), "");
        assert_eq!(read("/missing/file").expect("nothing"), "");
        assert_eq!(read("/inside").expect("resolved in the image"), "text");
        for path in ["/directory", "/large", "/fifo"] {
            assert!(read(path).expect_err(path).to_string().contains(path));
        }
    }
}
