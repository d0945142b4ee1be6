//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    match ingle::cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ingle::cli::report(&error).into(),
    }
}
