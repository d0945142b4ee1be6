//! The question that a replica is asked before it gets calls, and the answers that mean "not yet".
//!
//! A watchdog in mode `http` listens before the server behind it does, and the one of OpenFaaS says at once that it is
//! ready. It tells the truth where `ready_path` is given, as it passes the question on then. Without that, the server
//! is looked for inside the replica.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use http::StatusCode;

use super::{Revision, needs_watchdog};

/// How long one attempt may take, where no annotation says.
const ATTEMPT: Duration = Duration::from_secs(2);
/// The paths that watchdogs answer themselves.
const HEALTH: &str = "/_/health";
const READY: &str = "/_/ready";
/// The variables that say where the server behind a watchdog listens; the first that is set counts, as it does in
/// OpenFaaS' watchdog.
const UPSTREAM: [&str; 2] = ["http_upstream_url", "upstream_url"];

/// One question, the same at every attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The path to ask.
    pub(super) path: String,
    /// How long one attempt may take.
    pub(super) attempt: Duration,
    /// How its answer is understood.
    pub(super) answer: Answer,
    /// The server that must listen as well, where the answer is a watchdog's: 200.
    pub(super) server: Option<Server>,
}

/// How an answer is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// 200 to 399 mean that it is ready, as for Kubernetes: somebody has named the path.
    Must,
    /// 503 and 429 mean that it is not; any other answer, 404 included, is that of a function that has no such path.
    May,
    /// 429 and every 5xx mean that it is not: a watchdog has passed the question on, and nobody was there to answer it.
    PassedOn,
}

impl Answer {
    /// Whether this status means that the replica is ready.
    pub(super) fn is_ready(self, status: StatusCode) -> bool {
        let full = status == StatusCode::TOO_MANY_REQUESTS;
        match self {
            Self::Must => is_healthy(status),
            Self::May => !full && status != StatusCode::SERVICE_UNAVAILABLE,
            Self::PassedOn => !full && !status.is_server_error(),
        }
    }
}

/// Whether Kubernetes, whose probes these are, would take this answer for that of a healthy server.
pub(crate) fn is_healthy(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// The server behind a watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// The port that it will listen on, inside the replica.
    pub(super) port: u16,
    /// The variable that says so.
    variable: &'static str,
    /// Value of that variable.
    url: String,
}

impl Server {
    /// Says that it does not listen, and what to do if it never will.
    pub(super) fn is_missing(&self) -> String {
        let Self { port, variable, url } = self;
        format!(
            "nothing accepts connections on port {port} inside the container, where {variable}={url} says that the function's \
             server does: set {variable} to the port that it listens on, or functions.start_timeout to the time that \
             it needs"
        )
    }
}

impl Question {
    /// The question for replicas of this revision.
    pub(super) fn of(revision: &Revision) -> Self {
        let passes_on = variable(revision, "ready_path").is_some() && has_watchdog(revision);
        if let Some(probe) = &revision.spec.probes.ready {
            // Of any other path the server's own answer is 200, and of no server's it is not.
            let is_told = match probe.path.split('?').next() {
                Some(READY) => passes_on,
                Some(HEALTH) => false,
                _ => true,
            };
            let server = if is_told { None } else { server(revision) };
            return Self { path: probe.path.clone(), attempt: probe.timeout, answer: Answer::Must, server };
        }
        let (path, answer, server) = match (passes_on, is_set(revision, "mode")) {
            (true, _) => (READY, Answer::PassedOn, None),
            (false, true) => (READY, Answer::May, server(revision)),
            // A watchdog that does not know a path runs the function for it.
            (false, false) => (HEALTH, Answer::May, None),
        };
        Self { path: path.to_owned(), attempt: ATTEMPT, answer, server }
    }
}

/// The server that listens later than the watchdog in front of it, if it is one that can be seen: on a port of the
/// replica's loopback. One on another host, or behind a Unix socket, is not waited for.
fn server(revision: &Revision) -> Option<Server> {
    if variable(revision, "mode") != Some("http") || !has_watchdog(revision) {
        return None;
    }
    // Without one, our watchdog has a default, of which its answer tells the truth; others do not start.
    let (name, url) = UPSTREAM.iter().find_map(|name| Some((*name, variable(revision, name)?)))?;
    Some(Server { port: loopback_port(url)?, variable: name, url: url.to_owned() })
}

