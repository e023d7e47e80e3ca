//! Settings from outside to inside, and every way they can be wrong.

use std::time::Duration;

use super::field::Given;
use super::source::{read_environment, read_flags, read_toml};
use super::*;

/// A file's text, environment variables and flags, loaded.
fn load(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, Vec<String>> {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    let environment = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    Config::assemble([
        read_toml("eddy.toml", file),
        read_environment(environment),
        read_flags(&flags),
    ])
    .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn the_default_text_reads_back_to_the_defaults() {
    let text = default_text();
    let config = load(&text, &[], &[]).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    assert_eq!(format!("{config:#?}"), format!("{:#?}", Config::default()));
}

#[test]
fn the_default_text_names_every_setting_once() {
    let text = default_text();
    let setters = read_toml("default", &text).setters;
    let mut given: Vec<&str> = setters.iter().map(|setter| setter.key.as_str()).collect();
    let mut known: Vec<&str> = table::settings().map(|setting| setting.key).collect();
    given.sort_unstable();
    known.sort_unstable();
    assert_eq!(given, known);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file =
        "[server]\nconnections_max = 1\nidle_timeout = \"41s\"\nhandshake_timeout = \"1s\"\n";
    let environment = [
        ("EDDY_SERVER__CONNECTIONS_MAX", "2"),
        ("EDDY_SERVER__IDLE_TIMEOUT", "42s"),
    ];
    let config =
        load(file, &environment, &["server.connections_max=3"]).expect("all of it is right");
    assert_eq!(config.server.connections_max, 3);
    assert_eq!(config.server.idle_timeout, Duration::from_secs(42));
    assert_eq!(config.server.handshake_timeout, Duration::from_secs(1));
}

#[test]
fn all_problems_are_reported_at_once_with_key_value_and_what_is_allowed() {
    let file = "[server]\nlisten = \"everywhere\"\nlissten = 1\n";
    let environment = [("EDDY_LOG__FORMAT", "xml")];
    let problems =
        load(file, &environment, &["server.connections_max=0"]).expect_err("four things are wrong");
    assert_eq!(problems.len(), 4, "{problems:#?}");
    for (problem, parts) in problems.iter().zip([
        [
            "eddy.toml:2:",
            "`server.listen`",
            "\"everywhere\"",
            "an address and a port",
        ],
        [
            "eddy.toml:3",
            "`server.lissten`",
            "did you mean",
            "`server.listen`",
        ],
        [
            "environment EDDY_LOG__FORMAT",
            "`log.format`",
            "\"xml\"",
            "one of \"text\", \"json\"",
        ],
        [
            "--set",
            "`server.connections_max`",
            "\"0\"",
            "a whole number from 1 to",
        ],
    ]) {
        for part in parts {
            assert!(problem.contains(part), "{problem:?} lacks {part:?}");
        }
    }
}

#[test]
fn lists_come_from_toml_and_from_commas() {
    let origins = ["https://a.example", "http://b.example:8080"];
    for given in [
        load(
            "[http]\nallowed_origins = [\"https://a.example\", \"http://b.example:8080\"]\n",
            &[],
            &[],
        ),
        load(
            "",
            &[],
            &["http.allowed_origins=https://a.example, http://b.example:8080"],
        ),
        load(
            "",
            &[(
                "EDDY_HTTP__ALLOWED_ORIGINS",
                "[\"https://a.example\",\"http://b.example:8080\"]",
            )],
            &[],
        ),
    ] {
        assert_eq!(given.expect("is right").http.allowed_origins, origins);
    }
}

#[test]
fn every_key_begins_with_its_section() {
    for section in table::SECTIONS {
        for setting in section.settings {
            assert_eq!(
                setting.key.split_once('.').map(|(first, _)| first),
                Some(section.name),
                "{}",
                setting.key
            );
        }
    }
}

#[test]
fn every_setting_takes_its_own_default_and_refuses_nonsense() {
    for setting in table::settings() {
        let mut config = Config::default();
        let mut field = (setting.field)(&mut config);
        assert!(
            !field.set(&Given::Boolean(true)),
            "{} took a boolean",
            setting.key
        );
        let shown = read_toml("shown", &format!("value = {}", field.show())).setters;
        assert!(
            field.set(&shown[0].given),
            "{} refused its default {}",
            setting.key,
            shown[0].given
        );
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (flags, named) in [
        (
            ["server.idle_timeout=1s", "server.handshake_timeout=2s"],
            "server.idle_timeout",
        ),
        (
            ["ws.frame_bytes_max=1MiB", "broker.batch_bytes_max=1MiB"],
            "ws.frame_bytes_max",
        ),
        (
            ["ws.hello_timeout=10s", "ws.idle_timeout=5s"],
            "ws.hello_timeout",
        ),
        (
            ["store.commit_bytes_max=1MiB", "broker.batch_bytes_max=2MiB"],
            "store.commit_bytes_max",
        ),
        (
            ["store.tail_bytes=2MiB", "store.tail_bytes_total=1MiB"],
            "store.tail_bytes_total",
        ),
        (
            [
                "plugin.output_bytes_max=3MiB",
                "store.commit_bytes_max=2MiB",
            ],
            "plugin.output_bytes_max",
        ),
        (
            [
                "deployment.chunk_bytes=64MiB",
                "store.commit_bytes_max=63MiB",
            ],
            "deployment.chunk_bytes",
        ),
        (
            ["http.bodies_bytes_max=64MiB", "http.body_bytes_max=65MiB"],
            "http.bodies_bytes_max",
        ),
        (
            [
                "http.bodies_bytes_max=64MiB",
                "plugin.plugin_bytes_max=65MiB",
            ],
            "plugin.plugin_bytes_max",
        ),
    ] {
        let problems = load("", &[], &flags).expect_err(named);
        assert!(
            problems.iter().any(|problem| problem.contains(named)),
            "{named}: {problems:#?}"
        );
    }
}

#[test]
fn a_value_that_could_not_be_read_contradicts_nothing() {
    let file = "[broker]\nbatch_bytes_max = \"32MiB\"\n";
    for frame in ["ws.frame_bytes_max=64 megabytes", "ws.frame_bytes_max"] {
        let flags = [frame, "ws.hello_timeout=10s", "ws.idle_timeout=5s"];
        let problems = load(file, &[], &flags).expect_err("two things are wrong");
        let about = |key: &str| problems.iter().filter(|p| p.contains(key)).count();
        assert_eq!(about("ws.frame_bytes_max"), 1, "{problems:#?}");
        assert_eq!(about("broker.batch_bytes_max"), 0, "{problems:#?}");
        assert_eq!(about("ws.hello_timeout"), 1, "{problems:#?}");
    }
    let problems = load("[broker", &[], &["ws.frame_bytes_max=64KiB", "x=1"]);
    let problems = problems.expect_err("the file is not TOML");
    assert!(
        !problems.iter().any(|p| p.contains("ws.frame_bytes_max")),
        "{problems:#?}"
    );
    assert!(problems.iter().any(|p| p.contains("`x`")), "{problems:#?}");
}

#[test]
fn where_to_listen_is_an_address_or_localhost_with_a_port() {
    for (text, address) in [
        ("localhost:7117", Some("127.0.0.1:7117")),
        ("127.0.0.1:0", Some("127.0.0.1:0")),
        ("[::]:1", Some("[::]:1")),
        ("localhost", None),
        ("localhost:x", None),
        ("edge.local:7117", None),
        ("7117", None),
    ] {
        let flag = parse_listen(text).map(|address| address.to_string());
        assert_eq!(flag.ok().as_deref(), address, "{text}");
        let setting = load("", &[], &[&format!("server.listen={text}")]);
        let setting = setting.map(|config| config.server.listen.to_string());
        assert_eq!(setting.ok().as_deref(), address, "{text}");
    }
}

#[test]
fn the_entry_of_a_list_that_is_wrong_is_named() {
    let origins = r#"http.allowed_origins=https://a.example,b.example/,null"#;
    let problems = Config::load(None, &[origins.to_owned()]).expect_err("one is no origin");
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    let said = problem.to_string();
    assert!(
        said.contains(r#"`http.allowed_origins` has "b.example/" in it"#),
        "{said}"
    );
}
