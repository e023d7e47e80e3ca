//! The keys of the rows that hold states: a number, then the store's name
//! (deployment | instance u32be | store, the names with their length (u8) before
//! them). Under 208 the key follows, and the value is the row's; a row under 209
//! says that the store lost something.

use bytes::{BufMut, Bytes};

use crate::log::{Deletion, StateId};

const VALUE: u8 = 208;
pub(super) const LOST: u8 = 209;

/// What the keys of a store's rows begin with.
pub(super) fn prefix(id: &StateId) -> Bytes {
    named(VALUE, id)
}

pub(super) fn lost_key(id: &StateId) -> Bytes {
    named(LOST, id)
}

fn named(number: u8, id: &StateId) -> Bytes {
    let mut out = vec![number];
    put_name(&mut out, &id.deployment);
    out.put_u32(id.instance);
    put_name(&mut out, &id.store);
    out.into()
}

pub(super) fn parse_prefix(bytes: &[u8]) -> Option<StateId> {
    fn name<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
        let length = usize::from(*bytes.split_off_first()?);
        std::str::from_utf8(bytes.split_off(..length)?).ok()
    }
    let mut rest = bytes;
    let deployment = name(&mut rest)?;
    let instance = rest.split_off(..4)?.try_into().ok()?;
    StateId::new(deployment, u32::from_be_bytes(instance), name(&mut rest)?)
}

pub(super) fn deletion_prefixes(deletion: &Deletion) -> [Bytes; 2] {
    [VALUE, LOST].map(|number| {
        let mut out = vec![number];
        put_name(&mut out, &deletion.deployment);
        if let Some(instance) = deletion.instance {
            out.put_u32(instance);
        }
        out.into()
    })
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.put_u8(u8::try_from(name.len()).expect("a name has at most 255 bytes"));
    out.put_slice(name.as_bytes());
}

pub(super) fn row_key(id: &StateId, key: &[u8]) -> Bytes {
    [&prefix(id)[..], key].concat().into()
}
