//! Help, mistakes, exit codes.

use std::net::TcpListener;

use super::*;

const COMMANDS: [&str; 15] = [
    "serve",
    "deploy",
    "list",
    "describe",
    "invoke",
    "logs",
    "scale",
    "remove",
    "secret",
    "namespace",
    "image",
    "info",
    "login",
    "logout",
    "completions",
];

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let user = User::stranger();
    let out = user.run(&["--help"]).ok();
    for part in COMMANDS.iter().chain(&["Exit codes", "69", "INGLE_GATEWAY"]) {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    for command in COMMANDS {
        let out = user.run(&[command, "--help"]).ok();
        assert!(out.contains(&format!("ingle {command}")), "{out}");
    }
    let version = match ingle::COMMIT {
        "unknown" => format!("ingle {}\n", ingle::VERSION),
        commit => format!("ingle {} ({commit})\n", ingle::VERSION),
    };
    assert_eq!(user.run(&["--version"]).ok(), version);
}

#[test]
fn the_document_names_every_command_and_option() {
    let user = User::stranger();
    let document = include_str!("../../../docs/cli.md");
    for command in COMMANDS {
        let mut helps = vec![user.run(&[command, "--help"]).ok()];
        let parts: &[&str] = match command {
            "secret" => &["create", "update", "list", "remove"],
            "namespace" => &["create", "list", "describe", "delete"],
            "image" => &["load", "list"],
            _ => &[],
        };
        helps.extend(parts.iter().map(|part| user.run(&[command, part, "--help"]).ok()));
        assert!(document.contains(&format!("ingle {command}")), "{command} is not in docs/cli.md");
        for part in parts {
            assert!(
                document.contains(&format!("ingle {command} {part}")),
                "{command} {part} is not in docs/cli.md"
            );
        }
        for word in
            helps.iter().flat_map(|help| help.split_whitespace()).filter(|word| word.starts_with("--"))
        {
            let option = word.trim_end_matches([',', ']', '.', '\'', ':']);
            assert!(document.contains(option), "{option} of {command} is not in docs/cli.md");
        }
    }
}

#[test]
fn completions_are_there_for_each_shell() {
    let user = User::stranger();
    for shell in ["bash", "zsh", "fish"] {
        let out = user.run(&["completions", shell]).ok();
        assert!(out.contains("deploy") && out.contains("wait-timeout"), "{shell}");
    }
    user.run(&["completions", "tcsh"]).fails(64, &["tcsh"]);
}

#[test]
fn mistakes_are_found_before_anything_is_sent() {
    let gateway = Gateway::script(vec![(200, "[]")]);
    let user = User::of(&gateway);
    for (arguments, part) in [
        (&["lst"][..], "unrecognized subcommand"),
        (&[], "Usage"),
        (&["deploy"], "<NAME"),
        (&["deploy", "env"], "--image"),
        (&["deploy", "env", "--image", "a", "--env", "A"], "KEY=VALUE"),
        (&["deploy", "env", "--image", "a", "-f", "stack.yml"], "cannot be used with"),
        (&["deploy", "a/b", "--image", "a"], "contains '/'"),
        (&["deploy", "-f", "x.yml", "--filter", "a", "--regex", "b"], "cannot be used with"),
        (&["describe", "../x"], "contains '/'"),
        (&["scale", "env"], "<N"),
        (&["scale", "env", "-1"], "-1"),
        (&["logs", "env", "--since", "soon"], "5m"),
        (&["logs", "env", "--tail", "0"], "0"),
        (&["list", "--gateway", "ftp://x"], "neither http nor https"),
        (&["list", "--gateway", "http://a:b@x"], "ingle login"),
        (&["invoke", "env", "--path", "../../system/functions"], "--path"),
        (&["invoke", "env", "-H", "nothing"], "Name: value"),
    ] {
        user.run(arguments).fails(64, &[part]);
    }
    assert!(gateway.lines().is_empty());
}

#[test]
fn a_daemon_that_is_not_there_is_told_from_one_that_refuses() {
    let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
    let url = format!("http://127.0.0.1:{port}");
    let user = User::stranger().set("INGLE_GATEWAY", &url);
    for arguments in [&["list"][..], &["invoke", "env"], &["deploy", "env", "--image", "a"], &["logs", "env"]]
    {
        user.run(arguments).fails(
            69,
            &["is it running?", "systemctl status ingle", "--gateway", &url, "Connection refused"],
        );
    }
}

#[test]
fn something_else_that_answers_is_not_taken_for_a_gateway() {
    let gateway = Gateway::script(vec![(200, "<html>Welcome</html>")]);
    let user = User::of(&gateway);
    user.run(&["list"]).fails(1, &["something else than the API's JSON", "--gateway"]);
    user.run(&["describe", "env"]).fails(1, &["--gateway"]);
    let silent = Gateway::script(vec![(503, "")]);
    User::of(&silent).run(&["list"]).fails(1, &["503", "--gateway"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let gateway = Gateway::script(vec![(200, "[]")]);
    let user = User::of(&gateway);
    for arguments in [&["list"][..], &["--help"], &["completions", "bash"], &["list", "--json"]] {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        drop(reader);
        let output = user.command(arguments).stdout(writer).output().expect("run ingle");
        let done = Done::of(output);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn the_configuration_is_checked_without_running_anything() {
    let user = User::stranger();
    let conflist = concat!(env!("CARGO_MANIFEST_DIR"), "/cni/10-ingle.conflist");
    user.write("good.toml", &format!("[network]\nconflist = \"{conflist}\"\n"));
    let out = user.run(&["serve", "--check", "--config", "good.toml"]).ok();
    assert_eq!(out, format!("good.toml is right\n{conflist} is right\n"));
    let broken = user.home().join("broken.conflist");
    user.write("broken.conflist", "{}");
    user.write("bad.toml", &format!("[network]\nconflist = {:?}\n", broken.display().to_string()));
    user.run(&["serve", "--check", "--config", "bad.toml"]).fails(64, &["broken.conflist"]);
    user.write("bad.toml", "[gateway]\nlisten = \"here\"\nport = 1\n");
    user.run(&["serve", "--check", "--config", "bad.toml"]).fails(
        64,
        &["ingle: invalid configuration", "gateway.listen = \"here\"", "gateway.port: there is no such key"],
    );
    user.run(&["serve", "--config", "bad.toml"]).fails(64, &["gateway.listen"]);
    user.run(&["serve", "--check", "--config", "none.toml"]).fails(64, &["none.toml: No such file"]);
}
