//! Function output with real processes on real FIFOs: whatever they write, and whatever happens to the
//! disk or the daemon meanwhile, the reader goes on, files and memory stay bounded, and no line is
//! lost that need not be.

use crate::support::TemporaryDirectory;
use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, Stream, StreamExt};
use host::logs::{Logs, Query};
use host::runtime::Stdio;
use model::config;
use model::function::{FunctionKey, ReplicaId};
use model::wire::LogLine;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

const MEBI: u64 = 1024 * 1024;

/// A machine with one function, and what the daemon would have of it.
struct Room {
    dir: TemporaryDirectory,
    config: config::Logs,
    key: FunctionKey,
}

impl Room {
    fn new(file_limit: u64) -> Self {
        Self {
            dir: TemporaryDirectory::new(),
            config: config::Logs { file_limit, line_limit: 64 * 1024, journal: false },
            key: FunctionKey::parse("f.ns").expect("a key"),
        }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn logs(&self) -> Arc<Logs> {
        Logs::new(&self.config, &self.state(), &self.dir.path().join("run")).expect("logs")
    }

    fn open(&self, logs: &Logs, id: &str) -> Stdio {
        logs.open(&self.key, &ReplicaId::from_existing(id)).expect("opened")
    }

    /// What the function's files take on the disk.
    fn size(&self) -> u64 {
        let directory = self.state().join("logs/ns/f");
        std::fs::read_dir(directory)
            .map(|entries| {
                entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|m| m.size()).sum()
            })
            .unwrap_or(0)
    }
}

/// A process that writes to a FIFO, as containerd's shim does: with both ends open.
struct Writer(Child);

impl Writer {
    fn start(fifo: &Path, script: &str) -> Self {
        let script = format!("exec 1<>'{}'\n{script}", fifo.display());
        Self(Command::new("sh").args(["-c", &script]).spawn().expect("a shell"))
    }

    fn is_done(&mut self) -> bool {
        match self.0.try_wait().expect("a child") {
            None => false,
            Some(status) => {
                assert!(status.success(), "the writer ended with {status}");
                true
            }
        }
    }

    async fn done(mut self) {
        eventually!(within 120, self.is_done(), "the writer is held up");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The shim's part while no daemon runs: it holds a FIFO open, both ends.
fn hold(fifo: &Path) -> File {
    File::options().read(true).write(true).open(fifo).expect("a FIFO")
}

async fn all(logs: &Logs, room: &Room) -> Vec<LogLine> {
    logs.query(&room.key, Query::default()).collect().await
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

/// The numbers in lines such as `line 17`; other lines are none.
fn numbers(lines: &[LogLine]) -> Vec<u64> {
    numbers_of(&texts(lines))
}

fn numbers_of(texts: &[impl AsRef<str>]) -> Vec<u64> {
    texts.iter().filter_map(|text| text.as_ref().strip_prefix("line ")?.parse().ok()).collect()
}

/// How many lines the daemon's remarks among these say are missing.
fn missing(lines: &[LogLine]) -> u64 {
    let counts = lines.iter().filter_map(|line| line.text.strip_prefix("[lines missing here: "));
    counts.filter_map(|rest| rest.split(';').next()?.parse::<u64>().ok()).sum()
}

fn assert_consecutive(numbers: &[u64]) {
    for pair in numbers.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "lines are missing, doubled or out of order");
    }
}

fn assert_numbers(lines: &[LogLine], first: u64, last: u64) {
    let numbers = numbers(lines);
    assert_consecutive(&numbers);
    assert_eq!((numbers.first(), numbers.last()), (Some(&first), Some(&last)));
}

fn assert_times_increase(lines: &[LogLine]) {
    assert!(lines.windows(2).all(|pair| pair[0].timestamp < pair[1].timestamp));
}

/// Memory of this process in bytes, without the pages of its binary that happen to be there.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: Vec<u64> = statm.split(' ').map_while(|pages| pages.parse().ok()).collect();
    (pages[1] - pages[2]) * 4096
}

