//! Errors as text, without secrets.

/// Returns an error and its causes on one line, for logs and for reasons that are shown.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let part = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
    }
    text
}

/// Returns a URL without the parts that may be secret: user and password, query and fragment.
pub fn public_url(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_urls_have_no_credentials_query_or_fragment() {
        for (url, shown) in [
            ("https://r.example/v2/a?X-Amz-Signature=s#f", "https://r.example/v2/a"),
            ("https://me:secret@r.example:5000/a/@b", "https://r.example:5000/a/@b"),
            ("http://token@h?x", "http://h"),
            ("http://a@b:c@h/", "http://h/"),
            ("stack.yml", "stack.yml"),
            ("", ""),
        ] {
            assert_eq!(public_url(url), shown);
        }
    }
}
