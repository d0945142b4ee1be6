//! Statuses and codes are what clients go by: each error's is written down here, and every code in
//! `docs/api.md`.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::*;
use model::function::{FunctionKey, NamespaceName};

fn boxed() -> Box<dyn Error + Send + Sync> {
    "cause".into()
}

#[track_caller]
fn assert_response(error: impl Into<ErrorResponse>, status: u16, code: &str) {
    let response: ErrorResponse = error.into();
    let found = (response.status.as_u16(), response.code.as_str());
    assert_eq!(found, (status, code), "{}", response.text);
    assert!(!response.text.is_empty() && !response.text.contains('\n'), "{}", response.text);
    assert!(response.code.statuses().contains(&status), "{code} does not list {status}");
}

/// The rows of the table of codes in `docs/api.md`, in its order.
fn documented() -> Vec<(&'static str, Vec<u16>)> {
    let (_, table) = include_str!("../../../docs/api.md").split_once("| code | status |").expect("a table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let code = cells.next().expect("a code").trim_matches('`');
        let statuses = cells.next().expect("statuses").split(", ");
        (code, statuses.map(|status| status.parse().expect("a number")).collect())
    })
    .collect()
}

#[test]
fn the_documentation_has_every_code_with_its_statuses_and_no_other() {
    let known: Vec<_> = ErrorCode::ALL.iter().map(|code| (code.as_str(), code.statuses().to_vec())).collect();
    assert_eq!(documented(), known);
}

#[test]
fn errors_of_the_fleet() {
    let namespace = NamespaceName::default;
    assert_response(FleetError::Invalid(Invalid::new("service", "is empty")), 400, "invalid_request");
    let function = || FunctionKey::parse("env").expect("a key");
    assert_response(FleetError::NotFound(function()), 404, "function_not_found");
    assert_response(FleetError::NothingBefore { function: function(), revision: 1 }, 409, "nothing_before");
    assert_response(FleetError::RevisionWanted { function: function(), revision: 1 }, 409, "revision_wanted");
    let missing = FleetError::RevisionNotFound { function: function(), revision: 9, kept: vec![1, 2] };
    assert_response(missing, 404, "revision_not_found");
    assert_response(FleetError::NamespaceNotFound(namespace()), 404, "namespace_not_found");
    assert_response(FleetError::NamespaceExists(namespace()), 409, "namespace_exists");
    let in_use = FleetError::NamespaceInUse { namespace: namespace(), reason: "it has functions".into() };
    assert_response(in_use, 409, "namespace_in_use");
    let missing = FleetError::SecretNotFound { secret: "key".into(), namespace: namespace() };
    assert_response(missing, 400, "secret_not_found");
    assert_response(FleetError::Store(StoreError::Closed), 503, "store_failed");
    assert_response(FleetError::BrokeOff, 500, "internal");
    assert_response(FleetError::ShuttingDown, 503, "shutting_down");
    assert_eq!(ErrorResponse::from(FleetError::ShuttingDown).retry_after, Some(5));
}

#[test]
fn errors_of_the_runtime() {
    let text = || "x".to_owned();
    for (error, status, code) in [
        (RuntimeError::Down { socket: text(), source: boxed() }, 503, "containerd_unreachable"),
        (RuntimeError::Timeout { operation: text() }, 504, "containerd_timeout"),
        (RuntimeError::ImageNotFound { image: text(), registry: text() }, 400, "image_not_found"),
        (RuntimeError::ImageNotLoaded { image: text() }, 400, "image_not_loaded"),
        (RuntimeError::ImageGone { image: text(), digest: text() }, 400, "image_not_loaded"),
        (
            RuntimeError::Unauthorized { image: text(), registry: text(), config: text() },
            400,
            "registry_unauthorized",
        ),
        (
            RuntimeError::RegistryUnreachable { image: text(), registry: text(), source: boxed() },
            502,
            "registry_unreachable",
        ),
        (RuntimeError::WrongPlatform { image: text(), want: text(), have: text() }, 400, "wrong_platform"),
        (RuntimeError::NoCommand { image: text() }, 400, "no_command"),
        (RuntimeError::BadImage { image: text(), reason: text() }, 400, "bad_image"),
        (RuntimeError::BadRequest(text()), 400, "invalid_request"),
        (RuntimeError::NotFound { what: text() }, 500, "container_not_found"),
        (RuntimeError::failed("making a container", boxed()), 500, "containerd_failed"),
    ] {
        assert_response(error, status, code);
    }
    let failed = ErrorResponse::from(RuntimeError::failed("making a container", boxed()));
    assert_eq!(failed.text, "making a container failed: cause");
}

