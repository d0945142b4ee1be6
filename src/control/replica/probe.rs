//! Finds out whether a replica can serve.
//!
//! First a TCP connection, in small growing steps: most functions listen a few milliseconds after
//! their start, and a cold call waits for exactly this. Then HTTP: the annotated probe, or what the
//! watchdogs of this field answer. `/_/health` comes before `/_/ready`, because a watchdog that does
//! not know a path runs the function for it; only one that has a `mode` knows `/_/ready`.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::StatusCode;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::Revision;

/// Pause after the first refused connection.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long one attempt may take, where no annotation says.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How the wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// It can serve.
    Ready,
    /// It could not, within the limit.
    TimedOut {
        /// What the last attempt met.
        last: String,
    },
}

/// What to ask once there is a connection.
#[derive(Debug, PartialEq, Eq)]
enum Question {
    /// The annotated path must answer 200.
    Must { path: String, attempt: Duration },
    /// The path answers 503 or 429 while the function is not ready; any other answer, 404 included,
    /// is that of a function that has no such path.
    May { path: &'static str },
}

/// Waits until the replica at `address` can serve, or `limit` has passed.
pub(super) async fn until_ready(address: SocketAddr, revision: &Revision, limit: Duration) -> Probed {
    let question = question(revision);
    if let Some(probe) = &revision.spec.probes.ready {
        sleep(probe.initial_delay.min(limit)).await;
    }
    let end = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let last = match attempt(address, &question).await {
            Ok(()) => return Probed::Ready,
            Err(last) => last,
        };
        if Instant::now() + pause >= end {
            return Probed::TimedOut { last };
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

fn question(revision: &Revision) -> Question {
    if let Some(probe) = &revision.spec.probes.ready {
        return Question::Must { path: probe.path.clone(), attempt: probe.timeout };
    }
    let has_mode = revision.spec.env_vars.contains_key("mode")
        || revision.image.config.env.iter().any(|variable| variable.starts_with("mode="));
    Question::May { path: if has_mode { "/_/ready" } else { "/_/health" } }
}

/// One attempt; what it met, if the replica is not ready.
async fn attempt(address: SocketAddr, question: &Question) -> Result<(), String> {
    let (path, limit) = match question {
        Question::Must { path, attempt } => (path.as_str(), *attempt),
        Question::May { path } => (*path, ATTEMPT),
    };
    let port = address.port();
    let stream = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| format!("connecting to port {port} took over {limit:?}"))?
        .map_err(|error| format!("nothing accepts connections on port {port}: {error}"))?;
    match (timeout(limit, get(stream, address, path)).await, question) {
        (Ok(Ok(StatusCode::OK)), _) => Ok(()),
        (Ok(Ok(status)), Question::Must { .. }) => Err(format!("GET {path} answered {status}")),
        (
            Ok(Ok(status @ (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS))),
            Question::May { .. },
        ) => Err(format!("GET {path} answered {status}")),
        // It accepted a connection, and has no such path, or does not speak HTTP there.
        (Ok(_), Question::May { .. }) => Ok(()),
        (Ok(Err(error)), Question::Must { .. }) => Err(format!("GET {path} failed: {error}")),
        (Err(_), _) => Err(format!("GET {path} took over {limit:?}")),
    }
}

/// `GET path`: the status.
pub(crate) async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<StatusCode, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::USER_AGENT, "ingle-probe")
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    // Both in this task: when the answer is there the connection is dropped with it.
    let answer = pin!(sender.send_request(request));
    let answer = match select(answer, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        // A server that closes after its answer ends the connection first.
        Either::Right((_, answer)) => answer.await,
    };
    answer.map(|answer| answer.status()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use host::runtime::{ImageConfig, ResolvedImage};
    use model::function::FunctionSpec;
    use model::wire;

    fn revision(annotations: &[(&str, &str)], env: &[&str]) -> Revision {
        let deployment = wire::Deployment {
            service: "f".into(),
            image: "a/b:1".into(),
            annotations: Some(annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
            ..Default::default()
        };
        let spec = FunctionSpec::try_from(&deployment).expect("valid");
        Revision {
            number: 1,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            image: ResolvedImage {
                image: spec.image.clone(),
                digest: String::new(),
                manifest_digest: String::new(),
                config: ImageConfig { env: env.iter().map(|v| (*v).into()).collect(), ..Default::default() },
                size: 0,
            },
            spec: spec.into(),
            deployment: deployment.into(),
        }
    }

    /// A server that gives these answers, one a connection, then the last one for ever; returns what
    /// was asked.
    async fn server(
        answers: &'static [&'static str],
    ) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut n = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap_or(0);
                let line =
                    String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned();
                let _ = sender.send(line);
                let _ = stream.write_all(answers[n.min(answers.len() - 1)].as_bytes()).await;
                n += 1;
            }
        });
        (address, asked)
    }

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_function_without_probe_paths_is_ready_when_it_answers() {
        let (address, mut asked) = server(&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]).await;
        assert_eq!(until_ready(address, &revision(&[], &[]), LIMIT).await, Probed::Ready);
        assert_eq!(asked.recv().await.as_deref(), Some("GET /_/health HTTP/1.1"));
    }

    #[tokio::test]
    async fn something_that_is_not_http_is_ready_when_it_accepts() {
        let (address, _asked) = server(&["SSH-2.0-x\r\n"]).await;
        assert_eq!(until_ready(address, &revision(&[], &[]), LIMIT).await, Probed::Ready);
    }

    #[tokio::test]
    async fn a_watchdog_with_a_mode_is_asked_until_it_is_ready() {
        let (address, mut asked) = server(&[
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ])
        .await;
        assert_eq!(until_ready(address, &revision(&[], &["mode=http"]), LIMIT).await, Probed::Ready);
        assert_eq!(asked.recv().await.as_deref(), Some("GET /_/ready HTTP/1.1"));
        assert!(asked.recv().await.is_some(), "asked twice");
    }

    #[tokio::test]
    async fn the_annotated_path_must_answer_200() {
        let (address, mut asked) = server(&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]).await;
        let revision = revision(&[("com.openfaas.ready.http.path", "/up")], &[]);
        let probed = until_ready(address, &revision, Duration::from_millis(50)).await;
        let Probed::TimedOut { last } = probed else { panic!("it is not ready") };
        assert_eq!(last, "GET /up answered 404 Not Found");
        assert_eq!(asked.recv().await.as_deref(), Some("GET /up HTTP/1.1"));
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let probed = until_ready(address, &revision(&[], &[]), Duration::from_millis(20)).await;
        let Probed::TimedOut { last } = probed else { panic!("it is not ready") };
        assert!(
            last.starts_with(&format!("nothing accepts connections on port {}", address.port())),
            "{last}"
        );
    }
}
