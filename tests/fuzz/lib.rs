//! Fuzz targets: one function for each parser of what comes from outside, with the rules that hold for any input.
//!
//! `tests/fuzz/run` looks for inputs that break a rule, with libFuzzer; `cargo test` replays those under `corpus/`. An
//! input that broke a rule is put there when the rule holds again.

use std::io::Write as _;
use std::time::Duration;

use http1::{Decoder, HeadScan, RequestHead, ResponseHead, slots};
use model::config::Config;
use model::function::{FunctionKey, FunctionName, FunctionSpec, HandlerDigest, ImageRef};
use model::{stack, wire};
use schedule::Schedule;
use sha2::{Digest as _, Sha256};

/// A name, as of a folder under `corpus/`, and the function that takes any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 13] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked_body", chunked_body),
    ("accept", accept),
    ("deployment", deployment),
    ("stack_file", stack_file),
    ("configuration", configuration),
    ("schedule", schedule),
    ("quantity", quantity),
    ("image_reference", image_reference),
    ("function_name", function_name),
    ("sealed_secrets", sealed_secrets),
    ("handler_archive", handler_archive),
];

/// Returns the target of that name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(other, _)| *other == name).map(|(_, run)| *run)
}

fn request_head(bytes: &[u8]) {
    let mut room = slots();
    let parsed = RequestHead::parse(bytes, &mut room);
    let Ok(Some((head, length))) = &parsed else { return };
    assert!(HeadScan::default().is_due(&bytes[..*length]), "a head was read that does not end");
    assert!(bytes[..*length].ends_with(b"\r\n\r\n"), "a head ends otherwise than with an empty line");
    for end in [length - 1, length / 2] {
        let mut room = slots();
        let cut = RequestHead::parse(&bytes[..end], &mut room);
        assert!(!matches!(cut, Ok(Some((_, shorter))) if shorter > end), "more was read than there is");
    }
    // Written as it was understood, it is understood as the same.
    let version = if head.http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut again = format!("{} {} {version}\r\n", head.method, head.target).into_bytes();
    for header in head.headers {
        again.extend_from_slice(header.name.as_bytes());
        again.extend_from_slice(b": ");
        again.extend_from_slice(header.value);
        again.extend_from_slice(b"\r\n");
    }
    again.extend_from_slice(b"\r\n");
    let mut room = slots();
    let (same, _) = RequestHead::parse(&again, &mut room).expect("a head").expect("a whole head");
    assert_eq!(format!("{same:?}"), format!("{head:?}"));
}

fn response_head(bytes: &[u8]) {
    for to_head in [false, true] {
        let mut room = slots();
        if let Ok(Some((head, length))) = ResponseHead::parse(bytes, &mut room, to_head) {
            assert!(length <= bytes.len() && (100..=999).contains(&head.code));
        }
    }
}

/// Decodes a body that comes in pieces of a length: its data, whether it ended, and whether it is malformed.
fn decoded(bytes: &[u8], piece: usize) -> (Vec<u8>, bool, bool) {
    let (mut decoder, mut data) = (Decoder::chunked(), Vec::new());
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() && !decoder.is_done() {
            let Ok(found) = decoder.decode(piece) else { return (data, false, true) };
            data.extend_from_slice(&piece[found.skip..found.skip + found.data]);
            assert!(found.skip + found.data > 0 || found.end, "nothing was used of {} bytes", piece.len());
            piece = &piece[found.skip + found.data..];
        }
    }
    (data, decoder.is_done(), false)
}

fn chunked_body(bytes: &[u8]) {
    let whole = decoded(bytes, usize::MAX);
    for piece in [1, 7] {
        assert_eq!(decoded(bytes, piece), whole, "in pieces of {piece}");
    }
    if whole.1 {
        let mut again = Vec::new();
        http1::push_chunk(&mut again, &whole.0);
        http1::end_chunks(&mut again);
        assert_eq!(decoded(&again, usize::MAX), whole);
    }
}

fn accept(bytes: &[u8]) {
    http1::wants_json(bytes);
}

fn deployment(bytes: &[u8]) {
    let Ok(body) = serde_json::from_slice::<wire::Deployment>(bytes) else { return };
    let Ok(spec) = FunctionSpec::try_from(&body) else { return };
    let again = serde_json::to_vec(&body).expect("text");
    let again: wire::Deployment = serde_json::from_slice(&again).expect("what was written is read");
    assert_eq!(FunctionSpec::try_from(&again).expect("what was valid is valid"), spec);
}

fn stack_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let variable = |name: &str| name.len().is_multiple_of(2).then(|| format!("value of {name}"));
    for variable in [None, Some(&variable as &dyn Fn(&str) -> Option<String>)] {
        let _ = stack::parse(text, &stack::Files::Nowhere, &|_| true, variable);
    }
}

fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Config::parse(text, |_| None);
}

fn schedule(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(schedule) = Schedule::parse(text) else { return };
    let Ok(timetable) = schedule.timetable() else { return };
    let now = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
    if let Some(next) = timetable.next(now) {
        assert!(next > now, "a run is not in the past: {next}");
    }
}

fn quantity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = quantity::Memory::parse_any(text);
    let _ = quantity::Cpu::parse(text);
    if let Ok(time) = quantity::parse_duration(text) {
        assert!(time <= Duration::from_secs(87_600 * 3600));
    }
    if let Ok(memory) = quantity::Memory::parse(text) {
        assert_eq!(quantity::Memory::parse(&memory.to_string()).expect("its own text"), memory);
    }
}

fn image_reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(image) = text.parse::<ImageRef>() else { return };
    let canonical = image.canonical();
    assert_eq!(canonical.parse::<ImageRef>().expect("its own text").canonical(), canonical);
}

fn function_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = text.parse::<FunctionName>() {
        assert_eq!(name.as_str(), text);
    }
    let _ = FunctionKey::parse(text);
}

fn sealed_secrets(bytes: &[u8]) {
    // Whoever guesses a passphrase has found more than this looks for.
    assert!(age::open(bytes, "no passphrase of any file").is_err());
}

fn handler_archive(bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("a directory");
    let archive = directory.path().join("archive");
    std::fs::File::create(&archive).expect("a file").write_all(bytes).expect("written");
    let state = directory.path().join("state");
    std::fs::create_dir(&state).expect("a directory");
    let handlers = host::bundles::Handlers::open(&state, 1 << 20).expect("opened");
    let digest = HandlerDigest::of(&Sha256::digest(bytes).into());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // Refused or kept, nothing is written beside the directory.
    let _ = runtime.block_on(handlers.keep(digest, archive.clone()));
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("read").flatten().collect();
    assert!(left.iter().all(|entry| ["archive", "state"].iter().any(|name| entry.file_name() == **name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    #[test]
    fn every_target_takes_every_input_of_its_corpus() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, run) in TARGETS {
            let folder = corpus.join(name);
            let files =
                std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            let mut count = 0;
            for file in files.flatten() {
                let bytes = std::fs::read(file.path()).expect("read");
                println!("{}", file.path().display());
                run(&bytes);
                count += 1;
            }
            assert!(count > 0, "there is no input for {name}");
        }
    }
}
