//! The watchdog's program: see `src/watchdog/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ingle::watchdog::run(std::env::args().skip(1))
}
