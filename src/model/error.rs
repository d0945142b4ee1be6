//! Errors as text.

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
