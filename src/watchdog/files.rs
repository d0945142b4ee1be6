//! `static`: files below a directory.

use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, SeekFrom};

use super::answer::INTERNAL;
use super::call::Call;
use super::cgi;
use super::child::Ending;
use super::failure::Failure;
use super::settings::Settings;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// What is sent where a directory is asked for.
const INDEX: &str = "index.html";
/// The only hidden name that is served (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// The directory.
#[derive(Debug)]
pub(super) struct Files {
    /// Without symbolic links, so that what is below it can be told.
    root: PathBuf,
    /// No process is needed here.
    _ended: Ending,
}

impl Files {
    pub(super) fn new(settings: &Settings, ended: Ending) -> Result<Self, String> {
        let path = &settings.static_path;
        let root = std::fs::canonicalize(path)
            .map_err(|error| format!("static_path {}: {error}", path.display()))?;
        Ok(Self { root, _ended: ended })
    }

    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        let header = |name: &str| call.header(name).and_then(|value| std::str::from_utf8(value).ok());
        // `Range` applies to GET alone; with other methods it has no meaning.
        let range = header("range").filter(|_| call.request.method == "GET");
        let (since, if_range) = (header("if-modified-since"), header("if-range"));
        let Call { request, answer, .. } = call;
        if !matches!(request.method, "GET" | "HEAD") {
            let text = "files are read only: use GET or HEAD\n";
            let headers: &[(&str, &[u8])] = &[("Allow", b"GET, HEAD"), INTERNAL];
            let done = answer.text(StatusCode::METHOD_NOT_ALLOWED, text, headers).await;
            return done.map_err(Failure::Client);
        }
        let (path, _) = cgi::split(request.target);
        let missing = || Failure::Request(StatusCode::NOT_FOUND, format!("{path} is not here"));
        let path = self.find(path).ok_or_else(missing)?;
        let mut options = tokio::fs::OpenOptions::new();
        // A pipe of that name must not hold anything up.
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut file = options.open(&path).await.map_err(|_| missing())?;
        let data = file.metadata().await.map_err(|_| missing())?;
        if !data.is_file() {
            return Err(missing());
        }
        let modified = data.modified().ok().and_then(written);
        let range = range.filter(|_| if_range.is_none_or(|as_it_was| Some(as_it_was) == modified.as_deref()));
        let part = range.map_or(Part::Whole, |range| part(range, data.len()));
        let mut headers: Vec<(&str, &[u8])> = vec![("Accept-Ranges", b"bytes")];
        headers.extend(modified.as_ref().map(|modified| ("Last-Modified", modified.as_bytes())));
        // Any other time is another file, also an earlier one: code can be gone back from.
        if since.is_some_and(|since| Some(since) == modified.as_deref()) {
            answer.begin(304, "Not Modified", None, &headers);
            return answer.end().await.map_err(Failure::Client);
        }
        let said;
        let mut left = match part {
            Part::Whole => {
                headers.push(("Content-Type", kind(&path).as_bytes()));
                answer.begin(200, "OK", Some(data.len()), &headers);
                data.len()
            }
            Part::Bytes { from, length } => {
                said = format!("bytes {from}-{}/{}", from + length - 1, data.len());
                headers.push(("Content-Type", kind(&path).as_bytes()));
                headers.push(("Content-Range", said.as_bytes()));
                file.seek(SeekFrom::Start(from)).await.map_err(|_| missing())?;
                answer.begin(206, "Partial Content", Some(length), &headers);
                length
            }
            Part::Nothing => {
                said = format!("bytes */{}", data.len());
                headers.push(("Content-Range", said.as_bytes()));
                headers.push(INTERNAL);
                let text = format!("the file has {} bytes\n", data.len());
                let done = answer.text(StatusCode::RANGE_NOT_SATISFIABLE, &text, &headers).await;
                return done.map_err(Failure::Client);
            }
        };
        let mut piece = vec![0; PIECE];
        while left > 0 && !answer.is_done() {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            match file.read(&mut piece[..most]).await {
                Ok(count) if count > 0 => {
                    answer.data(&piece[..count]).await.map_err(Failure::Client)?;
                    left -= count as u64;
                }
                _ => return Err(Failure::Upstream(format!("{}: it became shorter", path.display()))),
            }
        }
        answer.end().await.map_err(Failure::Client)
    }

    /// Returns the file of a path, if it is below the directory. Hidden files (`.env`, `.git`) are not
    /// served, because they are not meant for clients. A symbolic link with another name serves one.
    fn find(&self, path: &str) -> Option<PathBuf> {
        let decoded = percent_decode_str(path).decode_utf8().ok()?;
        let relative = Path::new(decoded.trim_start_matches('/'));
        let is_shown = |part: Component<'_>| match part {
            Component::Normal(name) => name == WELL_KNOWN || !name.as_encoded_bytes().starts_with(b"."),
            Component::CurDir => true,
            _ => false,
        };
        if !relative.components().all(is_shown) {
            return None;
        }
        let mut found = std::fs::canonicalize(self.root.join(relative)).ok()?;
        if found.is_dir() {
            found = std::fs::canonicalize(found.join(INDEX)).ok()?;
        }
        // Links may lead anywhere.
        found.starts_with(&self.root).then_some(found)
    }
}

/// A time as headers have it. Images that are made to be the same each time say that all is of 1970, which says
/// nothing; what is before it, or after the year 9999, cannot be written.
fn written(time: SystemTime) -> Option<String> {
    const LAST: u64 = 253_402_300_799;
    let second = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (1..=LAST).contains(&second).then(|| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second)))
}

