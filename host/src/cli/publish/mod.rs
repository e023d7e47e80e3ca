//! `eddy pub`

mod document;
mod lines;
mod progress;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use eddy_client::{Client, ClientError, NewRecord, Producer, ProducerConfig};
use eddy_protocol::frame::{CreateTopic, TopicSettings};
use eddy_protocol::key_field::{KeyField, NoKey};
use eddy_protocol::{Compression, ErrorCode, TopicName};
use serde_json::json;
use tokio::time::Instant;

use self::document::Document;
use self::lines::Chunk;
use self::progress::Progress;
use super::interrupt::Interrupt;
use super::value::{Pair, parse_duration};
use super::{Connection, Failure, Output};

/// How long a broker may be away, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// Publish a record for each line of a file or of standard input
///
/// A record's value is its line without the line feed; all other bytes are kept,
/// a carriage return too, and an empty line is an empty value. A last line
/// without a line feed counts. With --json (or --input record) each line is a whole
/// record as `eddy sub --json` writes it: key, value, headers and timestamp, and
/// the partition that it goes to; a record without one goes by its key, and the
/// topic and offset that it was read from are passed over. Exits with 0 only when every record is
/// acknowledged. When the broker goes away it waits up to --timeout for it to
/// come back, and goes on without losing or repeating a record. At Ctrl-C it
/// reads no more, waits for what was read, and exits with 130; a second Ctrl-C
/// ends it at once.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// What to read; - or nothing: standard input
    file: Option<PathBuf>,
    /// What a line is: a value, or a whole record as `eddy sub --json` writes it
    /// [default: value; with --json record]
    #[arg(long, value_enum, value_name = "FORM")]
    input: Option<InputForm>,
    /// Read nothing, and publish one record that says that the key has no value any more
    #[arg(long, requires = "key", conflicts_with_all = ["file", "input", "skip_empty", "rate"])]
    tombstone: bool,
    /// The same key for every record
    #[arg(long, conflicts_with = "key_field")]
    key: Option<String>,
    /// Each record's key is this field of its line, which must be JSON; nested by
    /// dots. A string is taken as it is, a number or a boolean as JSON writes it
    #[arg(long, value_name = "FIELD")]
    key_field: Option<KeyField>,
    /// What to do with a line that is not JSON, or whose field is missing, null, an
    /// object or an array
    #[arg(long, value_enum, default_value_t = MissingKey::Fail, requires = "key_field")]
    missing_key: MissingKey,
    /// Only into this partition [default: the record's own, else by key as Kafka does, else spread]
    #[arg(long)]
    partition: Option<u32>,
    /// A header of every record; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<Pair>,
    /// Publish nothing for an empty line
    #[arg(long)]
    skip_empty: bool,
    /// Create the topic if it is not there, with so many partitions
    #[arg(long, value_name = "PARTITIONS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    create: Option<u32>,
    /// How batches are compressed
    #[arg(long, value_enum, default_value_t = CompressionArg::None)]
    compression: CompressionArg,
    /// How long a batch waits for more records
    #[arg(long, value_name = "DURATION", default_value = "5ms", value_parser = parse_duration)]
    linger: Duration,
    /// At most so many records a second
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InputForm {
    Value,
    Record,
}

/// As many bytes a record's byte may take in JSON, as `\u0000` does.
const JSON_BYTES_PER_BYTE: usize = 6;
/// What a record in JSON takes beside its key, value and headers.
const JSON_FRAME_BYTES: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MissingKey {
    /// Stop, and name the line
    Fail,
    /// Publish it without a key
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    None,
    Lz4,
    Zstd,
}

impl From<CompressionArg> for Compression {
    fn from(arg: CompressionArg) -> Self {
        match arg {
            CompressionArg::None => Compression::None,
            CompressionArg::Lz4 => Compression::Lz4,
            CompressionArg::Zstd => Compression::Zstd,
        }
    }
}

