//! The two engines: the store and the plugins.

use super::{DAY, DECADE, GIB, HOUR, KIB, MIB, MILLISECOND, SECOND, Setting, TIB, setting};
use crate::config::field::{Bytes, Count, Time};

pub(super) const STORE: &[Setting] = &[
    setting(
        "store.segment_bytes",
        "A segment that would grow past this is followed by another one. Retention deletes whole segments.",
        |c| Box::new(Bytes(&mut c.store.segment_bytes, MIB..=4 * GIB)),
    ),
    setting(
        "store.journal_file_bytes",
        "A journal file that has grown past this is followed by another one.",
        |c| Box::new(Bytes(&mut c.store.journal_file_bytes, MIB..=4 * GIB)),
    ),
    setting(
        "store.checkpoint_bytes",
        "So much in the journal triggers a checkpoint; recovery reads as much at most.",
        |c| Box::new(Bytes(&mut c.store.checkpoint_bytes, MIB..=64 * GIB)),
    ),
    setting(
        "store.checkpoint_interval",
        "A change is in a checkpoint after this time at the latest.",
        |c| Box::new(Time(&mut c.store.checkpoint_interval, SECOND..=DAY)),
    ),
    setting(
        "store.tail_bytes",
        "Memory for the newest batches of a partition, from which live readers are served.",
        |c| Box::new(Bytes(&mut c.store.tail_bytes, 0..=GIB)),
    ),
    setting(
        "store.tail_bytes_total",
        "Memory for the newest batches of all partitions.",
        |c| Box::new(Bytes(&mut c.store.tail_bytes_total, 0..=TIB)),
    ),
    setting(
        "store.queue_bytes_max",
        "Commits that wait for the writer; with more of them producers wait.",
        |c| Box::new(Bytes(&mut c.store.queue_bytes_max, MIB..=64 * GIB)),
    ),
    setting(
        "store.group_bytes",
        "What one write puts into the journal, unless a single commit is larger.",
        |c| Box::new(Bytes(&mut c.store.group_bytes, 64 * KIB..=GIB)),
    ),
    setting(
        "store.commit_bytes_max",
        "A larger commit is refused.",
        |c| Box::new(Bytes(&mut c.store.commit_bytes_max, MIB..=2 * GIB)),
    ),
    setting(
        "store.unapplied_bytes_max",
        "Records that are visible but not in segments yet; with more of them the writer waits.",
        |c| Box::new(Bytes(&mut c.store.unapplied_bytes_max, MIB..=64 * GIB)),
    ),
    setting(
        "store.headroom_bytes",
        "Room on the disk that commits leave to checkpoints; with less the disk counts as full.",
        |c| Box::new(Bytes(&mut c.store.headroom_bytes, 0..=TIB)),
    ),
    setting(
        "store.producer_expiry",
        "A producer that was idle for so long is forgotten, and its retries are no longer recognised.",
        |c| Box::new(Time(&mut c.store.producer_expiry, SECOND..=DECADE)),
    ),
    setting(
        "store.producers_max",
        "With more producers than this, those that were idle longest are forgotten.",
        |c| Box::new(Count(&mut c.store.producers_max, 1..=100_000_000)),
    ),
    setting(
        "store.producer_partitions_max",
        "A producer that sends to more partitions than this is refused.",
        |c| Box::new(Count(&mut c.store.producer_partitions_max, 1..=100_000_000)),
    ),
    setting(
        "store.producer_windows_max",
        "With more partitions remembered of all producers together, those that were idle longest are forgotten.",
        |c| Box::new(Count(&mut c.store.producer_windows_max, 1..=100_000_000)),
    ),
    setting(
        "store.state_bytes",
        "Memory for what deployments' states have used last.",
        |c| Box::new(Bytes(&mut c.store.state_bytes, MIB..=TIB)),
    ),
    setting(
        "store.retention_interval",
        "How often retention looks for segments to delete.",
        |c| Box::new(Time(&mut c.store.retention_interval, MILLISECOND..=DAY)),
    ),
    setting(
        "store.index_interval_bytes",
        "Distance of the entries of a segment's index.",
        |c| Box::new(Bytes(&mut c.store.index_interval_bytes, KIB..=64 * MIB)),
    ),
    setting(
        "store.open_files_max",
        "Segments that are open at a time.",
        |c| Box::new(Count(&mut c.store.open_files_max, 8..=1_000_000)),
    ),
    setting(
        "store.table_cache_bytes",
        "Memory for pages of the key-value tables.",
        |c| Box::new(Bytes(&mut c.store.table_cache_bytes, MIB..=TIB)),
    ),
];

pub(super) const PLUGIN: &[Setting] = &[
    setting(
        "plugin.threads",
        "Threads that run plugins; 0 for as many as there are processors.",
        |c| Box::new(Count(&mut c.plugin.threads, 0..=1_024)),
    ),
    setting(
        "plugin.memory_bytes_max",
        "Linear memory that an instance may have, all of its memories and tables together.",
        |c| Box::new(Bytes(&mut c.plugin.memory_bytes_max, 64 * KIB..=4 * GIB)),
    ),
    setting(
        "plugin.batch_time_max",
        "How long a batch may keep a thread busy.",
        |c| Box::new(Time(&mut c.plugin.batch_time_max, MILLISECOND..=HOUR)),
    ),
    setting(
        "plugin.init_time_max",
        "How long `init`, with everything that runs before it, may keep a thread busy.",
        |c| Box::new(Time(&mut c.plugin.init_time_max, MILLISECOND..=HOUR)),
    ),
    setting(
        "plugin.output_bytes_max",
        "How many bytes a batch may turn into.",
        |c| Box::new(Bytes(&mut c.plugin.output_bytes_max, KIB..=GIB)),
    ),
    setting(
        "plugin.instances_max",
        "How many instances there may be at one time; each takes 4 GiB of addresses, though no memory before it uses it.",
        |c| Box::new(Count(&mut c.plugin.instances_max, 1..=10_000)),
    ),
    setting(
        "plugin.plugin_bytes_max",
        "How large a plugin may be.",
        |c| Box::new(Bytes(&mut c.plugin.plugin_bytes_max, KIB..=GIB)),
    ),
    setting(
        "plugin.log_lines_per_second_max",
        "How many lines an instance may write into the log each second.",
        |c| Box::new(Count(&mut c.plugin.log_lines_per_second_max, 0..=1_000_000)),
    ),
];
