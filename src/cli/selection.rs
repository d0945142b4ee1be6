//! Which functions of a stack file are meant.

use regex_lite::Regex;

use crate::cli::error::CliError;

/// `--filter` or `--regex`, or all.
#[derive(Debug)]
pub(crate) enum Selection {
    All,
    Filter(String),
    Regex(Regex),
}

impl Selection {
    /// From the two options, of which at most one is given.
    pub(crate) fn new(filter: Option<&str>, regex: Option<&str>) -> Result<Self, CliError> {
        match (filter, regex) {
            (Some(filter), _) => Ok(Self::Filter(filter.to_owned())),
            (None, Some(text)) => Regex::new(text).map(Self::Regex).map_err(|error| {
                CliError::usage(format!("--regex {text:?} is no regular expression: {error}"))
            }),
            (None, None) => Ok(Self::All),
        }
    }

    /// Whether a function of this name is meant. A regular expression may match anywhere in it.
    pub(crate) fn takes(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Filter(filter) => glob(filter, name),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

/// Whether `name` is `pattern`, in which each `*` stands for any text.
fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The first place is as good as any: what comes before it, the star takes.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, name, taken) in [
            ("env", "env", true),
            ("env", "env2", false),
            ("*", "", true),
            ("*gif*", "to-gif-2", true),
            ("*gif*", "gif", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*b", "ab", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, name), taken, "{pattern:?} {name:?}");
        }
    }

    #[test]
    fn a_regular_expression_matches_anywhere() {
        let regex = Selection::new(None, Some("fn[0-9]_")).expect("valid");
        assert!(regex.takes("my-fn1_x"));
        assert!(!regex.takes("my-fn_x"));
        assert!(matches!(Selection::new(None, Some("[")), Err(CliError::Usage(_))));
    }
}
