//! `name=value`, and `[port=]topic`.

use std::str::FromStr;

use eddy_protocol::TopicName;
use eddy_protocol::admin::DEFAULT_PORT;

/// A parameter or a header. The value may be empty and may hold further `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Before the first `=`, never empty.
    pub(crate) name: String,
    /// All that follows.
    pub(crate) value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Pair {
                name: name.into(),
                value: value.into(),
            }),
            _ => Err(format!("`{text}` is not of the form name=value")),
        }
    }
}

/// Where an output port of a plugin writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The port, `out` unless named.
    pub(crate) port: String,
    /// The topic.
    pub(crate) topic: TopicName,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, topic) = text.split_once('=').unwrap_or((DEFAULT_PORT, text));
        if port.is_empty() {
            return Err(format!("`{text}` is not of the form topic or port=topic"));
        }
        let topic = TopicName::parse(topic).map_err(|error| error.to_string())?;
        Ok(Target {
            port: port.into(),
            topic,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_splits_at_the_first_equals_sign() {
        let pair: Pair = "where=mag >= 4.5 && type == \"earthquake\""
            .parse()
            .expect("a pair");
        assert_eq!(
            (pair.name.as_str(), pair.value.as_str()),
            ("where", "mag >= 4.5 && type == \"earthquake\"")
        );
        assert_eq!(
            "a=".parse(),
            Ok(Pair {
                name: "a".into(),
                value: String::new()
            })
        );
        assert!("=b".parse::<Pair>().is_err());
        assert!(
            "b".parse::<Pair>()
                .expect_err("no sign")
                .contains("name=value")
        );
    }

    #[test]
    fn a_target_without_a_port_means_the_port_out() {
        let target: Target = "strong".parse().expect("a topic");
        assert_eq!(
            (target.port.as_str(), target.topic.as_ref()),
            ("out", "strong")
        );
        let target: Target = "late=strong.late".parse().expect("a port and a topic");
        assert_eq!(
            (target.port.as_str(), target.topic.as_ref()),
            ("late", "strong.late")
        );
        assert!("=strong".parse::<Target>().is_err());
        assert!("out=a b".parse::<Target>().is_err());
    }
}
