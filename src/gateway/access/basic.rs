//! Who may use `/system`: one user and password, made on the first start.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use http::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use host::private_file;

/// The file with the user's name, under the state directory.
pub const USER_FILE: &str = "secrets/basic-auth-user";
/// The file with the password, under the state directory.
pub const PASSWORD_FILE: &str = "secrets/basic-auth-password";

/// The user's name, unless the file says otherwise.
const DEFAULT_USER: &str = "admin";
/// Bytes of randomness in a password; it is written in hexadecimal, two digits each.
const PASSWORD_BYTES: usize = 20;

/// The one user and password, as digests: comparing digests takes as long for a short guess as for
/// a long one, and the password itself is not kept in memory.
#[derive(Clone)]
pub struct Credentials {
    user: [u8; 32],
    password: [u8; 32],
}

/// Why the credentials could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file could not be read or written.
    #[error("{path} could not be {verb}: is the daemon running as root, and the disk not full?")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried: `read` or `made`.
        verb: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file holds nothing.
    #[error("{path} is empty: write one line into it, or delete it to have it made anew")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes for a password: {0}")]
    Random(getrandom::Error),
}

impl Credentials {
    /// Exactly this user and password.
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: digest(user.as_bytes()), password: digest(password.as_bytes()) }
    }

    /// What the files under `state_dir` say; whichever is not there is made, with a random password.
    /// A newline at a file's end does not count.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, AuthError> {
        let directory = state_dir.join("secrets");
        let failed = |source| AuthError::File { path: directory.clone(), verb: "made", source };
        private_file::make_directory(&directory).map_err(failed)?;
        private_file::remove_unfinished(&directory).map_err(failed)?;
        let mut random = [0; PASSWORD_BYTES];
        getrandom::fill(&mut random).map_err(AuthError::Random)?;
        let user = read_or_create(&state_dir.join(USER_FILE), DEFAULT_USER)?;
        let password = read_or_create(&state_dir.join(PASSWORD_FILE), &hex::encode(random))?;
        Ok(Self::new(&user, &password))
    }

    /// Returns whether a request's headers carry this user and password.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        headers.get(AUTHORIZATION).is_some_and(|value| self.admit_value(value.as_bytes()))
    }

    /// Returns whether the value of an `Authorization` header is this user and password. Takes the same time
    /// whichever of them is wrong.
    pub fn admit_value(&self, authorization: &[u8]) -> bool {
        let Some((user, password)) = basic(authorization) else { return false };
        let user = digest(&user).ct_eq(&self.user);
        let password = digest(&password).ct_eq(&self.password);
        (user & password).into()
    }
}

impl std::fmt::Debug for Credentials {
    /// Without the digests: this type must not reach a log with them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// User and password from `Basic <base64 of user:password>`.
fn basic(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut user = base64::engine::general_purpose::STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = user.iter().position(|byte| *byte == b':')?;
    let password = user.split_off(colon + 1);
    user.pop();
    Some((user, password))
}

/// What a file holds; a missing one is made.
fn read_or_create(path: &Path, content: &str) -> Result<String, AuthError> {
    let failed = |verb| move |source| AuthError::File { path: path.to_owned(), verb, source };
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(path, content).map_err(failed("made"))?;
            std::fs::read_to_string(path)
        }
        read => read,
    }
    .map_err(failed("read"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() { Err(AuthError::Empty { path: path.to_owned() }) } else { Ok(text.to_owned()) }
}

fn make(path: &Path, content: &str) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    private_file::create(directory, name, format!("{content}\n").as_bytes(), 0o600).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().expect("a header"))])
    }

    fn basic_of(text: &str) -> HeaderMap {
        headers(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)))
    }

    #[test]
    fn only_the_right_user_and_password_are_admitted() {
        let credentials = Credentials::new("admin", "a:b");
        assert!(credentials.admit(&basic_of("admin:a:b")));
        assert!(credentials.admit(&headers("bAsIc YWRtaW46YTpi")));
        for text in ["admin:a:", "admin:a:bb", "Admin:a:b", ":a:b", "admin:", "admin", "", ":"] {
            assert!(!credentials.admit(&basic_of(text)), "{text}");
        }
        for value in ["Basic", "Basic ", "Basic %%", "Bearer YWRtaW46YTpi", "YWRtaW46YTpi", ""] {
            assert!(!credentials.admit(&headers(value)), "{value}");
        }
        assert!(!credentials.admit(&HeaderMap::new()));
    }

    #[test]
    fn they_are_made_once_and_only_root_can_read_them() {
        let state = tempfile::tempdir().expect("a directory");
        Credentials::load_or_create(state.path()).expect("made");
        let user = std::fs::read_to_string(state.path().join(USER_FILE)).expect("a user");
        let password = std::fs::read_to_string(state.path().join(PASSWORD_FILE)).expect("a password");
        assert_eq!(user, "admin\n");
        assert!(password.trim_end().len() >= 32, "{}", password.len());
        let mode = |path: &str| {
            std::fs::metadata(state.path().join(path)).expect("there").permissions().mode() & 0o777
        };
        assert_eq!((mode("secrets"), mode(USER_FILE), mode(PASSWORD_FILE)), (0o700, 0o600, 0o600));
        assert_eq!(std::fs::read_dir(state.path().join("secrets")).expect("a directory").count(), 2);

        let again = Credentials::load_or_create(state.path()).expect("read");
        assert!(again.admit(&basic_of(&format!("admin:{}", password.trim_end()))));
    }

    #[test]
    fn a_file_that_is_there_counts_and_an_empty_one_is_named() {
        let state = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(state.path().join("secrets")).expect("a directory");
        std::fs::write(state.path().join(PASSWORD_FILE), "mine\r\n").expect("written");
        let credentials = Credentials::load_or_create(state.path()).expect("read");
        assert!(credentials.admit(&basic_of("admin:mine")));
        std::fs::write(state.path().join(PASSWORD_FILE), "\n").expect("written");
        let error = Credentials::load_or_create(state.path()).expect_err("empty").to_string();
        assert!(error.contains("secrets/basic-auth-password is empty"), "{error}");
    }

    #[test]
    fn two_that_start_at_once_agree() {
        let state = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(state.path().join("secrets")).expect("a directory");
        let directory = state.path().join("secrets");
        assert!(private_file::create(&directory, "basic-auth-password", b"first\n", 0o600).expect("made"));
        assert!(!private_file::create(&directory, "basic-auth-password", b"second\n", 0o600).expect("there"));
        let credentials = Credentials::load_or_create(state.path()).expect("read");
        assert!(credentials.admit(&basic_of("admin:first")));
    }
}
