//! Registries on loopback: Debian's `docker-registry`, and one made by hand that can misbehave.

use std::convert::Infallible;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::TemporaryDirectory;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper::{Request, Response};

use super::oci::{TestImage, digest};

/// How a [`DockerRegistry`] is set up.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Setup {
    /// Whether it wants [`USER`] and [`PASSWORD`].
    pub(crate) password: bool,
    /// Whether it speaks TLS, with a certificate of a CA of its own.
    pub(crate) tls: bool,
    /// Arguments of `openssl req -x509` for a certificate that signs itself, which takes the place of that of a CA.
    pub(crate) self_signed: Option<&'static [&'static str]>,
}

pub(crate) const USER: &str = "tester";
pub(crate) const PASSWORD: &str = "se:cret";

/// A running `docker-registry`.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    directory: TemporaryDirectory,
    process: Option<Child>,
    port: u16,
    setup: Setup,
}

impl DockerRegistry {
    /// Starts one; returns when it answers.
    pub(crate) async fn start(setup: Setup) -> Self {
        let directory = TemporaryDirectory::new();
        // Free a moment ago, and nobody else is likely to take it in the next one.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let mut registry = Self { directory, process: None, port, setup };
        registry.write_settings();
        registry.resume().await;
        registry
    }

    fn write_settings(&self) {
        let path = self.path();
        let mut settings = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {path:?}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            path = path.join("data"),
            port = self.port,
        );
        if self.setup.tls {
            match self.setup.self_signed {
                Some(arguments) => make_self_signed(path, arguments),
                None => make_certificate(path),
            }
            settings += &format!(
                "  tls: {{certificate: {:?}, key: {:?}}}\n",
                path.join("server.crt"),
                path.join("server.key")
            );
        }
        if self.setup.password {
            let made = Command::new(super::tool("htpasswd").expect("htpasswd"))
                .args(["-Bbn", USER, PASSWORD])
                .output()
                .expect("run htpasswd");
            fs::write(path.join("htpasswd"), made.stdout).expect("write htpasswd");
            settings += &format!("auth:\n  htpasswd: {{realm: test, path: {:?}}}\n", path.join("htpasswd"));
        }
        fs::write(path.join("config.yml"), settings).expect("write config.yml");
    }

    /// Where its files are: `ca.crt` is its CA.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its name and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts an image into it, with `skopeo`, which compresses the layers.
    pub(crate) fn push(&self, image: &TestImage, name: &str, options: &[&str]) {
        let layout = self.path().join(format!("layout-{}", digest(name.as_bytes()).replace(':', "-")));
        image.write_layout(&layout, "it");
        let mut command = Command::new(super::tool("skopeo").expect("skopeo"));
        command.args(["--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false"]);
        if self.setup.password {
            command.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        let pushed = command
            .args(options)
            .arg(format!("oci:{}:it", layout.display()))
            .arg(format!("docker://{}/{name}", self.address()))
            .output()
            .expect("run skopeo");
        assert!(pushed.status.success(), "skopeo: {}", String::from_utf8_lossy(&pushed.stderr));
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again after [`Self::stop`].
    pub(crate) async fn resume(&mut self) {
        let process = Command::new(super::tool("docker-registry").expect("docker-registry"))
            .arg("serve")
            .arg(self.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path().join("log")).expect("make the log"))
            .spawn()
            .expect("start docker-registry");
        self.process = Some(process);
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let log = self.path().join("log");
        eventually!(
            within 30,
            TcpStream::connect(address).is_ok(),
            "docker-registry does not answer: {}",
            fs::read_to_string(&log).unwrap_or_default()
        );
    }
}

/// Pushes an archive as `docker save` writes it, with these options of skopeo.
pub(crate) fn push_archive(registry: &DockerRegistry, archive: &Path, name: &str, options: &[&str]) {
    let pushed = Command::new(super::tool("skopeo").expect("skopeo"))
        .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
        .args(options)
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{}/{name}", registry.address()))
        .output()
        .expect("run skopeo");
    assert!(pushed.status.success(), "skopeo: {}", String::from_utf8_lossy(&pushed.stderr));
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `server.crt`, which is its own `ca.crt`.
fn make_self_signed(directory: &Path, arguments: &[&str]) {
    let made = Command::new(super::tool("openssl").expect("openssl"))
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-sha256",
            "-days",
            "30",
            "-subj",
            "/CN=registry",
        ])
        .args(["-keyout", "server.key", "-out", "server.crt"])
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("run openssl");
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    fs::copy(directory.join("server.crt"), directory.join("ca.crt")).expect("copied");
}

/// `ca.crt`, and `server.crt` with `server.key` signed by it for 127.0.0.1.
fn make_certificate(directory: &Path) {
    let openssl = |arguments: &[&str]| {
        let made = Command::new(super::tool("openssl").expect("openssl"))
            .args(arguments)
            .current_dir(directory)
            .output()
            .expect("run openssl");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(
        &[
            &[
                "req",
                "-x509",
                "-days",
                "2",
                "-subj",
                "/CN=ingle test CA",
                "-keyout",
                "ca.key",
                "-out",
                "ca.crt",
            ],
            &key[..],
        ]
        .concat(),
    );
    openssl(
        &[&["req", "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"], &key[..]]
            .concat(),
    );
    fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("write names");
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "server.crt",
    ]);
}

