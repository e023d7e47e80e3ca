//! The bar that a person sees while records are published. Not there when
//! nobody watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eddy_client::Producer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use crate::cli::Output;

const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// How far the publishing is.
pub(super) struct Progress {
    bar: ProgressBar,
    read_bytes: Arc<AtomicU64>,
    redraw: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to show how much of `input_bytes` was read and how many records are acknowledged.
    pub(super) fn start(
        output: &Output,
        input_bytes: Option<u64>,
        producer: &Producer,
    ) -> Progress {
        let read_bytes = Arc::new(AtomicU64::new(0));
        if !output.watched() {
            return Progress {
                bar: ProgressBar::hidden(),
                read_bytes,
                redraw: None,
            };
        }
        let bar = ProgressBar::with_draw_target(input_bytes, ProgressDrawTarget::stderr());
        bar.set_style(style(input_bytes.is_some()));
        let redraw = tokio::spawn(redraw(
            bar.clone(),
            Arc::clone(&read_bytes),
            producer.clone(),
        ));
        Progress {
            bar,
            read_bytes,
            redraw: Some(redraw),
        }
    }

    /// So much more of the input is on its way.
    pub(super) fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Somebody types the records: a bar would be drawn over their words.
    pub(super) fn hide(&self) {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        if let Some(redraw) = &self.redraw {
            redraw.abort();
        }
        self.bar.finish_and_clear();
    }
}

const OF_A_FILE: &str = "{bar:30} {binary_bytes}/{binary_total_bytes}  {msg}  {eta} left";
const OF_A_STREAM: &str = "{spinner} {binary_bytes}  {msg}";

fn style(length_known: bool) -> ProgressStyle {
    let template = if length_known { OF_A_FILE } else { OF_A_STREAM };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

async fn redraw(bar: ProgressBar, read_bytes: Arc<AtomicU64>, producer: Producer) {
    let mut ticks = tokio::time::interval(REDRAW_EVERY);
    let mut rate = 0.0;
    let mut before = producer.counts().acknowledged;
    loop {
        ticks.tick().await;
        let now = producer.counts().acknowledged;
        // Smoothed over about a second.
        rate = 0.9 * rate + 0.1 * ((now - before) as f64 / REDRAW_EVERY.as_secs_f64());
        before = now;
        bar.set_position(read_bytes.load(Ordering::Relaxed));
        bar.set_message(format!("{now} acknowledged, {rate:.0} a second"));
    }
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressStyle;

    #[test]
    fn the_templates_of_the_bar_are_sound() {
        for template in [super::OF_A_FILE, super::OF_A_STREAM] {
            ProgressStyle::with_template(template).expect(template);
        }
    }
}
