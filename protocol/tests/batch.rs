//! The column batch against the naive version of it: a list of records.

use bytes::Bytes;
use eddy_protocol::batch::{
    Batch, BatchBuilder, BatchError, Batches, ColumnBuf, Columns, Compression, HEADER_BYTES,
    OffsetMode, ProducerStamp, RAW_BYTES_MAX, RecordRef, Rows, peek,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

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
        Record {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }

    fn push_to(&self, columns: &mut ColumnBuf) {
        let headers: Vec<(&str, Option<&[u8]>)> = self
            .headers
            .iter()
            .map(|(name, value)| (&name[..], value.as_deref()))
            .collect();
        let (key, value) = (self.key.as_deref(), self.value.as_deref());
        columns
            .push(self.offset, self.timestamp, key, value, &headers)
            .expect("offsets rise");
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..12)
}

/// Entries that are there never, always or as often as said.
fn optional(probability: f64) -> BoxedStrategy<Option<Vec<u8>>> {
    if probability == 0.0 {
        Just(None).boxed()
    } else if probability == 1.0 {
        bytes().prop_map(Some).boxed()
    } else {
        option::weighted(probability, bytes()).boxed()
    }
}

fn times() -> impl Strategy<Value = i64> {
    prop_oneof![Just(5i64), 0..100i64, any::<i64>()]
}

/// Records of offsets that rise, in the four mixtures that choose columns.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = |times: BoxedStrategy<i64>, keys: f64, values: f64, headers: usize| {
        let headers = vec(("[a-z]{0,3}", optional(0.7)), 0..=headers);
        (1..4u64, times, optional(keys), optional(values), headers).prop_map(
            |(offset, timestamp, key, value, headers)| Record {
                offset,
                timestamp,
                key,
                value,
                headers,
            },
        )
    };
    prop_oneof![
        vec(record(Just(7).boxed(), 0.0, 1.0, 0), 1..30),
        vec(record((0..100i64).boxed(), 1.0, 1.0, 0), 1..30),
        vec(record(times().boxed(), 0.5, 0.7, 0), 1..30),
        vec(record(times().boxed(), 0.5, 0.7, 2), 1..30),
    ]
    .prop_map(|mut records| {
        let mut offset = 10;
        for record in &mut records {
            offset += record.offset;
            record.offset = offset;
        }
        records
    })
}

