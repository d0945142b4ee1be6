use super::*;
use crate::network::Leases as _;

fn key(name: &str) -> FunctionKey {
    FunctionKey::parse(name).expect("a name")
}

pub(super) fn record(name: &str, text: &str) -> FunctionRecord {
    let deployment = wire::Deployment {
        service: name.into(),
        image: "a/b:1".into(),
        env_process: Some(text.into()),
        ..Default::default()
    };
    FunctionRecord {
        key: key(name),
        wanted: RevisionRecord {
            number: 1,
            deployment,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            digest: "sha256:0".into(),
            manifest_digest: "sha256:1".into(),
            size: 7,
            config: crate::runtime::ImageConfig::default(),
            default_memory: true,
        },
        serving: None,
        desired: 1,
        last_revision: 1,
        failure: None,
        node: None,
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let big = "x".repeat(100_000);
    {
        let store = Store::open(dir.path()).expect("opens");
        store.put_function(&record("small", "cat")).await.expect("written");
        store.put_function(&record("big", &big)).await.expect("written");
        store.put_function(&record("gone", "cat")).await.expect("written");
        store.delete_function(&key("gone"), &[]).await.expect("deleted");
        store.put_counts(&[(key("small"), 42u64)]).expect("encodes");
        store.put([10, 62, 0, 2].into(), &ReplicaId::from_existing("small-1"));
        store.close().await;
    }
    let store = Store::open(dir.path()).expect("opens again");
    let mut functions = store.functions().expect("readable");
    functions.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(functions.iter().map(|f| f.key.name.as_str()).collect::<Vec<_>>(), ["big", "small"]);
    assert_eq!(functions[0].wanted.deployment.env_process.as_deref(), Some(big.as_str()));
    assert_eq!(store.counts::<u64>(&key("small")).expect("readable"), Some(42));
    assert_eq!(store.leases().expect("readable").len(), 1);
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("large")).expect("listed").count()
}

#[tokio::test]
async fn the_file_of_a_value_is_removed_when_no_row_names_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("opens");
    let put = async |name: &str, text: &str| {
        store.put_namespace(&name.parse().expect("a name"), &namespace(text)).await.expect("written");
    };
    let (long, other) = ("x".repeat(50_000), "y".repeat(50_000));
    put("a", &long).await;
    put("b", &long).await;
    assert_eq!(files(dir.path()), 1, "the same content");
    put("a", &other).await;
    assert_eq!(files(dir.path()), 2);
    put("b", "short").await;
    assert_eq!(files(dir.path()), 1, "replaced in both");
    // A removed value is written once more.
    put("b", &long).await;
    put("b", &long).await;
    assert_eq!(files(dir.path()), 2);
    store.delete_namespace(&"a".parse().expect("a name")).await.expect("deleted");
    assert_eq!(files(dir.path()), 1);
    // A value is replaced before it was ever on disk.
    for text in [&long, &other] {
        let record = namespace(text);
        let operation = super::put("namespace/c", &record).expect("encodes");
        store.writer.write_soon(vec![operation]);
    }
    store.delete_namespace(&"c".parse().expect("a name")).await.expect("deleted");
    assert_eq!(files(dir.path()), 1);
    let kept = store.namespaces().expect("readable");
    assert_eq!(kept, [namespace(&long)]);
}

fn namespace(text: &str) -> wire::Namespace {
    let labels = std::iter::once(("text".to_owned(), text.to_owned())).collect();
    wire::Namespace { name: "n".to_owned(), labels: Some(labels), annotations: None }
}

