//! The session's promises, one story each, without a socket or a clock. The
//! model test beside it has the histories that nobody thinks of.

use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::TopicName;
use eddy_protocol::batch::{Batch, BatchBuilder, Compression};
use eddy_protocol::codec::{Form, decode_client, encode_server};
use eddy_protocol::error::ErrorCode;
use eddy_protocol::frame::{
    Answer, Deliver, Gap, Position, Produced, Producer, Request, ServerFrame, Start, Subscribe,
    Subscribed, Welcome,
};
use eddy_protocol::session::{
    Config, Event, ProduceRefused, ProducerHandle, RequestError, Session,
};

/// A session with the test in the place of the broker.
struct Stage {
    session: Session,
    now: Duration,
}

impl Stage {
    /// Connected and welcomed.
    fn open(config: Config) -> Stage {
        let mut stage = Stage {
            session: Session::new(config),
            now: Duration::ZERO,
        };
        assert!(matches!(stage.event(), Event::Connect));
        stage.connect();
        stage
    }

    fn connect(&mut self) {
        self.session.handle_connected(self.now);
        let (id, hello) = self.asked();
        assert!(matches!(hello, Request::Hello(_)));
        self.answer(id, Answer::Welcome(welcome()));
        assert!(matches!(self.event(), Event::Connected(_)));
    }

    /// Loses the connection and opens the next.
    fn reconnect(&mut self) {
        self.session.handle_disconnected(self.now);
        self.events_until(|event| matches!(event, Event::Disconnected { .. }));
        self.pass_time();
        self.events_until(|event| matches!(event, Event::Connect));
        self.connect();
    }

    /// The connection is lost at once after its greeting; how long the session waits.
    fn lose(&mut self) -> Duration {
        self.session.handle_disconnected(self.now);
        let last = self.events_until(|event| matches!(event, Event::Disconnected { .. }));
        let Some(Event::Disconnected {
            retry_in: Some(wait),
        }) = last.last()
        else {
            panic!("it retries")
        };
        *wait
    }

    fn come_back(&mut self) {
        self.pass_time();
        self.events_until(|event| matches!(event, Event::Connect));
        self.connect();
    }

    fn pass_time(&mut self) {
        self.now = self
            .session
            .poll_timeout()
            .expect("the session waits for something");
        self.session.handle_timeout(self.now);
    }

    fn event(&mut self) -> Event {
        self.session.poll_event().expect("an event")
    }

    fn events_until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            events.push(self.event());
            if events.last().is_some_and(&last) {
                return events;
            }
        }
    }

    fn asked(&mut self) -> (u32, Request) {
        let message = self.session.poll_transmit().expect("something to send");
        let frame = decode_client(&message.into_bytes(), Form::Binary, 0).expect("a whole frame");
        (frame.id, frame.request)
    }

    fn is_silent(&mut self) -> bool {
        self.session.poll_transmit().is_none()
    }

    fn answer(&mut self, id: u32, answer: Answer) {
        self.send(&ServerFrame::Answer { id, answer });
    }

    fn refuse(&mut self, id: u32, code: ErrorCode) {
        self.send(&ServerFrame::Error {
            id: Some(id),
            error: code.because("because"),
        });
    }

    fn send(&mut self, frame: &ServerFrame) {
        let message = encode_server(frame, Form::Binary).expect("binary never fails");
        self.session.handle_message(&message, self.now);
    }

    /// A producer whose identity is `id`.
    fn producer(&mut self, id: u64) -> ProducerHandle {
        let producer = self.session.open_producer(None);
        self.give_identity(id);
        producer
    }

    fn give_identity(&mut self, id: u64) {
        let (request, open) = self.asked();
        assert!(matches!(open, Request::OpenProducer(_)), "{open:?}");
        self.answer(request, Answer::Producer(Producer { id, epoch: 0 }));
        self.events_until(|event| matches!(event, Event::ProducerOpened { .. }));
    }

    /// The next produce: its id, the producer's and the sequence.
    fn asked_to_produce(&mut self) -> (u32, u64, u32) {
        let (id, request) = self.asked();
        let Request::Produce(produce) = request else {
            panic!("{request:?}")
        };
        let stamp = produce
            .batch
            .single()
            .expect("a batch")
            .producer()
            .expect("a stamp");
        (id, stamp.id, stamp.sequence)
    }

    fn accept(&mut self, id: u32) {
        self.answer(
            id,
            Answer::Produced(Produced {
                partition: 0,
                offset: Some(0),
                count: 1,
                duplicate: false,
            }),
        );
        assert!(matches!(self.event(), Event::Produced { .. }));
    }

    /// Subscribed to stream 3, which stands at offset 10 of partition 0.
    fn subscribed(&mut self) {
        self.session.subscribe(subscribe());
        let (id, _) = self.asked();
        let positions = vec![Position {
            partition: 0,
            offset: 10,
            epoch: 1,
        }];
        self.answer(
            id,
            Answer::Subscribed(Subscribed {
                stream: 3,
                positions,
            }),
        );
        assert!(matches!(self.event(), Event::Subscribed { .. }));
    }

    fn deliver(&mut self, base: u64, count: u64) {
        let batches = batch(count).with_base_offset(base).into();
        self.send(&ServerFrame::Deliver(Deliver {
            stream: 3,
            partition: 0,
            epoch: 1,
            next: base + count,
            batches,
        }));
    }
}

