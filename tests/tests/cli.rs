//! The command line against the real broker: what people type, what they get,
//! and with which exit code.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use eddy_tests::artefact;
use eddy_tests::broker::Broker;
use eddy_tests::process::Process;
use eddy_tests::wait::{LIMIT, wait_until};

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|number| format!("{number}\n")).collect()
}

#[test]
fn what_is_published_comes_back_byte_for_byte() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let input = b"one\n\ntwo\r\n\tthree ".to_vec();
    broker.eddy_with_input(&["pub", "t"], input).ok();
    let records = broker.eddy(&["sub", "t", "--until-end"]).ok();
    assert_eq!(records, "one\n\ntwo\r\n\tthree \n");
    let skipping = broker.eddy_with_input(&["pub", "t", "--skip-empty", "--json"], "\n\na\n\n");
    assert_eq!(skipping.json()["records"], 1);
}

#[test]
fn a_record_is_shown_as_it_is_asked_for() {
    let broker = Broker::start();
    broker
        .eddy(&["topic", "create", "t", "--partitions", "3"])
        .ok();
    let options = [
        "pub",
        "t",
        "--partition",
        "2",
        "--key",
        "k",
        "--header",
        "h=1",
        "--header",
        "i=2",
    ];
    broker.eddy_with_input(&options, "a\nb\n").ok();
    let shown = broker
        .eddy(&[
            "sub",
            "t",
            "--until-end",
            "--format",
            "%n %p %o %k=%v (%h) %{i}%%",
        ])
        .ok();
    assert_eq!(shown, "t 2 0 k=a (h=1,i=2) 2%\nt 2 1 k=b (h=1,i=2) 2%\n");
    let listed = broker.eddy(&[
        "sub",
        "t",
        "--from",
        "1",
        "-p",
        "2",
        "-n",
        "1",
        "--format",
        "key,partition,offset,value",
    ]);
    assert_eq!(listed.ok(), "k\t2\t1\tb\n");
    let json = broker
        .eddy(&[
            "--json", "sub", "t", "--from", "1", "-p", "2", "--count", "1",
        ])
        .json();
    assert_eq!(json["value"], "b");
    assert_eq!(json["headers"], serde_json::json!([["h", "1"], ["i", "2"]]));
}

#[test]
fn a_field_of_the_line_becomes_the_key_and_a_line_without_it_is_named() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let input =
        "{\"d\":{\"id\":\"a\"}}\n{\"d\":{\"id\":7}}\n{\"d\":null}\n{\"d\":{\"id\":\"b\"}}\n";
    let failed = broker.eddy_with_input(&["pub", "t", "--key-field", "d.id"], input);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(
        failed.stderr.contains("line 3 has no field `d.id`"),
        "{}",
        failed.stderr
    );
    assert!(
        failed
            .stderr
            .contains("2 of the 2 records that were read are acknowledged"),
        "{}",
        failed.stderr
    );
    let options = ["pub", "t", "--key-field", "d.id", "--missing-key", "null"];
    broker.eddy_with_input(&options, input).ok();
    let keys = broker
        .eddy(&["sub", "t", "--until-end", "--format", "%k"])
        .ok();
    assert_eq!(keys, "a\n7\na\n7\n\nb\n");
}

#[test]
fn topics_are_created_listed_altered_and_deleted() {
    let broker = Broker::start();
    let create = [
        "topic",
        "create",
        "t",
        "--partitions",
        "2",
        "--retention",
        "7d",
        "--durability",
        "memory",
    ];
    broker.eddy(&create).ok();
    let again = broker.eddy(&create);
    assert_eq!(again.code, Some(1));
    assert!(
        again.stderr.starts_with("error: topic `t`"),
        "{}",
        again.stderr
    );
    broker
        .eddy(&["topic", "create", "t", "--if-not-exists"])
        .ok();
    let info = broker.eddy(&["--json", "topic", "describe", "t"]).json();
    assert_eq!(
        (&info["retention_ms"], &info["durability"]),
        (&604_800_000.into(), &"memory".into())
    );
    broker
        .eddy(&[
            "topic",
            "alter",
            "t",
            "--retention",
            "none",
            "--retention-bytes",
            "1GiB",
            "-p",
            "3",
        ])
        .ok();
    let info = broker.eddy(&["--json", "topic", "describe", "t"]).json();
    assert_eq!(
        (&info["retention_ms"], &info["retention_bytes"]),
        (&serde_json::Value::Null, &(1u64 << 30).into())
    );
    assert_eq!(info["partitions"].as_array().map(Vec::len), Some(3));
    let list = broker.eddy(&["topic", "list"]).ok();
    assert!(
        list.lines()
            .nth(1)
            .is_some_and(|line| line.starts_with("t ")),
        "{list}"
    );
    broker.eddy(&["topic", "delete", "t"]).ok();
    assert_eq!(
        broker.eddy(&["--json", "topic", "list"]).json(),
        serde_json::json!([])
    );
}

