//! The layers of `host/src`, held by their imports: arrows point downward only,
//! siblings don't know each other, and two names stay where they belong.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of the crate each may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("cli", &["config", "server", "store", "plugin", "io"]),
    (
        "server",
        &[
            "config", "http", "ws", "broker", "store", "plugin", "io", "metrics",
        ],
    ),
    ("config", &["http", "ws", "broker", "store", "plugin"]),
    ("http", &["broker", "io", "metrics"]),
    ("ws", &["broker", "metrics"]),
    ("broker", &["log", "plugin", "io", "metrics"]),
    ("store", &["log", "io", "metrics"]),
    ("log", &["metrics"]),
    ("plugin", &["metrics"]),
    ("io", &[]),
    ("metrics", &[]),
];

#[test]
fn arrows_between_modules_point_downward_only() {
    let mut wrong = Vec::new();
    for (module, allowed) in ARROWS {
        for (file, line) in lines(module) {
            for named in modules_named(&line) {
                if named != *module && !allowed.contains(&named.as_str()) {
                    wrong.push(format!(
                        "{}: `{module}` must not know `{named}`: {line}",
                        file.display()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place_in_the_table() {
    let known: BTreeSet<_> = ARROWS
        .iter()
        .map(|(module, _)| (*module).to_owned())
        .collect();
    let folders = fs::read_dir(source()).expect("host/src can be read");
    let found: BTreeSet<_> = folders
        .map(|entry| entry.expect("host/src can be read").path())
        .filter(|path| path.is_dir())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    assert_eq!(found, known);
}

#[test]
fn only_the_plugin_engine_names_wasmtime() {
    assert_only("wasmtime", &["plugin"]);
}

#[test]
fn only_io_opens_files_of_the_broker() {
    // The command line reads its users' files and the configuration reads its own.
    assert_only("std::fs", &["io", "cli", "config"]);
    assert_only("File::", &["io", "cli", "config"]);
}

fn assert_only(name: &str, modules: &[&str]) {
    let mut wrong = Vec::new();
    for (module, _) in ARROWS
        .iter()
        .filter(|(module, _)| !modules.contains(module))
    {
        wrong.extend(
            lines(module)
                .filter(|(_, line)| has_word(line, name))
                .map(|(file, line)| {
                    format!(
                        "{}: `{name}` belongs to {modules:?}: {line}",
                        file.display()
                    )
                }),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `name` stands in code, not as the end of a longer name.
fn has_word(line: &str, name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(name).any(|(at, _)| {
        !code[..at]
            .ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '"')
    })
}

fn modules_named(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let after = code.split("crate::").skip(1);
    after
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}

/// The lines of a module with their files, without its unit tests.
fn lines(module: &str) -> impl Iterator<Item = (PathBuf, String)> + use<> {
    let mut files = Vec::new();
    collect(&source().join(module), &mut files);
    files.into_iter().flat_map(|file| {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default()
            .to_owned();
        let lines: Vec<_> = code
            .lines()
            .map(|line| (file.clone(), line.trim().to_owned()))
            .collect();
        lines
    })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a module's folder can be read") {
        let path = entry.expect("a module's folder can be read").path();
        if path.is_dir() && !path.ends_with("tests") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests.rs")
        {
            files.push(path);
        }
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