fn welcome() -> Welcome {
    Welcome {
        server: String::new(),
        incarnation: 1,
        frame_bytes_max: 4096,
        batch_bytes_max: 2048,
        subscriptions_max: 10,
        idle_timeout_ms: 60_000,
        ..Welcome::default()
    }
}

fn topic() -> TopicName {
    TopicName::parse("t").expect("a name")
}

fn subscribe() -> Subscribe {
    Subscribe {
        topic: topic(),
        partitions: vec![],
        from: Start::Latest,
        resume: vec![],
        filter: None,
    }
}

fn batch(records: u64) -> Batch {
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder.push(1, None, Some(b"value"), &[]).expect("it fits");
    }
    builder
        .finish(Compression::None, None)
        .expect("it has records")
}

#[test]
fn a_broker_that_does_not_answer_hello_is_left() {
    let mut session = Session::new(Config {
        hello_timeout: Duration::from_secs(3),
        ..Config::default()
    });
    session.handle_connected(Duration::from_secs(1));
    assert_eq!(session.poll_timeout(), Some(Duration::from_secs(4)));
    session.handle_timeout(Duration::from_secs(4));
    assert!(matches!(session.poll_event(), Some(Event::Connect)));
    assert!(matches!(session.poll_event(), Some(Event::Close { .. })));
    assert_eq!(
        session.poll_timeout(),
        None,
        "the driver has to say that it is gone"
    );
    session.handle_disconnected(Duration::from_secs(5));
    assert!(matches!(
        session.poll_event(),
        Some(Event::Disconnected { retry_in: Some(_) })
    ));
}

#[test]
fn silence_is_met_with_a_ping_and_then_with_a_new_connection() {
    let mut stage = Stage::open(Config::default());
    stage.pass_time();
    let (id, ping) = stage.asked();
    assert_eq!(
        (ping, stage.now),
        (Request::Ping {}, Duration::from_secs(10))
    );
    stage.answer(id, Answer::Pong {});
    while stage.session.poll_event().is_none() {
        stage.pass_time();
        while stage.session.poll_transmit().is_some() {}
        assert!(
            stage.now <= Duration::from_secs(40),
            "thirty seconds after the pong"
        );
    }
    assert_eq!(stage.now, Duration::from_secs(40));
}

#[test]
fn waits_between_attempts_grow_to_the_longest() {
    let config = Config {
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(5),
        ..Config::default()
    };
    let mut session = Session::new(config);
    let mut now = Duration::ZERO;
    for attempt in 0..12 {
        session.poll_event();
        session.handle_disconnected(now);
        let Some(Event::Disconnected {
            retry_in: Some(wait),
        }) = session.poll_event()
        else {
            panic!("it retries")
        };
        let full = Duration::from_millis(100 << attempt).min(Duration::from_secs(5));
        assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
        now = session.poll_timeout().expect("it waits");
        session.handle_timeout(now);
    }
}

