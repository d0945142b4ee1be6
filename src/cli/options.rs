//! The options that describe a function, and what they come to in a deployment.

use std::collections::BTreeMap;

use model::function::parse_duration;
use model::wire::Deployment;

/// What a function is like, beside its name and image.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Function")]
pub(crate) struct Options {
    /// The command that the watchdog runs for a call
    #[arg(long, value_name = "COMMAND")]
    fprocess: Option<String>,
    /// How the watchdog runs it: streaming, serializing, classic, http, static, afterburn or openwhisk
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Environment variable; may be given several times
    #[arg(long, short = 'e', value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Label; may be given several times
    #[arg(long, short = 'l', value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Annotation; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    annotation: Vec<(String, String)>,
    /// Secret to mount at /var/openfaas/secrets; may be given several times
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// Memory it may use, such as 128Mi
    #[arg(long, value_name = "QUANTITY")]
    memory: Option<String>,
    /// Processor time it may use, such as 500m for half a core
    #[arg(long, value_name = "QUANTITY")]
    cpu: Option<String>,
    /// Replicas at least
    #[arg(long, value_name = "N")]
    min: Option<u32>,
    /// Replicas at most
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// How long a call may take, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<String>,
    /// When to ask the registry for the image
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pull_policy: Option<String>,
    /// Make the root file system read-only, but for /tmp
    #[arg(long)]
    read_only: bool,
    /// Placement constraint: kept and shown, for there is one machine
    #[arg(long, value_name = "TEXT")]
    constraint: Vec<String>,
}

impl Options {
    /// Changes `deployment` to what was asked for; what was not asked for stays.
    pub(crate) fn apply(&self, deployment: &mut Deployment) {
        if let Some(fprocess) = &self.fprocess {
            deployment.env_process = Some(fprocess.clone());
        }
        if let Some(mode) = &self.mode {
            extend(&mut deployment.env_vars, &[("mode".to_owned(), mode.clone())]);
        }
        extend(&mut deployment.env_vars, &self.env);
        extend(&mut deployment.labels, &self.label);
        extend(&mut deployment.annotations, &self.annotation);
        for secret in &self.secret {
            let secrets = deployment.secrets.get_or_insert_default();
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
        if self.memory.is_some() || self.cpu.is_some() {
            let limits = deployment.limits.get_or_insert_default();
            limits.memory = self.memory.clone().or_else(|| limits.memory.take());
            limits.cpu = self.cpu.clone().or_else(|| limits.cpu.take());
        }
        let number = |n: Option<u32>| n.map(|n| n.to_string());
        let settings = [
            ("com.openfaas.scale.min", number(self.min), true),
            ("com.openfaas.scale.max", number(self.max), true),
            ("ingle.timeout", self.timeout.clone(), false),
            ("ingle.pull-policy", self.pull_policy.clone(), false),
        ];
        for (key, value, is_label) in settings {
            if let Some(value) = value {
                set(deployment, key, value, is_label);
            }
        }
        if self.read_only {
            deployment.read_only_root_filesystem = Some(true);
        }
        if !self.constraint.is_empty() {
            deployment.constraints = Some(self.constraint.clone());
        }
        for map in [&mut deployment.labels, &mut deployment.annotations] {
            if map.as_ref().is_some_and(BTreeMap::is_empty) {
                *map = None;
            }
        }
    }
}

/// Gives a setting a value. It may stand in labels or annotations, and is replaced wherever it stands, because two
/// values are a mistake.
pub(super) fn set(deployment: &mut Deployment, key: &str, value: String, is_label: bool) {
    for map in [&mut deployment.labels, &mut deployment.annotations].into_iter().flatten() {
        map.remove(key);
    }
    let place = if is_label { &mut deployment.labels } else { &mut deployment.annotations };
    place.get_or_insert_default().insert(key.to_owned(), value);
}

fn extend(map: &mut Option<BTreeMap<String, String>>, pairs: &[(String, String)]) {
    if !pairs.is_empty() {
        map.get_or_insert_default().extend(pairs.iter().cloned());
    }
}

/// Reads `KEY=VALUE`; the value may be empty and may hold further `=`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

fn duration(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn applied(to: &str, arguments: &[&str]) -> serde_json::Value {
        let mut deployment: Deployment = serde_json::from_str(to).expect("a deployment");
        let line = Line::try_parse_from(std::iter::once(&"x").chain(arguments)).expect("valid arguments");
        line.options.apply(&mut deployment);
        serde_json::to_value(deployment).expect("JSON")
    }

    const SMALL: &str = r#"{"service":"env","image":"a"}"#;

    #[test]
    fn without_options_nothing_is_added() {
        assert_eq!(applied(SMALL, &[]), serde_json::json!({"service": "env", "image": "a"}));
    }

    #[test]
    fn every_option_has_its_place() {
        let arguments = "--fprocess cat --env A=1 -e B=x=y --label l=1 --annotation topic=t --secret s --secret t \
            --secret s --memory 128Mi --cpu 500m --min 2 --max 4 --timeout 1m30s --pull-policy Never --read-only \
            --constraint c";
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        assert_eq!(
            applied(SMALL, &arguments),
            serde_json::json!({
                "service": "env", "image": "a", "envProcess": "cat", "envVars": {"A": "1", "B": "x=y"},
                "labels": {"l": "1", "com.openfaas.scale.min": "2", "com.openfaas.scale.max": "4"},
                "annotations": {"topic": "t", "ingle.timeout": "1m30s", "ingle.pull-policy": "Never"},
                "secrets": ["s", "t"], "limits": {"memory": "128Mi", "cpu": "500m"},
                "readOnlyRootFilesystem": true, "constraints": ["c"]
            })
        );
    }

    #[test]
    fn options_change_what_a_stack_file_says_and_leave_the_rest() {
        let from = r#"{"service":"env","image":"a","envVars":{"A":"file","B":"file"},"secrets":["s"],
            "annotations":{"com.openfaas.scale.min":"1"},"labels":{"ingle.timeout":"5s","x":"y"},
            "limits":{"memory":"1Gi","cpu":"1"},"requests":{"cpu":"1"}}"#;
        assert_eq!(
            applied(from, &["-e", "A=", "--secret", "t", "--min", "3", "--timeout", "9s", "--memory", "2Gi"]),
            serde_json::json!({
                "service": "env", "image": "a", "envVars": {"A": "", "B": "file"}, "secrets": ["s", "t"],
                "labels": {"x": "y", "com.openfaas.scale.min": "3"}, "annotations": {"ingle.timeout": "9s"},
                "limits": {"memory": "2Gi", "cpu": "1"}, "requests": {"cpu": "1"}
            })
        );
    }

    #[test]
    fn wrong_values_are_refused_before_anything_is_sent() {
        for arguments in [
            &["--env", "A"][..],
            &["--env", "=x"],
            &["--timeout", "soon"],
            &["--pull-policy", "never"],
            &["--min", "-1"],
        ] {
            assert!(Line::try_parse_from(std::iter::once(&"x").chain(arguments)).is_err(), "{arguments:?}");
        }
    }
}
