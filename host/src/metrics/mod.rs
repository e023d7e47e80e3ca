//! What the broker counts: the names and descriptions of its metrics, the
//! recorder they go to, and their Prometheus text.
//!
//! Whoever knows a number calls `metrics::counter!` and its kin with a name
//! from here; nothing here knows who. Labels have few values: a topic, a
//! deployment, a route, a code; never a key, a client or an offset. Where a
//! number moves often, its handle is kept rather than looked up ([`TopicMeters`]).

mod meter;
mod passing;

use std::sync::{Arc, OnceLock};

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub use meter::{Present, TopicMeters};
use passing::{Passing, Split};

macro_rules! metrics_table {
    ($($kind:ident $name:ident = $text:literal, $unit:ident, $about:literal;)*) => {
        $(#[doc = $about] pub const $name: &str = $text;)*

        /// The names of all metrics.
        pub const ALL: &[&str] = &[$($text),*];

        /// What a metric is.
        fn about(name: &str) -> &'static str {
            match name { $($text => $about,)* _ => "" }
        }

        fn describe() {
            $(metrics_table!(@describe $kind, $name, Unit::$unit, $about);)*
        }
    };
    (@describe counter, $name:ident, $unit:expr, $about:literal) => { metrics::describe_counter!($name, $unit, $about) };
    (@describe gauge, $name:ident, $unit:expr, $about:literal) => { metrics::describe_gauge!($name, $unit, $about) };
    (@describe histogram, $name:ident, $unit:expr, $about:literal) => { metrics::describe_histogram!($name, $unit, $about) };
}

metrics_table! {
    counter PRODUCED_RECORDS = "eddy_produced_records_total", Count, "Records appended, by topic.";
    counter PRODUCED_BATCHES = "eddy_produced_batches_total", Count, "Batches appended, by topic.";
    counter PRODUCED_BYTES = "eddy_produced_bytes_total", Bytes, "Bytes of batches appended, by topic.";
    counter DELIVERED_RECORDS = "eddy_delivered_records_total", Count, "Records delivered to subscribers and fetches, by topic.";
    counter DELIVERED_BYTES = "eddy_delivered_bytes_total", Bytes, "Bytes of frames and fetches with these records, by topic.";
    counter COMMITS = "eddy_commits_total", Count, "Commits that became durable.";
    counter COMMITS_REFUSED = "eddy_commits_refused_total", Count, "Commits that were refused, by code.";
    counter JOURNAL_GROUPS = "eddy_journal_groups_total", Count, "Groups of commits written to the journal, each with one write.";
    counter JOURNAL_BYTES = "eddy_journal_bytes_total", Bytes, "Bytes written to the journal.";
    counter JOURNAL_SYNCS = "eddy_journal_syncs_total", Count, "Times the journal was synced.";
    histogram JOURNAL_SYNC_SECONDS = "eddy_journal_sync_seconds", Seconds, "How long a sync of the journal took.";
    gauge JOURNAL_SIZE_BYTES = "eddy_journal_size_bytes", Bytes, "What the journal holds since the last checkpoint.";
    histogram CHECKPOINT_SECONDS = "eddy_checkpoint_seconds", Seconds, "How long a checkpoint took.";
    gauge CONNECTIONS = "eddy_connections", Count, "Connections that are open.";
    counter CONNECTIONS_ACCEPTED = "eddy_connections_accepted_total", Count, "Connections accepted.";
    counter CONNECTIONS_REFUSED = "eddy_connections_refused_total", Count, "Connections refused because there were too many.";
    gauge WS_CONNECTIONS = "eddy_ws_connections", Count, "WebSocket connections that are open.";
    gauge SUBSCRIPTIONS = "eddy_subscriptions", Count, "Subscriptions that are open.";
    counter GAPS = "eddy_gaps_total", Count, "Gap notices sent: retention overtook a reader, or history was lost.";
    gauge ANSWER_BYTES = "eddy_answer_bytes", Bytes, "Memory for what is read and made for peers that have not taken it yet.";
    counter HTTP_REQUESTS = "eddy_http_requests_total", Count, "HTTP requests answered, by route (`none` without one), method and status.";
    histogram HTTP_SECONDS = "eddy_http_request_seconds", Seconds, "How long HTTP requests took to answer, long polls included, by route.";
    counter PLUGIN_CALLS = "eddy_plugin_calls_total", Count, "Times that records were given to a plugin, by deployment; filters of subscriptions have none.";
    counter PLUGIN_RECORDS = "eddy_plugin_records_total", Count, "Records given to plugins, by deployment; filters of subscriptions have none.";
    counter PLUGIN_FAILURES = "eddy_plugin_failures_total", Count, "Calls in which a plugin trapped, looped, grew or failed, by deployment; filters of subscriptions have none.";
    histogram PLUGIN_SECONDS = "eddy_plugin_seconds", Seconds, "How long a call of a plugin took.";
    counter FILTER_EVALUATIONS = "eddy_filter_evaluations_total", Count, "Times that a filter looked at records for all its subscribers at once, by topic.";
    counter FILTER_RECORDS = "eddy_filter_records_total", Count, "Records that filters looked at, once for all their subscribers, by topic.";
    gauge TOPICS = "eddy_topics", Count, "Topics.";
    gauge PARTITIONS = "eddy_partitions", Count, "Partitions of all topics.";
    gauge PARTITIONS_STOPPED = "eddy_partitions_stopped", Count, "Partitions that are stopped because their files are damaged.";
    gauge STORED_BYTES = "eddy_stored_bytes", Bytes, "What the segments of all topics take on disk.";
    counter DEPLOYMENTS_FAILED = "eddy_deployments_failed_total", Count, "Deployments that were stopped because their plugin failed.";
    gauge DEPLOYMENTS = "eddy_deployments", Count, "Deployments, by state.";
    gauge DEPLOYMENT_LAG = "eddy_deployment_lag_records", Count, "Records that a deployment has yet to read, by deployment.";
    counter DEPLOYMENT_MISSED = "eddy_deployment_missed_records_total", Count, "Records that retention took before a deployment read them, by deployment.";
    gauge DISK_FULL = "eddy_disk_full", Count, "1 while produces are refused because the disk is full.";
    gauge READY = "eddy_ready", Count, "1 while the broker takes requests.";
    gauge START_SECONDS = "eddy_start_seconds", Seconds, "How long the broker took to start, recovery included.";
}

