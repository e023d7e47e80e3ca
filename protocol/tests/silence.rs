//! A broker that says nothing for too long is left, unless nobody listened.

use std::time::Duration;

use eddy_protocol::codec::{self, Form};
use eddy_protocol::frame::{Answer, ServerFrame, Welcome};
use eddy_protocol::session::{Config, Event, Session};

const SILENCE_MAX: Duration = Duration::from_secs(30);

fn greeted() -> Session {
    let mut session = Session::new(Config {
        silence_max: SILENCE_MAX,
        ..Config::default()
    });
    assert!(matches!(session.poll_event(), Some(Event::Connect)));
    session.handle_connected(Duration::ZERO);
    let hello = session.poll_transmit().expect("hello");
    let id = codec::decode_client(&hello, Form::Binary, 0)
        .expect("a frame")
        .id;
    let welcome = Welcome {
        server: "test".into(),
        incarnation: 1,
        frame_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 20,
        subscriptions_max: 1,
        idle_timeout_ms: 60_000,
    };
    let answer = ServerFrame::Answer {
        id,
        answer: Answer::Welcome(welcome),
    };
    let message = codec::encode_server(&answer, Form::Binary).expect("a message");
    session.handle_message(&message, Duration::ZERO);
    assert!(matches!(session.poll_event(), Some(Event::Connected(_))));
    session
}

#[test]
fn a_silent_broker_is_left() {
    let mut session = greeted();
    session.handle_timeout(SILENCE_MAX);
    assert!(matches!(session.poll_event(), Some(Event::Close { .. })));
}

#[test]
fn silence_of_the_drivers_own_making_is_excused() {
    let mut session = greeted();
    session.excuse_silence(SILENCE_MAX);
    session.handle_timeout(SILENCE_MAX);
    assert!(session.poll_event().is_none());
    session.handle_timeout(2 * SILENCE_MAX);
    assert!(matches!(session.poll_event(), Some(Event::Close { .. })));
}