#[tokio::test]
async fn odd_output_is_readable_and_stops_nothing() {
    let room = Room::new(10 * MEBI);
    let logs = room.logs();
    let stdio = room.open(&logs, "f-1");
    Writer::start(
        &stdio.stdout,
        r"echo before
        head -c 10485760 /dev/zero | tr '\0' x; echo
        printf 'bad \377\376 bytes\nnul \000 and \033[1mbold\r\n\nno newline at the end'",
    )
    .done()
    .await;
    logs.close(&ReplicaId::from_existing("f-1")).await;
    let lines = all(&logs, &room).await;
    let cut = format!("{} [cut: 10485760 bytes]", "x".repeat(65536));
    assert_eq!(
        texts(&lines),
        ["before", &cut, "bad \u{fffd}\u{fffd} bytes", "nul \0 and \x1b[1mbold", "", "no newline at the end"]
    );
    assert_times_increase(&lines);
    let last = logs.last_lines(&ReplicaId::from_existing("f-1"), 2);
    assert_eq!(last, ["", "no newline at the end"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_200_megabytes_is_bounded_and_the_reader_goes_on() {
    let room = Room::new(MEBI);
    let logs = room.logs();
    let stdio = room.open(&logs, "f-1");
    let line = "x".repeat(99);
    let before = resident();
    let started = Instant::now();
    let mut writers = [
        // Whole lines: half of one would begin the line that is written afterwards.
        Writer::start(&stdio.stdout, &format!("yes {line} | head -c 134217700")),
        Writer::start(&stdio.stderr, "dd if=/dev/zero bs=1M count=72 2>/dev/null"),
    ];
    let (mut largest, mut memory) = (0, 0);
    eventually!(
        within 120,
        {
            largest = largest.max(room.size());
            memory = memory.max(resident().saturating_sub(before));
            writers.iter_mut().all(Writer::is_done)
        },
        "the flood is held up"
    );
    let seconds = started.elapsed().as_secs_f64();
    println!("200 MiB in {seconds:.1} s; files up to {largest} bytes, memory up to {memory} bytes more");
    assert!(largest <= MEBI, "files of {largest} bytes");
    assert!(memory < 16 * MEBI, "{memory} bytes of memory");

    Writer::start(&stdio.stdout, "echo after the flood").done().await;
    eventually!(
        within 60, logs.last_lines(&ReplicaId::from_existing("f-1"), 1) == ["after the flood"]
            || logs.last_lines(&ReplicaId::from_existing("f-1"), 2)[0] == "after the flood",
        "the reader is gone"
    );
    logs.close(&ReplicaId::from_existing("f-1")).await;
    let lines = all(&logs, &room).await;
    assert!(lines.iter().any(|kept| kept.text == "after the flood"));
    assert!(lines.iter().filter(|kept| kept.text == line).count() > 1000, "the newest of the flood are kept");
    assert!(lines.iter().any(|kept| kept.text.ends_with("[cut: 75497472 bytes]")));
    assert_eq!(logs.lost(), (0, 0));
}

#[tokio::test]
async fn two_replicas_write_into_the_same_files() {
    let room = Room::new(10 * MEBI);
    let logs = room.logs();
    let mut writers = Vec::new();
    for id in ["f-1", "f-2"] {
        let stdio = room.open(&logs, id);
        writers.push(Writer::start(&stdio.stdout, "for n in $(seq 5000); do echo line $n; done"));
    }
    for writer in writers {
        writer.done().await;
    }
    for id in ["f-1", "f-2"] {
        logs.close(&ReplicaId::from_existing(id)).await;
    }
    assert_times_increase(&all(&logs, &room).await);
    for id in ["f-1", "f-2"] {
        let query = Query { instance: Some(id.into()), ..Query::default() };
        let lines: Vec<_> = logs.query(&room.key, query).collect().await;
        assert_numbers(&lines, 1, 5000);
        let query = Query { instance: Some(id.into()), tail: Some(7), ..Query::default() };
        let lines: Vec<_> = logs.query(&room.key, query).collect().await;
        assert_numbers(&lines, 4994, 5000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_restarts_loses_no_line() {
    let room = Room::new(10 * MEBI);
    let mut logs = room.logs();
    let stdio = room.open(&logs, "f-1");
    let _shim = hold(&stdio.stdout);
    let mut writer =
        Writer::start(&stdio.stdout, "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo line $n; done");
    let mut restarts = 0;
    while !writer.is_done() {
        let id = ReplicaId::from_existing("f-1");
        let seen = logs.last_lines(&id, 1);
        eventually!(within 60, logs.last_lines(&id, 1) != seen || writer.is_done(), "nothing is read");
        logs.shutdown().await;
        drop(logs);
        restarts += 1;
        logs = room.logs();
        assert_eq!(logs.attached(), [id]);
        room.open(&logs, "f-1");
    }
    logs.close(&ReplicaId::from_existing("f-1")).await;
    let lines = all(&logs, &room).await;
    println!("{restarts} restarts");
    // A restart may cut a line in two, as nobody knows when its end will come: put together again, all
    // is there.
    let text = texts(&lines).concat().replace("line ", " ");
    let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    assert_eq!(numbers.len(), 20000);
    assert_consecutive(&numbers);
    assert_times_increase(&lines);
}

#[test]
fn a_daemon_that_is_killed_loses_no_more_than_its_last_moments() {
    let room = Room::new(10 * MEBI);
    let id = ReplicaId::from_existing("f-1");
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let first = runtime();
    let (mut writer, _shim) = first.block_on(async {
        let logs = room.logs();
        let stdio = room.open(&logs, "f-1");
        let writer = Writer::start(&stdio.stdout, "for n in $(seq 600); do echo line $n; sleep 0.002; done");
        // Not by a query, which would have all written to the disk.
        let is_read =
            || logs.last_lines(&id, 20).iter().any(|line| line.starts_with("line 2") && line.len() == 8);
        eventually!(within 60, is_read(), "nothing is read");
        // No destructor runs, as none does on SIGKILL.
        std::mem::forget(logs);
        (writer, hold(&stdio.stdout))
    });
    first.shutdown_background();
    let killed = Instant::now();

    let second = runtime();
    let lines = second.block_on(async {
        // Nobody reads meanwhile; the pipe holds what is written.
        eventually!(within 60, killed.elapsed() > Duration::from_millis(300) && !writer.is_done(), "the writer ended");
        let logs = room.logs();
        assert_eq!(logs.attached(), std::slice::from_ref(&id));
        room.open(&logs, "f-1");
        writer.done().await;
        logs.close(&id).await;
        all(&logs, &room).await
    });
    let numbers = numbers(&lines);
    assert_eq!((numbers.first(), numbers.last()), (Some(&1), Some(&600)));
    let gaps: Vec<_> = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]).collect();
    println!("{} of 600 lines kept, gaps: {gaps:?}", numbers.len());
    assert!(gaps.len() <= 1, "more than one gap: {gaps:?}");
    // What two milliseconds and more apart is written in 200 ms.
    assert!(numbers.len() >= 500, "{} lines kept", numbers.len());
    assert_times_increase(&lines);
}

#[tokio::test]
async fn a_function_writes_on_while_no_daemon_reads() {
    let room = Room::new(10 * MEBI);
    let logs = room.logs();
    let stdio = room.open(&logs, "f-1");
    let _shim = hold(&stdio.stdout);
    logs.shutdown().await;
    drop(logs);
    Writer::start(&stdio.stdout, "seq -f 'line %.0f' 60000").done().await;
    let logs = room.logs();
    room.open(&logs, "f-1");
    let id = ReplicaId::from_existing("f-1");
    eventually!(within 60, logs.last_lines(&id, 1) == ["line 60000"], "lines are missing");
    assert_numbers(&all(&logs, &room).await, 1, 60000);
    logs.close(&ReplicaId::from_existing("f-1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_goes_on_in_the_rotated_file_and_a_reader_keeps_its_place() {
    let room = Room::new(256 * 1024);
    let logs = room.logs();
    let stdio = room.open(&logs, "f-1");
    Writer::start(&stdio.stdout, "seq -f 'line %.0f' 4500").done().await;
    let id = ReplicaId::from_existing("f-1");
    eventually!(within 60, logs.last_lines(&id, 1) == ["line 4500"], "lines are missing");
    let tail = |tail| logs.query(&room.key, Query { tail: Some(tail), ..Query::default() });
    let kept = numbers(&all(&logs, &room).await);
    assert_consecutive(&kept);
    let wanted = &kept[3..];
    let current = std::fs::read_to_string(room.state().join("logs/ns/f/current.log")).expect("a file");
    assert!(current.lines().count() < wanted.len(), "the tail is longer than one file");
    let lines: Vec<_> = tail(wanted.len()).collect().await;
    assert!(numbers(&lines) == wanted, "not the last {} lines", wanted.len());

    // One that is half-way through while everything it reads is rotated away.
    let mut reader = std::pin::pin!(tail(wanted.len()));
    let mut lines = vec![reader.next().await.expect("a line")];
    Writer::start(&stdio.stdout, "seq -f 'line %.0f' 4501 20000").done().await;
    eventually!(within 60, logs.last_lines(&id, 1) == ["line 20000"], "lines are missing");
    while let Some(line) = reader.next().await {
        lines.push(line);
    }
    assert!(numbers(&lines) == wanted, "the reader lost its place");

    let since = lines[1000].timestamp.parse().expect("a time");
    let newer: Vec<_> =
        logs.query(&room.key, Query { since: Some(since), ..Query::default() }).collect().await;
    assert!(newer[0].timestamp > lines[1000].timestamp && numbers(&newer).last() == Some(&20000));
    let since: jiff::Timestamp = newer[100].timestamp.parse().expect("a time");
    let query = Query { since: Some(since), tail: Some(1_000_000), ..Query::default() };
    let same: Vec<_> = logs.query(&room.key, query).collect().await;
    assert_eq!(same, newer[100..]);
    logs.close(&id).await;
    assert!(room.size() <= 256 * 1024);
}

/// Takes lines until the last of them is `line <last>`.
async fn up_to(stream: impl Stream<Item = LogLine>, last: u64) -> Vec<LogLine> {
    let mut stream = std::pin::pin!(stream);
    let mut lines = Vec::new();
    let ended = async {
        while let Some(line) = stream.next().await {
            let found = numbers(std::slice::from_ref(&line)) == [last];
            lines.push(line);
            if found {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the last line comes");
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_following_join_without_a_gap() {
    let room = Room::new(10 * MEBI);
    let logs = room.logs();
    let stdio = room.open(&logs, "f-1");
    Writer::start(&stdio.stdout, "seq -f 'line %.0f' 3000").done().await;
    eventually!(within 60, logs.last_lines(&ReplicaId::from_existing("f-1"), 1) == ["line 3000"], "lines are missing");
    // No more than wait for a client that is slow, as all are on a machine that has much to do.
    let writer =
        Writer::start(&stdio.stdout, "for n in $(seq 3001 3900); do echo line $n; sleep 0.001; done");
    let mut followers = Vec::new();
    for before in 0..10 {
        let newest = || numbers_of(&logs.last_lines(&ReplicaId::from_existing("f-1"), 1));
        eventually!(within 60, newest() > vec![3000 + 80 * before], "nothing is read");
        let query = Query { follow: true, ..Query::default() };
        followers.push(tokio::spawn(up_to(logs.query(&room.key, query), 3900)));
    }
    for follower in followers {
        let lines = follower.await.expect("no panic");
        assert_numbers(&lines, 1, 3900);
        assert_times_increase(&lines);
    }
    writer.done().await;
    // The last ten, and then what comes, promptly.
    let query = Query { follow: true, tail: Some(10), ..Query::default() };
    let mut stream = std::pin::pin!(logs.query(&room.key, query));
    for n in 3891..=3900 {
        assert_eq!(numbers(&[stream.next().await.expect("a line")]), [n]);
    }
    assert!(stream.next().now_or_never().is_none(), "there is no more");
    let _writer = Writer::start(&stdio.stdout, "echo line 3901");
    assert_eq!(numbers(&up_to(stream, 3901).await), [3901]);
    logs.close(&ReplicaId::from_existing("f-1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_misses_lines_and_is_told_and_holds_nobody_up() {
    let room = Room::new(MEBI);
    let logs = room.logs();
    let stdio = room.open(&logs, "f-1");
    let mut stream = std::pin::pin!(logs.query(&room.key, Query { follow: true, ..Query::default() }));
    Writer::start(&stdio.stdout, "seq -f 'line %.0f' 200000").done().await;
    eventually!(
        within 60, logs.last_lines(&ReplicaId::from_existing("f-1"), 1) == ["line 200000"],
        "a client that does not read holds the reader up"
    );
    let (mut lines, mut skipped) = (Vec::new(), 0);
    while skipped == 0 {
        let line = stream.next().await.expect("a line");
        match line.text.strip_prefix("[lines skipped here: ") {
            Some(rest) => {
                skipped = rest.split(';').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")
            }
            None => lines.push(line),
        }
    }
    let seen = numbers(&lines);
    assert!(!seen.is_empty());
    assert_consecutive(&seen);
    assert_eq!(seen.last().map(|last| last + skipped), Some(200_000));
    // From there on it is there again.
    let _writer = Writer::start(&stdio.stdout, "echo line 200001");
    assert_eq!(numbers(&up_to(stream, 200_001).await), [200_001]);
    logs.close(&ReplicaId::from_existing("f-1")).await;
}

/// A small file system, seen only by the thread that mounted it and those that it starts.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("private");
        std::fs::create_dir_all(&path).expect("a directory");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).expect("mounted");
        Self(path)
    }

    fn remount(&self, flags: MsFlags) {
        mount(None::<&str>, &self.0, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)
            .expect("remounted");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_or_read_only_disk_stops_no_reader() {
    require_root!();
    // In a thread of its own, whose mount namespace goes with it.
    let test = || {
        let room = Room::new(10 * MEBI);
        let disk = SmallDisk::mount(room.state());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let logs = room.logs();
            let stdio = room.open(&logs, "f-1");
            let id = ReplicaId::from_existing("f-1");
            let write = async |script: &str, last: &str| {
                Writer::start(&stdio.stdout, script).done().await;
                eventually!(within 60, logs.last_lines(&id, 1) == [last], "the reader stopped before {last}");
            };
            write("seq -f 'line %.0f' 50000", "line 50000").await;
            let lines = all(&logs, &room).await;
            let kept = numbers(&lines);
            assert!(kept.len() > 5000 && kept.len() < 50000, "{} lines kept", kept.len());
            assert!(kept.is_sorted());
            let lost = logs.lost().0;
            assert_eq!(lost, 50000 - kept.len() as u64, "every line is kept or counted");
            let lost = lost - missing(&lines);

            // Now to the last byte.
            std::fs::remove_file(room.state().join("logs/ns/f/current.log")).expect("removed");
            let filler = room.state().join("filler");
            std::fs::write(&filler, vec![0; 2 << 20]).expect_err("a full disk");
            write("echo line 50001", "line 50001").await;
            assert_eq!(all(&logs, &room).await, []);
            std::fs::remove_file(filler).expect("removed");
            write("echo line 50002", "line 50002").await;
            let lines = all(&logs, &room).await;
            assert_eq!((lines.len(), missing(&lines), lines[0].instance.as_str()), (2, lost + 1, "ingle"));
            assert_eq!(texts(&lines)[1], "line 50002");

            disk.remount(MsFlags::MS_RDONLY);
            write("echo line 50003", "line 50003").await;
            assert_eq!(texts(&all(&logs, &room).await).last(), Some(&"line 50002"));
            disk.remount(MsFlags::empty());
            write("echo line 50004", "line 50004").await;
            let lines = all(&logs, &room).await;
            assert_eq!((lines.len(), missing(&lines[2..]), numbers(&lines)), (4, 1, vec![50002, 50004]));
            logs.close(&id).await;
        });
    };
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

#[tokio::test]
async fn what_an_earlier_daemon_left_is_found_and_removed() {
    let room = Room::new(MEBI);
    let logs = room.logs();
    let fifos = room.dir.path().join("run/io");
    std::fs::create_dir_all(fifos.join("gone-1")).expect("made");
    let path =
        CString::new(fifos.join("gone-1/stdout").into_os_string().into_encoded_bytes()).expect("no NUL");
    nix::unistd::mkfifo(path.as_c_str(), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    room.open(&logs, "f-1");
    let mut attached = logs.attached();
    attached.sort();
    assert_eq!(attached, ["f-1", "gone-1"].map(ReplicaId::from_existing));
    for id in attached {
        logs.close(&id).await;
    }
    assert!(logs.attached().is_empty());
    assert_eq!(std::fs::read_dir(&fifos).expect("a directory").count(), 0);
}

#[tokio::test]
async fn a_silent_replica_costs_little_memory() {
    const REPLICAS: u64 = 200;
    let room = Room::new(MEBI);
    let logs = room.logs();
    // What the first one allocates once for all.
    room.open(&logs, "first");
    let before = resident();
    for n in 0..REPLICAS {
        let stdio = room.open(&logs, &format!("f-{n}"));
        Writer::start(&stdio.stdout, "echo a line to begin with").done().await;
    }
    for n in 0..REPLICAS {
        let id = ReplicaId::from_existing(&format!("f-{n}"));
        eventually!(within 60, logs.last_lines(&id, 1).len() == 1, "f-{n} is not read");
    }
    let each = resident().saturating_sub(before) / REPLICAS;
    println!("{each} bytes for each of {REPLICAS} replicas");
    assert!(each < 8 * 1024, "{each} bytes for each replica");
    for id in logs.attached() {
        logs.close(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_over_the_rate_is_dropped_counted_and_reported_without_blocking() {
    let room = Room::new(64 * MEBI);
    let logs = room.logs();
    let stdio = room.open(&logs, "f-1");
    let calm = room.open(&logs, "f-2");
    let started = Instant::now();
    // 40 MiB, in lines of 100 bytes.
    Writer::start(&stdio.stdout, "seq -f '%099.0f' 419430").done().await;
    let took = started.elapsed();
    // The rate is the replica's own.
    Writer::start(&calm.stdout, "echo calm").done().await;
    for id in ["f-1", "f-2"] {
        logs.close(&ReplicaId::from_existing(id)).await;
    }
    let lines = all(&logs, &room).await;
    let (remarks, kept): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.instance == "ingle");
    assert!(kept.iter().any(|line| line.text == "calm"));
    let kept = kept.len() as u64 - 1;
    let burst = 10 * MEBI / 100;
    let refilled = (took.as_secs() + 2) * MEBI / 100;
    assert!(kept >= burst && kept <= burst + refilled, "{kept} lines kept in {took:?}");
    assert!((1..=2 + took.as_secs() / 60).contains(&(remarks.len() as u64)), "{remarks:?}");
    let said = remarks.iter().map(|line| {
        let (_, rest) = line.text.split_once("lines missing here: ").expect("a count");
        rest.split(',').next().expect("a count").parse::<u64>().expect("a number")
    });
    assert_eq!(said.sum::<u64>(), 419_430 - kept, "{remarks:?}");
    assert_eq!(logs.dropped(&room.key), 419_430 - kept);
    assert!(took < Duration::from_secs(20), "the writer was held up for {took:?}");
}
