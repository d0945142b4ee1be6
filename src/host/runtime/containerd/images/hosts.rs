//! Which hosts to ask for an image, and how: `certs.d/<registry>/hosts.toml`, as containerd has it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use http::Uri;
use serde::Deserialize;
use toml::Spanned;

use crate::private_file::if_there;
use crate::runtime::RuntimeError;

/// One host that has images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// Name and port, and the path before `/v2` if there is one.
    pub(super) address: String,
    /// Whether to speak HTTP without TLS.
    pub(super) plain: bool,
    /// What comes before the name of every repository, as in `/v2/proxy/…`.
    pub(super) prefix: String,
    /// Whether it may say what a tag means.
    pub(super) resolves: bool,
    /// Whether it may send manifests and layers by digest.
    pub(super) pulls: bool,
    /// Files with certificates to trust besides the system's.
    pub(super) ca: Vec<PathBuf>,
    /// Whether to trust any certificate.
    pub(super) skip_verify: bool,
    /// To be tried only when the host before it does not speak its protocol.
    pub(super) is_fallback: bool,
}

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Entry>,
    #[serde(flatten)]
    own: Entry,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<toml::Value>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, toml::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// The hosts to ask for images of `registry`, in order.
pub(super) fn hosts(certs_dir: &Path, registry: &str) -> Result<Vec<Host>, RuntimeError> {
    let Some(directory) = candidates(certs_dir, registry).into_iter().find(|path| path.is_dir()) else {
        return Ok(defaults(registry));
    };
    let path = directory.join("hosts.toml");
    let failed = |reason: String| RuntimeError::failed(format!("reading {}", path.display()), reason);
    let io = |error: std::io::Error| failed(error.to_string());
    if let Some(text) = if_there(std::fs::read_to_string(&path)).map_err(io)? {
        return parse(&text, &directory, registry).map_err(failed);
    }
    // A directory with certificates only, as Docker has it.
    let ca = certificates(&directory).map_err(io)?;
    let mut hosts = defaults(registry);
    if !ca.is_empty() {
        hosts.retain(|host| !host.plain);
        for host in &mut hosts {
            (host.ca, host.skip_verify, host.is_fallback) = (ca.clone(), false, false);
        }
    }
    Ok(hosts)
}

/// Where the settings of a registry can be, most particular first.
fn candidates(certs_dir: &Path, registry: &str) -> Vec<PathBuf> {
    let mut names = Vec::new();
    if let Some((name, port)) = registry.rsplit_once(':') {
        // For file systems and tools that do not like a colon.
        names.push(format!("{name}_{port}_"));
    }
    names.extend([registry.to_owned(), "_default".to_owned()]);
    names.into_iter().map(|name| certs_dir.join(name)).collect()
}

/// What holds for a registry without settings.
fn defaults(registry: &str) -> Vec<Host> {
    let host = Host {
        address: if registry == "docker.io" { "registry-1.docker.io".into() } else { registry.to_owned() },
        resolves: true,
        pulls: true,
        ..Host::default()
    };
    if !is_loopback(registry) {
        return vec![host];
    }
    // Nobody is between us and ourselves: no TLS, or a certificate that nobody has signed, will do.
    let plain = Host { plain: true, ..host.clone() };
    let encrypted = Host { skip_verify: true, is_fallback: true, ..host };
    vec![plain, encrypted]
}

fn is_loopback(registry: &str) -> bool {
    if let Some(bracketed) = registry.strip_prefix('[') {
        let address = bracketed.split(']').next().unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
    }
    let name = registry.split(':').next().unwrap_or(registry);
    name == "localhost" || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

fn certificates(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut found: Vec<PathBuf> = paths.collect::<std::io::Result<_>>()?;
    found.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
    found.sort();
    Ok(found)
}

fn parse(text: &str, directory: &Path, registry: &str) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut mirrors: Vec<_> = file.host.into_iter().collect();
    // Their order in the file is the order to ask in.
    mirrors.sort_by_key(|(url, _)| url.span().start);
    let mut hosts = Vec::with_capacity(mirrors.len() + 1);
    for (url, entry) in mirrors {
        hosts.push(host(url.get_ref(), &entry, directory)?);
    }
    match file.server {
        Some(server) => hosts.push(host(&server, &file.own, directory)?),
        None => hosts.extend(defaults(registry)),
    }
    Ok(hosts)
}

fn host(url: &str, entry: &Entry, directory: &Path) -> Result<Host, String> {
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let uri: Uri = full.parse().map_err(|error| format!("{url:?}: {error}"))?;
    let plain = match uri.scheme_str() {
        Some("http") => true,
        Some("https") => false,
        _ => return Err(format!("{url:?}: a host begins with https:// or http://")),
    };
    let authority = uri.authority().ok_or_else(|| format!("{url:?}: names no host"))?;
    if entry.client.is_some() {
        return Err(format!("{url:?}: client certificates are not supported: remove 'client'"));
    }
    if !entry.header.is_empty() {
        return Err(format!("{url:?}: headers of your own are not supported: remove 'header'"));
    }
    let (before, prefix) = split_path(uri.path(), entry.override_path)
        .ok_or_else(|| format!("{url:?}: with override_path the path must have a part that is /v2"))?;
    let ca = match entry.ca.clone() {
        None => Vec::new(),
        Some(OneOrMany::One(path)) => vec![path],
        Some(OneOrMany::Many(paths)) => paths,
    };
    let can = |capability: &str| {
        entry.capabilities.as_ref().is_none_or(|list| list.iter().any(|other| other == capability))
    };
    let address = if authority.as_str() == "docker.io" { "registry-1.docker.io" } else { authority.as_str() };
    Ok(Host {
        address: format!("{address}{before}"),
        plain,
        prefix,
        resolves: can("resolve"),
        pulls: can("pull"),
        // Relative paths start at the file.
        ca: ca.into_iter().map(|path| directory.join(path)).collect(),
        skip_verify: entry.skip_verify,
        is_fallback: false,
    })
}