#[test]
fn the_exit_code_and_the_form_of_an_error_tell_what_went_wrong() {
    let broker = Broker::start();
    let refused = broker.eddy(&["--json", "topic", "describe", "nope"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    let error: serde_json::Value = serde_json::from_str(&refused.stderr).expect("a JSON error");
    assert_eq!(error["error"]["code"], "unknown_topic");
    for usage in [
        &["topic", "create", "a b"][..],
        &["sub", "t", "--from", "soon"],
        &["frobnicate"],
    ] {
        assert_eq!(broker.eddy(usage).code, Some(2), "{usage:?}");
    }
    let away = broker.eddy(&[
        "--server",
        "127.0.0.1:1",
        "--timeout",
        "200ms",
        "topic",
        "list",
    ]);
    assert_eq!(away.code, Some(3), "{}", away.stderr);
    assert!(
        away.stderr.contains("127.0.0.1:1 cannot be reached"),
        "{}",
        away.stderr
    );
    let missing = broker.eddy(&["pub", "nope", "/no/such/file"]);
    assert!(
        missing.code == Some(1) && missing.stderr.contains("/no/such/file"),
        "{}",
        missing.stderr
    );
}

#[test]
fn a_restart_of_the_broker_is_ridden_out_by_both_ends() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let count = 20_000;
    let reader = broker.eddy_running(&[
        "sub",
        "t",
        "--from",
        "earliest",
        "--count",
        &count.to_string(),
    ]);
    let mut publish = broker.command(&["pub", "t", "--rate", "10000", "--linger", "1ms"]);
    let writer = Process::start_with_input(&mut publish, Some(lines(0..count).into_bytes()));
    for kill in 1..=3 {
        reader.stdout().wait_for_count(kill * 3000, LIMIT);
        broker.kill9();
        broker.restart();
    }
    assert_eq!(writer.wait(LIMIT).code, Some(0));
    assert_eq!(reader.wait(LIMIT).ok(), lines(0..count));
}

#[test]
fn a_broker_that_does_not_come_back_fails_the_publishing_within_its_timeout() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut publish = broker.command(&["pub", "t", "--rate", "1000", "--timeout", "500ms"]);
    let writer = Process::start_with_input(&mut publish, Some(lines(0..1_000_000).into_bytes()));
    let reader = broker.eddy_running(&["sub", "t", "--from", "earliest", "--timeout", "500ms"]);
    reader.stdout().wait_for_count(100, LIMIT);
    broker.kill9();
    let written = writer.wait(LIMIT);
    assert_eq!(written.code, Some(3), "{}", written.stderr);
    assert!(
        written.stderr.contains("are acknowledged"),
        "{}",
        written.stderr
    );
    assert_eq!(reader.wait(LIMIT).code, Some(3));
}

#[test]
fn a_closed_pipe_ends_a_subscription_quietly() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    broker.eddy_with_input(&["pub", "t"], lines(0..10)).ok();
    let mut command = broker.command(&["sub", "t", "--from", "earliest"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut first = String::new();
    out.read_line(&mut first).expect("a record");
    assert_eq!(first, "0\n");
    drop(out);
    // Nothing more is published: it must notice by itself.
    let status = wait_until(LIMIT, "the subscription should end", || {
        child.try_wait().expect("our child")
    });
    assert_eq!(status.code(), Some(0));
    let mut said = String::new();
    child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut said)
        .expect("text");
    assert_eq!(said, "");
}

#[test]
fn help_names_the_exit_codes_and_completions_are_printed_for_every_shell() {
    let eddy = |arguments: &[&str]| {
        Process::start(Command::new(artefact::eddy()).args(arguments))
            .wait(LIMIT)
            .ok()
    };
    assert!(eddy(&["--help"]).contains("Exit codes"));
    assert!(eddy(&["--version"]).starts_with("eddy "));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            eddy(&["completions", shell]).contains("deployment"),
            "{shell}"
        );
    }
}

#[test]
fn the_default_configuration_is_valid_and_every_problem_is_named_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("eddy.toml");
    let eddy = |arguments: &[&str]| {
        Process::start(Command::new(artefact::eddy()).args(arguments)).wait(LIMIT)
    };
    std::fs::write(&file, eddy(&["default-config"]).ok()).expect("it can be written");
    let path = file.to_str().expect("text");
    eddy(&["check-config", path]).ok();
    let wrong = eddy(&[
        "check-config",
        path,
        "--set",
        "server.nonsense=1",
        "--set",
        "server.listen=7",
    ]);
    assert_eq!(wrong.code, Some(2));
    assert!(
        wrong.stderr.contains("server.nonsense") && wrong.stderr.contains("server.listen"),
        "{}",
        wrong.stderr
    );
}
