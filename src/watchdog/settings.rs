//! The variables that a function image sets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use quantity::{Memory, parse_duration};

/// Where requests come in, unless `port` says otherwise.
pub(super) const PORT: u16 = 8080;
/// Where metrics are asked for.
const METRICS_PORT: u16 = 8081;
/// A limit that is not given.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than anything takes.
pub(super) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Where a server is expected whose address is not given.
const UPSTREAM_PORT: u16 = 5000;
/// Bytes of a line of output that are kept together.
const LOG_BUFFER: usize = 64 << 10;
/// Default of `max_body_memory`, in bytes.
const BODY_MEMORY: u64 = 32 << 20;
/// Default of `max_body_disk`, in bytes.
const BODY_DISK: u64 = 512 << 20;

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A process for each, whose output is passed on as it comes.
    Streaming,
    /// A process for each, whose output is passed on when it has ended.
    Serializing,
    /// The same, as the first of the watchdogs did it.
    Classic,
    /// Passed on to a server.
    Http,
    /// A file is sent.
    Static,
    /// Passed on to one process over its stdin.
    Afterburn,
    /// The protocol of `OpenWhisk`, in front of a command or of a server that speaks it.
    OpenWhisk,
}

/// All that can be set.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) port: u16,
    pub(super) metrics_port: u16,
    /// The command and its arguments.
    pub(super) command: Vec<String>,
    pub(super) mode: Mode,
    /// The server, and the path before those of requests.
    pub(super) upstream: Upstream,
    /// For the whole of a request to arrive.
    pub(super) read_timeout: Duration,
    /// From a request's head to the end of its answer.
    pub(super) write_timeout: Duration,
    /// For the process to answer.
    pub(super) exec_timeout: Option<Duration>,
    /// Between failing the health check and taking no more requests.
    pub(super) healthcheck_interval: Duration,
    /// Requests at the same time.
    pub(super) max_inflight: Option<usize>,
    /// Limits for buffered bodies in memory and on disk, in bytes, for all requests together.
    pub(super) max_body_memory: u64,
    pub(super) max_body_disk: u64,
    /// The directory of bodies on disk.
    pub(super) spool_path: PathBuf,
    pub(super) content_type: Option<String>,
    pub(super) combine_output: bool,
    pub(super) cgi_headers: bool,
    pub(super) buffer_body: bool,
    pub(super) prefix_logs: bool,
    pub(super) log_buffer_size: usize,
    pub(super) log_call_id: bool,
    pub(super) static_path: PathBuf,
    pub(super) ready_path: Option<String>,
    pub(super) suppress_lock: bool,
    pub(super) write_debug: bool,
    pub(super) marshal_request: bool,
    /// The code that an action is given, and what of it is called.
    pub(super) openwhisk_code: Option<PathBuf>,
    pub(super) openwhisk_main: String,
    pub(super) openwhisk_concurrent: bool,
}

/// A server on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// Without a slash at its end.
    pub(super) path: String,
    /// Somebody said where it is.
    pub(super) given: bool,
}

/// Reads variables, and collects what is wrong with them.
struct Reader<F> {
    variable: F,
    faults: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// The last of these variables that is set to something.
    fn text(&self, names: &[&str]) -> Option<(String, String)> {
        let mut found =
            names.iter().rev().filter_map(|name| Some(((*name).to_owned(), (self.variable)(name)?)));
        found.find(|(_, value)| !value.is_empty())
    }

    fn parsed<T>(&mut self, names: &[&str], parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let (name, value) = self.text(names)?;
        match parse(&value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.faults.push(format!("{name}: {reason}"));
                None
            }
        }
    }

    fn time(&mut self, name: &str) -> Option<Duration> {
        self.parsed(&[name], parse_duration)
    }

    /// A time that something may take; none at all means that it has no limit.
    fn limit(&mut self, name: &str) -> Option<Duration> {
        self.time(name).map(|limit| if limit.is_zero() { FOREVER } else { limit })
    }

    fn size(&mut self, name: &str) -> Option<u64> {
        self.parsed(&[name], Memory::parse_any)
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str) -> Option<T> {
        self.parsed(&[name], |text| {
            text.parse().map_err(|_| format!("{text:?} is not a number that can be used"))
        })
    }

    fn switch(&mut self, names: &[&str], default: bool) -> bool {
        let parse = |text: &str| match text {
            "true" | "True" | "TRUE" | "1" | "t" | "T" => Ok(true),
            "false" | "False" | "FALSE" | "0" | "f" | "F" => Ok(false),
            _ => Err(format!("{text:?} is neither true nor false")),
        };
        self.parsed(names, parse).unwrap_or(default)
    }
}

