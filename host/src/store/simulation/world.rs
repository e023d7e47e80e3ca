//! A store, its disk, its users and what they know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use eddy_protocol::TopicName;
use eddy_protocol::frame::{Durability, TopicSettings};

use super::check::dump;
use super::client::{Client, batch};
use super::deployment::DEPLOYMENTS;
use super::model::Learnt;
use crate::io::{Broken, Call, CrashKind, Faults, FaultyDisk, ManualClock};
use crate::log::{
    Append, CatalogChange, Commit, CommitError, Committed, Health, Partition as _, TableError,
    Ticket, Topic, ticket,
};
use crate::store::config::Config;
use crate::store::core::Core;
use crate::store::kit::{change, write};
use crate::store::partition::Partition;
use crate::store::recovery;
use crate::store::request::Request;

/// What a history is made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) steps: usize,
    /// How likely each step ends in a crash that comes within the next operations.
    pub(super) crash_percent: u8,
    /// How likely the disk becomes full at a step.
    pub(super) full_percent: u8,
    /// How likely the segments of a partition cannot be had any more at a step.
    pub(super) unwritable_percent: u8,
    /// The machine stops at this sync, once.
    pub(super) crash_at_sync: Option<u64>,
}

/// Topics of the simulation: name, partitions, durability, retention.
pub(super) const TOPICS: [(&str, u32, Durability, Option<u64>); 5] = [
    ("disk", 2, Durability::Disk, None),
    ("memory", 1, Durability::Memory, None),
    ("short", 1, Durability::Disk, Some(2000)),
    ("out-disk", 1, Durability::Disk, None),
    ("out-memory", 1, Durability::Memory, None),
];

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) random: fastrand::Rng,
    pub(super) disk: FaultyDisk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) core: Option<Core>,
    pub(super) queue: VecDeque<Request>,
    pub(super) clients: Vec<(usize, Client)>,
    pub(super) learnt: BTreeMap<(String, u32), Learnt>,
    pub(super) runs: Vec<Option<Ticket<Committed>>>,
    pub(super) plain: u64,
    /// Files that cannot be opened.
    pub(super) broken: Vec<Broken>,
    /// Partitions that the machine may have lost something of.
    pub(super) doubtful: BTreeSet<(String, u32)>,
    pub(super) trace: Vec<String>,
}

