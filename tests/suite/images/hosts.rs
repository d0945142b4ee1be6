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
