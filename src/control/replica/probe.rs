//! Finds out whether a replica can serve.
//!
//! First a TCP connection, in small growing steps: most functions listen a few milliseconds after
//! their start, and a cold call waits for exactly this. Then HTTP: the annotated probe, or what the
//! watchdogs of this field answer ([`super::question`]). Last, where a watchdog would not know, whether
//! the server behind it accepts.

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
use super::question::{Answer, Question};
use host::network::NetworkError;

/// Pause after the first refused connection.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
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

/// Waits until the replica at `address` can serve, or `limit` has passed. `accepts` says whether something inside
/// the replica does on a port; functions that have no server behind a watchdog never need it.
pub(super) async fn until_ready<L, F>(
    address: SocketAddr,
    revision: &Revision,
    limit: Duration,
    accepts: L,
) -> Probed
where
    L: Fn(u16) -> F,
    F: Future<Output = Result<bool, NetworkError>>,
{
    let question = Question::of(revision);
    if let Some(probe) = &revision.spec.probes.ready {
        sleep(probe.initial_delay.min(limit)).await;
    }
    let end = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let last = match attempt(address, &question, &accepts).await {
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

/// Makes one attempt; what it met, if the replica is not ready.
async fn attempt<L, F>(address: SocketAddr, question: &Question, accepts: &L) -> Result<(), String>
where
    L: Fn(u16) -> F,
    F: Future<Output = Result<bool, NetworkError>>,
{
    let status = ask(address, question).await?;
    // A watchdog knows the path. Whoever does not is the server itself, with the variables of an image that had one.
    match question.server.as_ref().filter(|_| status == Some(StatusCode::OK)) {
        None => Ok(()),
        Some(server) => match accepts(server.port).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(server.is_missing()),
            Err(error) => Err(model::error::chain(&error)),
        },
    }
}

/// Connects, and asks the question; the status of the answer, if it was one of HTTP.
async fn ask(address: SocketAddr, question: &Question) -> Result<Option<StatusCode>, String> {
    let Question { path, attempt: limit, answer, .. } = question;
    let port = address.port();
    let stream = timeout(*limit, TcpStream::connect(address))
        .await
        .map_err(|_| format!("connecting to port {port} took over {limit:?}"))?
        .map_err(|error| format!("nothing accepts connections on port {port}: {error}"))?;
    match timeout(*limit, get(stream, address, path)).await {
        Ok(Ok(status)) if answer.is_ready(status) => Ok(Some(status)),
        Ok(Ok(status)) => Err(format!("GET {path} answered {status}")),
        // It accepted a connection, and does not speak HTTP there.
        Ok(Err(_)) if *answer == Answer::May => Ok(None),
        Ok(Err(error)) => Err(format!("GET {path} failed: {error}")),
        Err(_) => Err(format!("GET {path} took over {limit:?}")),
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::replica::question::tests::revision;

    /// Fails the test: of functions with nothing behind a watchdog, nobody looks for it.
    async fn unasked(port: u16) -> Result<bool, NetworkError> {
        panic!("port {port} was looked for");
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
        assert_eq!(until_ready(address, &revision(&[], &[], &[]), LIMIT, unasked).await, Probed::Ready);
        assert_eq!(asked.recv().await.as_deref(), Some("GET /_/health HTTP/1.1"));
    }

    #[tokio::test]
    async fn something_that_is_not_http_is_ready_when_it_accepts() {
        let (address, _asked) = server(&["SSH-2.0-x\r\n"]).await;
        assert_eq!(until_ready(address, &revision(&[], &[], &[]), LIMIT, unasked).await, Probed::Ready);
    }

    #[tokio::test]
    async fn a_watchdog_with_a_mode_is_asked_until_it_is_ready() {
        let (address, mut asked) = server(&[
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ])
        .await;
        assert_eq!(
            until_ready(address, &revision(&[], &[], &["mode=http"]), LIMIT, unasked).await,
            Probed::Ready
        );
        assert_eq!(asked.recv().await.as_deref(), Some("GET /_/ready HTTP/1.1"));
        assert!(asked.recv().await.is_some(), "asked twice");
    }

    #[tokio::test]
    async fn the_annotated_path_must_answer_as_kubernetes_wants_it() {
        let revision = revision(&[("com.openfaas.ready.http.path", "/up")], &[], &[]);
        for head in ["200 OK", "204 No Content", "301 Moved Permanently\r\nLocation: /", "399 Odd"] {
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n").leak();
            let (address, _asked) = server(vec![&*answer].leak()).await;
            assert_eq!(until_ready(address, &revision, LIMIT, unasked).await, Probed::Ready, "{head}");
        }
        let (address, mut asked) = server(&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]).await;
        let probed = until_ready(address, &revision, Duration::from_millis(50), unasked).await;
        let Probed::TimedOut { last } = probed else { panic!("it is not ready") };
        assert_eq!(last, "GET /up answered 404 Not Found");
        assert_eq!(asked.recv().await.as_deref(), Some("GET /up HTTP/1.1"));
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let probed = until_ready(address, &revision(&[], &[], &[]), Duration::from_millis(20), unasked).await;
        let Probed::TimedOut { last } = probed else { panic!("it is not ready") };
        assert!(
            last.starts_with(&format!("nothing accepts connections on port {}", address.port())),
            "{last}"
        );
    }

    const BEHIND: [&str; 2] = ["mode=http", "upstream_url=http://127.0.0.1:5000"];

    #[tokio::test]
    async fn a_watchdog_that_says_yes_too_early_waits_for_the_server_behind_it() {
        let (address, _asked) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
        let looks = AtomicUsize::new(0);
        let accepts = |port| {
            assert_eq!(port, 5000);
            let look = looks.fetch_add(1, Ordering::Relaxed);
            async move {
                match look {
                    0 | 1 => Ok(false),
                    // A look that fails is not the end.
                    2 => Err(NetworkError::failed("looking", "no file is free")),
                    _ => Ok(true),
                }
            }
        };
        assert_eq!(until_ready(address, &revision(&[], &[], &BEHIND), LIMIT, accepts).await, Probed::Ready);
        assert_eq!(looks.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn a_server_that_never_accepts_is_named_with_its_variable_and_the_way_out() {
        let (address, _asked) = server(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
        let short = Duration::from_millis(20);
        let probed = until_ready(address, &revision(&[], &[], &BEHIND), short, async |_| Ok(false)).await;
        let Probed::TimedOut { last } = probed else { panic!("it is not ready") };
        for words in
            ["port 5000", "upstream_url=http://127.0.0.1:5000", "set upstream_url", "functions.start_timeout"]
        {
            assert!(last.contains(words), "no {words:?} in {last}");
        }
        let failing = async |_| Err(NetworkError::failed("looking", "no file is free"));
        let probed = until_ready(address, &revision(&[], &[], &BEHIND), short, failing).await;
        assert_eq!(probed, Probed::TimedOut { last: "looking failed: no file is free".into() });
    }

    #[tokio::test]
    async fn a_question_that_was_passed_on_to_nobody_is_asked_again() {
        let (address, mut asked) = server(&[
            "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            "",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        ])
        .await;
        let asking = revision(&[], &[("ready_path", "/up")], &BEHIND);
        assert_eq!(until_ready(address, &asking, LIMIT, unasked).await, Probed::Ready);
        for _ in 0..4 {
            assert_eq!(asked.recv().await.as_deref(), Some("GET /_/ready HTTP/1.1"));
        }
        assert!(asked.try_recv().is_err());
    }
}