/// A host's path as what comes before `/v2` and what comes after it.
fn split_path(path: &str, overrides: bool) -> Option<(String, String)> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let join = |parts: &[&str]| parts.iter().map(|part| format!("/{part}")).collect::<String>();
    if !overrides {
        // containerd adds /v2 unless the path ends with it.
        let parts = parts.strip_suffix(&["v2"]).unwrap_or(&parts);
        return Some((join(parts), String::new()));
    }
    let version = parts.iter().position(|part| *part == "v2")?;
    let mut prefix = parts[version + 1..].join("/");
    if !prefix.is_empty() {
        prefix.push('/');
    }
    Some((join(&parts[..version]), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Host> {
        parse(text, Path::new("/certs"), "docker.io").expect(text)
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_then_the_server() {
        let hosts = parsed(
            "server = \"https://registry-1.docker.io\"\n\
             [host.\"https://z.example:5000\"]\ncapabilities = [\"pull\"]\n\
             [host.\"http://a.example\"]\nca = \"a.crt\"\n",
        );
        let shown: Vec<_> =
            hosts.iter().map(|h| (h.address.as_str(), h.plain, h.resolves, h.pulls)).collect();
        assert_eq!(
            shown,
            [
                ("z.example:5000", false, false, true),
                ("a.example", true, true, true),
                ("registry-1.docker.io", false, true, true)
            ]
        );
        assert_eq!(hosts[1].ca, [PathBuf::from("/certs/a.crt")]);
    }

    #[test]
    fn the_server_has_settings_of_its_own_and_a_default() {
        let hosts = parsed(
            "server = \"https://r.example\"\nca = [\"/x/one.pem\", \"two.pem\"]\nskip_verify = true\n",
        );
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].ca, [PathBuf::from("/x/one.pem"), PathBuf::from("/certs/two.pem")]);
        assert!(hosts[0].skip_verify);
        assert_eq!(parsed("[host.\"https://m.example\"]\n")[1].address, "registry-1.docker.io");
    }

    #[test]
    fn paths_are_understood_where_the_protocol_has_a_place_for_them() {
        for (path, overrides, want) in [
            ("", false, Some(("", ""))),
            ("/v2", false, Some(("", ""))),
            ("/a/b", false, Some(("/a/b", ""))),
            ("/v2/proxy", true, Some(("", "proxy/"))),
            ("/a/v2/x/y/", true, Some(("/a", "x/y/"))),
            ("/proxy", true, None),
        ] {
            let want = want.map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(split_path(path, overrides), want, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_an_error() {
        for (text, reason) in [
            ("server = ", "TOML"),
            ("server = \"ftp://x\"", "https://"),
            ("[host.\"https://m\"]\nclient = \"/x.pem\"", "client certificates"),
            ("[host.\"https://m\".header]\nx = \"y\"", "headers"),
            ("[host.\"https://m/x\"]\noverride_path = true", "/v2"),
            ("[host.\"https://m\"]\nca = 5", "ca"),
        ] {
            let error = parse(text, Path::new("/"), "docker.io").expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_directory_is_found_as_containerd_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        };
        let first = |registry| hosts(dir.path(), registry).unwrap()[0].address.clone();
        assert_eq!(first("r.example:5000"), "r.example:5000");
        make("_default", "[host.\"https://default.example\"]");
        assert_eq!(first("r.example:5000"), "default.example");
        make("r.example:5000", "[host.\"https://colon.example\"]");
        assert_eq!(first("r.example:5000"), "colon.example");
        make("r.example_5000_", "[host.\"https://underscore.example\"]");
        assert_eq!(first("r.example:5000"), "underscore.example");
        make("broken", "host = 1");
        let error = hosts(dir.path(), "broken").unwrap_err().to_string();
        assert!(error.contains("broken/hosts.toml"), "{error}");
    }

    #[test]
    fn a_directory_with_only_certificates_is_docker_s() {
        let dir = tempfile::tempdir().unwrap();
        let registry = dir.path().join("127.0.0.1:5000");
        std::fs::create_dir(&registry).unwrap();
        assert!(hosts(dir.path(), "127.0.0.1:5000").unwrap()[0].plain);
        std::fs::write(registry.join("ca.crt"), "x").unwrap();
        let found = hosts(dir.path(), "127.0.0.1:5000").unwrap();
        assert_eq!(found.len(), 1);
        assert!(!found[0].plain && !found[0].skip_verify && !found[0].is_fallback);
        assert_eq!(found[0].ca, [registry.join("ca.crt")]);
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for (registry, loopback) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("[0:0::1]:5000", true),
            ("[fe80::1]:5000", false),
            ("[::]", false),
            ("localhost.example", false),
            ("128.0.0.1:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(is_loopback(registry), loopback, "{registry}");
            assert_eq!(defaults(registry)[0].plain, loopback, "{registry}");
        }
    }
}
