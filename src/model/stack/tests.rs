use std::path::PathBuf;

use super::*;
use crate::wire::{Deployment, Namespace, Resources};

fn variable(name: &str) -> Option<String> {
    match name {
        "TAG" => Some("1.2".to_owned()),
        "EVIL" => Some("x\n    fprocess: rm".to_owned()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Stack, StackError> {
    parse(text, &Files::In(PathBuf::new()), &|_| true, Some(&variable))
}

fn one(text: &str) -> serde_json::Value {
    let stack = load(text).expect("valid");
    assert_eq!(stack.functions.len(), 1);
    serde_json::to_value(&stack.functions[0]).expect("JSON")
}

fn refused(text: &str) -> String {
    load(text).expect_err(text).to_string()
}

#[test]
fn every_key_of_a_function_reaches_the_deployment() {
    let sent = one("
version: 1.0
provider:
  name: openfaas
  gateway: http://gw:8080
configuration:
  templates: [{name: x}]
functions:
  env:
    lang: dockerfile
    handler: ./env
    image: ${REG:-ghcr.io/you}/env:${TAG}
    namespace: dev
    fprocess: cat -
    environment: {write_debug: true, VERSION: 1.10, HEX: 0x1F, EMPTY: , NUL: ~, TEXT: 'a: b'}
    secrets: [one, two]
    labels: {com.openfaas.scale.min: 2}
    annotations: {topic: cron-function, schedule: '*/5 * * * *'}
    constraints: ['node.platform.os == linux']
    limits: {memory: 128Mi, cpu: 500m}
    requests: {cpu: 1}
    readonly_root_filesystem: true
    skip_build: true
    build_args: {A: b}
");
    assert_eq!(
        sent,
        serde_json::json!({
            "service": "env", "image": "ghcr.io/you/env:1.2", "namespace": "dev", "envProcess": "cat -",
            "envVars": {"write_debug": "true", "VERSION": "1.10", "HEX": "0x1F", "EMPTY": "", "NUL": "", "TEXT": "a: b"},
            "secrets": ["one", "two"],
            "labels": {"com.openfaas.scale.min": "2"},
            "annotations": {"topic": "cron-function", "schedule": "*/5 * * * *"},
            "constraints": ["node.platform.os == linux"],
            "limits": {"memory": "128Mi", "cpu": "500m"}, "requests": {"cpu": "1"},
            "readOnlyRootFilesystem": true
        })
    );
}

#[test]
fn the_smallest_function_sends_nothing_else() {
    let sent = one("functions: {env: {image: a, readonly_root_filesystem: false, limits: {}, secrets: []}}");
    assert_eq!(sent, serde_json::json!({"service": "env", "image": "a"}));
}

#[test]
fn merge_keys_share_what_functions_have_in_common() {
    let stack = load(
        "
x-base: &base
  image: shared
  labels: &labels {a: base, b: base}
  limits: {memory: 1Mi}
functions:
  one:
    <<: *base
    labels:
      <<: *labels
      a: own
  two:
    <<: [*base]
    image: own
",
    )
    .expect("valid");
    let [one, two] = &stack.functions[..] else { panic!("two functions") };
    assert_eq!(one.image, "shared");
    assert_eq!(one.labels.as_ref().expect("labels")["a"], "own");
    assert_eq!(one.labels.as_ref().expect("labels")["b"], "base");
    assert_eq!(two.image, "own");
    assert_eq!(two.limits.as_ref().expect("limits").memory.as_deref(), Some("1Mi"));
    assert_eq!(stack.notes, Vec::<String>::new());
}

#[test]
fn mistakes_name_the_function_and_the_key() {
    for (text, parts) in [
        ("functions: {env: {image: a, environment: [x]}}", &["functions.env.environment", "map"][..]),
        ("functions: {env: {image: a, environment: {A: [x]}}}", &["functions.env.environment.A"]),
        ("functions: {env: {image: a, secrets: x}}", &["functions.env.secrets", "sequence"]),
        ("functions: {env: {image: [a]}}", &["functions.env.image", "string"]),
        ("functions: {env: {image: a, limits: 5}}", &["functions.env.limits"]),
        (
            "functions: {env: {image: a, readonly_root_filesystem: maybe}}",
            &["functions.env.readonly_root_filesystem", "boolean"],
        ),
        ("functions: {env: {lang: go}}", &["functions.env.image is missing"]),
        ("functions: {env: {image: ''}}", &["functions.env.image is missing"]),
        ("functions: {env: }", &["functions.env is empty"]),
        ("functions: {env: {image: a, environment: {A: 1, A: 2}}}", &["twice"]),
        ("functions: {}", &["no functions"]),
        ("version: 1.0", &["no functions"]),
        ("version: 2.0\nfunctions: {a: {image: a}}", &["version is \"2.0\""]),
        ("provider: {name: faas}\nfunctions: {a: {image: a}}", &["provider.name is \"faas\""]),
        ("functions: {a: {image: '${TAG!}'}}", &["${TAG!}"]),
        ("functions: {a: {image: a}, a: {image: b}}", &["\"a\" stands there twice"]),
        ("functions: {a: {image: a}", &["line"]),
        ("- a", &["sequence"]),
        ("", &[""]),
    ] {
        let error = refused(text);
        for part in parts {
            assert!(error.contains(part), "{text:?} gave {error:?}, without {part:?}");
        }
    }
}

#[test]
fn unknown_keys_and_missing_variables_are_noted_and_accepted() {
    let stack = load(
        "
provder: {}
provider: {name: openfaas, gatway: x}
functions:
  env: {image: 'a${MISSING}', enviroment: {a: b}, limits: {memory: 1, disk: 2}}
",
    )
    .expect("accepted");
    let notes = stack.notes.join("\n");
    for key in
        ["${MISSING}", "provder", "provider.gatway", "functions.env.enviroment", "functions.env.limits.disk"]
    {
        assert!(notes.contains(key), "{key} is not in {notes}");
    }
    assert_eq!(stack.notes.len(), 5);
    assert_eq!(stack.functions[0].image, "a");
}

#[test]
fn a_handler_that_no_lang_builds_is_a_directory_beside_the_stack_file() {
    let text = "
x-code: &code {handler: shared, image: python:3}
functions:
  alone: {image: python:3, handler: ./code}
  based: {<<: *code}
  built: {image: a, handler: ./code, lang: python3-http}
  empty: {image: a, handler: ''}
  ready: {image: a, handler: ./code, skip_build: yes}
  unnamed: {image: a, handler: ./code, lang: ''}
";
    let of = |files: &Files| parse(text, files, &|_| true, None);
    let stack = of(&Files::In(PathBuf::from("/stacks"))).expect("valid");
    let handlers = stack.handlers.iter();
    let handlers: Vec<_> = handlers
        .map(|(place, path)| (&*stack.functions[*place].service, path.to_str().expect("text")))
        .collect();
    let expected = [("alone", "/stacks/./code"), ("based", "/stacks/shared"), ("unnamed", "/stacks/./code")];
    assert_eq!(handlers, expected);
    assert_eq!(stack.notes, Vec::<String>::new());
    let error = of(&Files::Nowhere).expect_err("remote").to_string();
    assert!(error.contains("functions.alone.handler \"./code\"") && error.contains("from a URL"), "{error}");
}

/// go-yaml takes the text of every scalar where a text is meant, and the words of YAML 1.1 where a flag is.
#[test]
fn scalars_are_read_as_go_yaml_reads_them() {
    for text in [
        "yes",
        "no",
        "on",
        "off",
        "y",
        "N",
        "On",
        "TRUE",
        "true",
        "0777",
        "0o17",
        "0x1F",
        "0b11",
        "1_000",
        "1:30",
        "190:20:30",
        "1e3",
        "1.10",
        ".5",
        "+1",
        "-0",
        ".inf",
        ".NaN",
        "2001-12-14",
        "2001-12-14t21:59:43.10-05:00",
        "=",
        "12345678901234567890123",
        "-12345678901234567890123",
        "00.10",
    ] {
        let sent = one(&format!(
            "functions: {{f: {{image: {text}, namespace: {text}, fprocess: {text}, environment: {{A: {text}, {text}: b}},
              secrets: [{text}], labels: {{A: {text}}}, limits: {{memory: {text}, cpu: {text}}}}}}}"
        ));
        for place in [
            "image",
            "namespace",
            "envProcess",
            "envVars/A",
            "secrets/0",
            "labels/A",
            "limits/memory",
            "limits/cpu",
        ] {
            assert_eq!(sent.pointer(&format!("/{place}")).expect(place), text, "{place}");
        }
        assert_eq!(sent["envVars"][text], "b");
    }
    for word in ["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE", "'yes'"] {
        let sent = one(&format!("functions: {{f: {{image: a, readonly_root_filesystem: {word}}}}}"));
        assert_eq!(sent["readOnlyRootFilesystem"], true, "{word}");
    }
    for word in ["n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE", "~", "null", ""]
    {
        let sent = one(&format!("functions: {{f: {{image: a, readonly_root_filesystem: {word}}}}}"));
        assert_eq!(sent.get("readOnlyRootFilesystem"), None, "{word}");
    }
    for word in ["~", "null", "Null", "NULL", ""] {
        let sent = one(&format!(
            "functions:\n  f:\n    image: a\n    environment:\n      A: {word}\n    secrets:\n    - x\n    - {word}\n"
        ));
        assert_eq!(
            sent,
            serde_json::json!({"service": "f", "image": "a", "envVars": {"A": ""}, "secrets": ["x"]})
        );
    }
}