#[test]
fn a_greeting_alone_does_not_shorten_the_waits() {
    let config = Config::default();
    let full = |attempt: u32| (config.backoff_min * (1 << attempt)).min(config.backoff_max);
    let mut stage = Stage::open(config.clone());
    for attempt in 0..10 {
        let wait = stage.lose();
        assert!(wait >= full(attempt) / 2, "{wait:?} after {attempt}");
        stage.come_back();
    }
    // One that lives long enough was none of the failures…
    stage.now += config.backoff_max;
    assert!(stage.lose() <= config.backoff_min);
    stage.lose();
    stage.lose();
    stage.come_back();
    // …and neither was one that brought something on.
    let producer = stage.producer(7);
    stage
        .session
        .produce(producer, &topic(), 0, batch(1))
        .expect("there is room");
    let (id, _, _) = stage.asked_to_produce();
    stage.accept(id);
    assert!(stage.lose() <= config.backoff_min);
}

#[test]
fn a_hello_that_no_retry_mends_is_said_once() {
    for (code, again) in [
        (ErrorCode::InvalidArgument, false),
        (ErrorCode::TooMany, true),
    ] {
        let mut session = Session::new(Config::default());
        session.poll_event();
        session.handle_connected(Duration::ZERO);
        let hello = session.poll_transmit().expect("hello");
        let id = decode_client(&hello.into_bytes(), Form::Binary, 0)
            .expect("a frame")
            .id;
        let error = ServerFrame::Error {
            id: Some(id),
            error: code.because("because"),
        };
        let message = encode_server(&error, Form::Binary).expect("binary never fails");
        session.handle_message(&message, Duration::ZERO);
        assert!(matches!(session.poll_event(), Some(Event::Refused(error)) if error.code == code));
        assert!(matches!(session.poll_event(), Some(Event::Close { .. })));
        session.handle_disconnected(Duration::ZERO);
        let Some(Event::Disconnected { retry_in }) = session.poll_event() else {
            panic!("it is gone")
        };
        assert_eq!(retry_in.is_some(), again, "{code:?}");
    }
}

#[test]
fn what_is_refused_for_now_is_told_and_asked_for_again() {
    let mut stage = Stage::open(Config::default());
    let subscription = stage.session.subscribe(subscribe());
    let producer = stage.session.open_producer(None);
    let (first, second) = (stage.asked(), stage.asked());
    stage.refuse(first.0, ErrorCode::TooMany);
    assert!(
        matches!(stage.event(), Event::SubscribeDelayed { subscription: delayed, error }
            if delayed == subscription && error.code == ErrorCode::TooMany)
    );
    stage.refuse(second.0, ErrorCode::DiskFull);
    assert!(
        matches!(stage.event(), Event::ProducerDelayed { producer: delayed, error }
            if delayed == producer && error.code == ErrorCode::DiskFull)
    );
    assert!(stage.is_silent(), "not at once");
    stage.pass_time();
    stage.pass_time();
    assert_eq!((stage.asked().1, stage.asked().1), (first.1, second.1));
}

#[test]
fn a_closed_session_does_not_come_back() {
    let mut stage = Stage::open(Config::default());
    stage.session.close();
    assert!(matches!(stage.event(), Event::Close { .. }));
    stage.session.handle_disconnected(stage.now);
    assert!(matches!(
        stage.event(),
        Event::Disconnected { retry_in: None }
    ));
    assert_eq!(stage.session.poll_timeout(), None);
}

#[test]
fn a_subscription_goes_on_where_it_was_and_takes_all_of_what_was_added() {
    let mut stage = Stage::open(Config::default());
    stage.subscribed();
    stage.deliver(8, 5);
    let Event::Delivered(delivery) = stage.event() else {
        panic!("a delivery")
    };
    let offsets: Vec<u64> = delivery.records().map(|record| record.offset).collect();
    assert_eq!((delivery.first, offsets), (10, vec![10, 11, 12]));
    stage.reconnect();
    let (_, request) = stage.asked();
    let Request::Subscribe(again) = request else {
        panic!("{request:?}")
    };
    assert_eq!(
        again.resume,
        [Position {
            partition: 0,
            offset: 13,
            epoch: 1
        }]
    );
    assert_eq!(
        again.from,
        Start::Earliest,
        "a partition without a cursor is new"
    );
}

