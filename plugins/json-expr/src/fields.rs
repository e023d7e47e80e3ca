//! Which fields are wanted, and where in a value's text they were found.

use crate::path::{Path, Step};
use crate::scan::{self, NotJson};

/// The fields that a set of expressions names: looked for together, in one pass over each value.
#[derive(Debug, Default)]
pub struct Fields {
    pub(crate) root: Wanted,
    slots: usize,
}

/// The place of a field in [`Found`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub(crate) usize);

/// What is wanted of a value: itself, or parts of it.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) slot: Option<Slot>,
    pub(crate) members: Vec<(String, Wanted)>,
    pub(crate) items: Vec<(u32, Wanted)>,
}

/// Where the fields are in the value that was looked at last. Keeps its memory from one to the next.
#[derive(Debug, Default)]
pub struct Found {
    /// Begin and end of each field's text; equal where it is missing.
    ranges: Vec<(u32, u32)>,
}

/// The range of a field that is missing: no field's text begins and ends at the same place.
const MISSING: (u32, u32) = (0, 0);

impl Fields {
    /// Asks for a field. The same field asked for twice is looked for once.
    pub fn want(&mut self, path: &Path) -> Slot {
        let mut wanted = &mut self.root;
        for step in &path.steps {
            wanted = match step {
                Step::Member(name) => child(&mut wanted.members, name.clone()),
                Step::Item(number) => child(&mut wanted.items, *number),
            };
        }
        let slots = &mut self.slots;
        *wanted.slot.get_or_insert_with(|| {
            *slots += 1;
            Slot(*slots - 1)
        })
    }

    /// Whether no field was asked for.
    pub fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// Looks the fields up in a value, and checks that all of it is JSON.
    pub fn find(&self, json: &[u8], found: &mut Found) -> Result<(), NotJson> {
        self.miss(found);
        // What is found lies within 4 GiB; no record is as large.
        if u32::try_from(json.len()).is_err() {
            return Err(NotJson);
        }
        scan::find(json, &self.root, found)
    }

    /// As if the value had none of the fields.
    pub fn miss(&self, found: &mut Found) {
        found.ranges.clear();
        found.ranges.resize(self.slots, MISSING);
    }
}

fn child<K: PartialEq>(children: &mut Vec<(K, Wanted)>, key: K) -> &mut Wanted {
    let at = children
        .iter()
        .position(|(known, _)| *known == key)
        .unwrap_or_else(|| {
            children.push((key, Wanted::default()));
            children.len() - 1
        });
    &mut children[at].1
}

impl Wanted {
    pub(crate) fn has_parts(&self) -> bool {
        !self.members.is_empty() || !self.items.is_empty()
    }
}

impl Found {
    /// The text of a field, if the value has it.
    #[inline]
    pub fn text<'a>(&self, slot: Slot, json: &'a [u8]) -> Option<&'a [u8]> {
        let (begin, end) = *self.ranges.get(slot.0)?;
        json.get(begin as usize..end as usize)
            .filter(|text| !text.is_empty())
    }

    /// The last of several members of one name is the one that counts.
    #[inline]
    pub(crate) fn put(&mut self, slot: Slot, begin: usize, end: usize) {
        self.ranges[slot.0] = (begin as u32, end as u32);
    }

    /// A member begins: what an earlier one of its name had in it counts no more.
    #[inline]
    pub(crate) fn forget_parts(&mut self, wanted: &Wanted) {
        let members = wanted.members.iter().map(|(_, part)| part);
        for part in members.chain(wanted.items.iter().map(|(_, part)| part)) {
            if let Some(slot) = part.slot {
                self.ranges[slot.0] = MISSING;
            }
            self.forget_parts(part);
        }
    }
}
