//! `eddy sub`

mod format;
mod out;
mod until_end;

use std::io::{self, Write};

use clap::Args;
use eddy_client::{ClientError, Event, Gap, RecordBatch, SubscribeOptions, Subscription};
use eddy_protocol::TopicName;
use eddy_protocol::frame::{Filter, Start};

use self::format::{Format, Shown};
use self::out::Out;
use self::until_end::UntilEnd;
use super::connection::tell;
use super::interrupt::Interrupt;
use super::value::{Pair, StartPoint};
use super::{Connection, Failure, Output, deploy};

/// Subscribe to a topic and write its records
///
/// Without --format or --json each record's value is written on a line of its
/// own, byte for byte. It goes on until --count or --until-end is satisfied, until
/// Ctrl-C (exit code 0, or 130 where --count or --until-end was not reached) or
/// until its output is closed. When the broker goes away it reconnects and goes
/// on where it was, without missing or repeating a record; --timeout limits how
/// long it tries. Records that are gone before they could be read (by retention or a repair) are
/// reported on standard error.
#[derive(Debug, Args)]
pub(crate) struct Subscribe {
    /// The topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// Where to begin: earliest, latest, an offset (1200), or a time, in UTC
    /// unless it says its zone (2018-02-01, 2018-02-01T13:30:00+01:00, -15m, "2h ago")
    /// [default: latest; with --until-end earliest]
    #[arg(long, value_name = "START", allow_hyphen_values = true)]
    from: Option<StartPoint>,
    /// Only this partition; may be repeated
    #[arg(long, short)]
    partition: Vec<u32>,
    /// End after so many records
    #[arg(long, short = 'n', value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when everything has been read that was there at the start
    #[arg(long)]
    until_end: bool,
    /// Only the records that this plugin lets through
    #[arg(long, value_name = "PLUGIN")]
    filter: Option<String>,
    /// A parameter of the filter; may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "filter")]
    param: Vec<Pair>,
    #[arg(long, short, help = format::HELP)]
    format: Option<Format>,
}

impl Subscribe {
    pub(crate) async fn run(self, connection: &Connection, output: &Output) -> Result<(), Failure> {
        if self.format.is_some() && output.is_json() {
            return Err(Failure::usage(
                "--json and --format cannot be used together",
            ));
        }
        let mut interrupt = Interrupt::catch()?;
        // A reader of our output that has stopped reading holds the first one up.
        Interrupt::end_at_second(output)?;
        let whole = self.count.is_some() || self.until_end;
        let result = tokio::select! {
            result = self.read(connection, output) => result,
            () = interrupt.next() => Ok(Ended::Interrupted),
        };
        match result? {
            Ended::Interrupted if whole => {
                Err(Failure::interrupted("interrupted before the last record"))
            }
            Ended::Done | Ended::Interrupted => Ok(()),
        }
    }

    async fn read(self, connection: &Connection, output: &Output) -> Result<Ended, Failure> {
        let form = match &self.format {
            None if output.is_json() => Form::Json,
            format => Form::Text(format.clone().unwrap_or_default()),
        };
        let mut until_end = None;
        let mut missing = Vec::new();
        let offset = self.from.filter(|from| from.is_offset());
        if self.until_end || offset.is_some() {
            let client = connection.endless_client(output).await?;
            let info = client.describe_topic(&self.topic).await?;
            client.close().await;
            if let Some(offset) = offset {
                offset
                    .check(&info, &self.partition)
                    .map_err(Failure::usage)?;
            }
            if self.until_end {
                until_end = Some(UntilEnd::new(&info, &self.partition));
                missing = until_end::stopped(&info, &self.partition);
            }
        }
        let mut writer = Writer {
            topic: self.topic.clone(),
            form,
            left: self.count,
            missing,
        };
        let mut subscription = self.subscribe(connection, output).await?;
        writer.drain(&mut subscription, until_end, output).await
    }

