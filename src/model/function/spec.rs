//! A deploy request, parsed: the only way from what a client sent to what the rest works with.
//!
//! The spec is not serialised. What is stored and answered is the request as it came
//! ([`crate::wire::Deployment`]), so that a client reads back what it wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use schedule::Schedule;

use super::cron::{CronSettings, TOPIC, jitter};
use super::{
    Cpu, FunctionKey, FunctionName, HandlerDigest, ImageRef, Invalid, Memory, NamespaceName, Probe, Probes,
    PullPolicy, RetrySettings, SecretName, attempts, parse_duration,
};
use crate::wire;

/// The port that a function serves on, unless `ingle.port` says otherwise.
const DEFAULT_PORT: u16 = 8080;
/// Replicas at most, unless `com.openfaas.scale.max` says otherwise.
const DEFAULT_MAX_REPLICAS: u32 = 20;
/// More than one machine runs.
const MOST_REPLICAS: u32 = 1000;
/// All labels, annotations and variables of a function together may have this many bytes: they are
/// kept in memory and in one record of the store.
const MAX_TEXT: usize = 64 << 10;

/// The settings that are ingle's own.
const OWN_SETTINGS: [&str; 12] = [
    "ingle.32bit",
    "ingle.body-limit",
    "ingle.capabilities",
    "ingle.cron-jitter",
    "ingle.cron-missed",
    "ingle.cron-overlap",
    "ingle.handler",
    "ingle.parallel-calls",
    "ingle.pids",
    "ingle.port",
    "ingle.pull-policy",
    "ingle.timeout",
];

/// What one function is: every field checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Its name and namespace.
    pub key: FunctionKey,
    /// The image, as named by the client.
    pub image: ImageRef,
    /// The command that the watchdog runs, if it is given (`fprocess`).
    pub env_process: Option<String>,
    /// `ingle.handler`: its code, if that is not part of the image.
    pub handler: Option<HandlerDigest>,
    /// Environment variables, without those of the image.
    pub env_vars: BTreeMap<String, String>,
    /// Secrets to mount.
    pub secrets: Vec<SecretName>,
    /// Labels, as sent.
    pub labels: BTreeMap<String, String>,
    /// Annotations, as sent.
    pub annotations: BTreeMap<String, String>,
    /// What it may use at most.
    pub limits: Resources,
    /// What it asks for.
    pub requests: Resources,
    /// Whether its root file system is read-only, with a tmpfs at `/tmp`.
    pub read_only_root: bool,
    /// `ingle.pull-policy`; the configuration's default if `None`.
    pub pull_policy: Option<PullPolicy>,
    /// `ingle.timeout`, else the variable `exec_timeout`; the configuration's default if `None`.
    pub timeout: Option<Duration>,
    /// `ingle.body-limit` in bytes; the configuration's default if `None`.
    pub body_limit: Option<u64>,
    /// `ingle.port`: where it serves.
    pub port: u16,
    /// `ingle.capabilities`: Linux capabilities to add, with their `CAP_` prefix.
    pub capabilities: Vec<String>,
    /// `ingle.32bit`: whether it may run programs for the processor's 32-bit predecessors.
    pub programs_32bit: bool,
    /// `ingle.pids`: how many processes and threads it may have; the configuration's default if `None`.
    pub pids: Option<u32>,
    /// How many replicas.
    pub scale: Scale,
    /// How queued calls are made.
    pub asynchronous: Asynchronous,
    /// When it is called by itself, if it is.
    pub cron: Option<CronSettings>,
    /// How to find out whether a replica can serve.
    pub probes: Probes,
}

/// Memory and cpu, where given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Memory.
    pub memory: Option<Memory>,
    /// Processor time.
    pub cpu: Option<Cpu>,
}

/// How many replicas a function has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// `com.openfaas.scale.min`
    pub min: u32,
    /// `com.openfaas.scale.max`
    pub max: u32,
}

/// How a function's queued calls are made; the configuration's defaults stand in for what is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asynchronous {
    /// `com.openfaas.queue`: the queue that they go to.
    pub queue: Option<Box<str>>,
    /// `ingle.parallel-calls`, else the variable `max_inflight`: how many are made at the same time for each replica.
    pub parallel_calls: Option<usize>,
    /// `com.openfaas.retry.*`
    pub retry: RetrySettings,
}

impl TryFrom<&wire::Deployment> for FunctionSpec {
    type Error = Invalid;

