//! Handles to numbers that move often, looked up once.

use std::fmt;

use metrics::{Counter, Gauge, counter};

use super::{
    DELIVERED_BYTES, DELIVERED_RECORDS, PRODUCED_BATCHES, PRODUCED_BYTES, PRODUCED_RECORDS,
};

/// What is counted of one topic.
pub struct TopicMeters {
    produced_records: Counter,
    produced_batches: Counter,
    produced_bytes: Counter,
    delivered_records: Counter,
    delivered_bytes: Counter,
}

impl TopicMeters {
    /// The numbers of the topic with this name.
    pub fn of(topic: &str) -> TopicMeters {
        let of_topic = || topic.to_owned();
        TopicMeters {
            produced_records: counter!(PRODUCED_RECORDS, "topic" => of_topic()),
            produced_batches: counter!(PRODUCED_BATCHES, "topic" => of_topic()),
            produced_bytes: counter!(PRODUCED_BYTES, "topic" => of_topic()),
            delivered_records: counter!(DELIVERED_RECORDS, "topic" => of_topic()),
            delivered_bytes: counter!(DELIVERED_BYTES, "topic" => of_topic()),
        }
    }

    /// Batches have become visible.
    pub fn produced(&self, records: u64, batches: u64, bytes: u64) {
        self.produced_records.increment(records);
        self.produced_batches.increment(batches);
        self.produced_bytes.increment(bytes);
    }

    /// Records are on their way to one reader.
    pub fn delivered(&self, records: u64, bytes: u64) {
        self.delivered_records.increment(records);
        self.delivered_bytes.increment(bytes);
    }
}

impl fmt::Debug for TopicMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicMeters").finish_non_exhaustive()
    }
}

/// Counts one in a gauge for as long as it lives.
pub struct Present(Gauge);

impl Present {
    /// One more.
    pub fn new(gauge: Gauge) -> Present {
        gauge.increment(1.0);
        Present(gauge)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
