//! The map on what sensors really send.

use eddy_guest::testing::{TestHost, TestInstance, TestRecord};
use json_map::JsonMap;
use serde_json::{Value, json};

const EARTHQUAKES: &str = include_str!("../../../data/earthquakes.ndjson");

fn start(params: &[(&str, &str)]) -> TestInstance {
    let host = params.iter().fold(TestHost::new(), |host, (name, value)| {
        host.param(name, value)
    });
    host.start::<JsonMap, _>().unwrap()
}

#[track_caller]
fn maps(params: &[(&str, &str)], value: &str, expected: &str) {
    let sent = start(params).values([value]).unwrap();
    assert_eq!(sent.values("out"), [expected], "{params:?}");
}

const VALUE: &str = r#"{"id":"us1","mag":4.50,"null":null,"at":{"lon":-1.0e1,"lat":2},"q\"":1}"#;

#[test]
fn selected_fields_are_copied_to_the_last_digit_in_the_order_asked_for() {
    maps(
        &[("select", "mag, id")],
        VALUE,
        r#"{"mag":4.50,"id":"us1"}"#,
    );
    maps(
        &[("select", "at.lon, at as place, id as `q\"`")],
        VALUE,
        r#"{"lon":-1.0e1,"place":{"lon":-1.0e1,"lat":2},"q\"":"us1"}"#,
    );
    maps(
        &[("select", "null, missing, at.other")],
        VALUE,
        r#"{"null":null}"#,
    );
}

