//! The frames in the binary form: which number each variant has, and the fields
//! of each struct in their order on the wire. Numbers are never reused and
//! fields never moved; new ones come last, in a struct behind a semicolon.

use super::*;
use crate::block::{block, variants};

variants!(Request {
    0 "hello" = Hello(hello);
    1 "ping" = Ping {};
    2 "open_producer" = OpenProducer(open);
    3 "produce" = Produce(produce);
    4 "subscribe" = Subscribe(subscribe);
    5 "unsubscribe" = Unsubscribe { stream };
    6 "fetch" = Fetch(fetch);
    7 "commit" = Commit(commit);
    8 "cursors" = Cursors(cursors);
    9 "create_topic" = CreateTopic(create);
    10 "alter_topic" = AlterTopic(alter);
    11 "delete_topic" = DeleteTopic { topic };
    12 "describe_topic" = DescribeTopic { topic };
    13 "list_topics" = ListTopics {};
    14 "delete_group" = DeleteGroup(delete);
    15 "list_groups" = ListGroups {};
});

block!(Hello { client; capabilities });
block!(OpenProducer { name; current });
block!(Produce {
    topic,
    partition,
    batch
});
block!(Subscribe {
    topic,
    partitions,
    from,
    resume,
    filter
});
block!(Position {
    partition,
    offset,
    epoch
});
block!(Filter { plugin, params });
block!(Fetch {
    topic,
    partition,
    from,
    bytes_max,
    wait_ms
});
block!(Commit {
    appends,
    group,
    cursors
});
block!(CursorMove {
    topic, partition, offset;
    epoch, expect
});
block!(Cursor {
    topic, partition, offset;
    epoch, lost
});
block!(Cursors { group, topic; reset });
block!(DeleteGroup { group, topic });
block!(GroupInfo { group, topics });
block!(CreateTopic {
    topic,
    partitions,
    settings
});
block!(TopicSettings {
    durability, retention_ms, retention_bytes;
    timestamps, timestamp_ahead_ms = TopicSettings::default().timestamp_ahead_ms,
    timestamp_behind_ms, out_of_bounds
});
block!(AlterTopic {
    topic,
    partitions,
    durability,
    retention_ms,
    retention_bytes;
    timestamps,
    timestamp_ahead_ms,
    timestamp_behind_ms,
    out_of_bounds
});

variants!(ServerFrame {
    0 "answer" = Answer { id, answer };
    1 "error" = Error { id, error };
    2 "deliver" = Deliver(deliver);
    3 "gap" = Gap(gap);
    4 "progress" = Progress(progress);
    5 "ended" = Ended(ended);
    6 "closing" = Closing { reason };
});

block!(Deliver {
    stream,
    partition,
    epoch,
    next,
    batches
});
block!(Gap {
    stream,
    partition,
    epoch,
    expected,
    next
});
block!(Progress {
    stream,
    partition,
    epoch,
    next
});
block!(Ended {
    stream,
    partition,
    error
});

variants!(Answer {
    0 "welcome" = Welcome(welcome);
    1 "pong" = Pong {};
    2 "producer" = Producer(producer);
    3 "produced" = Produced(produced);
    4 "subscribed" = Subscribed(subscribed);
    5 "unsubscribed" = Unsubscribed {};
    6 "fetched" = Fetched(fetched);
    7 "committed" = Committed { appends };
    8 "cursors" = Cursors { cursors };
    9 "topic" = Topic(topic);
    10 "deleted" = Deleted {};
    11 "topics" = Topics { topics };
    12 "groups" = Groups { groups };
});

block!(Welcome {
    server, incarnation, frame_bytes_max, batch_bytes_max, subscriptions_max, idle_timeout_ms;
    capabilities
});
block!(Producer { id, epoch });
block!(Produced {
    partition,
    offset,
    count,
    duplicate
});
block!(Subscribed { stream, positions });
block!(Fetched {
    epoch,
    start,
    end,
    next,
    batches
});
block!(TopicInfo {
    topic, settings, partitions;
    uuid
});
block!(PartitionInfo {
    partition,
    epoch,
    start,
    end,
    bytes,
    stopped
});

/// Stands for every number that is not known.
const UNKNOWN: u32 = u32::MAX;

/// An enum without fields as a number; one that is not known is `Unknown`.
macro_rules! numbers {
    ($name:ident { $($number:literal = $variant:ident),* }) => {
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                let number: u32 = match self {
                    $($name::$variant => $number,)*
                    $name::Unknown => UNKNOWN,
                };
                number.encode(encoder)
            }
        }

        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                Ok(match u32::decode(decoder)? {
                    $($number => $name::$variant,)*
                    _ => $name::Unknown,
                })
            }
        }

        bincode::impl_borrow_decode!($name);
    };
}

numbers!(Durability { 0 = Disk, 1 = Memory });
numbers!(Timestamps { 0 = Create, 1 = Append });
numbers!(OutOfBounds { 0 = Refuse, 1 = Append });
