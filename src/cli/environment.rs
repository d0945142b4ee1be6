//! The one place of the client commands that reads environment variables.

use std::path::PathBuf;

/// The variable `name`, if it is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    any_variable(name).filter(|text| !text.is_empty())
}

/// The variable `name`, if it is set, be it to nothing: for `${NAME}` in stack files.
#[expect(clippy::disallowed_methods, reason = "client commands have no configuration but the environment")]
pub(crate) fn any_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where this user's files for ingle are.
pub(crate) fn config_dir(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let base = match variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(base) => base,
        None => PathBuf::from(variable("HOME")?).join(".config"),
    };
    Some(base.join("ingle"))
}

/// Where faas-cli keeps its logins.
pub(crate) fn faas_cli_config(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let dir = match variable("OPENFAAS_CONFIG") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(variable("HOME")?).join(".openfaas"),
    };
    Some(dir.join("config.yml"))
}
