//! The command line against the real broker: what people type, what they get,
//! and with which exit code.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use eddy_tests::artefact;
use eddy_tests::broker::Broker;
use eddy_tests::process::Process;
use eddy_tests::wait::{LIMIT, wait_until};
use nix::pty::{Winsize, openpty};
use rustix::process::{Pid, Signal, kill_process};

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
    let skipping = broker.eddy_with_input(
        &["pub", "t", "--skip-empty", "--json", "--input", "value"],
        "\n\na\n\n",
    );
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

/// What a topic holds, a JSON document per record, in the order of partitions and
/// offsets.
fn records_of(broker: &Broker, topic: &str) -> Vec<serde_json::Value> {
    let shown = broker.eddy(&["--json", "sub", topic, "--until-end"]).ok();
    let documents = shown
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let mut records: Vec<serde_json::Value> = documents.collect();
    records.sort_by_key(|record| (record["partition"].as_u64(), record["offset"].as_u64()));
    records
}

#[test]
fn a_claimed_timestamp_is_bounded_as_the_topic_says_and_pins_nothing() {
    let often = [
        "store.retention_interval=100ms",
        "store.checkpoint_interval=1s",
    ];
    let mut broker = Broker::start_with(&["--set", often[0], "--set", often[1]]);
    let far = r#"{"value":"far","timestamp":9000000000000}"#;
    broker.eddy(&["topic", "create", "bounded"]).ok();
    let refused = broker.eddy_with_input(&["--json", "pub", "bounded"], far);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("timestamp_ahead_ms"),
        "{}",
        refused.stderr
    );

    let mended = ["topic", "create", "mended", "--out-of-bounds", "append"];
    broker.eddy(&mended).ok();
    broker
        .eddy_with_input(&["--json", "pub", "mended"], far)
        .ok();
    let timestamp = records_of(&broker, "mended")[0]["timestamp"].as_i64();
    assert!(timestamp.is_some_and(|time| time < 9_000_000_000_000));

    // As it was tried: nothing of 30 MB behind such a record ever went.
    let any = ["topic", "create", "any", "--timestamp-ahead", "none"];
    broker.eddy(&any).ok();
    broker.eddy_with_input(&["--json", "pub", "any"], far).ok();
    let line = "x".repeat(30_000) + "\n";
    broker
        .eddy_with_input(&["pub", "any"], line.repeat(1_000))
        .ok();
    let alter = ["topic", "alter", "any", "--retention", "1s"];
    broker.eddy(&alter).ok();
    let describe = || broker.eddy(&["--json", "topic", "describe", "any"]).json();
    wait_until(LIMIT, "all of it is deleted", || {
        (describe()["partitions"][0]["start"] == 1_001).then_some(())
    });

    let uuid = describe()["uuid"].clone();
    assert_eq!(uuid.as_str().map(str::len), Some(36));
    broker.terminate();
    broker.restart();
    let after = broker.eddy(&["--json", "topic", "describe", "any"]).json();
    assert_eq!(after["uuid"], uuid);
}

