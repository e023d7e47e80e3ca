//! Record batches of Kafka's as bodies: against a naive writer of the published
//! format, and against files that other people's code wrote.

use std::path::Path;

use bytes::Bytes;
use eddy_protocol::batch::{
    Attributes, Batch, BatchBuilder, BatchError, ColumnBuf, Compression, HEADER_BYTES, OffsetMode,
    ProducerStamp, RAW_BYTES_MAX, RecordRef, Rows, SEQUENCES, sequence_after, sequences_between,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const TIME: i64 = 1_700_000_000_000;

/// A record, naively.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    offset: u64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn of(record: RecordRef<'_>) -> Record {
        let headers = record.headers;
        Record {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }
}

/// What a Kafka batch says besides its records.
#[derive(Debug, Clone)]
struct Said {
    base_offset: i64,
    attributes: i16,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: (i64, i16, i32),
}

impl Said {
    fn of(records: &[Record]) -> Said {
        let (first, last) = (&records[0], &records[records.len() - 1]);
        Said {
            base_offset: first.offset as i64,
            attributes: 0,
            last_offset_delta: (last.offset - first.offset) as i32,
            base_timestamp: first.timestamp,
            max_timestamp: records
                .iter()
                .map(|record| record.timestamp)
                .max()
                .unwrap_or(0),
            producer: (-1, -1, -1),
        }
    }
}

/// A signed number of up to 64 bits, seven at a time.
fn varint(number: i64) -> Vec<u8> {
    let mut left = (number << 1 ^ number >> 63) as u64;
    let mut out = Vec::new();
    loop {
        let more = left > 0x7f;
        out.push(left as u8 & 0x7f | if more { 0x80 } else { 0 });
        left >>= 7;
        if !more {
            return out;
        }
    }
}

fn nullable(bytes: Option<&[u8]>) -> Vec<u8> {
    let length = varint(bytes.map_or(-1, |bytes| bytes.len() as i64));
    [&length, bytes.unwrap_or_default()].concat()
}

fn naive_records(records: &[Record], said: &Said) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        let mut bytes = vec![0];
        bytes.extend(varint(record.timestamp.wrapping_sub(said.base_timestamp)));
        bytes.extend(varint(record.offset as i64 - said.base_offset));
        bytes.extend(nullable(record.key.as_deref()));
        bytes.extend(nullable(record.value.as_deref()));
        bytes.extend(varint(record.headers.len() as i64));
        for (name, value) in &record.headers {
            bytes.extend(nullable(Some(name.as_bytes())));
            bytes.extend(nullable(value.as_deref()));
        }
        out.extend(varint(bytes.len() as i64));
        out.extend(bytes);
    }
    out
}

/// The batch around `records` as they are compressed.
fn naive_batch(count: usize, records: &[u8], said: &Said) -> Vec<u8> {
    let mut covered = Vec::new();
    covered.extend(said.attributes.to_be_bytes());
    covered.extend(said.last_offset_delta.to_be_bytes());
    covered.extend(said.base_timestamp.to_be_bytes());
    covered.extend(said.max_timestamp.to_be_bytes());
    covered.extend(said.producer.0.to_be_bytes());
    covered.extend(said.producer.1.to_be_bytes());
    covered.extend(said.producer.2.to_be_bytes());
    covered.extend((count as i32).to_be_bytes());
    covered.extend(records);
    let mut out = said.base_offset.to_be_bytes().to_vec();
    out.extend((covered.len() as i32 + 9).to_be_bytes());
    out.extend((-1i32).to_be_bytes());
    out.push(2);
    out.extend(crc32c::crc32c(&covered).to_be_bytes());
    out.extend(covered);
    out
}

fn naive(records: &[Record]) -> Vec<u8> {
    let said = Said::of(records);
    naive_batch(records.len(), &naive_records(records, &said), &said)
}

fn read(batch: &Batch) -> Vec<Record> {
    let records = batch.records().expect("it is whole");
    records.iter().map(Record::of).collect()
}

fn columns_of(records: &[Record]) -> ColumnBuf {
    let mut columns = ColumnBuf::new();
    for record in records {
        let headers: Vec<(&str, Option<&[u8]>)> = record
            .headers
            .iter()
            .map(|(name, value)| (&name[..], value.as_deref()))
            .collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        columns
            .push(record.offset, record.timestamp, key, value, &headers)
            .expect("offsets rise");
    }
    columns
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..100)
}