#[test]
fn errors_of_the_disk() {
    let image = || "a:1".to_owned();
    assert_response(DiskError::ImageNotFound(image()), 404, "image_not_found");
    let in_use = DiskError::ImageInUse { image: image(), users: vec!["function env".into()] };
    assert_response(in_use, 409, "image_in_use");
    let reserve = 268_435_456;
    let no_room = |need| DiskError::NoRoom {
        image: "a:1".into(),
        need,
        free: 1_234_567_890,
        reserve,
        coming: 0,
        path: "/var/lib/containerd".into(),
    };
    assert_response(FleetError::Disk(no_room(5_000_000)), 507, "disk_full");
    let text = ErrorResponse::from(no_room(3_000_000_000)).text;
    for part in [
        "a:1 needs about 3.0 GB",
        "1.2 GB that are free at /var/lib/containerd",
        "268.4 MB are kept for logs and data:",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_response(DiskError::Store(StoreError::Closed), 503, "store_failed");
}

#[test]
fn errors_of_secrets_and_the_store() {
    let (secret, namespace) = (|| "key".parse().expect("a name"), NamespaceName::default);
    let not_found = SecretError::NotFound { secret: secret(), namespace: namespace() };
    assert_response(not_found, 404, "secret_not_found");
    assert_response(SecretError::Invalid(Invalid::new("value", "is empty")), 400, "invalid_request");
    assert_response(SecretError::Exists { secret: secret(), namespace: namespace() }, 409, "secret_exists");
    assert_response(SecretError::InUse { secret: secret(), functions: "env".into() }, 409, "secret_in_use");
    assert_response(SecretError::TooLarge { secret: "key".into(), limit: 1 }, 413, "secret_too_large");
    assert_response(SecretError::Full { namespace: namespace(), limit: 1 }, 507, "too_many_secrets");
    let failed = SecretError::Io { operation: "writing".into(), source: io::ErrorKind::StorageFull.into() };
    assert_response(failed, 500, "secrets_failed");
    let failed = StoreError::Failed { operation: "writing".into(), source: boxed() };
    assert_response(failed, 500, "store_failed");
}

#[test]
fn errors_of_calls() {
    let function = || "env".to_owned();
    let limit = Duration::from_secs(1);
    for (error, status, code) in [
        (InvokeError::NotFound { function: function() }, 404, "function_not_found"),
        (InvokeError::Failed { function: function(), reason: "x".into() }, 503, "function_failed"),
        (
            InvokeError::BackingOff { function: function(), wait: limit, reason: "x".into() },
            503,
            "backing_off",
        ),
        (InvokeError::TooManyWaiting { function: function(), waiting: 1 }, 503, "too_many_waiting"),
        (
            InvokeError::NoReplicaInTime { function: function(), limit, reason: "x".into() },
            504,
            "no_replica_in_time",
        ),
        (InvokeError::NoAnswerInTime { function: function(), limit }, 504, "no_answer_in_time"),
        (
            InvokeError::Unreachable {
                function: function(),
                source: io::ErrorKind::ConnectionRefused.into(),
                unsent: true,
            },
            502,
            "function_unreachable",
        ),
        (InvokeError::BadAnswer { function: function(), reason: "x" }, 502, "bad_answer"),
        (InvokeError::BodyTooLarge { function: function(), limit: 1 }, 413, "body_too_large"),
        (InvokeError::BodyStalled { function: function() }, 408, "body_stalled"),
        (InvokeError::BadBody { function: function(), reason: "x".into() }, 400, "bad_body"),
        (InvokeError::CallerGone { function: function() }, 499, "caller_gone"),
    ] {
        assert_eq!(error.status().as_u16(), status, "what is counted is what is answered");
        assert_response(error, status, code);
    }
}

#[test]
fn errors_of_heads() {
    assert_response(HeadError::TooLarge, 431, "head_too_large");
    assert_response(HeadError::Bad("x"), 400, "bad_request");
    assert_response(HeadError::Version, 505, "bad_version");
    assert_response(HeadError::Coding, 501, "bad_coding");
    assert_response(ErrorResponse::head_too_slow(Duration::from_secs(1)), 408, "head_too_slow");
    assert_response(ErrorResponse::not_a_proxy(), 405, "not_a_proxy");
    assert_response(ErrorResponse::bad_target(), 400, "bad_request");
    assert_response(ErrorResponse::internal(), 500, "internal");
}
