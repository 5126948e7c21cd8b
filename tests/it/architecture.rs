//! The picture in `src/lib.rs` is kept by tests: imports go down, and no file is forgotten.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Layers from the top; a file imports from its own row or from rows below. Neighbours within a row do not
/// know each other.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["app"],
    &["control"],
    &["lease"],
    &["runner"],
    &["plan"],
    &["provision"],
    &["gharts", "scaleset"],
    &["admission"],
    &["identity"],
    &["http"],
    &["server"],
    &["telemetry"],
    &["config"],
    &["status", "ids", "clock", "shutdown"],
];

/// The simulated world is the independent other half: it shares no protocol code with the daemon.
const SIM_MAY_USE: &[&str] = &["sim", "http", "clock", "ids", "shutdown"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Path below `src`, and the text without comment lines.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    rust_files(&src)
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code: String = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .flat_map(|line| [line, "\n"])
                .collect();
            (path.strip_prefix(&src).unwrap().display().to_string(), code)
        })
        .collect()
}

/// `cli/run.rs` -> `cli`, `clock.rs` -> `clock`.
fn layer_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The modules of this crate that a file names after `crate::`, also in groups.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = rest.find("crate::") {
        let whole_word = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        rest = &rest[at + "crate::".len()..];
        if !whole_word {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend([head(rest)]),
        }
    }
    found.remove("");
    found
}

fn head(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First words of the entries of `{a::b, c::{d, e}}` (text after the brace).
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut entries) = (1, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                entries.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if let Some(entry) = entries.last_mut() {
            entry.push(c);
        }
    }
    entries.iter().map(|entry| head(entry.trim_start())).collect()
}

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

/// What is wrong with these sources, one line each.
fn violations(sources: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, code) in sources {
        let layer = layer_of(file);
        if matches!(layer, "lib" | "main") {
            continue;
        }
        for import in imports(code) {
            let allowed = match (layer, import.as_str()) {
                ("sim", import) => SIM_MAY_USE.contains(&import),
                (layer, "sim") => layer == "cli",
                (layer, import) if layer == import => true,
                (layer, import) => match (rank(layer), rank(import)) {
                    (Some(own), Some(other)) => own < other,
                    _ => false,
                },
            };
            if !allowed {
                wrong.push(format!("{file} imports crate::{import}"));
            }
        }
    }
    wrong
}

#[test]
fn imports_go_down_the_layers_only() {
    assert_eq!(violations(&sources()), Vec::<String>::new());
}

#[test]
fn every_folder_has_its_layer() {
    for (file, _) in sources() {
        let layer = layer_of(&file);
        assert!(
            matches!(layer, "lib" | "main" | "sim") || rank(layer).is_some(),
            "{file} belongs to no layer: add it to the list here and in src/lib.rs"
        );
    }
}

#[test]
fn the_layer_test_sees_violations() {
    let source = |file: &str, code: &str| (file.to_owned(), code.to_owned());
    let bad = [
        source("plan/mod.rs", "use crate::control::Loop;"),
        source(
            "gharts/client.rs",
            "use crate::{\n    http::{Request, Response},\n    scaleset::wire,\n};",
        ),
        source("control/mod.rs", "fn f() { crate::sim::world(); }"),
        source("sim/github/mod.rs", "use crate::{scaleset::wire, clock::Clock};"),
        source("cli/run.rs", "use crate::{app, sim, config::Config};"),
    ];
    assert_eq!(
        violations(&bad),
        [
            "plan/mod.rs imports crate::control",
            "gharts/client.rs imports crate::scaleset",
            "control/mod.rs imports crate::sim",
            "sim/github/mod.rs imports crate::scaleset",
        ]
    );
}

#[test]
fn prometheus_is_known_to_one_module_only() {
    let users: Vec<String> = sources()
        .into_iter()
        .filter(|(_, code)| code.contains("prometheus::"))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(users, ["telemetry/metrics.rs"]);
}

/// A file that no `mod` names is compiled by nobody and tests nothing.
#[test]
fn every_file_is_reached_by_a_mod_line() {
    let mut forgotten = Vec::new();
    for folder in ["src", "tests"] {
        for path in rust_files(&root().join(folder)) {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if matches!(stem.as_str(), "lib" | "main") {
                continue;
            }
            let folder = path.parent().unwrap();
            // `a/b/mod.rs` is named by a's file, `a/b.rs` by a's too.
            let (name, parent) = match stem.as_str() {
                "mod" => {
                    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
                    (name, folder.parent().unwrap().to_path_buf())
                }
                _ => (stem, folder.to_path_buf()),
            };
            let parents = ["mod.rs", "lib.rs", "main.rs"].map(|file| parent.join(file));
            let named = parents.iter().chain([&parent.with_extension("rs")]).any(|file| {
                let text = fs::read_to_string(file).unwrap_or_default();
                text.lines().any(|line| {
                    let line = line
                        .trim()
                        .trim_start_matches("pub(crate) ")
                        .trim_start_matches("pub(super) ");
                    let line = line.trim_start_matches("pub ");
                    line == format!("mod {name};")
                })
            });
            if !named {
                forgotten.push(path.display().to_string());
            }
        }
    }
    assert_eq!(forgotten, Vec::<String>::new());
}
