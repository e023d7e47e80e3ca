//! A broker that was asked and says nothing for too long is left, unless nobody listened.

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
    let id = codec::decode_client(&hello.into_bytes(), Form::Binary, 0)
        .expect("a frame")
        .id;
    let welcome = Welcome {
        server: "test".into(),
        incarnation: 1,
        frame_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 20,
        subscriptions_max: 1,
        idle_timeout_ms: 60_000,
        ..Welcome::default()
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
    let mut now = Duration::ZERO;
    while session.poll_event().is_none() {
        now = session.poll_timeout().expect("it waits");
        session.handle_timeout(now);
        while session.poll_transmit().is_some() {}
    }
    assert_eq!(now, SILENCE_MAX);
}

#[test]
fn who_was_late_himself_asks_before_he_leaves() {
    let mut session = greeted();
    let late = 10 * SILENCE_MAX;
    session.handle_timeout(late);
    assert!(session.poll_event().is_none(), "the answers may be unread");
    assert!(session.poll_transmit().is_some(), "a ping");
    session.handle_timeout(late + SILENCE_MAX);
    assert!(matches!(session.poll_event(), Some(Event::Close { .. })));
}

#[test]
fn the_longest_of_all_durations_may_be_configured() {
    let mut session = Session::new(Config {
        hello_timeout: Duration::MAX,
        silence_max: Duration::MAX,
        backoff_min: Duration::MAX,
        backoff_max: Duration::MAX,
        ..Config::default()
    });
    let now = Duration::from_secs(1);
    session.handle_connected(now);
    session.handle_timeout(now);
    session.handle_disconnected(now);
    assert!(session.poll_timeout().is_some_and(|until| until > now));
}

#[test]
fn silence_of_the_drivers_own_making_is_excused() {
    let mut session = greeted();
    session.excuse_silence(SILENCE_MAX);
    session.handle_timeout(SILENCE_MAX);
    assert!(session.poll_event().is_none());
    while session.poll_transmit().is_some() {}
    session.handle_timeout(2 * SILENCE_MAX);
    assert!(matches!(session.poll_event(), Some(Event::Close { .. })));
}
