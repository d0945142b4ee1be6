//! Images, archives and registries as a grammar makes them: what `ctr`, containerd's own client, takes in, is taken in
//! here, and is the same image.
//!
//! Each case is a word for each kind of oddity. The short form takes a few cases, the long one
//! (`INGLE_TESTS_LONG`) each word once and then as many cases as it says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use host::runtime::Runtime;
use serde_json::{Value, json};

use super::Place;
use crate::support::long::{Chance, long};
use crate::support::oci::{
    INDEX, MANIFEST, TestImage, architecture, digest, layer, noise, other_architecture, write_tar,
};
use crate::support::registry::{Asked, HandmadeRegistry, Reply};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// The words of each kind; the first one of each is the ordinary form.
const KINDS: [(&str, &str); 9] = [
    (
        "layer",
        "plain, gzip, zstd, docker gzip, plain called gzip, zstd called gzip, nondistributable, \
      foreign, twice, empty, gzip in members",
    ),
    (
        "config",
        "plain, no architecture, x86_64, variant, no config, null everywhere, volumes, odd variables, \
      history, words for lists, upper case system",
    ),
    (
        "manifest",
        "plain, no version, no type, another type, null annotations, subject, docker, null version, \
      annotated layers, config of no type, config of bytes",
    ),
    (
        "index",
        "none, platform, no platform, nested, nested twice, attestation first, foreign first, \
      null platform, docker list, no type, two of one, 32 bits, another digest first",
    ),
    (
        "json",
        "plain, upper case, first in upper case, twice, null first, unknown fields, spaces, escapes, \
      not UTF-8, deep, rootfS, half a character",
    ),
    (
        "challenge",
        "none, bearer, lower case, spaces, unquoted, escaped, basic and bearer, two headers, \
      tabs, open greeting, no greeting, no scope",
    ),
    (
        "token",
        "token, access_token, both, upper case, more fields, short lived, null, chunked, scoped, \
      more text",
    ),
    (
        "transfer",
        "plain, redirect 302, redirect 307, redirect 301, redirect 308, relative redirect, cut, \
      no length, no digest header, no head",
    ),
    (
        "limit",
        "none, 429 once, 429 with seconds, 429 with a date, 429 of a token, 408 once, 429 of a layer, \
      429 of a config, two in a row",
    ),
];

/// A word of each kind.
#[derive(Debug, Clone)]
struct Case([usize; KINDS.len()]);

