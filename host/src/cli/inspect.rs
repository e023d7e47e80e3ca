//! `eddy inspect`

use std::path::PathBuf;
use std::sync::Arc;

use super::output::Table;
use super::value::{describe_size, describe_timestamp};
use super::{Failure, Output};
use crate::io::{Disk, RealDisk};
use crate::store::inspect::{Damage, Folder, GroupInfo, IndexState, SegmentFile, inspect};

/// Show what a data folder holds: the journal and the segments of each partition
///
/// Reads only; the broker may be running (what it is writing meanwhile may then show as cut
/// off). Every checksum is looked at. Exits with 1 if anything is damaged.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// A broker's data folder
    dir: PathBuf,
    /// Show every group of the journal, not only its files
    #[arg(long)]
    groups: bool,
}

impl Inspect {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        let dir = self.dir.display();
        let disk = RealDisk::existing(&self.dir)
            .map_err(|error| Failure::local(format!("cannot read {dir}: {error}")))?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let folder = inspect(&disk).map_err(|error| Failure::local(error.to_string()))?;
        output.result(&folder, || self.text(&folder))?;
        match damages(&folder).count() {
            0 => Ok(()),
            count => Err(Failure::local(format!("{dir} has {count} damaged places"))),
        }
    }

    fn text(&self, folder: &Folder) -> String {
        let mut text = format!(
            "format {}, tables {}\n\nsegments\n{}\njournal\n{}",
            folder.format,
            describe_size(folder.tables_bytes),
            segments(folder).render(),
            journal(folder).render(),
        );
        if self.groups {
            text += &format!("\ngroups\n{}", groups(folder).render());
        }
        for (path, damage) in damages(folder) {
            text += &format!(
                "\ndamaged: {path} at byte {}, {} bytes: {}",
                damage.at, damage.bytes, damage.reason
            );
        }
        for path in &folder.set_aside {
            text += &format!("\nset aside by recovery: {path}");
        }
        text.trim_end().to_owned() + "\n"
    }
}

fn segments(folder: &Folder) -> Table {
    let mut table = Table::new(&[
        "TOPIC ID",
        "PARTITION",
        "FIRST",
        "NEXT",
        "RECORDS",
        "BATCHES",
        "SIZE",
        "OLDEST",
        "NEWEST",
        "INDEX",
        "STATE",
    ]);
    for topic in &folder.topics {
        for partition in &topic.partitions {
            for segment in &partition.segments {
                let mut row = vec![topic.id.to_string(), partition.partition.to_string()];
                row.extend(segment_cells(segment));
                table.row(row);
            }
        }
    }
    table
}

fn segment_cells(segment: &SegmentFile) -> [String; 9] {
    let time = |time: Option<i64>| time.map_or_else(|| "-".to_owned(), describe_timestamp);
    [
        segment.base.to_string(),
        segment.end.to_string(),
        segment.records.to_string(),
        segment.batches.to_string(),
        describe_size(segment.bytes),
        time(segment.timestamps.map(|(oldest, _)| oldest)),
        time(segment.timestamps.map(|(_, newest)| newest)),
        match segment.index {
            IndexState::Missing => "missing".to_owned(),
            IndexState::Whole { entries } => format!("{entries} entries"),
            IndexState::Damaged { entries } => format!("damaged after {entries} entries"),
        },
        state(segment.damage.is_none()),
    ]
}

fn journal(folder: &Folder) -> Table {
    let heading = ["FILE", "FIRST GROUP", "GROUPS", "BATCHES", "SIZE", "STATE"];
    let mut table = Table::new(&heading);
    for file in &folder.journal {
        let batches: usize = file.groups.iter().map(|group| group.appends.len()).sum();
        table.row([
            file.path.clone(),
            file.first_sequence.to_string(),
            file.groups.len().to_string(),
            batches.to_string(),
            describe_size(file.bytes),
            state(file.damage.is_empty()),
        ]);
    }
    table
}

fn groups(folder: &Folder) -> Table {
    let mut table = Table::new(&[
        "GROUP",
        "SYNCED THROUGH",
        "WRITTEN",
        "BATCHES",
        "RECORDS",
        "TABLE CHANGES",
        "OTHER CHANGES",
        "SIZE",
        "STATE",
    ]);
    for group in folder.journal.iter().flat_map(|file| &file.groups) {
        table.row(group_cells(group));
    }
    table
}

fn group_cells(group: &GroupInfo) -> [String; 9] {
    let records: u64 = group
        .appends
        .iter()
        .map(|append| u64::from(append.count))
        .sum();
    [
        group.sequence.to_string(),
        group.synced_through.to_string(),
        describe_timestamp(group.time_ms),
        group.appends.len().to_string(),
        records.to_string(),
        group.table_changes.to_string(),
        group.other_changes.to_string(),
        describe_size(group.bytes),
        state(group.is_whole),
    ]
}

fn state(is_whole: bool) -> String {
    if is_whole { "whole" } else { "DAMAGED" }.to_owned()
}

fn damages(folder: &Folder) -> impl Iterator<Item = (&str, &Damage)> {
    let partitions = folder.topics.iter().flat_map(|topic| &topic.partitions);
    let segments = partitions.flat_map(|partition| &partition.segments);
    let in_segments =
        segments.filter_map(|segment| Some((&*segment.path, segment.damage.as_ref()?)));
    let files = folder.journal.iter();
    let in_journal = files.flat_map(|file| file.damage.iter().map(|damage| (&*file.path, damage)));
    in_segments.chain(in_journal)
}
