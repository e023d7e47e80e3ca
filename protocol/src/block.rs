//! How frames grow: in the binary form a struct is a block, which has its
//! length before its fields.
//!
//! ```text
//! length (varint) | field | field | … | fields of a newer release
//! ```
//!
//! A reader passes over what stands behind the fields that it knows, and gives
//! those that the writer did not know their default. Fields are only ever
//! added at the end.

use bincode::Decode;
use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use bincode::de::Decoder;
use bincode::de::read::Reader;
use bincode::enc::write::SizeWriter;
use bincode::enc::{Encode, Encoder, EncoderImpl};
use bincode::error::{DecodeError, EncodeError};

/// In memory an element of a list takes at most so many times the bytes that it
/// takes in a message.
const GROWTH_MAX: usize = 32;

/// Writes a tuple of fields as a block. They are counted before they are
/// written, rather than written elsewhere and copied: there may be megabytes of
/// records among them.
pub(crate) fn write<E: Encoder, T: Encode>(fields: &T, encoder: &mut E) -> Result<(), EncodeError> {
    let mut counter = EncoderImpl::new(SizeWriter::default(), standard());
    fields.encode(&mut counter)?;
    (counter.into_writer().bytes_written as u64).encode(encoder)?;
    fields.encode(encoder)
}

/// Reads a block as a tuple of fields.
pub(crate) fn read<T: Decode<()>, D: Decoder>(decoder: &mut D) -> Result<T, DecodeError> {
    let length = u64::decode(decoder)?;
    let length = usize::try_from(length).map_err(|_| DecodeError::OutsideUsizeRange(length))?;
    let Some(block) = decoder.reader().peek_read(length) else {
        return Err(DecodeError::UnexpectedEnd { additional: length });
    };
    let (fields, _) = decode_prefix(block)?;
    decoder.reader().consume(length);
    Ok(fields)
}

/// A field that a later release added: none where the block ends before it.
pub(crate) struct Added<T>(pub(crate) Option<T>);

impl<C, T: Decode<C>> Decode<C> for Added<T> {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        if decoder.reader().peek_read(1).is_none() {
            return Ok(Added(None));
        }
        T::decode(decoder).map(|value| Added(Some(value)))
    }
}

/// Decodes what `bytes` begin with, and says how many it took, under a limit to
/// what bincode reserves for strings and lists: otherwise it trusts their
/// lengths. (Batches are not under it; they are looked at before they are
/// copied.) The limit is part of bincode's type; hence the steps.
pub(crate) fn decode_prefix<T: Decode<()>>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    fn under<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
        let config: Configuration<LittleEndian, Varint, Limit<LIMIT>> = standard().with_limit();
        bincode::decode_from_slice(bytes, config)
    }
    const STEP_1: usize = 4 << 10;
    const STEP_2: usize = 64 << 10;
    const STEP_3: usize = 512 << 10;
    const STEP_4: usize = 4 << 20;
    const STEP_5: usize = 32 << 20;
    const STEP_6: usize = 256 << 20;
    match bytes.len().saturating_mul(GROWTH_MAX) {
        needed if needed <= STEP_1 => under::<T, STEP_1>(bytes),
        needed if needed <= STEP_2 => under::<T, STEP_2>(bytes),
        needed if needed <= STEP_3 => under::<T, STEP_3>(bytes),
        needed if needed <= STEP_4 => under::<T, STEP_4>(bytes),
        needed if needed <= STEP_5 => under::<T, STEP_5>(bytes),
        _ => under::<T, STEP_6>(bytes),
    }
}

/// A struct as a block of the fields named, in this order; those behind the
/// semicolon were added after the first release, with what their absence means
/// where that is not the type's default.
macro_rules! block {
    (@or $added:ident) => { $added.unwrap_or_default() };
    (@or $added:ident $default:expr) => { $added.unwrap_or($default) };
    ($name:ident { $($field:ident),* $(; $($added:ident $(= $default:expr)?),+)? }) => {
        impl bincode::Encode for $name {
            fn encode<E: bincode::enc::Encoder>(
                &self,
                encoder: &mut E,
            ) -> Result<(), bincode::error::EncodeError> {
                let Self { $($field,)* $($($added,)+)? } = self;
                $crate::block::write(&($($field,)* $($($added,)+)?), encoder)
            }
        }

        impl<C> bincode::Decode<C> for $name {
            fn decode<D: bincode::de::Decoder<Context = C>>(
                decoder: &mut D,
            ) -> Result<Self, bincode::error::DecodeError> {
                let ($($field,)* $($($crate::block::Added($added),)+)?) =
                    $crate::block::read(decoder)?;
                Ok(Self {
                    $($field,)*
                    $($($added: $crate::block::block!(@or $added $($default)?),)+)?
                })
            }
        }

        bincode::impl_borrow_decode!($name);
    };
}