impl Settings {
    /// Says that the command cannot be started.
    pub(super) fn cannot_start(&self, error: &std::io::Error) -> String {
        format!("{}: {error}", self.command[0])
    }

    /// Reads all of them; or says all that is wrong with them.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let mut from = Reader { variable, faults: Vec::new() };
        let mode = from.parsed(&["mode"], mode).unwrap_or_else(|| {
            // Images of the first watchdog set these, and no mode, which it did not have.
            let classic = ["combine_output", "marshal_request", "write_debug"];
            if classic.iter().any(|name| from.text(&[name]).is_some()) {
                Mode::Classic
            } else {
                Mode::Streaming
            }
        });
        // On single spaces, without quoting: that is how it has always been.
        let command = from.text(&["fprocess", "function_process"]).map(|(_, text)| text).unwrap_or_default();
        let command: Vec<String> = match command.trim() {
            "" => Vec::new(),
            command => command.split(' ').map(str::to_owned).collect(),
        };
        let upstream = from.parsed(&["upstream_url", "http_upstream_url"], upstream);
        let exec_timeout = from.limit("exec_timeout").unwrap_or(TIMEOUT);
        // A limit that nobody set does not cut short one that somebody did.
        let unset = TIMEOUT.max(exec_timeout);
        let read_timeout = from.limit("read_timeout").unwrap_or(unset);
        let write_timeout = from.limit("write_timeout").unwrap_or(unset);
        let settings = Self {
            port: from.number("port").unwrap_or(PORT),
            metrics_port: from.number("metrics_port").unwrap_or(METRICS_PORT),
            mode,
            upstream: upstream.unwrap_or_else(|| Upstream {
                address: (Ipv4Addr::LOCALHOST, UPSTREAM_PORT).into(),
                path: String::new(),
                given: false,
            }),
            read_timeout,
            write_timeout,
            exec_timeout: Some(exec_timeout).filter(|limit| *limit != FOREVER),
            // Without end, it would never leave while there are requests.
            healthcheck_interval: from.time("healthcheck_interval").unwrap_or(match write_timeout {
                FOREVER => TIMEOUT,
                limit => limit,
            }),
            max_inflight: from.number("max_inflight").filter(|limit| *limit > 0),
            max_body_memory: from.size("max_body_memory").unwrap_or(BODY_MEMORY),
            max_body_disk: from.size("max_body_disk").unwrap_or(BODY_DISK),
            spool_path: from.text(&["TMPDIR"]).map_or_else(|| "/tmp".into(), |(_, text)| text.into()),
            content_type: from.text(&["content_type"]).map(|(_, text)| text),
            combine_output: from.switch(&["combined_output", "combine_output"], mode == Mode::Classic),
            cgi_headers: from.switch(&["cgi_headers"], true),
            buffer_body: from.switch(&["buffer_http", "http_buffer_req_body"], false),
            prefix_logs: from.switch(&["prefix_logs"], true),
            log_buffer_size: from.number("log_buffer_size").unwrap_or(LOG_BUFFER).max(1),
            log_call_id: from.switch(&["log_callid", "log_call_id"], false),
            static_path: from
                .text(&["static_path"])
                .map_or_else(|| "/home/app/public".into(), |(_, text)| text.into()),
            ready_path: from.text(&["ready_path"]).map(|(_, text)| text),
            suppress_lock: from.switch(&["suppress_lock"], false),
            write_debug: from.switch(&["write_debug"], false),
            marshal_request: from.switch(&["marshal_request"], false),
            openwhisk_code: from.text(&["openwhisk_code"]).map(|(_, text)| text.into()),
            openwhisk_main: from.text(&["openwhisk_main"]).map_or_else(|| "main".into(), |(_, text)| text),
            openwhisk_concurrent: from.switch(&["__OW_ALLOW_CONCURRENT"], false),
            command,
        };
        let served_elsewhere = mode == Mode::OpenWhisk && settings.upstream.given;
        if settings.command.is_empty() && mode != Mode::Static && !served_elsewhere {
            from.faults.push("fprocess: give the command, such as fprocess=\"python3 index.py\"".into());
        }
        if settings.content_type.as_deref().is_some_and(|text| text.bytes().any(|byte| byte < b' ')) {
            from.faults.push("content_type: it has a control character".into());
        }
        if from.faults.is_empty() { Ok(settings) } else { Err(from.faults) }
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    Ok(match text {
        "streaming" => Mode::Streaming,
        "serializing" => Mode::Serializing,
        "classic" => Mode::Classic,
        "http" => Mode::Http,
        "static" => Mode::Static,
        "afterburn" => Mode::Afterburn,
        "openwhisk" => Mode::OpenWhisk,
        _ => {
            return Err(format!(
                "{text:?} is none of streaming, serializing, classic, http, static, afterburn, openwhisk"
            ));
        }
    })
}

