//! What one commit may not outrun of another.

use bytes::Bytes;
use eddy_protocol::frame::Durability;

use crate::io::FaultyDisk;
use crate::log::{CatalogChange, Change, Commit, Partition as _, Table, TopicId};
use crate::store::config::Config;
use crate::store::kit::{change, core, create, open, record, settings, write, write_all};

/// Writes a record on top of an unsynced change of its topic.
fn check_that_nothing_outruns(before: Option<Commit>, unsynced: Commit) {
    let core = core(&FaultyDisk::new(1));
    if let Some(commit) = before {
        let _ticket = write(&core, commit);
        core.committer.sync();
    }
    let [mut changed, mut produced] = write_all(&core, [unsynced, record(0)]);
    let partition = core.context.catalog.partition(TopicId(1), 0);
    let partition = partition.expect("it is in effect");
    assert!(changed.try_take().is_none() && produced.try_take().is_none());
    assert_eq!(partition.end(), 0, "nobody may see it yet");
    core.committer.sync();
    let produced = produced.try_take().expect("it is synced");
    produced.expect("there is room");
    assert_eq!(partition.end(), 1);
    let answer = write(&core, record(0)).try_take();
    let answer = answer.expect("a memory topic waits for no sync otherwise");
    answer.expect("there is room");
}

#[test]
fn no_record_outruns_the_creation_of_its_memory_topic() {
    check_that_nothing_outruns(None, create(1, Durability::Memory));
}

#[test]
fn no_record_outruns_the_change_that_makes_its_topic_one_of_memory() {
    let alter = CatalogChange::Alter {
        topic: TopicId(1),
        partitions: None,
        settings: settings(Durability::Memory),
    };
    check_that_nothing_outruns(Some(create(1, Durability::Disk)), change(alter));
}

#[test]
fn a_group_ends_where_its_changes_of_tables_are_large_enough() {
    let config = Config {
        group_bytes: 1000,
        ..Config::default()
    };
    let core = open(config, &FaultyDisk::new(1)).expect("the folder is empty");
    let commits: [Commit; 100] = std::array::from_fn(|key| Commit {
        changes: vec![Change::Put {
            table: Table::Cursors,
            key: Bytes::from(key.to_string()),
            value: Bytes::from(vec![0; 100]),
        }],
        ..Commit::default()
    });
    let _tickets = write_all(&core, commits);
    assert!(core.committer.writer.lock().sequence > 10);
}