    fn try_from(body: &wire::Deployment) -> Result<Self, Invalid> {
        let name: FunctionName = body.service.parse()?;
        let namespace: NamespaceName = match body.namespace.as_deref() {
            None | Some("") => NamespaceName::default(),
            Some(text) => text.parse()?,
        };
        let labels = body.labels.clone().unwrap_or_default();
        let annotations = body.annotations.clone().unwrap_or_default();
        let env_vars = body.env_vars.clone().unwrap_or_default();
        check_size([&labels, &annotations, &env_vars])?;
        check_variables(&env_vars)?;
        if let Some(other) = labels.get("faas_function").filter(|other| *other != name.as_str()) {
            return Err(Invalid::new(
                "labels.faas_function",
                format!("is {other:?}, but it always holds the function's own name; leave it out"),
            ));
        }
        let settings = Settings { labels: &labels, annotations: &annotations };
        settings.check_clash()?;

        let variable = || env_vars.get("exec_timeout").map(|text| exec_timeout(text)).transpose();
        let timeout = match settings.parse("ingle.timeout", parse_duration)? {
            Some(timeout) => Some(timeout),
            None => variable().map_err(|reason| Invalid::new("envVars.exec_timeout", reason))?.flatten(),
        };
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Invalid::new("annotations.ingle.timeout", "is 0; a function needs time to answer"));
        }
        let secrets = body.secrets.iter().flatten().map(|secret| secret.parse()).collect::<Result<_, _>>()?;
        Ok(Self {
            image: body.image.parse()?,
            env_process: body.env_process.clone().filter(|text| !text.is_empty()),
            handler: settings
                .parse("ingle.handler", |text| text.parse().map_err(|error: Invalid| error.reason))?,
            secrets,
            limits: resources("limits", body.limits.as_ref(), Memory::parse)?,
            requests: resources("requests", body.requests.as_ref(), Memory::parse_request)?,
            read_only_root: body.read_only_root_filesystem.unwrap_or(false),
            pull_policy: settings.parse("ingle.pull-policy", str::parse)?,
            timeout,
            body_limit: settings.parse("ingle.body-limit", Memory::parse_any)?,
            port: settings.parse("ingle.port", port)?.unwrap_or(DEFAULT_PORT),
            capabilities: settings.parse("ingle.capabilities", capabilities)?.unwrap_or_default(),
            programs_32bit: settings.parse("ingle.32bit", switch)?.unwrap_or(false),
            pids: settings.parse("ingle.pids", positive)?,
            scale: scale(&settings)?,
            asynchronous: asynchronous(&settings, &env_vars)?,
            cron: cron(&settings)?,
            probes: Probes {
                ready: probe(&settings, "com.openfaas.ready.http")?,
                health: probe(&settings, "com.openfaas.health.http")?,
            },
            key: FunctionKey::new(name, namespace),
            env_vars,
            labels,
            annotations,
        })
    }
}

impl FunctionSpec {
    /// Refuses labels and annotations that look like a setting of ours and are none: a slip of the pen would
    /// otherwise go unseen. For what is deployed now; what was stored by a later version still runs.
    pub fn check_settings(&self) -> Result<(), Invalid> {
        for (place, map) in [("annotations", &self.annotations), ("labels", &self.labels)] {
            let unknown = |key: &&String| key.starts_with("ingle.") && !OWN_SETTINGS.contains(&key.as_str());
            if let Some(key) = map.keys().find(unknown) {
                return Err(Invalid::new(
                    format!("{place}.{key}"),
                    format!("is not a setting; there are {}", OWN_SETTINGS.join(", ")),
                ));
            }
        }
        Ok(())
    }
}

/// Settings by label or annotation: users put them in either, so each is read from both.
struct Settings<'a> {
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
}

