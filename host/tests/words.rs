//! The words of ARCHITECTURE.md: each names one type, and what it took the place of
//! names nothing in the store any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A row of the table.
struct Word {
    kind: String,
    not: Vec<String>,
}

fn words() -> Vec<Word> {
    let path = root().join("../ARCHITECTURE.md");
    let text = fs::read_to_string(path).expect("it can be read");
    let (_, table) = text.split_once("## Words").expect("it has the words");
    let (table, _) = table.split_once("\n## ").expect("more follows");
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let words = rows.skip(1).map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let not = cells[4].split(", ").filter(|word| !word.is_empty());
        Word {
            kind: cells[2].trim_matches('`').to_owned(),
            not: not.map(str::to_owned).collect(),
        }
    });
    words.collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The names that the files below `folder` declare behind one of these keywords.
fn declared(folder: &Path, keywords: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).expect("it can be read") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            names.extend(declared(&path, keywords));
            continue;
        }
        let text = fs::read_to_string(&path).expect("it can be read");
        for line in text.lines() {
            let parts: Vec<&str> = line.split_whitespace().collect();
            let named = parts.windows(2).find(|pair| keywords.contains(&pair[0]));
            let is_code = !line.trim_start().starts_with("//");
            names.extend(named.filter(|_| is_code).map(|pair| {
                let is_part = |c: char| c.is_alphanumeric() || c == '_';
                pair[1].chars().take_while(|c| is_part(*c)).collect()
            }));
        }
    }
    names
}

/// The words of a name in either case, in lower case.
fn parts(name: &str) -> BTreeSet<String> {
    let mut spaced = String::new();
    for c in name.chars() {
        if c.is_uppercase() || c == '_' {
            spaced.push(' ');
        }
        spaced.extend(c.to_lowercase().filter(|c| *c != '_'));
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_word_names_one_type() {
    let types = shown(&root().join("src"));
    for word in words() {
        let count = types.iter().filter(|(name, _)| *name == word.kind).count();
        assert_eq!(count, 1, "`{}` is declared {count} times", word.kind);
    }
}

/// Names that mean the same wherever they stand: a module's settings, what its code works with, and
/// the store's side of a trait.
const CONVENTIONAL: [&str; 3] = ["Config", "Context", "Partition"];

/// The types that modules of the broker show each other, each with its file. The command line and
/// the configuration have words of their own, and so has the engine that only tests use.
fn shown(folder: &Path) -> Vec<(String, PathBuf)> {
    let apart = [
        "src/cli",
        "src/config",
        "src/log/memory",
        "tests",
        "simulation",
    ];
    let mut types = Vec::new();
    for entry in fs::read_dir(folder).expect("it can be read") {
        let path = entry.expect("it can be read").path();
        if apart
            .iter()
            .any(|end| path.with_extension("").ends_with(end))
        {
            continue;
        }
        if path.is_dir() {
            types.extend(shown(&path));
            continue;
        }
        let text = fs::read_to_string(&path).expect("it can be read");
        let visible = text
            .lines()
            .map(str::trim_start)
            .filter(|line| line.starts_with("pub"));
        let names = visible.filter_map(|line| {
            let mut parts = line
                .split_whitespace()
                .skip_while(|part| part.starts_with("pub"));
            let is_type = matches!(parts.next(), Some("struct" | "enum" | "trait" | "type"));
            let name = parts.next().filter(|_| is_type)?;
            let is_part = |c: &char| c.is_alphanumeric() || *c == '_';
            Some(name.chars().take_while(is_part).collect())
        });
        types.extend(names.map(|name| (name, path.clone())));
    }
    types
}

#[test]
fn no_two_modules_give_one_name_to_different_types() {
    let types = shown(&root().join("src"));
    assert!(types.len() > 200, "only {} types were found", types.len());
    let mut files = BTreeMap::<&str, Vec<&Path>>::new();
    for (name, path) in &types {
        files.entry(name).or_default().push(path);
    }
    files.retain(|name, files| files.len() > 1 && !CONVENTIONAL.contains(name));
    assert!(files.is_empty(), "{files:#?}");
}

#[test]
fn what_a_word_took_the_place_of_names_nothing() {
    let keywords = ["struct", "enum", "trait", "fn", "mod"];
    let names = declared(&root().join("src/store"), &keywords);
    assert!(names.len() > 500, "only {} names were found", names.len());
    for word in words() {
        for given_up in &word.not {
            let found = names.iter().find(|name| parts(name).contains(given_up));
            assert_eq!(found, None, "it is called {} now", word.kind);
        }
    }
}
