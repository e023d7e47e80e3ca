//! The filter on what sensors really send.

use eddy_guest::Verdict;
use eddy_guest::testing::{TestHost, TestInstance, TestRecord};
use json_filter::JsonFilter;

const EARTHQUAKES: &str = include_str!("../../../data/earthquakes.ndjson");

fn filter(condition: &str) -> TestInstance {
    TestHost::new()
        .param("where", condition)
        .start::<JsonFilter, _>()
        .unwrap()
}

/// The lines for which `expected` holds, by way of another reader of JSON.
#[track_caller]
fn keeps(condition: &str, expected: impl Fn(&serde_json::Value) -> bool) -> usize {
    let sent = filter(condition).values(EARTHQUAKES.lines()).unwrap();
    let parsed = |line: &&str| serde_json::from_str(line).unwrap();
    let lines: Vec<_> = EARTHQUAKES
        .lines()
        .filter(|line| expected(&parsed(line)))
        .collect();
    assert_eq!(sent.values("out"), lines, "{condition}");
    lines.len()
}

fn mag(quake: &serde_json::Value) -> Option<f64> {
    quake["mag"].as_f64()
}

#[test]
fn the_strong_ones() {
    let strong = keeps(r#"mag >= 4.5 && type == "earthquake""#, |quake| {
        mag(quake).is_some_and(|mag| mag >= 4.5) && quake["type"] == "earthquake"
    });
    assert!(strong > 50, "{strong}");
}

