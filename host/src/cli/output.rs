//! Where results and notes go. Results: standard output, as text or JSON.
//! Notes and failures: standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::json;

use super::exit::Failure;

/// The two streams and the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { json }
    }

    /// Whether results are to be JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches standard error.
    pub(crate) fn watched(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// The command's result: `value` with `--json`, else what `text` says.
    pub(crate) fn result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        } else {
            out.write_all(text().as_bytes())?;
        }
        Ok(out.flush()?)
    }

    /// A result that is the same in every form.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Something worth knowing that is not a result.
    pub(crate) fn note(&self, message: &str) {
        self.say(&json!({ "note": message }), &format!("note: {message}"));
    }

    /// Why the command fails.
    pub(crate) fn failure(&self, failure: &Failure) {
        if let Some(sentence) = failure.sentence() {
            self.say(&failure.json(), &format!("error: {sentence}"));
        }
    }

    fn say(&self, value: &serde_json::Value, text: &str) {
        let mut err = io::stderr().lock();
        // Where standard error is closed, nobody is left to be told.
        let _ = if self.json {
            writeln!(err, "{value}")
        } else {
            writeln!(err, "{text}")
        };
    }
}

/// Rows under a heading, each column as wide as its widest cell. Numbers stand
/// on the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Table {
        Table {
            rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                cells(column)
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let right: Vec<bool> = (0..columns).map(|column| self.is_numeric(column)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
                let pad = " ".repeat(width - cell.chars().count());
                line += &if *right {
                    format!("{pad}{cell}  ")
                } else {
                    format!("{cell}{pad}  ")
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().skip(1).filter_map(|row| row.get(column));
        self.rows.len() > 1
            && cells.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit()) || cell == "-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_on_the_right() {
        let mut table = Table::new(&["TOPIC", "RECORDS", "KEPT"]);
        table.row(["quakes", "1707", "for ever"].map(String::from));
        table.row(["a", "9", "7d"].map(String::from));
        assert_eq!(
            table.render(),
            "TOPIC   RECORDS  KEPT\nquakes     1707  for ever\na             9  7d\n"
        );
    }

    #[test]
    fn an_empty_table_is_its_heading() {
        assert_eq!(Table::new(&["NAME"]).render(), "NAME\n");
    }
}
