//! The store's settings.

use std::time::Duration;

/// How the store works. The defaults fit a machine with a few gigabytes of memory.
#[derive(Debug, Clone)]
pub struct Config {
    /// A segment that would grow past this is followed by another one.
    pub segment_bytes: u64,
    /// A journal file that has grown past this is followed by another one.
    pub journal_file_bytes: u64,
    /// So much in the journal triggers a checkpoint.
    pub checkpoint_bytes: u64,
    /// A change is in a checkpoint after this time at the latest.
    pub checkpoint_interval: Duration,
    /// Memory for the newest batches of a partition.
    pub tail_bytes: u64,
    /// Memory for the newest batches of all partitions.
    pub tail_bytes_total: u64,
    /// Commits that wait for the writer; more of them make [`Log::commit`](crate::log::Log::commit) wait.
    pub queue_bytes_max: u64,
    /// What one write puts into the journal, unless a single commit is larger.
    pub group_bytes: u64,
    /// A larger commit is refused.
    pub commit_bytes_max: u64,
    /// Records that are visible but not in segments yet; more of them make the writer wait.
    pub unapplied_bytes_max: u64,
    /// Room on the disk that commits leave to checkpoints.
    pub headroom_bytes: u64,
    /// A file of this size is there to be removed when a full disk leaves no
    /// room even for a checkpoint.
    pub reserve_bytes: u64,
    /// A producer that was idle for so long is forgotten.
    pub producer_expiry: Duration,
    /// More producers than this, and those that were idle longest are forgotten.
    pub producers_max: usize,
    /// A producer that sends to more partitions than this is refused.
    pub producer_partitions_max: usize,
    /// With more partitions remembered of all producers together, those that were idle longest
    /// are forgotten; a tenth more, and new ones are refused.
    pub producer_windows_max: usize,
    /// How often retention looks for segments to delete.
    pub retention_interval: Duration,
    /// Distance of the entries of a segment's index.
    pub index_interval_bytes: u64,
    /// What the system cannot do for a partition's segments is tried again for so
    /// long; then the partition is stopped.
    pub segment_retry_time: Duration,
    /// Segments that are open at a time.
    pub open_files_max: usize,
    /// A checkpoint with more files to sync than this syncs the whole file
    /// system once instead.
    pub sync_files_max: usize,
    /// Memory for what deployments' states have used last. What no checkpoint has written
    /// stays in memory besides.
    pub state_bytes: u64,
    /// Memory for pages of the key-value tables.
    pub table_cache_bytes: usize,
}

impl Config {
    /// How many files the store has open at most: beside the segments the journal,
    /// the tables, the folders and what is read and written for a moment.
    pub fn descriptors_max(&self) -> usize {
        const OTHERS: usize = 32;
        self.open_files_max + OTHERS
    }

    /// As it is with so many descriptors for the whole process: a quarter of them
    /// is the store's.
    pub fn with_descriptors(self, all: usize) -> Config {
        Config {
            open_files_max: self.open_files_max.min(all / 4).max(4),
            ..self
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        const MIB: u64 = 1 << 20;
        Config {
            segment_bytes: 64 * MIB,
            journal_file_bytes: 64 * MIB,
            checkpoint_bytes: 64 * MIB,
            checkpoint_interval: Duration::from_secs(30),
            tail_bytes: MIB,
            tail_bytes_total: 128 * MIB,
            queue_bytes_max: 32 * MIB,
            group_bytes: 4 * MIB,
            commit_bytes_max: 256 * MIB,
            unapplied_bytes_max: 64 * MIB,
            headroom_bytes: 2 * MIB,
            reserve_bytes: MIB / 2,
            producer_expiry: Duration::from_secs(7 * 24 * 3600),
            producers_max: 100_000,
            producer_partitions_max: 10_000,
            producer_windows_max: 1_000_000,
            retention_interval: Duration::from_secs(5),
            index_interval_bytes: 64 << 10,
            segment_retry_time: Duration::from_secs(10),
            open_files_max: 256,
            sync_files_max: 32,
            state_bytes: 256 * MIB,
            table_cache_bytes: 16 << 20,
        }
    }
}
