//! `openwhisk`: the protocol of `OpenWhisk`'s action containers, `/init` and `/run`. Without `upstream_url`, it is
//! spoken to callers, in front of a command; with it, to a server that is such an action, for callers that know
//! nothing of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::call::Call;
use super::cgi;
use super::child::Ending;
use super::failure::Failure;
use super::process::{Process, from_process, to_process};
use super::proxy::Proxy;
use super::settings::Settings;
use super::shared::Shared;
use super::spawn::{Given, Program, variable};
use http1::{Header, RequestHead};

/// What ends an activation in both outputs.
const END: &str = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX";
/// The limit that an activation is told of when it has none.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Prefix of the protocol's variables.
const PREFIX: &str = "__OW_";
/// Largest number of variables in one run; the protocol has seven.
const MAX_VARIABLES: usize = 32;
/// Longest JSON that becomes a variable, in bytes. The kernel takes no longer variables.
const MAX_VARIABLE: usize = 128 << 10;

/// One of the two sides.
#[derive(Debug)]
pub(super) enum Whisk {
    /// In front of a command.
    Action(Action),
    /// In front of an action.
    Client(Client),
}

/// A command that is called as an action.
#[derive(Debug)]
pub(super) struct Action {
    program: Arc<Program>,
    /// Whether `/init` was called.
    initialized: Cell<bool>,
    _ended: Ending,
}

/// An action that is called as a function.
#[derive(Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
    proxy: Proxy,
    /// Body of `/init`.
    init: String,
    /// Held for `/init`, and for the whole call unless the action takes several at once.
    state: Mutex<ActionState>,
    takes_several: bool,
}

/// State of an action's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ActionState {
    New,
    Initialized,
    /// It has failed, or a call was given up: it is started anew, as `OpenWhisk` does.
    Spent,
}

#[derive(Deserialize)]
struct Init {
    #[serde(default, rename = "value")]
    _value: InitValue,
}

#[derive(Default, Deserialize)]
struct InitValue {
    #[serde(default, rename = "env")]
    _env: InitVariables,
}

/// The variables in `/init`. Any caller may send it first, and variables that it sets would affect the runs
/// of all other callers. So only those of the protocol are accepted, which each run sends again.
#[derive(Default)]
struct InitVariables;

impl<'de> Deserialize<'de> for InitVariables {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = InitVariables;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of variables")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InitVariables, A::Error> {
                while let Some(name) = map.next_key::<String>()? {
                    if !name.starts_with(PREFIX) {
                        return Err(A::Error::custom(format_args!(
                            "env: {name:?} does not begin with {PREFIX}: set other variables where the function is \
                             deployed"
                        )));
                    }
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(InitVariables)
            }
        }
        from.deserialize_map(Names)
    }
}

/// The body of `/run`: the value, and the keys that become variables.
#[derive(Default)]
struct Run<'a> {
    value: Option<&'a RawValue>,
    variables: BTreeMap<String, String>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Run<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Run<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Run<'de>, A::Error> {
                let mut run = Run::default();
                while let Some(name) = map.next_key::<String>()? {
                    let value: &RawValue = map.next_value()?;
                    if name == "value" {
                        run.value = Some(value);
                    } else {
                        run.add(&name, value.get()).map_err(A::Error::custom)?;
                    }
                }
                Ok(run)
            }
        }
        from.deserialize_map(Keys)
    }
}

impl Run<'_> {
    /// Adds a key that becomes a variable.
    fn add(&mut self, name: &str, json: &str) -> Result<(), String> {
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(format!("{name:?} is not a valid name of a variable: use letters, digits and _"));
        }
        if json.len() > MAX_VARIABLE || self.variables.len() == MAX_VARIABLES {
            return Err(format!(
                "{name} exceeds a limit: at most {MAX_VARIABLES} keys, of at most {MAX_VARIABLE} bytes each"
            ));
        }
        let value = match serde_json::from_str(json).map_err(|error| error.to_string())? {
            Value::String(text) => text,
            value => value.to_string(),
        };
        if value.contains('\0') {
            return Err(format!("{name} contains a zero byte, which a variable cannot"));
        }
        self.variables.insert(format!("{PREFIX}{}", name.to_ascii_uppercase()), value);
        Ok(())
    }
}