#[test]
fn a_hole_between_deliveries_is_a_violation_and_is_asked_for_again() {
    let mut stage = Stage::open(Config::default());
    stage.subscribed();
    stage.deliver(11, 1);
    assert!(matches!(stage.event(), Event::Close { .. }));
    assert!(
        matches!(stage.event(), Event::Violation { message } if message.contains("10 was expected"))
    );
    stage.reconnect();
    let (_, request) = stage.asked();
    assert!(matches!(request, Request::Subscribe(again) if again.resume[0].offset == 10));
}

#[test]
fn what_came_before_the_cursor_comes_once() {
    let mut stage = Stage::open(Config::default());
    stage.subscribed();
    stage.deliver(5, 5);
    assert!(stage.session.poll_event().is_none());
}

#[test]
fn another_epoch_needs_a_gap_notice() {
    let mut stage = Stage::open(Config::default());
    stage.subscribed();
    stage.send(&ServerFrame::Gap(Gap {
        stream: 3,
        partition: 0,
        epoch: 2,
        expected: 10,
        next: 4,
    }));
    assert!(matches!(
        stage.event(),
        Event::Gap {
            expected: 10,
            next: 4,
            ..
        }
    ));
    stage.deliver(4, 1);
    assert!(
        matches!(stage.event(), Event::Close { .. }),
        "epoch 1 is past"
    );
}

#[test]
fn the_same_stream_twice_is_refused_until_the_first_is_gone() {
    let mut stage = Stage::open(Config::default());
    let first = stage.session.subscribe(subscribe());
    let second = stage.session.subscribe(subscribe());
    let Event::Ended {
        subscription,
        error,
    } = stage.event()
    else {
        panic!("the second is refused")
    };
    assert_eq!(
        (subscription, error.code),
        (second, ErrorCode::AlreadySubscribed)
    );

    let (id, _) = stage.asked();
    stage.session.unsubscribe(first);
    stage.session.subscribe(subscribe());
    assert!(
        stage.is_silent(),
        "the third waits for the first one's stream"
    );
    stage.answer(
        id,
        Answer::Subscribed(Subscribed {
            stream: 3,
            positions: vec![],
        }),
    );
    assert_eq!(stage.asked().1, Request::Unsubscribe { stream: 3 });
    assert!(matches!(stage.asked().1, Request::Subscribe(_)));
}

#[test]
fn a_request_is_repeated_only_where_that_does_no_harm() {
    let mut stage = Stage::open(Config::default());
    let harmless = stage.session.request(Request::ListTopics {});
    let harmful = stage
        .session
        .request(Request::DeleteTopic { topic: topic() });
    stage.asked();
    stage.asked();
    stage.session.handle_disconnected(stage.now);
    let Event::Answered { request, result } = stage.event() else {
        panic!("an answer")
    };
    assert_eq!(
        (request, result),
        (harmful, Err(RequestError::ConnectionLost))
    );
    assert!(matches!(stage.event(), Event::Disconnected { .. }));
    stage.pass_time();
    assert!(matches!(stage.event(), Event::Connect));
    stage.connect();
    let (id, _) = stage.asked();
    stage.answer(id, Answer::Topics { topics: vec![] });
    assert!(
        matches!(stage.event(), Event::Answered { request, result: Ok(_) } if request == harmless)
    );
}

#[test]
fn batches_in_flight_keep_their_sequences_over_a_lost_connection() {
    let mut stage = Stage::open(Config {
        in_flight_max: 2,
        ..Config::default()
    });
    let producer = stage.producer(7);
    for records in [2, 3, 4] {
        stage
            .session
            .produce(producer, &topic(), 0, batch(records))
            .expect("there is room");
    }
    assert_eq!(stage.asked_to_produce().2, 0);
    assert_eq!(stage.asked_to_produce().2, 2);
    assert!(stage.is_silent(), "two are in flight");
    stage.reconnect();
    let (first, _, sequence) = stage.asked_to_produce();
    assert_eq!(sequence, 0);
    assert_eq!(stage.asked_to_produce().2, 2);
    stage.accept(first);
    assert_eq!(stage.asked_to_produce().2, 5);
}