#[test]
fn merge_keys_work_in_maps_and_keep_the_text_of_numbers() {
    let stack = load(
        "
x-all: &all
  shared: {image: s}
  own: {image: replaced}
x-limits: &limits {memory: 1Mi, cpu: 0.10}
x-a: &a {V: 1.10, W: a}
x-b: &b {W: b, X: 0x1F}
x-base: &base {image: a, environment: {V: 1.10}, readonly_root_filesystem: on, limits: {cpu: 0.50}}
functions:
  <<: *all
  own: {image: o, environment: {<<: [*a, *b]}, limits: {<<: *limits, memory: 2Mi}}
  based: {<<: [*base]}
",
    )
    .expect("valid");
    assert_eq!(stack.notes, Vec::<String>::new());
    let sent = serde_json::to_value(&stack.functions).expect("JSON");
    assert_eq!(
        sent,
        serde_json::json!([
            {"service": "based", "image": "a", "envVars": {"V": "1.10"}, "readOnlyRootFilesystem": true,
             "limits": {"cpu": "0.50"}},
            {"service": "own", "image": "o", "envVars": {"V": "1.10", "W": "a", "X": "0x1F"},
             "limits": {"memory": "2Mi", "cpu": "0.10"}},
            {"service": "shared", "image": "s"}
        ])
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("env.yml"), "\u{feff}environment: {A: a}").expect("written");
    let text = read_text("\u{feff}functions: {f: {image: a, environment_file: [env.yml]}}".as_bytes())
        .expect("read");
    let stack = parse(&text, &Files::In(dir.path().to_owned()), &|_| true, None).expect("valid");
    assert_eq!(stack.functions[0].env_vars.as_ref().expect("variables")["A"], "a");
    assert_eq!(stack.notes, Vec::<String>::new());
}

