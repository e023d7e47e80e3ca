//! Bytes from nowhere: the fuzz corpus, the golden files and thousands of
//! mutations of both never make decoding panic or allocate more than they
//! justify.

mod exercise;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use eddy_protocol::batch::{Batch, BatchBuilder, BatchError, Compression, HEADER_BYTES};
use eddy_protocol::codec::{Form, decode_client, decode_server};

/// Counts what this thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    // What another thread allocated may be freed here, so this can be below zero.
    let held = HELD.get() + more as isize - less as isize;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

#[expect(
    unsafe_code,
    reason = "an allocator can't be written without; it hands everything on to the system's"
)]
// SAFETY: every call goes to `System` with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the rules of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size, layout.size());
        // SAFETY: the caller keeps the rules of `realloc`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller keeps the rules of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held at a time.
fn most_held(work: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    work();
    usize::try_from(MOST.get() - before).expect("the most is not below the beginning")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The golden files whose names begin with `prefix`, and the corpus of a target.
fn seeds(prefix: &str, target: &str) -> Vec<Vec<u8>> {
    seeds_in("protocol/golden", prefix, target)
}

fn seeds_in(golden: &str, prefix: &str, target: &str) -> Vec<Vec<u8>> {
    let read = |folder: PathBuf, prefix: &str| -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
        paths.retain(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        });
        paths.sort();
        paths
            .into_iter()
            .map(|path| std::fs::read(path).expect("a file"))
            .collect()
    };
    let mut seeds = read(root().join(golden), prefix);
    seeds.extend(read(root().join("fuzz/corpus").join(target), ""));
    assert!(seeds.len() > 6, "there are seeds for {target}");
    seeds
}

/// Numbers by chance, the same at every run (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }

    fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut data = seed.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(data.len());
            match self.below(7) {
                _ if data.is_empty() => data.push(self.below(256) as u8),
                0 => data[at] ^= 1 << self.below(8),
                1 => data[at] = [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfd, 0xff][self.below(8)],
                2 => data.truncate(at),
                3 => data.insert(at, self.below(256) as u8),
                // A length of 2^62 or so, as bincode writes it.
                4 => drop(data.splice(at..at + 1, [0xfd, 0, 0, 0, 0, 0, 0, 0, 0x40])),
                5 => drop(data.splice(at.., other[self.below(other.len())..].iter().copied())),
                _ => drop(data.splice(at..(at + 4).min(data.len()), [0xff; 4])),
            }
        }
        data
    }
}

fn run(seeds: &[Vec<u8>], mutations: usize, exercise: impl Fn(&[u8])) {
    let mut chance = Chance(1);
    for (number, seed) in seeds.iter().enumerate() {
        exercise(seed);
        for _ in 0..mutations {
            let other = &seeds[(number + chance.below(seeds.len())) % seeds.len()];
            exercise(&chance.mutate(seed, other));
        }
    }
}

#[test]
fn batches_from_nowhere_do_no_harm() {
    run(&seeds("batch-", "batch"), 500, exercise::batch);
}

#[test]
fn batches_of_kafka_s_from_nowhere_do_no_harm() {
    let seeds = seeds_in("protocol/golden-kafka", "", "kafka_batch");
    run(&seeds, 500, exercise::kafka_batch);
}

/// A body of Kafka's that expands to 60 MiB behind a header that says little of it.
#[test]
fn a_body_of_kafka_s_expands_to_no_more_than_its_header_says() {
    let mut builder = BatchBuilder::new();
    for row in 0..60 {
        builder
            .push(row, None, Some(&vec![0; 1 << 20]), &[])
            .expect("it fits");
    }
    let batch = builder
        .finish(Compression::Zstd, None)
        .expect("it has records");
    for compression in [Compression::Lz4, Compression::Zstd] {
        let kafka = batch
            .to_kafka(-1, compression)
            .expect("Kafka has such")
            .to_vec();
        let mut bytes = Batch::from_kafka(&kafka)
            .expect("it keeps every rule")
            .bytes()
            .to_vec();
        bytes[44..48].copy_from_slice(&1000u32.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[16..HEADER_BYTES + 4]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let length = bytes.len();
        let held = most_held(|| {
            let refused = Batch::parse(bytes.into());
            let is_refused = matches!(refused, Err(BatchError::KafkaExpansion { .. }));
            assert!(is_refused, "{refused:?}");
        });
        // A frame of LZ4 has blocks of 4 MiB at the most, in and out.
        let justified = if compression == Compression::Lz4 {
            16 << 20
        } else {
            64 << 10
        };
        assert!(
            held <= justified,
            "{length} bytes of {compression:?} held {held}"
        );
    }
}

#[test]
fn client_frames_from_nowhere_do_no_harm() {
    run(
        &seeds("client-", "client_frame"),
        60,
        exercise::client_frame,
    );
}

#[test]
fn server_frames_from_nowhere_do_no_harm() {
    run(
        &seeds("server-", "server_frame"),
        30,
        exercise::server_frame,
    );
}

#[test]
fn decoding_frames_allocates_no_more_than_they_justify() {
    let check = |data: &[u8]| {
        for form in [Form::Binary, Form::Json] {
            let held = most_held(|| {
                let _ = decode_client(data, form, 1);
            });
            let held = held.max(most_held(|| {
                let _ = decode_server(data, form);
            }));
            let justified = 8 * 1024 + 512 * data.len();
            assert!(
                held <= justified,
                "{} bytes made {form:?} hold {held}",
                data.len()
            );
        }
    };
    run(&seeds("client-", "client_frame"), 40, check);
    run(&seeds("server-", "server_frame"), 20, check);
}

/// Lists, strings and batches whose length says 2^32 or 2^62, in twenty bytes.
#[test]
fn a_hostile_length_allocates_next_to_nothing() {
    let lengths: [&[u8]; 2] = [
        &[0xfc, 0xff, 0xff, 0xff, 0xff],
        &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0x40],
    ];
    for length in lengths {
        // Within a block that is whole, and as a block's own.
        let within = |number: &[u8], fields: &[u8]| {
            let block_bytes = (fields.len() + length.len()) as u8;
            [number, &[block_bytes], fields, length].concat()
        };
        let subscribe = within(&[1, 4], &[1, b't']);
        let topics = within(&[0], &[1, 11, 20]);
        let deliver = within(&[2], &[3, 0, 1, 9]);
        let hello = within(&[1, 0], &[]);
        let blocks = [[&[1, 4], length].concat(), [&[0], length].concat()];
        for message in [subscribe, topics, deliver, hello]
            .into_iter()
            .chain(blocks)
        {
            let held = most_held(|| {
                assert!(decode_client(&message, Form::Binary, 0).is_err());
                assert!(decode_server(&message, Form::Binary).is_err());
            });
            assert!(held < 8 * 1024, "{message:02x?} held {held}");
        }
    }
}

