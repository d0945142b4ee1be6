//! The password for a gateway: where it is looked for, and where `ingle login` keeps it.
//!
//! Invariant: the file with passwords is never readable for anyone but its owner, not even while it
//! is being written, and it is replaced whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::error::Origin;
use super::gateway::Gateway;
use super::{atomic_file, environment};

/// The user of every daemon that was not told otherwise.
pub(crate) const ADMIN: &str = "admin";

/// A file with logins or passwords that is larger is not one of ours.
const MAX_FILE: u64 = 1 << 20;

/// A user name and password, and where they were found.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) origin: Origin,
}

impl std::fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The places where credentials are looked for, in this order: the environment, what `ingle login`
/// stored, what `faas-cli login` stored. The daemon's own files are not read: another program may be
/// listening on its port, and commands on its machine need no password.
#[derive(Debug, Default)]
pub(crate) struct Places {
    password: Option<String>,
    username: Option<String>,
    store: Option<PathBuf>,
    faas_cli: Option<PathBuf>,
}

impl Places {
    /// The places of this user on this machine.
    pub(crate) fn of_this_user() -> Self {
        Self {
            password: environment::variable("INGLE_PASSWORD"),
            username: environment::variable("INGLE_USERNAME"),
            store: environment::config_dir(environment::variable).map(|dir| dir.join("credentials.toml")),
            faas_cli: environment::faas_cli_config(environment::variable),
        }
    }

    /// The file that `ingle login` writes.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        let path =
            self.store.clone().context("neither XDG_CONFIG_HOME nor HOME is set: logins have no place")?;
        Ok(Store { path })
    }

    /// The credentials for `gateway`, if any are known.
    pub(crate) fn find(&self, gateway: &Gateway) -> anyhow::Result<Option<Credentials>> {
        // A stack file may come from anywhere. It can ask for a gateway where someone has logged in,
        // but cannot have this variable sent wherever it likes.
        if let Some(password) = self.password.clone().filter(|_| !gateway.from_stack) {
            let username = self.username.clone().unwrap_or_else(|| ADMIN.to_owned());
            return Ok(Some(Credentials { username, password, origin: Origin::Environment }));
        }
        if let Some(path) = self.store.clone()
            && let Some(found) = (Store { path }).get(gateway)?
        {
            return Ok(Some(found));
        }
        Ok(self.faas_cli.as_deref().and_then(|path| faas_cli_credentials(path, gateway)))
    }
}

/// The file with one login for each gateway.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
}

#[derive(Default, Serialize, Deserialize)]
struct StoreFile {
    #[serde(default)]
    gateways: BTreeMap<String, Login>,
}

#[derive(Serialize, Deserialize)]
struct Login {
    username: String,
    password: String,
}

impl Store {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn get(&self, gateway: &Gateway) -> anyhow::Result<Option<Credentials>> {
        let Some(login) = self.read()?.gateways.remove(&gateway.to_string()) else { return Ok(None) };
        let origin = Origin::File(self.path.clone());
        Ok(Some(Credentials { username: login.username, password: login.password, origin }))
    }

    /// Keeps a login, in place of an earlier one.
    pub(crate) fn put(&self, gateway: &Gateway, username: &str, password: &str) -> anyhow::Result<()> {
        let mut file = self.read()?;
        let login = Login { username: username.to_owned(), password: password.to_owned() };
        file.gateways.insert(gateway.to_string(), login);
        self.write(&file)
    }

    /// Forgets a login; whether there was one.
    pub(crate) fn forget(&self, gateway: &Gateway) -> anyhow::Result<bool> {
        let mut file = self.read()?;
        let known = file.gateways.remove(&gateway.to_string()).is_some();
        if known {
            self.write(&file)?;
        }
        Ok(known)
    }

    fn read(&self) -> anyhow::Result<StoreFile> {
        let path = self.path.display();
        match read_small(&self.path).with_context(|| format!("{path} cannot be read"))? {
            Some(text) => toml::from_str(&text)
                .with_context(|| format!("{path} is damaged: remove it and log in again")),
            None => Ok(StoreFile::default()),
        }
    }