#[test]
fn environment_files_are_beside_the_stack_file_and_the_last_one_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("env")).expect("made");
    std::fs::write(dir.path().join("a.yml"), "environment: {A: a, B: a, C: 1.0}").expect("written");
    std::fs::write(dir.path().join("env/b.yml"), "environment:\n  B: b\nother: x\n").expect("written");
    let files = Files::In(dir.path().to_owned());
    let text =
        "functions: {env: {image: a, environment: {A: own, D: d}, environment_file: [a.yml, env/b.yml]}}";
    let stack = parse(text, &files, &|_| true, None).expect("valid");
    let variables: Vec<_> = stack.functions[0].env_vars.clone().expect("variables").into_iter().collect();
    let expected =
        [("A", "a"), ("B", "b"), ("C", "1.0"), ("D", "d")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(variables, expected);

    let missing = "functions: {env: {image: a, environment_file: [none.yml]}}";
    let error = parse(missing, &files, &|_| true, None).expect_err("missing").to_string();
    assert!(
        error.contains("functions.env.environment_file \"none.yml\"") && error.contains("No such file"),
        "{error}"
    );
    let error = parse(text, &Files::Nowhere, &|_| true, None).expect_err("remote").to_string();
    assert!(error.contains("came from a URL"), "{error}");
}

#[test]
fn only_what_is_taken_must_be_right() {
    let text = "functions: {gif-1: {image: a}, env: {image: a}, gif-2: {image: }}";
    let of = |start: &str| parse(text, &Files::Nowhere, &|name| name.starts_with(start), None);
    assert_eq!(of("e").expect("one").functions[0].service, "env");
    assert_eq!(of("x").expect("none").functions, []);
    assert!(of("gif").expect_err("gif-2 has no image").to_string().contains("functions.gif-2.image"));
}

#[test]
fn the_gateway_and_the_text_are_taken_as_they_are_without_substitution() {
    let text = "provider: {gateway: 'http://gw'}\nfunctions: {a: {image: '${TAG}'}}";
    let stack = parse(text, &Files::Nowhere, &|_| true, None).expect("valid");
    assert_eq!(stack.gateway.as_deref(), Some("http://gw"));
    assert_eq!(stack.functions[0].image, "${TAG}");
}

#[test]
fn aliases_cannot_grow_without_bound() {
    let mut text = String::from("x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let previous = format!("*a{}", level - 1);
        text.push_str(&format!("x-{level}: &a{level} [{}]\n", [previous.as_str(); 10].join(", ")));
    }
    text.push_str("functions: {a: {image: a}}\n");
    assert!(load(&text).is_err());
}

#[test]
fn files_have_a_bound() {
    let long = "#".repeat(MAX_FILE + 1);
    assert!(read_text(long.as_bytes()).expect_err("too large").to_string().contains("larger than"));
    assert_eq!(read_text(&long.as_bytes()[1..]).expect("fits").len(), MAX_FILE);
    assert!(read_text(&b"\xff"[..]).expect_err("not text").to_string().contains("UTF-8"));
}

