//! Text of others, in a form that cannot drive the terminal.

/// Returns text of others, such as a function's output in an error, in a form that cannot drive the terminal: control
/// characters, other than line breaks and tabs, as `^[` and the like, and marks that change the direction of text by
/// their numbers.
pub(crate) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\0'..='\x1f' => shown.extend(['^', char::from(c as u8 + b'@')]),
            '\x7f' => shown.push_str("^?"),
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                shown.extend(c.escape_unicode());
            }
            _ => shown.push(c),
        }
    }
    shown
}

/// Returns text of others as [`plain`] does, on one line.
pub(crate) fn plain_line(text: &str) -> String {
    plain(&text.replace(['\n', '\r', '\t'], " "))
}

/// Returns a line of output of others as [`plain`] does, but with its colours: these end with the line, and may not
/// conceal anything.
pub(crate) fn coloured(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut shown = plain(parts.next().unwrap_or_default());
    let mut has_colours = false;
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(part.len());
        let (codes, rest) = part.split_at(end);
        match rest.strip_prefix('m') {
            Some(rest) if !conceals(codes) => {
                has_colours = true;
                shown.extend(["\x1b[", codes, "m", &plain(rest)]);
            }
            _ => shown.extend(["^[[", &plain(part)]),
        }
    }
    if has_colours {
        shown.push_str("\x1b[0m");
    }
    shown
}

/// Whether these codes of a terminal's colours hide the text that follows. Those after 38 and 48 number a colour.
fn conceals(codes: &str) -> bool {
    let mut codes = codes.split(';').map(|code| code.trim_start_matches('0'));
    while let Some(code) = codes.next() {
        let colour = match code {
            "8" => return true,
            "38" | "48" => codes.next(),
            _ => None,
        };
        match colour {
            Some("5") => drop(codes.next()),
            Some("2") => drop(codes.nth(2)),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        let text = "a\x1b[2Jb\x1b]0;title\x07\r\x08\x7f\u{9b}8m\u{202e}gpj\tc\nd é";
        let shown = plain(text);
        assert_eq!(shown, "a^[[2Jb^[]0;title^G^M^H^?\\u{9b}8m\\u{202e}gpj\tc\nd é");
        assert_eq!(plain_line("a\tb\r\nc\x1b[2J"), "a b  c^[[2J");
        assert_eq!(coloured("no colours"), "no colours");
        assert_eq!(coloured("\x1b[32mok\x1b[0m\x1b[2J"), "\x1b[32mok\x1b[0m^[[2J\x1b[0m");
        assert_eq!(coloured("\x1b[38;5;8mgrey"), "\x1b[38;5;8mgrey\x1b[0m");
        assert_eq!(coloured("\x1b[48;2;8;8;8mgrey"), "\x1b[48;2;8;8;8mgrey\x1b[0m");
        for hidden in ["\x1b[8mx", "\x1b[1;08mx", "\x1b[38;5;1;8mx", "\x1b[8", "\x1b[", "\x1b"] {
            assert!(!coloured(hidden).contains('\x1b'), "{hidden:?}");
        }
    }
}