impl Publish {
    pub(crate) async fn run(self, connection: &Connection, output: &Output) -> Result<(), Failure> {
        let form = self.form(output)?;
        let input = match self.tombstone {
            true => None,
            false => Some(Input::open(self.file.as_deref())?),
        };
        let mut interrupt = Interrupt::catch()?;
        let started = Instant::now();
        let opening = async {
            let client = connection
                .client(connection.timeout_or(PATIENCE), output)
                .await?;
            let producer = self.producer(&client).await?;
            Ok::<_, Failure>((client, producer))
        };
        let (client, producer) = tokio::select! {
            opened = opening => opened?,
            () = interrupt.next() => return Err(Failure::interrupted("interrupted before anything was published")),
        };
        let bytes = input.as_ref().and_then(|input| input.bytes);
        let progress = Progress::start(output, bytes, &producer);
        let publisher = Publisher::new(&self, form, &producer);
        let ended = publisher
            .publish(input, &progress, &mut interrupt, output)
            .await;
        progress.finish();
        client.close().await;
        self.report(ended, &producer, started, output)
    }

    async fn producer(&self, client: &Client) -> Result<Producer, Failure> {
        let config = || ProducerConfig {
            linger: self.linger,
            compression: self.compression.into(),
            ..ProducerConfig::default()
        };
        match (client.producer(&self.topic, config()).await, self.create) {
            (Err(error), Some(partitions)) if error.code() == Some(ErrorCode::UnknownTopic) => {
                create(client, &self.topic, partitions).await?;
                Ok(client.producer(&self.topic, config()).await?)
            }
            (Err(error), None) if error.code() == Some(ErrorCode::UnknownTopic) => {
                Err(Failure::from(error).context("--create would make it"))
            }
            (result, _) => Ok(result?),
        }
    }

    /// What the lines are; an error where the options of one form meet the other.
    fn form(&self, output: &Output) -> Result<InputForm, Failure> {
        let form = self
            .input
            .unwrap_or(match output.is_json() && !self.tombstone {
                true => InputForm::Record,
                false => InputForm::Value,
            });
        let has_key = self.key.is_some() || self.key_field.is_some();
        if form == InputForm::Record && has_key {
            return Err(Failure::usage(
                "with --json (or --input record) each line is a record with its own key; with --key or --key-field say --input value",
            ));
        }
        Ok(form)
    }

    fn report(
        &self,
        ended: Result<(), Failure>,
        producer: &Producer,
        started: Instant,
        output: &Output,
    ) -> Result<(), Failure> {
        let counts = producer.counts();
        let (pushed, acknowledged) = (counts.pushed, counts.acknowledged);
        if let Err(failure) = ended {
            if pushed == 0 {
                return Err(failure);
            }
            return Err(failure.context(&format!(
                "{acknowledged} of the {pushed} records that were read are acknowledged"
            )));
        }
        let seconds = started.elapsed().as_secs_f64();
        let rate = acknowledged as f64 / seconds.max(1e-9);
        if output.is_json() {
            let result = json!({"topic": self.topic, "records": acknowledged, "seconds": seconds, "records_per_second": rate});
            return output.result(&result, String::new);
        }
        output.note(&format!(
            "{acknowledged} records into {} in {seconds:.2} s, {rate:.0} a second",
            self.topic
        ));
        Ok(())
    }
}

