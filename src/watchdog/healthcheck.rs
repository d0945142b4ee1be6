//! `--run-healthcheck`: what an image's HEALTHCHECK runs.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// How long the watchdog may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks the watchdog that runs here for its health.
pub(super) fn run(port: u16) -> ExitCode {
    match ask(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("unhealthy: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn ask(port: u16) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("port {port}: {error}");
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).map_err(failed)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
    let request = b"GET /_/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).map_err(failed)?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).map_err(failed)?;
    if line.ends_with(b" 200") { Ok(()) } else { Err(String::from_utf8_lossy(&line).into_owned()) }
}
