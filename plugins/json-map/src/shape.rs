//! Which members a new value has, in which order, and where each comes from.

use std::collections::{BTreeMap, BTreeSet};

use eddy_guest::{Context, ParamError};
use json_expr::{Env, Expr, Fields, Members, NotJson, Path, write_string};

use crate::{expression, misread};

/// The members taken over from the old value, then those that are computed.
pub(crate) struct Shape {
    taken: Taken,
    computed: Vec<Computed>,
}

enum Taken {
    /// These, in this order; those that are missing are left out.
    Selected(Vec<Computed>),
    /// All but the dropped, each under its own name or a new one, which is written as `Computed`'s is.
    Rest {
        dropped: BTreeSet<Vec<u8>>,
        renamed: BTreeMap<Vec<u8>, Vec<u8>>,
    },
}

/// A member of the new value, its name already written as JSON, with the colon.
struct Computed {
    name: Vec<u8>,
    expr: Expr,
}

impl Computed {
    fn new(name: &str, expr: Expr) -> Self {
        Self {
            name: written(name),
            expr,
        }
    }
}

/// A name as JSON, with the colon.
fn written(name: &str) -> Vec<u8> {
    let mut written = Vec::new();
    write_string(name.as_bytes(), &mut written);
    written.push(b':');
    written
}

impl Shape {
    pub(crate) fn new(context: &Context, fields: &mut Fields) -> Result<Self, ParamError> {
        let set: BTreeMap<_, _> = context.params_under("set.").collect();
        let renames: BTreeMap<_, _> = context.params_under("rename.").collect();
        let drop = context.optional("drop");
        let taken = match context.optional("select") {
            None => {
                refuse_doubles(&renames, &set)?;
                rest(drop, &renames, set.keys().copied())
            }
            Some(_) if drop.is_some() || !renames.is_empty() => {
                let problem = "with it, `drop` and `rename.…` have nothing to do; a selected field gets a new name with `as`";
                return Err(ParamError::invalid("select", problem));
            }
            Some(select) => selected(select, &set, fields)?,
        };
        let computed = set.iter().map(|(name, text)| {
            let expr = expression(&format!("set.{name}"), text, fields)?;
            Ok(Computed::new(name, expr))
        });
        Ok(Self {
            computed: computed.collect::<Result<_, ParamError>>()?,
            taken,
        })
    }

    /// Appends the new value.
    pub(crate) fn write(
        &self,
        json: &[u8],
        env: &Env<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), NotJson> {
        out.push(b'{');
        match &self.taken {
            Taken::Selected(selected) => {
                // No more than a look at it: the fields have been found already, and all of it is JSON.
                Members::of(json)?;
                for member in selected {
                    if let Some(text) = member.expr.field_text(env) {
                        write_member(&member.name, text, out);
                    }
                }
            }
            Taken::Rest { dropped, renamed } => {
                for member in Members::of(json)? {
                    let member = member?;
                    // No parameter can name a member whose name makes no text.
                    let name = member.name.as_deref();
                    match name.and_then(|name| renamed.get(name)) {
                        Some(new_name) => write_member(new_name, member.value, out),
                        None if name.is_some_and(|name| dropped.contains(name)) => {}
                        None => {
                            write_member(member.written, b":", out);
                            out.extend_from_slice(member.value);
                        }
                    }
                }
            }
        }
        for member in &self.computed {
            write_member(&member.name, b"", out);
            member.expr.write_json(env, out);
        }
        out.push(b'}');
        Ok(())
    }
}

/// Refuses renames that would give one name to two members.
fn refuse_doubles(
    renames: &BTreeMap<&str, &str>,
    set: &BTreeMap<&str, &str>,
) -> Result<(), ParamError> {
    let mut takers = BTreeMap::new();
    for (old, new) in renames {
        let parameter = format!("rename.{old}");
        let other = match set.contains_key(new) {
            true => Some(format!("set.{new}")),
            false => takers.insert(new, parameter.clone()),
        };
        if let Some(other) = other {
            let problem =
                format!("two members would be called `{new}`, this one and that of `{other}`");
            return Err(ParamError::invalid(&parameter, problem));
        }
    }
    Ok(())
}

/// A member that is renamed or computed takes the place of one that has its new name.
fn rest<'a>(
    drop: Option<&str>,
    renames: &BTreeMap<&str, &str>,
    set: impl Iterator<Item = &'a str>,
) -> Taken {
    let bytes = |name: &str| name.as_bytes().to_vec();
    let mut dropped: BTreeSet<_> = set.map(bytes).collect();
    dropped.extend(renames.values().map(|name| bytes(name)));
    dropped.extend(
        drop.into_iter()
            .flat_map(|names| names.split(','))
            .map(|name| bytes(name.trim())),
    );
    Taken::Rest {
        dropped,
        renamed: renames
            .iter()
            .map(|(old, new)| (bytes(old), written(new)))
            .collect(),
    }
}

fn selected(
    select: &str,
    set: &BTreeMap<&str, &str>,
    fields: &mut Fields,
) -> Result<Taken, ParamError> {
    let paths = Path::parse_list(select).map_err(|error| misread("select", &error))?;
    let mut names = BTreeSet::new();
    let mut members = Vec::new();
    for (path, name) in paths {
        if !names.insert(name.clone()) {
            let problem =
                format!("two fields would be called `{name}`; one needs another name with `as`");
            return Err(ParamError::invalid("select", problem));
        }
        if !set.contains_key(name.as_str()) {
            members.push(Computed::new(&name, Expr::field(&path, fields)));
        }
    }
    Ok(Taken::Selected(members))
}

fn write_member(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}
