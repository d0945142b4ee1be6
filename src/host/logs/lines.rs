//! Cuts a stream of bytes into lines, whatever the bytes are.
//!
//! Invariant: at most `limit + 1` bytes are held, and none between two lines.

use std::borrow::Cow;

/// The unfinished line of one stream.
#[derive(Debug)]
pub(super) struct Splitter {
    limit: usize,
    held: Vec<u8>,
    /// Bytes of the unfinished line, those that were not kept included.
    length: u64,
}

impl Splitter {
    /// A stream whose lines are cut after `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, held: Vec::new(), length: 0 }
    }

    /// Takes the next line off `input`, without its end. When there is none, all of `input` has
    /// been taken, and what it was the beginning of is kept.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Cow<'a, str>> {
        let bytes = *input;
        let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
            self.hold(bytes);
            *input = &[];
            return None;
        };
        *input = &bytes[end + 1..];
        if self.length == 0 {
            let line = &bytes[..end];
            return Some(text(without_cr(line), line.len() as u64, self.limit));
        }
        self.hold(&bytes[..end]);
        self.finish().map(Cow::Owned)
    }

    /// Whether a line has begun.
    pub(super) fn is_partial(&self) -> bool {
        self.length > 0
    }

    /// Ends the line that has begun, if one has.
    pub(super) fn finish(&mut self) -> Option<String> {
        if self.length == 0 {
            return None;
        }
        let length = std::mem::take(&mut self.length);
        let held = std::mem::take(&mut self.held);
        Some(text(without_cr(&held), length, self.limit).into_owned())
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        // One byte over the limit, so that a line of just `limit` bytes may end in CR LF.
        let room = (self.limit + 1).saturating_sub(self.held.len());
        self.held.extend_from_slice(&bytes[..room.min(bytes.len())]);
    }
}

/// The first `limit` bytes of a text, or one to three less where that would cut a character.
pub(super) fn beginning(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The kept bytes as text, with a mark when they are not the whole line.
fn text(line: &[u8], length: u64, limit: usize) -> Cow<'_, str> {
    if line.len() <= limit && length <= line.len() as u64 + 1 {
        return String::from_utf8_lossy(line);
    }
    let kept = String::from_utf8_lossy(whole_characters(&line[..limit.min(line.len())]));
    Cow::Owned(format!("{kept} [cut: {length} bytes]"))
}

/// Without the beginning of a character that a cut left at the end.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needs = match bytes[at] {
            0b1000_0000..=0b1011_1111 => continue,
            0b1100_0000..=0b1101_1111 => 2,
            0b1110_0000..=0b1110_1111 => 3,
            0b1111_0000..=0b1111_0111 => 4,
            _ => 1,
        };
        return if needs > back { &bytes[..at] } else { bytes };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines of `pieces`, with the last one ended.
    fn lines(limit: usize, pieces: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::new(limit);
        let mut lines = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while let Some(line) = splitter.next(&mut rest) {
                lines.push(line.into_owned());
            }
            assert!(rest.is_empty());
            assert!(splitter.held.len() <= limit + 1);
        }
        lines.extend(splitter.finish());
        lines
    }

    #[test]
    fn a_line_ends_at_its_newline_wherever_the_pieces_end() {
        assert_eq!(lines(99, &[b"one\ntw", b"o\r\n", b"\n", b"three"]), ["one", "two", "", "three"]);
        assert_eq!(lines(99, &[b"a\r", b"\nb"]), ["a", "b"]);
        assert_eq!(lines(99, &[b"a\rb\0c\x1b[1m\n"]), ["a\rb\0c\x1b[1m"]);
    }

    #[test]
    fn a_long_line_is_cut_with_its_length_and_the_next_one_is_whole() {
        assert_eq!(lines(4, &[b"12345\nab\n"]), ["1234 [cut: 5 bytes]", "ab"]);
        assert_eq!(lines(4, &[b"12", b"3456", b"78\nab"]), ["1234 [cut: 8 bytes]", "ab"]);
        assert_eq!(lines(4, &[b"1234\r\n", b"12", b"34\r\n"]), ["1234", "1234"]);
        assert_eq!(lines(4, &[b"12345"]), ["1234 [cut: 5 bytes]"]);
    }

    #[test]
    fn ten_megabytes_without_a_newline_are_one_cut_line() {
        let piece = [b'x'; 65536];
        let lines = lines(1024, &[&piece[..]; 160]);
        assert_eq!(lines, [format!("{} [cut: 10485760 bytes]", "x".repeat(1024))]);
    }

    #[test]
    fn a_cut_leaves_no_half_of_a_character_and_bad_bytes_are_replaced() {
        assert_eq!(lines(4, &["aaaé!".as_bytes()]), ["aaa [cut: 6 bytes]"]);
        assert_eq!(lines(5, &["aaaé!".as_bytes()]), ["aaaé [cut: 6 bytes]"]);
        assert_eq!(lines(6, &["aaa🦀".as_bytes()]), ["aaa [cut: 7 bytes]"]);
        assert_eq!(lines(99, &[b"a\xffb\xc3\n"]), ["a\u{fffd}b\u{fffd}"]);
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
                                    cuts in proptest::collection::vec(0usize..200, 0..8), limit in 1usize..40) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(lines(limit, &pieces), lines(limit, &[&bytes]));
        }
    }
}
