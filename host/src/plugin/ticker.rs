//! The beat by which plugins take turns: a thread that advances the engine's epoch each millisecond,
//! for as long as any plugin is running, and a little longer, so that a busy broker doesn't wake it
//! for every batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use super::PluginError;

/// How long a plugin runs before others get their turn.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// How many ticks without a running plugin before the thread goes to sleep.
const IDLE_TICKS_MAX: u32 = 50;

/// The thread. It ends when this is dropped.
pub(super) struct Ticker {
    state: Arc<State>,
    thread: Thread,
}

#[derive(Default)]
struct State {
    running: AtomicUsize,
    asleep: AtomicBool,
    stopped: AtomicBool,
}

/// While one of these lives, the epoch advances.
pub(super) struct Ticking(Arc<State>);

impl Ticker {
    /// Starts the thread; `tick` is called at each beat.
    pub(super) fn start(tick: impl Fn() + Send + 'static) -> Result<Self, PluginError> {
        let state = Arc::new(State::default());
        let beat = Arc::clone(&state);
        let handle = thread::Builder::new()
            .name("eddy-plugin-tick".into())
            .spawn(move || beat.run(tick))
            .map_err(|error| PluginError::Internal(format!("no thread for the ticker: {error}")))?;
        Ok(Self {
            state,
            thread: handle.thread().clone(),
        })
    }

    /// Keeps the epoch advancing until the answer is dropped.
    pub(super) fn ticking(&self) -> Ticking {
        self.state.running.fetch_add(1, Ordering::SeqCst);
        if self.state.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Ticking(Arc::clone(&self.state))
    }
}

impl State {
    fn run(&self, tick: impl Fn()) {
        let mut idle_ticks = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            thread::sleep(TICK);
            tick();
            if self.running.load(Ordering::SeqCst) > 0 {
                idle_ticks = 0;
                continue;
            }
            idle_ticks += 1;
            if idle_ticks > IDLE_TICKS_MAX {
                self.sleep();
                idle_ticks = 0;
            }
        }
    }

    /// Whoever starts running after `asleep` is set sees it and wakes this thread; who started before
    /// is seen here.
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn wait(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "waited 20 s for {what}");
            thread::yield_now();
        }
    }

    #[test]
    fn the_ticker_sleeps_while_nothing_runs_and_wakes_when_something_does() {
        let ticks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&ticks);
        let ticker = Ticker::start(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        for _ in 0..3 {
            wait("the ticker to sleep", || {
                ticker.state.asleep.load(Ordering::SeqCst)
            });
            let before = ticks.load(Ordering::SeqCst);
            let ticking = ticker.ticking();
            wait("ticks", || ticks.load(Ordering::SeqCst) > before + 2);
            drop(ticking);
        }
    }

    #[test]
    fn the_thread_ends_with_the_ticker_even_from_its_sleep() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let ticker = Ticker::start(move || drop(Arc::clone(&held))).unwrap();
        wait("the ticker to sleep", || {
            ticker.state.asleep.load(Ordering::SeqCst)
        });
        drop(ticker);
        wait("the thread to end", || Arc::strong_count(&alive) == 1);
    }
}
