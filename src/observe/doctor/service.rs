//! The service: whether systemd runs the daemon, and will after a reboot.

use std::path::Path;

use host::exec;
use model::finding::Finding;

const CHECK: &str = "service";
const UNIT: &str = "ingle.service";

/// What systemd says of the daemon. Nothing where there is no systemd.
pub(super) async fn unit() -> Vec<Finding> {
    if !Path::new("/run/systemd/system").exists() {
        return vec![Finding::ok(CHECK, "this system has no systemd: whoever started the daemon keeps it")];
    }
    let properties = "--property=LoadState,ActiveState,SubState,UnitFileState,NRestarts";
    match exec::said(Path::new("systemctl"), &["show", UNIT, properties]).await {
        Ok(shown) => judge(&shown),
        Err(reason) => vec![Finding::warning(CHECK, format!("not seen: {reason}"), "systemctl status ingle")],
    }
}

fn judge(shown: &str) -> Vec<Finding> {
    let property = |name: &str| {
        shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    if property("LoadState") == "not-found" {
        return vec![Finding::fault(CHECK, format!("there is no {UNIT}"), "sudo ./install.sh")];
    }
    let active = property("ActiveState");
    if active != "active" {
        let text = format!("{UNIT} is {active} ({})", property("SubState"));
        return vec![Finding::fault(CHECK, text, "systemctl start ingle; journalctl -u ingle -n 50")];
    }
    let mut found = Vec::new();
    if !property("UnitFileState").starts_with("enabled") {
        let text = format!("{UNIT} will not start after a reboot");
        found.push(Finding::warning(CHECK, text, "systemctl enable ingle"));
    }
    match property("NRestarts") {
        "" | "0" => {}
        restarts => {
            let text = format!("systemd had to start the daemon again, {restarts} times");
            found.push(Finding::warning(CHECK, text, "journalctl -u ingle -p warning"));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, format!("{UNIT} runs, and will after a reboot")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::finding::Verdict;

    #[test]
    fn what_systemd_says_is_judged() {
        let of = |active: &str, enabled: &str, restarts: u32| {
            let shown = format!(
                "LoadState=loaded\nActiveState={active}\nSubState=x\nUnitFileState={enabled}\nNRestarts={restarts}\n"
            );
            judge(&shown).into_iter().map(|f| (f.verdict, f.text)).collect::<Vec<_>>()
        };
        assert_eq!(of("active", "enabled", 0)[0].0, Verdict::Ok);
        assert_eq!(
            of("active", "disabled", 3),
            [
                (Verdict::Warning, "ingle.service will not start after a reboot".to_owned()),
                (Verdict::Warning, "systemd had to start the daemon again, 3 times".to_owned()),
            ]
        );
        assert_eq!(of("failed", "enabled", 0), [(Verdict::Fault, "ingle.service is failed (x)".to_owned())]);
        assert_eq!(judge("LoadState=not-found\n")[0].remedy.as_deref(), Some("sudo ./install.sh"));
    }
}
