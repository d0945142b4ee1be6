//! `${NAME}` in stack files, as faas-cli understands it: the expressions of drone/envsubst 1.0, which is part of it.
//!
//! `docs/cli.md` lists them. The text is replaced before it is read as YAML. `$$` is a dollar, and a backslash before a
//! slash or another backslash goes; both hold in the text and in the parts of a replacement, not in a default. `$NAME`
//! without braces stays as it is. `${NAME-default}` is understood here alone.

use std::collections::BTreeSet;

use super::glob::Glob;

/// Looks up what `${NAME}` stands for.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expressions within expressions may be this deep.
const MAX_DEPTH: usize = 16;
/// Characters of an expression that an error shows.
const SHOWN: usize = 60;
/// Signs between a variable and its default.
const DEFAULTS: [&str; 6] = [":-", ":=", ":?", ":+", "=", "-"];

/// The text with its expressions replaced, and the variables that were missed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Substituted {
    pub(super) text: String,
    /// Variables that are not set and have no default: they were taken as empty.
    pub(super) missing: BTreeSet<String>,
}

/// Replaces all expressions in `text`.
pub(super) fn substitute(text: &str, variable: Variables<'_>, limit: usize) -> Result<Substituted, String> {
    let mut reader = Reader { rest: text, variable, limit, missing: BTreeSet::new() };
    let mut out = String::with_capacity(text.len());
    loop {
        out.push_str(&reader.word(|_| true, true));
        let expression = reader.rest;
        if !reader.eat("${") {
            return Ok(Substituted { text: out, missing: reader.missing });
        }
        let value = reader.value(0).map_err(|reason| {
            let end = expression.find(['}', '\n']).map_or(expression.len(), |end| end + 1);
            let shown: String = expression[..end].trim_end().chars().take(SHOWN).collect();
            format!("{shown:?} is not understood: {reason}; $${{ is a literal ${{")
        })?;
        out.push_str(&value);
        if out.len() > limit {
            return Err(too_large(limit));
        }
    }
}

/// Escapes a text so that [`substitute`] gives it back as it is.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        out.push(char);
        if matches!((char, chars.peek()), ('$', Some('$' | '{')) | ('\\', Some('\\' | '/'))) {
            out.push(char);
        }
    }
    out
}

fn too_large(limit: usize) -> String {
    format!("it is larger than {limit} bytes with its variables filled in")
}

fn is_not_closing(char: char) -> bool {
    char != '}'
}