#[test]
fn a_timestamp_is_a_whole_number_however_it_is_written() {
    let stamped = |expression: &str| {
        let record = TestRecord::new(r#"{"s":1517363399.65}"#).timestamp(7);
        let sent = start(&[("timestamp", expression)]).send([record]).unwrap();
        sent.records("out")[0].timestamp
    };
    assert_eq!(stamped("round(s * 1000)"), 1_517_363_399_650);
    assert_eq!(stamped("12.0"), 12);
    assert_eq!(stamped("9223372036854775807"), i64::MAX);
    for leaves in [
        "12.5",
        "9223372036854775808",
        "9223372036854775808.0",
        "'12'",
        "null",
    ] {
        assert_eq!(stamped(leaves), 7, "{leaves}");
    }
}

#[test]
fn without_a_selection_everything_stays_but_what_is_dropped() {
    maps(&[], VALUE, VALUE);
    maps(
        &[("drop", "mag, at, q\"")],
        VALUE,
        r#"{"id":"us1","null":null}"#,
    );
    maps(&[], " { } ", "{}");
}

#[test]
fn fields_are_renamed_in_place_and_push_out_what_had_the_name() {
    maps(
        &[("rename.mag", "m"), ("drop", "at,null")],
        VALUE,
        r#"{"id":"us1","m":4.50,"q\"":1}"#,
    );
    maps(
        &[("rename.mag", "id"), ("drop", "at,null")],
        VALUE,
        r#"{"id":4.50,"q\"":1}"#,
    );
    maps(
        &[
            ("rename.mag", "id"),
            ("rename.id", "mag"),
            ("drop", "at,null"),
        ],
        VALUE,
        r#"{"mag":"us1","id":4.50,"q\"":1}"#,
    );
}

#[test]
fn fields_are_computed_from_the_old_value() {
    maps(
        &[
            ("select", "id"),
            ("set.double", "mag * 2"),
            ("set.strong", "mag >= 4.5"),
        ],
        VALUE,
        r#"{"id":"us1","double":9,"strong":true}"#,
    );
    maps(
        &[
            ("select", "id, mag"),
            ("set.id", "'x' + id"),
            ("set.raw", "mag"),
        ],
        VALUE,
        r#"{"mag":4.50,"id":"xus1","raw":4.50}"#,
    );
    maps(
        &[("set.mag", "null + 1"), ("drop", "at,q\",null")],
        VALUE,
        r#"{"id":"us1","mag":null}"#,
    );
}

#[test]
fn keys_and_timestamps_come_from_fields_too() {
    let mut map = start(&[("select", "id"), ("key", "id"), ("timestamp", "time")]);
    let record = TestRecord::new(r#"{"id":"us1","time":1517363399650}"#)
        .key("old")
        .timestamp(5)
        .header("h", "v");
    let sent = map
        .send([record, TestRecord::new("{}").key("old").timestamp(5)])
        .unwrap();
    let expected = TestRecord::new(r#"{"id":"us1"}"#)
        .key("us1")
        .timestamp(1_517_363_399_650)
        .header("h", "v");
    assert_eq!(
        sent.records("out"),
        [expected, TestRecord::new("{}").timestamp(5)]
    );

    let mut map = start(&[("key", "mag")]);
    assert_eq!(
        map.values([VALUE]).unwrap().records("out")[0]
            .key
            .as_deref(),
        Some(&b"4.50"[..])
    );
}

#[test]
fn a_record_without_a_value_goes_through_as_it_is() {
    let tombstone = || [TestRecord::tombstone("us1")];
    assert_eq!(
        start(&[("select", "id")])
            .send(tombstone())
            .unwrap()
            .records("out"),
        tombstone()
    );
}

#[test]
fn what_is_no_object_goes_to_rest_if_there_is_one() {
    let values = [
        "hello",
        "[1]",
        "3",
        "",
        "{\"a\":1",
        "{\"a\":tru}",
        "{\"a\":1,\"b\":05}",
        r#"{"a":1,"c":"\x41"}"#,
        "{\"a\":1,}",
        "{\"a\":1}{}",
        "{\"a\":1}",
    ];
    let host = TestHost::new().param("set.b", "a + 1");
    let sent = host
        .clone()
        .output("rest")
        .start::<JsonMap, _>()
        .unwrap()
        .values(values)
        .unwrap();
    assert_eq!(sent.values("out"), [r#"{"a":1,"b":2}"#]);
    assert_eq!(sent.values("rest"), &values[..10]);
    let sent = host.start::<JsonMap, _>().unwrap().values(values).unwrap();
    assert_eq!(sent.values("out"), [r#"{"a":1,"b":2}"#]);
}

#[test]
fn the_last_of_several_members_of_one_name_is_the_one_that_counts() {
    let doubled = r#"{"id":"first","id":"last","n":1}"#;
    maps(&[("select", "id")], doubled, r#"{"id":"last"}"#);
    maps(&[("drop", "id")], doubled, r#"{"n":1}"#);
    maps(&[("drop", "n")], doubled, r#"{"id":"first","id":"last"}"#);
    let sent = start(&[("key", "id")]).values([doubled]).unwrap();
    assert_eq!(sent.records("out")[0].key.as_deref(), Some(&b"last"[..]));
}

#[test]
fn what_has_no_value_to_compare_is_copied_as_it_is_and_makes_no_key() {
    for odd in [r#"{"n":1e400}"#, r#"{"n":"\ud800"}"#] {
        maps(&[], odd, odd);
        maps(&[("select", "n")], odd, odd);
        let record = TestRecord::new(odd).key("old");
        let sent = start(&[("key", "n")]).send([record]).unwrap();
        assert_eq!(sent.records("out")[0].key, None, "{odd}");
    }
    let odd_name = r#"{"\ud800":1,"a":2}"#;
    maps(&[("drop", "a")], odd_name, r#"{"\ud800":1}"#);
}

#[test]
fn every_earthquake_comes_out_as_another_reader_of_json_would_write_it() {
    let params = [
        ("select", "id, mag, place, missing"),
        ("set.shallow", "depth_km < 10"),
        ("key", "net"),
    ];
    let sent = start(&params).values(EARTHQUAKES.lines()).unwrap();
    let records = sent.records("out");
    assert_eq!(records.len(), EARTHQUAKES.lines().count());
    for (line, record) in EARTHQUAKES.lines().zip(records) {
        let old: Value = serde_json::from_str(line).unwrap();
        let new: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        let shallow = old["depth_km"].as_f64().is_some_and(|depth| depth < 10.0);
        assert_eq!(
            new,
            json!({"id": old["id"], "mag": old["mag"], "place": old["place"], "shallow": shallow})
        );
        assert_eq!(
            record.key.as_deref(),
            old["net"].as_str().map(str::as_bytes)
        );
    }
    let untouched = start(&[]).values(EARTHQUAKES.lines()).unwrap();
    assert_eq!(
        untouched.values("out"),
        EARTHQUAKES.lines().collect::<Vec<_>>()
    );
}

#[test]
fn parameters_that_make_no_sense_refuse_the_deployment() {
    let refusal = |params: &[(&str, &str)]| {
        let host = params.iter().fold(TestHost::new(), |host, (name, value)| {
            host.param(name, value)
        });
        host.start::<JsonMap, _>().unwrap_err()
    };
    assert!(
        refusal(&[("select", "id,")]).ends_with("at character 4: the name of a field is missing")
    );
    assert!(refusal(&[("select", "a.id, b.id")]).contains("two fields would be called `id`"));
    assert!(refusal(&[("select", "id"), ("drop", "mag")]).contains("`drop`"));
    assert!(
        refusal(&[("set.x", "1 +")])
            .starts_with("the parameter `set.x` is not valid: `1 +`: at character 4")
    );
    assert_eq!(
        refusal(&[("rename.a", "x"), ("rename.b", "x")]),
        "the parameter `rename.b` is not valid: two members would be called `x`, this one and that of `rename.a`"
    );
    assert!(refusal(&[("rename.a", "x"), ("set.x", "1")]).contains("that of `set.x`"));
    assert!(refusal(&[("key", "id id")]).starts_with("the parameter `key` is not valid"));
    assert_eq!(
        refusal(&[("selct", "id")]),
        "there is no parameter `selct`; there is `drop`, `key`, `rename.…`, `select`, `set.…`, `timestamp`"
    );
}
