//! Greets whoever the body names.

use std::io::{Read, Write};

fn main() -> std::io::Result<()> {
    let mut body = String::new();
    std::io::stdin().read_to_string(&mut body)?;
    let variable = |name| std::env::var(name).unwrap_or_default();
    let name = if body.trim().is_empty() { "world" } else { body.trim() };
    let (method, path) = (variable("Http_Method"), variable("Http_Path"));
    writeln!(std::io::stdout(), "Hello, {name}, from Rust ({method} {path})")
}