/// An enum as the number of the variant and a block. The names are those in JSON.
macro_rules! variants {
    ($name:ident {
        $($number:literal $text:literal = $variant:ident $(($block:ident))? $({ $($field:ident),* })?;)*
    }) => {
        impl $name {
            /// What its variants are called in JSON and as capabilities.
            pub const NAMES: &[&str] = &[$($text),*];
        }

        impl bincode::Encode for $name {
            fn encode<E: bincode::enc::Encoder>(
                &self,
                encoder: &mut E,
            ) -> Result<(), bincode::error::EncodeError> {
                match self {
                    $($name::$variant $(($block))? $({ $($field),* })? => {
                        <u32 as bincode::Encode>::encode(&$number, encoder)?;
                        $(bincode::Encode::encode($block, encoder))?
                        $($crate::block::write(&($($field,)*), encoder))?
                    })*
                }
            }
        }

        impl<C> bincode::Decode<C> for $name {
            fn decode<D: bincode::de::Decoder<Context = C>>(
                decoder: &mut D,
            ) -> Result<Self, bincode::error::DecodeError> {
                match <u32 as bincode::Decode<C>>::decode(decoder)? {
                    $($number => {
                        $(let $block = bincode::Decode::decode(decoder)?;)?
                        $(let ($($field,)*) = $crate::block::read(decoder)?;)?
                        Ok($name::$variant $(($block))? $({ $($field),* })?)
                    })*
                    found => Err(bincode::error::DecodeError::UnexpectedVariant {
                        type_name: stringify!($name),
                        allowed: &bincode::error::AllowedEnumVariants::Allowed(&[$($number),*]),
                        found,
                    }),
                }
            }
        }

        bincode::impl_borrow_decode!($name);
    };
}

pub(crate) use {block, variants};

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Older {
        name: String,
        sizes: Vec<u32>,
    }

    #[derive(Debug, Clone, PartialEq)]
    struct Newer {
        name: String,
        sizes: Vec<u32>,
        limit: Option<u64>,
        inner: OlderInner,
    }

    #[derive(Debug, Clone, PartialEq, Default)]
    struct OlderInner {
        on: bool,
    }

    #[derive(Debug, Clone, PartialEq, Default)]
    struct NewerInner {
        on: bool,
        why: String,
    }

    block!(Older { name, sizes });
    block!(Newer { name, sizes; limit, inner });
    block!(OlderInner { on });
    block!(NewerInner { on; why });

    fn bytes<T: Encode>(value: &T) -> Vec<u8> {
        bincode::encode_to_vec(value, standard()).expect("it can be written to memory")
    }

    fn read_all<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
        decode_prefix(bytes).map(|(value, used)| {
            assert_eq!(used, bytes.len());
            value
        })
    }

    fn older() -> Older {
        Older {
            name: "n".into(),
            sizes: vec![1, 300],
        }
    }

    fn newer() -> Newer {
        Newer {
            name: "n".into(),
            sizes: vec![1, 300],
            limit: Some(7),
            inner: OlderInner { on: true },
        }
    }

    #[test]
    fn an_older_reader_passes_over_the_fields_of_a_newer_writer() {
        assert_eq!(read_all::<Older>(&bytes(&newer())).ok(), Some(older()));
    }

    #[test]
    fn a_newer_reader_gives_what_an_older_writer_left_out_its_default() {
        let read = read_all::<Newer>(&bytes(&older())).expect("a block");
        let expected = Newer {
            limit: None,
            inner: OlderInner::default(),
            ..newer()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn what_follows_a_block_of_another_release_is_read_all_the_same() {
        let ours = (newer(), 7u32, older());
        let theirs = read_all::<(Older, u32, Newer)>(&bytes(&ours)).expect("three values");
        assert_eq!((theirs.0, theirs.1), (older(), 7));
        let inner = vec![
            NewerInner {
                on: true,
                why: "w".into(),
            };
            3
        ];
        let read = read_all::<Vec<OlderInner>>(&bytes(&inner)).expect("a list");
        assert_eq!(read, vec![OlderInner { on: true }; 3]);
        let read = read_all::<Vec<NewerInner>>(&bytes(&read)).expect("a list");
        assert!(read.iter().all(|inner| inner.on && inner.why.is_empty()));
    }

    #[test]
    fn a_field_that_is_cut_short_is_an_error() {
        let whole = bytes(&newer());
        // Cut within `limit`, the length put right.
        let mut cut = whole[..whole.len() - 3].to_vec();
        cut[0] -= 3;
        assert!(read_all::<Newer>(&cut).is_err());
        assert_eq!(read_all::<Older>(&cut).ok(), Some(older()));
        // The length says more than there is.
        assert!(read_all::<Older>(&whole[..whole.len() - 1]).is_err());
        assert!(read_all::<Older>(&[0]).is_err(), "`name` is required");
    }
}