    async fn subscribe(
        self,
        connection: &Connection,
        output: &Output,
    ) -> Result<Subscription, Failure> {
        let default = if self.until_end {
            Start::Earliest
        } else {
            Start::Latest
        };
        let filter = match self.filter {
            Some(plugin) => Some(Filter {
                plugin,
                params: deploy::params(self.param)?,
            }),
            None => None,
        };
        let options = SubscribeOptions {
            from: self.from.map_or(default, Start::from),
            partitions: self.partition,
            filter,
            ..SubscribeOptions::default()
        };
        let config = connection.endless()?;
        let server = config.server.clone();
        let mut subscription = Subscription::open(config, &self.topic, options);
        tokio::spawn(tell(subscription.status(), server, *output));
        subscription.ready().await?;
        Ok(subscription)
    }
}

enum Ended {
    Done,
    Interrupted,
}

enum Form {
    Text(Format),
    Json,
}

struct Writer {
    topic: TopicName,
    form: Form,
    /// How many records may still be written.
    left: Option<u64>,
    /// Partitions whose end was asked for and will not come.
    missing: Vec<u32>,
}

impl Writer {
    /// Writes until there is enough. What was written is flushed whenever
    /// nothing more waits to be.
    async fn drain(
        &mut self,
        subscription: &mut Subscription,
        mut until_end: Option<UntilEnd>,
        output: &Output,
    ) -> Result<Ended, Failure> {
        let mut out = Out::new()?;
        loop {
            if until_end
                .as_mut()
                .is_some_and(|until_end| until_end.reached(subscription.positions()))
            {
                out.flush()?;
                return self.complete();
            }
            let event = match subscription.try_next_batch() {
                Some(event) => {
                    // However much waits, a signal must get its turn.
                    tokio::task::yield_now().await;
                    event
                }
                None => {
                    out.flush()?;
                    tokio::select! {
                        event = subscription.next_batch() => event,
                        () = out.closed() => return Ok(Ended::Done),
                    }
                }
            };
            if let Ok(Event::PartitionEnded { partition, .. }) = &event
                && let Some(until_end) = &mut until_end
            {
                until_end.give_up(*partition);
                self.missing.push(*partition);
            }
            if self.take(event, &mut out, output)? {
                out.flush()?;
                return Ok(Ended::Done);
            }
        }
    }

    /// Every end that comes was reached: an error where one will not come.
    fn complete(&self) -> Result<Ended, Failure> {
        let mut missing = self.missing.clone();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(Ended::Done);
        }
        let (topic, numbers) = (&self.topic, missing.iter().map(u32::to_string));
        let numbers = numbers.collect::<Vec<_>>().join(", ");
        Err(Failure::local(format!(
            "topic `{topic}` was not read to its end: stopped in partition {numbers} (`eddy topic describe {topic}` says why)"
        )))
    }

    /// Whether that was enough.
    fn take(
        &mut self,
        event: Result<Event<RecordBatch>, ClientError>,
        out: &mut Out,
        output: &Output,
    ) -> Result<bool, Failure> {
        match event? {
            Event::Data(batch) => return Ok(self.write(&batch, out)?),
            Event::Gap(gap) => output.note(&describe_gap(&self.topic, &gap)),
            Event::PartitionEnded { partition, error } => {
                output.note(&format!(
                    "{}/{partition} ended: {}",
                    self.topic, error.message
                ));
            }
            Event::Advanced(_) | Event::Reconnected => {}
        }
        Ok(false)
    }

    fn write(&mut self, batch: &RecordBatch, out: &mut Out) -> io::Result<bool> {
        for record in batch.iter() {
            let shown = Shown {
                topic: self.topic.as_str(),
                partition: batch.partition(),
                record,
            };
            match &self.form {
                Form::Text(format) => format.write(&shown, out)?,
                Form::Json => {
                    serde_json::to_writer(&mut *out, &shown)?;
                    out.write_all(b"\n")?;
                }
            }
            if let Some(left) = &mut self.left {
                *left -= 1;
                if *left == 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn describe_gap(topic: &TopicName, gap: &Gap) -> String {
    let Gap {
        partition,
        expected,
        next,
        ..
    } = gap;
    if next > expected {
        format!(
            "{topic}/{partition}: the {} records from offset {expected} on are gone, by retention or a repair, before they were read; going on with {next}",
            next - expected
        )
    } else {
        format!(
            "{topic}/{partition}: the broker lost history; reading begins anew at offset {next}, and records may come again"
        )
    }
}