/// A request that a [`HandmadeRegistry`] has got.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// The first byte that is asked for.
    pub(crate) from: Option<usize>,
    pub(crate) authorization: Option<String>,
    /// The name that it was asked under, which is its address.
    pub(crate) host: String,
    pub(crate) body: String,
}

/// What it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection breaks after so many bytes.
    pub(crate) cut_at: Option<usize>,
    /// Nothing more comes after so many bytes, and the connection stays.
    stalled_at: Option<usize>,
    /// Its length is not said before.
    chunked: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    pub(crate) fn stalled_at(mut self, bytes: usize) -> Self {
        self.stalled_at = Some(bytes);
        self
    }

    pub(crate) fn cut_at(mut self, bytes: usize) -> Self {
        self.cut_at = Some(bytes);
        self
    }
}

/// The answer of a registry that behaves, and has `image` under every tag.
pub(crate) fn honest(image: &TestImage, asked: &Asked) -> Reply {
    let path = asked.path.split('?').next().unwrap_or_default();
    if path == "/v2/" {
        return Reply::new(200, "{}");
    }
    let unknown = |code: &str| Reply::new(404, format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#));
    if let Some((_, reference)) = path.rsplit_once("/manifests/") {
        let digest = if reference.starts_with("sha256:") { reference } else { image.digest() };
        let Some(bytes) = image.blobs.get(digest) else { return unknown("MANIFEST_UNKNOWN") };
        let document: serde_json::Value = serde_json::from_slice(bytes).expect("a document");
        let media_type = document["mediaType"].as_str().unwrap_or_default();
        return Reply::new(200, bytes.clone())
            .with("content-type", media_type)
            .with("docker-content-digest", digest);
    }
    let blob = path.rsplit_once("/blobs/").and_then(|(_, digest)| image.blobs.get(digest));
    let Some(bytes) = blob else { return unknown("BLOB_UNKNOWN") };
    match asked.from {
        None => Reply::new(200, bytes.clone()),
        Some(from) => Reply::new(206, &bytes[from..])
            .with("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
    }
}

/// A registry whose every answer is what the test says.
#[derive(Debug)]
pub(crate) struct HandmadeRegistry {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    sent: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl HandmadeRegistry {
    /// Serves until it is dropped.
    pub(crate) async fn serve(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve_at("127.0.0.1:0", answer).await
    }

    /// Serves at this address until it is dropped.
    pub(crate) async fn serve_at(
        address: &str,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(AtomicUsize::new(0));
        let (answer, seen, counted) = (Arc::new(answer), asked.clone(), sent.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen, counted) = (answer.clone(), seen.clone(), counted.clone());
                let service = hyper::service::service_fn(move |request| {
                    let (answer, seen, counted) = (answer.clone(), seen.clone(), counted.clone());
                    async move {
                        let asked = read(request).await;
                        seen.lock().expect("no panic while locked").push(asked.clone());
                        Ok::<_, Infallible>(write(&asked, answer(&asked), counted))
                    }
                });
                connections.spawn(async move {
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        Self { address, asked, sent, task }
    }

    /// Its name and port.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// All requests until now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic while locked").clone()
    }

    /// Bytes of bodies that were taken from it.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Requests for this blob.
    pub(crate) fn asked_for(&self, digest: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.path.contains(digest)).collect()
    }
}

impl Drop for HandmadeRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(request: Request<hyper::body::Incoming>) -> Asked {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let from =
        header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (method, path, authorization) =
        (request.method().to_string(), request.uri().to_string(), header("authorization"));
    let host = header("host").unwrap_or_default();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Asked { method, path, from, authorization, host, body: String::from_utf8_lossy(&body).into_owned() }
}

fn write(asked: &Asked, reply: Reply, sent: Arc<AtomicUsize>) -> Response<BoxBody<Bytes, std::io::Error>> {
    let mut response = Response::builder().status(reply.status);
    if !reply.chunked {
        response = response.header("content-length", reply.body.len());
    }
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let mut parts = Vec::new();
    if asked.method != "HEAD" {
        let end = reply.cut_at.or(reply.stalled_at).unwrap_or(reply.body.len()).min(reply.body.len());
        for part in reply.body[..end].chunks(64 << 10) {
            parts.push(Ok(Frame::data(Bytes::copy_from_slice(part))));
        }
        if reply.cut_at.is_some() {
            parts.push(Err(std::io::Error::other("cut off")));
        }
    }
    let rest = stream::pending().take(usize::from(reply.stalled_at.is_some()));
    let counted = stream::iter(parts).chain(rest).inspect(move |part| {
        let size = part.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
        sent.fetch_add(size, Ordering::Relaxed);
    });
    response.body(BodyExt::boxed(StreamBody::new(counted))).expect("a response")
}

/// Writes Docker's credentials file.
pub(crate) fn write_login(file: &PathBuf, registry: &str, user: &str, password: &str) {
    use base64::Engine;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let json = serde_json::json!({ "auths": { registry: { "auth": auth } } });
    fs::write(file, json.to_string()).expect("write config.json");
}
