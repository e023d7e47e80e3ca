//! "Did you mean": the known name nearest to a mistyped one.

/// The candidate that fewest edits turn `name` into, if they are few enough
/// for a slip of the finger; else one that ends in the same word.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let near = candidates
        .clone()
        .map(|candidate| (edits(name, candidate), candidate))
        .min()?;
    if near.0 <= 1 + name.len() / 5 {
        return Some(near.1);
    }
    let last = name.rsplit('.').next()?;
    candidates
        .into_iter()
        .find(|candidate| candidate.rsplit('.').next() == Some(last))
}

/// Levenshtein's distance, one row at a time.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_edits() {
        for (a, b, distance) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(edits(a, b), distance, "{a:?} to {b:?}");
        }
    }

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        let known = ["server.listen", "store.segment_bytes", "http.body_timeout"];
        for (given, meant) in [
            ("server.lissten", Some("server.listen")),
            ("store.segment_byte", Some("store.segment_bytes")),
            ("listen", Some("server.listen")),
            ("store.listen", Some("server.listen")),
            ("colour", None),
        ] {
            assert_eq!(nearest(given, known.iter().copied()), meant, "{given}");
        }
    }
}
