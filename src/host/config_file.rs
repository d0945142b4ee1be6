//! Reads the configuration from its file and from the environment.

use std::io;
use std::path::Path;

use model::config::{Config, ConfigError, DEFAULT_PATH};

/// Reads the file at `path`, if it is there, and the environment, which takes precedence.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        // A daemon without a file has defaults, but a file that was asked for by name must be there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
            String::new()
        }
        Err(error) => return Err(ConfigError { mistakes: vec![format!("{}: {error}", path.display())] }),
    };
    #[expect(clippy::disallowed_methods, reason = "this is the one reader of settings from the environment")]
    let variable = |name: &str| std::env::var(name).ok();
    Config::parse(&text, variable).map_err(|error| error.in_file(path))
}
