//! The timestamps that peers claim: a topic bounds how far they may lie from the
//! broker's clock, or takes its own.

use eddy_protocol::Batch;
use eddy_protocol::frame::{OutOfBounds, Timestamps, TopicSettings};

/// What becomes of timestamps outside of a topic's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Claims {
    /// What the topic says.
    #[default]
    AsTheTopicSays,
    /// They are set to the time of append: nobody is there who could send other ones.
    Mended,
}

/// A timestamp outside of its topic's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outside {
    pub(crate) timestamp: i64,
    pub(crate) limit_ms: u64,
    pub(crate) side: Side,
}

/// Where a timestamp lies, seen from the broker's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the future.
    Ahead,
    /// In the past.
    Behind,
}

impl Side {
    /// The word for it, which is also that in the setting's name.
    pub fn word(self) -> &'static str {
        match self {
            Side::Ahead => "ahead",
            Side::Behind => "behind",
        }
    }
}

/// The batch as it is appended at `now_ms`.
pub(crate) fn admit(
    batch: Batch,
    settings: &TopicSettings,
    now_ms: i64,
    claims: Claims,
) -> Result<Batch, Outside> {
    if settings.timestamps == Timestamps::Append {
        return Ok(batch.with_append_time(now_ms));
    }
    let Some(outside) = outside(&batch, settings, now_ms) else {
        return Ok(batch);
    };
    if claims == Claims::Mended || settings.out_of_bounds == OutOfBounds::Append {
        return Ok(batch.with_append_time(now_ms));
    }
    Err(outside)
}

fn outside(batch: &Batch, settings: &TopicSettings, now_ms: i64) -> Option<Outside> {
    let (newest, oldest) = (batch.timestamp_max(), batch.header().timestamp_min());
    let ahead = settings
        .timestamp_ahead_ms
        .filter(|ms| newest > now_ms.saturating_add_unsigned(*ms));
    let behind = settings
        .timestamp_behind_ms
        .filter(|ms| oldest < now_ms.saturating_sub_unsigned(*ms));
    let ahead = ahead.map(|limit_ms| Outside {
        timestamp: newest,
        limit_ms,
        side: Side::Ahead,
    });
    ahead.or(behind.map(|limit_ms| Outside {
        timestamp: oldest,
        limit_ms,
        side: Side::Behind,
    }))
}

#[cfg(test)]
mod tests {
    use eddy_protocol::{BatchBuilder, Compression};

    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn batch(timestamps: &[i64]) -> Batch {
        let mut builder = BatchBuilder::new();
        for timestamp in timestamps {
            let pushed = builder.push(*timestamp, None, Some(b"value"), &[]);
            pushed.expect("the record is small");
        }
        let batch = builder.finish(Compression::None, None);
        batch.expect("the batch is small")
    }

    fn admitted(
        settings: &TopicSettings,
        timestamps: &[i64],
        claims: Claims,
    ) -> Result<Vec<i64>, Outside> {
        let batch = admit(batch(timestamps), settings, NOW, claims)?;
        batch.check().expect("it is whole");
        let records = batch.records().expect("it is whole");
        Ok(records.iter().map(|record| record.timestamp).collect())
    }

    #[test]
    fn a_timestamp_is_bounded_on_both_sides_and_its_error_says_by_what() {
        let settings = TopicSettings {
            timestamp_ahead_ms: Some(100),
            timestamp_behind_ms: Some(50),
            ..TopicSettings::default()
        };
        let check = |timestamps: &[i64]| admitted(&settings, timestamps, Claims::AsTheTopicSays);
        assert_eq!(check(&[NOW + 100, NOW - 50]), Ok(vec![NOW + 100, NOW - 50]));
        let error = check(&[NOW, NOW + 101]).expect_err("it is too far ahead");
        assert_eq!(
            (error.timestamp, error.limit_ms, error.side),
            (NOW + 101, 100, Side::Ahead)
        );
        let error = check(&[NOW, NOW - 51]).expect_err("it is too far behind");
        assert_eq!(
            (error.timestamp, error.limit_ms, error.side),
            (NOW - 51, 50, Side::Behind)
        );
        check(&[i64::MAX]).expect_err("it is too far ahead");
        check(&[i64::MIN]).expect_err("it is too far behind");
        let mended = admitted(&settings, &[NOW, i64::MAX], Claims::Mended);
        assert_eq!(mended, Ok(vec![NOW, NOW]));
    }

    #[test]
    fn a_topic_may_take_its_own_time_always_or_where_a_claim_is_out_of_bounds() {
        let mut settings = TopicSettings {
            out_of_bounds: OutOfBounds::Append,
            ..TopicSettings::default()
        };
        let check = |settings: &TopicSettings, timestamps: &[i64]| {
            admitted(settings, timestamps, Claims::AsTheTopicSays)
        };
        assert_eq!(
            check(&settings, &[5, 6]),
            Ok(vec![5, 6]),
            "nothing bounds the past"
        );
        assert_eq!(check(&settings, &[5, i64::MAX]), Ok(vec![NOW, NOW]));
        settings.timestamp_ahead_ms = None;
        assert_eq!(check(&settings, &[5, i64::MAX]), Ok(vec![5, i64::MAX]));
        settings.timestamps = Timestamps::Append;
        assert_eq!(check(&settings, &[5, i64::MAX]), Ok(vec![NOW, NOW]));
    }
}
