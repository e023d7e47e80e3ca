//! The two fronts: HTTP and WebSocket.

use super::{GIB, HOUR, KIB, MIB, SECOND, Setting, TIB, TIMEOUT, setting};
use crate::config::field::{Bytes, Checked, Count, Time};
use crate::http;

pub(super) const HTTP: &[Setting] = &[
    setting(
        "http.body_bytes_max",
        "The body of a request that produces records.",
        |c| Box::new(Bytes(&mut c.http.body_bytes_max, KIB..=GIB)),
    ),
    setting(
        "http.bodies_bytes_max",
        "The bodies of all requests under way, uploads included; a request past that is refused and may be repeated.",
        |c| Box::new(Bytes(&mut c.http.bodies_bytes_max, MIB..=TIB)),
    ),
    setting(
        "http.body_timeout",
        "How long a request's body may take to arrive.",
        |c| Box::new(Time(&mut c.http.body_timeout, SECOND..=HOUR)),
    ),
    setting(
        "http.allowed_origins",
        "Origins whose pages may write and open a WebSocket, such as \"https://app.example\"; \"*\" allows every page. The broker's own page always may.",
        |c| {
            Box::new(Checked {
                value: &mut c.http.allowed_origins,
                check: http::is_allowed_origin,
                allowed: "a scheme, a host and perhaps a port, such as \"https://app.example:8443\", without a path; \
                          or \"null\"; or \"*\"",
            })
        },
    ),
    setting(
        "http.allowed_hosts",
        "Names under which the broker is reached, for the `Host` header. On loopback, and wherever names are listed, it answers to these, to `localhost` and to plain addresses only. Elsewhere programs may come by any name; the broker's own page writes and opens a WebSocket only under these, `localhost` and plain addresses.",
        |c| {
            Box::new(Checked {
                value: &mut c.http.allowed_hosts,
                check: http::is_host,
                allowed: "a host's name without scheme and port, such as \"eddy.local\"",
            })
        },
    ),
];

pub(super) const WS: &[Setting] = &[
    setting(
        "ws.frame_bytes_max",
        "The largest message that is read.",
        |c| Box::new(Bytes(&mut c.ws.frame_bytes_max, 64 * KIB..=128 * MIB)),
    ),
    setting(
        "ws.subscriptions_max",
        "How many subscriptions a connection may hold.",
        |c| Box::new(Count(&mut c.ws.subscriptions_max, 1..=100_000)),
    ),
    setting(
        "ws.requests_in_flight_max",
        "How many requests of a connection may be unanswered before reading from it pauses.",
        |c| Box::new(Count(&mut c.ws.requests_in_flight_max, 1..=65_536)),
    ),
    setting(
        "ws.request_bytes_in_flight_max",
        "How many bytes of a connection's requests may be unanswered before reading from it pauses; and how many bytes of records its fetches may have read that are not on their way to it yet.",
        |c| Box::new(Bytes(&mut c.ws.request_bytes_in_flight_max, 64 * KIB..=GIB)),
    ),
    setting(
        "ws.hello_timeout",
        "How long a new connection may take to say hello.",
        |c| Box::new(Time(&mut c.ws.hello_timeout, TIMEOUT)),
    ),
    setting(
        "ws.idle_timeout",
        "A peer from which nothing was heard for so long is gone. It is pinged at half of that.",
        |c| Box::new(Time(&mut c.ws.idle_timeout, SECOND..=HOUR)),
    ),
    setting(
        "ws.message_timeout",
        "How long a message may take to arrive.",
        |c| Box::new(Time(&mut c.ws.message_timeout, SECOND..=HOUR)),
    ),
    setting(
        "ws.write_bytes_target",
        "How many bytes wait for a peer's socket before its cursors, its answers and reading from it pause.",
        |c| Box::new(Bytes(&mut c.ws.write_bytes_target, KIB..=64 * MIB)),
    ),
];
