use super::*;

fn none(_: &str) -> Option<String> {
    None
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = Config::parse("", none).expect("defaults");
    assert_eq!(config.gateway.listen.port(), 8080);
    assert_eq!(config.functions.body_limit, 100 << 20);
    assert_eq!(config.containerd.snapshotter, None);
}

#[test]
fn the_environment_is_stronger_than_the_file() {
    let variable = |name: &str| (name == "INGLE_GATEWAY_LISTEN").then(|| "127.0.0.1:9".to_owned());
    let config = Config::parse("[gateway]\nlisten = \"127.0.0.1:8\"\n", variable).expect("valid");
    assert_eq!(config.gateway.listen.port(), 9);
}

#[test]
fn lists_numbers_and_switches_are_taken_as_toml_writes_them() {
    let config = Config::parse(
        "[network]\nallow = [\"10.0.0.5\", \"192.168.0.0/16\"]\n[gateway]\nbasic_auth = false\nmax_connections = 7\n",
        none,
    )
    .expect("valid");
    assert_eq!(config.network.allow.len(), 2);
    assert!(!config.gateway.basic_auth);
    assert_eq!(config.gateway.max_connections, 7);
}

#[test]
fn trusted_proxies_match_ipv4_and_ipv4_mapped_addresses() {
    let config = Config::parse("[gateway]\ntrusted_proxies = [\"10.0.0.0/8\", \"2001:db8::1\"]\n", none);
    let proxies = config.expect("valid").gateway.trusted_proxies;
    for (peer, trusted) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("2001:db8::1", true),
        ("11.1.2.3", false),
        ("::ffff:11.1.2.3", false),
        ("2001:db8::2", false),
    ] {
        assert_eq!(proxies.contains(peer.parse().expect("an address")), trusted, "{peer}");
    }
    let nobody = Config::parse("", none).expect("defaults").gateway.trusted_proxies;
    assert!(!nobody.contains(IpAddr::from([127, 0, 0, 1])));
}

/// `docs/configuration.md` has a row for each key, with the default that the code has.
#[test]
fn every_key_is_documented_with_its_default() {
    let table = toml::Table::new();
    let mut reader = Reader { table, variable: &none, known: BTreeMap::new(), mistakes: Vec::new() };
    Config::read(&mut reader);
    let text = include_str!("../../../docs/configuration.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), reader.known.len(), "a row for each key and no other");
    let cores = "functions.parallel_starts daemon.threads";
    for (key, default) in &reader.known {
        let default = match default.as_str() {
            _ if cores.contains(key) => "number of cores".to_owned(),
            "" if *key == "containerd.snapshotter" => "detected".to_owned(),
            "" if *key == "gateway.public_metrics" => "as `gateway.public_api`".to_owned(),
            "" => "none".to_owned(),
            given => format!("`{given}`"),
        };
        let start = format!("| `{key}` | {default} | `{}` | ", variable_of(key));
        assert!(rows.iter().any(|row| row.starts_with(&start)), "no row starts with {start:?}");
    }
}

#[test]
fn default_memory_is_an_amount_or_a_share_of_the_machine() {
    let of = |text: &str, total| {
        let text = format!("[functions]\nmemory = {text:?}\n");
        Config::parse(&text, none).map(|config| config.functions.memory.of(total))
    };
    assert_eq!(of("50%", 8 << 30).expect("half"), 4 << 30);
    assert_eq!(of("50%", (1 << 30) + 4_000_001).expect("whole mebibytes"), 513 << 20);
    assert_eq!(of("50%", 200 << 20).expect("half of a small machine"), 128 << 20);
    assert_eq!(of("64Mi", 200 << 20).expect("as it is given"), 64 << 20);
    for wrong in ["0%", "101%", "half", "0"] {
        let error = of(wrong, 1 << 30).expect_err(wrong).to_string();
        assert!(error.contains("functions.memory"), "{error}");
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let variable = |name: &str| (name == "INGLE_FUNCTIONS_TIMEOUT").then(|| "12moons".to_owned());
    let text = "[gateway]\nlisten = \"here\"\nport = 1\n[functions]\npids = 0\n[logs]\nline_limit = 1.5\n\
         [images]\ndisk_watermark = 0.85\ndisk_target = \"101%\"\n";
    let error = Config::parse(text, variable).expect_err("seven mistakes");
    let shown = error.to_string();
    for part in [
        "gateway.listen = \"here\": is not an address",
        "INGLE_FUNCTIONS_TIMEOUT=\"12moons\": is not a duration",
        "functions.pids = 0: is not a whole number",
        "logs.line_limit: a float does not fit",
        "gateway.port: there is no such key",
        "images.disk_watermark: a float does not fit",
        "images.disk_target = \"101%\": is not a share",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    assert_eq!(error.mistakes.len(), 7);
    let error = Config::parse("[images]\ndisk_watermark = \"70%\"\n", none).expect_err("upside down");
    assert!(error.to_string().contains("images.disk_target: 80% is above"), "{error}");
}

#[test]
fn the_own_gateway_is_reached_on_the_loopback() {
    for (listen, own) in
        [("0.0.0.0:81", "127.0.0.1:81"), ("[::]:8080", "[::1]:8080"), ("10.0.0.1:80", "10.0.0.1:80")]
    {
        let config = Config::parse(&format!("[gateway]\nlisten = {listen:?}"), |_| None).expect("valid");
        assert_eq!(config.gateway.reached_at().to_string(), own);
    }
}

#[test]
fn callbacks_are_signed_for_hosts_that_are_named() {
    let read =
        |text: &str| Config::parse(&format!("[queue]\ncallback_secret_file = \"/a\"\n{text}"), |_| None);
    let error = read("").expect_err("for everybody").to_string();
    assert!(error.contains("queue.callback_hosts"), "{error}");
    let config = read("callback_hosts = \"a.example\"").expect("valid");
    assert_eq!(config.queue.callback_secret_file, Some("/a".into()));
}

#[test]
fn hosts_are_names_and_what_they_end_with() {
    assert_eq!(
        hosts("A.example, *.b.example,[::1]"),
        Ok(HostPatterns::from(vec!["a.example".into(), "*.b.example".into(), "[::1]".into()]))
    );
    for text in ["*", "*.", "http://a.example", "a.example/x", "**.a.example", ".a.example"] {
        assert!(hosts(text).expect_err(text).contains("is not a host"), "{text}");
    }
}
