//! The law of the house: an import goes down, and never across from `calls` to `control` or back.
//!
//! `FLOORS` has every room of `src/`, the lowest first. A room is a folder or a file; whatever stands in it belongs
//! to it. `ARCHITECTURE.md` shows the same floors. To add an arrow that climbs, move a type down; to add a room, give
//! it a floor here and there. Cargo refuses circles of packages, and nothing more: which package may name which stands in
//! `PACKAGES`, and what a room may import within its package is held here, too.

#![cfg(test)]

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use imports::Tree;

/// The rooms by floor, the lowest first. Rooms of one floor know nothing of each other.
const FLOORS: &[&[&str]] = &[
    &["age", "http1", "quantity", "lib"],
    &["forward", "schedule"],
    &["model/error", "model/finding", "model/sync", "model/wire"],
    &["model/function"],
    &["model/config", "model/stack"],
    &["host/config_file", "host/exec", "host/fd_store", "host/liveness", "host/private_file"],
    &["host/runtime"],
    &["host/bundles", "host/logs", "host/network", "host/secrets"],
    &["host/store"],
    &["directory"],
    &["calls/invoke", "control/images", "control/replica"],
    &["calls/queue", "control/fleet"],
    &["calls/triggers", "control/first_boot"],
    &["observe/doctor", "observe/metrics"],
    &["gateway/access", "gateway/error"],
    &["gateway/connection"],
    &["gateway/api", "gateway/routes"],
    &["gateway/server"],
    &["daemon"],
    &["cli"],
    &["main"],
];

/// Planes that stand side by side: they meet in the directory, and neither names the other.
const APART: &[(&str, &str)] = &[("calls", "control")];

/// A program of its own, above the packages that it shares with the daemon.
const WATCHDOG: &str = "watchdog";

/// The packages of `src/`, and those of ours that each may depend on.
const PACKAGES: &[(&str, &[&str])] = &[
    ("age", &[]),
    ("calls", &["directory", "forward", "host", "http1", "model", "quantity", "schedule"]),
    ("control", &["directory", "host", "model"]),
    ("directory", &["forward", "host", "model"]),
    ("forward", &["http1"]),
    ("host", &["age", "model"]),
    ("http1", &[]),
    ("model", &["quantity", "schedule"]),
    ("quantity", &[]),
    ("schedule", &["quantity"]),
    (WATCHDOG, &["forward", "http1", "quantity"]),
];

/// The files of planes that only declare their rooms.
const DOORS: &[&str] = &["calls", "control", "gateway", "host", "model", "observe"];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The room that a module stands in, and its floor.
fn room(module: &[String]) -> Option<(String, usize)> {
    let floor_of = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let names = [module.iter().take(2).cloned().collect::<Vec<_>>().join("/"), module.first()?.clone()];
    if names[1] == WATCHDOG {
        return Some((names[1].clone(), FLOORS.len()));
    }
    names.into_iter().find_map(|name| floor_of(&name).map(|floor| (name, floor)))
}

#[test]
fn every_file_stands_on_a_floor() {
    let tree = Tree::read(&project().join("src"));
    assert!(tree.modules.len() > 250, "only {} files were found", tree.modules.len());
    let homeless: Vec<_> = tree
        .modules
        .iter()
        .filter(|(module, _)| room(module).is_none() && !DOORS.contains(&module.join("/").as_str()))
        .map(|(_, file)| format!("{}: give its room a floor in FLOORS", file.display()))
        .collect();
    assert!(homeless.is_empty(), "\n{}", homeless.join("\n"));
    let rooms: BTreeSet<_> =
        tree.modules.keys().filter_map(|module| room(module)).map(|(room, _)| room).collect();
    let empty: Vec<_> = FLOORS.iter().copied().flatten().filter(|room| !rooms.contains(**room)).collect();
    assert!(empty.is_empty(), "no file stands in {empty:?}");
}