#[tokio::test]
async fn files_left_by_a_crash_are_removed_when_the_store_opens() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("opens");
    store.put_function(&record("a", &"x".repeat(50_000))).await.expect("written");
    store.close().await;
    drop(store);
    for left in ["0".repeat(64), format!("{}.partial", "1".repeat(64))] {
        std::fs::write(dir.path().join("large").join(left), b"left").expect("written");
    }
    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!((files(dir.path()), store.functions().expect("readable").len()), (1, 1));
    // Rows from before the start are counted, too.
    store.delete_function(&key("a"), &[]).await.expect("deleted");
    assert_eq!(files(dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_can_be_read_while_it_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(Store::open(dir.path()).expect("opens"));
    store.put_function(&record("a", "cat")).await.expect("written");
    let reading = std::thread::spawn({
        let store = store.clone();
        move || {
            let mut reads = 0;
            // The writer may still hold the old file.
            while Arc::strong_count(&store) > 1 {
                assert_eq!(store.functions().expect("readable").len(), 1);
                assert!(store.function(&key("a")).expect("readable").is_some());
                reads += 1;
            }
            reads
        }
    });
    for n in 0..200 {
        store.put_function(&record("a", &n.to_string().repeat(20_000))).await.expect("written");
    }
    assert_eq!(files(dir.path()), 1);
    drop(store);
    assert!(reading.join().expect("no panic") > 0);
}

#[tokio::test]
async fn counts_of_a_function_that_is_deleted_meanwhile_are_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("opens");
    let counts = |name: &str| store.counts::<u64>(&key(name)).expect("readable");
    store.put_function(&record("gone", "cat")).await.expect("written");
    store.delete_function(&key("gone"), &[]).await.expect("deleted");
    store.put_counts(&[(key("gone"), 1u64)]).expect("encodes");
    // Written in one batch, most of the time: what comes before counts there as well.
    for _ in 0..20 {
        let (put, record) = (key("both"), record("both", "cat"));
        let (deleted, kept) = tokio::join!(store.delete_function(&put, &[]), async {
            store.put_counts(&[(put.clone(), 2u64)]).expect("encodes");
            store.put_function(&record).await
        });
        deleted.and(kept).expect("written");
        assert_eq!(counts("both"), None, "there was no such function at that time");
        store.put_counts(&[(put.clone(), 3u64)]).expect("encodes");
        store.put_function(&record).await.expect("written");
        assert_eq!(counts("both"), Some(3));
    }
    assert_eq!(counts("gone"), None);
}

#[tokio::test]
async fn revisions_that_served_are_kept_until_they_or_their_function_are_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("opens");
    let served = |store: &Store, name: &str| {
        let kept = store.revisions(&key(name)).expect("readable");
        kept.into_iter().map(|revision| revision.number).collect::<Vec<_>>()
    };
    for (number, dropped) in [(1, &[][..]), (9, &[]), (10, &[1])] {
        for name in ["a", "a.b"] {
            let function = record(name, "cat");
            let revision = RevisionRecord { number, ..function.wanted.clone() };
            store.put_served(&function, &revision, dropped).await.expect("written");
        }
    }
    assert_eq!(served(&store, "a"), [9, 10]);
    let in_use: Vec<_> = store
        .revisions_in_use()
        .expect("readable")
        .into_iter()
        .map(|used| (used.function.to_string(), used.revision, used.is_old))
        .collect();
    let uses = |name: &str| [(1, false), (9, true), (10, true)].map(|(n, old)| (name.to_owned(), n, old));
    let [a, ab] = [uses("a.openfaas-fn"), uses("a.b")];
    for used in a.iter().chain(&ab) {
        assert!(in_use.contains(used), "{used:?} is not in {in_use:?}");
    }
    assert_eq!(in_use.len(), 6);
    assert_eq!(store.revision(&key("a"), 9).expect("readable").expect("kept").number, 9);
    assert_eq!(store.revision(&key("a"), 1).expect("readable"), None);
    // One that its owner does not know of goes when the store opens.
    store.delete_function(&key("a"), &[10]).await.expect("deleted");
    assert_eq!(served(&store, "a"), [9]);
    store.close().await;
    drop(store);
    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!(served(&store, "a"), [0; 0]);
    assert_eq!(served(&store, "a.b"), [9, 10], "another function");
}

#[tokio::test]
async fn left_over_and_torn_snapshots_do_not_keep_it_from_opening() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let store = Store::open(dir.path()).expect("opens");
        store.put_function(&record("a", "cat")).await.expect("written");
        store.close().await;
    }
    std::fs::write(dir.path().join("db/snap.00000000000000FF.generating"), b"").expect("written");
    assert_eq!(Store::open(dir.path()).expect("opens").functions().expect("readable").len(), 1);
    for entry in std::fs::read_dir(dir.path().join("db")).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            std::fs::write(path, b"torn").expect("written");
        }
    }
    assert_eq!(Store::open(dir.path()).expect("opens").functions().expect("readable").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_at_once_all_get_through() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(Store::open(dir.path()).expect("opens"));
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    store.put_function(&record(&format!("f{n}"), "cat")).await.expect("written");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    assert_eq!(store.functions().expect("readable").len(), 64);
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Store::open(dir.path()).expect("opens"));
    {
        let db = open_when_free(&dir.path().join("db")).expect("opens");
        db.insert(SCHEMA_KEY, format!("={}", SCHEMA + 1).as_bytes()).expect("written");
    }
    let error = Store::open(dir.path()).expect_err("refused").to_string();
    assert!(error.contains("later version"), "{error}");
}
