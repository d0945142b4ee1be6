//! Asks the daemon for what a plan says, and knows what may come of it.

use reqwest::Method;
use serde_json::{Value, json};

use super::load::DEADLINE;
use super::plan::{Operation, Plan, Want};
use super::truth::Truth;
use crate::support::daemon::{Daemon, SAMPLE, address};
use crate::support::http::{Answer, Client};

/// What became of what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    Refused(String),
    /// The daemon died first.
    Unknown,
}

/// What a function may be after a round.
pub(super) type Candidates = Vec<Option<Want>>;

/// The API as the admin uses it, also while the daemon comes and goes.
pub(super) struct Admin {
    client: reqwest::Client,
    base: String,
    password: String,
}

impl Admin {
    pub(super) fn of(daemon: &Daemon) -> Self {
        Self { client: daemon.client.clone(), base: daemon.url(""), password: daemon.password() }
    }

    /// Asks what the plan says of a function that was so.
    pub(super) async fn ask(&self, plan: &Plan, was: Option<Want>, truth: &Truth) -> Outcome {
        let function = plan.function;
        match plan.operation {
            Operation::Deploy { version } | Operation::Update { version } => {
                truth.also(function, Some(version));
                let method = if was.is_some() { Method::PUT } else { Method::POST };
                let mut body = json!({
                    "service": function, "image": SAMPLE,
                    "annotations": { "ingle.pull-policy": "Never" },
                });
                body["envVars"] = variables(function, version)["envVars"].take();
                self.send(method, "/system/functions", &body).await
            }
            Operation::Scale { replicas } => {
                let body = json!({ "serviceName": function, "replicas": replicas });
                self.send(Method::POST, &format!("/system/scale-function/{function}"), &body).await
            }
            Operation::Delete => {
                truth.also(function, None);
                self.send(Method::DELETE, "/system/functions", &json!({ "functionName": function })).await
            }
            Operation::Call { takes } => {
                let mut client = Client::new(address(), false, DEADLINE);
                let path = format!("/function/{function}/slow?ms={takes}");
                match client.call("GET", &path).await {
                    Ok(Answer { status: 200, .. }) => Outcome::Accepted,
                    Ok(answer) => Outcome::Refused(format!("{answer:?}")),
                    Err(_) => Outcome::Unknown,
                }
            }
        }
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Outcome {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match request.basic_auth("admin", Some(&self.password)).json(body).send().await {
            Ok(answer) if answer.status().is_success() => Outcome::Accepted,
            Ok(answer) => {
                let status = answer.status();
                Outcome::Refused(format!("{status} {}", answer.text().await.unwrap_or_default()))
            }
            Err(error) => {
                assert!(!error.is_timeout(), "{path} hangs");
                Outcome::Unknown
            }
        }
    }
}

/// What the function may be after the round.
pub(super) fn after(plan: &Plan, was: Option<Want>, outcome: &Outcome) -> Candidates {
    let new = match plan.operation {
        Operation::Deploy { version } | Operation::Update { version } => {
            // One that was stopped runs again.
            Some(Want { version, replicas: was.map_or(1, |was| was.replicas.max(1)) })
        }
        Operation::Scale { replicas } => was.map(|was| Want { replicas, ..was }),
        Operation::Delete => None,
        // One that was stopped is woken.
        Operation::Call { .. } => was.map(|was| Want { replicas: was.replicas.max(1), ..was }),
    };
    match outcome {
        Outcome::Accepted => vec![new],
        Outcome::Unknown => vec![new, was],
        // A call that failed may have woken it.
        Outcome::Refused(_) if matches!(plan.operation, Operation::Call { .. }) => vec![new, was],
        Outcome::Refused(_) => vec![was],
    }
}

pub(super) fn variables(function: &str, version: u32) -> Value {
    json!({ "envVars": { "function": function, "version": version.to_string() } })
}
