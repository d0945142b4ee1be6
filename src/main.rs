//! Arguments in, exit code out.

use std::process::ExitCode;

/// Gives memory back to the kernel after a peak: glibc keeps what lies below something that is still in use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match ingle::cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ingle::cli::report(&error).into(),
    }
}
