//! `openwhisk`: the protocol of `OpenWhisk`'s action containers, `/init` and `/run`. Without `upstream_url`, it is
//! spoken to callers, in front of a command; with it, to a server that is such an action, for callers that know
//! nothing of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::call::Call;
use super::cgi;
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
    /// The variables that `/init` brought, once it has.
    initialized: RefCell<Option<Map<String, Value>>>,
    _ended: oneshot::Sender<String>,
}

/// An action that is called as a function.
#[derive(Debug)]
pub(super) struct Client {
    proxy: Proxy,
    /// What `/init` is sent, until it was answered.
    init: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Init {
    #[serde(default)]
    value: InitValue,
}

#[derive(Default, Deserialize)]
struct InitValue {
    #[serde(default)]
    env: Map<String, Value>,
}

impl Whisk {
    pub(super) fn start(shared: &Arc<Shared>, ended: oneshot::Sender<String>) -> Result<Self, String> {
        let settings = &shared.settings;
        if settings.upstream.given {
            let proxy = Proxy::start(shared, ended)?;
            let init = Mutex::new(Some(init(settings)?));
            return Ok(Self::Client(Client { proxy, init }));
        }
        let initialized = RefCell::new(None);
        let program = Program::new(&settings.command).map_err(|error| settings.cannot_start(&error))?;
        Ok(Self::Action(Action { program, initialized, _ended: ended }))
    }

    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        let Call { request, body, answer, shared, .. } = call;
        let whole = body.whole().await?;
        let (status, value) = match self {
            Self::Action(action) => match (request.method, cgi::split(request.target).0) {
                ("POST", "/init") => action.init(&whole),
                ("POST", "/run") => action.run(&whole, shared).await?,
                _ => (StatusCode::NOT_FOUND, json!({ "error": "an action has POST /init and POST /run" })),
            },
            Self::Client(client) => client.call(request, &whole, &shared.settings).await?,
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
            Ok(_) if self.initialized.borrow().is_some() => {
                (StatusCode::FORBIDDEN, json!({ "error": "the action is initialized already" }))
            }
            Ok(init) => {
                *self.initialized.borrow_mut() = Some(init.value.env);
                (StatusCode::OK, json!({ "ok": true }))
            }
        }
    }

    /// Those of `/init`, and those of a run, which go before them.
    fn variables(&self, run: &Map<String, Value>) -> Vec<CString> {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut all = BTreeMap::new();
        for (name, value) in self.initialized.borrow().iter().flatten() {
            all.insert(name.clone(), plain(value));
        }
        for (name, value) in run {
            all.insert(format!("__OW_{}", name.to_uppercase()), plain(value));
        }
        all.iter().filter_map(|(name, value)| variable(name.as_bytes(), value.as_bytes())).collect()
    }

    async fn run(&self, body: &[u8], shared: &Shared) -> Result<(StatusCode, Value), Failure> {
        let mut run: Map<String, Value> = match serde_json::from_slice(body) {
            Ok(run) => run,
            Err(error) => return Ok((StatusCode::BAD_REQUEST, json!({ "error": format!("/run: {error}") }))),
        };
        let input = run.remove("value").unwrap_or_else(|| json!({})).to_string();
        let settings = &shared.settings;
        let variables = self.variables(&run);
        let (mut stdin, theirs) = to_process().map_err(Failure::Start)?;
        let mut given = Given { variables, stdin: Some(theirs), ..Given::default() };
        let (mut stdout, theirs) = from_process().map_err(Failure::Start)?;
        given.stdout = Some(theirs);
        let (mut stderr, theirs) = from_process().map_err(Failure::Start)?;
        given.stderr = Some(theirs);
        let mut process = Process::start(&self.program, &given).map_err(Failure::Start)?;
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
    async fn call(
        &self,
        request: &RequestHead<'_, '_>,
        body: &[u8],
        settings: &Settings,
    ) -> Result<(StatusCode, Value), Failure> {
        let value: Value = match body {
            [] => json!({}),
            body => serde_json::from_slice(body).map_err(|error| {
                Failure::Request(StatusCode::BAD_REQUEST, format!("an action takes a JSON object: {error}"))
            })?,
        };
        let limit = settings.exec_timeout.unwrap_or(NO_LIMIT);
        let call = request.header(Header::CallId).unwrap_or_default();
        let call = String::from_utf8_lossy(call);
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let run = json!({
            "value": value,
            "namespace": "_",
            "action_name": "function",
            "activation_id": call,
            "transaction_id": call,
            "deadline": milliseconds(now.saturating_add(limit)),
        });
        let work = async {
            let mut init = self.init.lock().await;
            if let Some(body) = &*init {
                let (status, text) = self.proxy.post("/init", body.as_bytes()).await?;
                // It was initialized by a call that did not wait for the end of it.
                let known = StatusCode::FORBIDDEN.as_u16();
                if status != 200 && status != known {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return Err(Failure::Upstream(format!("the action's /init answered {status}: {text}")));
                }
                *init = None;
            }
            drop(init);
            self.proxy.post("/run", run.to_string().as_bytes()).await
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