fn columns_of(records: &[Record]) -> ColumnBuf {
    let mut columns = ColumnBuf::new();
    records
        .iter()
        .for_each(|record| record.push_to(&mut columns));
    columns
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        Just(Compression::Lz4),
        Just(Compression::Zstd)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out(records in records(), compression in compression(), stamped: bool) {
        let producer = stamped.then_some(ProducerStamp { id: 9, epoch: 2, sequence: u32::MAX });
        let (first, last) = (records[0].offset, records[records.len() - 1].offset);
        let offsets = OffsetMode::Sparse { base: first - 3, span: (last - first + 5) as u32 };
        let batch = columns_of(&records).encode(Rows::All, offsets, compression, producer).expect("it has rows");
        let batch = Batch::parse(batch.bytes().clone()).expect("what was encoded can be read");

        prop_assert_eq!(batch.base_offset(), first - 3);
        prop_assert_eq!(batch.end_offset(), last + 2);
        prop_assert_eq!(batch.count() as usize, records.len());
        prop_assert_eq!(batch.producer(), producer);
        prop_assert_eq!(Some(batch.timestamp_min()), records.iter().map(|record| record.timestamp).min());
        prop_assert_eq!(Some(batch.timestamp_max()), records.iter().map(|record| record.timestamp).max());
        let read: Vec<Record> = batch.records().expect("it is whole").iter().map(Record::of).collect();
        prop_assert_eq!(&read, &records);
        let columns = batch.records().expect("it is whole").to_columns();
        prop_assert_eq!(columns.iter().map(Record::of).collect::<Vec<_>>(), records);
    }

    #[test]
    fn kept_rows_are_those_asked_for(records in records(), seed in vec(any::<bool>(), 30), compression in compression()) {
        let keep: Vec<u32> = (0..records.len() as u32).filter(|row| seed[*row as usize]).collect();
        let expected: Vec<Record> = keep.iter().map(|row| records[*row as usize].clone()).collect();
        let span = (records[records.len() - 1].offset + 1) as u32;
        let offsets = OffsetMode::Sparse { base: 0, span };
        match columns_of(&records).encode(Rows::Keep(&keep), offsets, compression, None) {
            Ok(batch) => {
                let batch = Batch::parse(batch.bytes().clone()).expect("what was encoded can be read");
                let read: Vec<Record> = batch.records().expect("it is whole").iter().map(Record::of).collect();
                prop_assert_eq!(read, expected);
            }
            Err(error) => prop_assert!(keep.is_empty() && error == BatchError::Empty, "{}", error),
        }
    }

    /// The bytes do not depend on how the columns came about.
    #[test]
    fn records_have_one_encoding(records in records()) {
        let whole = columns_of(&records);
        let mut gathered = ColumnBuf::new();
        for half in records.chunks(records.len().div_ceil(2)) {
            let (first, last) = (half[0].offset, half[half.len() - 1].offset);
            let offsets = OffsetMode::Sparse { base: first, span: (last - first + 1) as u32 };
            let batch = columns_of(half).encode(Rows::All, offsets, Compression::None, None).expect("it has rows");
            gathered.extend_from(&batch).expect("offsets rise");
        }
        prop_assert_eq!(gathered.iter().map(Record::of).collect::<Vec<_>>(), records);
        let encode = |columns: &ColumnBuf| columns.encode(Rows::All, OffsetMode::Dense, Compression::None, None);
        prop_assert_eq!(encode(&gathered), encode(&whole));
        let parts = ColumnBuf::try_from(Columns::from(whole.clone())).expect("they were columns");
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn any_changed_byte_is_noticed(records in records(), at: prop::sample::Index, bit in 0..8u32) {
        let batch = columns_of(&records).encode(Rows::All, OffsetMode::Dense, Compression::None, None);
        let mut bytes = batch.expect("it has rows").bytes().to_vec();
        // The first eight bytes are the broker's to change.
        let at = 8 + at.index(bytes.len() - 8);
        bytes[at] ^= 1 << bit;
        prop_assert!(Batch::parse(bytes.into()).is_err());
    }
}

fn small() -> Batch {
    let mut builder = BatchBuilder::new();
    builder
        .push(1, Some(b"k"), Some(b"v"), &[])
        .expect("it fits");
    builder.push(2, None, None, &[]).expect("it fits");
    builder
        .finish(Compression::None, None)
        .expect("it has records")
}

/// The batch with `change` done to it and a checksum that fits.
fn tampered(change: impl FnOnce(&mut Vec<u8>)) -> Result<Batch, BatchError> {
    let mut bytes = small().bytes().to_vec();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    Batch::parse(bytes.into())
}

#[test]
fn each_rule_of_the_header_is_kept() {
    assert!(tampered(|_| {}).is_ok());
    assert_eq!(tampered(|bytes| bytes[16] = 3), Err(BatchError::Version(3)));
    assert!(
        tampered(|bytes| bytes[16] = 2).is_err(),
        "columns are no body of Kafka's"
    );
    assert_eq!(
        tampered(|bytes| bytes[17] = 3),
        Err(BatchError::Compression(3))
    );
    assert_eq!(
        tampered(|bytes| bytes[20] |= 0x80),
        Err(BatchError::Columns(0xb9))
    );
    assert!(matches!(
        tampered(|bytes| bytes[20] |= 3),
        Err(BatchError::Columns(_))
    ));
    assert!(
        matches!(tampered(|bytes| bytes[18] = 1), Err(BatchError::Invalid(_))),
        "an epoch without a producer"
    );
    assert!(
        matches!(tampered(|bytes| bytes[22] = 1), Err(BatchError::Invalid(_))),
        "one time of append and two timestamps"
    );
    assert_eq!(
        tampered(|bytes| bytes[23] = 1),
        Err(BatchError::Attributes(0x100))
    );
    assert_eq!(tampered(|bytes| bytes[24] = 0), Err(BatchError::Empty));
    assert!(
        matches!(tampered(|bytes| bytes[28] = 3), Err(BatchError::Invalid(_))),
        "a span without holes"
    );
    assert!(
        matches!(
            tampered(|bytes| bytes[0..8].fill(0xff)),
            Err(BatchError::Invalid(_))
        ),
        "offsets past the end"
    );
    assert!(
        matches!(tampered(|bytes| bytes[48] = 0), Err(BatchError::Invalid(_))),
        "a minimum that no record has"
    );
    assert!(matches!(
        tampered(|bytes| bytes.push(0)),
        Err(BatchError::Length { .. })
    ));
    assert!(matches!(
        tampered(|bytes| bytes[47] = 0xff),
        Err(BatchError::TooLarge { .. })
    ));
    assert!(matches!(
        Batch::parse(Bytes::from_static(&[0; 63])),
        Err(BatchError::TooShort { .. })
    ));
    assert_eq!(Batch::parse(Bytes::new()), Err(BatchError::Empty));
}

#[test]
fn each_rule_of_the_columns_is_kept() {
    // 8 bytes of timestamps, a bitmap, two key ends, "k", a bitmap, two value ends, "v".
    let (key_nulls, key_ends) = (HEADER_BYTES + 8, HEADER_BYTES + 9);
    assert_eq!(small().bytes()[key_nulls], 0b10);
    assert!(
        tampered(|bytes| bytes[key_nulls] = 0b110).is_err(),
        "a bit behind the last row"
    );
    assert!(
        tampered(|bytes| bytes[key_nulls] = 0b01).is_err(),
        "a null with bytes"
    );
    assert!(
        tampered(|bytes| bytes[key_ends] = 2).is_err(),
        "ends that fall"
    );
    assert!(
        tampered(|bytes| bytes[key_ends + 7] = 0xff).is_err(),
        "an end past the body"
    );
    assert!(
        tampered(|bytes| bytes[key_nulls] = 0).is_ok(),
        "an empty key is not null"
    );
}

#[test]
fn a_wrong_checksum_is_named() {
    let mut bytes = small().bytes().to_vec();
    bytes[HEADER_BYTES] ^= 1;
    assert!(matches!(
        Batch::parse(bytes.clone().into()),
        Err(BatchError::Checksum { .. })
    ));
    let trusted = Batch::parse_trusted(bytes.into()).expect("only the header is looked at");
    assert!(trusted.check().is_err());
}

#[test]
fn an_offset_is_given_in_place_where_nobody_shares_the_bytes() {
    let batch = Batches(Bytes::from(small().bytes().to_vec()))
        .single()
        .expect("it is one batch");
    let place = batch.bytes().as_ptr();
    let batch = batch.with_base_offset(1000);
    assert_eq!(batch.bytes().as_ptr(), place);
    let shared = batch.clone();
    let moved = batch.with_base_offset(2000);
    assert_ne!(moved.bytes().as_ptr(), place);
    assert_eq!((shared.base_offset(), moved.base_offset()), (1000, 2000));
    assert_eq!(
        moved
            .records()
            .expect("it is whole")
            .iter()
            .map(|record| record.offset)
            .collect::<Vec<_>>(),
        [2000, 2001]
    );
    assert_eq!(
        Batch::parse(moved.bytes().clone()),
        Ok(moved),
        "the checksum does not cover the offset"
    );
}

#[test]
fn records_borrow_the_bytes_of_an_uncompressed_batch() {
    let batch = small();
    let records = batch.records().expect("it is whole");
    let value = records
        .record(0)
        .and_then(|record| record.value)
        .expect("it has a value");
    assert!(batch.bytes().as_ptr_range().contains(&value.as_ptr()));
}

#[test]
fn a_stamp_is_changed_with_its_checksum() {
    let stamp = Some(ProducerStamp {
        id: 1,
        epoch: 2,
        sequence: 3,
    });
    let stamped = small().with_producer(stamp);
    assert_eq!(
        Batch::parse(stamped.bytes().clone())
            .expect("it is whole")
            .producer(),
        stamp
    );
    assert_eq!(stamped.with_producer(None), small());
}

#[test]
fn batches_are_cut_one_by_one_and_end_at_the_first_error() {
    let both: Batches = [small(), small().with_base_offset(2)].into_iter().collect();
    let offsets: Vec<u64> = both
        .iter()
        .map(|batch| batch.expect("it is whole").base_offset())
        .collect();
    assert_eq!(offsets, [0, 2]);
    assert_eq!(peek(&both.0).expect("a header").length(), small().len());
    let cut = Batches(both.0.slice(..both.0.len() - 1));
    let found: Vec<bool> = cut.iter().map(|batch| batch.is_ok()).collect();
    assert_eq!(found, [true, false]);
    assert!(Batches::default().iter().next().is_none());
}

#[test]
fn rows_and_offsets_that_are_not_there_are_refused() {
    let mut columns = ColumnBuf::new();
    let encode =
        |columns: &ColumnBuf, rows, offsets| columns.encode(rows, offsets, Compression::None, None);
    assert_eq!(
        encode(&columns, Rows::All, OffsetMode::Dense),
        Err(BatchError::Empty)
    );
    columns.push(5, 0, None, Some(b"a"), &[]).expect("it fits");
    columns.push(6, 0, None, Some(b"b"), &[]).expect("it fits");
    assert!(columns.push(6, 0, None, None, &[]).is_err(), "offsets rise");
    for rows in [&[2][..], &[0, 2], &[1, 0], &[0, 0]] {
        assert!(
            matches!(
                encode(&columns, Rows::Keep(rows), OffsetMode::Dense),
                Err(BatchError::Row { .. })
            ),
            "{rows:?}"
        );
    }
    for (base, span) in [(6, 2), (4, 2), (u64::MAX, 2)] {
        assert!(
            encode(&columns, Rows::All, OffsetMode::Sparse { base, span }).is_err(),
            "{base} {span}"
        );
    }
}

#[test]
fn a_batch_larger_than_may_be_is_refused() {
    let mut builder = BatchBuilder::new();
    let value = vec![0; RAW_BYTES_MAX / 2];
    builder
        .push(0, None, Some(&value), &[])
        .expect("it fits into columns");
    builder
        .push(0, None, Some(&value), &[])
        .expect("it fits into columns");
    assert!(matches!(
        builder.finish(Compression::Zstd, None),
        Err(BatchError::TooLarge { .. })
    ));
    assert!(builder.is_empty(), "the builder begins anew");
}

#[test]
fn columns_from_elsewhere_are_checked() {
    let good = Columns {
        offsets: vec![0, 1],
        timestamps: vec![0, 0],
        value_ends: vec![1, 1],
        value_bytes: vec![7],
        value_nulls: Some(vec![0b10]),
        ..Columns::default()
    };
    assert!(ColumnBuf::try_from(good.clone()).is_ok());
    let wrong = |change: fn(&mut Columns)| {
        let mut columns = good.clone();
        change(&mut columns);
        ColumnBuf::try_from(columns).is_err()
    };
    assert!(wrong(|columns| columns.timestamps.push(0)));
    assert!(wrong(|columns| columns.offsets = vec![1, 1]));
    assert!(wrong(|columns| columns.value_ends = vec![1, 0]));
    assert!(wrong(|columns| columns.value_ends = vec![1, 2]));
    assert!(wrong(|columns| columns.value_ends = vec![1]));
    assert!(wrong(|columns| columns.value_nulls = Some(vec![0b01])));
    assert!(wrong(|columns| columns.value_nulls = Some(vec![0b110])));
    assert!(wrong(|columns| columns.key_bytes = vec![1]));
    assert!(wrong(|columns| (
        columns.header_ends,
        columns.header_bytes
    ) = (vec![1, 1], vec![9])));
}

#[test]
fn a_batch_that_is_stamped_later_is_the_one_that_is_stamped_at_once() {
    let stamp = ProducerStamp {
        id: 7,
        epoch: 1,
        sequence: 40,
    };
    for compression in [Compression::None, Compression::Lz4] {
        let mut builder = BatchBuilder::new();
        let mut fill = || {
            builder
                .push(
                    5,
                    Some(b"k"),
                    Some(&[b'x'; 1000]),
                    &[("h", Some(b"1")), ("n", None)],
                )
                .expect("it fits");
            std::mem::take(&mut builder)
        };
        let at_once = fill().finish(compression, Some(stamp)).expect("a batch");
        let later = fill().finish_unstamped(compression).expect("a batch");
        assert_eq!((later.len(), later.count()), (at_once.len(), 1));
        let later = later.stamped(stamp);
        assert_eq!(later, at_once);
        later.check().expect("its checksum is right");
    }
}
