//! `ingle doctor`

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use model::config::{Config, DEFAULT_PATH};
use model::finding::{Finding, Verdict};
use model::function::capabilities;
use model::wire;

use super::client::Client;
use super::error::CliError;
use super::local_daemon::LocalDaemon;
use super::terminal::plain_line;
use super::{Globals, output};

const GATEWAY: &str = "gateway";
const FUNCTIONS: &str = "functions";
const STORE: &str = "store";

/// Look for what is wrong on this machine, and say what to do about it
///
/// Looks at the kernel, containerd, the network, the disk, the service, and at each function. Changes
/// nothing, and works without the daemon, too. Ends with 1 when something does not work.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// The daemon's configuration file
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let (config, finding) = crate::observe::doctor::configuration(&self.config);
        let mut found = vec![finding];
        if let Some(config) = config {
            found.extend(crate::observe::doctor::examine(&config).await);
            let (info, of_daemon) = daemon(globals, &config).await;
            found.push(crate::observe::doctor::exposure::api(&config, info.as_ref()).await);
            found.extend(of_daemon);
        }
        if self.json {
            output::line(serde_json::to_string_pretty(&found)?)?;
        } else {
            print(&found)?;
        }
        let count = |verdict: Verdict| found.iter().filter(|finding| finding.verdict == verdict).count();
        match (count(Verdict::Fault), count(Verdict::Warning)) {
            (0, 0) if self.json => Ok(()),
            (0, 0) => Ok(output::line("all is well")?),
            (0, _) => Ok(()),
            (1, _) => Err(CliError::Failed("one fault was found".into()).into()),
            (faults, _) => Err(CliError::Failed(format!("{faults} faults were found")).into()),
        }
    }
}

/// Asks the daemon about itself and its functions. Returns its description, if it answers, and the findings.
async fn daemon(globals: &Globals, config: &Config) -> (Option<wire::Info>, Vec<Finding>) {
    // Of this machine, whatever the environment says.
    let own = LocalDaemon::of(config);
    let gateway = globals.gateway.clone().unwrap_or_else(|| own.gateway.to_string());
    let client = match Client::open_beside(&own, Some(&gateway), None) {
        Ok(client) => client,
        Err(error) => return (None, vec![unwell(&error)]),
    };
    let (info, finding) = match info(&client).await {
        Ok(answer) => answer,
        Err(error) => return (None, vec![unwell(&error)]),
    };
    let mut found = vec![finding];
    match functions(&client, config).await {
        Ok(findings) => found.extend(findings),
        Err(error) => {
            found.push(Finding::fault(FUNCTIONS, format!("{error:#}"), "journalctl -u ingle -n 50"))
        }
    }
    (Some(info), found)
}

fn unwell(error: &anyhow::Error) -> Finding {
    let remedy = match error.downcast_ref() {
        Some(CliError::Denied { .. }) => "sudo ingle doctor",
        _ => "systemctl restart ingle; journalctl -u ingle -n 50",
    };
    Finding::fault(GATEWAY, format!("{error:#}"), remedy)
}

async fn info(client: &Client) -> anyhow::Result<(wire::Info, Finding)> {
    let info: wire::Info = client.get(&["info"], &[]).await?.json()?;
    let finding = version(&info, client);
    Ok((info, finding))
}

fn version(info: &wire::Info, client: &Client) -> Finding {
    let (runs, installed) = ((&info.version.release, &info.version.sha), (crate::VERSION, crate::COMMIT));
    let shown = |(release, commit): (&str, &str)| output::version(release, commit);
    let runs = (runs.0.as_str(), runs.1.as_str());
    if runs != installed {
        let text = format!("{} runs, {} is installed", shown(runs), shown(installed));
        return Finding::warning(GATEWAY, text, "systemctl restart ingle");
    }
    Finding::ok(GATEWAY, format!("{} answers at {}", shown(runs), client.gateway()))
}

/// The functions that do not serve as they should.
async fn functions(client: &Client, config: &Config) -> anyhow::Result<Vec<Finding>> {
    let namespaces: Vec<String> = client.get(&["namespaces"], &[]).await?.json()?;
    let (mut found, mut count) = (Vec::new(), 0);
    for namespace in &namespaces {
        let query = [("namespace", Some(namespace.as_str()))];
        let functions: Vec<wire::FunctionStatus> = client.get(&["functions"], &query).await?.json()?;
        count += functions.len();
        found.extend(functions.iter().filter_map(function));
        found.extend(functions.iter().flat_map(|function| from_before(function, config)));
    }
    if found.is_empty() {
        found.push(Finding::ok(FUNCTIONS, format!("{count}, none in trouble")));
    }
    found.extend(store(&client.get(&["store"], &[]).await?.json()?));
    Ok(found)
}

