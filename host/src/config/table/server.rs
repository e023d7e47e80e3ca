//! The process itself: its port, its folder, its log.

use std::time::Duration;

use super::{HOUR, KIB, MIB, Setting, TIMEOUT, setting};
use crate::config::LogFormat;
use crate::config::field::{Address, Bytes, Checked, Choice, Count, Path, Time};

pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "server.listen",
        "Where to listen, for WebSocket and HTTP alike. Only this machine can reach a loopback address.",
        |c| Box::new(Address(&mut c.server.listen)),
    ),
    setting(
        "server.data",
        "The folder of everything that the broker keeps. One broker at a time.",
        |c| Box::new(Path(&mut c.server.data)),
    ),
    setting(
        "server.connections_max",
        "Connections of all kinds together; one more is answered with 503 and `too_many`.",
        |c| Box::new(Count(&mut c.server.connections_max, 1..=1_000_000)),
    ),
    setting(
        "server.handshake_timeout",
        "How long a new connection may take to send its first request's head.",
        |c| Box::new(Time(&mut c.server.handshake_timeout, TIMEOUT)),
    ),
    setting(
        "server.idle_timeout",
        "How long an HTTP connection is kept without a further request.",
        |c| Box::new(Time(&mut c.server.idle_timeout, TIMEOUT)),
    ),
    setting(
        "server.stall_timeout",
        "How long the peer of an HTTP connection may take nothing of an answer.",
        |c| Box::new(Time(&mut c.server.stall_timeout, TIMEOUT)),
    ),
    setting(
        "server.drain_timeout",
        "How long requests in flight may take when the broker is told to stop.",
        |c| Box::new(Time(&mut c.server.drain_timeout, Duration::ZERO..=HOUR)),
    ),
    setting(
        "server.header_bytes_max",
        "The size of a request's line and headers.",
        |c| Box::new(Bytes(&mut c.server.header_bytes_max, 8 * KIB..=MIB)),
    ),
];

pub(super) const LOG: &[Setting] = &[
    setting(
        "log.level",
        "What is logged: a level (error, warn, info, debug, trace), or directives by module such as \"info,eddy::store=debug\". EDDY_LOG sets it too.",
        |c| {
            Box::new(Checked {
                value: &mut c.log.level,
                check: is_log_level,
                allowed: "a level or directives",
            })
        },
    ),
    setting(
        "log.format",
        "How a log line looks: for people, or one JSON object a line.",
        |c| {
            Box::new(Choice(
                &mut c.log.format,
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ))
        },
    ),
];

fn is_log_level(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let known = |part: &str| LEVELS.contains(&part.trim()) || part.contains('=');
    text.split(',').all(known)
        && text
            .parse::<tracing_subscriber::filter::EnvFilter>()
            .is_ok()
}
