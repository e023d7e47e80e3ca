//! `eddy topic create|list|describe|alter|repair|delete`

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use eddy_client::{Admin, Client, ClientError};
use eddy_protocol::frame::{
    AlterTopic, CreateTopic, Durability, OutOfBounds, PartitionInfo, Timestamps, TopicInfo,
    TopicSettings,
};
use eddy_protocol::{ErrorCode, TopicName};
use serde_json::json;

use super::output::Table;
use super::value::{DurationLimit, SizeLimit, describe_duration, describe_size};
use super::{Connection, Failure, Output};

/// Create, list, describe, alter, repair and delete topics
#[derive(Debug, Args)]
pub(crate) struct Topic {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Describe(Describe),
    Alter(Alter),
    Repair(Repair),
    Delete(Delete),
}

/// Create a topic
#[derive(Debug, Args)]
struct Create {
    /// 1 to 249 characters of A-Z a-z 0-9 . _ -
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// How many partitions, from 1 to 1024
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    partitions: u32,
    /// Delete records older than this (7d, 12h), or none
    #[arg(long, value_name = "DURATION", default_value = "none")]
    retention: DurationLimit,
    /// Delete the oldest records of a partition that is larger than this (1GiB), or none
    #[arg(long, value_name = "SIZE", default_value = "none")]
    retention_bytes: SizeLimit,
    /// What an acknowledgement promises
    #[arg(long, value_enum, default_value_t = DurabilityArg::Disk)]
    durability: DurabilityArg,
    /// Whose time a record's timestamp is
    #[arg(long, value_enum, default_value_t = TimestampsArg::Create)]
    timestamps: TimestampsArg,
    /// How far ahead of the broker's clock a producer's timestamp may lie (1h), or none
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    timestamp_ahead: DurationLimit,
    /// How far behind the broker's clock it may lie (30d), or none
    #[arg(long, value_name = "DURATION", default_value = "none")]
    timestamp_behind: DurationLimit,
    /// What happens to records whose timestamps lie further
    #[arg(long, value_enum, default_value_t = OutOfBoundsArg::Refuse)]
    out_of_bounds: OutOfBoundsArg,
    /// A topic of this name that is there already is no error; it stays as it is
    #[arg(long)]
    if_not_exists: bool,
}

/// List all topics
#[derive(Debug, Args)]
struct List {}

/// Show a topic's settings and its partitions
#[derive(Debug, Args)]
struct Describe {
    /// The topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
}

/// Change a topic's settings, or give it more partitions
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)))]
struct Alter {
    /// The topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// How many partitions from now on; not fewer than now. Keys may move to other partitions
    #[arg(long, short, group = "change", value_parser = clap::value_parser!(u32).range(1..=1024))]
    partitions: Option<u32>,
    /// Delete records older than this (7d, 12h), or none
    #[arg(long, group = "change", value_name = "DURATION")]
    retention: Option<DurationLimit>,
    /// Delete the oldest records of a partition that is larger than this (1GiB), or none
    #[arg(long, group = "change", value_name = "SIZE")]
    retention_bytes: Option<SizeLimit>,
    /// What an acknowledgement promises
    #[arg(long, group = "change", value_enum)]
    durability: Option<DurabilityArg>,
    /// Whose time a record's timestamp is
    #[arg(long, group = "change", value_enum)]
    timestamps: Option<TimestampsArg>,
    /// How far ahead of the broker's clock a producer's timestamp may lie (1h), or none
    #[arg(long, group = "change", value_name = "DURATION")]
    timestamp_ahead: Option<DurationLimit>,
    /// How far behind the broker's clock it may lie (30d), or none
    #[arg(long, group = "change", value_name = "DURATION")]
    timestamp_behind: Option<DurationLimit>,
    /// What happens to records whose timestamps lie further
    #[arg(long, group = "change", value_enum)]
    out_of_bounds: Option<OutOfBoundsArg>,
}

/// Let a stopped partition serve again
///
/// What is damaged of it is given up, for good; its readers get a gap notice. Other damage may stop
/// it again. Bring lost files back and restart the broker instead, if you can.
#[derive(Debug, Args)]
struct Repair {
    /// The topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// The partition that is stopped
    #[arg(long)]
    partition: u32,
}

/// Delete a topic and its records
///
/// On a terminal it asks first, unless --yes is given; in a script it does not ask.
#[derive(Debug, Args)]
struct Delete {
    /// The topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DurabilityArg {
    /// Acknowledged means synced to the disk
    Disk,
    /// Acknowledged means handed to the operating system; lost only if the machine itself fails
    Memory,
}

