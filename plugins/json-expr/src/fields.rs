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

/// The range of a field that may still come: no field's text begins and ends at the same place.
const OPEN: (u32, u32) = (0, 0);
/// The range of a field that is missing for sure.
const CLOSED: (u32, u32) = (1, 1);

/// Where the fields are in the value that was looked at last. Keeps its memory from one to the next.
#[derive(Debug, Default)]
pub struct Found {
    /// Begin and end of each field's text; equal where it is missing.
    ranges: Vec<(u32, u32)>,
    missing: usize,
}

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

    /// Looks the fields up in a value. Reads no further than to the last of them.
    pub fn find(&self, json: &[u8], found: &mut Found) -> Result<(), NotJson> {
        self.miss(found);
        // Without a field to look for there is no reason to look; what is found lies within 4 GiB.
        if self.slots == 0 || u32::try_from(json.len()).is_err() {
            return Ok(());
        }
        scan::find(json, &self.root, found)
    }

    /// As if the value had none of the fields.
    pub fn miss(&self, found: &mut Found) {
        found.ranges.clear();
        found.ranges.resize(self.slots, OPEN);
        found.missing = self.slots;
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

    /// The first of several members of one name is the one that counts.
    #[inline]
    pub(crate) fn put(&mut self, slot: Slot, begin: usize, end: usize) {
        let range = &mut self.ranges[slot.0];
        if *range == OPEN {
            *range = (begin as u32, end as u32);
            self.missing -= 1;
        }
    }

    /// A member has been looked into: what it hasn't got, a later one of its name can't bring.
    #[inline]
    pub(crate) fn close(&mut self, wanted: &Wanted) {
        if let Some(slot) = wanted.slot
            && self.ranges[slot.0] == OPEN
        {
            self.ranges[slot.0] = CLOSED;
            self.missing -= 1;
        }
        let members = wanted.members.iter().map(|(_, part)| part);
        let parts = members.chain(wanted.items.iter().map(|(_, part)| part));
        parts.for_each(|part| self.close(part));
    }

    #[inline]
    pub(crate) fn is_complete(&self) -> bool {
        self.missing == 0
    }
}
