//! Where the broker is.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The port that a broker listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7117;

/// A broker's host and port. Parsed from `host`, `host:port`,
/// `http://host:port` or `ws://host:port`, also with the `/v1/ws` that a browser
/// needs; an IPv6 address stands in brackets.
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
    reason: String,
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

/// Where a broker takes WebSockets: the only path that an address may have.
const WEBSOCKET_PATH: &str = "/v1/ws";

fn parse(text: &str) -> Result<ServerAddress, String> {
    let authority = without_path(without_scheme(text)?)?;
    if authority.contains('@') {
        return Err("a user and a password are not supported".into());
    }
    let (host, port) = split(authority)?;
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || "?#\\".contains(c)) {
        return Err("write host:port".into());
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => parse_port(port)
            .ok_or_else(|| format!("the port must be a number from 1 to 65535, not `{port}`"))?,
    };
    Ok(ServerAddress {
        host: host.into(),
        port,
    })
}

fn without_scheme(text: &str) -> Result<&str, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(text);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => Ok(rest),
        "https" | "wss" => Err(format!(
            "{scheme}:// is not supported, because a broker does not speak TLS; connect with http:// to it or to a proxy"
        )),
        _ => Err(format!("the scheme must be http or ws, not `{scheme}`")),
    }
}

fn without_path(text: &str) -> Result<&str, String> {
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    match path.trim_end_matches('/') {
        "" | WEBSOCKET_PATH => Ok(authority),
        path => Err(format!(
            "a broker has no path `{path}`; write http://host:port"
        )),
    }
}

/// The host, an IPv6 address without its brackets, and the port.
fn split(authority: &str) -> Result<(&str, Option<&str>), String> {
    let Some(rest) = authority.strip_prefix('[') else {
        return match authority.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                Err("an IPv6 address stands in brackets, as in [::1]:7117".into())
            }
            Some((host, port)) => Ok((host, Some(port))),
            None => Ok((authority, None)),
        };
    };
    let (host, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
    let address = host.split('%').next().unwrap_or_default();
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(format!("`{host}` is not an IPv6 address"));
    }
    match after.strip_prefix(':') {
        None if after.is_empty() => Ok((host, None)),
        None => Err("after ] comes :port".into()),
        port => Ok((host, port)),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = text.parse().ok()?;
    (is_number && port > 0).then_some(port)
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
            ("[fe80::1%eth0]:7000", "[fe80::1%eth0]:7000"),
            ("ws://edge.local:9000/v1/ws", "edge.local:9000"),
            ("ws://[::1]:9000/v1/ws/", "[::1]:9000"),
            ("edge.local:9000/v1/ws", "edge.local:9000"),
            ("edge.local:9000/", "edge.local:9000"),
            ("HTTP://edge.local:9000//", "edge.local:9000"),
        ] {
            let address: ServerAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(address), "what is shown can be read");
        }
        assert_eq!(ServerAddress::default().to_string(), "127.0.0.1:7117");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_text_and_the_reason() {
        for (text, reason) in [
            ("", "host is missing"),
            (":7117", "host is missing"),
            ("http://", "host is missing"),
            ("/v1/ws", "host is missing"),
            ("host:", "from 1 to 65535"),
            ("host:0", "from 1 to 65535"),
            ("host:65536", "`65536`"),
            ("host:+80", "`+80`"),
            ("host:x", "`x`"),
            ("::1", "brackets"),
            ("::1:7117", "brackets"),
            ("[::1", "not closed"),
            ("[::1]7", ":port"),
            ("[host]:7117", "`host` is not an IPv6 address"),
            ("https://host", "https:// is not supported"),
            ("WSS://host:443/v1/ws", "WSS:// is not supported"),
            ("ftp://host", "not `ftp`"),
            ("http://host/path", "no path `/path`"),
            ("ws://host:7117/v1/ws?x=1", "no path `/v1/ws?x=1`"),
            ("host:7117/v1", "no path `/v1`"),
            ("a b", "host:port"),
            ("host?x", "host:port"),
            ("u@h", "a user"),
            ("http://u:p@h:7117", "a user"),
        ] {
            let error = text.parse::<ServerAddress>().expect_err(text).to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
            assert!(error.contains(reason), "{error}");
        }
    }
}
