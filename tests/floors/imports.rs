//! The imports of a source tree, read as text: `use` items, and paths written out in code. What is only for tests is
//! left out, and a name that a module exports again leads to where it comes from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A module by its path from `src/`, as in `["calls", "queue", "job"]`.
pub(crate) type Module = Vec<String>;

/// The source files of a program made of several packages.
pub(crate) struct Tree {
    pub(crate) modules: BTreeMap<Module, PathBuf>,
    source: BTreeMap<Module, Source>,
}

/// One file that uses something of another.
pub(crate) struct Import {
    pub(crate) from: Module,
    pub(crate) to: Module,
    pub(crate) file: PathBuf,
}

/// The paths in one file, each as its segments.
#[derive(Default)]
struct Source {
    paths: Vec<Vec<String>>,
    /// Names that it exports again, and the paths that they stand for.
    exports: BTreeMap<String, Vec<String>>,
}

impl Tree {
    /// Reads every file below a directory.
    pub(crate) fn read(src: &Path) -> Self {
        let mut tree = Self { modules: BTreeMap::new(), source: BTreeMap::new() };
        let mut tests = Vec::new();
        let mut directories = vec![src.to_owned()];
        let mut files = Vec::new();
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(&directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    files.push(path);
                }
            }
        }
        for file in files {
            let module = module(file.strip_prefix(src).expect("below it"));
            let text = without_comments(&std::fs::read_to_string(&file).expect("a file of text"));
            for hidden in ["include!(", "#[path", "extern crate", "use crate as "] {
                assert!(!text.contains(hidden), "{}: {hidden} hides what is imported", file.display());
            }
            for name in test_modules(&text) {
                tests.push([module.as_slice(), &[name]].concat());
            }
            tree.source.insert(module.clone(), Source::read(&without_tests(&text)));
            tree.modules.insert(module, file);
        }
        let is_test = |module: &Module| tests.iter().any(|test| module.starts_with(test));
        tree.modules.retain(|module, _| !is_test(module));
        tree.source.retain(|module, _| !is_test(module));
        tree
    }

    /// Every import of one file from another.
    pub(crate) fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for (from, source) in &self.source {
            for path in &source.paths {
                let Some(to) = self.absolute(from, path).and_then(|path| self.resolve(&path, 0)) else {
                    continue;
                };
                if to != *from {
                    imports.push(Import { from: from.clone(), to, file: self.modules[from].clone() });
                }
            }
        }
        imports
    }

    /// A path from `src/`, if it is one of this program.
    fn absolute(&self, from: &Module, path: &[String]) -> Option<Module> {
        // The program's own root is no folder.
        let root = Vec::new();
        let from = if from.as_slice() == ["lib"] { &root } else { from };
        if let Some((_, rest)) = path.split_first().filter(|(first, _)| first.is_empty()) {
            return rest.first().filter(|name| self.is_package(name)).map(|_| rest.to_vec());
        }
        let package = |from: &Module| match from.first() {
            Some(name) if self.is_package(name) => from[..1].to_vec(),
            _ => Vec::new(),
        };
        let (first, rest) = path.split_first()?;
        let start = match first.as_str() {
            "crate" => package(from),
            "self" => from.clone(),
            "super" => {
                let above = path.iter().take_while(|segment| *segment == "super").count();
                let parent = from[..from.len().checked_sub(above)?].to_vec();
                return Some([&parent, &path[above..]].concat());
            }
            _ => {
                let child = [from.as_slice(), std::slice::from_ref(first)].concat();
                // The binary's one file knows its library by name.
                if self.modules.contains_key(&child) && from.as_slice() != ["main"] {
                    child
                } else if self.is_package(first) {
                    vec![first.clone()]
                } else if first == "ingle" {
                    Vec::new()
                } else {
                    return None;
                }
            }
        };
        Some([&start, rest].concat())
    }

    fn is_package(&self, name: &str) -> bool {
        const PLANES_OF_THE_PROGRAM: [&str; 6] = ["cli", "daemon", "gateway", "observe", "lib", "main"];
        self.modules.keys().any(|module| module[0] == name) && !PLANES_OF_THE_PROGRAM.contains(&name)
    }

    /// The file that a path leads to.
    fn resolve(&self, path: &[String], depth: usize) -> Option<Module> {
        let length = (1..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]));
        let Some(length) = length else {
            // An item of the program's own root.
            return (!path.is_empty() && depth == 0).then(|| vec!["lib".to_owned()]);
        };
        let (module, rest) = path.split_at(length);
        let module = module.to_vec();
        let exported = rest.first().and_then(|name| self.source[&module].exports.get(name));
        if let Some(target) = exported.filter(|_| depth < 8).and_then(|target| self.absolute(&module, target))
        {
            let target = [&target, &rest[1..]].concat();
            if target != path {
                return self.resolve(&target, depth + 1).or(Some(module));
            }
        }
        Some(module)
    }
}