struct Reader<'a> {
    /// The text that is not read yet.
    rest: &'a str,
    variable: Variables<'a>,
    limit: usize,
    missing: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn close(&mut self) -> Result<(), String> {
        if self.eat("}") {
            return Ok(());
        }
        Err(match self.rest.chars().next() {
            None => "it has no closing brace".to_owned(),
            Some(other) => format!("it goes on with {other:?} where its closing brace should be"),
        })
    }

    /// Takes the characters that are accepted, `most` at most.
    fn take(&mut self, accepts: impl Fn(char) -> bool, most: usize) -> &'a str {
        let end = self.rest.char_indices().enumerate();
        let mut end = end.filter(|(count, (_, char))| *count == most || !accepts(*char));
        let end = end.next().map_or(self.rest.len(), |(_, (index, _))| index);
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// Takes text up to an expression or a character that is not accepted.
    fn word(&mut self, accepts: fn(char) -> bool, has_escapes: bool) -> String {
        let mut word = String::new();
        let mut chars = self.rest.chars();
        while !self.rest.starts_with("${")
            && let Some(first) = chars.next()
        {
            let second = chars.clone().next();
            let is_escape = matches!((first, second), ('$', Some('$')) | ('\\', Some('/' | '\\')));
            if has_escapes && is_escape {
                word.extend(chars.next());
            } else if accepts(first) {
                word.push(first);
            } else {
                break;
            }
            self.rest = chars.as_str();
        }
        word
    }

    /// Reads a part of an expression: one that is nested, or a word that is not empty.
    fn part(&mut self, accepts: fn(char) -> bool, has_escapes: bool, depth: usize) -> Result<String, String> {
        if self.eat("${") {
            return self.value(depth + 1);
        }
        let word = self.word(accepts, has_escapes);
        match (word.is_empty(), self.rest.chars().next()) {
            (false, _) => Ok(word),
            (true, None) => Err("it has no closing brace".to_owned()),
            (true, Some(next)) => Err(format!("a part of it is missing before {next:?}")),
        }
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let name = self.take(|char| char.is_alphanumeric() || char == '_', usize::MAX);
        if name.is_empty() {
            return Err(
                "it does not begin with the name of a variable, as in ${NAME} or ${NAME:-default}".to_owned()
            );
        }
        Ok(name)
    }

    /// Looks a variable up; one that is not set is empty, and noted.
    fn look_up(&mut self, name: &str) -> String {
        (self.variable)(name).unwrap_or_else(|| {
            self.missing.insert(name.to_owned());
            String::new()
        })
    }

    /// Reads the rest of an expression, from the name on, as the text that it stands for.
    fn value(&mut self, depth: usize) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(format!("expressions are nested more than {MAX_DEPTH} deep"));
        }
        if self.eat("#") {
            let name = self.name()?;
            self.close()?;
            return Ok(self.look_up(name).len().to_string());
        }
        let name = self.name()?;
        if DEFAULTS.into_iter().any(|sign| self.eat(sign)) {
            return self.or_default(name, depth);
        }
        let value = self.look_up(name);
        match self.rest.chars().next() {
            Some(',' | '^') => self.cased(&value),
            Some(':') => self.substring(value, depth),
            Some('#' | '%') => self.trimmed(value, depth),
            Some('/') => self.replaced(value, depth),
            _ => self.close().map(|()| value),
        }
    }

    fn or_default(&mut self, name: &str, depth: usize) -> Result<String, String> {
        let value = (self.variable)(name).filter(|value| !value.is_empty());
        let missing = value.is_some().then(|| self.missing.clone());
        let mut default = String::new();
        while !self.eat("}") {
            default.push_str(&self.part(is_not_closing, false, depth)?);
            if default.len() > self.limit {
                return Err(too_large(self.limit));
            }
        }
        // What is missing in a default that is not used is not missed.
        self.missing = missing.unwrap_or_else(|| std::mem::take(&mut self.missing));
        Ok(value.unwrap_or(default))
    }

    fn cased(&mut self, value: &str) -> Result<String, String> {
        let sign = self.take(|char| matches!(char, ',' | '^'), 2);
        self.close()?;
        let first = value.chars().next().map_or(0, char::len_utf8);
        let (first, others) = value.split_at(first);
        Ok(match sign {
            "^" => upper(first) + others,
            "^^" => upper(value),
            "," => lower(first) + others,
            ",," => lower(value),
            _ => value.to_owned(),
        })
    }

    /// Cuts bytes out. A position that is no number changes nothing, as in a shell.
    fn substring(&mut self, value: String, depth: usize) -> Result<String, String> {
        self.eat(":");
        let offset = self.part(|char| !matches!(char, ':' | '}'), false, depth)?;
        let mut length = None;
        if self.take(|char| char == ':', usize::MAX).is_empty() {
            self.close()?;
        } else {
            length = Some(self.part(is_not_closing, false, depth)?);
            self.close()?;
        }
        let size = i64::try_from(value.len()).unwrap_or(i64::MAX);
        let Ok(offset) = offset.parse::<i64>() else { return Ok(value) };
        let start = if offset < 0 { size.saturating_add(offset).max(0) } else { offset };
        let end = match length.map(|length| length.parse::<i64>()) {
            None => size,
            Some(Err(_)) => return Ok(value),
            Some(Ok(length)) => start.saturating_add(length).min(size),
        };
        let start = if end == size { start.min(size) } else { start };
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let part = range.and_then(|(start, end)| value.get(start..end));
        part.map(str::to_owned)
            .ok_or_else(|| "its length is negative, or it cuts through a character".to_owned())
    }

    fn trimmed(&mut self, value: String, depth: usize) -> Result<String, String> {
        let first = self.rest.chars().next();
        let sign = self.take(|char| Some(char) == first, 2);
        let pattern = self.part(is_not_closing, false, depth)?;
        self.close()?;
        let length = |value: &str, pattern: &str| {
            let glob = Glob::parse(pattern)?;
            if sign.len() == 1 { glob.shortest(value) } else { glob.longest(value) }
        };
        if sign.starts_with('#') {
            return Ok(value[length(&value, &pattern).unwrap_or(0)..].to_owned());
        }
        // As there, the pattern is read backwards, and so has no classes and escapes.
        let backwards = |text: &str| text.chars().rev().collect::<String>();
        let cut = length(&backwards(&value), &backwards(&pattern)).unwrap_or(0);
        Ok(value[..value.len() - cut].to_owned())
    }

    fn replaced(&mut self, value: String, depth: usize) -> Result<String, String> {
        self.eat("/");
        let place = self.take(|char| matches!(char, '/' | '#' | '%'), 1);
        let from = self.part(|char| char != '/', true, depth)?;
        if self.take(|char| char == '/', usize::MAX).is_empty() {
            return Err("there is no / between what is replaced and the replacement".to_owned());
        }
        let to = match self.rest.starts_with('}') {
            true => None,
            false => Some(self.part(is_not_closing, true, depth)?),
        };
        self.close()?;
        let is_at_its_place = match place {
            "#" => to.is_some() && value.starts_with(&from),
            "%" => to.is_some() && value.ends_with(&from),
            _ => true,
        };
        if !is_at_its_place {
            return Ok(value);
        }
        let to = to.unwrap_or_default();
        if place == "/" {
            if value.matches(&from).count().saturating_mul(to.len()) > self.limit {
                return Err(too_large(self.limit));
            }
            return Ok(value.replace(&from, &to));
        }
        if place == "%" {
            return Ok(value[..value.len() - from.len()].to_owned() + &to);
        }
        Ok(value.replacen(&from, &to, 1))
    }
}

