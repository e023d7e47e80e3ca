//! Where the broker is.

use std::fmt;
use std::str::FromStr;

/// The port that a broker listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7117;

/// A broker's host and port. Parsed from `host`, `host:port`,
/// `http://host:port` or `ws://host:port`; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    host: String,
    port: u16,
}

impl ServerAddress {
    /// The host's name or address, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The broker's address for this path, with `http` or `ws` as the scheme.
    pub(crate) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{self}{path}")
    }
}

impl Default for ServerAddress {
    /// 127.0.0.1:7117
    fn default() -> Self {
        ServerAddress {
            host: "127.0.0.1".into(),
            port: DEFAULT_PORT,
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is not the address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the address of a broker: {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).map_err(|reason| AddressError {
            text: text.into(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<ServerAddress, &'static str> {
    let authority = match text.split_once("://") {
        None => text,
        Some(("http" | "ws", rest)) => rest.strip_suffix('/').unwrap_or(rest),
        Some(("https" | "wss", _)) => {
            return Err("TLS is not spoken; put a proxy before the broker");
        }
        Some(_) => return Err("the scheme must be http or ws"),
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
            let port = if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':').ok_or("after ] comes :port")?)
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err("an IPv6 address stands in brackets");
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.contains(|c: char| c.is_whitespace() || "/?#@\\".contains(c)) {
        return Err("write host:port, without a path or a user");
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or("the port must be a number from 1 to 65535")?,
    };
    Ok(ServerAddress {
        host: host.into(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_form() {
        for (text, shown) in [
            ("localhost", "localhost:7117"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("http://edge.local:9000", "edge.local:9000"),
            ("http://edge.local:9000/", "edge.local:9000"),
            ("ws://edge.local", "edge.local:7117"),
            ("[::1]:7000", "[::1]:7000"),
            ("ws://[::1]", "[::1]:7117"),
        ] {
            let address: ServerAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(address), "what is shown can be read");
        }
        assert_eq!(ServerAddress::default().to_string(), "127.0.0.1:7117");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_text_and_the_reason() {
        for text in [
            "",
            ":7117",
            "host:",
            "host:0",
            "host:65536",
            "host:x",
            "::1",
            "[::1",
            "[::1]7",
            "https://host",
            "ftp://host",
            "http://host/path",
            "a b",
            "u@h",
        ] {
            let error = text.parse::<ServerAddress>().expect_err(text).to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
