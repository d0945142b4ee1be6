//! OpenFaaS stack files: their text to the deployments that it describes, and back.
//!
//! Invariant: a file that has one mistake describes nothing. Everything it names is read and checked first.

mod glob;
mod parse;
mod render;
mod schema;
mod substitute;

pub use parse::{Files, Stack, parse, without_empty};
pub use render::render;

use std::io;
use std::path::{Path, PathBuf};

/// A stack file, an environment file, and both with their variables filled in, have at most this many bytes.
pub const MAX_FILE: usize = 1 << 20;

/// Byte order mark, which some editors put in front of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// What is wrong with a stack file, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StackError(String);

impl StackError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The same, of a part that `place` names.
    pub fn at(self, place: impl std::fmt::Display) -> Self {
        Self(format!("{place}: {self}"))
    }
}

/// The stack files in a directory, in the order of their names.
pub fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_stack =
        |path: &PathBuf| path.extension().is_some_and(|end| end == "yml" || end == "yaml") && path.is_file();
    let entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).filter(is_stack).collect();
    files.sort();
    Ok(files)
}

/// Reads the text of a file that is not too large.
pub fn open_text(path: &Path) -> Result<String, StackError> {
    let file = std::fs::File::open(path).map_err(|error| StackError::new(error.to_string()))?;
    read_text(file)
}

/// Reads a text that is not too large.
pub fn read_text(from: impl std::io::Read) -> Result<String, StackError> {
    let mut text = Vec::new();
    let read = std::io::Read::read_to_end(&mut from.take(MAX_FILE as u64 + 1), &mut text);
    read.map_err(|error| StackError::new(error.to_string()))?;
    as_text(text)
}

/// Takes bytes for the text of a file; a byte order mark in front is no part of it.
pub fn as_text(bytes: Vec<u8>) -> Result<String, StackError> {
    if bytes.len() > MAX_FILE {
        return Err(StackError::new(format!("it is larger than {MAX_FILE} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| StackError::new("it is not UTF-8 text"))?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests;