/// Maps characters that have one counterpart: `ß` stays.
fn upper(text: &str) -> String {
    text.chars().map(|char| only(char.to_uppercase()).unwrap_or(char)).collect()
}

fn lower(text: &str) -> String {
    text.chars().map(|char| only(char.to_lowercase()).unwrap_or(char)).collect()
}

fn only(mut chars: impl Iterator<Item = char>) -> Option<char> {
    chars.next().filter(|_| chars.next().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(variables: &[(&str, &str)], text: &str) -> Result<Substituted, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        substitute(text, &variable, 200)
    }

    /// The table of drone/envsubst 1.0.3 (`eval_test.go`), and behind it the cases of its `funcs_test.go` and
    /// `parse_test.go`, with what that version makes of them.
    #[test]
    fn expressions_stand_for_what_envsubst_says() {
        let path = "/home/bozo/ideas/thoughts.for.today";
        let (letters, digits) = ("abcdEFGH28ij", "123456789123456789");
        for (name, value, text, expected) in [
            ("", "", "abcdEFGH28ij", "abcdEFGH28ij"),
            ("v", letters, "${#v}", "12"),
            ("v", letters, "${v^}", "AbcdEFGH28ij"),
            ("v", letters, "${v^^}", "ABCDEFGH28IJ"),
            ("v", "ABCDEFGH28IJ", "${v,}", "aBCDEFGH28IJ"),
            ("v", "ABCDEFGH28IJ", "${v,,}", "abcdefgh28ij"),
            ("v", path, "${v:11}", "ideas/thoughts.for.today"),
            ("v", path, "${v:11:5}", "ideas"),
            ("v", "abc", "${v=xyz}", "abc"),
            ("", "", "${v=xyz}", "xyz"),
            ("d", "foo", "something ${v=${d}}", "something foo"),
            ("d", "foo1", "foo: ${v=${d}-suffix}", "foo: foo1-suffix"),
            ("d", "foo1", "foo: ${v=prefix${d}-suffix}", "foo: prefixfoo1-suffix"),
            ("", "", "${v:=xyz}", "xyz"),
            ("z", "abcABC123ABCabc", "${z/%abc/XYZ}", "abcABC123ABCXYZ"),
            ("z", "abcABC123ABCabc", "${z/#abc/XYZ}", "XYZABC123ABCabc"),
            ("z", "abcABC123ABCabc", "${z//abc/xyz}", "xyzABC123ABCxyz"),
            ("z", "abcABC123ABCabc", "${z/abc/xyz}", "xyzABC123ABCabc"),
            ("f", "bash.string.txt", "${f#*.}", "string.txt"),
            ("f", "path/to/file", "${f#*/}", "to/file"),
            ("f", "/path/to/file", "${f#*/}", "path/to/file"),
            ("f", "bash.string.txt", "${f##*.}", "txt"),
            ("f", "path/to/file", "${f##*/}", "file"),
            ("f", "/path/to/file", "${f##*/}", "file"),
            ("f", "bash.string.txt", "${f%.*}", "bash.string"),
            ("f", "bash.string.txt", "${f%%.*}", "bash"),
            ("v", letters, "${x=${v^^}}", "ABCDEFGH28IJ"),
            ("v", letters, "$${v}", "${v}"),
            (
                "v",
                letters,
                "some text ${v}$${var$${v}$v${v}",
                "some text abcdEFGH28ij${var${v}$vabcdEFGH28ij",
            ),
            ("d", "foo", "something $${var=${d}}", "something ${var=foo}"),
            ("z", "foo/bar", r"${z/\//-}", "foo-bar"),
            ("z", "foo/bar/baz", r"${z//\//-}", "foo-bar-baz"),
            ("z", "foo.bar", "${z/./}", "foobar"),
            // Substrings.
            ("v", digits, "${v:0:8}|${v:1:8}|${v:9}", "12345678|23456789|123456789"),
            ("v", digits, "${v:9:50}", "123456789"),
            ("n", "-2", "${n:${n}:1}|${n:${n}}|${n:-3:2}", "-|-2|-2"),
            ("v", "12345678", "[${v:9:1}${v:8}${v:99}]", "[]"),
            ("v", "12345678", "${v:x}|${v:1:x}|${v: 1}", "12345678|12345678|12345678"),
            ("n", "3", "${n:${n}}|${n:0:${n}}", "|3"),
            // Words that are empty, one or several.
            ("v", "Hello", "${v:-Hola}${x:-}${x:-a${v}-${y:-b}c}", "HelloaHello-bc"),
            ("", "", "${x:?word} ${x:+word} ${x:-a:b=c}", "word word a:b=c"),
            ("v", "set", "${v:?word} ${v:+word}", "set set"),
            ("v", "", "${v:-x}|${v=x}|${v}", "x|x|"),
            // Patterns.
            ("v", "a/b", r"${v#?}|${v#[a-c]}|${v#[^b]}|${v#\a}", "/b|/b|/b|/b"),
            ("v", "a.b", "${v#[}|${v#[]}|${v#x}|${v##*}|${v%%*}", "a.b|a.b|a.b||"),
            ("v", "a1", "${v%?}|${v%[0-9]}", "a|a1"),
            ("v", "x$%:*{", "${v#$%:*{}", "x$%:*{"),
            ("p", "*.", "${q=${p}}|${p#${p}}", "*.|"),
            // Replacements.
            ("v", "a/b", r"${v/\//\/\\}|${v//[ab]/x}|${v/a//b}", r"a/\b|a/b|b/b"),
            ("v", "abc", "${v/#b/x}${v/%b/x}${v/#a/}${v/%c/}", "abcabcabcabc"),
            ("v", "abc", "${v//${x}/-}|${v/${x}/-}", "-a-b-c-|-abc"),
            ("v", "abc", "${v/b/${v}}|${v/${v}/x}", "aabcc|x"),
            ("v", "a\nb", "${v/\n/,}${x:-1\n2}", "a,b1\n2"),
            // Signs that are not what they seem.
            ("v", "Ab", "${v^,}|${v,^}|${9:-nine}", "Ab|Ab|nine"),
            ("v", "ßü", "${v^^}${#v}", "ßÜ4"),
            ("", "", "}text http://github.com $string $ {x} $", "}text http://github.com $string $ {x} $"),
            ("", "", "$$string $$$$ $$$", "$string $$ $$"),
            ("v", "1", "$$${v} $$$${v}", "$1 $${v}"),
            ("", "", r"\\.\pipe \/x \n \\\\", r"\.\pipe /x \n \\"),
            ("", "", r"${x:-a$$b\\c}", r"a$$b\\c"),
            ("v", "1", "${x:-$${v}}", "$1"),
            ("v", "${x}$$", "${v}", "${x}$$"),
        ] {
            let got = run(&[(name, value)], text).expect(text);
            assert_eq!(got.text, expected, "{text} with {name}={value}");
        }
    }

    #[test]
    fn a_default_behind_a_dash_alone_is_understood_here_although_envsubst_refuses_it() {
        assert_eq!(run(&[("A", "")], "${A-x}${B-y}").expect("valid").text, "xy");
    }

    #[test]
    fn missing_variables_are_empty_and_named() {
        let got =
            run(&[("A", "x")], "[${NONE}${NONE}${OTHER^}${#THIRD}${A:-${UNUSED}}${B:-}]").expect("valid");
        assert_eq!(got.text, "[0x]");
        assert_eq!(got.missing.into_iter().collect::<Vec<_>>(), ["NONE", "OTHER", "THIRD"]);
    }

    #[test]
    fn malformed_expressions_are_refused_with_the_expression_and_the_reason() {
        for (text, part) in [
            ("${}", "\"${}\" is not understood: it does not begin with the name"),
            ("${ A}", "name of a variable"),
            ("${#}", "name of a variable"),
            ("${A", "no closing brace"),
            ("x ${A\n}", "\"${A\" is not understood: it goes on with '\\n'"),
            ("${A!x}", "it goes on with '!'"),
            ("${A^^^}", "it goes on with '^'"),
            ("${A+x}", "it goes on with '+'"),
            ("${A:-${B}", "no closing brace"),
            ("${A:-${B!}}", "it goes on with '!'"),
            ("${A#}", "a part of it is missing before '}'"),
            ("${A#p${B}}", "it goes on with '$'"),
            ("${A:}", "a part of it is missing"),
            ("${A:1:}", "a part of it is missing"),
            ("${A:1:-1}", "its length is negative"),
            ("${Ü:1:2}", "cuts through a character"),
            ("${A/b}", "there is no /"),
            ("${A///x}", "a part of it is missing"),
            ("${A/b/c${B}}", "it goes on with '$'"),
        ] {
            let error = run(&[("A", "abc"), ("Ü", "äöü")], text).expect_err(text);
            assert!(error.contains(part) && error.contains("$${ is a literal ${"), "{text:?} gave {error:?}");
            assert!(!error.contains("abc"), "the value is shown: {error}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(20), "}".repeat(20));
        assert!(run(&[], &deep).expect_err("deep").contains("nested"));
    }

    #[test]
    fn what_is_filled_in_has_a_bound() {
        let long = "x".repeat(150);
        for text in ["${L}${L}", "${A:-${L}${L}}", "${L//x/abcdef}"] {
            assert!(run(&[("L", &long)], text).expect_err(text).contains("larger than 200"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_text_stands_for_itself(text in r"([$\\{}/a]|\PC){0,20}") {
            let got = substitute(&escape(&text), &|_| Some("value".to_owned()), 1000).expect("valid");
            prop_assert_eq!(got.text, text);
        }
    }
}