#[test]
fn a_full_disk_delays_and_keeps_the_order() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    for _ in 0..2 {
        stage
            .session
            .produce(producer, &topic(), 0, batch(1))
            .expect("there is room");
    }
    let (first, second) = (stage.asked_to_produce().0, stage.asked_to_produce().0);
    stage.refuse(first, ErrorCode::DiskFull);
    assert!(stage.is_silent(), "the answer to the second is awaited");
    stage.refuse(second, ErrorCode::OutOfOrderSequence);
    assert!(
        matches!(stage.event(), Event::ProduceDelayed { error, .. } if error.code == ErrorCode::DiskFull)
    );
    assert!(stage.is_silent(), "not at once");
    stage.pass_time();
    assert_eq!(
        (stage.asked_to_produce().2, stage.asked_to_produce().2),
        (0, 1)
    );
}

#[test]
fn a_batch_refused_for_good_leaves_no_hole() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    let refused = stage
        .session
        .produce(producer, &topic(), 0, batch(5))
        .expect("there is room");
    stage
        .session
        .produce(producer, &topic(), 0, batch(1))
        .expect("there is room");
    let (first, second) = (stage.asked_to_produce(), stage.asked_to_produce());
    assert_eq!((first.2, second.2), (0, 5));
    stage.refuse(first.0, ErrorCode::InvalidArgument);
    stage.refuse(second.0, ErrorCode::OutOfOrderSequence);
    assert!(
        matches!(stage.event(), Event::ProduceFailed { batch, maybe_appended: false, .. } if batch == refused)
    );
    let (_, id, sequence) = stage.asked_to_produce();
    assert_eq!(
        (id, sequence),
        (7, 0),
        "numbered anew, under the same identity and at once"
    );
}

#[test]
fn a_hole_with_copies_under_way_needs_a_new_identity() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    for partition in [0, 0, 1] {
        stage
            .session
            .produce(producer, &topic(), partition, batch(1))
            .expect("there is room");
    }
    while !stage.is_silent() {}
    stage.reconnect();
    let asked = [
        stage.asked_to_produce(),
        stage.asked_to_produce(),
        stage.asked_to_produce(),
    ];
    // The lanes take turns: partition 0, partition 1, partition 0.
    stage.refuse(asked[0].0, ErrorCode::InvalidArgument);
    stage.refuse(asked[2].0, ErrorCode::OutOfOrderSequence);
    assert!(matches!(
        stage.event(),
        Event::ProduceFailed {
            maybe_appended: true,
            ..
        }
    ));
    assert!(stage.is_silent(), "partition 1 must be quiet first");
    stage.accept(asked[1].0);
    stage.give_identity(8);
    let (_, id, sequence) = stage.asked_to_produce();
    assert_eq!((id, sequence), (8, 0));
}

#[test]
fn a_forgotten_producer_gets_a_new_identity_and_repeats_nothing_that_may_be_there() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    let uncertain = stage
        .session
        .produce(producer, &topic(), 0, batch(1))
        .expect("there is room");
    stage.asked_to_produce();
    stage.reconnect();
    stage
        .session
        .produce(producer, &topic(), 0, batch(1))
        .expect("there is room");
    let (first, second) = (stage.asked_to_produce().0, stage.asked_to_produce().0);
    stage.refuse(first, ErrorCode::UnknownProducer);
    stage.refuse(second, ErrorCode::UnknownProducer);
    assert!(
        matches!(stage.event(), Event::ProduceFailed { batch, maybe_appended: true, .. } if batch == uncertain)
    );
    stage.give_identity(9);
    let (id, identity, sequence) = stage.asked_to_produce();
    assert_eq!((identity, sequence), (9, 0));
    stage.accept(id);
    assert_eq!(stage.session.pending(), (0, 0));
}