/// `http://127.0.0.1:5000/path`, of which all but the port may be left out.
fn upstream(text: &str) -> Result<Upstream, String> {
    let wrong = || format!("{text:?} is not the address of a server here: write http://127.0.0.1:5000");
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
        None => (authority, 80),
    };
    // Names of other machines would ask for a resolver, and for a function that is somewhere else.
    let host: IpAddr = match host {
        "localhost" | "" => Ipv4Addr::LOCALHOST.into(),
        host => host.trim_matches(['[', ']']).parse().map_err(|_| wrong())?,
    };
    Ok(Upstream { address: (host, port).into(), path: path.trim_end_matches('/').to_owned(), given: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        Settings::read(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_second_spelling_wins_and_a_command_is_split_on_single_spaces() {
        let settings = read(&[("fprocess", "cat"), ("function_process", "sh -c  'a b'")]).expect("valid");
        assert_eq!(settings.command, ["sh", "-c", "", "'a", "b'"]);
        let settings = read(&[("fprocess", "cat"), ("function_process", "")]).expect("valid");
        assert_eq!(settings.command, ["cat"]);
    }

    #[test]
    fn times_are_seconds_or_as_go_writes_them() {
        let given = [("fprocess", "cat"), ("exec_timeout", "1m30s"), ("read_timeout", "5")];
        let settings = read(&given).expect("valid");
        assert_eq!(settings.exec_timeout, Some(Duration::from_secs(90)));
        assert_eq!(settings.read_timeout, Duration::from_secs(5));
        assert_eq!(settings.write_timeout, Duration::from_secs(90), "not shorter than what was asked for");
        assert_eq!(settings.healthcheck_interval, settings.write_timeout);
        let settings = read(&[("fprocess", "cat"), ("exec_timeout", "0")]).expect("valid");
        assert_eq!(settings.exec_timeout, None);
        assert_eq!(settings.write_timeout, FOREVER, "not cut off by a limit that nobody set");
        assert_eq!(settings.healthcheck_interval, TIMEOUT);
        let given = [("fprocess", "cat"), ("exec_timeout", "0"), ("write_timeout", "5")];
        assert_eq!(read(&given).expect("valid").write_timeout, Duration::from_secs(5));
        let given = [("fprocess", "cat"), ("write_timeout", "0"), ("read_timeout", "0")];
        let settings = read(&given).expect("valid");
        assert_eq!((settings.read_timeout, settings.write_timeout), (FOREVER, FOREVER));
    }

    #[test]
    fn images_of_the_first_watchdog_are_known_by_their_variables() {
        let mode = |variables: &[(&str, &str)]| {
            let all: Vec<_> = [("fprocess", "cat")].iter().chain(variables).copied().collect();
            let settings = read(&all).expect("valid");
            (settings.mode, settings.combine_output)
        };
        assert_eq!(mode(&[]), (Mode::Streaming, false));
        assert_eq!(mode(&[("write_debug", "false")]), (Mode::Classic, true));
        assert_eq!(mode(&[("combine_output", "false")]), (Mode::Classic, false));
        assert_eq!(mode(&[("mode", "http"), ("write_debug", "true")]), (Mode::Http, false));
        assert_eq!(mode(&[("mode", "serializing"), ("combined_output", "true")]), (Mode::Serializing, true));
    }

    #[test]
    fn a_server_is_on_this_machine() {
        for (text, address, path) in [
            ("http://127.0.0.1:3000", "127.0.0.1:3000", ""),
            ("localhost:3000/", "127.0.0.1:3000", ""),
            ("http://[::1]:3000/v1/", "[::1]:3000", "/v1"),
            ("http://127.0.0.1", "127.0.0.1:80", ""),
            (":9000", "127.0.0.1:9000", ""),
        ] {
            let found = upstream(text).expect(text);
            assert_eq!((found.address.to_string().as_str(), found.path.as_str()), (address, path), "{text}");
        }
        for text in ["https://127.0.0.1:1", "http://example.org:80", "http://127.0.0.1:x"] {
            assert!(upstream(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_said_at_once() {
        let faults = read(&[("mode", "turbo"), ("exec_timeout", "soon"), ("max_inflight", "-1")])
            .expect_err("they are wrong");
        assert_eq!(faults.len(), 4, "{faults:?}");
        for (fault, name) in faults.iter().zip(["mode: ", "exec_timeout: ", "max_inflight: ", "fprocess: "]) {
            assert!(fault.starts_with(name), "{fault}");
        }
    }
}
