//! The one table of settings, a file for each layer. Reading, the default file
//! and the messages come from it; a setting that is not here can't be set.

mod broker;
mod engine;
mod front;
mod server;

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Config;
use super::field::Field;

/// Where a setting's value is in a configuration.
type Place = fn(&mut Config) -> Box<dyn Field + '_>;

/// A setting: its key, what it means, and where its value is.
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) doc: &'static str,
    pub(super) field: Place,
}

const fn setting(key: &'static str, doc: &'static str, field: Place) -> Setting {
    Setting { key, doc, field }
}

/// Settings whose keys begin with the same word.
pub(super) struct Section {
    pub(super) name: &'static str,
    /// A line about it.
    pub(super) about: &'static str,
    pub(super) settings: &'static [Setting],
}

const fn section(name: &'static str, about: &'static str, settings: &'static [Setting]) -> Section {
    Section {
        name,
        about,
        settings,
    }
}

/// All settings, in the order of the default file.
pub(super) static SECTIONS: &[Section] = &[
    section(
        "server",
        "The port, the data folder and the life of connections.",
        server::SETTINGS,
    ),
    section("log", "What goes to standard error.", server::LOG),
    section(
        "http",
        "The HTTP front: the API, the page, and who may use them.",
        front::HTTP,
    ),
    section("ws", "The wire over WebSocket.", front::WS),
    section("broker", "Topics and fetches.", broker::SETTINGS),
    section(
        "deployment",
        "Plugins at work from topic to topic.",
        broker::DEPLOYMENT,
    ),
    section(
        "store",
        "The journal, the segments and the tables.",
        engine::STORE,
    ),
    section(
        "plugin",
        "The engine that runs plugins, and the most that a plugin may take.",
        engine::PLUGIN,
    ),
];

/// All settings.
pub(super) fn settings() -> impl Iterator<Item = &'static Setting> + Clone {
    SECTIONS.iter().flat_map(|section| section.settings)
}

/// The setting of this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    settings().find(|setting| setting.key == key)
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const DECADE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// A time that ends something: long enough to be kept, short enough to matter.
const TIMEOUT: RangeInclusive<Duration> = MILLISECOND..=HOUR;
