//! HTTP to the gateway: one request, its credentials, its limits in time and size, its errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::credentials::{Credentials, Places};
use super::environment;
use super::error::CliError;
use super::gateway::Gateway;
use super::local_daemon::LocalDaemon;

/// How long an answer may take, whole. A deploy waits for the image's registry, which is given a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The largest JSON that is read: some thousand functions.
const MAX_ANSWER: usize = 64 << 20;
/// How much of an error's text is shown.
const MAX_ERROR: usize = 64 << 10;

/// A gateway, and the right to speak to it.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    gateway: Gateway,
    credentials: Option<Credentials>,
    /// The local socket, if requests do not go over the network.
    socket: Option<PathBuf>,
}

impl Client {
    /// Creates a client of the gateway that the option, the stack file or the environment names, else of the
    /// daemon of this machine. The daemon is reached through its socket, other gateways with the stored
    /// credentials.
    pub(crate) fn open(option: Option<&str>, stack: Option<&str>) -> anyhow::Result<Self> {
        Self::open_beside(&LocalDaemon::of_this_machine(), option, stack)
    }

    /// Does the same as [`Self::open`] with `daemon` as the daemon of this machine.
    pub(crate) fn open_beside(
        daemon: &LocalDaemon,
        option: Option<&str>,
        stack: Option<&str>,
    ) -> anyhow::Result<Self> {
        let gateway = Gateway::choose(option, stack, environment::variable, &daemon.gateway)?;
        match daemon.socket_for(&gateway)? {
            Some(socket) => Self::with(gateway, None, Some(socket)),
            None => {
                let credentials = Places::of_this_user().find(&gateway)?;
                Self::with(gateway, credentials, None)
            }
        }
    }

    /// Creates a client of `gateway` that uses the socket, if there is one, and only these credentials.
    pub(crate) fn with(
        gateway: Gateway,
        credentials: Option<Credentials>,
        socket: Option<&Path>,
    ) -> anyhow::Result<Self> {
        // reqwest takes the process's provider. An error says that it was installed before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder();
        if gateway.is_loopback() || socket.is_some() {
            // Proxies are for other machines: one would see the password, and could forge responses.
            builder = builder.no_proxy();
        }
        if let Some(socket) = socket {
            builder = builder.unix_socket(socket);
        }
        let http = builder
            .connect_timeout(CONNECT_WITHIN)
            // A redirect would carry the password, and the body, to a place that nobody named.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("ingle/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, gateway, credentials, socket: socket.map(Path::to_owned) })
    }

    /// Whom it speaks to.
    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// A request to the API, at `/system/` and these segments.
    pub(crate) fn system(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, Option<&str>)],
    ) -> Request<'_> {
        let mut url = self.gateway.at(&["system"]);
        url.path_segments_mut().expect("http URLs have a path").extend(segments);
        let mut pairs = query.iter().filter_map(|(key, value)| Some((*key, (*value)?))).peekable();
        if pairs.peek().is_some() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        let mut builder = self.http.request(method, url);
        if let Some(Credentials { username, password, .. }) = &self.credentials {
            builder = builder.basic_auth(username, Some(password));
        }
        Request { client: self, builder, authenticated: true }
    }

    /// Gets what is at `/system/` and these segments.
    pub(crate) async fn get(
        &self,
        segments: &[&str],
        query: &[(&str, Option<&str>)],
    ) -> Result<Answer, CliError> {
        self.system(Method::GET, segments, query).send().await
    }

    /// A call of a function. It carries no credentials: they are the gateway's, not the function's.
    pub(crate) fn call(&self, method: Method, url: reqwest::Url) -> Request<'_> {
        Request { client: self, builder: self.http.request(method, url), authenticated: false }
    }

    fn failed(&self, error: reqwest::Error) -> CliError {
        let gateway = self.gateway.to_string();
        // The message names the gateway; the URL would say it again.
        let source = error.without_url();
        if let (true, Some(socket)) = (source.is_connect(), &self.socket) {
            CliError::NotRunning { why: format!("nothing answers on {}", socket.display()) }
        } else if source.is_connect() {
            CliError::Unreachable { gateway, source }
        } else if source.is_timeout() {
            CliError::Silent { gateway, source }
        } else {
            CliError::Broken { gateway, source }
        }
    }
}

/// A request that is not sent yet.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    client: &'a Client,
    builder: RequestBuilder,
    authenticated: bool,
}

impl Request<'_> {
    /// With this body as JSON.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Self {
        self.builder = self.builder.json(body);
        self
    }

    /// Changed in a way that only the caller knows.
    pub(crate) fn map(mut self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// Sends it. Its answer may take as long as it likes, and may be an error.
    pub(crate) async fn stream(self) -> Result<Response, CliError> {
        self.builder.send().await.map_err(|error| self.client.failed(error))
    }

    /// Sends it, and takes a status of success only.
    pub(crate) async fn stream_ok(self) -> Result<Response, CliError> {
        let (client, authenticated) = (self.client, self.authenticated);
        let response = self.stream().await?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED if authenticated => Err(CliError::Denied {
                gateway: client.gateway.to_string(),
                tried: client.credentials.as_ref().map(|found| found.origin.clone()),
            }),
            _ => Err(refusal(response).await),
        }
    }

    /// Sends it, and takes an answer of up to `limit` bytes that may take as long as it likes while some of it
    /// arrives.
    pub(crate) async fn download(self, limit: usize) -> Result<Answer, CliError> {
        let client = self.client;
        let mut response = self.stream_ok().await?;
        let (headers, gateway) = (response.headers().clone(), client.gateway.to_string());
        let failed = |text: &str| CliError::Failed(format!("the answer of {} {text}", client.gateway));
        let mut body = Vec::new();
        loop {
            let part = tokio::time::timeout(ANSWER_WITHIN, response.chunk()).await;
            let part = part.map_err(|_| failed("has stopped in the middle"))?;
            let Some(part) = part.map_err(|error| client.failed(error))? else {
                return Ok(Answer { headers, body, gateway });
            };
            if body.len() + part.len() > limit {
                return Err(failed(&format!("is larger than {} MB", limit >> 20)));
            }
            body.extend_from_slice(&part);
        }
    }

    /// Sends it within the usual limit of time.
    pub(crate) async fn send(mut self) -> Result<Answer, CliError> {
        self.builder = self.builder.timeout(ANSWER_WITHIN);
        self.download(MAX_ANSWER).await
    }
}

/// An answer of success, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
    gateway: String,
}

impl Answer {
    /// The body, parsed.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            anyhow::Error::from(error).context(format!(
                "{} answered with something else than the API's JSON: is --gateway right?",
                self.gateway
            ))
        })
    }
}

/// An answer's refusal, in its own words.
async fn refusal(mut response: Response) -> CliError {
    let status = response.status();
    let mut text = error_text(&mut response).await;
    if text.is_empty() {
        text = format!("the gateway answered {status} and nothing more: is --gateway right?");
    } else if status.is_redirection() {
        text = format!("the gateway answered {status}: is --gateway right?");
    }
    CliError::Refused { status: status.as_u16(), message: text }
}

/// The text of an error's body, as far as it can be had.
pub(crate) async fn error_text(response: &mut Response) -> String {
    let mut text = BytesMut::new();
    while text.len() < MAX_ERROR
        && let Ok(Ok(Some(part))) = tokio::time::timeout(CONNECT_WITHIN, response.chunk()).await
    {
        text.extend_from_slice(&part);
    }
    text.truncate(MAX_ERROR);
    String::from_utf8_lossy(&text).trim().to_owned()
}