/// Returns findings for what of the state directory cannot be used.
fn store(status: &wire::StoreStatus) -> Vec<Finding> {
    let look = "ingle store check";
    let out = status
        .out_of_service
        .iter()
        .map(|reason| Finding::fault(STORE, reason.clone(), "ingle store repair"));
    let aside = status.set_aside.iter().map(|aside| {
        let wire::SetAside { subject, path, reason } = aside;
        let accept = subject.strip_prefix("function ").map(|name| format!("ingle store accept {name}"));
        Finding::fault(
            STORE,
            format!("{subject}, {path}: {reason}"),
            accept.unwrap_or_else(|| look.to_owned()),
        )
    });
    let orphans = status.orphans.iter().map(|orphan| {
        let wire::Orphan { replica, function, reason, .. } = orphan;
        let text = format!("container {replica} of function {function} is left alone, because {reason}");
        Finding::warning(STORE, text, "ingle system prune --orphans")
    });
    out.chain(aside).chain(orphans).collect()
}

fn function(function: &wire::FunctionStatus) -> Option<Finding> {
    let wire::FunctionStatus { name, namespace, phase, reason, .. } = function;
    let option = namespace.as_ref().map_or_else(String::new, |namespace| format!(" -n {namespace}"));
    let look = format!("ingle describe {name}{option}; ingle logs {name}{option}");
    // One that is starting once more has the reason of its last failure; one that starts for the first
    // time says how far it is.
    let failed = function.restarts > 0 || phase == "failed";
    if let (true, Some(reason), 0) = (failed, reason, function.available_replicas) {
        return Some(Finding::fault(FUNCTIONS, format!("{name} is {phase}: {reason}"), look));
    }
    let update = function.update.as_ref().filter(|update| update.phase == "failed")?;
    let reason = update.reason.as_deref().unwrap_or("for a reason that is not known");
    Some(Finding::warning(FUNCTIONS, format!("{name} serves, but not its last update: {reason}"), look))
}

/// Returns findings for limits and capabilities that a deploy would no longer grant a running function.
fn from_before(function: &wire::FunctionStatus, config: &Config) -> Vec<Finding> {
    let name = &function.name;
    let mut found = Vec::new();
    let has_limit =
        |limits: &Option<wire::Resources>| limits.as_ref().is_some_and(|limits| limits.memory.is_some());
    // Gateways of older versions report no default limits.
    if !has_limit(&function.limits) && !has_limit(&function.default_limits) {
        found.push(Finding::warning(
            FUNCTIONS,
            format!("{name} has no memory limit: it was deployed before functions.memory existed"),
            "deploy it again, with limits.memory if the default is not enough",
        ));
    }
    let settings = [&function.annotations, &function.labels];
    let asked = settings.into_iter().flatten().find_map(|map| map.get("ingle.capabilities"));
    let mut more = asked.and_then(|text| capabilities(text).ok()).unwrap_or_default();
    more.retain(|capability| !config.functions.allowed_capabilities.contains(capability));
    if !more.is_empty() {
        found.push(Finding::warning(
            FUNCTIONS,
            format!(
                "{name} has {}, which functions.allowed_capabilities does not allow: its next deploy will be refused",
                more.join(", ")
            ),
            "take it out of ingle.capabilities, or add it to functions.allowed_capabilities",
        ));
    }
    found
}

/// One line for each finding, and one for what to do.
fn print(found: &[Finding]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let colours = out.is_terminal();
    let widest = found.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for Finding { check, verdict, text, remedy } in found {
        let (word, colour) = match verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Warning => ("warning", "33"),
            Verdict::Fault => ("FAULT", "31"),
        };
        let word = format!("{word:<7}");
        let word = if colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
        // Texts of others may be of several lines, and hold anything.
        let text = plain_line(&text.replace('\n', "; "));
        writeln!(out, "{word}  {check:<widest$}  {text}")?;
        if let Some(remedy) = remedy {
            writeln!(out, "{:<7}  {:<widest$}  -> {remedy}", "", "")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn functions_with_more_than_a_deploy_would_grant_are_reported() {
        let config = Config::parse("", |_| None).expect("defaults");
        let memory = || Some(wire::Resources { memory: Some("1Gi".into()), cpu: None });
        let of = |limits, default_limits, capabilities: &str| {
            let annotations = BTreeMap::from([("ingle.capabilities".to_owned(), capabilities.to_owned())]);
            let function = wire::FunctionStatus {
                name: "env".into(),
                limits,
                default_limits,
                annotations: Some(annotations),
                ..wire::FunctionStatus::default()
            };
            from_before(&function, &config).into_iter().map(|finding| finding.text).collect::<Vec<_>>()
        };
        assert_eq!(of(memory(), None, ""), [""; 0]);
        assert_eq!(of(None, memory(), "chown, CAP_KILL"), [""; 0]);
        let cpu = Some(wire::Resources { memory: None, cpu: Some("1".into()) });
        let unlimited = of(cpu, None, "");
        assert!(unlimited.len() == 1 && unlimited[0].contains("functions.memory"), "{unlimited:?}");
        let capable = of(memory(), None, "CHOWN,SYS_ADMIN,NET_RAW");
        assert!(capable.len() == 1 && capable[0].contains("CAP_SYS_ADMIN, CAP_NET_RAW"), "{capable:?}");
    }
}