/// A string that claims to be as long as the codec's limits let it, in messages
/// of all sizes.
#[test]
fn a_false_length_in_a_long_message_allocates_no_more_than_it_justifies() {
    for size in [100, 2000, 17_000, 131_073, 262_145, 1 << 20] {
        for claimed in (10..30).map(|bits| (1u32 << bits) - 1) {
            // A `hello`, its block, and the string in it.
            let mut message = vec![1, 0, 0xfc];
            message.extend_from_slice(&(size as u32 - 7).to_le_bytes());
            message.push(0xfc);
            message.extend_from_slice(&claimed.to_le_bytes());
            message.resize(size, b'a');
            let held = most_held(|| drop(decode_client(&message, Form::Binary, 0)));
            assert!(held <= 8 * 1024 + 512 * size, "{size} bytes held {held}");
        }
    }
}

#[test]
fn expanding_allocates_no_more_than_comes_out() {
    let check = |data: &[u8]| {
        let held = most_held(|| {
            let _ = Batch::parse_trusted(Bytes::copy_from_slice(data))
                .and_then(|batch| batch.records());
        });
        // Sixteen times for a first try at zstd, and what LZ4 can become at most.
        let justified = 16 * 1024 + 256 * data.len();
        assert!(held <= justified, "{} bytes held {held}", data.len());
    };
    run(&seeds("batch-", "batch"), 400, check);
}

/// A compressed batch of a few hundred bytes that claims 64 MiB.
#[test]
fn a_false_raw_length_is_refused_cheaply() {
    for (compression, justified) in [
        (Compression::Lz4, 300 * 300),
        (Compression::Zstd, 64 * 1024),
    ] {
        let mut builder = BatchBuilder::new();
        for row in 0..40 {
            builder
                .push(row, None, Some(&[7; 100]), &[])
                .expect("it fits");
        }
        let batch = builder.finish(compression, None).expect("it has records");
        assert_eq!(batch.header().compression(), compression);
        let mut bytes = batch.bytes().to_vec();
        bytes[44..48].copy_from_slice(&(64u32 << 20).to_le_bytes());
        let held = most_held(|| {
            let records = Batch::parse_trusted(bytes.into())
                .expect("the header is well-formed")
                .records();
            assert_eq!(records.err(), Some(BatchError::Expansion(64 << 20)));
        });
        assert!(held <= justified, "{compression:?} held {held}");
    }
}

/// A compressed body that is broken is given up with the first try, however
/// much it claims.
#[test]
fn a_corrupt_body_is_refused_cheaply() {
    let mut builder = BatchBuilder::new();
    for row in 0..60 {
        builder
            .push(row, None, Some(&vec![0; 1 << 20]), &[])
            .expect("it fits");
    }
    let batch = builder
        .finish(Compression::Zstd, None)
        .expect("it has records");
    let mut bytes = batch.bytes().to_vec();
    // Behind the frame's header: the first block's type becomes the reserved one.
    for byte in &mut bytes[HEADER_BYTES + 6..HEADER_BYTES + 16] {
        *byte = 0xff;
    }
    let length = bytes.len();
    let held = most_held(|| {
        let batch = Batch::parse_trusted(bytes.into()).expect("the header is well-formed");
        assert!(batch.records().is_err());
    });
    assert!(held <= 32 * length, "{length} bytes held {held}");
}

/// Real expansion far beyond the first try still works: 60 MiB of one byte.
#[test]
fn a_large_batch_expands_from_very_little() {
    let mut builder = BatchBuilder::new();
    for row in 0..60 {
        builder
            .push(row, None, Some(&vec![0; 1 << 20]), &[])
            .expect("it fits");
    }
    let batch = builder
        .finish(Compression::Zstd, None)
        .expect("it has records");
    assert!(batch.len() < 64 * 1024, "{} bytes", batch.len());
    let batch = Batch::parse(batch.bytes().clone()).expect("it is whole");
    assert!(batch.raw_len() > 60 << 20);
    assert_eq!(
        batch.records().expect("it is whole").value_bytes().len(),
        60 << 20
    );
    assert!(batch.len() > HEADER_BYTES);
}