#[test]
fn a_broker_that_lost_what_it_acknowledged_stalls_nobody() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    for _ in 0..2 {
        stage
            .session
            .produce(producer, &topic(), 0, batch(1))
            .expect("there is room");
    }
    let (first, second) = (stage.asked_to_produce().0, stage.asked_to_produce().0);
    stage.accept(first);
    stage.refuse(second, ErrorCode::OutOfOrderSequence);
    assert!(matches!(stage.event(), Event::ProduceDelayed { .. }));
    stage.give_identity(8);
    assert_eq!(stage.asked_to_produce().1, 8);
}

/// A named producer whose first request for an identity was lost.
fn named_after_a_lost_request(stage: &mut Stage) -> ProducerHandle {
    let producer = stage.session.open_producer(Some("name".to_owned()));
    stage.asked();
    stage.reconnect();
    stage.give_identity(7);
    producer
}

/// Produces one batch; its request's id.
fn produce_one(stage: &mut Stage, producer: ProducerHandle) -> u32 {
    stage
        .session
        .produce(producer, &topic(), 0, batch(1))
        .expect("there is room");
    stage.asked_to_produce().0
}

#[test]
fn a_producer_that_its_own_lost_request_shut_out_comes_back() {
    let mut stage = Stage::open(Config::default());
    let producer = named_after_a_lost_request(&mut stage);
    // Though it is noticed late.
    stage.now += 2 * Duration::from_millis(welcome().idle_timeout_ms);
    let id = produce_one(&mut stage, producer);
    stage.refuse(id, ErrorCode::FencedProducer);
    stage.give_identity(7);
    assert_eq!(stage.asked_to_produce().2, 0);
}

#[test]
fn a_lost_request_is_no_claim_to_the_name_for_ever() {
    let mut stage = Stage::open(Config::default());
    let producer = named_after_a_lost_request(&mut stage);
    stage.now += Duration::from_millis(welcome().idle_timeout_ms);
    for _ in 0..2 {
        let id = produce_one(&mut stage, producer);
        stage.accept(id);
    }
    let id = produce_one(&mut stage, producer);
    stage.refuse(id, ErrorCode::FencedProducer);
    assert!(matches!(stage.event(), Event::ProducerFailed { .. }));
}

#[test]
fn a_size_limit_that_shrank_repeats_nothing() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    for _ in 0..2 {
        stage
            .session
            .produce(producer, &topic(), 0, batch(1))
            .expect("there is room");
    }
    while !stage.is_silent() {}
    // Both were appended; the answers are lost, and the broker is back with other limits.
    stage.reconnect();
    let (first, _, _) = stage.asked_to_produce();
    stage.refuse(first, ErrorCode::BatchTooLarge);
    for _ in 0..2 {
        assert!(matches!(
            stage.event(),
            Event::ProduceFailed {
                maybe_appended: true,
                ..
            }
        ));
    }
    assert_eq!(stage.session.pending(), (0, 0));
}

#[test]
fn a_refusal_that_is_not_understood_leaves_open_whether_it_was_appended() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    stage
        .session
        .produce(producer, &topic(), 0, batch(1))
        .expect("there is room");
    let (id, _, _) = stage.asked_to_produce();
    stage.refuse(id, ErrorCode::from_number(999, false));
    assert!(matches!(
        stage.event(),
        Event::ProduceFailed {
            maybe_appended: true,
            ..
        }
    ));
}

#[test]
fn a_fenced_producer_is_over() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    for _ in 0..2 {
        stage
            .session
            .produce(producer, &topic(), 0, batch(1))
            .expect("there is room");
    }
    let (first, _) = (stage.asked_to_produce().0, stage.asked_to_produce().0);
    stage.refuse(first, ErrorCode::FencedProducer);
    assert!(matches!(stage.event(), Event::ProducerFailed { .. }));
    assert!(matches!(
        stage.event(),
        Event::ProduceFailed {
            maybe_appended: false,
            ..
        }
    ));
    assert!(
        matches!(
            stage.event(),
            Event::ProduceFailed {
                maybe_appended: true,
                ..
            }
        ),
        "the other has no answer"
    );
    let refused = stage.session.produce(producer, &topic(), 0, batch(1));
    assert!(matches!(refused, Err(ProduceRefused::ProducerFailed(_))));
}