impl Settings<'_> {
    /// A setting that stands in both places must have one value.
    fn check_clash(&self) -> Result<(), Invalid> {
        let is_setting = |key: &str| key.starts_with("com.openfaas.") || key.starts_with("ingle.");
        for (key, label) in self.labels.iter().filter(|(key, _)| is_setting(key)) {
            if let Some(annotation) = self.annotations.get(key).filter(|annotation| *annotation != label) {
                return Err(Invalid::new(
                    format!("labels.{key}"),
                    format!(
                        "is {label:?}, but the annotation of that name is {annotation:?}; keep one of them"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn has(&self, key: &str) -> bool {
        self.annotations.contains_key(key) || self.labels.contains_key(key)
    }

    fn parse<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Invalid> {
        let (place, text) = match (self.annotations.get(key), self.labels.get(key)) {
            (Some(text), _) => ("annotations", text),
            (None, Some(text)) => ("labels", text),
            (None, None) => return Ok(None),
        };
        parse(text).map(Some).map_err(|reason| Invalid::new(format!("{place}.{key}"), reason))
    }
}

fn check_size(maps: [&BTreeMap<String, String>; 3]) -> Result<(), Invalid> {
    let size: usize = maps.into_iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
    if size > MAX_TEXT {
        return Err(Invalid::new(
            "labels, annotations, envVars",
            format!(
                "hold {size} bytes together; at most {MAX_TEXT} are kept (put large values into a secret)"
            ),
        ));
    }
    Ok(())
}

/// Reads the variable `exec_timeout`. `None` if it sets no limit: watchdogs read 0 so, and the gateway always has one.
pub fn exec_timeout(text: &str) -> Result<Option<Duration>, String> {
    let timeout = parse_duration(text)?;
    Ok(Some(timeout).filter(|timeout| !timeout.is_zero()))
}

fn check_variables(env_vars: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (key, value) in env_vars {
        if key.is_empty() || key.contains('=') || key.contains('\0') {
            return Err(Invalid::new("envVars", format!("{key:?} cannot be the name of a variable")));
        }
        if value.contains('\0') {
            return Err(Invalid::new(format!("envVars.{key}"), "contains a NUL byte"));
        }
    }
    Ok(())
}

/// Reads limits or requests. Zero sets nothing, as with Kubernetes.
fn resources(
    field: &str,
    sent: Option<&wire::Resources>,
    memory: fn(&str) -> Result<Memory, String>,
) -> Result<Resources, Invalid> {
    let Some(sent) = sent else { return Ok(Resources::default()) };
    Ok(Resources {
        memory: amount(field, "memory", &sent.memory, memory)?.filter(|memory| memory.bytes() > 0),
        cpu: amount(field, "cpu", &sent.cpu, Cpu::parse)?.filter(|cpu| cpu.millis() > 0),
    })
}

fn amount<T>(
    field: &str,
    name: &str,
    text: &Option<String>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Invalid> {
    let given = text.as_deref().filter(|text| !text.is_empty());
    given.map(parse).transpose().map_err(|reason| Invalid::new(format!("{field}.{name}"), reason))
}

fn positive(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("{text:?} is not a number above 0"))
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{text:?} is not a port (1 to 65535)"))
}

/// Reads names of capabilities with commas between them.
pub fn capabilities(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(capability).collect()
}

/// Reads the name of a capability, and spells it as the kernel's documents do.
pub fn capability(word: &str) -> Result<String, String> {
    let upper = word.to_ascii_uppercase();
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    // The OCI types know all of them by their serialised names.
    match serde_json::from_value::<oci_spec::runtime::Capability>(name.as_str().into()) {
        Ok(_) => Ok(name),
        Err(_) => Err(format!("{word:?} is not a Linux capability")),
    }
}

fn asynchronous(
    settings: &Settings<'_>,
    env_vars: &BTreeMap<String, String>,
) -> Result<Asynchronous, Invalid> {
    let number = |text: &str| positive(text).map(|number| number as usize);
    let parallel_calls = match settings.parse("ingle.parallel-calls", number)? {
        Some(given) => Some(given),
        // What the watchdog cannot read, it says; 0 is no limit there.
        None => env_vars.get("max_inflight").and_then(|text| number(text).ok()),
    };
    let retry = RetrySettings {
        attempts: settings.parse("com.openfaas.retry.attempts", attempts)?,
        codes: settings.parse("com.openfaas.retry.codes", str::parse)?,
        min_wait: settings.parse("com.openfaas.retry.min_wait", parse_duration)?,
        max_wait: settings.parse("com.openfaas.retry.max_wait", parse_duration)?,
    };
    if let (Some(min), Some(max)) = (retry.min_wait, retry.max_wait)
        && max < min
    {
        let text = format!("is {max:?}, less than com.openfaas.retry.min_wait, which is {min:?}");
        return Err(Invalid::new("com.openfaas.retry.max_wait", text));
    }
    Ok(Asynchronous {
        queue: settings.parse("com.openfaas.queue", |text| match text {
            CALLBACKS => Err(format!("{CALLBACKS} is for callbacks: take another name")),
            _ => check_queue_name(text).map(|()| text.into()),
        })?,
        parallel_calls,
        retry,
    })
}

/// The queue of callbacks, which no function's calls go to.
pub const CALLBACKS: &str = "callbacks";
/// A schedule counts for the topic that is ours: with another one it is somebody else's, and none is a slip of the pen.
fn cron(settings: &Settings<'_>) -> Result<Option<CronSettings>, Invalid> {
    let topic = settings.parse("topic", |text| Ok(text.to_owned()))?;
    let ours = topic.as_deref().is_some_and(|topic| topic.split(',').any(|topic| topic.trim() == TOPIC));
    if !ours {
        if settings.has("schedule") && topic.is_none() {
            let reason = format!("does nothing alone: add the annotation topic: {TOPIC}, or leave it out");
            return Err(Invalid::new("annotations.schedule", reason));
        }
        let own = OWN_SETTINGS.iter().filter(|key| key.starts_with("ingle.cron-"));
        return match own.copied().find(|key| settings.has(key)) {
            Some(key) => Err(Invalid::new(
                format!("annotations.{key}"),
                format!("does nothing without a schedule: add the annotations topic: {TOPIC} and schedule"),
            )),
            None => Ok(None),
        };
    }
    let parse = |text: &str| Ok((Box::from(text), Schedule::parse(text)?));
    let Some((text, schedule)) = settings.parse("schedule", parse)? else {
        let reason =
            format!("is {TOPIC}, but there is no schedule: add the annotation schedule, as in \"0 6 * * *\"");
        return Err(Invalid::new("annotations.topic", reason));
    };
    Ok(Some(CronSettings {
        text,
        schedule,
        overlap: settings.parse("ingle.cron-overlap", str::parse)?.unwrap_or_default(),
        missed: settings.parse("ingle.cron-missed", str::parse)?.unwrap_or_default(),
        jitter: settings.parse("ingle.cron-jitter", jitter)?.unwrap_or_default(),
    }))
}

/// Refuses what cannot be the name of a queue.
pub fn check_queue_name(text: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !text.is_empty() && text.len() <= 63 && text.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(format!("{text:?} is not the name of a queue: up to 63 letters, digits, '-', '_' and '.'"))
}

fn scale(settings: &Settings<'_>) -> Result<Scale, Invalid> {
    let replicas = |text: &str| match positive(text)? {
        1..=MOST_REPLICAS => positive(text),
        _ => Err(format!("{text} are more replicas than one machine runs; at most {MOST_REPLICAS}")),
    };
    let min = settings.parse("com.openfaas.scale.min", replicas)?.unwrap_or(1);
    let max =
        settings.parse("com.openfaas.scale.max", replicas)?.unwrap_or_else(|| DEFAULT_MAX_REPLICAS.max(min));
    if max < min {
        return Err(Invalid::new(
            "com.openfaas.scale.max",
            format!("is {max}, less than com.openfaas.scale.min, which is {min}"),
        ));
    }
    Ok(Scale { min, max })
}

fn probe(settings: &Settings<'_>, prefix: &str) -> Result<Option<Probe>, Invalid> {
    let key = |name: &str| format!("{prefix}.{name}");
    let path = settings.parse(&key("path"), |text| {
        if text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok() {
            Ok(text.to_owned())
        } else {
            Err(format!("{text:?} is not a path; write one such as /healthz"))
        }
    })?;
    let Some(path) = path else { return Ok(None) };
    let default = Probe::default();
    let seconds = |name: &str, or: Duration| -> Result<Duration, Invalid> {
        Ok(settings.parse(&key(name), parse_duration)?.unwrap_or(or))
    };
    Ok(Some(Probe {
        path,
        initial_delay: seconds("initialDelaySeconds", default.initial_delay)?,
        period: seconds("periodSeconds", default.period)?,
        timeout: seconds("timeoutSeconds", default.timeout)?,
        failure_threshold: settings
            .parse(&key("failureThreshold"), positive)?
            .unwrap_or(default.failure_threshold),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(json: &str) -> wire::Deployment {
        serde_json::from_str(json).expect("a deployment")
    }

    fn refused(json: &str) -> Invalid {
        FunctionSpec::try_from(&deployment(json)).expect_err(json)
    }

    #[test]
    fn the_smallest_deployment_has_defaults() {
        let spec =
            FunctionSpec::try_from(&deployment(r#"{"service":"env","image":"a/b:1"}"#)).expect("valid");
        assert_eq!(spec.key.to_string(), "env.openfaas-fn");
        assert_eq!(spec.port, 8080);
        assert_eq!(spec.scale, Scale { min: 1, max: 20 });
        assert_eq!(spec.timeout, None);
    }

    #[test]
    fn resources_of_zero_set_nothing_and_requests_may_be_small() {
        let spec = FunctionSpec::try_from(&deployment(
            r#"{"service":"env","image":"a","limits":{"memory":"0","cpu":"0m"},
                "requests":{"memory":"1Mi","cpu":"0"}}"#,
        ))
        .expect("valid");
        assert_eq!(spec.limits, Resources::default());
        assert_eq!(spec.requests.memory.expect("memory").bytes(), 1 << 20);
        assert_eq!(spec.requests.cpu, None);
    }

    #[test]
    fn settings_are_read_from_labels_and_annotations() {
        let spec = FunctionSpec::try_from(&deployment(
            r#"{"service":"env","image":"a/b:1","labels":{"com.openfaas.scale.min":"2"},
                "annotations":{"ingle.timeout":"90s","ingle.capabilities":"net_bind_service,CAP_CHOWN",
                "com.openfaas.ready.http.path":"/ok","com.openfaas.ready.http.periodSeconds":"2s"},
                "limits":{"memory":"64Mi","cpu":"100m"}}"#,
        ))
        .expect("valid");
        assert_eq!(spec.scale.min, 2);
        assert_eq!(spec.timeout, Some(Duration::from_secs(90)));
        assert_eq!(spec.capabilities, ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"]);
        let ready = spec.probes.ready.expect("a probe");
        assert_eq!((ready.path.as_str(), ready.period), ("/ok", Duration::from_secs(2)));
        assert_eq!(spec.limits.memory.expect("memory").bytes(), 64 << 20);
    }

    #[test]
    fn a_slip_of_the_pen_is_no_setting() {
        let check = |json| FunctionSpec::try_from(&deployment(json)).expect("valid").check_settings();
        let slip = r#"{"service":"a","image":"x","labels":{"ingle.tiemout":"9s"}}"#;
        assert_eq!(check(slip).expect_err("refused").field, "labels.ingle.tiemout");
        let others =
            r#"{"service":"a","image":"x","labels":{"team":"ingle.x","com.openfaas.scale.zero":"true"}}"#;
        assert_eq!(check(others), Ok(()));
        for key in OWN_SETTINGS {
            // Each is read: nothing takes this value.
            let json = format!(r#"{{"service":"a","image":"x","annotations":{{"{key}":"-!"}}}}"#);
            assert_eq!(refused(&json).field, format!("annotations.{key}"));
        }
    }

    #[test]
    fn bad_values_name_their_field() {
        const SCALE: &str = "com.openfaas.scale.min";
        for (sent, field) in [
            (json!({"service": "a/b"}), "service"),
            (json!({"image": ""}), "image"),
            (json!({"namespace": ".."}), "namespace"),
            (json!({"namespace": "b.c"}), "namespace"),
            (json!({"secrets": ["../../etc/shadow"]}), "secret"),
            (json!({"limits": {"memory": "lots"}}), "limits.memory"),
            (json!({"limits": {"memory": "1Mi"}}), "limits.memory"),
            (json!({"limits": {"memory": "-1Gi"}}), "limits.memory"),
            (json!({"requests": {"cpu": "-1"}}), "requests.cpu"),
            (json!({"labels": {"faas_function": "b"}}), "labels.faas_function"),
            (json!({"annotations": {"ingle.timeout": "soon"}}), "annotations.ingle.timeout"),
            (json!({"annotations": {"ingle.timeout": "0"}}), "annotations.ingle.timeout"),
            (json!({"annotations": {"ingle.timeout": "18446744073709551615"}}), "annotations.ingle.timeout"),
            (json!({"labels": {SCALE: "4000000000"}}), "labels.com.openfaas.scale.min"),
            (json!({"annotations": {"ingle.capabilities": "FLY"}}), "annotations.ingle.capabilities"),
            (json!({"annotations": {"ingle.port": "0"}}), "annotations.ingle.port"),
            (json!({"annotations": {"ingle.32bit": "yes"}}), "annotations.ingle.32bit"),
            (json!({"envVars": {"A=B": "c"}}), "envVars"),
            (json!({"labels": {SCALE: "1"}, "annotations": {SCALE: "2"}}), "labels.com.openfaas.scale.min"),
        ] {
            let mut json = json!({"service": "a", "image": "x"});
            json.as_object_mut().expect("an object").extend(sent.as_object().expect("an object").clone());
            let json = json.to_string();
            assert_eq!(refused(&json).field, field, "{json}");
        }
    }
}
