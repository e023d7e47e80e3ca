//! Fields of several types in one JSON object, read as they come.
//!
//! serde's own `flatten` first reads the whole object into values, in which a
//! number's text is lost ([`JsonBytes`](crate::batch::json::JsonBytes) keeps
//! it), and copies every record once more. It still writes them.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

/// Some fields of an object.
pub(crate) trait Fields<'de>: Default {
    /// Reads the value of the field `name` from `map`, if it is one of these.
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// Reads a field's value, which may come only once.
pub(crate) fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    place: &mut Option<T>,
    name: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if place.is_some() {
        return Err(A::Error::duplicate_field(name));
    }
    *place = Some(map.next_value()?);
    Ok(())
}

/// No field in particular.
#[derive(Default)]
pub(crate) struct Nothing;

impl<'de> Fields<'de> for Nothing {
    fn take<A: MapAccess<'de>>(&mut self, _: &str, _: &mut A) -> Result<bool, A::Error> {
        Ok(false)
    }
}

/// An enum that stands in an object with fields that nobody knows beside it.
pub(crate) struct Alone<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Alone<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        beside(deserializer).map(|(value, Nothing)| Alone(value))
    }
}

/// An object that is `T` with the fields `F` beside its own. An enum stands in
/// it as the field that is named after one of its variants; there may be only
/// one such field.
pub(crate) fn beside<'de, T, F, D>(deserializer: D) -> Result<(T, F), D::Error>
where
    T: Deserialize<'de>,
    F: Fields<'de>,
    D: Deserializer<'de>,
{
    struct Object<T, F>(PhantomData<(T, F)>);

    impl<'de, T: Deserialize<'de>, F: Fields<'de>> Visitor<'de> for Object<T, F> {
        type Value = (T, F);

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(T, F), A::Error> {
            let mut sieve = Sieve {
                map,
                fields: F::default(),
                variants: None,
                variant: None,
                other: None,
            };
            let rest = T::deserialize(&mut sieve)?;
            // An enum has left what stands behind it.
            while sieve.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok((rest, sieve.fields))
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}

/// Lets through what is not among `fields`; of an enum only its variant.
struct Sieve<A, F> {
    map: A,
    fields: F,
    /// Of the enum, if it is one.
    variants: Option<&'static [&'static str]>,
    /// The one that was found.
    variant: Option<String>,
    /// The first field that is none.
    other: Option<String>,
}

impl<A, F> Sieve<A, F> {
    /// Whether a field is let through.
    fn admits<E: Error>(&mut self, name: &str) -> Result<bool, E> {
        let Some(variants) = self.variants else {
            return Ok(true);
        };
        if !variants.contains(&name) {
            self.other.get_or_insert_with(|| name.to_owned());
            return Ok(false);
        }
        match self.variant.replace(name.to_owned()) {
            None => Ok(true),
            Some(first) if first == name => Err(E::custom(format_args!("`{name}` is there twice"))),
            Some(first) => Err(E::custom(format_args!(
                "`{first}` and `{name}` are in one frame, which holds one of them"
            ))),
        }
    }

    /// What is wrong with an object that has ended, if something is.
    fn ended<E: Error>(&self) -> Result<(), E> {
        match (self.variants, &self.variant, &self.other) {
            (Some(variants), None, Some(other)) => Err(E::unknown_variant(other, variants)),
            (Some(variants), None, None) => Err(E::custom(format_args!(
                "the frame names nothing; expected is one of `{}`",
                variants.join("`, `")
            ))),
            _ => Ok(()),
        }
    }
}

impl<'de, A: MapAccess<'de>, F: Fields<'de>> MapAccess<'de> for Sieve<A, F> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.map.next_key::<String>()? {
            if self.fields.take(&name, &mut self.map)? {
                continue;
            }
            if self.admits(&name)? {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            self.map.next_value::<IgnoredAny>()?;
        }
        self.ended().map(|()| None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

impl<'de, A: MapAccess<'de>, F: Fields<'de>> Deserializer<'de> for &mut Sieve<A, F> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.variants = Some(variants);
        visitor.visit_enum(MapAccessDeserializer::new(self))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The `id` of a request and of its answer.
#[derive(Default)]
pub(crate) struct Id(Option<u32>);

/// How much of a wrong value is shown.
const SHOWN_CHARS_MAX: usize = 40;

impl<'de> Fields<'de> for Id {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        if name != "id" {
            return Ok(false);
        }
        if self.0.is_some() {
            return Err(A::Error::duplicate_field("id"));
        }
        // The text itself, so that the sentence can show it.
        let text = map.next_value::<&RawValue>()?.get();
        let id = text.parse().map_err(|_| {
            let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
            A::Error::custom(format_args!(
                "`id` is {shown}, it must be a whole number from 0 to {}",
                u32::MAX
            ))
        })?;
        self.0 = Some(id);
        Ok(true)
    }
}

/// A struct out of an object alone, and never out of an array of its fields,
/// which serde takes as well.
pub struct Object<D>(pub D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Object<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Structs that JSON has as [objects](Object); their derived implementations are
/// marked `#[serde(remote = "Self")]`, which keeps them for these to use.
macro_rules! objects {
    ($($name:ident),* $(,)?) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $name::deserialize($crate::flat::Object(deserializer))
            }
        }
    )*};
}

pub(crate) use objects;

/// A map in which each name may stand only once.
pub(crate) fn unique<'de, V, D>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Unique<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object or null")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, V>()? {
                if entries.contains_key(&name) {
                    return Err(A::Error::custom(format_args!("`{name}` is there twice")));
                }
                entries.insert(name, value);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_any(Unique(PhantomData))
}

/// An `id`, and what stands beside it.
pub(crate) fn with_id<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<(u32, T), D::Error> {
    let (rest, Id(id)) = beside(deserializer)?;
    Ok((id.ok_or_else(|| D::Error::missing_field("id"))?, rest))
}

/// A value whose default may also be written as null.
pub(crate) fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
