//! What the kernel passes on, by the system calls that programs use.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::process::Command;

use nix::fcntl::OFlag;

use super::*;

/// Why it cannot be mounted here, if it cannot.
fn refused() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("mounting needs root: sudo tests/run powercut");
    }
    (!Path::new("/dev/fuse").exists()).then_some("there is no /dev/fuse: modprobe fuse")
}

/// Runs a test in a mounted disk, and returns the disk.
fn mounted(ignores_syncs: bool, test: impl FnOnce(&Path, &Mounted)) -> Option<Disk> {
    if let Some(reason) = refused() {
        // tests/unit runs without root, and tests/run with it.
        let unit = !nix::unistd::geteuid().is_root();
        assert!(unit || std::env::var_os("CI").is_none(), "cannot run, and CI is set: {reason}");
        eprintln!("not run: {reason}");
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mounted = Mounted::new(Disk::default(), directory.path(), ignores_syncs).expect("mounted");
    test(directory.path(), &mounted);
    Some(mounted.cut())
}

/// Changes of a file that no sync has covered.
fn uncovered(mounted: &Mounted, path: &str) -> usize {
    let state = mounted.shared.lock();
    let inode = Path::new(path).iter().try_fold(1, |directory, name| state.disk.lookup(directory, name));
    state.disk.uncovered(inode.expect("a file"))
}

#[test]
fn programs_find_a_file_system_like_others() {
    mounted(false, |path, _| {
        fs::create_dir_all(path.join("d/e")).expect("made");
        let file = path.join("d/f");
        fs::write(&file, vec![7; 300_000]).expect("written");
        assert!(fs::read(&file).expect("read") == vec![7; 300_000]);
        OpenOptions::new().append(true).open(&file).expect("open").write_all(b"end").expect("appended");
        assert!(fs::read(&file).expect("read").ends_with(b"\x07end"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("changed");
        fs::hard_link(&file, path.join("d/e/g")).expect("linked");
        let found = fs::metadata(&file).expect("there");
        assert_eq!((found.len(), found.mode() & 0o7777, found.nlink()), (300_003, 0o640, 2));
        fs::rename(&file, path.join("h")).expect("renamed");
        assert!(!file.exists() && path.join("h").exists());
        assert!(fs::remove_dir(path.join("d/e")).is_err(), "it is not empty");
        let file = File::options().write(true).truncate(true).open(path.join("h")).expect("open");
        assert_eq!(file.metadata().expect("there").len(), 0);
        nix::fcntl::fallocate(&file, FallocateFlags::empty(), 0, 5000).expect("allocated");
        assert_eq!(fs::read(path.join("d/e/g")).expect("read"), vec![0; 5000]);
        // Removed while it is open, and while its directory is listed.
        for number in 0..1000 {
            fs::write(path.join(format!("d/{number}")), b"").expect("written");
        }
        for entry in fs::read_dir(path.join("d")).expect("listed") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_file() {
                fs::remove_file(entry.path()).expect("removed");
            }
        }
        assert_eq!(fs::read_dir(path.join("d")).expect("listed").count(), 1);
        fs::remove_dir_all(path.join("d")).expect("removed");
        let open = fs::read_dir(path).expect("listed").map(|entry| entry.expect("an entry").file_name());
        assert_eq!(open.collect::<Vec<_>>(), ["h"]);
    });
}

#[test]
fn syncs_and_only_those_cover_what_was_written() {
    mounted(false, |path, mounted| {
        let file = File::create(path.join("f")).expect("made");
        let write = || file.write_all_at(&[1; 5000], 0).expect("written");
        write();
        assert!(uncovered(mounted, "f") > 0);
        file.sync_data().expect("synced");
        assert_eq!(uncovered(mounted, "f"), 0);
        write();
        file.sync_all().expect("synced");
        assert_eq!(uncovered(mounted, "f"), 0);
        assert_eq!(uncovered(mounted, ""), 1, "its name");
        File::open(path).expect("open").sync_all().expect("synced");
        assert_eq!(uncovered(mounted, ""), 0);
        for (flag, covers) in
            [(OFlag::O_DSYNC, true), (OFlag::O_SYNC, true), (OFlag::O_DIRECT, false), (OFlag::empty(), false)]
        {
            file.sync_all().expect("synced");
            let other = OpenOptions::new().write(true).custom_flags(flag.bits()).open(path.join("f"));
            other.expect("open").write_all_at(&[2; 4096], 0).expect("written");
            assert_eq!(uncovered(mounted, "f") == 0, covers, "{flag:?}");
        }
        // Closing, sync_file_range and syncfs.
        let dd = |arguments: &[&str]| {
            let status = Command::new("dd")
                .args(["if=/dev/zero", "bs=4096", "count=1", "status=none", "conv=notrunc"])
                .args(arguments)
                .arg(format!("of={}", path.join("f").display()))
                .status();
            assert!(status.expect("dd").success());
        };
        dd(&[]);
        let status = Command::new("sync").arg("--file-system").arg(path).status();
        assert!(status.expect("sync").success() && uncovered(mounted, "f") > 0);
        dd(&["conv=fdatasync,notrunc"]);
        assert_eq!(uncovered(mounted, "f"), 0);
    });
    mounted(true, |path, mounted| {
        let file = File::create(path.join("f")).expect("made");
        file.write_all_at(&[1; 10], 0).expect("written");
        file.sync_all().expect("taken");
        assert!(uncovered(mounted, "f") > 0, "this disk ignores syncs");
    });
}

/// A program that writes and syncs until the disk stops is killed; what it was answered before is there.
#[test]
fn a_stopped_disk_answers_nobody_until_the_program_is_killed() {
    for (inside, after) in [(true, 0), (true, 20), (false, 7), (false, 8), (false, 9)] {
        let mut acknowledged = String::new();
        let disk = mounted(false, |path, mounted| {
            mounted.arm(Fault { after, inside });
            let (log, script) = (
                tempfile::NamedTempFile::new().expect("a file"),
                "n=0; while :; do n=$((n+1)); echo $n | dd of=$0/f oflag=append conv=fdatasync,notrunc status=none
                 sync $0; echo $n >>$1; done",
            );
            let mut child =
                Command::new("sh").args(["-c", script]).arg(path).arg(log.path()).spawn().expect("sh");
            let stop = loop {
                if let Some(stop) = mounted.stopped() {
                    break stop;
                }
                std::thread::yield_now();
            };
            assert!(stop.inside || !inside, "{stop:?}");
            // dd is at the disk, and its shell waits for it.
            child.kill().expect("killed");
            child.wait().expect("ended");
            acknowledged = fs::read_to_string(log.path()).expect("read");
        });
        let Some(disk) = disk else { return };
        for seed in 0..50 {
            let mut numbers = seed;
            let cut = disk.cut(&mut |below| {
                numbers = u64::wrapping_mul(numbers + 1, 0x9e37_79b9_7f4a_7c15);
                (numbers >> 33) % below
            });
            let found = cut.lookup(1, OsStr::new("f")).and_then(|inode| cut.inode(inode));
            let text = String::from_utf8_lossy(found.map_or(&[], |inode| &inode.seen.data)).into_owned();
            assert!(text.starts_with(&acknowledged), "{acknowledged:?} was synced, and {text:?} is there");
        }
    }
}