async fn create(client: &Client, topic: &TopicName, partitions: u32) -> Result<(), ClientError> {
    let create = CreateTopic {
        topic: topic.clone(),
        partitions,
        settings: TopicSettings::default(),
    };
    match client.create_topic(create).await {
        Ok(_) => Ok(()),
        // Somebody else was faster.
        Err(error) if error.code() == Some(ErrorCode::TopicExists) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What is read, and how long it is if that can be known.
struct Input {
    source: Box<dyn Read + Send>,
    name: String,
    bytes: Option<u64>,
    is_typed: bool,
}

impl Input {
    fn open(path: Option<&Path>) -> Result<Input, Failure> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            return Ok(Input {
                source: Box::new(io::stdin()),
                name: "standard input".into(),
                bytes: None,
                is_typed: io::stdin().is_terminal(),
            });
        };
        let name = path.display().to_string();
        let fail = |error| Failure::local(format!("cannot read {name}: {error}"));
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Err(Failure::local(format!(
                "cannot read {name}: it is a directory"
            )));
        }
        let bytes = metadata.is_file().then_some(metadata.len());
        Ok(Input {
            source: Box::new(file),
            name,
            bytes,
            is_typed: false,
        })
    }
}

/// Turns lines into records.
struct Publisher<'a> {
    options: &'a Publish,
    form: InputForm,
    producer: &'a Producer,
    headers: Vec<(&'a str, Option<&'a [u8]>)>,
    pace: Option<Pace>,
}

impl<'a> Publisher<'a> {
    fn new(options: &'a Publish, form: InputForm, producer: &'a Producer) -> Publisher<'a> {
        let headers = options
            .header
            .iter()
            .map(|pair| (pair.name.as_str(), Some(pair.value.as_bytes())))
            .collect();
        Publisher {
            options,
            form,
            producer,
            headers,
            pace: options.rate.map(Pace::new),
        }
    }

    /// Reads, publishes, and waits for every acknowledgement.
    async fn publish(
        mut self,
        input: Option<Input>,
        progress: &Progress,
        interrupt: &mut Interrupt,
        output: &Output,
    ) -> Result<(), Failure> {
        let producer = self.producer;
        let read = tokio::select! {
            result = self.publish_all(input, progress) => result,
            // What comes behind it would be published as if nothing were missing.
            error = producer.refused() => Err(error.into()),
            () = interrupt.next() => {
                output.note("interrupted; waiting for what was read to be acknowledged");
                Err(Failure::interrupted("interrupted"))
            }
        };
        // What was read before a bad line or a Ctrl-C is published all the same.
        let flushed = tokio::select! {
            result = producer.flush() => result.map_err(Failure::from),
            () = interrupt.next() => Err(Failure::interrupted("interrupted")),
        };
        read.and(flushed)
    }

    async fn publish_all(
        &mut self,
        input: Option<Input>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let Some(input) = input else {
            return self.publish_tombstone().await;
        };
        if input.is_typed {
            progress.hide();
        }
        let record_bytes_max = self.producer.record_bytes_max();
        let line_bytes_max = match self.form {
            InputForm::Value => record_bytes_max,
            InputForm::Record => record_bytes_max * JSON_BYTES_PER_BYTE + JSON_FRAME_BYTES,
        };
        let mut chunks = lines::read(input.source, input.name, line_bytes_max)?;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|error| Failure::local(error.to_string()))?;
            self.publish_chunk(&chunk).await?;
            progress.read(chunk.input_bytes());
        }
        Ok(())
    }

    async fn publish_tombstone(&self) -> Result<(), Failure> {
        let key = self.options.key.as_deref().unwrap_or_default();
        let mut record = NewRecord::tombstone(key.as_bytes()).headers(&self.headers);
        record.partition = self.options.partition;
        Ok(self.producer.push(&record).await?)
    }

    async fn publish_chunk(&mut self, chunk: &Chunk) -> Result<(), Failure> {
        for (number, line) in chunk.lines() {
            if line.is_empty() && self.options.skip_empty {
                continue;
            }
            if let Some(pace) = &mut self.pace {
                pace.next().await;
            }
            match self.form {
                InputForm::Value => self.publish_value(number, line).await?,
                InputForm::Record => self.publish_record(number, line).await?,
            }
        }
        Ok(())
    }

    async fn publish_value(&self, number: u64, line: &[u8]) -> Result<(), Failure> {
        let key = self
            .key(line)
            .map_err(|error| Failure::local(format!("line {number} {error}")))?;
        let mut record = NewRecord::new(line).headers(&self.headers);
        record.key = key.as_deref();
        record.partition = self.options.partition;
        let pushed = self.producer.push(&record).await;
        pushed.map_err(|error| at_line(error, number))
    }

    async fn publish_record(&self, number: u64, line: &[u8]) -> Result<(), Failure> {
        let document = Document::parse(line).map_err(|error| {
            Failure::local(format!(
                "line {number} is no record as `eddy sub --json` writes it: {error}; lines that are values want --input value"
            ))
        })?;
        let headers: Vec<_> = document
            .headers()
            .chain(self.headers.iter().copied())
            .collect();
        let mut record = document.record(&headers);
        record.partition = self.options.partition.or(record.partition);
        let pushed = self.producer.push(&record).await;
        pushed.map_err(|error| at_line(error, number))
    }

    fn key<'l>(&'l self, line: &'l [u8]) -> Result<Option<std::borrow::Cow<'l, [u8]>>, NoKey> {
        if let Some(field) = &self.options.key_field {
            return match field.key_of(line) {
                Ok(key) => Ok(Some(key)),
                Err(_) if self.options.missing_key == MissingKey::Null => Ok(None),
                Err(error) => Err(error),
            };
        }
        Ok(self.options.key.as_ref().map(|key| key.as_bytes().into()))
    }
}