impl Case {
    fn word(&self, kind: &str) -> &'static str {
        let position = KINDS.iter().position(|(name, _)| *name == kind).expect("a kind");
        KINDS[position].1.split(", ").nth(self.0[position]).expect("a word")
    }

    /// One to three words that are not ordinary.
    fn any(chance: &mut Chance) -> Self {
        let mut case = Self([0; KINDS.len()]);
        for _ in 0..=chance.below(3) {
            let kind = usize::try_from(chance.below(KINDS.len() as u64)).expect("small");
            case.0[kind] =
                usize::try_from(chance.below(KINDS[kind].1.split(", ").count() as u64)).expect("small");
        }
        case
    }

    fn each() -> impl Iterator<Item = Self> {
        KINDS.iter().enumerate().flat_map(|(kind, (_, words))| {
            (0..words.split(", ").count()).map(move |word| {
                let mut case = Self([0; KINDS.len()]);
                case.0[kind] = word;
                case
            })
        })
    }

    fn shown(&self) -> String {
        let odd = KINDS.iter().zip(self.0).filter(|(_, word)| *word > 0);
        odd.map(|((kind, _), _)| format!("{kind}: {}", self.word(kind))).collect::<Vec<_>>().join(", ")
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut parts = bytes.chunks(60_000).peekable();
    while let Some(part) = parts.next() {
        let length = u16::try_from(part.len()).expect("short");
        out.push(u8::from(parts.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(part);
    }
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    out.extend((!sum).to_le_bytes());
    out.extend(u32::try_from(bytes.len()).expect("short").to_le_bytes());
    out
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    out.extend(u32::try_from(bytes.len()).expect("short").to_le_bytes());
    let mut parts = bytes.chunks(100_000).peekable();
    while let Some(part) = parts.next() {
        let head = u32::try_from(part.len() << 3).expect("short") | u32::from(parts.peek().is_none());
        out.extend(&head.to_le_bytes()[..3]);
        out.extend(part);
    }
    out
}

/// Image of a case, with the type that its name points to.
struct Made {
    image: TestImage,
    media_type: String,
}

fn put(image: &mut TestImage, media_type: &str, bytes: Vec<u8>) -> Value {
    let entry = json!({ "mediaType": media_type, "digest": digest(&bytes), "size": bytes.len() });
    image.blobs.insert(digest(&bytes), bytes);
    entry
}

fn make(case: &Case, seed: &str) -> Made {
    let mut image = TestImage::new(seed, &[]);
    image.blobs.clear();
    let raw = layer("file", &noise(seed, 150_000));
    let small = layer("small", seed.as_bytes());
    let docker = case.word("manifest") == "docker";
    let layers: Vec<(Vec<u8>, Vec<u8>, String)> = match case.word("layer") {
        "gzip" => vec![(raw.clone(), gzip(&raw), format!("{TAR}+gzip"))],
        "zstd" => vec![(raw.clone(), zstd(&raw), format!("{TAR}+zstd"))],
        "docker gzip" => {
            vec![(raw.clone(), gzip(&raw), "application/vnd.docker.image.rootfs.diff.tar.gzip".into())]
        }
        "plain called gzip" => vec![(raw.clone(), raw.clone(), format!("{TAR}+gzip"))],
        "zstd called gzip" => vec![(raw.clone(), zstd(&raw), format!("{TAR}+gzip"))],
        "nondistributable" => vec![(
            raw.clone(),
            gzip(&raw),
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into(),
        )],
        "foreign" => vec![(
            raw.clone(),
            gzip(&raw),
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into(),
        )],
        "twice" => [&raw, &small, &raw].map(|raw| (raw.clone(), raw.clone(), TAR.to_owned())).to_vec(),
        "empty" => [&vec![0; 1024], &raw].map(|raw| (raw.clone(), raw.clone(), TAR.to_owned())).to_vec(),
        "gzip in members" => {
            let (start, end) = raw.split_at(1000);
            vec![(raw.clone(), [gzip(start), gzip(end)].concat(), format!("{TAR}+gzip"))]
        }
        _ => vec![(raw.clone(), raw.clone(), TAR.to_owned())],
    };
    let mut config = json!({
        "architecture": architecture(), "os": "linux",
        "config": { "Entrypoint": ["/bin/app"], "Env": ["A=1"], "WorkingDir": "/srv", "User": "1000:1000" },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|(raw, ..)| digest(raw)).collect::<Vec<_>>() },
    });
    match case.word("config") {
        "no architecture" => _ = config.as_object_mut().expect("an object").remove("architecture"),
        "x86_64" if architecture() == "amd64" => config["architecture"] = "x86_64".into(),
        "x86_64" => config["architecture"] = "aarch64".into(),
        "variant" => config["variant"] = if architecture() == "amd64" { "v1" } else { "v8" }.into(),
        "no config" => _ = config.as_object_mut().expect("an object").remove("config"),
        "null everywhere" => {
            config["config"] = json!({ "Entrypoint": null, "Cmd": null, "Env": null, "Volumes": null, "User": "", "Labels": null });
            config["history"] = Value::Null;
        }
        "volumes" => config["config"]["Volumes"] = json!({ "/data": {}, "/data/x": {} }),
        "odd variables" => config["config"]["Env"] = json!(["A", "=", "", "B=", "C==", "A=1"]),
        "history" => config["history"] = json!([{ "created": "2020-01-01T00:00:00Z", "empty_layer": true }]),
        "words for lists" => config["config"]["Cmd"] = "/bin/app".into(),
        "upper case system" => config["os"] = "Linux".into(),
        _ => {}
    }
    let config = put(
        &mut image,
        if docker { DOCKER_CONFIG } else { CONFIG },
        spoil(case.word("json"), &config.to_string(), &["architecture", "config", "rootfs"]),
    );
    let mut parts = Vec::new();
    for (_, bytes, media_type) in layers {
        parts.push(put(&mut image, &media_type, bytes));
    }
    let own = if docker { DOCKER_MANIFEST } else { MANIFEST };
    let mut manifest = json!({ "schemaVersion": 2, "mediaType": own, "config": config, "layers": parts });
    match case.word("manifest") {
        "no version" => _ = manifest.as_object_mut().expect("an object").remove("schemaVersion"),
        "no type" => _ = manifest.as_object_mut().expect("an object").remove("mediaType"),
        "another type" => manifest["mediaType"] = "application/json".into(),
        "null annotations" => manifest["annotations"] = Value::Null,
        "subject" => manifest["subject"] = manifest["config"].clone(),
        "null version" => manifest["schemaVersion"] = Value::Null,
        "config of no type" => _ = manifest["config"].as_object_mut().expect("an object").remove("mediaType"),
        "config of bytes" => manifest["config"]["mediaType"] = "application/octet-stream".into(),
        "annotated layers" => manifest["layers"][0]["annotations"] = json!({ "a": "b", "n": null }),
        _ => {}
    }
    let manifest = spoil(case.word("json"), &manifest.to_string(), &["config", "layers"]);
    let entry = put(&mut image, own, manifest);
    let with = |platform: Value| {
        let mut entry = entry.clone();
        entry["platform"] = platform;
        entry
    };
    let ours = || json!({ "os": "linux", "architecture": architecture() });
    let index = |image: &mut TestImage, entries: Vec<Value>| {
        let text = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string();
        put(image, INDEX, spoil(case.word("json"), &text, &["manifests"]))
    };
    let target = match case.word("index") {
        "platform" => index(&mut image, vec![with(ours())]),
        "no platform" => index(&mut image, vec![entry.clone()]),
        "null platform" => index(&mut image, vec![with(Value::Null)]),
        "two of one" => index(&mut image, vec![with(ours()), with(ours())]),
        "nested" | "nested twice" => {
            let mut inner = index(&mut image, vec![with(ours())]);
            if case.word("index") == "nested twice" {
                inner["platform"] = ours();
                inner = index(&mut image, vec![inner]);
            }
            inner["platform"] = ours();
            index(&mut image, vec![inner])
        }
        "attestation first" => {
            let mut other = put(&mut image, MANIFEST, b"{}".to_vec());
            other["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
            other["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
            index(&mut image, vec![other, with(ours())])
        }
        "foreign first" => {
            let mut other = put(&mut image, MANIFEST, b"{\"a\":1}".to_vec());
            other["platform"] = json!({ "os": "linux", "architecture": other_architecture() });
            index(&mut image, vec![other, with(ours())])
        }
        "another digest first" => {
            let digest = format!("sha512:{}", "ab".repeat(64));
            let platform = json!({ "os": "linux", "architecture": other_architecture() });
            let other = json!({ "mediaType": MANIFEST, "digest": digest, "size": 9, "platform": platform });
            index(&mut image, vec![other, with(ours())])
        }
        "32 bits" => {
            let (architecture, variant) = if architecture() == "amd64" { ("386", "") } else { ("arm", "v7") };
            index(
                &mut image,
                vec![with(json!({ "os": "linux", "architecture": architecture, "variant": variant }))],
            )
        }
        "docker list" => {
            let text = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [with(ours())] });
            put(&mut image, DOCKER_LIST, text.to_string().into_bytes())
        }
        "no type" => {
            let text = json!({ "schemaVersion": 2, "manifests": [with(ours())] }).to_string();
            put(&mut image, INDEX, text.into_bytes())
        }
        _ => entry.clone(),
    };
    let media_type = target["mediaType"].as_str().expect("a type").to_owned();
    image.target = target;
    Made { image, media_type }
}

