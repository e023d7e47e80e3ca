//! Which partition a key belongs to: as Kafka's default partitioner has it, so
//! that keys land where they would in Kafka.

/// Kafka's murmur2 (`org.apache.kafka.common.utils.Utils.murmur2`): 32 bits,
/// seed 0x9747b28c.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;

    // Java's `int` wraps; so does the length here.
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let last = tail
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ hash >> 15) as i32
}

/// The partition, of `partitions` (at least 1), that records of this key go to.
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) as u32 & 0x7fff_ffff) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values in the tests of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_that_of_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn a_key_stays_within_the_partitions() {
        for partitions in [1, 3, 1024] {
            for key in 0..200u32 {
                assert!(partition_for_key(&key.to_be_bytes(), partitions) < partitions);
            }
        }
        assert_eq!(
            partition_for_key(b"21", 10),
            (-973_932_308_i32 as u32 & 0x7fff_ffff) % 10
        );
    }
}