fn at_line(error: ClientError, line: u64) -> Failure {
    let of_the_record = matches!(
        error,
        ClientError::RecordTooLarge { .. } | ClientError::NoSuchPartition { .. }
    );
    let failure = Failure::from(error);
    match of_the_record {
        true => failure.context(&format!("it is line {line}")),
        false => failure,
    }
}

/// Spreads records evenly over time.
struct Pace {
    every: Duration,
    /// When the next record may go.
    due: Instant,
}

/// The timer is no finer: what is due within this goes now.
const TICK: Duration = Duration::from_millis(1);

impl Pace {
    fn new(per_second: u32) -> Pace {
        Pace {
            every: Duration::from_secs(1) / per_second,
            due: Instant::now(),
        }
    }

    /// Waits for the next record's turn.
    async fn next(&mut self) {
        let now = Instant::now();
        let due = self.turn(now);
        if due > now + TICK {
            tokio::time::sleep_until(due).await;
        }
    }

    /// Turns that passed unused, but for a tick, are not made up for.
    fn turn(&mut self, now: Instant) -> Instant {
        let due = self.due.max(now.checked_sub(TICK).unwrap_or(now));
        self.due = due + self.every;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_of_ten_a_second_spreads_eleven_records_over_a_second() {
        let mut pace = Pace::new(10);
        let start = pace.due;
        let dues: Vec<Instant> = (0..11).map(|_| pace.turn(start)).collect();
        assert_eq!(dues[0], start, "the first goes at once");
        assert_eq!(dues[10] - dues[0], Duration::from_secs(1));
        assert_eq!(dues[5] - dues[0], Duration::from_millis(500));
    }

    #[test]
    fn what_a_pause_left_out_is_not_made_up_for_in_a_burst() {
        let mut pace = Pace::new(10);
        let later = pace.due + Duration::from_secs(60);
        let first = pace.turn(later);
        assert!(first + TICK >= later);
        assert_eq!(pace.turn(later), first + Duration::from_millis(100));
    }

    #[test]
    fn a_missing_file_is_named_before_anything_is_sent() {
        let failure = Input::open(Some(Path::new("/no/such/file")))
            .err()
            .expect("it is not there");
        assert!(
            failure
                .sentence()
                .is_some_and(|sentence| sentence.contains("/no/such/file"))
        );
        assert!(
            Input::open(Some(Path::new("/"))).is_err(),
            "a directory has no lines"
        );
    }
}