#[test]
fn a_null_or_missing_magnitude_is_neither_above_nor_below_anything() {
    // The feed has such events in other weeks.
    let nulls = [r#"{"id":"a","mag":null}"#, r#"{"id":"b"}"#];
    let lines = || EARTHQUAKES.lines().chain(nulls);
    let count = |condition| {
        filter(condition)
            .values(lines())
            .unwrap()
            .records("out")
            .len()
    };
    let (below, above) = (count("mag < 4.5"), count("mag >= 4.5"));
    assert_eq!(
        filter("mag == null").values(lines()).unwrap().values("out"),
        nulls
    );
    assert_eq!(below + above + nulls.len(), lines().count());
    assert_eq!(count("!(mag >= 4.5)"), below + nulls.len());
    assert_eq!(count("mag != 4.5"), lines().count() - count("mag == 4.5"));
    keeps("mag < 4.5", |quake| mag(quake).is_some_and(|mag| mag < 4.5));
}

#[test]
fn negative_magnitudes_and_depths() {
    assert!(keeps("mag < 0", |quake| mag(quake).is_some_and(|mag| mag < 0.0)) > 0);
    assert!(
        keeps("mag >= -0.5 && mag < 0", |quake| mag(quake)
            .is_some_and(|mag| (-0.5..0.0).contains(&mag)))
            > 0
    );
    keeps("depth_km < -1", |quake| {
        quake["depth_km"].as_f64().is_some_and(|depth| depth < -1.0)
    });
}

#[test]
fn texts_and_lists() {
    assert!(
        keeps("ends_with(place, 'Alaska')", |quake| quake["place"]
            .as_str()
            .unwrap()
            .ends_with("Alaska"))
            > 0
    );
    keeps("contains(lower(place), 'california')", |quake| {
        quake["place"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("california")
    });
    keeps("net in ['us', 'ak'] && type != 'earthquake'", |quake| {
        ["us", "ak"].contains(&quake["net"].as_str().unwrap()) && quake["type"] != "earthquake"
    });
    keeps("lat > 0 && lon * lon + lat * lat < 10000", |quake| {
        let (lat, lon) = (
            quake["lat"].as_f64().unwrap(),
            quake["lon"].as_f64().unwrap(),
        );
        lat > 0.0 && lon * lon + lat * lat < 10_000.0
    });
}

#[test]
fn what_is_kept_crosses_as_row_numbers() {
    let mut filter = filter("mag >= 4.5");
    let sent = filter
        .values([r#"{"mag":5}"#, r#"{"mag":4}"#, r#"{"mag":6}"#])
        .unwrap();
    assert!(matches!(sent.verdict(), Verdict::Keep(rows) if *rows == [0, 2]));
    let sent = filter.values([r#"{"mag":5}"#]).unwrap();
    assert!(matches!(sent.verdict(), Verdict::All));
}

#[test]
fn the_output_rest_gets_exactly_the_others() {
    let host = TestHost::new().param("where", "mag >= 4.5").output("rest");
    let sent = host
        .start::<JsonFilter, _>()
        .unwrap()
        .values(EARTHQUAKES.lines())
        .unwrap();
    let (kept, others) = (sent.values("out"), sent.values("rest"));
    assert_eq!(kept.len() + others.len(), EARTHQUAKES.lines().count());
    assert!(others.iter().all(|line| !kept.contains(line)));
}

#[test]
fn what_is_not_json_meets_no_condition_and_is_no_error() {
    let garbage = [
        "hello",
        "",
        r#"{"mag":"#,
        r#"{"mag":tru}"#,
        r#"{"mag":05}"#,
        r#"{"mag":"\x41"}"#,
        r#"{"mag":1,}"#,
        r#"{"mag":1} {"mag":1}"#,
        r#"{"mag":1,"other":nul}"#,
        "\u{feff}{\"mag\":1}",
        "{\"mag\":1,\"text\":\"a\nb\"}",
        r#"{"mag":NaN}"#,
    ];
    let host = TestHost::new()
        .param("where", "mag < 4.5 || mag >= 4.5 || mag == null")
        .output("rest");
    let sent = host
        .start::<JsonFilter, _>()
        .unwrap()
        .values(garbage.into_iter().chain([r#"{"mag":1}"#]))
        .unwrap();
    assert_eq!(sent.values("out"), [r#"{"mag":1}"#]);
    assert_eq!(sent.values("rest"), garbage);
}

#[test]
fn the_last_of_several_members_of_one_name_is_the_one_that_counts() {
    let value = r#"{"id":"first","id":"last"}"#;
    let kept = |condition| {
        filter(condition)
            .values([value])
            .unwrap()
            .values("out")
            .len()
    };
    assert_eq!(kept("id == 'last'"), 1);
    assert_eq!(kept("id == 'first'"), 0);
}

#[test]
fn a_record_without_a_value_has_no_fields_but_it_has_a_key() {
    let tombstone = || [TestRecord::tombstone("us1")];
    assert!(
        filter("mag > 1")
            .send(tombstone())
            .unwrap()
            .records("out")
            .is_empty()
    );
    assert_eq!(
        filter("mag == null")
            .send(tombstone())
            .unwrap()
            .records("out"),
        tombstone()
    );
    assert_eq!(
        filter("mag > 1 || $key == 'us1'")
            .send(tombstone())
            .unwrap()
            .records("out"),
        tombstone()
    );
}

#[test]
fn keys_headers_and_timestamps_stay() {
    let record = TestRecord::new(r#"{"mag":5}"#)
        .key("k")
        .timestamp(77)
        .header("a", "1")
        .header("a", "2");
    let sent = filter("mag > 4")
        .send([TestRecord::new("{}"), record.clone()])
        .unwrap();
    assert_eq!(sent.records("out"), [record]);
}

#[test]
fn conditions_that_make_no_sense_refuse_the_deployment() {
    let refusal = |condition| {
        TestHost::new()
            .param("where", condition)
            .start::<JsonFilter, _>()
            .unwrap_err()
    };
    assert_eq!(
        refusal("mag >= "),
        "the parameter `where` is not valid: `mag >= `: at character 8: a value is missing at the end"
    );
    assert!(refusal("'mag'").ends_with("it gives a text, never true or false"));
    assert!(refusal("4.5").ends_with("it gives a number, never true or false"));
    assert!(refusal("$offset").ends_with("it gives a number, never true or false"));
    assert!(refusal("mag + 1").ends_with("it gives a number or a text, never true or false"));
    assert!(refusal("null").ends_with("it gives null, never true or false"));
    assert!(refusal(&"(".repeat(10_000)).contains("nested more than 64 deep"));
    let missing = TestHost::new().start::<JsonFilter, _>().unwrap_err();
    assert_eq!(missing, "the parameter `where` is missing");
    let misspelt = TestHost::new()
        .param("where", "true")
        .param("were", "x")
        .start::<JsonFilter, _>()
        .unwrap_err();
    assert_eq!(misspelt, "there is no parameter `were`; there is `where`");
    let misspelt = TestHost::new()
        .param("where", "true")
        .output("reset")
        .start::<JsonFilter, _>()
        .unwrap_err();
    assert_eq!(
        misspelt,
        "there is no output `reset`; there is `out`, `rest`"
    );
}
