//! Settings that are right each by itself and wrong together.

use super::unit::{show_bytes, show_time};
use super::{Config, Problem};

/// What a frame needs beside its batch: the topic's name and some numbers.
const FRAME_OVERHEAD_BYTES: u64 = 1024;

/// Two settings that don't go together.
struct Contradiction {
    keys: [&'static str; 2],
    message: String,
}

/// Every contradiction in `config` between settings that are not `doubtful`:
/// where a value could not be read, the one it would replace says nothing.
pub(super) fn problems(config: &Config, doubtful: impl Fn(&str) -> bool) -> Vec<Problem> {
    let is_sure = |found: &Contradiction| !found.keys.iter().any(|key| doubtful(key));
    let found = contradictions(config).into_iter().filter(is_sure);
    found.map(|found| Problem::new(found.message)).collect()
}

fn contradictions(config: &Config) -> Vec<Contradiction> {
    let Config {
        server,
        http,
        ws,
        broker,
        store,
        plugin,
        ..
    } = config;
    let batch = ("broker.batch_bytes_max", broker.batch_bytes_max as u64);
    let frame = ("ws.frame_bytes_max", ws.frame_bytes_max as u64);
    let commit = ("store.commit_bytes_max", store.commit_bytes_max);
    let output = ("plugin.output_bytes_max", plugin.output_bytes_max as u64);
    let upload = ("plugin.plugin_bytes_max", plugin.plugin_bytes_max as u64);
    let chunk = (
        "deployment.chunk_bytes",
        broker.deployment.chunk_bytes as u64,
    );
    let body = ("http.body_bytes_max", http.body_bytes_max as u64);
    let bodies = ("http.bodies_bytes_max", http.bodies_bytes_max as u64);
    let found = [
        holds(
            frame,
            batch,
            FRAME_OVERHEAD_BYTES,
            "a message that carries the largest batch",
        ),
        holds(commit, batch, 0, "a commit of the largest batch"),
        holds(commit, output, 0, "a commit of a plugin's largest output"),
        holds(
            commit,
            chunk,
            0,
            "a commit of all that a plugin may keep at once",
        ),
        holds(bodies, body, 0, "the largest body"),
        holds(bodies, upload, 0, "the largest plugin"),
        holds(
            ("store.queue_bytes_max", store.queue_bytes_max),
            batch,
            0,
            "the largest batch",
        ),
        holds(
            ("store.tail_bytes_total", store.tail_bytes_total),
            ("store.tail_bytes", store.tail_bytes),
            0,
            "one",
        ),
        holds(
            (
                "ws.request_bytes_in_flight_max",
                ws.request_bytes_in_flight_max as u64,
            ),
            frame,
            0,
            "the largest message",
        ),
        ends_first(
            ("server.handshake_timeout", server.handshake_timeout),
            ("server.idle_timeout", server.idle_timeout),
        ),
        ends_first(
            ("ws.hello_timeout", ws.hello_timeout),
            ("ws.idle_timeout", ws.idle_timeout),
        ),
    ];
    found.into_iter().flatten().collect()
}

/// That the first has room for the second and `more` bytes.
fn holds(
    outer: (&'static str, u64),
    inner: (&'static str, u64),
    more: u64,
    what: &str,
) -> Option<Contradiction> {
    let needed = inner.1.saturating_add(more);
    (outer.1 < needed).then(|| Contradiction {
        keys: [outer.0, inner.0],
        message: format!(
            "`{}` is {} and has no room for {what} (`{}` is {}): expected at least {}",
            outer.0,
            show_bytes(outer.1),
            inner.0,
            show_bytes(inner.1),
            show_bytes(needed)
        ),
    })
}

/// That the first is not the longer one: it would never be reached.
fn ends_first(
    first: (&'static str, std::time::Duration),
    second: (&'static str, std::time::Duration),
) -> Option<Contradiction> {
    (first.1 > second.1).then(|| Contradiction {
        keys: [first.0, second.0],
        message: format!(
            "`{}` is {} and would never be reached, because `{}` is {}: expected the first to be no longer",
            first.0,
            show_time(first.1),
            second.0,
            show_time(second.1)
        ),
    })
}
