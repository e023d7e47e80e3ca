//! What the tests of the store's parts begin with.

use std::sync::Arc;

use eddy_protocol::frame::{Durability, TopicSettings};
use eddy_protocol::{BatchBuilder, Compression, TopicName};

use super::config::Config;
use super::core::Core;
use super::error::OpenError;
use super::recovery;
use super::request::Request;
use crate::io::{FaultyDisk, ManualClock};
use crate::log::{Append, CatalogChange, Commit, Committed, Ticket, TopicId, ticket};

pub(crate) fn open(config: Config, disk: &FaultyDisk) -> Result<Core, OpenError> {
    let clock = Arc::new(ManualClock::new(1_000));
    recovery::open(config, Arc::new(disk.clone()), clock, Box::new(|_| {}))
}

pub(crate) fn core(disk: &FaultyDisk) -> Core {
    open(Config::default(), disk).expect("the disk works")
}

/// Hands commits to the writer, together.
pub(crate) fn write_all<const N: usize>(
    core: &Core,
    commits: [Commit; N],
) -> [Ticket<Committed>; N] {
    let mut requests = Vec::new();
    let tickets = commits.map(|commit| {
        let (reply, ticket) = ticket();
        requests.push(Request::Commit { commit, reply });
        ticket
    });
    core.committer.write(requests);
    tickets
}

pub(crate) fn write(core: &Core, commit: Commit) -> Ticket<Committed> {
    let [ticket] = write_all(core, [commit]);
    ticket
}

pub(crate) fn settings(durability: Durability) -> TopicSettings {
    TopicSettings {
        durability,
        ..TopicSettings::default()
    }
}

pub(crate) fn change(change: CatalogChange) -> Commit {
    Commit {
        catalog: vec![change],
        ..Commit::default()
    }
}

/// The first topic of a folder.
pub(crate) fn create(partitions: u32, durability: Durability) -> Commit {
    change(CatalogChange::Create {
        name: TopicName::parse("t").expect("the name is plain"),
        partitions,
        settings: settings(durability),
    })
}

/// A record for the first topic.
pub(crate) fn record(partition: u32) -> Commit {
    let mut builder = BatchBuilder::new();
    let pushed = builder.push(0, None, Some(b"value"), &[]);
    pushed.expect("the record is small");
    let batch = builder.finish(Compression::None, None);
    Commit {
        appends: vec![Append {
            topic: TopicId(1),
            partition,
            batch: batch.expect("the batch is small"),
        }],
        ..Commit::default()
    }
}