/// What of a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Bytes {
        from: u64,
        length: u64,
    },
    /// Nothing that it has.
    Nothing,
}

/// What a header Range means for a file of this length. What is not understood, or asks for several parts, is answered
/// with all of it, as the standard has it.
fn part(range: &str, length: u64) -> Part {
    let Some((from, to)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::Whole;
    };
    // Digits alone, without a sign.
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits)
    };
    let last = length.saturating_sub(1);
    let (from, to) = match (from.trim(), to.trim()) {
        ("", count) => match number(count) {
            Some(0) => return Part::Nothing,
            Some(count) => (length.saturating_sub(count), last),
            None => return Part::Whole,
        },
        (from, "") => match number(from) {
            Some(from) => (from, last),
            None => return Part::Whole,
        },
        (from, to) => match (number(from), number(to)) {
            (Some(from), Some(to)) if from <= to => (from, to.min(last)),
            _ => return Part::Whole,
        },
    };
    if from >= length { Part::Nothing } else { Part::Bytes { from, length: to - from + 1 } }
}

/// The type of a file, by its name.
fn kind(path: &Path) -> &'static str {
    match path.extension().and_then(|end| end.to_str()).unwrap_or_default() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "text/xml; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/vnd.microsoft.icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_says_nothing_or_cannot_be_written_is_left_out() {
        let second = Duration::from_secs(1);
        assert_eq!(written(UNIX_EPOCH + second).as_deref(), Some("Thu, 01 Jan 1970 00:00:01 GMT"));
        for time in [UNIX_EPOCH, UNIX_EPOCH - second, UNIX_EPOCH + second * 2_000_000_000 * 200] {
            assert_eq!(written(time), None, "{time:?}");
        }
    }

    #[test]
    fn a_table_of_ranges() {
        let some = |from, length| Part::Bytes { from, length };
        for (range, length, wanted) in [
            ("bytes=0-3", 10, some(0, 4)),
            ("bytes=4-", 10, some(4, 6)),
            ("bytes=-3", 10, some(7, 3)),
            ("bytes=-30", 10, some(0, 10)),
            ("bytes=8-99", 10, some(8, 2)),
            ("bytes=9-9", 10, some(9, 1)),
            ("bytes=10-", 10, Part::Nothing),
            ("bytes=10-12", 10, Part::Nothing),
            ("bytes=-0", 10, Part::Nothing),
            ("bytes=0-", 0, Part::Nothing),
            ("bytes=-1", 0, Part::Nothing),
            // Not understood: all of it.
            ("bytes=5-4", 10, Part::Whole),
            ("bytes=0-1,3-4", 10, Part::Whole),
            ("bytes=x-", 10, Part::Whole),
            ("bytes=--1", 10, Part::Whole),
            ("bytes=+1-+2", 10, Part::Whole),
            ("bytes=+1-", 10, Part::Whole),
            ("bytes=-+2", 10, Part::Whole),
            ("bytes=1-+2", 10, Part::Whole),
            ("lines=0-3", 10, Part::Whole),
            ("", 10, Part::Whole),
        ] {
            assert_eq!(part(range, length), wanted, "{range} of {length}");
        }
    }

    #[test]
    fn hidden_files_are_not_served_except_well_known_ones() {
        let root = tempfile::tempdir().expect("a directory");
        for directory in [".git", ".well-known", "sub"] {
            std::fs::create_dir(root.path().join(directory)).expect("made");
        }
        for file in
            [".env", ".git/config", ".well-known/a.txt", ".well-known/.b", "sub/.htpasswd", "sub/a..b"]
        {
            std::fs::write(root.path().join(file), "x").expect("written");
        }
        std::os::unix::fs::symlink(".env", root.path().join("env")).expect("linked");
        let (ended, _) = tokio::sync::mpsc::unbounded_channel();
        let files = Files { root: std::fs::canonicalize(&root).expect("there"), _ended: ended };
        for path in ["/.env", "/%2eenv", "/./.env", "/.git/config", "/sub/.htpasswd", "/.well-known/.b"] {
            assert_eq!(files.find(path), None, "{path}");
        }
        for path in ["/.well-known/a.txt", "/sub/a..b", "/env"] {
            assert!(files.find(path).is_some(), "{path}");
        }
    }

    #[test]
    fn no_path_leads_out_of_the_directory() {
        let outer = tempfile::tempdir().expect("a directory");
        let root = outer.path().join("public");
        std::fs::create_dir_all(root.join("sub")).expect("made");
        for file in ["public/a b.txt", "public/sub/index.html", "secret"] {
            std::fs::write(outer.path().join(file), "x").expect("written");
        }
        std::os::unix::fs::symlink("../secret", root.join("out")).expect("linked");
        std::os::unix::fs::symlink("sub/index.html", root.join("in")).expect("linked");
        let (ended, _) = tokio::sync::mpsc::unbounded_channel();
        let root = std::fs::canonicalize(root).expect("there");
        let files = Files { root: root.clone(), _ended: ended };
        let found =
            |path: &str| files.find(path).map(|path| path.strip_prefix(&root).expect("below").to_owned());
        assert_eq!(found("/a%20b.txt"), Some("a b.txt".into()));
        for path in ["/sub", "/sub/", "/sub/index.html", "//sub/./index.html", "/in"] {
            assert_eq!(found(path), Some("sub/index.html".into()), "{path}");
        }
        for path in ["/", "/none", "/../secret", "/%2e%2e/secret", "/sub/../../secret", "/out", "/a%00"] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
