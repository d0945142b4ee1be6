//! Strangers between a command and its gateway: none of them gets a password or is trusted.

use std::os::unix::net::UnixListener;

use super::login::guarded;
use super::*;

/// The password of the daemon of this machine.
const DAEMON: &str = "made by the daemon";

/// Returns a user who may read the daemon's files, as root may.
fn root() -> User {
    let user = User::stranger();
    std::fs::create_dir_all(user.home().join("state/secrets")).expect("made");
    user.write("state/secrets/basic-auth-password", DAEMON);
    let run = user.home().join("run").display().to_string();
    user.set("INGLE_DAEMON_RUN_DIR", &run)
}

/// Starts a server that answers as an empty gateway would, and records what it gets.
fn thief() -> Gateway {
    Gateway::script(vec![(200, "[]")])
}

/// Returns the address of a gateway in the form of `gateway.listen`.
fn address(of: &Gateway) -> String {
    of.url.trim_start_matches("http://").to_owned()
}

#[test]
fn requests_to_this_machine_do_not_go_through_a_proxy() {
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        let (gateway, proxy) = (guarded("secret"), thief());
        let port = gateway.url.rsplit_once(':').expect("a port").1;
        for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{host}:{port}");
            let user = User::of(&gateway).set(variable, &proxy.url).set("INGLE_GATEWAY", &url);
            user.run(&["list"]).ok();
        }
        // A stack file from a server of this machine, too.
        let files = Gateway::script(vec![(200, "functions: {env: {image: a}}")]);
        let user = User::of(&gateway).set(variable, &proxy.url);
        user.run(&["deploy", "-f", &format!("{}/stack.yml", files.url), "--no-wait"]);
        assert_eq!(files.lines().len(), 1, "{variable}");
        assert_eq!(proxy.lines(), [""; 0], "{variable}");
    }
}

#[test]
fn a_gateway_named_only_by_a_stack_file_gets_no_password() {
    let thief = thief();
    let user = root().set("INGLE_PASSWORD", "of the environment");
    let text = format!("provider: {{gateway: '{}'}}\nfunctions: {{env: {{image: a}}}}", thief.url);
    user.write("stack.yml", &text);
    user.run(&["deploy", "-f", "stack.yml", "--no-wait"]);
    user.run(&["remove", "-f", "stack.yml"]);
    let seen = thief.seen();
    assert!(!seen.is_empty());
    for request in seen {
        assert_eq!(request.header("authorization"), None, "{}", request.line());
    }
}

#[test]
fn variables_are_not_used_in_gateways_or_in_files_from_a_url() {
    let thief = thief();
    let user = User::stranger().set("INGLE_PASSWORD", "hunter2").set("AWS_SECRET_ACCESS_KEY", "awskey");
    let provider = format!("provider: {{gateway: '{}/${{AWS_SECRET_ACCESS_KEY}}'}}", thief.url);
    user.write("stack.yml", &format!("{provider}\nfunctions: {{env: {{image: a}}}}"));
    user.run(&["deploy", "-f", "stack.yml"]).fails(64, &["provider.gateway", "AWS_SECRET_ACCESS_KEY"]);
    assert_eq!(thief.lines(), [""; 0]);

    for file in [
        format!("{provider}\nfunctions: {{env: {{image: a}}}}"),
        "functions: {env: {image: 'evil.example/${AWS_SECRET_ACCESS_KEY}'}}".to_owned(),
    ] {
        let files = Gateway::script(vec![(200, &file)]);
        let gateway = guarded("hunter2");
        let user = User::of(&gateway).set("AWS_SECRET_ACCESS_KEY", "awskey");
        let done = user.run(&["deploy", "-f", &format!("{}/stack.yml", files.url)]);
        done.fails(64, &["${AWS_SECRET_ACCESS_KEY}", "came from a URL", "local copy"]);
        assert_eq!(gateway.lines(), [""; 0]);
    }
    assert_eq!(thief.lines(), [""; 0]);
}

#[test]
fn a_program_on_the_port_of_a_stopped_daemon_gets_no_requests() {
    let thief = thief();
    let user = root().set("INGLE_GATEWAY_LISTEN", &address(&thief));
    let port = thief.url.rsplit_once(':').expect("a port").1;
    let socket = user.home().join("run/api.sock");
    let missing = format!("the daemon is not running (no socket at {})", socket.display());
    let expect = |user: &User, why: &str| {
        user.run(&["list"]).fails(69, &[why, "--gateway"]);
        for url in [thief.url.clone(), format!("localhost:{port}"), format!("0.0.0.0:{port}")] {
            user.run(&["list", "-g", &url]).fails(69, &[why]);
            user.pipe(&["secret", "create", "key", "-g", &url], b"value").fails(69, &[why]);
        }
        assert_eq!(thief.lines(), [""; 0]);
    };
    expect(&user, &missing);
    user.pipe(&["login", "--password-stdin"], b"typed").fails(69, &[&missing]);
    let with_password = user.set("INGLE_PASSWORD", "of the environment");
    expect(&with_password, &missing);
    // The socket file of a killed daemon, on which nothing listens.
    std::fs::create_dir(with_password.home().join("run")).expect("made");
    drop(UnixListener::bind(&socket).expect("bound"));
    expect(&with_password, &format!("the daemon is not running (nothing answers on {})", socket.display()));
    // A socket of another user, in a directory that he can write to.
    std::os::unix::fs::chown(&socket, Some(65534), None).expect("given away");
    expect(&with_password, &missing);
}

#[test]
fn the_daemons_password_file_is_not_read_for_any_gateway() {
    let gateway = guarded(DAEMON);
    let user = root().set("INGLE_GATEWAY", &gateway.url);
    user.run(&["list"]).fails(77, &["not logged in", "sudo"]);
    assert!(gateway.seen().iter().all(|request| request.header("authorization").is_none()));
}
