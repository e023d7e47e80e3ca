//! Why a record can't be processed.

use std::fmt;

/// Stops the deployment before the batch that the record is in, with these words as the reason.
///
/// Made from any text: `Err("no longitude".into())`, or with `?` from an error turned into a text. The
/// levels that see one record at a time add which record it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The row of the batch that is to blame.
    pub row: Option<u32>,
    /// A sentence for the person who runs the deployment.
    pub message: String,
}

impl Failure {
    /// The same failure, in this row unless it names one already.
    pub(crate) fn at(self, row: u32) -> Self {
        Self {
            row: self.row.or(Some(row)),
            ..self
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { row: None, message }
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row {
            Some(row) => write!(f, "row {row}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Failure {}
