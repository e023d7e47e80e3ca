//! Where settings come from: a TOML file, the environment, `--set`. Each turns
//! into a list of [`Setter`]s; which keys exist is not known here.

use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::Problem;
use super::field::Given;

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File { path: String, line: usize },
    Environment(String),
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { path, line } => write!(f, "{path}:{line}"),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag => f.write_str("--set"),
        }
    }
}

/// One key and the value that somebody gave it.
#[derive(Debug)]
pub(super) struct Setter {
    pub(super) key: String,
    pub(super) given: Given,
    pub(super) source: Source,
}

/// The settings in a file.
pub(super) fn read_file(path: &Path) -> Result<Vec<Setter>, Vec<Problem>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        vec![Problem::new(format!(
            "{}: cannot be read: {error}",
            path.display()
        ))]
    })?;
    read_toml(&path.display().to_string(), &text)
}

/// The settings in a TOML text, `path` being its name in messages.
pub(super) fn read_toml(path: &str, text: &str) -> Result<Vec<Setter>, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problem = |error: &toml::de::Error| {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            Problem::new(format!("{path}:{line}: not TOML: {}", error.message()))
        };
        return Err(errors.iter().map(problem).collect());
    }
    let mut setters = Vec::new();
    flatten("", table.get_ref(), &mut |key, given, position| {
        let source = Source::File {
            path: path.to_owned(),
            line: line_of(text, position),
        };
        setters.push(Setter { key, given, source });
    });
    setters.sort_by_key(|setter| match setter.source {
        Source::File { line, .. } => line,
        _ => 0,
    });
    Ok(setters)
}

/// The settings in environment variables: `EDDY_SERVER__LISTEN` sets
/// `server.listen`. Variables without the double underscore are others' (the
/// client's `EDDY_SERVER`, what an orchestrator adds), save `EDDY_LOG`.
pub(super) fn read_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<Setter> {
    let mut setters: Vec<Setter> = variables
        .filter_map(|(name, value)| {
            let key = match name.strip_prefix("EDDY_")? {
                "LOG" => "log.level".to_owned(),
                rest if rest.contains("__") => rest.to_ascii_lowercase().replace("__", "."),
                _ => return None,
            };
            Some(Setter {
                key,
                given: from_text(&value),
                source: Source::Environment(name),
            })
        })
        .collect();
    // The environment has no order of its own; problems should have one.
    setters.sort_by(|a, b| a.key.cmp(&b.key));
    setters
}

/// The settings of `--set key=value` flags.
pub(super) fn read_flags(flags: &[String]) -> Result<Vec<Setter>, Vec<Problem>> {
    let mut setters = Vec::new();
    let mut problems = Vec::new();
    for flag in flags {
        match flag.split_once('=') {
            Some((key, value)) => setters.push(Setter {
                key: key.trim().to_owned(),
                given: from_text(value.trim()),
                source: Source::Flag,
            }),
            None => problems.push(Problem::new(format!("--set {flag}: expected key=value"))),
        }
    }
    if problems.is_empty() {
        Ok(setters)
    } else {
        Err(problems)
    }
}

/// A text from outside a file: a TOML list where it looks like one, else itself.
fn from_text(text: &str) -> Given {
    match DeValue::parse(text) {
        Ok(value) if value.get_ref().is_array() => from_toml(value.get_ref()),
        _ => Given::Text(text.to_owned()),
    }
}

fn flatten(prefix: &str, table: &DeTable<'_>, found: &mut dyn FnMut(String, Given, usize)) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) => flatten(&key, inner, found),
            other => found(key, from_toml(other), name.span().start),
        }
    }
}

fn from_toml(value: &DeValue<'_>) -> Given {
    match value {
        DeValue::String(text) => Given::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
                .map_or(Given::Other("number that is too large"), Given::Integer)
        }
        DeValue::Boolean(value) => Given::Boolean(*value),
        DeValue::Array(items) => {
            Given::List(items.iter().map(|item| from_toml(item.get_ref())).collect())
        }
        DeValue::Float(_) => Given::Other("fractional number"),
        DeValue::Datetime(_) => Given::Other("point in time"),
        DeValue::Table(_) => Given::Other("table"),
    }
}

fn line_of(text: &str, position: usize) -> usize {
    text.bytes()
        .take(position)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(setters: &[Setter]) -> Vec<String> {
        setters
            .iter()
            .map(|s| format!("{} = {} ({})", s.key, s.given, s.source))
            .collect()
    }

    #[test]
    fn a_file_is_flattened_and_every_key_knows_its_line() {
        let text = "[server]\nlisten = \"[::]:1\"\n\n[a.b]\nc = [1, \"x\"]\nd = 1_000\ne = 1.5\n";
        assert_eq!(
            shown(&read_toml("f.toml", text).expect("is TOML")),
            [
                "server.listen = \"[::]:1\" (f.toml:2)",
                "a.b.c = [1, \"x\"] (f.toml:5)",
                "a.b.d = 1000 (f.toml:6)",
                "a.b.e = a fractional number (f.toml:7)",
            ]
        );
    }

    #[test]
    fn every_syntax_error_of_a_file_is_reported_with_its_line() {
        let problems =
            read_toml("f.toml", "a = 1\nb = \nc = 2\nd d = 3\n").expect_err("is not TOML");
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(
            text.iter().any(|line| line.starts_with("f.toml:2: ")),
            "{text:?}"
        );
        assert!(
            text.iter().any(|line| line.starts_with("f.toml:4: ")),
            "{text:?}"
        );
    }

    #[test]
    fn only_variables_with_a_section_are_settings() {
        let variables = [
            ("EDDY_SERVER__LISTEN", "x"),
            ("EDDY_SERVER", "y"),
            ("EDDY_LOG", "debug"),
            ("HOME", "/"),
            ("EDDY_HTTP__ALLOWED_HOSTS", "[\"a\"]"),
        ];
        let setters = read_environment(
            variables
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        assert_eq!(
            shown(&setters),
            [
                "http.allowed_hosts = [\"a\"] (environment EDDY_HTTP__ALLOWED_HOSTS)",
                "log.level = \"debug\" (environment EDDY_LOG)",
                "server.listen = \"x\" (environment EDDY_SERVER__LISTEN)",
            ]
        );
    }

    #[test]
    fn a_flag_without_a_value_is_refused() {
        let problems =
            read_flags(&["a.b=c=d".to_owned(), "x".to_owned()]).expect_err("x has no value");
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["--set x: expected key=value"]
        );
        assert_eq!(
            shown(&read_flags(&["a.b=c=d".to_owned()]).expect("is right")),
            ["a.b = \"c=d\" (--set)"]
        );
    }
}