/// Records of offsets that rise, dense or with holes.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let times = prop_oneof![Just(TIME), TIME..TIME + 100_000, any::<i64>()];
    let headers = vec(("[a-zé]{0,3}", option::of(bytes())), 0..3);
    let record = (times, option::of(bytes()), option::of(bytes()), headers);
    (vec(record, 1..40), 1..4u64).prop_map(|(records, step)| {
        let numbered = records.into_iter().zip(0..);
        let record = |((timestamp, key, value, headers), at)| Record {
            offset: 10 + at * step,
            timestamp,
            key,
            value,
            headers,
        };
        numbered.map(record).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_of_kafka_s_has_its_records_in_columns_and_itself_as_its_body(records in records()) {
        let kafka = naive(&records);
        let batch = Batch::from_kafka(&kafka).expect("it keeps every rule");
        prop_assert!(batch.header().is_kafka());
        prop_assert_eq!(batch.count() as usize, records.len());
        prop_assert_eq!(Some(batch.timestamp_min()), records.iter().map(|record| record.timestamp).min());
        prop_assert_eq!(Some(batch.timestamp_max()), records.iter().map(|record| record.timestamp).max());
        prop_assert_eq!(&read(&batch), &records);
        let parsed = Batch::parse(batch.bytes().clone()).expect("it is whole");
        prop_assert_eq!(read(&parsed), &records[..]);
        prop_assert_eq!(parsed.to_kafka(-1, Compression::None).expect("it is Kafka's").to_vec(), kafka);

        // The columns are the ones that a client of ours would have sent.
        let offsets = OffsetMode::Sparse { base: batch.base_offset(), span: batch.span() };
        let native = columns_of(&records).encode(Rows::All, offsets, Compression::None, None);
        prop_assert_eq!(batch.as_columns(), native);
    }

    #[test]
    fn columns_become_a_batch_of_kafka_s(
        records in records(),
        compression in prop_oneof![Just(Compression::None), Just(Compression::Lz4), Just(Compression::Zstd)],
        stamped: bool,
    ) {
        let producer = stamped.then_some(ProducerStamp { id: 9, epoch: 2, sequence: SEQUENCES - 1 });
        let (first, last) = (records[0].offset, records[records.len() - 1].offset);
        let offsets = OffsetMode::Sparse { base: first - 3, span: (last - first + 5) as u32 };
        let native = columns_of(&records).encode(Rows::All, offsets, compression, producer).expect("it has rows");
        let kafka = native.to_kafka(7, compression).expect("Kafka has such offsets").to_vec();
        prop_assert_eq!(&kafka[12..17], &[0, 0, 0, 7, 2]);
        let back = Batch::from_kafka(&kafka).expect("it keeps every rule");
        prop_assert_eq!(read(&back), records);
        prop_assert_eq!((back.base_offset(), back.end_offset()), (first - 3, last + 2));
        prop_assert_eq!(back.producer(), producer);
    }

    /// Of the bytes in front only the length and the version count; all others
    /// are covered by one of the two checksums.
    #[test]
    fn any_changed_byte_is_noticed(records in records(), at: prop::sample::Index, bit in 0..8u32) {
        let batch = Batch::from_kafka(&naive(&records)).expect("it keeps every rule");
        let mut bytes = batch.bytes().to_vec();
        let at = 8 + at.index(bytes.len() - 8);
        bytes[at] ^= 1 << bit;
        prop_assert!(Batch::parse(bytes.into()).is_err());
    }
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden-kafka/{name}.bin"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A row of what somebody else's batch holds: timestamp after `TIME`, key,
/// value, headers.
type Row<'a> = (
    i64,
    Option<&'a [u8]>,
    Option<&'a [u8]>,
    Vec<(&'a str, Option<&'a [u8]>)>,
);

/// Written by the crate `kafka-protocol` 0.17.0, with its own compressors: C's
/// for LZ4 and zstd.
#[test]
fn batches_that_others_wrote_are_read_and_handed_out_as_they_came() {
    let x = [b'x'; 50];
    let many: Vec<Row<'_>> = (0..20)
        .map(|n| (n, Some(&b"key"[..]), Some(&x[..]), vec![]))
        .collect();
    let cases: [(&str, Vec<Row<'_>>); 7] = [
        (
            "plain",
            vec![
                (0, Some(b"k1"), Some(b"one"), vec![]),
                (5, Some(b"k2"), Some(b"two"), vec![]),
            ],
        ),
        (
            "nulls",
            vec![
                (3, None, Some(b"no key"), vec![]),
                (
                    0,
                    Some(b""),
                    Some(b""),
                    vec![("a", Some(b"1")), ("null", None), ("", Some(b""))],
                ),
                (90_000, Some(b"k"), None, vec![("°C", Some(b"\xff\x00"))]),
            ],
        ),
        (
            "transactional",
            vec![
                (0, None, Some(b"last"), vec![]),
                (0, None, Some(b"first"), vec![]),
            ],
        ),
        ("gzip", many.clone()),
        ("snappy", many.clone()),
        ("lz4", many.clone()),
        ("zstd", many),
    ];
    for (name, rows) in cases {
        let kafka = golden(name);
        let batch = Batch::from_kafka(&kafka).unwrap_or_else(|error| panic!("{name}: {error}"));
        let records = batch.records().expect(name);
        let found: Vec<Row<'_>> = records
            .iter()
            .map(|record| {
                let headers = record.headers.collect();
                (record.timestamp - TIME, record.key, record.value, headers)
            })
            .collect();
        assert_eq!(found, rows, "{name}");
        let offsets: Vec<u64> = records.offsets().collect();
        assert_eq!(
            offsets,
            (0..rows.len() as u64).collect::<Vec<_>>(),
            "{name}"
        );
        let back = batch.to_kafka(-1, Compression::None).expect(name);
        assert_eq!(back.to_vec(), kafka, "{name}");
        Batch::parse(batch.bytes().clone()).expect(name);
    }
}

#[test]
fn what_a_batch_of_kafka_s_says_of_itself_is_in_the_header() {
    let plain = Batch::from_kafka(&golden("plain")).expect("a batch");
    let stamp = ProducerStamp {
        id: 7,
        epoch: 1,
        sequence: 40,
    };
    assert_eq!(plain.producer(), Some(stamp));
    assert_eq!(plain.header().attributes(), Attributes::default());

    let batch = Batch::from_kafka(&golden("transactional")).expect("a batch");
    assert!(batch.header().attributes().transactional);
    let stamp = batch.producer().expect("it has one");
    assert_eq!((stamp.id, stamp.epoch), (9, i16::MAX as u16));
    assert_eq!(stamp.sequence, SEQUENCES - 2);
    assert_eq!(sequence_after(stamp.sequence, batch.count()), 0);
    assert!(
        batch
            .as_columns()
            .expect("columns")
            .header()
            .attributes()
            .transactional
    );

    let record = &read(&plain)[..1];
    for (bits, append_time, control) in [(1 << 3, true, false), (1 << 5, false, true)] {
        let said = Said {
            attributes: bits,
            max_timestamp: TIME + 77,
            ..Said::of(record)
        };
        let kafka = naive_batch(1, &naive_records(record, &said), &said);
        let batch = Batch::from_kafka(&kafka).expect("a batch");
        let attributes = batch.header().attributes();
        assert_eq!(
            (attributes.append_time, attributes.control),
            (append_time, control)
        );
        let time = if append_time { TIME + 77 } else { TIME };
        assert_eq!(
            (batch.timestamp_min(), read(&batch)[0].timestamp),
            (time, time)
        );
    }
}

#[test]
fn an_offset_a_stamp_and_a_time_of_append_are_given_to_either_kind_of_body() {
    let stamp = ProducerStamp {
        id: 12,
        epoch: 3,
        sequence: 99,
    };
    let kafka = Batch::from_kafka(&golden("nulls")).expect("a batch");
    let native = kafka.as_columns().expect("columns");
    for batch in [kafka, native] {
        let before = read(&batch);
        let given = batch
            .with_base_offset(500)
            .with_producer(Some(stamp))
            .with_append_time(TIME + 1);
        let given = Batch::parse(given.bytes().clone()).expect("it is whole");
        assert_eq!(given.producer(), Some(stamp));
        assert!(given.header().attributes().append_time);
        let columns = given.as_columns().expect("columns");
        for (now, before) in read(&columns).into_iter().zip(before) {
            let expected = Record {
                offset: 500 + before.offset,
                timestamp: TIME + 1,
                ..before
            };
            assert_eq!(now, expected);
        }
        let sent = given
            .to_kafka(4, Compression::None)
            .expect("Kafka's")
            .to_vec();
        let back = Batch::from_kafka(&sent).expect("it keeps every rule");
        assert_eq!((back.base_offset(), back.producer()), (500, Some(stamp)));
        assert_eq!(read(&back), read(&given));
    }
}

#[test]
fn columns_are_made_once_for_all_who_read_them_at_a_time() {
    let batch = Batch::from_kafka(&golden("zstd")).expect("a batch");
    let (first, second) = (batch.clone().as_columns(), batch.as_columns());
    let (first, second) = (first.expect("columns"), second.expect("columns"));
    assert_eq!(first.bytes().as_ptr(), second.bytes().as_ptr());
    let native = batch.as_columns().and_then(|batch| batch.as_columns());
    assert_eq!(
        native.expect("itself").bytes().as_ptr(),
        first.bytes().as_ptr()
    );
}

/// The batch of one record whose bytes are `record`, and whose checksum is right.
fn one(record: &[u8]) -> Result<Batch, BatchError> {
    several(1, record, 0)
}

fn several(count: usize, records: &[u8], attributes: i16) -> Result<Batch, BatchError> {
    let said = Said {
        base_offset: 0,
        attributes,
        last_offset_delta: count as i32 - 1,
        base_timestamp: TIME,
        max_timestamp: TIME,
        producer: (-1, -1, -1),
    };
    Batch::from_kafka(&naive_batch(count, records, &said))
}

#[test]
fn each_rule_of_a_record_is_kept() {
    // length 6: attributes, time 0, offset 0, null key, null value, no headers.
    assert!(one(&[12, 0, 0, 0, 1, 1, 0]).is_ok());
    let wrong: [(&str, &[u8]); 13] = [
        ("nothing", &[]),
        ("cut", &[12, 0, 0, 0, 1, 1]),
        ("a byte behind the records", &[12, 0, 0, 0, 1, 1, 0, 0]),
        ("a byte behind the record", &[14, 0, 0, 0, 1, 1, 0, 0]),
        ("a length that is negative", &[3, 0, 0, 0, 1, 1, 0]),
        ("an offset that is negative", &[12, 0, 0, 1, 1, 1, 0]),
        ("an offset behind the last", &[12, 0, 0, 2, 1, 1, 0]),
        ("a key of -2 bytes", &[12, 0, 0, 0, 3, 1, 0]),
        ("a key longer than the record", &[12, 0, 0, 0, 20, 1, 0]),
        ("headers that are not there", &[12, 0, 0, 0, 1, 1, 2]),
        ("less than no headers", &[12, 0, 0, 0, 1, 1, 1]),
        ("a header whose key is null", &[16, 0, 0, 0, 1, 1, 2, 1, 1]),
        (
            "a number of six bytes",
            &[0x8c, 0x80, 0x80, 0x80, 0x80, 0, 0, 0, 0, 1, 1, 0],
        ),
    ];
    for (what, record) in wrong {
        assert!(one(record).is_err(), "{what}");
    }
    let two = [12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 0, 1, 1, 0];
    assert!(several(2, &two, 0).is_err(), "offsets that do not rise");
}

#[test]
fn a_header_s_key_that_is_not_utf8_is_shown_as_kafka_s_clients_show_it() {
    let batch = one(&[22, 0, 0, 0, 1, 1, 2, 6, b'a', 0xff, b'b', 1]).expect("a batch");
    assert_eq!(read(&batch)[0].headers, [("a\u{fffd}b".to_owned(), None)]);
}

#[test]
fn each_rule_of_the_batch_is_kept() {
    let kafka = golden("plain");
    let changed = |at: usize, bytes: &[u8]| {
        let mut kafka = kafka.clone();
        kafka[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c::crc32c(&kafka[21..]);
        kafka[17..21].copy_from_slice(&crc.to_be_bytes());
        Batch::from_kafka(&kafka)
    };
    assert!(
        changed(12, &[9; 4]).is_ok(),
        "the leader's epoch is the broker's"
    );
    let wrong: [(&str, usize, &[u8]); 11] = [
        ("a negative offset", 0, &[0xff]),
        ("another length", 11, &[0]),
        ("another version", 16, &[1]),
        ("an unknown attribute", 22, &[1 << 6]),
        ("an unknown compression", 22, &[5]),
        ("a last offset before the records'", 23, &[0, 0, 0, 0]),
        ("a negative last offset", 23, &[0xff]),
        ("producer 0", 43, &[0; 8]),
        ("a negative epoch", 51, &[0xff]),
        ("no records", 57, &[0; 4]),
        ("more records than there are", 57, &[0x7f]),
    ];
    for (what, at, bytes) in wrong {
        assert!(changed(at, bytes).is_err(), "{what}");
    }
    let mut damaged = kafka.clone();
    damaged[70] ^= 1;
    let found = Batch::from_kafka(&damaged);
    assert!(
        matches!(found, Err(BatchError::Checksum { .. })),
        "{found:?}"
    );
    for end in 0..kafka.len() {
        assert!(Batch::from_kafka(&kafka[..end]).is_err(), "cut at {end}");
    }
}

/// A header that says something else than the body behind it, both with
/// checksums that are right.
#[test]
fn a_header_says_what_its_body_says() {
    let batch = Batch::from_kafka(&golden("nulls")).expect("a batch");
    // Epoch, columns, attributes, count, span, producer, sequence, lengths, times.
    for at in [18, 20, 22, 24, 28, 32, 40, 44, 48, 56] {
        let mut bytes = batch.bytes().to_vec();
        bytes[at] ^= 1;
        let crc = crc32c::crc32c(&bytes[16..HEADER_BYTES + 4]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let bytes = Bytes::from(bytes);
        assert!(Batch::parse(bytes.clone()).is_err(), "byte {at}");
        if let Ok(trusted) = Batch::parse_trusted(bytes) {
            assert!(trusted.records().is_err(), "byte {at}");
        }
    }
}

/// Compressed forms of one record that is larger than may be, or that were cut.
#[test]
fn what_expands_to_more_than_may_be_is_refused() {
    let zeros = vec![0; RAW_BYTES_MAX + 1];
    let bomb = zstd::bulk::compress(&zeros, 3).expect("it fits");
    let found = several(1, &bomb, 4);
    assert!(
        matches!(
            found,
            Err(BatchError::KafkaExpansion {
                codec: "zstd",
                limit: RAW_BYTES_MAX
            })
        ),
        "{found:?}"
    );
    for name in ["gzip", "snappy", "lz4", "zstd"] {
        let kafka = golden(name);
        let attributes = i16::from(kafka[22]);
        for end in [61, 62, 70, kafka.len() - 1] {
            let found = several(20, &kafka[61..end], attributes);
            assert!(found.is_err(), "{name} cut at {end}");
        }
        assert!(several(20, &kafka[61..], attributes).is_ok(), "{name}");
    }
}

/// Snappy without snappy-java's frame, as librdkafka writes it.
#[test]
fn a_bare_block_of_snappy_is_read() {
    let records = [read(&Batch::from_kafka(&golden("gzip")).expect("a batch"))].concat();
    let raw = naive_records(&records, &Said::of(&records));
    let block = snap::raw::Encoder::new()
        .compress_vec(&raw)
        .expect("it fits");
    let batch = several(20, &block, 2).expect("a batch");
    assert_eq!(read(&batch).len(), 20);
    assert!(
        several(20, &[0xff, 0xff, 0xff, 0x1f, 0], 2).is_err(),
        "64 MiB of five bytes"
    );
}

#[test]
fn sequences_go_round_at_two_to_the_thirty_first() {
    assert_eq!(sequence_after(SEQUENCES - 1, 1), 0);
    assert_eq!(sequence_after(SEQUENCES - 5, 10), 5);
    assert_eq!(sequences_between(SEQUENCES - 5, 5), 10);
    assert_eq!(sequences_between(5, 5), 0);
    // What an earlier release counted to 2^32 goes on where it was.
    assert_eq!(sequences_between(u32::MAX - 4, 5), 10);
}

#[test]
fn a_batch_of_ours_is_larger_than_what_it_takes_by_its_columns() {
    let mut builder = BatchBuilder::new();
    builder
        .push(TIME, None, Some(&[7; 100]), &[])
        .expect("it fits");
    let native = builder.finish(Compression::None, None).expect("a batch");
    let kafka = native
        .to_kafka(-1, Compression::None)
        .expect("Kafka's")
        .to_vec();
    let batch = Batch::from_kafka(&kafka).expect("a batch");
    assert_eq!(batch.raw_len(), native.raw_len());
    assert_eq!(batch.expanded_len(), batch.len() + native.len());
}
