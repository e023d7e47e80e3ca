//! The state of the connection: opening, greeting, keeping alive, and how long
//! to wait before the next attempt. Knows nothing of what goes over it.

use std::time::Duration;

use super::Config;
use crate::frame::Welcome;

#[derive(Debug)]
enum State {
    /// The driver is asked to open a connection.
    Connecting,
    /// There is a connection; `hello` has no answer yet.
    Greeting {
        hello_sent: bool,
        deadline: Duration,
    },
    /// The broker has answered `hello`.
    Ready {
        welcome: Welcome,
        heard_at: Duration,
        ping_at: Duration,
        /// When it was first asked since then whether it is there.
        asked_at: Option<Duration>,
    },
    /// The driver is asked to drop the connection.
    Closing,
    /// The next attempt comes later.
    Waiting { until: Duration },
    /// There will be no attempt.
    Closed,
}

/// What time demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Connect,
    Ping,
    Close(&'static str),
}

#[derive(Debug)]
pub(super) struct Link {
    state: State,
    closed: bool,
    backoff: Backoff,
    attempts: u32,
    /// When the newest connection was welcomed.
    greeted_at: Option<Duration>,
}

impl Link {
    pub(super) fn new(config: &Config) -> Link {
        let backoff = Backoff {
            min: config.backoff_min,
            max: config.backoff_max,
            seed: config.seed,
        };
        Link {
            state: State::Connecting,
            closed: false,
            backoff,
            attempts: 0,
            greeted_at: None,
        }
    }

    /// When to try something for the `attempts`-th time again.
    pub(super) fn retry_at(&mut self, now: Duration, attempts: u32) -> Duration {
        now.saturating_add(self.backoff.wait(attempts))
    }

    pub(super) fn is_greeting(&self) -> bool {
        matches!(self.state, State::Greeting { .. })
    }

    /// What the broker said at the beginning, while the connection stands.
    pub(super) fn welcome(&self) -> Option<&Welcome> {
        match &self.state {
            State::Ready { welcome, .. } => Some(welcome),
            _ => None,
        }
    }

    pub(super) fn connected(&mut self, now: Duration, config: &Config) {
        if !self.closed {
            self.state = State::Greeting {
                hello_sent: false,
                deadline: now.saturating_add(config.hello_timeout),
            };
        }
    }

    /// Whether `hello` has to be sent; asked once, sent once.
    pub(super) fn take_hello(&mut self) -> bool {
        match &mut self.state {
            State::Greeting { hello_sent, .. } => !std::mem::replace(hello_sent, true),
            _ => false,
        }
    }

    pub(super) fn welcomed(&mut self, welcome: Welcome, now: Duration, config: &Config) {
        let ping_at = now + ping_interval(&welcome, config);
        self.greeted_at = Some(now);
        self.state = State::Ready {
            welcome,
            heard_at: now,
            ping_at,
            asked_at: None,
        };
    }

    pub(super) fn heard(&mut self, now: Duration) {
        if let State::Ready {
            heard_at, asked_at, ..
        } = &mut self.state
        {
            *heard_at = now;
            *asked_at = None;
        }
    }

    /// The connection has brought something on: it is no failed attempt.
    pub(super) fn progressed(&mut self) {
        self.attempts = 0;
    }

    /// Whether there is a connection to drop; it is being dropped from now on.
    pub(super) fn drop_connection(&mut self) -> bool {
        let there_is = matches!(self.state, State::Greeting { .. } | State::Ready { .. });
        if there_is {
            self.state = State::Closing;
        }
        there_is
    }

    /// No further attempts.
    pub(super) fn close(&mut self) {
        self.closed = true;
        if matches!(self.state, State::Waiting { .. }) {
            self.state = State::Closed;
        }
    }

    /// How long until the next attempt, if there will be one.
    pub(super) fn disconnected(&mut self, now: Duration) -> Option<Duration> {
        if self.closed {
            self.state = State::Closed;
            return None;
        }
        // Not at the greeting: a connection that is always lost soon after it
        // would be opened again and again without a pause.
        if self
            .greeted_at
            .take()
            .is_some_and(|at| now.saturating_sub(at) >= self.backoff.max)
        {
            self.attempts = 0;
        }
        let wait = self.backoff.wait(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        let until = now.saturating_add(wait);
        self.state = State::Waiting { until };
        Some(wait)
    }

    pub(super) fn timeout(&self, config: &Config) -> Option<Duration> {
        match &self.state {
            State::Greeting { deadline, .. } => Some(*deadline),
            State::Ready { ping_at, .. } => Some(match self.silent_until(config) {
                Some(until) => until.min(*ping_at),
                None => *ping_at,
            }),
            State::Waiting { until } => Some(*until),
            State::Connecting | State::Closing | State::Closed => None,
        }
    }

    /// When the broker is given up, if it says nothing before. Only after it
    /// was asked, and had the time to answer: this side may have been late
    /// itself, with the answers unread.
    fn silent_until(&self, config: &Config) -> Option<Duration> {
        let State::Ready {
            welcome,
            heard_at,
            asked_at: Some(asked_at),
            ..
        } = &self.state
        else {
            return None;
        };
        let answer_max = config
            .silence_max
            .saturating_sub(ping_interval(welcome, config));
        let heard_until = heard_at.saturating_add(config.silence_max);
        Some(heard_until.max(asked_at.saturating_add(answer_max)))
    }

    pub(super) fn due(&mut self, now: Duration, config: &Config) -> Option<Due> {
        let silent_until = self.silent_until(config);
        match &mut self.state {
            State::Greeting { deadline, .. } if *deadline <= now => {
                Some(Due::Close("the broker did not answer `hello` in time"))
            }
            State::Ready { .. } if silent_until.is_some_and(|until| until <= now) => {
                Some(Due::Close("nothing was heard of the broker for too long"))
            }
            State::Ready {
                ping_at,
                welcome,
                asked_at,
                ..
            } if *ping_at <= now => {
                *ping_at = now + ping_interval(welcome, config);
                asked_at.get_or_insert(now);
                Some(Due::Ping)
            }
            State::Waiting { until } if *until <= now => {
                self.state = State::Connecting;
                Some(Due::Connect)
            }
            _ => None,
        }
    }
}

/// Often enough for the broker, which closes a silent connection.
fn ping_interval(welcome: &Welcome, config: &Config) -> Duration {
    let third = Duration::from_millis(welcome.idle_timeout_ms / 3);
    config.keep_alive.min(third).max(Duration::from_millis(100))
}

/// Doubles from `min` to `max`, each time with half of it left to chance, so
/// that clients which lost the broker together don't come back together.
#[derive(Debug)]
struct Backoff {
    min: Duration,
    max: Duration,
    seed: u64,
}

impl Backoff {
    fn wait(&mut self, attempts: u32) -> Duration {
        let full = self.min.saturating_mul(1 << attempts.min(20)).min(self.max);
        let wait = full.as_secs_f64() * (0.5 + 0.5 * self.random());
        // Only the longest of all durations is too long.
        Duration::try_from_secs_f64(wait).unwrap_or(full)
    }

    /// From 0 to 1, by SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