#[test]
fn what_a_subscription_prints_as_json_can_be_published_again() {
    let broker = Broker::start();
    for topic in ["first", "second"] {
        broker
            .eddy(&["topic", "create", topic, "--partitions", "3"])
            .ok();
    }
    let awkward = [
        r#"{"value":"no key","partition":2}"#,
        r#"{"key":"","value":"","partition":0}"#,
        r#"{"key":"k","value":null,"partition":1}"#,
        r#"{"value":null,"partition":1}"#,
        r#"{"key":{"base64":"/wA="},"value":{"base64":"gIGC"},"partition":1}"#,
        r#"{"key":"by its key","value":"\u0000\n\"\u2028é🌋"}"#,
        r#"{"value":"{\"base64\":\"/w==\"}","partition":0}"#,
        r#"{"value":{"mag":1.50,"id":12345678901234567890},"partition":0}"#,
        r#"{"value":"h","partition":0,"headers":[["a","1"],["a",""],["b",{"base64":"/w=="}],["","x"]]}"#,
        r#"{"value":"t","partition":2,"timestamp":-9223372036854775808}"#,
        r#"{"value":"t","partition":2,"timestamp":-1}"#,
        r#"{"value":"t","partition":2,"timestamp":0}"#,
        r#"{"value":"t","partition":2,"timestamp":1517363399650,"topic":"elsewhere","offset":77}"#,
    ];
    let input = awkward.join("\n");
    let published = broker.eddy_with_input(&["--json", "pub", "first"], input);
    assert_eq!(published.json()["records"], awkward.len());
    let tombstone = [
        "pub",
        "first",
        "--key",
        "gone",
        "--tombstone",
        "--header",
        "h=1",
    ];
    broker.eddy(&tombstone).ok();

    let shown = broker.eddy(&["--json", "sub", "first", "--until-end"]).ok();
    broker
        .eddy_with_input(&["--json", "pub", "second"], shown)
        .ok();
    let first = records_of(&broker, "first");
    assert_eq!(first.len(), awkward.len() + 1);
    let second: Vec<_> = records_of(&broker, "second")
        .into_iter()
        .map(|mut record| {
            record["topic"] = "first".into();
            record
        })
        .collect();
    assert_eq!(first, second);

    let gone = first.iter().find(|record| record["key"] == "gone");
    let gone = gone.expect("the tombstone is there");
    assert_eq!(gone["value"], serde_json::Value::Null);
    assert_eq!(gone["headers"], serde_json::json!([["h", "1"]]));
    let is_exact = |record: &&serde_json::Value| {
        let value = record["value"].as_str();
        value.is_some_and(|value| value.starts_with(r#"{"mag""#))
    };
    let exact = first.iter().find(is_exact).expect("it is there");
    assert_eq!(exact["value"], r#"{"mag":1.50,"id":12345678901234567890}"#);
}

#[test]
fn a_line_that_is_no_record_is_named_with_what_to_do() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    for (line, part) in [
        (r#"{"id":1}"#, "unknown field `id`"),
        ("hello", "--input value"),
        (
            r#"{"value":1,"partition":1}"#,
            "partition 1 was asked for; it is line 2",
        ),
    ] {
        let input = format!("{{\"value\":1}}\n{line}\n");
        let failed = broker.eddy_with_input(&["pub", "t", "--input", "record"], input);
        assert_eq!(failed.code, Some(1), "{}", failed.stderr);
        assert!(failed.stderr.contains("line 2"), "{}", failed.stderr);
        assert!(failed.stderr.contains(part), "{}", failed.stderr);
    }
    assert_eq!(broker.eddy(&["sub", "t", "--until-end"]).ok(), "1\n1\n1\n");
    let both = broker.eddy_with_input(&["pub", "t", "--json", "--key-field", "id"], "{}\n");
    assert_eq!(both.code, Some(2), "{}", both.stderr);
    assert!(both.stderr.contains("--input value"), "{}", both.stderr);
}

#[test]
fn a_start_beyond_the_end_is_refused_with_the_time_that_was_meant() {
    let broker = Broker::start();
    for topic in ["t", "out"] {
        broker.eddy(&["topic", "create", topic]).ok();
    }
    broker.eddy_with_input(&["pub", "t"], "a\nb\n").ok();
    broker.push_byte_filter();
    let far = "1700000000000";
    let deploy = [
        "deploy",
        "d",
        "--plugin",
        "byte-filter",
        "--from",
        "t",
        "--to",
        "out",
        "--param",
        "contains=a",
        "--start",
        far,
    ];
    for command in [
        &["sub", "t", "--from", far][..],
        &["sub", "t", "--from", far, "--until-end"],
        &deploy,
    ] {
        let refused = broker.eddy(command);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        for part in ["`t`, which is 2", "write 2023-11-14T22:13:20Z"] {
            assert!(refused.stderr.contains(part), "{}", refused.stderr);
        }
    }
    let at_the_end = broker.eddy(&["sub", "t", "--from", "2", "--until-end"]);
    assert_eq!(at_the_end.ok(), "");
    let since = ["sub", "t", "--from", "2018-02-01", "--until-end"];
    assert_eq!(broker.eddy(&since).ok(), "a\nb\n");
}

#[test]
fn a_server_can_be_written_as_a_browser_needs_it() {
    let broker = Broker::start();
    let port = broker.address().port();
    for server in [
        format!("ws://127.0.0.1:{port}/v1/ws"),
        format!("http://127.0.0.1:{port}/"),
        format!("127.0.0.1:{port}/"),
    ] {
        for command in [&["topic", "list"], &["plugin", "list"]] {
            let mut eddy = Command::new(artefact::eddy());
            eddy.args(["--server", &server]).args(command);
            Process::start(&mut eddy).wait(LIMIT).ok();
        }
    }
    let refused = broker.eddy(&["--server", "https://127.0.0.1:1", "topic", "list"]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.stderr.contains("https:// is not supported"),
        "{}",
        refused.stderr
    );
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

/// A topic of ten megabytes, more than all buffers on the way hold.
fn large_topic(broker: &Broker) -> usize {
    broker.eddy(&["topic", "create", "t"]).ok();
    let count = 100_000;
    let input: String = (0..count).map(|n| format!("{n:0100}\n")).collect();
    broker.eddy_with_input(&["pub", "t"], input).ok();
    count
}

#[test]
fn ctrl_c_ends_a_subscription_that_is_far_behind() {
    let broker = Broker::start();
    let count = large_topic(&broker);
    let mut child = broker
        .command(&["sub", "t", "--from", "earliest"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    out.read_line(&mut String::new()).expect("a record");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it is our child");
    let read = out.lines().count();
    assert!(read < count - 1, "all {read} records came all the same");
    let status = child.wait().expect("our child");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_ctrl_c_ends_a_subscription_whose_output_nobody_reads() {
    let broker = Broker::start();
    large_topic(&broker);
    let mut child = broker
        .command(&["sub", "t", "--from", "earliest"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut out = child.stdout.take().expect("a pipe");
    out.read_exact(&mut [0]).expect("a record");
    let status = wait_until(LIMIT, "the second Ctrl-C should end it", || {
        // Signals that are under way together count as one.
        kill_process(Pid::from_child(&child), Signal::INT).ok();
        child.try_wait().expect("our child")
    });
    assert_eq!(status.code(), Some(130));
}

#[test]
fn ctrl_c_or_a_closed_terminal_stops_a_publishing_that_says_how_far_it_got() {
    stops_a_publishing(Process::interrupt);
    stops_a_publishing(Process::hang_up);
}

fn stops_a_publishing(signal: fn(&mut Process)) {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut publish = broker.command(&["pub", "t", "--rate", "1000"]);
    let mut writer =
        Process::start_with_input(&mut publish, Some(lines(0..1_000_000).into_bytes()));
    let reader = broker.eddy_running(&["sub", "t", "--from", "earliest"]);
    reader.stdout().wait_for_count(100, LIMIT);
    signal(&mut writer);
    let written = writer.wait(LIMIT);
    assert_eq!(written.code, Some(130), "{}", written.stderr);
    let acknowledged = written.stderr.lines().last().and_then(|line| {
        let (_, counts) = line.split_once("; ")?;
        counts.split(' ').next()?.parse::<usize>().ok()
    });
    let acknowledged = acknowledged.unwrap_or_else(|| panic!("no count in {}", written.stderr));
    let there = broker.eddy(&["sub", "t", "--until-end"]).ok();
    assert_eq!(there.lines().count(), acknowledged);
}

#[test]
fn under_nohup_a_publishing_outlives_its_terminal() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let publish = broker.command(&["pub", "t", "--rate", "1000"]);
    let mut nohup = Command::new("nohup");
    nohup.arg(publish.get_program()).args(publish.get_args());
    nohup.envs(
        publish
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let mut writer = Process::start_with_input(&mut nohup, Some(lines(0..2_000).into_bytes()));
    let reader = broker.eddy_running(&["sub", "t", "--from", "earliest"]);
    reader.stdout().wait_for_count(100, LIMIT);
    writer.hang_up();
    assert_eq!(writer.wait(LIMIT).code, Some(0));
    reader.stdout().wait_for_count(2_000, LIMIT);
}

/// Runs a command whose standard error is a terminal; how it ended, and all that
/// the terminal was told.
fn on_a_terminal(mut command: Command) -> (Option<i32>, String) {
    let size = Winsize {
        ws_row: 24,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pair = openpty(&size, None).expect("a terminal can be made");
    let spawned = command.stdin(Stdio::null()).stderr(pair.slave).spawn();
    let mut child = spawned.expect("the command starts");
    // It holds this side's end of the terminal, which would never end.
    drop(command);
    let mut told = Vec::new();
    // Ends with an error once nobody holds the other end, as terminals do.
    let _ = File::from(pair.master).read_to_end(&mut told);
    let status = child.wait().expect("it is our child");
    (status.code(), String::from_utf8_lossy(&told).into_owned())
}

#[test]
fn a_person_sees_how_far_a_publishing_is_at_which_rate_and_in_the_end_a_summary() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lines");
    std::fs::write(&file, lines(0..1_000)).expect("the folder can be written to");
    let file = file.to_string_lossy();
    // Slow enough to be watched.
    let (code, told) =
        on_a_terminal(broker.command(&["pub", "t", "--rate", "1000", file.as_ref()]));
    assert_eq!(code, Some(0), "{told}");
    let drawn = told.split(" acknowledged, ").skip(1);
    let rates = drawn.filter_map(|rest| rest.split_once(" a second")?.0.parse::<u32>().ok());
    assert!(rates.max().is_some_and(|rate| rate > 0), "{told:?}");
    // The bar's last trace is the code that clears its line.
    let last = told.trim_end().lines().next_back().unwrap_or_default();
    let summary = last.rsplit(['\r', '\x1b']).next().unwrap_or_default();
    assert!(summary.contains("1000 records into t in "), "{told:?}");
    assert!(summary.ends_with(" a second"), "{told:?}");
    assert!(
        !summary.contains("acknowledged"),
        "the bar is gone: {told:?}"
    );
}

#[test]
fn a_deployment_is_replaced_where_it_is_and_not_by_accident() {
    let broker = Broker::start();
    for topic in ["in", "out"] {
        broker.eddy(&["topic", "create", topic]).ok();
    }
    broker.push_byte_filter();
    let deploy = |more: &[&str]| {
        let options = [
            "--json",
            "deploy",
            "d",
            "--plugin",
            "byte-filter",
            "--from",
            "in",
            "--to",
            "out",
            "--param",
        ];
        broker.eddy(&[&options[..], more].concat())
    };
    let out = |count: &str| {
        let from_first = ["sub", "out", "--from", "earliest", "--count", count];
        broker.eddy(&from_first).ok()
    };
    deploy(&["contains=a"]).ok();
    broker.eddy_with_input(&["pub", "in"], "a1\nb1\n").ok();
    assert_eq!(out("1"), "a1\n");
    let refused = deploy(&["contains=b"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("deployment_exists"), "{refused:?}");
    let replaced = deploy(&["contains=b", "--replace"]).json();
    assert_eq!(replaced["params"]["contains"], "b");
    broker.eddy_with_input(&["pub", "in"], "a2\nb2\n").ok();
    // It goes on behind what the first one read, `b1` with it.
    assert_eq!(out("2"), "a1\nb2\n");
}

#[test]
fn a_deployment_goes_back_to_code_whose_name_has_other_code_by_now() {
    let broker = Broker::start();
    for topic in ["in", "out"] {
        broker.eddy(&["topic", "create", topic]).ok();
    }
    let push = |plugin: &str| {
        let file = artefact::plugin(plugin);
        let file = file.to_string_lossy();
        let pushed = broker.eddy(&["--json", "plugin", "push", &file, "--name", "p"]);
        let digest = pushed.json()["digest"].as_str().map(str::to_owned);
        digest.expect("a digest")
    };
    let deploy = |plugin: &str, param: &str, more: &[&str]| {
        let options = ["--json", "deploy", "d", "--plugin", plugin, "--from", "in"];
        let options = [&options[..], &["--to", "out", "--param", param], more].concat();
        broker.eddy(&options).json()
    };
    let first = push("byte-filter");
    deploy("p", "contains=a", &[]);
    let second = push("json-filter");
    let replaced = deploy("p", "where=n > 1", &["--replace"]);
    assert_eq!(replaced["digest"], second.as_str());
    let back = deploy(&first, "contains=b", &["--replace"]);
    assert_eq!(
        (&back["digest"], &back["version"]),
        (&first.into(), &3.into())
    );
    broker.eddy_with_input(&["pub", "in"], "a\nb\n").ok();
    let out = ["sub", "out", "--from", "earliest", "--count", "1"];
    assert_eq!(broker.eddy(&out).ok(), "b\n");
}

#[test]
fn groups_are_listed_shown_and_deleted() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    broker.eddy_with_input(&["pub", "t"], "1\n2\n").ok();
    let cursor = serde_json::json!({"topic": "t", "partition": 0, "offset": 2});
    let cursors = serde_json::json!({"cursors": [cursor]});
    broker.post("/v1/groups/g/cursors", &cursors).ok();
    let listed = broker.eddy(&["group", "list"]).ok();
    assert_eq!(listed.split_whitespace().last(), Some("t"), "{listed}");
    let shown = broker.eddy(&["--json", "group", "show", "g"]).json();
    assert_eq!(shown[0]["offset"], 2, "{shown}");
    let deleted = broker.eddy(&["group", "delete", "g", "--topic", "t"]).ok();
    assert_eq!(deleted, "g: deleted\n");
    let again = broker.eddy(&["group", "delete", "g"]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains('g'), "{again:?}");
}

#[test]
fn a_filter_that_finds_no_instance_says_which_setting_limits_them() {
    let broker = Broker::start_with(&["--set", "plugin.instances_max=4"]);
    broker
        .eddy(&["topic", "create", "in", "--partitions", "4"])
        .ok();
    for topic in ["out", "t"] {
        broker.eddy(&["topic", "create", topic]).ok();
    }
    broker.push_byte_filter();
    broker.deploy_byte_filter("d", ("in", "out"), "a");
    broker.eddy_with_input(&["pub", "t"], "a\n").ok();
    let reading = ["sub", "t", "--from", "earliest", "--until-end", "--filter"];
    let reading = [&reading[..], &["byte-filter", "--param", "contains=a"]].concat();
    let waiting = broker.eddy_running(&reading);
    let said = waiting.stderr().wait_for("plugin.instances_max", 0);
    assert!(said.contains("byte-filter"), "{said}");
    // It goes on by itself once there is one.
    broker.eddy(&["deployment", "delete", "d"]).ok();
    let read = waiting.wait(LIMIT);
    assert_eq!(
        (read.code, read.stdout.as_str()),
        (Some(0), "a\n"),
        "{read:?}"
    );
}

#[test]
fn what_retention_took_from_a_stopped_deployment_is_no_lag_any_more() {
    let broker = Broker::start_with(&[
        "--set",
        "store.segment_bytes=1MiB",
        "--set",
        "store.checkpoint_bytes=1MiB",
        "--set",
        "store.retention_interval=10ms",
    ]);
    let topic = ["topic", "create", "in", "--retention-bytes", "2MiB"];
    broker.eddy(&topic).ok();
    broker.eddy(&["topic", "create", "out"]).ok();
    let plugin = artefact::plugin("json-map");
    broker
        .eddy(&["plugin", "push", &plugin.to_string_lossy()])
        .ok();
    // Whatever it gives is too much, so that it stops at the first record.
    let deploy = [
        "deploy",
        "d",
        "--plugin",
        "json-map",
        "--from",
        "in",
        "--to",
        "out",
        "--output-bytes",
        "1",
    ];
    broker.eddy(&deploy).ok();
    broker.eddy_with_input(&["pub", "in"], "{\"a\":1}\n").ok();
    let shown = || broker.eddy(&["--json", "deployment", "show", "d"]).json();
    wait_until(LIMIT, "the deployment should stop", || {
        (shown()["state"] == "stopped").then_some(())
    });
    assert_eq!(shown()["partitions"][0]["lag"], 1);

    let large = format!("{}\n", "x".repeat(100_000)).repeat(80);
    broker.eddy_with_input(&["pub", "in"], large).ok();
    let start = wait_until(LIMIT, "retention should delete segments", || {
        let info = broker.eddy(&["--json", "topic", "describe", "in"]).json();
        let partition = &info["partitions"][0];
        let is_small = partition["bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes <= 4 << 20);
        partition["start"]
            .as_u64()
            .filter(|start| is_small && *start > 0)
    });
    let lag = shown()["partitions"][0]["lag"].as_u64().expect("a number");
    assert!(lag <= 81 - start, "{lag} are left of 81 from {start} on");
    assert!(lag > 0);
}

#[test]
fn what_stands_before_a_line_that_is_too_long_is_published() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut input = b"one\ntwo\n".to_vec();
    input.resize(input.len() + (9 << 20), b'x');
    let failed = broker.eddy_with_input(&["pub", "t"], input);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("line 3"), "{}", failed.stderr);
    assert_eq!(broker.eddy(&["sub", "t", "--until-end"]).ok(), "one\ntwo\n");
}

#[test]
fn with_json_every_error_is_json() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    for (usage, word) in [
        (&["--json", "frobnicate"][..], "frobnicate"),
        (&["--json", "topic", "create", "a b"], "a b"),
        (
            &["topic", "create", "t", "--partitions", "0", "--json"],
            "0",
        ),
        (&["--json", "sub", "t", "--format", "%v"], "--format"),
        (&["sub", "t", "--format", "%v", "--json"], "--format"),
        (
            &["--json", "check-config", "--set", "a.b=1", "--set", "c.d=2"],
            "a.b",
        ),
    ] {
        let refused = broker.eddy(usage);
        assert_eq!(
            (refused.code, refused.stdout.as_str()),
            (Some(2), ""),
            "{usage:?}"
        );
        let error: serde_json::Value =
            serde_json::from_str(&refused.stderr).unwrap_or_else(|_| panic!("{}", refused.stderr));
        assert_eq!(error["error"]["code"], "usage", "{usage:?}");
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(word), "{usage:?}: {message}");
    }
    let defaults = broker.eddy(&["--json", "default-config"]).json();
    assert_eq!(defaults["server"]["listen"], "127.0.0.1:7117");
}

#[test]
fn a_wrong_address_in_the_environment_is_named_by_who_needs_it_alone() {
    let eddy = |server: &str, arguments: &[&str]| {
        let mut command = Command::new(artefact::eddy());
        Process::start(command.args(arguments).env("EDDY_SERVER", server)).wait(LIMIT)
    };
    let refused = eddy("ftp://x", &["topic", "list"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("EDDY_SERVER"), "{}", refused.stderr);
    eddy("ftp://x", &["default-config"]).ok();
    let empty = eddy("", &["--timeout", "100ms", "topic", "list"]);
    assert_ne!(empty.code, Some(2), "empty is not set: {}", empty.stderr);
}

#[test]
fn commands_about_plugins_wait_for_a_broker_that_is_starting() {
    let mut broker = Broker::start();
    broker.terminate();
    let list = broker.eddy_running(&["plugin", "list", "--json", "--timeout", "60s"]);
    broker.restart();
    assert_eq!(list.wait(LIMIT).json(), serde_json::json!([]));
}

#[test]
fn inspect_reads_a_folder_beside_its_broker_and_fails_on_damage() {
    let mut broker = Broker::start();
    broker
        .eddy(&["topic", "create", "t", "--partitions", "2"])
        .ok();
    broker.eddy_with_input(&["pub", "t"], lines(0..1000)).ok();
    let folder = broker.data().to_str().expect("text").to_owned();
    let text = broker.eddy(&["inspect", &folder, "--groups"]).ok();
    assert!(
        text.contains("segments") && text.contains("journal"),
        "{text}"
    );
    broker.terminate();
    let whole = broker.eddy(&["--json", "inspect", &folder]).json();
    let partitions = whole["topics"][0]["partitions"].as_array().expect("a list");
    let records = partitions
        .iter()
        .flat_map(|partition| partition["segments"].as_array().expect("a list"))
        .filter_map(|segment| segment["records"].as_u64());
    assert_eq!(records.sum::<u64>(), 1000);
    let path = partitions[0]["segments"][0]["path"]
        .as_str()
        .expect("a path");
    let mut bytes = std::fs::read(path).expect("a segment");
    *bytes.last_mut().expect("it has records") ^= 1;
    std::fs::write(path, bytes).expect("it can be written");
    let damaged = broker.eddy(&["inspect", &folder]);
    assert_eq!(damaged.code, Some(1));
    assert!(damaged.stdout.contains(path), "{}", damaged.stdout);
    let none = broker.eddy(&["inspect", "/no/such/folder"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("/no/such/folder"), "{}", none.stderr);
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