    fn write(&self, file: &StoreFile) -> anyhow::Result<()> {
        let text = toml::to_string(file).context("logins cannot be written as TOML")?;
        let dir = self.path.parent().unwrap_or_else(|| Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| atomic_file::replace(&self.path, text.as_bytes()))
            .with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

#[derive(Deserialize)]
struct FaasCliFile {
    #[serde(default)]
    auths: Vec<FaasCliAuth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FaasCliAuth {
    gateway: String,
    auth: String,
    token: String,
}

/// What `faas-cli login` stored: base64 of `user:password`. A file that cannot be understood is not ours
/// to complain about.
fn faas_cli_credentials(path: &Path, gateway: &Gateway) -> Option<Credentials> {
    let file: FaasCliFile = serde_norway::from_str(&read_small(path).ok()??).ok()?;
    let found = file.auths.iter().find(|entry| {
        entry.auth == "basic"
            && Gateway::parse(&entry.gateway).is_ok_and(|g| g.to_string() == gateway.to_string())
    })?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(&found.token).ok()?;
    let (username, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    let origin = Origin::File(path.to_owned());
    Some(Credentials { username: username.to_owned(), password: password.to_owned(), origin })
}

/// A small file's text, or `None` if there is no such file.
fn read_small(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(data) if data.len() > MAX_FILE => {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_FILE} bytes")))
        }
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn gateway(text: &str) -> Gateway {
        Gateway::parse(text).expect(text)
    }

    fn places(dir: &Path) -> Places {
        Places {
            store: Some(dir.join("new/credentials.toml")),
            faas_cli: Some(dir.join("config.yml")),
            ..Places::default()
        }
    }

    fn found(places: &Places, at: &str) -> Option<(String, String)> {
        places.find(&gateway(at)).expect("no error").map(|c| (c.username, c.password))
    }

    fn pair(username: &str, password: &str) -> Option<(String, String)> {
        Some((username.to_owned(), password.to_owned()))
    }

    #[test]
    fn a_login_is_kept_for_its_gateway_and_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let places = places(dir.path());
        let store = places.store().expect("a store");
        assert_eq!(found(&places, "http://a:1"), None);
        store.put(&gateway("http://a:1/"), "admin", "p\"1").expect("stored");
        store.put(&gateway("https://b"), "me", "p2").expect("stored");
        assert_eq!(found(&places, "a:1"), pair("admin", "p\"1"));
        assert_eq!(found(&places, "https://b"), pair("me", "p2"));
        assert_eq!(found(&places, "http://b"), None, "another scheme is another gateway");
        assert!(store.forget(&gateway("a:1")).expect("forgotten"));
        assert!(!store.forget(&gateway("a:1")).expect("nothing to forget"));
        assert_eq!(found(&places, "a:1"), None);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(store.path()), 0o600);
        assert_eq!(mode(store.path().parent().expect("a parent")), 0o700);
        let left: Vec<_> = fs::read_dir(dir.path().join("new")).expect("a directory").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let places = places(dir.path());
        fs::create_dir(dir.path().join("new")).expect("made");
        fs::write(dir.path().join("new/credentials.toml"), "gateways = 1").expect("written");
        let error = places.find(&gateway("a")).expect_err("damaged");
        assert!(format!("{error:#}").contains("log in again"), "{error:#}");
    }

    #[test]
    fn logins_of_faas_cli_are_the_last_resort() {
        let dir = tempfile::tempdir().expect("a directory");
        let places = places(dir.path());
        // base64 of "admin:pa:ss"
        let text = "auths:\n- gateway: http://a:1\n  auth: oauth2\n  token: x\n\
                    - gateway: http://a:1\n  auth: basic\n  token: YWRtaW46cGE6c3M=\n  options: []\n";
        fs::write(dir.path().join("config.yml"), text).expect("written");
        assert_eq!(found(&places, "a:1"), pair("admin", "pa:ss"));
        assert_eq!(found(&places, "a:2"), None);
        fs::write(dir.path().join("config.yml"), "auths: [[").expect("written");
        assert_eq!(found(&places, "a:1"), None);
    }

    #[test]
    fn the_environment_wins_but_never_for_a_gateway_that_only_a_stack_file_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let places = Places { password: Some("env".into()), ..places(dir.path()) };
        let store = places.store().expect("a store");
        store.put(&gateway("http://a:1"), "admin", "stored").expect("stored");
        assert_eq!(found(&places, "a:1"), pair("admin", "env"));
        let stacked =
            Gateway::choose(None, Some("http://a:1"), |_| None, &gateway("own")).expect("a gateway");
        assert_eq!(places.find(&stacked).expect("found").map(|c| c.password), Some("stored".into()));
        let elsewhere =
            Gateway::choose(None, Some("http://evil"), |_| None, &gateway("own")).expect("a gateway");
        assert_eq!(places.find(&elsewhere).expect("no error"), None);
    }
}
