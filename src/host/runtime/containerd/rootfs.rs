//! Reads files out of an image's root file system, which is not to be trusted.
//!
//! Invariants
//! - The mount exists only in the mount namespace of a thread that ends with the call, so a daemon
//!   that is killed leaves nothing mounted.
//! - The file system is mounted read-only, and a path in it cannot lead out of it: not by `..`, not
//!   by an absolute symlink.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use containerd_client::types::Mount;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat};

/// The largest file that is read; more is an error.
const MAX_FILE: u64 = 1 << 20;
/// Where the private mount goes. It must be a directory on every machine, and nothing is read from
/// it by the thread that covers it.
const MOUNT_POINT: &str = "/proc";

/// The text of each of `paths` in the file system that `mounts` describe; empty where there is no
/// such file.
pub(super) async fn read_files<const N: usize>(
    mounts: Vec<Mount>,
    paths: [&'static str; N],
) -> io::Result<[String; N]> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("image-files".into()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = send.send(read_files_here(&mounts, paths));
    })?;
    receive.await.unwrap_or_else(|_| Err(io::Error::other("the thread that reads the image panicked")))
}

/// The same, on a thread of its own: it gets its own mount namespace, for good.
fn read_files_here<const N: usize>(mounts: &[Mount], paths: [&str; N]) -> io::Result<[String; N]> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for mount in mounts {
        mount_read_only(mount)?;
    }
    let texts = read_below(Path::new(MOUNT_POINT), paths);
    // The namespace would take it away too, but a little after the thread has ended, and the next
    // user of an overlay's directories should find them free.
    for _ in mounts {
        umount(MOUNT_POINT)?;
    }
    texts
}

fn read_below<const N: usize>(root: &Path, paths: [&str; N]) -> io::Result<[String; N]> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
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
        return Err(io::Error::other("is larger than 1 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn mount_read_only(wanted: &Mount) -> io::Result<()> {
    let safe = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match wanted.r#type.as_str() {
        "overlay" => {
            let (directory, options) = lower_only(&wanted.options)?;
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
            return Err(io::Error::other(format!(
                "a snapshot mounted as {other:?} cannot be read; use a numeric user and group in the image"
            )));
        }
    }
    Ok(())
}

/// The options of a read-only overlay of the same layers, and the directory that its paths are
/// relative to: a page of options is all that mount(2) takes, and full paths fill it at 50 layers.
fn lower_only(options: &[String]) -> io::Result<(PathBuf, String)> {
    let value = |key: &str| options.iter().find_map(|option| option.strip_prefix(key));
    let lower = value("lowerdir=").ok_or_else(|| io::Error::other("the overlay has no lowerdir"))?;
    // The upper directory, still empty, becomes the topmost layer: an overlay without an upper
    // directory needs two layers.
    let layers: Vec<&Path> = value("upperdir=").into_iter().chain(lower.split(':')).map(Path::new).collect();
    let mut common = layers[0];
    while !layers.iter().all(|layer| layer.starts_with(common) && *layer != common) {
        common =
            common.parent().ok_or_else(|| io::Error::other(format!("lowerdir={lower} is not absolute")))?;
    }
    let relative = |layer: &&Path| layer.strip_prefix(common).map(|path| path.to_string_lossy().into_owned());
    let names: Vec<String> =
        layers.iter().map(relative).collect::<Result<_, _>>().map_err(io::Error::other)?;
    let mut text = format!("lowerdir={}", names.join(":"));
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
    fn an_overlay_becomes_read_only_with_short_paths() {
        let options = ["index=off", "workdir=/s/9/work", "upperdir=/s/9/fs", "lowerdir=/s/2/fs:/s/1/fs"];
        let (directory, text) = lower_only(&options.map(str::to_owned)).expect("options");
        assert_eq!(directory, Path::new("/s"));
        assert_eq!(text, "lowerdir=9/fs:2/fs:1/fs,index=off");

        let (directory, text) = lower_only(&["lowerdir=/a/1/fs:/b/1/fs".to_owned()]).expect("options");
        assert_eq!((directory.as_path(), text.as_str()), (Path::new("/"), "lowerdir=a/1/fs:b/1/fs"));
        assert!(lower_only(&["upperdir=/s/9/fs".to_owned()]).is_err());
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
        std::fs::write(below("large"), vec![b'x'; 2 << 20]).expect("a file");
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
