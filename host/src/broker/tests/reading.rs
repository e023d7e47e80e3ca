//! What the tests of subscriptions share: how records are read.

use eddy_protocol::frame::{Deliver, Filter, Subscribe};
use eddy_protocol::{Batch, Form, ServerFrame, codec};

use super::*;

/// The first call keeps nothing, all later ones everything.
pub(super) const FROM_THE_SECOND_ON: Guest<'_> = Guest {
    init: "i32.const 0",
    process: "(if (result i32) (global.get $called)
        (then (i32.const 64))
        (else
            (global.set $called (i32.const 1))
            (i32.store8 (i32.const 132) (i32.const 1))
            (i32.store (i32.const 136) (i32.const 1024))
            (i32.const 128)))",
    fields: "(global $called (mut i32) (i32.const 0))",
};

pub(super) fn subscribe(from: Start) -> Subscribe {
    Subscribe {
        topic: name("t"),
        partitions: Vec::new(),
        from,
        resume: Vec::new(),
        filter: None,
    }
}

pub(super) fn through(plugin: &str) -> Subscribe {
    Subscribe {
        filter: Some(Filter {
            plugin: plugin.to_owned(),
            params: BTreeMap::new(),
        }),
        ..subscribe(Start::Earliest)
    }
}

impl Broker {
    /// The cursor of a subscription to one partition.
    pub(super) async fn reader(&self, request: &Subscribe) -> Cursor {
        let subscribed = within("subscribing", self.subscribe(request)).await;
        let (_, mut cursors) = subscribed.expect("a stream");
        assert_eq!(cursors.len(), 1);
        cursors.remove(0)
    }
}

/// What comes next, loads included.
pub(super) async fn next(cursor: &mut Cursor, form: Form) -> Next {
    let mut next = cursor.poll(form);
    while let Next::Load(load) = next {
        let loaded = within("a load", load).await;
        let arrived = cursor.arrived(loaded, form);
        next = arrived.unwrap_or_else(|| cursor.poll(form));
    }
    next
}

pub(super) async fn frame(cursor: &mut Cursor, form: Form) -> Arc<Frame> {
    match next(cursor, form).await {
        Next::Frame(frame) => frame,
        other => panic!("a frame was expected: {}", describe(&other)),
    }
}

pub(super) fn describe(next: &Next) -> String {
    match next {
        Next::Frame(_) => "a frame".into(),
        Next::Gap(gap) => format!("{gap:?}"),
        Next::Progress(progress) => format!("{progress:?}"),
        Next::Idle => "idle".into(),
        Next::Load(_) => "a load".into(),
        Next::Retry(_) => "a retry".into(),
        Next::Ended(error) => format!("{error:?}"),
    }
}

pub(super) fn deliver(frame: &Frame, form: Form) -> Deliver {
    let message = frame.pieces().concat();
    assert_eq!(message.len(), frame.len());
    match codec::decode_server(&message, form).expect("a frame") {
        ServerFrame::Deliver(deliver) => deliver,
        other => panic!("{other:?}"),
    }
}

pub(super) fn batches(deliver: &Deliver) -> Vec<Batch> {
    deliver
        .batches
        .iter()
        .collect::<Result<_, _>>()
        .expect("batches")
}

pub(super) fn offsets(deliver: &Deliver) -> Vec<u64> {
    let batches = batches(deliver);
    let records = batches
        .iter()
        .map(|batch| batch.records().expect("records"));
    records
        .flat_map(|records| {
            records
                .iter()
                .map(|record| record.offset)
                .collect::<Vec<_>>()
        })
        .collect()
}

pub(super) fn load(next: Next) -> Load {
    match next {
        Next::Load(load) => load,
        other => panic!("a load was expected: {}", describe(&other)),
    }
}
