//! The files that are installed agree with the code that reads them, and with each other.

use crate::support::TemporaryDirectory;
use std::fs;
use std::path::Path;
use std::process::Command;

fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn what_the_installer_writes_is_a_valid_configuration() {
    let installer = shipped("install.sh");
    let (_, rest) = installer.split_once("cat >\"$CONFIG.new\" <<END\n").expect("the installer writes one");
    let (text, _) = rest.split_once("\nEND\n").expect("the end of it");
    let text = text.replace("$listen", "127.0.0.1:8081");
    let config = model::config::Config::parse(&text, |_| None).expect("a valid configuration");
    assert_eq!(config.gateway.listen.port(), 8081);
}

#[test]
fn the_installer_puts_files_where_the_daemon_looks() {
    let installer = shipped("install.sh");
    let config = model::config::Config::parse("", |_| None).expect("the defaults");
    let value = |name: &str| {
        let line = installer.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        Path::new(line.unwrap_or_else(|| panic!("no {name} in install.sh"))).to_owned()
    };
    assert_eq!(value("CONFIG"), Path::new(model::config::DEFAULT_PATH));
    assert_eq!(value("CONFLIST"), config.network.conflist);
    assert_eq!(value("RESOLV"), config.network.resolv_conf);
    assert_eq!(value("STATE"), config.daemon.state_dir);
    assert_eq!(value("RUN"), config.daemon.run_dir);
}

#[test]
fn the_installer_names_the_commit_of_a_checkout_and_of_nothing_else() {
    require!("git");
    let installer = shipped("install.sh");
    let (_, rest) = installer.split_once("\ncommit() {\n").expect("the function");
    let (body, _) = rest.split_once("\n}\n").expect("the end of it");
    let outer = TemporaryDirectory::new();
    let here = outer.path().join("here");
    fs::create_dir(&here).expect("a directory");
    let run = |script: &str| {
        let output = Command::new("sh")
            .args(["-euc", &format!("{script}\n{body}")])
            .env("here", &here)
            .env("HOME", outer.path())
            .current_dir(&here)
            .output()
            .expect("run sh");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let commit = "git init -q && git add . && \
                  git -c user.name=x -c user.email=x@example.org commit -q --allow-empty -m x";
    // The files may lie in a checkout of something else.
    run(&format!("(cd .. && {commit})"));
    assert_eq!(run(":"), "");
    fs::write(here.join("file"), "one").expect("a file");
    let clean = run(commit);
    assert!(
        clean.trim_end().len() == 12 && clean.trim_end().chars().all(|c| c.is_ascii_hexdigit()),
        "{clean}"
    );
    fs::write(here.join("file"), "two").expect("a file");
    assert_eq!(run("git tag v1"), format!("{}-dirty\n", clean.trim_end()));
}

#[test]
fn the_unit_starts_what_the_installer_installs_where_the_daemon_looks() {
    let unit = shipped("systemd/ingle.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("no {key} in the unit")).to_owned()
    };
    let config = model::config::Config::parse("", |_| None).expect("the defaults");
    assert!(shipped("install.sh").contains("\nBINARY=/usr/local/bin/ingle\n"));
    let watchdog = format!("\nWATCHDOG={}\n", config.functions.watchdog.display());
    assert!(shipped("install.sh").contains(&watchdog), "{watchdog}");
    assert_eq!(value("ExecStart"), "/usr/local/bin/ingle serve --config /etc/ingle/config.toml");
    assert_eq!(Path::new("/var/lib").join(value("StateDirectory")), config.daemon.state_dir);
    assert_eq!(Path::new("/run").join(value("RuntimeDirectory")), config.daemon.run_dir);
    assert_eq!(value("RuntimeDirectoryPreserve"), "yes");
}

#[test]
fn the_unit_makes_no_private_mount_namespace() {
    let unit = shipped("systemd/ingle.service");
    // What systemd.exec(5) says sets up one, beside what begins with these.
    let settings = unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    for (key, _) in settings {
        let private = ["Private", "ReadOnly", "ReadWrite", "Inaccessible", "Bind", "Mount", "TemporaryFile"];
        assert!(!private.iter().any(|prefix| key.starts_with(prefix)), "{key}");
        assert!(!key.starts_with("Protect") && !key.starts_with("Root") && key != "DynamicUser", "{key}");
    }
}

#[test]
fn cloud_init_ends_in_the_installer() {
    let text = shipped("cloud-init.yaml");
    assert!(text.starts_with("#cloud-config\n"));
    let config: serde_norway::Value = serde_norway::from_str(&text).expect("YAML");
    let command = config["runcmd"][0].as_sequence().expect("a command as a list");
    let script = command.last().and_then(|script| script.as_str()).expect("a script");
    assert!(script.trim_end().ends_with("/opt/ingle/install.sh"), "{script}");
}