impl Whisk {
    pub(super) fn start(shared: &Arc<Shared>, ended: Ending) -> Result<Self, String> {
        let settings = &shared.settings;
        if settings.upstream.given {
            let proxy = Proxy::start(shared, ended)?;
            let takes_several = settings.openwhisk_concurrent;
            let (init, state) = (init(settings)?, Mutex::new(ActionState::New));
            let shared = shared.clone();
            return Ok(Self::Client(Client { shared, proxy, init, state, takes_several }));
        }
        let initialized = Cell::new(false);
        let program = Program::new(&settings.command).map_err(|error| settings.cannot_start(&error))?;
        Ok(Self::Action(Action { program, initialized, _ended: ended }))
    }

    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        let Call { request, body, answer, shared, .. } = call;
        // The JSON is parsed in memory; actions get a few MiB at most.
        let mut whole = shared.spool.read_into_memory(body).await?;
        let whole = whole.bytes();
        if serde_json::from_slice::<IgnoredAny>(whole).is_ok() {
            // Actions read a line. Within its strings, JSON has no line breaks.
            whole.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        }
        let (status, value) = match self {
            Self::Action(action) => match (request.method, cgi::split(request.target).0) {
                ("POST", "/init") => action.init(whole),
                ("POST", "/run") => action.run(whole, shared).await?,
                _ => (StatusCode::NOT_FOUND, json!({ "error": "an action has POST /init and POST /run" })),
            },
            Self::Client(client) => client.call(request, whole).await?,
        };
        let text = value.to_string();
        let reason = status.canonical_reason().unwrap_or_default();
        let headers: &[(&str, &[u8])] = &[("Content-Type", b"application/json")];
        answer.whole(status.as_u16(), reason, headers, text.as_bytes()).await.map_err(Failure::Client)
    }

    pub(super) async fn is_ready(&self, settings: &Settings) -> bool {
        match self {
            Self::Action(_) => true,
            Self::Client(client) => client.proxy.is_ready(settings).await,
        }
    }

    pub(super) async fn stop(&self) {
        if let Self::Client(client) = self {
            client.proxy.stop().await;
        }
    }
}

/// The body of `/init`: with the code, where it is not in the action's image already.
fn init(settings: &Settings) -> Result<String, String> {
    let code = match &settings.openwhisk_code {
        None => Vec::new(),
        Some(path) => {
            std::fs::read(path).map_err(|error| format!("openwhisk_code {}: {error}", path.display()))?
        }
    };
    // What is no text is an archive, or a program.
    let (code, binary) = match String::from_utf8(code) {
        Ok(text) => (text, false),
        Err(error) => (STANDARD.encode(error.into_bytes()), true),
    };
    let main = &settings.openwhisk_main;
    let value = json!({ "name": "function", "main": main, "code": code, "binary": binary, "env": {} });
    Ok(json!({ "value": value }).to_string())
}

impl Action {
    fn init(&self, body: &[u8]) -> (StatusCode, Value) {
        match serde_json::from_slice::<Init>(body) {
            Err(error) => (StatusCode::BAD_REQUEST, json!({ "error": format!("/init: {error}") })),
            Ok(_) if self.initialized.replace(true) => {
                (StatusCode::FORBIDDEN, json!({ "error": "the action is initialized already" }))
            }
            Ok(_) => (StatusCode::OK, json!({ "ok": true })),
        }
    }

