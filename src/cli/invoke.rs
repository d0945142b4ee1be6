//! `ingle invoke`

use std::io::{self, Write as _};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio_util::io::ReaderStream;

use model::function::FunctionName;
use model::wire::FunctionStatus;

use super::client::{Client, error_text};
use super::error::CliError;
use super::options::pair;
use super::{Globals, stdin};

/// Up to here stdin is read before the call, so that it is sent with its length: many functions cannot
/// read a body without one.
const READ_AHEAD: usize = 1 << 20;

/// Call a function and print its answer
#[derive(Debug, clap::Args)]
pub(crate) struct Invoke {
    /// The function's name
    name: FunctionName,
    /// The body; @FILE reads a file. Without it, stdin is sent, unless that is a terminal
    #[arg(long, short = 'd', value_name = "DATA")]
    data: Option<String>,
    /// The method
    #[arg(long, short = 'm', default_value = "POST")]
    method: Method,
    /// Header, as 'Name: value' or name=value; may be given several times
    #[arg(long, short = 'H', value_name = "HEADER", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Query parameter; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    query: Vec<(String, String)>,
    /// What follows the function's name in the URL
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The body's type
    #[arg(long, value_name = "TYPE", default_value = "text/plain")]
    content_type: HeaderValue,
    /// Print status and headers, too
    #[arg(long, short = 'i')]
    include: bool,
}

impl Invoke {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let url = self.url(client.gateway().function(self.name.as_str(), globals.namespace()))?;
        let body = self.body().await?;
        let mut headers: HeaderMap = HeaderMap::new();
        for (name, value) in self.header {
            headers.append(name, value);
        }
        if body.is_some() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, self.content_type);
        }
        let request = client.call(self.method, url).map(|builder| {
            let builder = builder.headers(headers);
            match body {
                Some(body) => builder.body(body),
                None => builder,
            }
        });
        let response = request.stream().await?;
        let why = match response.status() {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                why_unavailable(&client, self.name.as_str(), globals.namespace()).await
            }
            _ => None,
        };
        print(response, self.name.as_str(), self.include, why).await
    }

    /// The function's URL with path and query. The path is taken as it is: who writes `%20` means it.
    fn url(&self, mut url: Url) -> Result<Url, CliError> {
        if let Some(path) = &self.path {
            let (path, query) = path.split_once('?').map_or((path.as_str(), None), |(p, q)| (p, Some(q)));
            let full = format!("{}/{}", url.path(), path.trim_start_matches('/'));
            url.set_path(&full);
            url.set_query(query);
            if !url.path().starts_with(full.split('/').take(3).collect::<Vec<_>>().join("/").as_str()) {
                return Err(CliError::usage("--path leads away from the function"));
            }
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }

    async fn body(&self) -> anyhow::Result<Option<Body>> {
        match self.data.as_deref() {
            Some(data) => match data.strip_prefix('@') {
                Some(path) => {
                    let file = tokio::fs::File::open(path).await;
                    let file = file.map_err(|error| CliError::Usage(format!("{path}: {error}")))?;
                    stream(file).await.with_context(|| path.to_owned())
                }
                None => Ok(Some(Body::from(data.to_owned()))),
            },
            None if stdin::is_terminal() => Ok(None),
            None => stream(stdin::open()?).await.context("stdin"),
        }
    }
}

/// What is in a file or pipe, or `None` if that is nothing.
async fn stream(mut from: tokio::fs::File) -> anyhow::Result<Option<Body>> {
    let start = stdin::read_at_most(&mut from, READ_AHEAD).await?;
    if start.len() <= READ_AHEAD {
        return Ok(Some(start).filter(|start| !start.is_empty()).map(Body::from));
    }
    let start = futures_util::stream::iter([Ok(bytes::Bytes::from(start))]);
    Ok(Some(Body::wrap_stream(start.chain(ReaderStream::with_capacity(from, 64 << 10)))))
}

/// Asks the API why a function is not available, which responses to calls do not say.
async fn why_unavailable(client: &Client, name: &str, namespace: Option<&str>) -> Option<String> {
    let answer = client.get(&["function", name], &[("namespace", namespace)]).await.ok()?;
    let status: FunctionStatus = answer.json().ok()?;
    let reason = status.reason.filter(|_| status.phase != "ready")?;
    Some(format!("{}: {reason}", status.phase))
}

/// Prints the response as it arrives. Failures go to stderr, with the reason if it is known.
async fn print(mut response: Response, name: &str, include: bool, why: Option<String>) -> anyhow::Result<()> {
    let status = response.status();
    let mut out = io::stdout();
    if include {
        writeln!(out, "{:?} {status}", response.version())?;
        for (name, value) in response.headers() {
            writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        writeln!(out)?;
    }
    if status.is_client_error() || status.is_server_error() {
        let text = error_text(&mut response).await;
        let text = if text.is_empty() { "without a word".to_owned() } else { text };
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        // The function's own answer, or the gateway's about it: nothing tells them apart for certain.
        return Err(CliError::Failed(format!("call of function {name}: {status}: {text}{why}")).into());
    }
    while let Some(part) =
        response.chunk().await.with_context(|| format!("the answer of function {name} broke off"))?
    {
        out.write_all(&part)?;
        // Whoever waits at the other end of a pipe wants each part when it comes.
        out.flush()?;
    }
    Ok(())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let colon = text.split_once(':').filter(|(name, _)| !name.contains('='));
    let (name, value) = colon.or_else(|| text.split_once('=')).ok_or("write 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not a header's name"))?;
    let value =
        value.trim().parse().map_err(|_| "its value has characters that no header may have".to_owned())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        invoke: Invoke,
    }

    fn url(arguments: &[&str]) -> Result<String, CliError> {
        let line = Line::try_parse_from(["x", "env"].iter().chain(arguments)).expect("valid arguments");
        line.invoke.url("http://h/function/env".parse().expect("a URL")).map(String::from)
    }

    #[test]
    fn path_and_query_follow_the_function() {
        for (arguments, expected) in [
            (&[][..], "http://h/function/env"),
            (&["--path", "/a/b%20c"], "http://h/function/env/a/b%20c"),
            (&["--path", "a?x=1"], "http://h/function/env/a?x=1"),
            (&["--path", "a b"], "http://h/function/env/a%20b"),
            (&["--path", ""], "http://h/function/env/"),
            (&["--query", "a=b c", "--query", "d="], "http://h/function/env?a=b+c&d="),
            (&["--path", "p?x=1", "--query", "y=&"], "http://h/function/env/p?x=1&y=%26"),
        ] {
            assert_eq!(url(arguments).expect("a URL"), expected, "{arguments:?}");
        }
        for path in ["../../system/functions", "..", "%2e%2e/x"] {
            assert!(url(&["--path", path]).is_err(), "{path}");
        }
    }

    #[test]
    fn headers_are_read_with_a_colon_or_an_equals_sign() {
        for (text, name, value) in [
            ("X-A: b:c", "x-a", "b:c"),
            ("X-A=b", "x-a", "b"),
            ("X-A=http://x", "x-a", "http://x"),
            ("X-A: b=c", "x-a", "b=c"),
        ] {
            let (got_name, got_value) = header(text).expect(text);
            assert_eq!((got_name.as_str(), got_value.to_str().expect("text")), (name, value), "{text}");
        }
        assert!(header("X A: b").is_err());
        assert!(header("nothing").is_err());
        assert!(header("X-A: b\nc").is_err());
    }
}
