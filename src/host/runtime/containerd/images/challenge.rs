//! Challenges of a host (`WWW-Authenticate`), in every form that RFC 9110 has.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// One way of access that a host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    scheme: String,
    /// Names in lower case, and values.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Returns the challenges of an answer: of several headers, and several in one.
    pub(super) fn all(headers: &HeaderMap) -> Vec<Self> {
        let mut challenges = Vec::new();
        for header in headers.get_all(WWW_AUTHENTICATE) {
            read(&String::from_utf8_lossy(header.as_bytes()), &mut challenges);
        }
        challenges
    }

    /// Returns whether a user's name and password are wanted.
    pub(super) fn is_basic(&self) -> bool {
        self.scheme == "basic"
    }

    /// Returns the address of the server of tokens.
    pub(super) fn realm(&self) -> Option<&str> {
        self.get("realm").filter(|realm| self.scheme == "bearer" && !realm.is_empty())
    }

    /// Returns a parameter that is not empty. The last one counts.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// Reads the challenges of one header. Only what follows tells a scheme from a parameter's name.
fn read(header: &str, challenges: &mut Vec<Challenge>) {
    let is_gap = |c: char| matches!(c, ' ' | '\t' | ',' | ';');
    let is_space = |c: char| matches!(c, ' ' | '\t');
    let mut rest = header.trim_start_matches(is_gap);
    while !rest.is_empty() {
        let end = rest.find(|c| is_gap(c) || c == '=').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let name = name.to_ascii_lowercase();
        let Some(value) = after.trim_start_matches(is_space).strip_prefix('=') else {
            challenges.push(Challenge { scheme: name, parameters: Vec::new() });
            rest = after.trim_start_matches(is_gap);
            continue;
        };
        let value = value.trim_start_matches(is_space);
        let (value, after) = match value.strip_prefix('"') {
            // Without its end, nothing that follows can be told apart.
            Some(quoted) => match unquote(quoted) {
                Some(found) => found,
                None => return,
            },
            None => {
                let (value, after) = value.split_at(value.find(is_gap).unwrap_or(value.len()));
                (value.to_owned(), after)
            }
        };
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((name, value));
        }
        rest = after.trim_start_matches(is_gap);
    }
}

/// Returns the text up to the closing quotation mark, and the rest after it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[position + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(headers: &[&str]) -> Vec<String> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(header.as_bytes()).expect(header));
        }
        Challenge::all(&map)
            .iter()
            .map(|challenge| {
                let parameters = challenge.parameters.iter().map(|(name, value)| format!(" {name}={value}"));
                format!("{}{}", challenge.scheme, parameters.collect::<String>())
            })
            .collect()
    }

    #[test]
    fn challenges_are_read_in_every_form() {
        for (headers, want) in [
            (
                &[r#"Bearer realm="https://a/token?x=1,2",service="r.example",scope="repository:a/b:pull""#]
                    [..],
                &["bearer realm=https://a/token?x=1,2 service=r.example scope=repository:a/b:pull"][..],
            ),
            (&["bearer service=s, realm=\"r\""], &["bearer service=s realm=r"]),
            (&["BEARER\tRealm = \"r\" ,\t SERVICE\t=s"], &["bearer realm=r service=s"]),
            (&["Bearer realm=https://a/token,service=s"], &["bearer realm=https://a/token service=s"]),
            (
                &[r#"Bearer realm="a \"b\" \\c",scope="repository:a:pull,push""#],
                &[r#"bearer realm=a "b" \c scope=repository:a:pull,push"#],
            ),
            (
                &[r#"Basic realm="b", Bearer realm="t",service="s""#],
                &["basic realm=b", "bearer realm=t service=s"],
            ),
            (
                &[r#"Bearer realm="t",service="s",Basic realm="b""#],
                &["bearer realm=t service=s", "basic realm=b"],
            ),
            (&[r#"Basic realm="b""#, r#"Bearer realm="t""#], &["basic realm=b", "bearer realm=t"]),
            (&["Negotiate", "Basic"], &["negotiate", "basic"]),
            (&["Negotiate, Basic realm=x"], &["negotiate", "basic realm=x"]),
            (&["Negotiate dG9rZW4=, Bearer realm=t"], &["negotiate dg9rzw4=", "bearer realm=t"]),
            (&[r#", ,Bearer realm="t",,error="invalid_token","#], &["bearer realm=t error=invalid_token"]),
            (&[r#"Bearer realm="t" service="s""#], &["bearer realm=t service=s"]),
            (&["Bearer realm=\"\",scope=\"\""], &["bearer realm= scope="]),
            (&["Bearer realm=\"ä\""], &["bearer realm=ä"]),
            (&["Bearer realm=\"x", "Basic"], &["bearer", "basic"]),
            (&["realm=\"x\""], &[]),
            (&["", " , "], &[]),
        ] {
            assert_eq!(shown(headers), want, "{headers:?}");
        }
    }
}