/// Whether a watchdog runs the function: its image's or this machine's, also one that a script of the image starts.
fn has_watchdog(revision: &Revision) -> bool {
    let Revision { spec, image, .. } = revision;
    let is_given = |name: &&str| variable(revision, name).is_some();
    image.config.has_watchdog()
        || needs_watchdog(spec, &image.config)
        || ["fprocess", "function_process"].iter().any(is_given)
}

/// The port of a server's address, if it is one of this host.
fn loopback_port(url: &str) -> Option<u16> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let default = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        // Not within an address of version 6.
        Some((host, port)) if !port.ends_with(']') => {
            (host, if port.is_empty() { default } else { port.parse().ok()? })
        }
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host.is_empty()
        || host.eq_ignore_ascii_case("localhost")
        // Whoever connects to the unspecified address reaches the loopback. A server on another address of it is not
        // reached at the first.
        || host.parse().is_ok_and(|address: IpAddr| {
            address.is_unspecified() || [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].contains(&address)
        });
    (is_here && port > 0).then_some(port)
}

/// A variable as the replica's processes see it, unless it is empty: the function's are stronger than the image's.
fn variable<'r>(revision: &'r Revision, name: &str) -> Option<&'r str> {
    let Revision { spec, image, .. } = revision;
    let own = spec.env_vars.get(name).map(String::as_str);
    own.or_else(|| image.config.variable(name)).filter(|value| !value.is_empty())
}

