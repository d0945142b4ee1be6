//! The target of a request: which route it names.

use std::fmt;
use std::sync::Arc;

use calls::invoke::InvokeError;
use directory::{Directory, Entry};
use http1::{Header, RequestHead};

/// Where a request goes.
pub(super) enum Route<'b> {
    /// To a function, as a request for `path`.
    Call { entry: Arc<Entry>, path: Path<'b> },
    /// To the queue.
    Async { entry: Arc<Entry>, path: Path<'b> },
    /// To the function that its body names.
    Alexa { path: Path<'b> },
    /// There, but that is not served here.
    NoAlexa,
    /// To a function that is not there.
    Unknown(InvokeError),
    /// Elsewhere.
    NotAFunction,
}

/// A path and query as the function gets them: what follows the name, with a `/` in front if it has
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path<'b> {
    pub(super) slash: bool,
    pub(super) rest: &'b str,
}

/// Decides by the target as it was sent: nothing is decoded or resolved, so that no spelling of a
/// path means one thing here and another elsewhere.
/// `alexa`: whether requests of Alexa skills are served.
pub(super) fn route<'b>(directory: &Directory, head: &RequestHead<'_, 'b>, alexa: bool) -> Route<'b> {
    // An answer to it would make a tunnel of the connection, for those who know the method.
    if head.method == "CONNECT" {
        return Route::NotAFunction;
    }
    let path = origin_form(head.target);
    let queued = path.strip_prefix("/async-function/");
    let (name, rest) = match path.strip_prefix("/function/").or(queued) {
        Some(named) => named.split_at(named.find(['/', '?', '#']).unwrap_or(named.len())),
        // A gateway on a single port can be told the function by a header instead.
        None if path == "/" => match head.header(Header::Function).map(std::str::from_utf8) {
            Some(Ok(name)) => (name, "/"),
            // The services of Alexa send to one address, and no header of ours.
            None if head.method == "POST" && !alexa => return Route::NoAlexa,
            None if head.method == "POST" => {
                return Route::Alexa { path: Path { slash: false, rest: path } };
            }
            _ => return Route::NotAFunction,
        },
        None => return Route::NotAFunction,
    };
    let path = Path { slash: !rest.starts_with('/'), rest };
    match directory.find(name) {
        Some(entry) if queued.is_some() => Route::Async { entry, path },
        Some(entry) => Route::Call { entry, path },
        None => Route::Unknown(InvokeError::unknown(name)),
    }
}

/// The path and query of a target that may have a scheme and an authority in front.
fn origin_form(target: &str) -> &str {
    let is_http = |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let Some((_, rest)) = target.split_once("://").filter(|(scheme, _)| is_http(scheme)) else {
        return target;
    };
    rest.find(['/', '?', '#']).map_or("/", |at| &rest[at..])
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.slash { "/" } else { "" })?;
        f.write_str(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http1::slots;

    fn path_of(target: &str) -> Option<(String, String)> {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut slots = slots();
        let (head, _) = RequestHead::parse(text.as_bytes(), &mut slots).expect("valid").expect("whole");
        match route(&Directory::default(), &head, true) {
            Route::Unknown(InvokeError::NotFound { function }) => Some((function, head.target.to_owned())),
            _ => None,
        }
    }

    #[test]
    fn only_the_target_as_sent_decides() {
        for (target, name) in [
            ("/function/env", "env"),
            ("/function/env.dev/a%2fb?c=1", "env.dev"),
            ("/function/env?x=/function/b", "env"),
            ("http://host/function/env", "env"),
            ("http://host:1/function/env/..", "env"),
            ("/function/../system/functions", ".."),
            ("/function/..%2fsystem", "..%2fsystem"),
            ("/function/", ""),
        ] {
            assert_eq!(path_of(target).map(|(name, _)| name).as_deref(), Some(name), "{target}");
        }
        for target in [
            "/function",
            "//function/env",
            "/%66unction/env",
            "/./function/env",
            "/x://y/function/env",
            "*",
            "x://y/function/env",
            "a/b://y/function/env",
            "http://host?/function/env",
            "http://host#/function/env",
        ] {
            assert_eq!(path_of(target), None, "{target}");
        }
    }
}