/// From a tenth of a millisecond to ten seconds.
const SECONDS_BUCKETS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Reads what the process has counted. Cloning shares it.
#[derive(Clone)]
pub struct Metrics {
    lasting: PrometheusHandle,
    passing: Arc<Passing>,
}

impl Metrics {
    /// The process's recorder, installed at the first call. Recorders are one
    /// per process, so brokers in one process count together.
    pub fn install() -> Metrics {
        static METRICS: OnceLock<Metrics> = OnceLock::new();
        METRICS.get_or_init(install).clone()
    }

    /// All metrics as Prometheus's text format 0.0.4.
    pub fn render(&self) -> String {
        self.lasting.render() + &self.passing.render(about)
    }

    /// Folds the histograms' samples into their buckets and forgets what is
    /// idle. To be called every five seconds, or samples pile up between
    /// renderings.
    pub fn fold(&self) {
        self.lasting.run_upkeep();
        self.passing.look();
    }
}

fn install() -> Metrics {
    let lasting = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .expect("there are buckets")
        .build_recorder();
    let installed = Metrics {
        lasting: lasting.handle(),
        passing: Arc::default(),
    };
    let passing = installed.passing.clone();
    // Somebody else's recorder was installed first (a test's): ours stays empty.
    if metrics::set_global_recorder(Split { lasting, passing }).is_err() {
        tracing::warn!("a metrics recorder was installed before; /metrics will be empty");
    }
    describe();
    installed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_eddy_and_end_with_their_unit() {
        for name in ALL {
            assert!(name.starts_with("eddy_"), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
        }
        let mut sorted = ALL.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ALL.len(), "a name stands twice");
    }

    #[test]
    fn what_is_counted_is_rendered_with_its_description() {
        let metrics = Metrics::install();
        metrics::counter!(GAPS).increment(3);
        metrics::histogram!(JOURNAL_SYNC_SECONDS).record(0.003);
        metrics.fold();
        let text = metrics.render();
        for part in [
            "# TYPE eddy_gaps_total counter",
            "# HELP eddy_journal_sync_seconds How long a sync",
            "eddy_journal_sync_seconds_bucket{le=\"0.005\"}",
        ] {
            assert!(text.contains(part), "no {part} in:\n{text}");
        }
    }
}
