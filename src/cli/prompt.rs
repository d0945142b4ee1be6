//! Questions at the terminal whose answers are not shown.

use std::io::{self, BufRead as _, Write as _};

use anyhow::Context as _;
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

/// Asks for something that is not shown. It may be given up with Ctrl-C, which brings the echo back, too.
pub(super) async fn hidden(question: &str) -> anyhow::Result<String> {
    let hidden = HiddenInput::new().context("the terminal cannot be told to hide what is typed")?;
    write!(io::stderr(), "{question}")?;
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = line.await??;
    drop(hidden);
    Ok(line)
}

/// A terminal that does not show what is typed, for as long as this lives.
struct HiddenInput {
    before: Termios,
}

impl HiddenInput {
    fn new() -> nix::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &hidden)?;
        Ok(Self { before })
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that has gone.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
        // What ended the input was hidden with the rest, be it Enter or Ctrl-C.
        let _ = writeln!(io::stderr());
    }
}
