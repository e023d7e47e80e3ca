//! States against a model, with little memory, a full disk and checkpoints in between.

use std::ops::Bound;

use super::*;
use crate::io::{Faults, FaultyDisk};
use crate::store::table::Changes;

type Model = BTreeMap<Bytes, Bytes>;

struct World {
    disk: FaultyDisk,
    tables: Tables,
    states: States,
    ids: Vec<StateId>,
    models: Vec<Model>,
    random: fastrand::Rng,
}

impl World {
    fn new(seed: u64) -> World {
        let disk = FaultyDisk::new(seed);
        World {
            tables: Tables::open(Arc::new(disk.clone()), 0).expect("the disk works"),
            disk,
            states: States::new(2_000),
            ids: [("a", 0, "s"), ("a", 0, "t"), ("a", 1, "s"), ("ab", 0, "s")]
                .iter()
                .filter_map(|(name, instance, store)| StateId::new(name, *instance, store))
                .collect(),
            models: vec![Model::new(); 4],
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("{:03}", self.random.u32(..150)).repeat(self.random.usize(1..3)))
    }

    fn step(&mut self) {
        let at = self.random.usize(..4);
        match self.random.u8(..20) {
            0 => self.delete(at),
            1..3 => self.checkpoint(),
            3..8 => self.scan(at),
            8..13 => self.get(at),
            _ => self.change(at),
        }
    }

    fn change(&mut self, at: usize) {
        let changes: Vec<(Bytes, Option<Bytes>)> = (0..self.random.usize(1..9))
            .map(|_| {
                let value = self.key();
                let is_kept = self.random.u8(..4) > 0;
                (self.key(), is_kept.then_some(value))
            })
            .collect();
        let slices: Vec<(&[u8], Option<&[u8]>)> = changes
            .iter()
            .map(|(key, value)| (&key[..], value.as_deref()))
            .collect();
        let state = self.ids[at].clone();
        let delta = Delta::of(&slices).expect("it is small");
        self.states.push(StateChange::Delta { state, delta });
        for (key, value) in changes {
            match value {
                Some(value) => self.models[at].insert(key, value),
                None => self.models[at].remove(&key),
            };
        }
    }

    fn delete(&mut self, at: usize) {
        let instance = self.random.bool().then_some(self.ids[at].instance);
        let deployment = self.ids[at].deployment.clone();
        let deletion = Deletion {
            deployment,
            instance,
        };
        for (id, model) in self.ids.iter().zip(&mut self.models) {
            if deletion.is_of(id) {
                model.clear();
            }
        }
        self.states.push(StateChange::Delete(deletion));
    }

    fn checkpoint(&mut self) {
        let collected = self.states.collect();
        if self.random.bool() {
            // It goes on while the checkpoint writes.
            let at = self.random.usize(..4);
            self.change(at);
        }
        let is_full = self.random.u8(..3) == 0;
        self.disk.set_faults(Faults {
            bytes_max: is_full.then(|| self.disk.used_bytes()),
            ..Faults::default()
        });
        let none = Changes::new();
        match self.tables.write(&none, &none, &collected) {
            Ok(()) => self.states.written(&collected),
            Err(_) => self.states.put_back(&collected),
        }
        self.disk.set_faults(Faults::default());
    }

    fn get(&mut self, at: usize) {
        let keys: Vec<Bytes> = (0..5).map(|_| self.key()).collect();
        let found = self.states.get(&self.tables, &self.ids[at], &keys);
        let expected = keys.iter().map(|key| self.models[at].get(key).cloned());
        assert_eq!(found, Ok(expected.collect()));
    }

    fn scan(&mut self, at: usize) {
        let (from, to) = (self.key(), self.random.bool().then(|| self.key()));
        let end = to.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let is_empty = to.as_ref().is_some_and(|to| *to <= from);
        let mut expected: Vec<(Bytes, Bytes)> = Vec::new();
        if !is_empty {
            let range = self.models[at].range((Bound::Included(from.clone()), end));
            expected.extend(range.map(|(key, value)| (key.clone(), value.clone())));
        }
        let (mut found, mut next) = (Vec::new(), Some(from));
        while let Some(from) = next {
            let page = self
                .states
                .scan(&self.tables, &self.ids[at], (from, to.clone()), 40);
            let page = page.expect("the disk works");
            found.extend(page.entries);
            next = page.next;
        }
        assert_eq!(found, expected);
    }
}

#[test]
fn a_state_is_what_its_deltas_say_however_little_memory_there_is() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
            world.states.apply_pending();
        }
        for at in 0..4 {
            world.get(at);
            world.scan(at);
        }
        world.checkpoint();
        world.checkpoint();
        assert!(world.states.bytes() < 100_000);
        // What is read anew from the tables is the same.
        let collected = world.states.collect();
        let none = Changes::new();
        let written = world.tables.write(&none, &none, &collected);
        written.expect("there is room");
        world.states = States::new(1 << 20);
        for at in 0..4 {
            world.scan(at);
            world.get(at);
        }
    }
}

#[test]
fn what_the_tables_have_leaves_memory_when_there_is_too_much() {
    let mut world = World::new(1);
    for _ in 0..100 {
        world.change(0);
    }
    world.states.apply_pending();
    assert!(world.states.is_full() && world.states.unwritten_bytes() > 2_000);
    let collected = world.states.collect();
    let none = Changes::new();
    let written = world.tables.write(&none, &none, &collected);
    written.expect("there is room");
    world.states.written(&collected);
    assert!(!world.states.is_full());
    assert_eq!(world.states.unwritten_bytes(), 0);
    world.scan(0);
}

#[test]
fn a_store_that_lost_something_says_so_until_it_is_deleted() {
    let world = World::new(1);
    let id = &world.ids[0];
    world.states.lose(id);
    let keys = [Bytes::from("k")];
    let none = Changes::new();
    for states in [&world.states, &States::new(0)] {
        states.read_lost(&world.tables).expect("the disk works");
        let error = states
            .get(&world.tables, id, &keys)
            .expect_err("it is lost");
        assert!(
            error.to_string().contains("store `s` of instance 0"),
            "{error}"
        );
        let collected = states.collect();
        let written = world.tables.write(&none, &none, &collected);
        written.expect("there is room");
        states.written(&collected);
    }
    let deletion = Deletion {
        deployment: "a".into(),
        instance: None,
    };
    world.states.push(StateChange::Delete(deletion));
    assert_eq!(world.states.get(&world.tables, id, &keys), Ok(vec![None]));
    let collected = world.states.collect();
    let written = world.tables.write(&none, &none, &collected);
    written.expect("there is room");
    let again = States::new(0);
    again.read_lost(&world.tables).expect("the disk works");
    assert_eq!(again.get(&world.tables, id, &keys), Ok(vec![None]));
}