#[test]
fn a_batch_that_the_broker_would_not_take_is_not_sent() {
    let mut stage = Stage::open(Config::default());
    let producer = stage.producer(7);
    stage
        .session
        .produce(producer, &topic(), 0, batch(1000))
        .expect("there is room");
    stage
        .session
        .produce(producer, &topic(), 0, batch(1))
        .expect("there is room");
    assert_eq!(stage.asked_to_produce().2, 0, "the small one");
    assert!(
        matches!(stage.event(), Event::ProduceFailed { error, .. } if error.code == ErrorCode::BatchTooLarge)
    );
}

#[test]
fn a_full_session_gives_the_batch_back() {
    let mut stage = Stage::open(Config {
        pending_bytes_max: 300,
        ..Config::default()
    });
    let producer = stage.producer(7);
    stage
        .session
        .produce(producer, &topic(), 0, batch(30))
        .expect("one alone is always taken");
    let refused = stage.session.produce(producer, &topic(), 0, batch(1));
    assert!(matches!(refused, Err(ProduceRefused::Full(returned)) if returned == batch(1).into()));
    let (id, _, _) = stage.asked_to_produce();
    stage.accept(id);
    assert!(stage.session.has_room([100]));
    assert!(!stage.session.has_room([100, 250]), "not both");
}

#[test]
fn an_answer_to_nothing_and_bytes_that_are_no_frame_are_violations() {
    for message in [&b"\xff\xff"[..], &[0, 99, 1]] {
        let mut stage = Stage::open(Config::default());
        stage
            .session
            .handle_message(&Bytes::copy_from_slice(message), stage.now);
        assert!(matches!(stage.event(), Event::Close { .. }));
        assert!(matches!(stage.event(), Event::Violation { .. }));
        stage.session.handle_message(message, stage.now);
        assert!(
            stage.session.poll_event().is_none(),
            "what still comes of that connection is not looked at"
        );
    }
}

/// A number, and a block of it that nobody knows.
const UNKNOWN_FRAME: &[u8] = &[99, 2, 1, 2];

#[test]
fn a_frame_of_a_newer_broker_is_passed_over_and_counted() {
    let mut stage = Stage::open(Config::default());
    stage.subscribed();
    for skipped in 1..=3 {
        stage.session.handle_message(UNKNOWN_FRAME, stage.now);
        let Event::Skipped {
            message,
            skipped: counted,
        } = stage.event()
        else {
            panic!("it is passed over")
        };
        assert!(message.contains("99"), "{message}");
        assert_eq!(
            (counted, stage.session.skipped()),
            (skipped, skipped),
            "{message}"
        );
    }
    stage.deliver(10, 1);
    assert!(matches!(stage.event(), Event::Delivered(_)));
}

#[test]
fn an_answer_of_a_newer_broker_ends_its_request_and_nothing_else() {
    let mut stage = Stage::open(Config::default());
    stage.subscribed();
    let request = stage.session.request(Request::ListTopics {});
    let (id, _) = stage.asked();
    stage
        .session
        .handle_message(&[0, 4, id as u8, 99, 1, 7], stage.now);
    let Event::Answered {
        request: answered,
        result: Err(RequestError::Refused(error)),
    } = stage.event()
    else {
        panic!("it is answered")
    };
    assert_eq!((answered, error.code), (request, ErrorCode::Unsupported));
    stage.deliver(10, 1);
    assert!(matches!(stage.event(), Event::Delivered(_)));
}

#[test]
fn an_unknown_error_is_tried_again_where_the_broker_says_so() {
    for retryable in [true, false] {
        let mut stage = Stage::open(Config::default());
        stage.session.subscribe(subscribe());
        let (id, _) = stage.asked();
        let code = ErrorCode::from_number(777, retryable);
        stage.refuse(id, code);
        match stage.event() {
            Event::SubscribeDelayed { error, .. } => {
                assert!(retryable && error.code == code);
                stage.pass_time();
                assert!(matches!(stage.asked().1, Request::Subscribe(_)));
            }
            Event::Ended { error, .. } => assert!(!retryable && error.code == code),
            other => panic!("{other:?}"),
        }
    }
}
