//! Who we are to a registry: Docker's `config.json`, read anew for every pull, so that a
//! `docker login` counts without a restart.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::process::Command;

use super::json;
use crate::exec;
use crate::private_file::if_there;
use crate::runtime::RuntimeError;

/// How long a credential helper may think.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What to show to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    /// A refresh token, to be exchanged at the registry's authorization server.
    IdentityToken(String),
    /// A token to be sent as it is.
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password { .. } => "Password(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// Returns the credentials for `repository` at `host`, a name with or without port, from the file at `path`.
///
/// Keys of the file may name a host, or a path at it: the longest one counts that the image's name begins with, by
/// whole parts, as with podman and kubelet. So no password is shown for the path of another one.
pub(super) async fn find(path: &Path, host: &str, repository: &str) -> Result<Credentials, RuntimeError> {
    let failed = |reason: String| RuntimeError::failed(format!("reading {}", path.display()), reason);
    let text = if_there(tokio::fs::read(path).await).map_err(|error| failed(error.to_string()))?;
    let Some(text) = text else { return Ok(Credentials::Anonymous) };
    // What serde says may quote the text, which has secrets in it; line and column do not.
    let file: File = json::first(&text).map_err(|error| {
        failed(match error.is_data() {
            true => "a value in it is not of the kind that 'docker login' writes".into(),
            false => format!("not valid JSON at line {} column {}", error.line(), error.column()),
        })
    })?;
    let image = format!("{}/{repository}", normal(host));
    let mut name = image.as_str();
    loop {
        let entry = entry(&file.auths, name);
        let is_host = !name.contains('/');
        // A store has what an empty entry stands for, and may have the host's without one.
        let stored = is_host || entry.is_some_and(|(_, entry)| entry.is_empty());
        let store = Some(&file.creds_store).filter(|store| stored && !store.is_empty());
        if let Some(helper) = self::entry(&file.cred_helpers, name).map(|(_, helper)| helper).or(store) {
            match ask_helper(helper, server_name(name)).await {
                Ok(Some(credentials)) => return Ok(credentials),
                Ok(None) => {}
                Err(reason) => {
                    tracing::warn!(helper, registry = name, reason, "a docker credential helper failed");
                }
            }
        }
        if let Some((key, entry)) = entry.filter(|(_, entry)| !entry.is_empty()) {
            return entry.read().map_err(|reason| failed(format!("auths.{key:?}: {reason}")));
        }
        match name.rsplit_once('/') {
            Some((shorter, _)) => name = shorter,
            None => return Ok(Credentials::Anonymous),
        }
    }
}

/// Returns the entry whose key means `name`: of several spellings the one that is nearest to what `docker login` writes.
fn entry<'a, T>(entries: &'a BTreeMap<String, T>, name: &str) -> Option<(&'a str, &'a T)> {
    let exact = entries.get_key_value(server_name(name)).or_else(|| entries.get_key_value(name));
    let found = exact.or_else(|| entries.iter().find(|(key, _)| normal(key) == name));
    found.map(|(key, entry)| (key.as_str(), entry))
}

impl Entry {
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identitytoken, &self.registrytoken]
            .into_iter()
            .all(String::is_empty)
    }

    fn read(&self) -> Result<Credentials, String> {
        if !self.registrytoken.is_empty() {
            return Ok(Credentials::Bearer(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Credentials::IdentityToken(self.identitytoken.clone()));
        }
        if !self.auth.is_empty() {
            let encoded: String = self.auth.split_ascii_whitespace().collect();
            let text = STANDARD
                .decode(encoded)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or("auth is not base64")?;
            let (user, password) = text.split_once(':').ok_or("auth is not user:password in base64")?;
            // Docker pads old entries with zero bytes.
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Credentials::Password { user: user.to_owned(), password });
        }
        let (user, password) = (self.username.clone(), self.password.clone());
        Ok(Credentials::Password { user, password })
    }
}