    async fn run(&self, body: &[u8], shared: &Shared) -> Result<(StatusCode, Value), Failure> {
        let run: Run<'_> = match serde_json::from_slice(body) {
            Ok(run) => run,
            Err(error) => return Ok((StatusCode::BAD_REQUEST, json!({ "error": format!("/run: {error}") }))),
        };
        let input = run.value.map_or("{}", RawValue::get);
        let settings = &shared.settings;
        let variables = run.variables.iter();
        let variables: Vec<CString> =
            variables.filter_map(|(name, value)| variable(name.as_bytes(), value.as_bytes())).collect();
        let (mut stdin, theirs) = to_process().map_err(Failure::Start)?;
        let mut given = Given { variables, stdin: Some(theirs), ..Given::default() };
        let (mut stdout, theirs) = from_process().map_err(Failure::Start)?;
        given.stdout = Some(theirs);
        let (mut stderr, theirs) = from_process().map_err(Failure::Start)?;
        given.stderr = Some(theirs);
        let process = Process::start(&self.program, &given);
        let mut process =
            process.map_err(|error| Failure::start(error, &given, StatusCode::PAYLOAD_TOO_LARGE))?;
        drop(given);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let work = async {
            let feed = async {
                let _ = stdin.write_all(input.as_bytes()).await;
                drop(stdin);
            };
            // Its output ends with it; a process that it leaves behind is held to the same limit.
            let (end, ..) = tokio::join!(
                process.wait(),
                feed,
                stdout.read_to_end(&mut out),
                stderr.read_to_end(&mut err)
            );
            end
        };
        let ended = timeout(settings.exec_timeout.unwrap_or(Duration::MAX), work).await;
        process.kill();
        let answered = match ended {
            Err(_) => Err("the action did not end within exec_timeout".to_owned()),
            Ok(end) if !end.is_success() => Err(format!("the action failed: {end}")),
            Ok(_) => {
                let text = String::from_utf8_lossy(&out).into_owned();
                let last = text.trim_end().lines().last().unwrap_or_default();
                match serde_json::from_str::<Map<String, Value>>(last) {
                    Ok(result) => {
                        // The result is not part of the log.
                        let length = text.trim_end().len() - last.len();
                        out.truncate(length);
                        Ok(result)
                    }
                    Err(_) => Err("the action's last line is no JSON object".to_owned()),
                }
            }
        };
        for (source, output) in [("stdout", &out), ("stderr", &err)] {
            for line in output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                shared.log.line(source, line, "");
            }
            shared.log.line(source, END.as_bytes(), "");
        }
        Ok(match answered {
            Ok(result) => (StatusCode::OK, Value::Object(result)),
            Err(error) => (StatusCode::BAD_GATEWAY, json!({ "error": error })),
        })
    }
}

impl Client {
    async fn call(&self, request: &RequestHead<'_, '_>, body: &[u8]) -> Result<(StatusCode, Value), Failure> {
        let value = if body.is_empty() { b"{}" } else { body };
        let value: &RawValue = serde_json::from_slice(value).map_err(|error| {
            Failure::Request(StatusCode::BAD_REQUEST, format!("an action takes a JSON object: {error}"))
        })?;
        let limit = self.shared.settings.exec_timeout.unwrap_or(NO_LIMIT);
        let call = request.header(Header::CallId).unwrap_or_default();
        let call = String::from_utf8_lossy(call);
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = json!({
            "namespace": "_",
            "action_name": "function",
            "activation_id": call,
            "transaction_id": call,
            // Text on the wire: a number ends OpenWhisk's runtime for Python.
            "deadline": milliseconds(now.saturating_add(limit)).to_string(),
        });
        // The value goes before the closing brace, unchanged.
        let run = run.to_string();
        let run: [&[u8]; 4] =
            [&run.as_bytes()[..run.len() - 1], b",\"value\":", value.get().as_bytes(), b"}"];
        let work = async {
            let mut state = self.state.lock().await;
            if *state == ActionState::Spent {
                self.proxy.restart(&self.shared).await?;
                *state = ActionState::New;
            }
            if *state == ActionState::New {
                let (status, text) = self.proxy.post("/init", &[self.init.as_bytes()]).await?;
                // It was initialized by a call that did not wait for the end of it.
                let known = StatusCode::FORBIDDEN.as_u16();
                if status != 200 && status != known {
                    *state = ActionState::Spent;
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return Err(Failure::Upstream(format!("the action's /init answered {status}: {text}")));
                }
                *state = ActionState::Initialized;
            }
            if self.takes_several {
                drop(state);
                return self.proxy.post("/run", &run).await;
            }
            // Unless it answers well, also when the call is given up in the middle.
            *state = ActionState::Spent;
            let answer = self.proxy.post("/run", &run).await?;
            if matches!(answer.0, 200 | 503) {
                *state = ActionState::Initialized;
            }
            Ok(answer)
        };
        let late = |_| Failure::late("the action did not answer within exec_timeout");
        let (status, text) = timeout(limit, work).await.map_err(late)??;
        let value: Value =
            serde_json::from_slice(&text).unwrap_or_else(|_| String::from_utf8_lossy(&text).into());
        Ok(match status {
            200 => (StatusCode::OK, value),
            // It leaves: another replica is the right one to ask.
            503 => (StatusCode::SERVICE_UNAVAILABLE, value),
            _ => (StatusCode::BAD_GATEWAY, value),
        })
    }
}
