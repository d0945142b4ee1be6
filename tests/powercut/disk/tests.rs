//! The rules of `lib.rs`, one by one.

use std::collections::BTreeSet;

use super::*;

const OWNER: Attributes = Attributes { mode: 0o600, uid: 0, gid: 0 };

/// Numbers that look like chance (SplitMix64).
fn chance(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

fn create(disk: &mut Disk, directory: u64, name: &str, kind: Kind) -> u64 {
    let inode = disk.make(kind, OWNER);
    disk.name(vec![((directory, name.into()), Some(inode))]);
    inode
}

fn rename(disk: &mut Disk, from: (u64, &str), to: (u64, &str)) {
    let inode = disk.lookup(from.0, from.1.as_ref());
    disk.name(vec![((from.0, from.1.into()), None), ((to.0, to.1.into()), inode)]);
}

fn write(disk: &mut Disk, inode: u64, offset: usize, data: &[u8]) {
    disk.change(inode, Change::Write { offset, data: data.to_owned() });
}

/// A file whose name is durable.
fn named(disk: &mut Disk, name: &str) -> u64 {
    let inode = create(disk, ROOT, name, Kind::File);
    disk.sync_directory(ROOT);
    inode
}

/// What the cuts of many seeds leave, as `look` sees it.
fn left<T: Ord>(disk: &Disk, look: impl Fn(&Disk) -> T) -> BTreeSet<T> {
    (0..3000).map(|seed| look(&disk.cut(&mut chance(seed)))).collect()
}

fn data(disk: &Disk, name: &str) -> Option<Vec<u8>> {
    Some(disk.inode(disk.lookup(ROOT, name.as_ref())?)?.seen.data.clone())
}

fn names(disk: &Disk) -> Vec<PathBuf> {
    disk.names.values().map(|inode| disk.path_of(*inode)).collect()
}

fn paths<const N: usize>(paths: [&str; N]) -> Vec<PathBuf> {
    paths.map(PathBuf::from).to_vec()
}

#[test]
fn a_synced_write_is_always_there() {
    for data_only in [true, false] {
        let mut disk = Disk::default();
        let file = named(&mut disk, "f");
        write(&mut disk, file, 0, &[1; 5000]);
        disk.sync_file(file, data_only);
        assert_eq!(left(&disk, |disk| data(disk, "f")), [Some(vec![1; 5000])].into());
    }
}

#[test]
fn a_sync_of_a_file_does_not_cover_its_name_nor_a_sync_of_its_directory_its_data() {
    let mut disk = Disk::default();
    let file = create(&mut disk, ROOT, "f", Kind::File);
    write(&mut disk, file, 0, b"x");
    disk.sync_file(file, false);
    assert_eq!(left(&disk, |disk| data(disk, "f")), [None, Some(b"x".to_vec())].into());
    let mut disk = Disk::default();
    let file = create(&mut disk, ROOT, "f", Kind::File);
    write(&mut disk, file, 0, b"x");
    disk.sync_directory(ROOT);
    assert_eq!(
        left(&disk, |disk| data(disk, "f")),
        [&b""[..], b"\0", b"x"].map(|data| Some(data.to_vec())).into()
    );
}

#[test]
fn a_write_that_is_not_synced_is_there_or_not_or_torn_at_sectors_and_pages() {
    let mut disk = Disk::default();
    let file = named(&mut disk, "f");
    write(&mut disk, file, 0, &[1; 2 * PAGE]);
    disk.sync_file(file, true);
    // Not at the beginning of a sector.
    write(&mut disk, file, 100, &[2; PAGE + SECTOR]);
    let found = left(&disk, |disk| data(disk, "f").expect("its name is durable"));
    let borders = |data: &Vec<u8>| (1..data.len()).filter(|at| data[*at] != data[at - 1]).collect::<Vec<_>>();
    let all: BTreeSet<usize> = found.iter().flat_map(borders).collect();
    assert!(all.iter().all(|at| at % SECTOR == 0 || [100, 100 + PAGE + SECTOR].contains(at)), "{all:?}");
    // Whole, not at all, the end without the beginning, torn at each sector.
    assert!(found.contains(&vec![1; 2 * PAGE]));
    assert!(found.iter().any(|data| borders(data) == [100, 100 + PAGE + SECTOR]));
    assert!(found.iter().any(|data| borders(data) == [PAGE, 100 + PAGE + SECTOR]), "torn at the page");
    assert!((1..=PAGE / SECTOR).all(|sector| all.contains(&(sector * SECTOR))));
}

#[test]
fn writes_that_are_not_synced_may_come_in_any_order() {
    let mut disk = Disk::default();
    let (one, two) = (named(&mut disk, "one"), named(&mut disk, "two"));
    write(&mut disk, one, 0, b"a");
    write(&mut disk, one, 0, b"b");
    write(&mut disk, two, 0, b"c");
    let found = left(&disk, |disk| (data(disk, "one").expect("named"), data(disk, "two").expect("named")));
    for one in [&b""[..], b"a", b"b"] {
        for two in [&b""[..], b"c"] {
            assert!(found.contains(&(one.to_vec(), two.to_vec())), "{one:?} {two:?}");
        }
    }
}

#[test]
fn fdatasync_covers_the_size_and_not_the_mode() {
    let mut disk = Disk::default();
    let file = named(&mut disk, "f");
    disk.change(file, Change::Attributes(Attributes { mode: 0o644, ..OWNER }));
    disk.change(file, Change::Extend(10));
    disk.change(file, Change::Resize(7));
    disk.sync_file(file, true);
    let look = |disk: &Disk| {
        let seen = &disk.inode(file).expect("there").seen;
        (seen.data.len(), seen.attributes.mode)
    };
    assert_eq!(left(&disk, look), [(7, 0o600), (7, 0o644)].into());
    disk.sync_file(file, false);
    assert_eq!(left(&disk, look), [(7, 0o644)].into());
}

#[test]
fn a_truncation_that_is_not_synced_may_be_undone() {
    let mut disk = Disk::default();
    let file = named(&mut disk, "f");
    write(&mut disk, file, 0, b"abc");
    disk.sync_file(file, true);
    disk.change(file, Change::Resize(0));
    assert_eq!(
        left(&disk, |disk| data(disk, "f")),
        [&b""[..], b"abc"].map(|data| Some(data.to_vec())).into()
    );
}

#[test]
fn a_rename_is_atomic_and_covers_no_data() {
    let mut disk = Disk::default();
    let old = named(&mut disk, "f");
    write(&mut disk, old, 0, b"old");
    disk.sync_file(old, true);
    let new = named(&mut disk, "f.new");
    write(&mut disk, new, 0, b"new");
    rename(&mut disk, (ROOT, "f.new"), (ROOT, "f"));
    let found =
        left(&disk, |disk| (data(disk, "f").expect("one of both"), disk.lookup(ROOT, "f.new".as_ref())));
    assert!(found.contains(&(b"old".to_vec(), Some(new))) && found.contains(&(b"new".to_vec(), None)));
    assert!(found.contains(&(Vec::new(), None)), "renamed, without its data");
    assert!(found.iter().all(|(data, other)| (data == b"old") == other.is_some()), "{found:?}");
}

#[test]
fn changes_of_names_that_are_not_synced_may_come_in_any_order() {
    let mut disk = Disk::default();
    for name in ["a", "b"] {
        create(&mut disk, ROOT, name, Kind::File);
    }
    let all = [paths([]), paths(["a"]), paths(["b"]), paths(["a", "b"])];
    assert_eq!(left(&disk, names), all.into());
    disk.sync_directory(ROOT);
    disk.name(vec![((ROOT, "a".into()), None)]);
    assert_eq!(left(&disk, names), [paths(["a", "b"]), paths(["b"])].into());
}

#[test]
fn a_sync_of_a_directory_covers_neither_its_own_name_nor_other_directories() {
    let mut disk = Disk::default();
    let directory = create(&mut disk, ROOT, "d", Kind::Directory);
    create(&mut disk, directory, "f", Kind::File);
    disk.sync_directory(directory);
    assert_eq!(left(&disk, names), [paths([]), paths(["d", "d/f"])].into());
    disk.sync_directory(ROOT);
    assert_eq!(left(&disk, names), [paths(["d", "d/f"])].into());
}

#[test]
fn a_rename_between_directories_is_covered_by_a_sync_of_either_with_what_its_names_stood_for_before() {
    for synced_is_source in [true, false] {
        let mut disk = Disk::default();
        let source = create(&mut disk, ROOT, "s", Kind::Directory);
        let target = create(&mut disk, ROOT, "t", Kind::Directory);
        disk.sync_directory(ROOT);
        create(&mut disk, source, "f", Kind::File);
        create(&mut disk, target, "f", Kind::File);
        create(&mut disk, source, "g", Kind::File);
        create(&mut disk, target, "g", Kind::File);
        rename(&mut disk, (source, "f"), (target, "f"));
        disk.sync_directory(if synced_is_source { source } else { target });
        // Of g, only the one in the directory that was synced is sure.
        let (sure, unsure) = if synced_is_source { ("s/g", "t/g") } else { ("t/g", "s/g") };
        for found in left(&disk, names) {
            let has = |path: &str| found.contains(&PathBuf::from(path));
            assert!(has("t/f") && !has("s/f") && has(sure), "{found:?}");
        }
        assert_eq!(left(&disk, |disk| names(disk).contains(&PathBuf::from(unsure))), [true, false].into());
    }
}

#[test]
fn a_cut_is_the_same_for_the_same_numbers_and_leaves_a_disk_without_changes() {
    let mut disk = Disk::default();
    let file = create(&mut disk, ROOT, "f", Kind::File);
    write(&mut disk, file, 0, &[7; 3 * PAGE]);
    for seed in 0..5 {
        let cut = disk.cut(&mut chance(seed));
        assert_eq!(data(&cut, "f"), data(&disk.cut(&mut chance(seed)), "f"));
        assert_eq!(left(&cut, |disk| data(disk, "f")), [data(&cut, "f")].into());
    }
    disk.settle();
    assert_eq!(left(&disk, |disk| data(disk, "f")), [Some(vec![7; 3 * PAGE])].into());
}