/// Returns the host, or the path at it, that a key names, without scheme and API version.
fn normal(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let named = bare.unwrap_or(key);
    let (host, path) = named.split_once('/').unwrap_or((named, ""));
    let path = path.trim_end_matches('/');
    // Addresses of the API stand for the host, as kubelet reads them.
    let path = match path.split_once('/').unwrap_or((path, "")) {
        ("v1" | "v2", rest) if bare.is_some() || rest.is_empty() => rest,
        _ => path,
    };
    let host = match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    };
    if path.is_empty() { host } else { format!("{host}/{path}") }
}

/// The name by which helpers know a registry.
fn server_name(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

async fn ask_helper(name: &str, server: &str) -> Result<Option<Credentials>, String> {
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err("its name is not one of a program".into());
    }
    run_helper(&format!("docker-credential-{name}"), server).await
}

async fn run_helper(program: &str, server: &str) -> Result<Option<Credentials>, String> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let mut command = Command::new(program);
    command.arg("get");
    let output = exec::talk(command, server.as_bytes(), HELPER_TIMEOUT).await;
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("{program}: {}: {}", output.status, said.trim()));
    }
    let answer: Answer = json::first(&output.stdout)
        .map_err(|_| format!("{program}: its answer is not what a helper says"))?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials::IdentityToken(answer.secret)
    } else {
        Credentials::Password { user: answer.username, password: answer.secret }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(json: &str, registry: &str) -> Result<Credentials, RuntimeError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        let (host, repository) = registry.split_once('/').unwrap_or((registry, "me/fn"));
        find(file.path(), host, repository).await
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password { user: user.into(), password: password.into() }
    }

    #[tokio::test]
    async fn entries_are_found_under_every_spelling() {
        let auth = STANDARD.encode("me:se:cret");
        for (key, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "registry-1.docker.io"),
            ("ghcr.io", "ghcr.io"),
            ("https://r.example:5000/v2/", "r.example:5000"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ] {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"{auth}"}}}}}}"#);
            assert_eq!(found(&json, registry).await.unwrap(), password("me", "se:cret"), "{key}");
            assert_eq!(found(&json, "other.example").await.unwrap(), Credentials::Anonymous);
        }
    }

    /// Every entry's user is its key.
    fn users(keys: &[&str]) -> String {
        let entry = |key: &&str| ((*key).to_owned(), serde_json::json!({ "username": key, "password": "p" }));
        let auths: serde_json::Map<_, _> = keys.iter().map(entry).collect();
        serde_json::json!({ "auths": auths }).to_string()
    }

    #[tokio::test]
    async fn an_entry_is_the_longest_whole_prefix_of_the_images_name() {
        for (keys, image, want) in [
            (&["r/team-a", "r/team-b"][..], "r/team-a/x", Some("r/team-a")),
            (&["r/team-a", "r/team-b"], "r/team-b/x/y", Some("r/team-b")),
            (&["r/team-a", "r/team-b"], "r/team-c/x", None),
            (&["r/team"], "r/team-a/x", None),
            (&["r/team-a/x"], "r/team-a/xy", None),
            (&["r/team-a/x"], "r/team-a", None),
            (&["r", "r/secret"], "r/public/x", Some("r")),
            (&["r", "r/secret"], "r/secret/x", Some("r/secret")),
            (&["r/a", "r/a/b", "r/a/b/c", "r"], "r/a/b/c", Some("r/a/b/c")),
            (&["r/a", "r/a/b", "r/a/b/c", "r"], "r/a/b/d", Some("r/a/b")),
            (&["https://r/v2/", "r/a/"], "r/a/b", Some("r/a/")),
            (&["https://r/v2/", "r/a"], "r/b", Some("https://r/v2/")),
            (&["https://r/v2/a"], "r/b/c", None),
            (&["https://r/v2/a"], "r/a/c", Some("https://r/v2/a")),
            (&["r:5000", "r:5000/a"], "r:5001/a/b", None),
            (&["R.example"], "r.example/a", Some("R.example")),
            (&["[::1]:5000/a"], "[::1]:5000/a/b", Some("[::1]:5000/a")),
            // One host in several spellings: always the same one.
            (
                &["docker.io", "https://index.docker.io/v1/"],
                "docker.io/me/fn",
                Some("https://index.docker.io/v1/"),
            ),
            (&["docker.io/me", "https://index.docker.io/v1/"], "docker.io/me/fn", Some("docker.io/me")),
            (&["http://r", "https://r"], "r/a", Some("http://r")),
            (&["http://r", "https://r", "r"], "r/a", Some("r")),
        ] {
            let want = want.map_or(Credentials::Anonymous, |user| password(user, "p"));
            assert_eq!(found(&users(keys), image).await.unwrap(), want, "{keys:?} for {image}");
        }
    }

    #[tokio::test]
    async fn an_empty_entry_leaves_the_host_s_own() {
        let json = r#"{"auths":{"r/a":{},"r":{"username":"host","password":"p"}}}"#;
        assert_eq!(found(json, "r/a/b").await.unwrap(), password("host", "p"));
    }

    #[tokio::test]
    async fn the_file_is_read_as_go_reads_it() {
        for json in [
            r#"{"Auths":{"r":{"Auth":"dTpw"}},"credHelpers":null,"credsStore":null}"#,
            r#"{"auths":null,"AUTHS":{"r":{"auth":"eDp4","AUTH":"dTpw","email":null}},"other":[1]}"#,
            r#"{"auths":{"q":{}},"auths":{"r":{"USERNAME":"u","password":"p","auth":null}}}"#,
        ] {
            assert_eq!(found(json, "r").await.unwrap(), password("u", "p"), "{json}");
        }
    }

    #[tokio::test]
    async fn the_forms_of_an_entry() {
        let json = |entry: &str| format!(r#"{{"auths":{{"r":{entry}}},"credHelpers":{{}}}}"#);
        let read = async |entry| found(&json(entry), "r").await.unwrap();
        assert_eq!(read(r#"{"username":"u","password":"p"}"#).await, password("u", "p"));
        assert_eq!(
            read(r#"{"auth":"dTpw","identitytoken":"t"}"#).await,
            Credentials::IdentityToken("t".into())
        );
        assert_eq!(read(r#"{"auth":"dTpw","registrytoken":"t"}"#).await, Credentials::Bearer("t".into()));
        assert_eq!(read(r#"{"auth":"dT\npw\r\n"}"#).await, password("u", "p"));
        assert_eq!(read("{}").await, Credentials::Anonymous);
    }

    #[tokio::test]
    async fn a_broken_file_is_an_error_that_does_not_show_secrets() {
        for json in [r#"{"auths":"hunter2"}"#, r#"{"auths":{"r":{"auth":"hunter2!"}}}"#, "hunter2"] {
            let error = found(json, "r").await.expect_err(json);
            let shown = format!("{error:?} {error}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let missing = find(Path::new("/does/not/exist.json"), "r", "me/fn").await;
        assert_eq!(missing.unwrap(), Credentials::Anonymous);
    }

    #[tokio::test]
    async fn a_helper_that_is_not_there_gives_way_to_the_file() {
        let json = r#"{"auths":{"r":{"auth":"dTpw"}},"credsStore":"ingle-no-such-helper"}"#;
        assert_eq!(found(json, "r").await.unwrap(), password("u", "p"));
        let error = ask_helper("../evil", "r").await.unwrap_err();
        assert!(error.contains("not one of a program"), "{error}");
    }

    #[tokio::test]
    async fn a_helper_is_asked_and_believed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let ask = async |script: &str| {
            let program = dir.path().join("helper");
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            run_helper(program.to_str().unwrap(), "r.example").await
        };
        let answer =
            r#"[ "$1 $(cat)" = "get r.example" ] && echo '{"ServerURL":"r","Username":"u","Secret":"p"}'"#;
        assert_eq!(ask(answer).await, Ok(Some(password("u", "p"))));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(ask(token).await, Ok(Some(Credentials::IdentityToken("t".into()))));
        let none = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(ask(none).await, Ok(None));
        assert!(ask("echo no; exit 3").await.unwrap_err().contains("exit status: 3"));
        assert!(ask("echo hello").await.unwrap_err().contains("not what a helper says"));
    }

    #[test]
    fn credentials_are_not_shown() {
        let shown = format!("{:?}", password("user", "hunter2"));
        assert!(!shown.contains("hunter2"));
    }
}