/// Whether a variable is there, also if it is empty.
fn is_set(Revision { spec, image, .. }: &Revision, name: &str) -> bool {
    spec.env_vars.contains_key(name) || image.config.variable(name).is_some()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use super::*;
    use host::runtime::{ImageConfig, ResolvedImage};
    use model::function::FunctionSpec;
    use model::wire;

    /// One with these annotations and variables, of an image with these variables and a watchdog as its command.
    pub(in crate::replica) fn revision(
        annotations: &[(&str, &str)],
        own: &[(&str, &str)],
        image: &[&str],
    ) -> Revision {
        fn map<M: FromIterator<(String, String)>>(pairs: &[(&str, &str)]) -> M {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        }
        let deployment = wire::Deployment {
            service: "f".into(),
            image: "a/b:1".into(),
            annotations: Some(map(annotations)),
            env_vars: Some(map(own)),
            ..Default::default()
        };
        let spec = FunctionSpec::try_from(&deployment).expect("valid");
        let config = ImageConfig {
            env: image.iter().map(|line| (*line).into()).collect(),
            cmd: vec!["fwatchdog".into()],
            ..Default::default()
        };
        Revision {
            number: 1,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            default_memory: true,
            image: ResolvedImage {
                image: spec.image.clone(),
                digest: String::new(),
                manifest_digest: String::new(),
                config,
                size: 0,
            },
            spec: spec.into(),
            deployment: deployment.into(),
        }
    }

    /// The variables that the templates of OpenFaaS set.
    const TEMPLATE: [&str; 3] =
        ["fprocess=python index.py", "mode=http", "upstream_url=http://127.0.0.1:5000"];

    fn asked(
        annotations: &[(&str, &str)],
        own: &[(&str, &str)],
        image: &[&str],
    ) -> (String, Answer, Option<u16>) {
        let Question { path, answer, server, .. } = Question::of(&revision(annotations, own, image));
        (path, answer, server.map(|server| server.port))
    }

    #[test]
    fn the_server_behind_a_watchdog_that_does_not_ask_it_is_looked_for() {
        let wanted = |answer, server| (READY.to_owned(), answer, server);
        assert_eq!(asked(&[], &[], &TEMPLATE), wanted(Answer::May, Some(5000)));
        // The function's own variables are stronger.
        let own = [("upstream_url", "http://localhost:3000")];
        assert_eq!(asked(&[], &own, &TEMPLATE), wanted(Answer::May, Some(3000)));
        let own = [("http_upstream_url", "http://127.0.0.1:4000")];
        assert_eq!(asked(&[], &own, &TEMPLATE), wanted(Answer::May, Some(4000)));
        assert_eq!(asked(&[], &[("mode", "streaming")], &TEMPLATE), wanted(Answer::May, None));
        assert_eq!(asked(&[], &[("upstream_url", "")], &TEMPLATE), wanted(Answer::May, None));
        // One that asks it need not be helped.
        let own = [("ready_path", "/up")];
        assert_eq!(asked(&[], &own, &TEMPLATE), wanted(Answer::PassedOn, None));
        let asking = [&TEMPLATE[..], &["ready_path=/up"]].concat();
        assert_eq!(asked(&[], &[], &asking), wanted(Answer::PassedOn, None));
        assert_eq!(asked(&[], &[("ready_path", "")], &asking), wanted(Answer::May, Some(5000)));
        // It is passed on in every mode, to a script too.
        assert_eq!(asked(&[], &own, &["fprocess=sh"]), wanted(Answer::PassedOn, None));
        // The last of several lines counts.
        let twice = [&TEMPLATE[..], &["upstream_url=http://127.0.0.1:6000"]].concat();
        assert_eq!(asked(&[], &[], &twice), wanted(Answer::May, Some(6000)));
    }

    #[test]
    fn no_server_is_looked_for_where_none_is_behind_a_watchdog() {
        assert_eq!(asked(&[], &[], &[]), (HEALTH.to_owned(), Answer::May, None));
        assert_eq!(asked(&[], &[], &["upstream_url=http://127.0.0.1:5000"]).2, None);
        // Variables of that name are nothing special elsewhere.
        let mut plain = revision(&[], &[], &TEMPLATE[1..]);
        plain.image.config.cmd = vec!["/server".into()];
        assert_eq!(Question::of(&plain).server, None);
        // But a script may start a watchdog, and this machine's may be put there.
        let mut script = revision(&[], &[], &TEMPLATE);
        script.image.config.cmd = vec!["/entrypoint.sh".into()];
        assert_eq!(Question::of(&script).server.map(|server| server.port), Some(5000));
    }

    #[test]
    fn an_annotated_path_that_the_server_answers_needs_no_second_look() {
        for (path, own, server) in [
            ("/up", "", None),
            ("/_/readyish", "", None),
            ("/_/ready", "", Some(5000)),
            ("/_/ready?all", "", Some(5000)),
            ("/_/ready", "/up", None),
            ("/_/health", "", Some(5000)),
            ("/_/health", "/up", Some(5000)),
        ] {
            let annotations = [("com.openfaas.ready.http.path", path)];
            let found = asked(&annotations, &[("ready_path", own)], &TEMPLATE);
            assert_eq!(found, (path.to_owned(), Answer::Must, server), "{path} {own}");
        }
    }

    #[test]
    fn a_port_of_this_host_is_found_in_an_address_and_no_other() {
        let found: HashMap<&str, Option<u16>> = [
            ("http://127.0.0.1:5000", Some(5000)),
            ("http://127.0.0.1:5000/base?x=1", Some(5000)),
            ("HTTP://LocalHost:3000/", Some(3000)),
            ("http://127.1.2.3:81", None),
            ("http://0.0.0.0:8082", Some(8082)),
            ("http://[::1]:3000/v1", Some(3000)),
            ("http://[::1]", Some(80)),
            ("http://user:word@localhost:9/", Some(9)),
            ("http://localhost", Some(80)),
            ("https://127.0.0.1", Some(443)),
            ("localhost:3000/", Some(3000)),
            (":9000", Some(9000)),
            ("http://localhost:", Some(80)),
            ("http://localhost:0", None),
            ("http://localhost:x", None),
            ("http://localhost:70000", None),
            ("http://example.org:5000", None),
            ("http://10.0.0.1:5000", None),
            ("http://gateway:8080", None),
            ("unix:///tmp/server.sock", None),
            ("fd://3", None),
        ]
        .into();
        for (url, port) in found {
            assert_eq!(loopback_port(url), port, "{url}");
        }
    }

    #[test]
    fn a_watchdog_that_passes_the_question_on_answers_for_nobody_with_5xx() {
        let ready = |answer: Answer| {
            let codes = [200, 204, 404, 429, 500, 502, 503, 504];
            codes.map(|code| answer.is_ready(StatusCode::from_u16(code).expect("a status")))
        };
        assert_eq!(ready(Answer::Must), [true, true, false, false, false, false, false, false]);
        assert_eq!(ready(Answer::May), [true, true, true, false, true, true, false, true]);
        assert_eq!(ready(Answer::PassedOn), [true, true, true, false, false, false, false, false]);
    }
}
