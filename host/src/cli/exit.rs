//! How a command ends: its exit code, and what a failure says.

use std::io;
use std::process::ExitCode;

use eddy_client::ClientError;
use serde_json::json;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    code: &'static str,
    message: String,
    retryable: bool,
    /// What it consists of, where a program may want them one by one.
    problems: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The reader of our output has gone: nobody is left to be told.
    Quiet,
    Failed,
    Usage,
    Unreachable,
    Interrupted,
}

impl Failure {
    fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            code,
            message: message.into(),
            retryable: matches!(kind, Kind::Unreachable | Kind::Interrupted),
            problems: Vec::new(),
        }
    }

    /// Something on this side went wrong.
    pub(crate) fn local(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Failed, "failed", message)
    }

    /// The arguments can't be meant, as became known only after they were read.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, "usage", message)
    }

    /// Several things are wrong with `what`, each a sentence.
    pub(crate) fn problems(what: &str, problems: Vec<String>) -> Failure {
        let message = match problems.as_slice() {
            [only] => only.clone(),
            all => format!("{what} has {} problems:\n  {}", all.len(), all.join("\n  ")),
        };
        Failure {
            problems,
            ..Failure::usage(message)
        }
    }

    /// The person at the keyboard wants no more.
    pub(crate) fn interrupted(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Interrupted, "interrupted", message)
    }

    /// Nothing moved for too long.
    pub(crate) fn timed_out(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Unreachable, "timed_out", message)
    }

    /// The same failure, with what it means for the work.
    pub(crate) fn context(mut self, more: &str) -> Failure {
        self.message = format!("{}; {more}", self.message);
        self
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Quiet => 0,
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Unreachable => 3,
            Kind::Interrupted => 130,
        })
    }

    /// The sentence for a person; none where nobody is left to read it.
    pub(crate) fn sentence(&self) -> Option<&str> {
        (self.kind != Kind::Quiet).then_some(&self.message)
    }

    /// The same for a program, in the form of the broker's HTTP errors.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut error =
            json!({"code": self.code, "message": self.message, "retryable": self.retryable});
        if !self.problems.is_empty() {
            error["problems"] = json!(self.problems);
        }
        json!({ "error": error })
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (kind, code) = match &error {
            ClientError::Refused(error) => (Kind::Failed, error.code.name()),
            ClientError::Unreachable { .. } => (Kind::Unreachable, "unreachable"),
            ClientError::TimedOut { .. } => (Kind::Unreachable, "timed_out"),
            ClientError::RecordTooLarge { .. } => (Kind::Failed, "batch_too_large"),
            ClientError::NoSuchPartition { .. } => (Kind::Failed, "unknown_partition"),
            ClientError::Protocol { .. } => (Kind::Failed, "protocol"),
            ClientError::ConnectionLost => (Kind::Failed, "connection_lost"),
            _ => (Kind::Failed, "failed"),
        };
        Failure {
            retryable: error.retryable(),
            ..Failure::new(kind, code, error.to_string())
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let kind = if error.kind() == io::ErrorKind::BrokenPipe {
            Kind::Quiet
        } else {
            Kind::Failed
        };
        Failure::new(kind, "io", error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let mut sentence = String::new();
        for cause in error.chain().map(ToString::to_string) {
            // Many errors say their cause themselves.
            if !sentence.ends_with(&cause) {
                let colon = if sentence.is_empty() { "" } else { ": " };
                sentence.extend([colon, &cause]);
            }
        }
        Failure::local(sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eddy_protocol::ErrorCode;

    #[test]
    fn a_refusal_is_1_and_an_unreachable_broker_is_3() {
        let refused = Failure::from(ClientError::Refused(
            ErrorCode::UnknownTopic.because("no topic `x`"),
        ));
        assert_eq!(
            format!("{:?}", refused.exit_code()),
            format!("{:?}", ExitCode::from(1))
        );
        assert_eq!(refused.json()["error"]["code"], "unknown_topic");
        let unreachable = Failure::from(ClientError::Unreachable {
            server: eddy_client::ServerAddress::default(),
            reason: "x".into(),
        });
        assert_eq!(
            format!("{:?}", unreachable.exit_code()),
            format!("{:?}", ExitCode::from(3))
        );
        assert_eq!(unreachable.json()["error"]["retryable"], true);
    }

    #[test]
    fn a_lost_answer_has_a_code_and_is_not_to_be_asked_for_again_blindly() {
        let lost = Failure::from(ClientError::ConnectionLost).json();
        assert_eq!(lost["error"]["code"], "connection_lost");
        assert_eq!(lost["error"]["retryable"], false);
    }

    #[test]
    fn a_closed_pipe_is_success_without_a_word() {
        let closed = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(closed.sentence(), None);
        assert_eq!(
            format!("{:?}", closed.exit_code()),
            format!("{:?}", ExitCode::SUCCESS)
        );
    }
}