impl From<DurabilityArg> for Durability {
    fn from(arg: DurabilityArg) -> Self {
        match arg {
            DurabilityArg::Disk => Durability::Disk,
            DurabilityArg::Memory => Durability::Memory,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TimestampsArg {
    /// Its producer's
    Create,
    /// The broker's, when it appends the record
    Append,
}

impl From<TimestampsArg> for Timestamps {
    fn from(arg: TimestampsArg) -> Self {
        match arg {
            TimestampsArg::Create => Timestamps::Create,
            TimestampsArg::Append => Timestamps::Append,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutOfBoundsArg {
    /// Their batch is refused
    Refuse,
    /// The records of their batch get the time of append
    Append,
}

impl From<OutOfBoundsArg> for OutOfBounds {
    fn from(arg: OutOfBoundsArg) -> Self {
        match arg {
            OutOfBoundsArg::Refuse => OutOfBounds::Refuse,
            OutOfBoundsArg::Append => OutOfBounds::Append,
        }
    }
}

impl Topic {
    pub(crate) async fn run(self, connection: &Connection, output: &Output) -> Result<(), Failure> {
        if let Command::Delete(delete) = &self.command {
            delete.confirm()?;
        }
        let client = connection.one_shot(output).await?;
        let result = match self.command {
            Command::Create(create) => create.run(&client, output).await,
            Command::List(_) => list(&client, output).await,
            Command::Describe(describe) => describe.run(&client, output).await,
            Command::Alter(alter) => alter.run(&client, output).await,
            Command::Repair(repair) => repair.run(&connection.admin()?, output).await,
            Command::Delete(delete) => delete.run(&client, output).await,
        };
        client.close().await;
        result
    }
}

impl Create {
    async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let settings = TopicSettings {
            durability: self.durability.into(),
            retention_ms: self.retention.ms(),
            retention_bytes: self.retention_bytes.bytes(),
            timestamps: self.timestamps.into(),
            timestamp_ahead_ms: self.timestamp_ahead.ms(),
            timestamp_behind_ms: self.timestamp_behind.ms(),
            out_of_bounds: self.out_of_bounds.into(),
        };
        let create = CreateTopic {
            topic: self.topic.clone(),
            partitions: self.partitions,
            settings,
        };
        let (info, created) = match client.create_topic(create).await {
            Ok(info) => (info, true),
            Err(error) if self.if_not_exists && exists(&error) => {
                (client.describe_topic(&self.topic).await?, false)
            }
            Err(error) => return Err(error.into()),
        };
        output.result(&info, || {
            let what = if created { "created" } else { "there already" };
            format!(
                "{}: {what}, {} partitions\n",
                info.topic,
                info.partitions.len()
            )
        })
    }
}

fn exists(error: &ClientError) -> bool {
    error.code() == Some(ErrorCode::TopicExists)
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let topics = client.list_topics().await?;
    output.result(&topics, || {
        let mut table = Table::new(&[
            "TOPIC",
            "PARTITIONS",
            "OFFSETS",
            "SIZE",
            "RETENTION",
            "DURABILITY",
        ]);
        for info in &topics {
            table.row([
                info.topic.to_string(),
                info.partitions.len().to_string(),
                info.partitions.iter().map(records).sum::<u64>().to_string(),
                describe_size(
                    info.partitions
                        .iter()
                        .map(|partition| partition.bytes)
                        .sum(),
                ),
                describe_retention(&info.settings),
                describe_durability(info.settings.durability).into(),
            ]);
        }
        table.render()
    })
}

impl Describe {
    async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let info = client.describe_topic(&self.topic).await?;
        output.result(&info, || describe(&info))
    }
}

fn describe(info: &TopicInfo) -> String {
    let mut text = format!(
        "topic       {}\nuuid        {}\ndurability  {}\nretention   {}\ntimestamps  {}\n\n",
        info.topic,
        info.uuid,
        describe_durability(info.settings.durability),
        describe_retention(&info.settings),
        describe_timestamps(&info.settings)
    );
    let mut table = Table::new(&["PARTITION", "START", "END", "SIZE", "EPOCH", "STATE"]);
    for partition in &info.partitions {
        table.row([
            partition.partition.to_string(),
            partition.start.to_string(),
            partition.end.to_string(),
            describe_size(partition.bytes),
            partition.epoch.to_string(),
            partition
                .stopped
                .as_ref()
                .map_or_else(|| "serving".into(), |reason| format!("stopped: {reason}")),
        ]);
    }
    text += &table.render();
    for partition in info.partitions.iter().filter(|of| of.stopped.is_some()) {
        text += &format!(
            "\nto give up what is damaged: eddy topic repair {} --partition {}\n",
            info.topic, partition.partition
        );
    }
    text
}

fn records(partition: &PartitionInfo) -> u64 {
    partition.end.saturating_sub(partition.start)
}

fn describe_durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Disk => "disk",
        Durability::Memory => "memory",
        Durability::Unknown => "unknown (of a newer broker)",
    }
}

fn describe_retention(settings: &TopicSettings) -> String {
    let age = settings
        .retention_ms
        .map(|ms| describe_duration(Duration::from_millis(ms)));
    let size = settings
        .retention_bytes
        .map(|bytes| format!("{} a partition", describe_size(bytes)));
    match (age, size) {
        (None, None) => "for ever".into(),
        (age, size) => age.into_iter().chain(size).collect::<Vec<_>>().join(", "),
    }
}

fn describe_timestamps(settings: &TopicSettings) -> String {
    match settings.timestamps {
        Timestamps::Create => {}
        Timestamps::Append => return "of append".into(),
        Timestamps::Unknown => return "unknown (of a newer broker)".into(),
    }
    let bound = |ms: Option<u64>, what: &str| {
        let duration = describe_duration(Duration::from_millis(ms?));
        Some(format!("at most {duration} {what}"))
    };
    let ahead = bound(settings.timestamp_ahead_ms, "ahead");
    let behind = bound(settings.timestamp_behind_ms, "behind");
    let otherwise = match settings.out_of_bounds {
        OutOfBounds::Refuse => "or refused",
        OutOfBounds::Append => "or of append",
        OutOfBounds::Unknown => "or unknown (of a newer broker)",
    };
    let has_bound = ahead.is_some() || behind.is_some();
    let bounds = ahead.into_iter().chain(behind);
    let parts = ["of the producer".to_owned()].into_iter().chain(bounds);
    let parts = parts.chain(has_bound.then(|| otherwise.to_owned()));
    parts.collect::<Vec<_>>().join(", ")
}

impl Alter {
    async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let info = client
            .alter_topic(AlterTopic {
                topic: self.topic,
                partitions: self.partitions,
                durability: self.durability.map(Durability::from),
                retention_ms: self.retention.map(DurationLimit::to_limit),
                retention_bytes: self.retention_bytes.map(SizeLimit::to_limit),
                timestamps: self.timestamps.map(Timestamps::from),
                timestamp_ahead_ms: self.timestamp_ahead.map(DurationLimit::to_limit),
                timestamp_behind_ms: self.timestamp_behind.map(DurationLimit::to_limit),
                out_of_bounds: self.out_of_bounds.map(OutOfBounds::from),
            })
            .await?;
        output.result(&info, || describe(&info))
    }
}

impl Repair {
    async fn run(self, admin: &Admin, output: &Output) -> Result<(), Failure> {
        let info = admin.repair_partition(&self.topic, self.partition).await?;
        output.result(&info, || describe(&info))
    }
}

impl Delete {
    fn confirm(&self) -> Result<(), Failure> {
        if self.yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(());
        }
        write!(
            io::stderr(),
            "Delete the topic {} and all its records? [y/N] ",
            self.topic
        )?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::local(format!(
                "topic `{}` was not deleted",
                self.topic
            ))),
        }
    }

    async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        client.delete_topic(&self.topic).await?;
        output.result(&json!({"deleted": self.topic}), || {
            format!("{}: deleted\n", self.topic)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_described_by_what_limits_it() {
        let settings = |retention_ms, retention_bytes| TopicSettings {
            retention_ms,
            retention_bytes,
            ..Default::default()
        };
        assert_eq!(describe_retention(&settings(None, None)), "for ever");
        assert_eq!(describe_retention(&settings(Some(86_400_000), None)), "1d");
        assert_eq!(
            describe_retention(&settings(Some(1000), Some(1 << 30))),
            "1s, 1 GiB a partition"
        );
    }

    #[test]
    fn timestamps_are_described_by_whose_they_are_and_their_bounds() {
        let mut settings = TopicSettings::default();
        let said = describe_timestamps(&settings);
        assert_eq!(said, "of the producer, at most 1h ahead, or refused");
        settings.out_of_bounds = OutOfBounds::Append;
        settings.timestamp_behind_ms = Some(60_000);
        let said = describe_timestamps(&settings);
        assert_eq!(
            said,
            "of the producer, at most 1h ahead, at most 1m behind, or of append"
        );
        (settings.timestamp_ahead_ms, settings.timestamp_behind_ms) = (None, None);
        assert_eq!(describe_timestamps(&settings), "of the producer");
        settings.timestamps = Timestamps::Append;
        assert_eq!(describe_timestamps(&settings), "of append");
    }
}