#[test]
fn a_variable_is_text_before_it_is_yaml() {
    // As in faas-cli: who sets the variables writes the file.
    let stack = load("functions:\n  a:\n    image: ${EVIL}\n").expect("valid");
    assert_eq!(stack.functions[0].env_process.as_deref(), Some("rm"));
}

#[test]
fn a_gateway_that_depends_on_a_variable_is_refused_however_it_is_written() {
    for gateway in [
        "${TAG}",
        "http://evil/${TAG}/${MISSING}",
        "http://${MISSING:-evil}",
        "${MISSING:-http://gw}",
        "\"http://\\x65vil/${TAG}\"",
        "*there",
        ">-\n    http://evil/${TAG}",
    ] {
        let text = format!(
            "x: &there 'http://evil/${{TAG}}'\nprovider:\n  gateway: {gateway}\nfunctions: {{a: {{image: b}}}}"
        );
        let error = refused(&text);
        assert!(
            error.contains("provider.gateway has a variable") && error.contains("--gateway"),
            "{gateway}: {error}"
        );
        assert!(!error.contains("1.2"), "the value is shown: {error}");
    }
    // A variable in the key counts, too.
    let key = refused("${MISSING:-provider}: {gateway: 'http://evil'}\nfunctions: {a: {image: b}}");
    assert!(key.contains("provider.gateway"), "{key}");
    for (gateway, taken) in [("'http://gw'", "http://gw"), ("'http://$${TAG}'", "http://${TAG}")] {
        let text = format!("provider: {{gateway: {gateway}}}\nfunctions: {{a: {{image: 'b:${{TAG}}'}}}}");
        assert_eq!(load(&text).expect("valid").gateway.as_deref(), Some(taken));
    }
}

#[test]
fn a_file_from_a_url_gets_no_variables_of_the_environment() {
    let load = |text: &str| parse(text, &Files::Nowhere, &|_| true, Some(&variable));
    for (text, name) in [
        ("functions: {a: {image: 'evil/${TAG}'}}", "${TAG}"),
        ("provider: {gateway: 'http://evil/${TAG}'}\nfunctions: {a: {image: b}}", "${TAG}"),
        ("functions: {a: {image: '${MISSING:-${EVIL}}'}}", "${EVIL}"),
        ("functions: {a: {image: 'evil/${NOWHERE}'}}", "${NOWHERE}"),
    ] {
        let error = load(text).expect_err(text).to_string();
        assert!(
            error.contains(name) && error.contains("URL") && error.contains("local copy"),
            "{text}: {error}"
        );
        assert!(!error.contains("1.2") && !error.contains("rm"), "the value is shown: {error}");
    }
    let text = "functions: {a: {image: 'b:${TAG:-0}', environment: {x: '$${TAG}'}}}";
    let stack = load(text).expect("valid");
    assert_eq!(stack.functions[0].image, "b:0");
    assert_eq!(stack.functions[0].env_vars.as_ref().expect("variables")["x"], "${TAG}");
}

#[test]
fn what_is_rendered_is_read_again() {
    let map = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    };
    let full = Deployment {
        service: "env".into(),
        image: "ghcr.io/you/env:1.10".into(),
        namespace: Some("dev".into()),
        env_process: Some("sh -c 'echo ${HOME:-x} $${A} $B'".into()),
        env_vars: map(&[
            ("VERSION", "1.10"),
            ("ON", "yes"),
            ("LINES", "a\n# b: c\n"),
            ("EMPTY", ""),
            ("PASSWORD", "pa$$word"),
            ("HASH", "$2y$10$a$$$"),
            ("SHARE", r"\\server\share"),
            ("PATTERN", r"^\d+\\\/\n$"),
            ("BELL", "\u{7}\\\\\t/"),
        ]),
        constraints: Some(vec!["node.platform.os == linux".into()]),
        secrets: Some(vec!["one".into()]),
        labels: map(&[("com.openfaas.scale.min", "2")]),
        annotations: map(&[("topic", "cron-function"), ("schedule", "*/5 * * * *")]),
        limits: Some(Resources { memory: Some("128Mi".into()), cpu: None }),
        requests: None,
        read_only_root_filesystem: Some(true),
    };
    let small = Deployment { service: "env".into(), image: "a".into(), ..Default::default() };
    let default = Namespace { name: "openfaas-fn".into(), ..Default::default() };
    let dev = Namespace { name: "dev".into(), labels: map(&[("openfaas", "1")]), annotations: None };
    let text = render(&[(default, vec![small.clone()]), (dev.clone(), vec![full.clone()])]).expect("text");
    let read = load(&text).expect("valid");
    assert_eq!(
        read,
        Stack { namespaces: vec![dev], functions: vec![small, full], ..Stack::default() },
        "{text}"
    );
}
