use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

fn secret(name: &str, value: &str) -> wire::Secret {
    wire::Secret { name: name.into(), value: Some(value.into()), ..Default::default() }
}

fn names(names: &[&str]) -> Vec<SecretName> {
    names.iter().map(|name| name.parse().expect("a name")).collect()
}

fn default() -> NamespaceName {
    NamespaceName::default()
}

struct Fixture {
    state: tempfile::TempDir,
    secrets: Secrets,
}

impl Fixture {
    fn new() -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let secrets = Secrets::open(state.path()).expect("secrets");
        Self { state, secrets }
    }

    fn directory(&self) -> PathBuf {
        self.state.path().join("function-secrets/openfaas-fn")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory().join(name)).expect("a value")
    }

    fn files(&self) -> Vec<String> {
        let mut files = names_in(&self.directory()).expect("files");
        files.sort();
        files
    }
}

#[tokio::test]
async fn a_secret_is_created_once_listed_mounted_and_deleted() {
    let f = Fixture::new();
    f.secrets.create(default(), secret("b", "two")).await.expect("created");
    f.secrets.create(default(), secret("a", "one")).await.expect("created");
    let again = f.secrets.create(default(), secret("a", "x")).await;
    assert!(matches!(again, Err(SecretError::Exists { .. })), "{again:?}");
    assert_eq!(f.read("a"), "one");
    assert_eq!(f.secrets.list(default()).await.expect("a list"), names(&["a", "b"]));

    let mounts = f.secrets.mount(&default(), &names(&["a"])).expect("mounts");
    let target = "/var/openfaas/secrets/a".into();
    assert_eq!(mounts, [Mount { source: f.directory().join("a"), target, holds_programs: false }]);

    f.secrets.delete(default(), names(&["a"]).remove(0)).await.expect("deleted");
    let gone = f.secrets.delete(default(), names(&["a"]).remove(0)).await;
    assert!(matches!(gone, Err(SecretError::NotFound { .. })), "{gone:?}");
    let error = f.secrets.mount(&default(), &names(&["b", "a"])).expect_err("a is gone");
    assert_eq!(
        error.to_string(),
        "secret a was not found in namespace openfaas-fn: see 'ingle secret list', or create it with 'ingle secret create a'"
    );
    assert_eq!(f.files(), ["b"]);
}

#[tokio::test]
async fn an_update_is_seen_through_a_file_that_is_already_mounted() {
    let f = Fixture::new();
    let missing = f.secrets.update(default(), secret("a", "x")).await;
    assert!(matches!(missing, Err(SecretError::NotFound { .. })), "{missing:?}");
    f.secrets.create(default(), secret("a", "a long value")).await.expect("created");
    let inode = std::fs::metadata(f.directory().join("a")).expect("a file").ino();
    f.secrets.update(default(), secret("a", "short")).await.expect("updated");
    assert_eq!(f.read("a"), "short");
    assert_eq!(std::fs::metadata(f.directory().join("a")).expect("a file").ino(), inode);
    assert_eq!(f.files(), ["a"]);
}

#[tokio::test]
async fn functions_can_read_the_file_and_nobody_else_can_reach_it() {
    let f = Fixture::new();
    f.secrets.create(default(), secret("a", "one")).await.expect("created");
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&f.directory().join("a")), 0o644);
    assert_eq!(mode(&f.directory()), 0o700);
    assert_eq!(mode(&f.state.path().join("function-secrets")), 0o700);
}

#[tokio::test]
async fn values_are_checked() {
    let f = Fixture::new();
    let create = |secret: wire::Secret| f.secrets.create(default(), secret);
    for (body, message) in [
        (secret("../a", "x"), "secret: \"../a\" contains '/'; use letters, digits, '-', '_' and '.'"),
        (secret("a..b", "x"), "secret: \"a..b\" contains \"..\""),
        (secret("", "x"), "secret: is empty; give a name"),
        (secret("a", ""), "value: is empty; give a value, or a rawValue in base64"),
        (secret("a", &"x".repeat(MAX_VALUE + 1)), "secret a is larger than 1048576 bytes"),
    ] {
        assert_eq!(create(body).await.expect_err(message).to_string(), message);
    }
    let raw = |text: &str| wire::Secret { raw_value: Some(text.into()), ..secret("a", "not this") };
    let error = create(raw("%%%")).await.expect_err("not base64");
    assert!(error.to_string().starts_with("rawValue: is not base64"), "{error}");
    let large = base64::engine::general_purpose::STANDARD.encode(vec![0u8; MAX_VALUE + 1]);
    assert!(matches!(create(raw(&large)).await, Err(SecretError::TooLarge { .. })));
    assert_eq!(f.files(), [""; 0]);
    create(raw("AAH/")).await.expect("created");
    assert_eq!(std::fs::read(f.directory().join("a")).expect("a value"), [0, 1, 0xff]);
}

#[tokio::test]
async fn the_next_start_finishes_an_update_and_removes_what_is_half_written() {
    let f = Fixture::new();
    f.secrets.create(default(), secret("a", "old and long")).await.expect("created");
    std::fs::write(f.directory().join(".a.new"), "new").expect("a journal");
    std::fs::write(f.directory().join(".gone.new"), "new").expect("a journal");
    std::fs::write(f.directory().join(".b.tmp"), "ha").expect("half a value");
    assert_eq!(f.secrets.list(default()).await.expect("a list"), names(&["a"]));
    Secrets::open(f.state.path()).expect("secrets");
    assert_eq!(f.read("a"), "new");
    assert_eq!(f.files(), ["a"]);
}

#[tokio::test]
async fn a_namespace_is_forgotten_only_without_secrets() {
    let f = Fixture::new();
    f.secrets.forget_namespace(default()).await.expect("nothing to do");
    f.secrets.create(default(), secret("a", "one")).await.expect("created");
    assert!(f.secrets.forget_namespace(default()).await.is_err());
    f.secrets.delete(default(), names(&["a"]).remove(0)).await.expect("deleted");
    f.secrets.forget_namespace(default()).await.expect("forgotten");
    assert!(!f.directory().exists());
}

#[tokio::test]
async fn a_namespace_has_room_for_so_many() {
    let f = Fixture::new();
    private_file::make_directory(&f.directory()).expect("a directory");
    for i in 0..MAX_SECRETS {
        std::fs::write(f.directory().join(format!("s{i}")), "x").expect("a secret");
    }
    let full = f.secrets.create(default(), secret("one-more", "x")).await;
    assert!(matches!(full, Err(SecretError::Full { .. })), "{full:?}");
}
