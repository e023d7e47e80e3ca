//! Where settings come from: a TOML file, the environment, `--set`. Each turns
//! into a list of [`Setter`]s; which keys exist is not known here.

use std::ffi::OsString;
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

/// What is in a source.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) setters: Vec<Setter>,
    pub(super) unread: Vec<Unread>,
}

/// Something that is no setting.
#[derive(Debug)]
pub(super) struct Unread {
    /// Which setting was meant; absent: it could be any.
    pub(super) key: Option<String>,
    pub(super) problem: Problem,
}

impl Found {
    /// Of a source that can't be read as a whole.
    fn nothing(problems: impl IntoIterator<Item = String>) -> Found {
        let unread = |message| Unread {
            key: None,
            problem: Problem::new(message),
        };
        Found {
            setters: Vec::new(),
            unread: problems.into_iter().map(unread).collect(),
        }
    }

    fn push(&mut self, read: Result<Setter, Unread>) {
        match read {
            Ok(setter) => self.setters.push(setter),
            Err(unread) => self.unread.push(unread),
        }
    }
}

/// The settings in a file.
pub(super) fn read_file(path: &Path) -> Found {
    match std::fs::read_to_string(path) {
        Ok(text) => read_toml(&path.display().to_string(), &text),
        Err(error) => Found::nothing([format!("{}: cannot be read: {error}", path.display())]),
    }
}

/// The settings in a TOML text, `path` being its name in messages.
pub(super) fn read_toml(path: &str, text: &str) -> Found {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problem = |error: &toml::de::Error| {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            format!("{path}:{line}: not TOML: {}", error.message())
        };
        return Found::nothing(errors.iter().map(problem));
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
    Found {
        setters,
        unread: Vec::new(),
    }
}

/// The settings in environment variables: `EDDY_SERVER__LISTEN` sets
/// `server.listen`. Variables without the double underscore are others' (the
/// client's `EDDY_SERVER`, what an orchestrator adds), save `EDDY_LOG`.
pub(super) fn read_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Found {
    let mut found = Found::default();
    for (name, value) in variables {
        let name = name.to_string_lossy();
        let key = match name.strip_prefix("EDDY_") {
            Some("LOG") => "log.level".to_owned(),
            Some(rest) if rest.contains("__") => rest.to_ascii_lowercase().replace("__", "."),
            _ => continue,
        };
        let source = Source::Environment(name.into_owned());
        found.push(match value.to_str() {
            Some(value) => Ok(Setter {
                key,
                given: from_text(value),
                source,
            }),
            None => Err(Unread {
                problem: Problem::new(format!("{source}: the value of `{key}` is not UTF-8")),
                key: Some(key),
            }),
        });
    }
    // The environment has no order of its own; problems should have one.
    found.setters.sort_by(|a, b| a.key.cmp(&b.key));
    found.unread.sort_by(|a, b| a.key.cmp(&b.key));
    found
}

/// The settings of `--set key=value` flags.
pub(super) fn read_flags(flags: &[String]) -> Found {
    let mut found = Found::default();
    for flag in flags {
        found.push(match flag.split_once('=') {
            Some((key, value)) => Ok(Setter {
                key: key.trim().to_owned(),
                given: from_text(value.trim()),
                source: Source::Flag,
            }),
            None => Err(Unread {
                key: Some(flag.trim().to_owned()),
                problem: Problem::new(format!("--set {flag}: expected key=value")),
            }),
        });
    }
    found
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

    fn shown(found: &Found) -> Vec<String> {
        let setters = found.setters.iter();
        setters
            .map(|s| format!("{} = {} ({})", s.key, s.given, s.source))
            .collect()
    }

    fn problems(found: &Found) -> Vec<String> {
        let unread = found.unread.iter();
        unread.map(|unread| unread.problem.to_string()).collect()
    }

    #[test]
    fn a_file_is_flattened_and_every_key_knows_its_line() {
        let text = "[server]\nlisten = \"[::]:1\"\n\n[a.b]\nc = [1, \"x\"]\nd = 1_000\ne = 1.5\n";
        assert_eq!(
            shown(&read_toml("f.toml", text)),
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
        let text = problems(&read_toml("f.toml", "a = 1\nb = \nc = 2\nd d = 3\n"));
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
        let setters = read_environment(variables.into_iter().map(|(k, v)| (k.into(), v.into())));
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
    fn a_value_that_is_not_utf8_is_a_problem_of_its_variable() {
        use std::os::unix::ffi::OsStringExt;
        let latin = || OsString::from_vec(b"/data/\xe9".to_vec());
        let names = ["EDDY_SERVER__DATA", "EDDY_SERVER", "HOME"];
        let found = read_environment(names.into_iter().map(|name| (name.into(), latin())));
        assert_eq!(
            problems(&found),
            ["environment EDDY_SERVER__DATA: the value of `server.data` is not UTF-8"]
        );
        assert!(found.setters.is_empty());
    }

    #[test]
    fn a_flag_without_a_value_is_refused_and_the_others_are_read() {
        let found = read_flags(&["a.b=c=d".to_owned(), "x".to_owned()]);
        assert_eq!(problems(&found), ["--set x: expected key=value"]);
        assert_eq!(shown(&found), ["a.b = \"c=d\" (--set)"]);
    }
}
