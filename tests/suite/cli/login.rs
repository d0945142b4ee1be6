//! Who a command speaks as.

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;

use super::*;

/// A gateway that lets in whoever has this password.
pub(super) fn guarded(password: &'static str) -> Gateway {
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("admin:{password}"));
    Gateway::start(move |request| {
        if request.header("authorization") == Some(&format!("Basic {expected}")) {
            Reply::new(200, "[]")
        } else {
            Reply::new(401, "unauthorized").with("WWW-Authenticate", "Basic realm=\"Restricted\"")
        }
    })
}

#[test]
fn a_login_is_checked_kept_used_and_forgotten() {
    let gateway = guarded("pass word");
    let user = User::stranger().set("OPENFAAS_URL", &gateway.url);
    user.run(&["list"]).fails(77, &["not logged in at", "ingle login --gateway"]);

    user.pipe(&["login", "--password-stdin"], b"wrong\n")
        .fails(77, &["refused the user name or password", "basic-auth-password"]);
    let kept = user.home().join(".config/ingle/credentials.toml");
    assert!(!kept.exists());

    let out = user.pipe(&["login", "--password-stdin"], b"pass word\n").ok();
    assert!(out.starts_with(&format!("logged in as admin at {}; kept in ", gateway.url)), "{out}");
    assert_eq!(kept.metadata().expect("kept").permissions().mode() & 0o777, 0o600);
    user.run(&["list"]).ok();
    assert_eq!(gateway.seen().last().expect("a request").line(), "GET /system/functions");

    let out = user.run(&["logout"]).ok();
    assert_eq!(out, format!("logged out of {}\n", gateway.url));
    user.run(&["list"]).fails(77, &["not logged in"]);
}

#[test]
fn a_password_that_is_no_longer_right_says_where_it_came_from() {
    let gateway = guarded("new");
    let user = User::stranger().set("INGLE_GATEWAY", &gateway.url).set("INGLE_PASSWORD", "old");
    let parts = ["refused the user name or password from INGLE_PASSWORD", "correct it, or unset it"];
    user.run(&["list"]).fails(77, &parts);
    let user = User::stranger().set("INGLE_GATEWAY", &gateway.url);
    user.pipe(&["login", "--password-stdin"], b"new").ok();
    user.write(
        ".config/ingle/credentials.toml",
        &format!("[gateways.{:?}]\nusername = \"admin\"\npassword = \"old\"\n", gateway.url),
    );
    user.run(&["list"]).fails(77, &["credentials.toml: run 'ingle login --gateway"]);
}

#[test]
fn a_login_of_faas_cli_is_good_enough() {
    let gateway = guarded("shared");
    let user = User::stranger().set("INGLE_GATEWAY", &gateway.url);
    let token = base64::engine::general_purpose::STANDARD.encode("admin:shared");
    std::fs::create_dir(user.home().join(".openfaas")).expect("made");
    user.write(
        ".openfaas/config.yml",
        &format!("auths:\n  - gateway: {}\n    auth: basic\n    token: {token}\n", gateway.url),
    );
    user.run(&["list"]).ok();
}

#[test]
fn there_must_be_a_password() {
    let gateway = guarded("x");
    let user = User::of(&gateway);
    user.run(&["login"]).fails(64, &["--password-stdin"]);
    user.pipe(&["login", "--password-stdin"], b"\n").fails(64, &["password"]);
    user.pipe(&["login", "--password-stdin", "-u", "a:b"], b"x").fails(64, &["--username"]);
    assert!(gateway.lines().is_empty());
}

#[test]
fn a_redirect_gets_no_password() {
    let thief = Gateway::script(vec![(200, "[]")]);
    let location = format!("{}/system/functions", thief.url);
    let gateway = Gateway::start(move |_| Reply::new(307, "").with("Location", &location));
    User::of(&gateway).run(&["list"]).fails(1, &["307", "--gateway"]);
    assert!(thief.lines().is_empty());
}