impl Source {
    fn read(text: &str) -> Self {
        let mut source = Self::default();
        let mut rest = String::new();
        let mut tail = text;
        while let Some(at) = find_word(tail, "use") {
            let before = &tail[..at];
            let Some(end) = tail[at..].find(';') else { break };
            let line = before.rsplit(['\n', ';', '}']).next().unwrap_or_default();
            let mut trees = Vec::new();
            expand(&tail[at + 3..at + end], &[], &mut trees);
            for (path, name) in trees {
                if line.trim_start().starts_with("pub") {
                    source.exports.insert(name, path.clone());
                }
                source.paths.push(path);
            }
            rest.push_str(before);
            tail = &tail[at + end + 1..];
        }
        rest.push_str(tail);
        source.paths.extend(written_out(&rest));
        source
    }
}

/// The module that a file is.
fn module(file: &Path) -> Module {
    let mut module: Module =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let last = module.last().cloned().unwrap_or_default();
    let is_program = module.len() == 1;
    if last == "mod" || (matches!(last.as_str(), "lib" | "main") && !is_program) {
        module.pop();
    }
    module
}

/// Text without comments and without the insides of strings.
fn without_comments(text: &str) -> String {
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars().peekable());
    while let Some(char) = chars.next() {
        match char {
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|char| *char != '\n').is_some() {},
            '"' => {
                out.push_str("\"\"");
                while let Some(char) = chars.next() {
                    match char {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            // A quote as a character, which begins no string.
            '\'' if chars.peek() == Some(&'"') => drop(chars.next()),
            _ => out.push(char),
        }
    }
    out
}

/// The names of modules in files of their own that are only for tests.
fn test_modules(text: &str) -> Vec<String> {
    let parts = text.split("#[cfg(test)]").skip(1);
    let declared = parts.filter_map(|part| part.trim_start().strip_prefix("mod ")?.split_once([';', ' ']));
    declared
        .filter(|(_, rest)| !rest.trim_start().starts_with('{'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Text before its tests, which stand last.
fn without_tests(text: &str) -> String {
    let begins = |part: &str| {
        let name = part.trim_start().strip_prefix("mod ");
        name.is_some_and(|name| {
            name.trim_start_matches(|char: char| char.is_alphanumeric() || char == '_')
                .trim_start()
                .starts_with('{')
        })
    };
    let mut parts = text.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if begins(part) {
            break;
        }
        kept.push_str(part);
    }
    kept
}

fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_inside = |char: char| char.is_alphanumeric() || char == '_' || char == '#';
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let (before, after) = (&text[..*at], &text[at + word.len()..]);
        !before.ends_with(is_inside) && after.starts_with(char::is_whitespace)
    })
}

/// The paths of a `use` tree, and the names that they get.
fn expand(tree: &str, prefix: &[String], out: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, name) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name)));
        let mut path: Vec<String> =
            prefix.iter().cloned().chain(path.split("::").map(|part| part.trim().to_owned())).collect();
        if path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let last = path.last().cloned().unwrap_or_default();
        out.push((path, name.map_or(last, |name| name.trim().to_owned())));
        return;
    };
    let prefix: Vec<String> = prefix
        .iter()
        .cloned()
        .chain(tree[..open].trim_end().trim_end_matches("::").split("::").map(|part| part.trim().to_owned()))
        .collect();
    let inner = tree[open + 1..].trim_end().trim_end_matches('}');
    let (mut depth, mut start) = (0, 0);
    for (at, char) in inner.char_indices().chain([(inner.len(), ',')]) {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    // The brace that was cut off above belongs to the last part.
                    let part = &inner[start..at];
                    let lacks = part.matches('{').count().saturating_sub(part.matches('}').count());
                    expand(&format!("{part}{}", "}".repeat(lacks)), &prefix, out);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Paths in code of at least two segments.
fn written_out(text: &str) -> Vec<Vec<String>> {
    let is_part = |char: char| char.is_alphanumeric() || char == '_' || char == ':';
    text.split(|char| !is_part(char))
        .filter(|word| word.contains("::"))
        .map(|word| word.trim_end_matches(':').split("::").map(str::to_owned).collect::<Vec<_>>())
        .filter(|path| path.len() > 1)
        .collect()
}

#[test]
fn imports_are_read_as_rust_reads_them() {
    let text = "use a::{b, c::{D, self}, e as f};\npub use super::g::H;\nfn i() { crate::j::k(\"use l::m;\") } // use n::o;\n\
        #[cfg(test)]\nmod tests { use p::q; }\n";
    let source = Source::read(&without_tests(&without_comments(text)));
    let paths: Vec<String> = source.paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["a::b", "a::c::D", "a::c", "a::e", "super::g::H", "crate::j::k"]);
    assert_eq!(source.exports["H"], ["super", "g", "H"]);
    assert_eq!(test_modules("#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod more { }"), ["tests"]);
}
