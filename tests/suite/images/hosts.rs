//! Where images are asked for: mirrors, CAs, plain http, tokens.

use super::Place;
use crate::support::oci::TestImage;
use crate::support::registry::{DockerRegistry, HandmadeRegistry, Reply, Setup, honest};

#[tokio::test]
async fn mirrors_are_asked_in_order_and_then_the_server() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("mirror", &[4000]);
    let image = made.clone();
    let good = HandmadeRegistry::serve(move |asked| honest(&image, asked)).await;
    let empty = HandmadeRegistry::serve(|_| Reply::new(404, r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#)).await;
    let only_pulls = HandmadeRegistry::serve(|_| Reply::new(404, "")).await;
    place.write_hosts(
        "registry.invalid",
        &format!(
            "server = \"http://{}\"\n\
             [host.\"http://{}\"]\ncapabilities = [\"pull\"]\n\
             [host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
            good.address(),
            only_pulls.address(),
            empty.address(),
        ),
    );
    let pulled = place.pull("registry.invalid/me/fn:1").await.expect("the server has it");
    assert_eq!(pulled.resolved.digest, made.digest());
    assert_eq!(place.names(), ["registry.invalid/me/fn:1"]);
    assert!(!empty.asked().is_empty());
    let manifests = |registry: &HandmadeRegistry| {
        registry.asked().iter().any(|asked| asked.path.contains("/manifests/1"))
    };
    assert!(manifests(&empty) && manifests(&good));
    assert!(!manifests(&only_pulls), "a host without the capability is not asked what a tag means");
    assert!(
        good.asked().iter().any(|asked| asked.path.ends_with("?ns=registry.invalid")),
        "as containerd asks mirrors"
    );
}

#[tokio::test]
async fn a_mirror_with_a_path_and_the_default_settings() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("path", &[4000]);
    let proxy = HandmadeRegistry::serve(move |asked| honest(&made, asked)).await;
    place.write_hosts(
        "_default",
        &format!("[host.\"http://{}/v2/hub\"]\noverride_path = true\n", proxy.address()),
    );
    place.pull("alpine:3").await.expect("pulled");
    assert_eq!(place.names(), ["docker.io/library/alpine:3"]);
    let asked = proxy.asked();
    assert!(
        asked.iter().any(|asked| asked.path.starts_with("/v2/hub/library/alpine/manifests/3")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_registry_with_a_certificate_of_its_own_ca() {
    require_root!();
    require!("containerd", "docker-registry", "openssl", "skopeo");
    let place = Place::start().await;
    let registry = DockerRegistry::start(Setup { tls: true, ..Setup::default() }).await;
    let address = registry.address();
    registry.push(&TestImage::new("tls", &[4000]), "me/fn:1", &[]);
    let name = format!("{address}/me/fn:1");
    // Docker lets a registry on this machine have any certificate.
    place.pull(&name).await.expect("without settings");
    let server = format!("server = \"https://{address}\"\n");
    let ca = registry.path().join("ca.crt");
    for (settings, works) in [
        (server.clone(), false),
        (format!("{server}ca = {ca:?}\n"), true),
        (format!("{server}ca = [{ca:?}]\n"), true),
        (format!("{server}skip_verify = true\n"), true),
        (format!("server = \"http://{address}\"\n"), false),
        (format!("[host.\"https://{address}\"]\nca = {ca:?}\n"), true),
    ] {
        place.write_hosts(&address, &settings);
        let resolved = place.resolve(&name).await;
        assert_eq!(resolved.is_ok(), works, "{settings}: {resolved:?}");
    }
    place.write_hosts(&address, &format!("{server}ca = \"/does/not/exist.crt\"\n"));
    let error = place.resolve(&name).await.expect_err("no such file");
    assert!(error.to_string().contains("/does/not/exist.crt"), "{error}");
    place.write_hosts(&address, "server = 5\n");
    let error = place.resolve(&name).await.expect_err("malformed");
    assert!(error.to_string().contains("hosts.toml"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_trusted_where_it_is_named() {
    require_root!();
    require!("containerd", "docker-registry", "openssl", "skopeo");
    let place = Place::start().await;
    let names = "subjectAltName=IP:127.0.0.1,DNS:registry.test";
    let cases: [(&'static [&'static str], bool); 4] = [
        // As in Docker's manual: openssl makes an authority of it.
        (&["-addext", "subjectAltName=IP:127.0.0.1,DNS:registry.test"], true),
        (
            &[
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                "keyUsage=critical,keyCertSign,digitalSignature",
            ],
            true,
        ),
        (&["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"], true),
        (&["-addext", "subjectAltName=IP:127.0.0.2,DNS:other.test"], false),
    ];
    assert!(cases[0].0.contains(&names));
    for (arguments, works) in cases {
        let setup = Setup { tls: true, self_signed: Some(arguments), ..Setup::default() };
        let registry = DockerRegistry::start(setup).await;
        let address = registry.address();
        registry.push(&TestImage::new("itself", &[4000]), "me/fn:1", &[]);
        let name = format!("{address}/me/fn:1");
        let server = format!("server = \"https://{address}\"\n");
        place.write_hosts(&address, &server);
        let error = place.resolve(&name).await.expect_err("nobody named it");
        let said = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(said.contains("unknown authority") && said.contains("the certificate itself"), "{said}");
        place.write_hosts(&address, &format!("{server}ca = {:?}\n", registry.path().join("ca.crt")));
        let resolved = place.resolve(&name).await;
        assert_eq!(resolved.is_ok(), works, "{arguments:?}: {resolved:?}");
        // A directory with the certificate alone, as Docker has it.
        let directory = place.containerd.path().join("certs.d").join(&address);
        std::fs::remove_file(directory.join("hosts.toml")).expect("removed");
        std::fs::copy(registry.path().join("ca.crt"), directory.join("ca.crt")).expect("copied");
        let resolved = place.resolve(&name).await;
        assert_eq!(resolved.is_ok(), works, "{arguments:?}: {resolved:?}");
        if let Err(error) = resolved {
            let said = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert!(said.contains("another name"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_another_named_one_did_not_sign_is_refused() {
    require_root!();
    require!("containerd", "docker-registry", "openssl", "skopeo");
    let place = Place::start().await;
    let arguments: &[&str] = &["-addext", "subjectAltName=IP:127.0.0.1"];
    let setup = Setup { tls: true, self_signed: Some(arguments), ..Setup::default() };
    let (registry, other) = (DockerRegistry::start(setup).await, DockerRegistry::start(setup).await);
    let address = registry.address();
    let ca = other.path().join("ca.crt");
    place.write_hosts(&address, &format!("server = \"https://{address}\"\nca = {ca:?}\n"));
    let error = place.resolve(&format!("{address}/me/fn:1")).await.expect_err("of the other");
    let said = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test]
async fn a_registry_is_asked_by_its_ipv6_address() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("v6", &[4000]);
    let image = made.clone();
    let registry = HandmadeRegistry::serve_at("[::1]:0", move |asked| honest(&image, asked)).await;
    let address = registry.address();
    assert!(address.starts_with("[::1]:"));
    let pulled = place.pull(&format!("{address}/me/fn:1")).await.expect("pulled");
    assert_eq!(pulled.resolved.digest, made.digest());
    place.write_hosts("v6.invalid", &format!("server = \"http://{address}\"\n"));
    place.resolve("v6.invalid/me/fn:1").await.expect("as a mirror");
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_a_bearer_token_used() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("token", &[4000]);
    let address = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let own = address.clone();
    let registry = HandmadeRegistry::serve(move |asked| {
        if asked.path.starts_with("/token") {
            let is_right =
                asked.body.contains("refresh_token=i%2Dam%2Dme") && asked.body.contains("scope=repository");
            return if is_right {
                Reply::new(200, r#"{"access_token":"open"}"#)
            } else {
                Reply::new(401, "")
            };
        }
        if asked.authorization.as_deref() != Some("Bearer open") {
            let realm = format!("Bearer realm=\"http://{}/token\",service=\"test\"", own.get().unwrap());
            return Reply::new(401, "").with("www-authenticate", realm);
        }
        honest(&made, asked)
    })
    .await;
    address.set(registry.address()).unwrap();
    let login = |token: &str| {
        let json = serde_json::json!({ "auths": { registry.address(): { "identitytoken": token } } });
        std::fs::write(place.docker_config(), json.to_string()).unwrap();
    };
    let name = format!("{}/me/fn:1", registry.address());
    login("i-am-another");
    let error = place.resolve(&name).await.expect_err("another's token");
    assert!(matches!(error, host::runtime::RuntimeError::Unauthorized { .. }), "{error}");
    login("i-am-me");
    place.pull(&name).await.expect("pulled");
}