/// Writes a document as nobody should, and Go reads it all the same. `keys` are some of its own.
fn spoil(word: &str, text: &str, keys: &[&str]) -> Vec<u8> {
    let key = |name: &str| format!("\"{name}\":");
    let named = |change: &dyn Fn(&str) -> String| {
        keys.iter().fold(text.to_owned(), |text, name| text.replacen(&key(name), &change(name), 1))
    };
    let inner = text.strip_prefix('{').expect("an object");
    let text = match word {
        "upper case" => named(&|name| key(&name.to_uppercase())),
        "first in upper case" => named(&|name| key(&format!("{}{}", name[..1].to_uppercase(), &name[1..]))),
        "twice" => format!("{{\"{}\":null,{inner}", keys[0]),
        "null first" => format!("{{\"{}\":null,\"other\":null,{inner}", keys[0].to_uppercase()),
        "unknown fields" => format!("{{\"x\":1e999,\"y\":{{\"config\":[]}},\"\":-0.0,{inner}"),
        "spaces" => format!("\n\t {} \r\n", text.replace("\":", "\"\n : ")),
        "escapes" => named(&|name| format!("\"\\u{:04x}{}\":", u32::from(name.as_bytes()[0]), &name[1..])),
        "deep" => format!("{{\"x\":{}{},{inner}", "[".repeat(500), "]".repeat(500)),
        "half a character" => text.replacen("\"Env\":", "\"Cmd\":[\"\\ud800\"],\"Env\":", 1),
        "rootfS" => text.replacen("\"rootfs\":", "\"rootfS\":", 1),
        "not UTF-8" => {
            let mut bytes = b"{\"author\":\"\xff\xfe\",".to_vec();
            bytes.extend(inner.bytes());
            return bytes;
        }
        _ => text.to_owned(),
    };
    text.into_bytes()
}

