//! The two ends of the gateway's benchmark, so that it needs neither containers nor root.
//!
//! `backend ADDRESS` answers every request with the same few bytes, a thread per connection: the
//! least that an HTTP function can be. `gateway ADDRESS BACKEND` is the daemon's gateway with one
//! function `bench` whose only replica is at BACKEND. Both print the address that they listen on.

#[path = "../suite/support/view.rs"]
mod view;

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use ingle::config::Config;
use ingle::fleet::{Directory, Endpoint, Entry};
use ingle::function::ReplicaId;
use ingle::gateway::server::{Gateway, Limits, serve};
use ingle::metrics::CallStats;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["backend", address] => backend(address.parse()?),
        ["gateway", address, backend] => gateway(address.parse()?, backend.parse()?),
        _ => Err("usage: bench-harness backend ADDRESS | gateway ADDRESS BACKEND".into()),
    }
}

fn backend(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept()?;
        std::thread::Builder::new().stack_size(64 << 10).spawn(move || answer(stream))?;
    }
}

/// Answers each request on one connection, until it ends or breaks.
fn answer(mut stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut head = [0; 8 << 10];
    let mut length = 0;
    while let Ok(count @ 1..) = stream.read(&mut head[length..]) {
        length += count;
        if head[..length].ends_with(b"\r\n\r\n") {
            length = 0;
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    }
}

fn gateway(address: SocketAddr, backend: SocketAddr) -> Result<(), Box<dyn Error>> {
    let config = Config::parse("", |_| None)?;
    let directory = Arc::new(Directory::default());
    let endpoint = Endpoint::new(ReplicaId::from_existing("bench-0"), backend);
    let view = view::view("bench", vec![endpoint]);
    directory.insert([Entry::new(view.spec.key.clone(), CallStats::default(), view)]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        println!("{}", listener.local_addr()?);
        let gateway = Gateway { directory, api: axum::Router::new() };
        serve(listener, gateway, Limits::of(&config), std::future::pending()).await
    })?;
    Ok(())
}
