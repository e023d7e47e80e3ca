//! The real binary under SIGKILL, again and again, while producers, plugins and
//! readers are at work: nothing acknowledged is lost, nothing comes twice.

use std::collections::HashMap;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eddy_client::{
    Ack, Client, Event, NewRecord, Producer, ProducerConfig, SubscribeOptions, Subscription,
};
use eddy_protocol::frame::Start;
use eddy_tests::log::{Entry, read_topic, topic};
use eddy_tests::{Broker, wait_until};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Repeats a run exactly as far as the test decides it; the machine's own
/// timing stays what it is.
const SEED_VARIABLE: &str = "EDDY_KILLS_SEED";

const KILLS: usize = 50;
const PARTITIONS: u32 = 3;
const PRODUCERS: usize = 2;
const KEYS: u64 = 17;
/// Records that each producer may push between two kills.
const ROUND_RECORDS: usize = 400;
/// For each kill's progress, and for the end, on a machine that is busy.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);

/// What a record must hold for the deployment to let it through.
const KEEP: &str = "keep";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_while_producing_through_a_deployment_lose_and_repeat_nothing() {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut broker = Broker::start_with(&["--set", "store.checkpoint_bytes=1MiB"]);
    broker.push_byte_filter();
    let client = broker.client().await;
    let mut all = Vec::new();
    for durability in ["disk", "memory"] {
        all.push(Traffic::open(&broker, &client, durability, &mut random).await);
    }

    for _ in 0..KILLS {
        all.iter()
            .for_each(|traffic| traffic.credit.add_permits(ROUND_RECORDS * PRODUCERS));
        if random.u8(..5) == 0 {
            broker.kill9();
            broker.restart_halfway(random.usize(..4));
        } else {
            let traffic = &all[random.usize(..all.len())];
            let more = random.usize(..ROUND_RECORDS);
            traffic.wait_for_progress(random.u8(..3), more);
            broker.kill9();
        }
        broker.restart();
    }

    for traffic in all {
        traffic.prove(&client).await;
    }
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

fn seed() -> u64 {
    let given = env::var(SEED_VARIABLE).ok();
    let seed = given.map_or_else(
        || fastrand::u64(..),
        |text| text.parse().expect("the seed is a number"),
    );
    // Shown by the test runner when the test fails.
    println!("{SEED_VARIABLE}={seed}");
    seed
}

/// Producers, a topic, a deployment, its output, and readers of both.
struct Traffic {
    durability: &'static str,
    credit: Arc<Semaphore>,
    producers: Vec<Producer>,
    pushing: Vec<JoinHandle<Vec<(String, Ack)>>>,
    readers: [Reader; 2],
}

impl Traffic {
    async fn open(
        broker: &Broker,
        client: &Client,
        durability: &'static str,
        random: &mut fastrand::Rng,
    ) -> Traffic {
        let (input, output) = (format!("{durability}-in"), format!("{durability}-out"));
        let partitions = PARTITIONS.to_string();
        for name in [&input, &output] {
            let create = [
                "topic",
                "create",
                name,
                "-p",
                &partitions,
                "--durability",
                durability,
            ];
            broker.eddy(&create).ok();
        }
        broker.deploy_byte_filter(durability, (&input, &output), "keep");

        let readers = [
            Reader::open(client, &input).await,
            Reader::open(client, &output).await,
        ];
        let credit = Arc::new(Semaphore::new(0));
        let (mut producers, mut pushing) = (Vec::new(), Vec::new());
        for number in 0..PRODUCERS {
            // Small batches, so that several are on their way at every kill.
            let config = ProducerConfig {
                batch_bytes: 1 << 10,
                linger: Duration::from_millis(1),
                in_flight_max: 4,
                ..ProducerConfig::default()
            };
            let producer = client
                .producer(&topic(&input), config)
                .await
                .expect("the topic is there");
            let random = random.fork();
            pushing.push(tokio::spawn(push(
                producer.clone(),
                number,
                credit.clone(),
                random,
            )));
            producers.push(producer);
        }
        Traffic {
            durability,
            credit,
            producers,
            pushing,
            readers,
        }
    }

    /// Waits until so many more records have got past a place of their way.
    fn wait_for_progress(&self, place: u8, more: usize) {
        let passed = || match place {
            0 => self
                .producers
                .iter()
                .map(|producer| producer.counts().acknowledged as usize)
                .sum(),
            place => self.readers[usize::from(place) - 1]
                .seen
                .load(Ordering::Relaxed),
        };
        // Of the output about half as much comes as of the input.
        let target = passed() + if place == 2 { more / 3 } else { more };
        wait_until(PROGRESS_LIMIT, "records should go through", || {
            (passed() >= target).then_some(())
        });
    }

    /// Ends the producing, and compares what was acknowledged, what is in the
    /// topics and what the readers saw.
    async fn prove(self, client: &Client) {
        let Traffic {
            durability,
            credit,
            producers,
            pushing,
            readers,
        } = self;
        credit.close();
        let mut acknowledged = Vec::new();
        for pushed in pushing {
            for (value, ack) in pushed.await.expect("no producer fails") {
                let ack = timeout(PROGRESS_LIMIT, ack.wait()).await;
                acknowledged.push((
                    value,
                    ack.expect("an answer in time")
                        .expect("no record is refused"),
                ));
            }
        }
        for producer in &producers {
            producer.flush().await.expect("everything is acknowledged");
        }
        let input = read_topic(client, &topic(&format!("{durability}-in"))).await;
        let records: usize = input.iter().map(Vec::len).sum();
        println!("{durability}: {records} records acknowledged through {KILLS} kills");

        assert_eq!(
            records,
            acknowledged.len(),
            "{durability}: records in the input and acknowledgements"
        );
        for (value, place) in &acknowledged {
            let found = match place.offset {
                Some(offset) => input[place.partition as usize].get(offset as usize),
                None => input[place.partition as usize]
                    .iter()
                    .find(|entry| &entry.value == value),
            };
            assert_eq!(
                found.map(|entry| &entry.value),
                Some(value),
                "{durability}: acknowledged at {place:?}"
            );
        }
        assert_in_the_producers_order(durability, &input);

        let expected: Vec<Vec<String>> = input.iter().map(|partition| kept(partition)).collect();
        let count = expected.iter().map(Vec::len).sum();
        let [input_reader, output_reader] = readers;
        let seen = output_reader.wait_for(count).await;
        let output = read_topic(client, &topic(&format!("{durability}-out"))).await;
        let values: Vec<Vec<String>> = output.iter().map(|partition| values(partition)).collect();
        assert_eq!(
            values, expected,
            "{durability}: the output is the filtered input"
        );
        assert_eq!(
            seen, output,
            "{durability}: what the reader of the output saw"
        );
        assert_eq!(
            input_reader.wait_for(records).await,
            input,
            "{durability}: what the reader of the input saw"
        );
    }
}

/// Pushes as many records as there is credit for; half of them are to be kept.
async fn push(
    producer: Producer,
    number: usize,
    credit: Arc<Semaphore>,
    mut random: fastrand::Rng,
) -> Vec<(String, Ack)> {
    let mut pushed = Vec::new();
    for sequence in 0_u64.. {
        let Ok(permit) = credit.acquire().await else {
            break;
        };
        permit.forget();
        let verdict = if random.bool() { KEEP } else { "drop" };
        let (key, value) = (
            format!("key-{}", sequence % KEYS),
            format!("{number} {sequence} {verdict}"),
        );
        let record = NewRecord::new(value.as_bytes()).key(key.as_bytes());
        let ack = producer.send(&record).await.expect("the producer goes on");
        pushed.push((value, ack));
    }
    pushed
}

/// Reads a topic from its beginning, over all connections that it takes.
struct Reader {
    seen: Arc<AtomicUsize>,
    reading: JoinHandle<()>,
    entries: Arc<std::sync::Mutex<Vec<Vec<Entry>>>>,
}

impl Reader {
    async fn open(client: &Client, name: &str) -> Reader {
        let options = SubscribeOptions {
            from: Start::Earliest,
            ..SubscribeOptions::default()
        };
        let subscription = client
            .subscribe(&topic(name), options)
            .await
            .expect("the topic is there");
        let seen = Arc::new(AtomicUsize::new(0));
        let entries = Arc::new(std::sync::Mutex::new(vec![Vec::new(); PARTITIONS as usize]));
        let reading = tokio::spawn(read(subscription, seen.clone(), entries.clone()));
        Reader {
            seen,
            reading,
            entries,
        }
    }

    /// What it has seen, once that is so many records.
    async fn wait_for(self, records: usize) -> Vec<Vec<Entry>> {
        wait_until(PROGRESS_LIMIT, "the reader should get everything", || {
            let done = self.seen.load(Ordering::Relaxed) >= records || self.reading.is_finished();
            done.then_some(())
        });
        self.reading.abort();
        let entries = self.entries.lock().expect("no reader panicked");
        entries.clone()
    }
}

async fn read(
    mut subscription: Subscription,
    seen: Arc<AtomicUsize>,
    entries: Arc<std::sync::Mutex<Vec<Vec<Entry>>>>,
) {
    loop {
        match subscription.next().await.expect("the subscription goes on") {
            Event::Data(record) => {
                let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap_or_default());
                let entry = Entry {
                    offset: record.offset,
                    key: text(record.key).expect("text"),
                    value: text(record.value).expect("text"),
                };
                entries.lock().expect("no test panicked")[record.partition as usize].push(entry);
                seen.fetch_add(1, Ordering::Relaxed);
            }
            Event::Reconnected => {}
            other => panic!("a whole topic brings nothing but records, not {other:?}"),
        }
    }
}

/// Within a partition the records of each producer are in the order in which it
/// pushed them, none twice.
fn assert_in_the_producers_order(what: &str, partitions: &[Vec<Entry>]) {
    for (number, partition) in partitions.iter().enumerate() {
        let mut last: HashMap<&str, u64> = HashMap::new();
        for entry in partition {
            let mut words = entry.value.split(' ');
            let producer = words.next().expect("a producer's number");
            let sequence: u64 = words
                .next()
                .and_then(|word| word.parse().ok())
                .expect("a sequence");
            let before = last.insert(producer, sequence);
            assert!(
                before < Some(sequence),
                "{what}/{number}: {producer} {sequence} comes after {before:?}"
            );
        }
    }
}

fn kept(partition: &[Entry]) -> Vec<String> {
    let kept = partition.iter().filter(|entry| entry.value.contains(KEEP));
    kept.map(|entry| entry.value.clone()).collect()
}

fn values(partition: &[Entry]) -> Vec<String> {
    partition.iter().map(|entry| entry.value.clone()).collect()
}