/// Returns the answer of the registry of a case.
fn answer(case: &Case, made: &Made, counts: &[AtomicUsize; 3], asked: &Asked) -> Reply {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let first = |count: &AtomicUsize, times: usize| count.fetch_add(1, Ordering::SeqCst) < times;
    let limited = |times, after: &str| {
        first(&counts[0], times).then(|| Reply::new(429, "{}").with("retry-after", after))
    };
    let is_config = path.ends_with(&*made.config());
    let is_blob = path.contains("/blobs/");
    let limit = match case.word("limit") {
        "429 once" if path.contains("/v2/me") => limited(1, "0"),
        "429 with seconds" if path.contains("/manifests/") => limited(1, "1"),
        "429 with a date" if path.contains("/manifests/") => limited(1, "Wed, 21 Oct 2015 07:28:00 GMT"),
        "429 of a token" if path == "/token" => limited(1, "1"),
        "429 of a layer" if is_blob && !is_config => limited(1, "1"),
        "429 of a config" if is_config => limited(1, "0"),
        "two in a row" if path.contains("/manifests/") => limited(2, "0"),
        "408 once" if path.contains("/v2/me") => first(&counts[0], 1).then(|| Reply::new(408, "")),
        _ => None,
    };
    if let Some(limit) = limit {
        return limit;
    }
    let realm = format!("http://{}/token", asked.host);
    let challenges: &[String] = &match case.word("challenge") {
        "none" if case.word("token") == "token" => vec![],
        "lower case" => vec![format!("bearer realm=\"{realm}\",service=\"s\"")],
        "spaces" => vec![format!("Bearer  realm=\"{realm}\" , service=\"s\"")],
        "tabs" => vec![format!("Bearer\trealm=\"{realm}\",\tservice=\"s\"")],
        "unquoted" => vec![format!("Bearer realm=\"{realm}\",service=s")],
        "escaped" => vec![format!("Bearer realm=\"{realm}\",service=\"a \\\"b\\\"\"")],
        "basic and bearer" => vec![format!("Bearer realm=\"{realm}\",service=\"s\", Basic realm=\"x\"")],
        "two headers" => vec!["Basic realm=\"x\"".into(), format!("Bearer realm=\"{realm}\",service=\"s\"")],
        "no scope" => vec![format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"\"")],
        _ => vec![format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:me/fn:pull\"")],
    };
    let token = case.word("token");
    if path == "/token" {
        let asks = query.contains("me%2Ffn%3Apull") || asked.body.contains("me%2Ffn%3Apull");
        return match token {
            "access_token" => Reply::new(200, r#"{"access_token":"T"}"#),
            "both" => Reply::new(200, r#"{"token":"T","access_token":"T"}"#),
            "upper case" => Reply::new(200, r#"{"TOKEN":"T"}"#),
            "more fields" => {
                Reply::new(200, r#"{"token":"T","expires_in":60,"issued_at":"2020-01-01T00:00:00Z","x":{}}"#)
            }
            "null" => Reply::new(200, r#"{"token":"T","access_token":null}"#),
            "chunked" => Reply::new(200, r#"{"token":"T"}"#).chunked(),
            "more text" => Reply::new(200, "{\"token\":\"T\"}\n<!-- served -->"),
            "scoped" if !asks => Reply::new(400, "{}"),
            _ => Reply::new(200, r#"{"token":"T"}"#),
        };
    }
    if path == "/v2/" && case.word("challenge") == "open greeting" {
        return Reply::new(200, "{}");
    }
    if path == "/v2/" && case.word("challenge") == "no greeting" {
        return Reply::new(404, "");
    }
    let is_moved = path.starts_with("/moved/");
    // Each fourth request finds its token not good any more.
    let expired = token == "short lived" && counts[1].fetch_add(1, Ordering::SeqCst) % 4 == 3;
    if !challenges.is_empty() && !is_moved && (asked.authorization.as_deref() != Some("Bearer T") || expired)
    {
        return challenges.iter().fold(Reply::new(401, "{}"), |reply, challenge| {
            reply.with("www-authenticate", challenge.clone())
        });
    }
    if path == "/v2/" {
        return Reply::new(200, "{}");
    }
    let transfer = case.word("transfer");
    let reference = path.rsplit('/').next().unwrap_or_default();
    if path.contains("/manifests/") {
        if transfer == "no head" && asked.method == "HEAD" {
            return Reply::new(405, "");
        }
        let digest = if reference.starts_with("sha256:") { reference } else { made.image.digest() };
        let Some(bytes) = made.image.blobs.get(digest) else { return Reply::new(404, "{}") };
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        let own = [DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST];
        let said = own.iter().find(|name| text.contains(&format!("\"mediatype\":\"{name}\"")));
        let media_type = if digest == made.image.digest() {
            made.media_type.as_str()
        } else {
            said.copied().unwrap_or(MANIFEST)
        };
        let reply = Reply::new(200, bytes.clone()).with("content-type", media_type);
        let names = transfer != "no digest header" || reference != "1";
        return if names { reply.with("docker-content-digest", digest) } else { reply };
    }
    let Some(bytes) = made.image.blobs.get(reference) else { return Reply::new(404, "{}") };
    let (status, to) = match transfer {
        "redirect 301" => (301, format!("http://{}/moved/{reference}", asked.host)),
        "redirect 302" => (302, format!("http://{}/moved/{reference}?X-Sig=a%2Fb", asked.host)),
        "redirect 307" => (307, format!("http://{}/moved/{reference}", asked.host)),
        "redirect 308" => (308, format!("http://{}/moved/{reference}", asked.host)),
        "relative redirect" => (307, format!("/moved/{reference}")),
        _ => (0, String::new()),
    };
    if status > 0 && !is_moved {
        return Reply::new(status, "").with("location", to);
    }
    let reply = match asked.from {
        Some(from) => Reply::new(206, &bytes[from..])
            .with("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        None => Reply::new(200, bytes.clone()),
    };
    match transfer {
        "cut" if bytes.len() > 100_000 && first(&counts[2], 1) => reply.cut_at(70_000),
        "no length" => reply.chunked(),
        _ => reply,
    }
}

impl Made {
    /// The digest of the config, which is the one blob that is no layer and no manifest.
    fn config(&self) -> String {
        let is_config = |bytes: &Vec<u8>| {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).to_ascii_lowercase();
            start.trim_start().starts_with('{') && start.contains("diff_ids")
        };
        self.image
            .blobs
            .iter()
            .find(|(_, bytes)| is_config(bytes))
            .map(|(name, _)| name.clone())
            .unwrap_or_default()
    }

    /// An archive with the image under a name, and others beside it.
    fn write(&self, file: &std::path::Path, name: &str, number: usize) {
        let mut entry = self.image.target.clone();
        entry["annotations"] = match number % 3 {
            0 => json!({ "io.containerd.image.name": name }),
            1 => json!({ "org.opencontainers.image.ref.name": "1", "io.containerd.image.name": name }),
            _ => json!({ "io.containerd.image.name": name, "other": null }),
        };
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        let prefix = if number.is_multiple_of(2) { "" } else { "./" };
        let mut files = vec![
            (format!("{prefix}oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            (format!("{prefix}index.json"), index.to_string().into_bytes()),
        ];
        for (digest, bytes) in &self.image.blobs {
            files.push((format!("{prefix}blobs/{}", digest.replace(':', "/")), bytes.clone()));
        }
        write_tar(file, &files);
    }
}

/// The last line that a program wrote.
fn last_line(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_containerds_own_client_takes_in_is_taken_in() {
    require_root!();
    require!("containerd");
    let (ours, theirs) = (Place::start().await, Place::start().await);
    let seed = long().map_or(18, |long| long.seed.unwrap_or_else(Chance::any_seed));
    let mut chance = Chance::new(seed);
    let mut cases: Vec<Case> = if long().is_some() { Case::each().collect() } else { Vec::new() };
    let rounds = long().map_or(6, |long| long.rounds);
    cases.extend((0..rounds).map(|_| Case::any(&mut chance)));
    let (mut differ, mut taken) = (Vec::new(), 0);
    for (number, case) in cases.iter().enumerate() {
        let made = Arc::new(make(case, &format!("{seed}-{number}")));
        // From a registry.
        let serve = || {
            let (case, made) = (case.clone(), made.clone());
            let counts = [const { AtomicUsize::new(0) }; 3];
            HandmadeRegistry::serve(move |asked| answer(&case, &made, &counts, asked))
        };
        let (for_them, for_us) = (serve().await, serve().await);
        let name = format!("{}/me/fn:1", for_them.address());
        let pulled =
            tokio::task::block_in_place(|| theirs.containerd.ctr(&["images", "pull", "--plain-http", &name]));
        let own = ours.pull(&format!("{}/me/fn:1", for_us.address())).await;
        let is_same = own.as_ref().is_ok_and(|own| own.resolved.digest == made.image.digest());
        match (pulled.status.success(), is_same) {
            (true, true) => taken += 1,
            (true, false) => differ.push(format!("registry, {}: {own:?}", case.shown())),
            (false, _) => eprintln!("ctr refuses from a registry, {}: {}", case.shown(), last_line(&pulled)),
        }
        // From an archive.
        let name = format!("docker.io/me/archive:{number}");
        let file = ours.containerd.path().join("case.tar");
        made.write(&file, &name, number);
        let path = file.display().to_string();
        let imported = tokio::task::block_in_place(|| theirs.containerd.ctr(&["images", "import", &path]));
        let own = ours.runtime.load(file, None).await;
        let is_same = own.as_ref().is_ok_and(|own| {
            own.images
                .iter()
                .map(|image| (image.name.as_str(), image.digest.as_str()))
                .eq([(name.as_str(), made.image.digest())])
        });
        match (imported.status.success(), is_same) {
            (true, true) => taken += 1,
            (true, false) => differ.push(format!("archive, {}: {own:?}", case.shown())),
            (false, _) => {
                eprintln!("ctr refuses from an archive, {}: {}", case.shown(), last_line(&imported))
            }
        }
        for place in [&ours, &theirs] {
            for name in place.names() {
                tokio::task::block_in_place(|| place.containerd.ctr(&["images", "rm", &name]));
            }
        }
    }
    eprintln!("seed {seed}: {} cases, {taken} of {} taken in by both", cases.len(), 2 * cases.len());
    assert!(differ.is_empty(), "seed {seed}:\n{}", differ.join("\n"));
    assert!(taken > cases.len(), "ctr refuses too much for this to mean anything");
}