fn config() -> Config {
    Config {
        segment_bytes: 1500,
        journal_file_bytes: 6000,
        checkpoint_bytes: 1 << 40,
        checkpoint_interval: Duration::from_secs(1 << 30),
        tail_bytes: 400,
        tail_bytes_total: 1200,
        group_bytes: 600,
        headroom_bytes: 16 << 10,
        index_interval_bytes: 300,
        open_files_max: 3,
        sync_files_max: 4,
        state_bytes: 300,
        table_cache_bytes: 1 << 16,
        ..Config::default()
    }
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan) -> World {
        fastrand::seed(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let disk = FaultyDisk::new(random.u64(..));
        let clients = (0..4).map(|n| {
            let topic = [0, 0, 2, 0][n];
            (topic, Client::new(format!("c{n}"), u32::from(n == 1)))
        });
        World {
            seed,
            random,
            clients: clients.collect(),
            disk,
            clock: Arc::new(ManualClock::new(1_000_000)),
            core: None,
            queue: VecDeque::new(),
            learnt: BTreeMap::new(),
            runs: DEPLOYMENTS.iter().map(|_| None).collect(),
            plain: 0,
            plan,
            broken: Vec::new(),
            doubtful: BTreeSet::new(),
            trace: Vec::new(),
        }
    }

    /// Lives the history; returns what happened.
    pub(super) fn run(mut self) -> Vec<String> {
        if let Some(sync) = self.plan.crash_at_sync {
            self.set_faults(Faults {
                stop_at_sync: Some(sync),
                ..Faults::default()
            });
        }
        self.open();
        for _ in 0..self.plan.steps {
            self.step();
            if self.disk.is_stopped() {
                self.crash(CrashKind::Machine);
            }
        }
        self.finish();
        self.trace
    }

    /// What shall go wrong, besides what is broken.
    pub(super) fn set_faults(&self, faults: Faults) {
        self.disk.set_faults(Faults {
            broken: self.broken.clone(),
            ..faults
        });
    }

    /// Notes that the machine has stopped.
    pub(super) fn doubt(&mut self) {
        for (name, partitions, durability, _) in TOPICS {
            if durability == Durability::Memory {
                let all = (0..partitions).map(|number| (name.to_owned(), number));
                self.doubtful.extend(all);
            }
        }
    }

    /// The segments of some partition cannot be had any more, or all can again.
    fn break_or_mend(&mut self) {
        if self.random.bool() {
            self.broken.clear();
        } else {
            let (name, partitions, ..) = TOPICS[self.random.usize(..TOPICS.len())];
            let number = self.random.u32(..partitions);
            let partition = self.partition(name, number);
            let (topic, number) = partition.key();
            self.broken.push(Broken {
                call: Call::Open,
                path: format!("topics/{topic}/{number}/"),
                errno: [2, 13][self.random.usize(..2)],
            });
        }
        self.note(format!("broken {:?}", self.broken));
        self.set_faults(Faults::default());
    }

    /// Asks for the repair of every partition that is stopped.
    fn repair(&mut self) {
        if self.broken.iter().any(|broken| broken.errno == 2) {
            // What is gone would be given up.
            return;
        }
        for (name, partitions, ..) in TOPICS {
            for number in 0..partitions {
                let partition = self.partition(name, number);
                if partition.stopped().is_none() {
                    continue;
                }
                let (topic, partition) = partition.key();
                let commit = change(CatalogChange::Repair { topic, partition });
                let prepared = self.core().repairs.prepare(&commit);
                self.note(format!("repair {name} {number}: {prepared:?}"));
                if prepared.is_ok() {
                    drop(write(self.core(), commit));
                }
            }
        }
    }

    pub(super) fn core(&self) -> &Core {
        self.core.as_ref().expect("the store is open between steps")
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        let what = what.into();
        if std::env::var_os("EDDY_TRACE").is_some() {
            eprintln!("{} {what}", self.trace.len());
        }
        self.trace.push(what);
    }

    /// Opens the store, over crashes, and makes the topics.
    fn open(&mut self) {
        loop {
            let disk = Arc::new(self.disk.clone());
            let opened = recovery::open(config(), disk, self.clock.clone(), Box::new(|_| {}));
            match opened {
                Ok(core) => self.core = Some(core),
                Err(error) => {
                    assert!(
                        self.disk.is_stopped() || self.disk_is_limited(),
                        "seed {}: {error}",
                        self.seed
                    );
                    self.note(format!("open failed: {error}"));
                    self.disk.crash(if self.disk.is_stopped() {
                        CrashKind::Machine
                    } else {
                        CrashKind::Process
                    });
                    self.doubt();
                    continue;
                }
            }
            if self.make_topics() {
                break;
            }
            self.disk.crash(CrashKind::Machine);
            self.core = None;
            self.doubt();
        }
        self.check();
    }

    pub(super) fn disk_is_limited(&self) -> bool {
        self.plan.full_percent > 0
    }

    fn make_topics(&mut self) -> bool {
        for (name, partitions, durability, retention_bytes) in TOPICS {
            if self.topic(name).is_some() {
                continue;
            }
            let settings = TopicSettings {
                durability,
                retention_bytes,
                ..TopicSettings::default()
            };
            let name = TopicName::parse(name).expect("the name is plain");
            let create = CatalogChange::Create {
                name,
                partitions,
                settings,
            };
            let mut ticket = write(self.core(), change(create));
            self.core().committer.sync();
            match ticket.try_take().expect("a sync answers") {
                Ok(_) => {}
                Err(error) => {
                    assert!(self.disk.is_stopped(), "{error}");
                    return false;
                }
            }
        }
        true
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.core()
            .context
            .catalog
            .topics
            .by_name(&TopicName::parse(name).expect("the name is plain"))
    }

    pub(super) fn partition(&self, name: &str, number: u32) -> Arc<Partition> {
        let topic = self.topic(name).expect("the topics were made");
        let partition = self.core().context.catalog.partition(topic.id(), number);
        partition.expect("the topics were made")
    }

    fn step(&mut self) {
        if self.random.u8(..100) < self.plan.crash_percent {
            self.plan_crash();
        }
        if self.random.u8(..100) < self.plan.full_percent {
            let most = [30_000, 3_000][self.random.usize(..2)];
            let free = self.random.u64(..most);
            let hide_free_bytes = self.random.bool();
            self.note(format!("{free} bytes left"));
            let bytes_max = Some(self.disk.used_bytes() + free);
            self.set_faults(Faults {
                bytes_max,
                hide_free_bytes,
                ..Faults::default()
            });
        }
        if self.random.u8(..100) < self.plan.unwritable_percent {
            match self.random.u8(..3) {
                0 => self.repair(),
                _ => self.break_or_mend(),
            }
        }
        match self.random.u8(..100) {
            0..25 => self.produce(),
            25..30 => self.produce_plain(),
            30..52 => self.write(),
            52..66 => self.sync(),
            66..74 => {
                let applied = self.core().applier.apply();
                self.note(format!("apply {applied:?}"));
            }
            74..84 => self.deploy(),
            84..88 => {
                let outcome = self.core().checkpoints.make();
                self.note(format!("checkpoint {outcome:?}"));
            }
            88..90 => {
                let removed = self.core().retention.retain();
                self.note(format!("retained {removed}"));
            }
            90..92 => {
                let lost = self.random.usize(..self.clients.len());
                self.clients[lost].1.lose_answers();
            }
            92..93 => self.check(),
            93..94 => self.core().committer.prepare_next_file(),
            94..95 if self.plan.full_percent > 0 => self.set_faults(Faults::default()),
            _ => self.clock.advance(self.random.i64(1..1000)),
        }
        self.poll();
    }

    fn plan_crash(&mut self) {
        if self.random.u8(..3) == 0 {
            let kind = if self.random.bool() {
                CrashKind::Process
            } else {
                CrashKind::Machine
            };
            return self.crash(kind);
        }
        let stop_at_operation = Some(self.disk.operations() + self.random.u64(1..40));
        self.set_faults(Faults {
            stop_at_operation,
            ..Faults::default()
        });
    }

    fn produce(&mut self) {
        let chosen = self.random.usize(..self.clients.len());
        let now_ms = self.clock.now();
        let topic = self
            .topic(TOPICS[self.clients[chosen].0].0)
            .expect("the topics were made");
        let requests = self.clients[chosen]
            .1
            .step(topic.id(), &mut self.random, now_ms);
        self.queue.extend(requests);
    }

    /// A commit without a producer, into a memory topic, sometimes also into another one.
    fn produce_plain(&mut self) {
        self.plain += 1;
        let values = vec![format!("plain:{}", self.plain)];
        let topic = self.topic("memory").expect("the topics were made").id();
        let append = Append {
            topic,
            partition: 0,
            batch: batch(&values, None, self.clock.now()),
        };
        let (reply, _) = ticket();
        self.queue.push_back(Request::Commit {
            commit: Commit {
                appends: vec![append],
                ..Commit::default()
            },
            reply,
        });
    }

    fn write(&mut self) {
        let count = self.random.usize(..=self.queue.len());
        let requests: Vec<Request> = self.queue.drain(..count).collect();
        self.note(format!("write {count}"));
        self.core().committer.write(requests);
    }

    /// A sync, sometimes with a write beside it.
    fn sync(&mut self) {
        if self.random.bool() {
            return self.core().committer.sync();
        }
        let job = self.core().committer.sync_queue.begin();
        self.write();
        let result = job.run(&self.disk);
        self.core().committer.finish_sync(&job, result);
    }

    fn poll(&mut self) {
        for (topic, client) in &mut self.clients {
            for acknowledged in client.poll() {
                let learnt = self
                    .learnt
                    .entry((TOPICS[*topic].0.to_owned(), client.partition))
                    .or_default();
                if let Some(offset) = acknowledged.offset {
                    learnt.acknowledged(offset, &acknowledged.values);
                }
            }
        }
        for run in &mut self.runs {
            match run.as_mut().and_then(Ticket::try_take) {
                None => continue,
                Some(
                    Ok(_)
                    | Err(
                        CommitError::DiskFull
                        | CommitError::Stopped { .. }
                        | CommitError::Table(TableError::Io { .. })
                        | CommitError::StorageFailed(_)
                        | CommitError::Closed,
                    ),
                ) => {}
                Some(Err(error)) => panic!("a deployment's commit: {error}"),
            }
            *run = None;
        }
    }

    fn crash(&mut self, kind: CrashKind) {
        self.note(format!(
            "crash {kind:?} at operation {}",
            self.disk.operations()
        ));
        // The disk first: what the core does when it is dropped must not reach it.
        self.disk.crash(kind);
        self.core = None;
        self.queue.clear();
        if self.random.bool() {
            self.broken.clear();
        }
        self.set_faults(Faults::default());
        if kind == CrashKind::Machine {
            self.doubt();
        }
        self.poll();
        self.clients
            .iter_mut()
            .for_each(|(_, client)| client.lose_answers());
        self.runs.iter_mut().for_each(|run| *run = None);
        if self.random.u8(..4) == 0 {
            let stop_at_operation = Some(self.disk.operations() + self.random.u64(1..60));
            self.set_faults(Faults {
                stop_at_operation,
                ..Faults::default()
            });
        }
        if self.random.u8(..6) == 0 {
            self.recover_twice();
        }
        self.open();
    }

    /// Recovery, a crash, and recovery again give the same.
    fn recover_twice(&mut self) {
        let fork = self.disk.fork();
        fork.set_faults(Faults::default());
        let open = || {
            recovery::open(
                config(),
                Arc::new(fork.clone()),
                self.clock.clone(),
                Box::new(|_| {}),
            )
        };
        let first = dump(&open().expect("a crash is recovered from"));
        fork.crash(CrashKind::Process);
        let second = dump(&open().expect("a crash is recovered from"));
        assert_eq!(
            first, second,
            "seed {}: recovered twice is not the same",
            self.seed
        );
    }

    /// Everything that waits is done, the store is closed and opened, and all is right.
    fn finish(&mut self) {
        self.broken.clear();
        self.set_faults(Faults::default());
        if self.disk.is_stopped() || self.core().context.failure().is_some() {
            self.crash(CrashKind::Machine);
            self.set_faults(Faults::default());
        }
        for round in 0.. {
            assert!(
                round < 1000,
                "seed {}: the store does not settle",
                self.seed
            );
            if self.core.is_none()
                || self.disk.is_stopped()
                || self.core().context.failure().is_some()
            {
                self.crash(CrashKind::Machine);
            }
            self.set_faults(Faults::default());
            self.core().committer.look_for_room();
            self.settle();
            self.repair();
            for chosen in 0..self.clients.len() {
                self.clients[chosen].1.wants_to_finish();
                if !self.clients[chosen].1.is_idle() {
                    let topic = self
                        .topic(TOPICS[self.clients[chosen].0].0)
                        .expect("the topics were made")
                        .id();
                    let requests =
                        self.clients[chosen]
                            .1
                            .step(topic, &mut self.random, self.clock.now());
                    self.queue.extend(requests);
                }
            }
            self.settle();
            let is_served = self
                .core()
                .context
                .catalog
                .topics
                .all()
                .iter()
                .all(|topic| {
                    let partitions = topic.partitions();
                    partitions.iter().all(|it| it.stopped().is_none())
                });
            if is_served && self.clients.iter().all(|(_, client)| client.is_idle()) {
                break;
            }
        }
        assert_eq!(self.core().health(), Health::Ok, "seed {}", self.seed);
        self.check();
        self.check_deployments();
        let before = dump(self.core());
        let outcome = self.core().checkpoints.close();
        assert_eq!(outcome, crate::store::checkpoint::CheckpointOutcome::Done);
        self.core = None;
        self.disk.crash(CrashKind::Machine);
        self.open();
        assert_eq!(
            dump(self.core()),
            before,
            "seed {}: closing changed something",
            self.seed
        );
        self.check_deployments();
        for (path, bytes) in self.disk.files() {
            let content = self.disk.content(&path).unwrap_or_default();
            self.note(format!("{path} {bytes} {:08x}", crc32c::crc32c(&content)));
        }
        let (operations, syncs) = (self.disk.operations(), self.disk.syncs());
        self.note(format!("{operations} operations, {syncs} syncs"));
    }

    fn settle(&mut self) {
        let requests = self.queue.drain(..).collect();
        self.core().committer.write(requests);
        self.core().committer.sync();
        self.core().applier.apply_all();
        self.poll();
    }
}

pub(super) trait Now {
    fn now(&self) -> i64;
}

impl Now for Arc<ManualClock> {
    fn now(&self) -> i64 {
        crate::io::Clock::now_ms(&**self)
    }
}