#[test]
fn no_import_climbs_or_crosses() {
    let tree = Tree::read(&project().join("src"));
    let mut faults = Vec::new();
    for import in tree.imports() {
        let (Some((from, floor)), Some((to, below))) = (room(&import.from), room(&import.to)) else {
            continue;
        };
        let plane = |room: &str| room.split('/').next().unwrap_or_default().to_owned();
        let (one, other) = (plane(&from), plane(&to));
        let is_apart = APART.iter().any(|pair| *pair == (&one, &other) || *pair == (&other, &one));
        let is_allowed = PACKAGES
            .iter()
            .find(|(package, _)| *package == one)
            .is_none_or(|(_, known)| one == other || known.contains(&other.as_str()));
        if from != to && (below >= floor || is_apart || !is_allowed) {
            faults
                .push(format!("{}: {from} (floor {floor}) uses {to} (floor {below})", import.file.display()));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn packages_depend_on_what_they_may() {
    let workspace = std::fs::read_to_string(project().join("Cargo.toml")).expect("it is there");
    let members =
        workspace.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).expect("members").0;
    let members: BTreeSet<_> =
        members.split('"').skip(1).step_by(2).filter(|member| member.starts_with("src/")).collect();
    let known: BTreeSet<_> = PACKAGES.iter().map(|(package, _)| format!("src/{package}")).collect();
    assert_eq!(
        members,
        known.iter().map(String::as_str).collect(),
        "give a new package its place in PACKAGES"
    );
    for (package, allowed) in PACKAGES {
        let manifest = std::fs::read_to_string(project().join("src").join(package).join("Cargo.toml"))
            .expect("a manifest");
        let names =
            manifest.lines().filter_map(|line| line.split_once([' ', '.', '=']).map(|(name, _)| name.trim()));
        let ours = names.filter(|name| PACKAGES.iter().any(|(package, _)| package == name));
        let wrong: Vec<_> = ours.filter(|name| !allowed.contains(name)).collect();
        assert!(wrong.is_empty(), "src/{package}/Cargo.toml depends on {wrong:?}");
        let renamed = manifest.lines().any(|line| line.contains("package =") || line.starts_with("ingle-"));
        assert!(
            !renamed,
            "src/{package}/Cargo.toml names one of ours in another way: use its name in the workspace"
        );
    }
}

#[test]
fn the_file_of_a_plane_only_declares_its_rooms() {
    let tree = Tree::read(&project().join("src"));
    for door in DOORS {
        let text = std::fs::read_to_string(&tree.modules[&vec![(*door).to_owned()]]).expect("it is there");
        let is_declaration = |line: &str| {
            line.is_empty() || line.starts_with("//") || (line.contains("mod ") && line.ends_with(';'))
        };
        let others: Vec<_> = text.lines().filter(|line| !is_declaration(line)).collect();
        assert!(others.is_empty(), "{door}: {others:?} belongs into a room");
    }
}

#[test]
fn no_two_files_import_each_other() {
    let tree = Tree::read(&project().join("src"));
    let mut arrows: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for import in tree.imports() {
        // A child that adds to its parent is how Rust writes one type in several files.
        if !import.from.starts_with(&import.to) {
            arrows.entry(import.from).or_default().insert(import.to);
        }
    }
    let circles: Vec<_> = circles(&arrows).into_iter().map(|circle| circle.join(" <-> ")).collect();
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

#[test]
fn the_architecture_shows_these_floors() {
    let mut drawing = String::new();
    for (floor, rooms) in FLOORS.iter().enumerate().rev() {
        writeln!(drawing, "{floor:>2}  {}", rooms.join("  ")).expect("a string takes all text");
    }
    let text = std::fs::read_to_string(project().join("ARCHITECTURE.md")).expect("it is there");
    assert!(text.contains(&drawing), "ARCHITECTURE.md does not show the floors as they are:\n{drawing}");
}

/// Groups of modules each of which leads to all others of its group.
fn circles(arrows: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<Vec<String>> {
    let reach = |from: &Vec<String>| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for to in arrows.get(&module).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = arrows.keys().map(|from| (from, reach(from))).collect();
    let mut found = BTreeSet::new();
    for (from, to) in &reached {
        let circle = to.iter().filter(|to| reached.get(to).is_some_and(|back| back.contains(*from)));
        let circle: BTreeSet<String> = circle.map(|module| module.join("::")).collect();
        if !circle.is_empty() {
            found.insert(circle.into_iter().collect::<Vec<_>>());
        }
    }
    found.into_iter().collect()
}

#[test]
fn a_circle_is_found_and_a_line_is_none() {
    let name = |name: &str| vec![name.to_owned()];
    let arrows = |pairs: &[(&str, &str)]| {
        let mut arrows: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        for (from, to) in pairs {
            arrows.entry(name(from)).or_default().insert(name(to));
        }
        arrows
    };
    assert!(circles(&arrows(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    assert_eq!(circles(&arrows(&[("a", "b"), ("b", "c"), ("c", "b")])), [["b", "c"]]);
}
