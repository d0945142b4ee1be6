//! `${NAME}` in stack files, as faas-cli understands it.
//!
//! `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:=default}`, `${NAME=default}`; a default may hold
//! further expressions. A variable that is set to nothing has its default too. `$NAME` without braces stays
//! as it is, and `$${` is a `${` that stays. The text is replaced before it is read as YAML.

use std::collections::BTreeSet;

/// Looks up what `${NAME}` stands for.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expressions within defaults may be this deep.
const MAX_DEPTH: usize = 16;

/// The text with its expressions replaced, and the variables that were missed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Substituted {
    pub(super) text: String,
    /// Variables that are not set and have no default: they were taken as empty.
    pub(super) missing: BTreeSet<String>,
}

/// Replaces all expressions in `text`.
pub(super) fn substitute(text: &str, variable: Variables<'_>, limit: usize) -> Result<Substituted, String> {
    let mut scanner = Scanner { variable, limit, missing: BTreeSet::new() };
    let text = scanner.run(text, 0)?;
    Ok(Substituted { text, missing: scanner.missing })
}

struct Scanner<'a> {
    variable: Variables<'a>,
    limit: usize,
    missing: BTreeSet<String>,
}

impl Scanner<'_> {
    fn run(&mut self, text: &str, depth: usize) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(format!("expressions are nested more than {MAX_DEPTH} deep"));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            if let Some(before) = rest[..start].strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            out.push_str(&rest[..start]);
            let inside = &rest[start + 2..];
            let end = closing(inside).ok_or_else(|| {
                format!("{:?} has no closing brace", rest[start..].chars().take(40).collect::<String>())
            })?;
            out.push_str(&self.value(&inside[..end], depth)?);
            rest = &inside[end + 1..];
            if out.len() > self.limit {
                return Err(format!("it is larger than {} bytes with its variables filled in", self.limit));
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&mut self, expression: &str, depth: usize) -> Result<String, String> {
        let end =
            expression.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(expression.len());
        let (name, operation) = expression.split_at(end);
        let unknown = || {
            format!(
                "${{{expression}}} is not understood: write ${{NAME}} or ${{NAME:-default}}, or $${{ for a literal ${{"
            )
        };
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(unknown());
        }
        let default = match operation {
            "" => None,
            _ => Some(
                [":-", ":=", "-", "="]
                    .iter()
                    .find_map(|sign| operation.strip_prefix(sign))
                    .ok_or_else(unknown)?,
            ),
        };
        match ((self.variable)(name).filter(|value| !value.is_empty()), default) {
            (Some(value), _) => Ok(value),
            (None, Some(default)) => self.run(default, depth + 1),
            (None, None) => {
                if (self.variable)(name).is_none() {
                    self.missing.insert(name.to_owned());
                }
                Ok(String::new())
            }
        }
    }
}

/// Where the brace is that closes the expression that `text` begins in.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' if index > 0 && text.as_bytes()[index - 1] == b'$' => open += 1,
            b'}' if open == 0 => return Some(index),
            b'}' => open -= 1,
            b'\n' => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<Substituted, String> {
        let variable = |name: &str| match name {
            "TAG" => Some("1.2".to_owned()),
            "EMPTY" => Some(String::new()),
            "ODD" => Some("${TAG}".to_owned()),
            _ => None,
        };
        substitute(text, &variable, 100)
    }

    #[test]
    fn variables_and_defaults() {
        for (text, expected) in [
            ("plain $TAG $ {TAG} }", "plain $TAG $ {TAG} }"),
            ("a:${TAG}-${TAG}", "a:1.2-1.2"),
            ("${TAG:-x}", "1.2"),
            ("${NONE:-x y}", "x y"),
            ("${NONE-x}${NONE:=y}${NONE=z}", "xyz"),
            ("${EMPTY:-x}|${EMPTY}", "x|"),
            ("${NONE:-}", ""),
            ("${NONE:-${TAG}}", "1.2"),
            ("${NONE:-${EMPTY:-deep}/x}", "deep/x"),
            ("$${TAG} $$${TAG}", "${TAG} $${TAG}"),
            ("${ODD}", "${TAG}"),
            ("ü${TAG}ß", "ü1.2ß"),
        ] {
            let got = run(text).expect(text);
            assert_eq!(got.text, expected, "{text}");
            assert!(got.missing.is_empty(), "{text}");
        }
    }

    #[test]
    fn missing_variables_are_empty_and_named() {
        let got = run("[${NONE}${NONE}${OTHER}${EMPTY}]").expect("valid");
        assert_eq!(got.text, "[]");
        assert_eq!(got.missing.into_iter().collect::<Vec<_>>(), ["NONE", "OTHER"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_shows_it() {
        for (text, part) in [
            ("${}", "${} is not understood"),
            ("${1A}", "${1A} is not understood"),
            ("${TAG^^}", "${TAG^^} is not understood"),
            ("${TAG:?no}", "is not understood"),
            ("${TAG", "no closing brace"),
            ("${TAG\n}", "no closing brace"),
            ("${NONE:-${TAG}", "no closing brace"),
        ] {
            let error = run(text).expect_err(text);
            assert!(error.contains(part), "{text:?} gave {error:?}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(20), "}".repeat(20));
        assert!(run(&deep).expect_err("deep").contains("nested"));
        assert!(run(&"${TAG}".repeat(40)).expect_err("long").contains("larger than 100"));
    }
}
