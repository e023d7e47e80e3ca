//! Topics, fetches and deployments.

use std::time::Duration;

use super::{HOUR, KIB, MIB, MILLISECOND, Setting, TIB, setting};
use crate::config::field::{Bytes, Count, Time};

pub(super) const SETTINGS: &[Setting] = &[
    setting(
        "broker.batch_bytes_max",
        "The largest batch that is appended, as encoded and as expanded.",
        |c| Box::new(Bytes(&mut c.broker.batch_bytes_max, KIB..=64 * MIB)),
    ),
    setting("broker.topics_max", "How many topics there may be.", |c| {
        Box::new(Count(&mut c.broker.topics_max, 1..=1_000_000))
    }),
    setting(
        "broker.partitions_max",
        "How many partitions all topics may have together.",
        |c| Box::new(Count(&mut c.broker.partitions_max, 1..=1_000_000)),
    ),
    setting(
        "broker.groups_max",
        "How many groups may have cursors in one topic.",
        |c| Box::new(Count(&mut c.broker.groups_max, 1..=10_000_000)),
    ),
    setting(
        "broker.frame_bytes_target",
        "A delivered frame takes no further batch once it holds so many bytes of records.",
        |c| Box::new(Bytes(&mut c.broker.frame_bytes_target, KIB..=64 * MIB)),
    ),
    setting(
        "broker.fetch_wait_max",
        "The longest that a fetch waits for a record.",
        |c| Box::new(Time(&mut c.broker.fetch_wait_max, Duration::ZERO..=HOUR)),
    ),
    setting(
        "broker.answers_bytes_max",
        "Memory for what is read and made for peers that have not taken it yet, all connections together; an answer that waits for it too long is refused and may be asked for again.",
        |c| Box::new(Bytes(&mut c.broker.answers_bytes_max, MIB..=TIB)),
    ),
    setting(
        "broker.instance_wait_max",
        "How long a subscription's filter waits for a plugin instance before the subscription ends.",
        |c| Box::new(Time(&mut c.broker.instance_wait_max, Duration::ZERO..=HOUR)),
    ),
];

pub(super) const DEPLOYMENT: &[Setting] = &[
    setting(
        "deployment.chunk_bytes",
        "How many bytes of records, expanded, an instance is handed at once, but for the last record; less where its limits are small. For filters on subscriptions, too.",
        |c| Box::new(Bytes(&mut c.broker.deployment.chunk_bytes, KIB..=64 * MIB)),
    ),
    setting(
        "deployment.commits_in_flight_max",
        "How many commits of an instance may be under way.",
        |c| {
            Box::new(Count(
                &mut c.broker.deployment.commits_in_flight_max,
                1..=1_024,
            ))
        },
    ),
    setting(
        "deployment.retry_delay",
        "How long a deployment waits before it tries again what was refused; twice as long each time, up to 30 seconds.",
        |c| {
            Box::new(Time(
                &mut c.broker.deployment.retry_delay,
                MILLISECOND..=HOUR,
            ))
        },
    ),
];
