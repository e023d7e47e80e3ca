//! Keeps the records whose value has certain bytes in it. README.md has the parameters.

use eddy_guest::prelude::*;
use memchr::memmem::Finder;

/// What a value must have, and whether it must or must not.
pub struct ByteFilter {
    starts_with: Option<Vec<u8>>,
    contains: Option<Finder<'static>>,
    keep_matches: bool,
}

impl Filter for ByteFilter {
    fn new(context: &Context) -> Result<Self, String> {
        let starts_with = context
            .optional("starts_with")
            .map(|text| text.as_bytes().to_vec());
        let contains = context
            .optional("contains")
            .map(|text| Finder::new(text).into_owned());
        if starts_with.is_none() && contains.is_none() {
            return Err(
                "one of the parameters `starts_with` and `contains` has to be given".into(),
            );
        }
        let invert = context.parse_or("invert", false)?;
        Ok(Self {
            starts_with,
            contains,
            keep_matches: !invert,
        })
    }

    fn keep(&mut self, record: &Record<'_>) -> Result<bool, Failure> {
        Ok(record.value.is_some_and(|value| self.matches(value)) == self.keep_matches)
    }
}

impl ByteFilter {
    fn matches(&self, value: &[u8]) -> bool {
        self.starts_with
            .as_ref()
            .is_none_or(|start| value.starts_with(start))
            && self
                .contains
                .as_ref()
                .is_none_or(|finder| finder.find(value).is_some())
    }
}

register_plugin!(ByteFilter);

#[cfg(test)]
mod tests {
    use eddy_guest::testing::{TestHost, TestRecord};

    use super::*;

    #[track_caller]
    fn kept(params: &[(&str, &str)], expected: &[&str]) {
        let host = params.iter().fold(TestHost::new(), |host, (name, value)| {
            host.param(name, value)
        });
        let mut host = host.start::<ByteFilter, _>().unwrap();
        let sent = host.values(["alpha", "beta", "", "gamma"]).unwrap();
        assert_eq!(sent.values("out"), expected);
    }

    #[test]
    fn a_value_is_kept_for_how_it_starts_and_for_what_it_contains() {
        kept(&[("starts_with", "a")], &["alpha"]);
        kept(&[("contains", "ta")], &["beta"]);
        kept(&[("contains", "a"), ("starts_with", "g")], &["gamma"]);
        kept(&[("contains", "")], &["alpha", "beta", "", "gamma"]);
        kept(&[("contains", "alphabet")], &[]);
    }

    #[test]
    fn inverted_it_keeps_the_others() {
        kept(
            &[("contains", "ta"), ("invert", "true")],
            &["alpha", "", "gamma"],
        );
    }

    #[test]
    fn a_record_without_a_value_matches_nothing() {
        let host = TestHost::new().param("contains", "");
        let mut host = host.start::<ByteFilter, _>().unwrap();
        assert!(
            host.send([TestRecord::tombstone("key")])
                .unwrap()
                .records("out")
                .is_empty()
        );
    }

    #[test]
    fn parameters_that_make_no_sense_are_refused_by_name() {
        let refusal = |host: TestHost| host.start::<ByteFilter, _>().unwrap_err();
        assert!(refusal(TestHost::new()).contains("`starts_with` and `contains`"));
        let host = TestHost::new().param("contains", "a");
        assert!(
            refusal(host.clone().param("invert", "perhaps"))
                .contains("`invert` is not valid: `perhaps`")
        );
        assert_eq!(
            refusal(host.param("begins", "b")),
            "there is no parameter `begins`; there is `contains`, `invert`, `starts_with`"
        );
    }
}
