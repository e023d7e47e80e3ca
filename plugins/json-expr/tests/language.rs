//! The language as its README promises it.

use json_expr::{Env, Expr, Fields, Found, Members};
use proptest::prelude::*;

const QUAKE: &str = r#"{"mag":9.9,"id":"us1","mag":4.5,"none":null,"yes":true,"no":false,"type":"earthquake","count":3,
    "nested":{"a":{"b":[10,{"c":"deep"}]},"empty":{}},"odd name":1,"quo\"te":2,"time":1517363399650,
    "big":9007199254740993,"text":"Zürich \"\u00fc\"","negative":-2.15}"#;

fn give(expression: &str, json: &str) -> String {
    let mut fields = Fields::default();
    let expr = Expr::parse(expression, &mut fields)
        .unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut found = Found::default();
    fields
        .find(json.as_bytes(), &mut found)
        .unwrap_or_else(|error| panic!("{json}: {error}"));
    let mut out = Vec::new();
    let env = Env::new(json.as_bytes(), &found).record(Some(b"k1"), 7, 1000);
    expr.write_json(&env, &mut out);
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn check(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        assert_eq!(give(expression, QUAKE), *expected, "{expression}");
    }
}

#[test]
fn comparisons() {
    check(&[
        ("mag >= 4.5 && type == \"earthquake\"", "true"),
        ("mag > 4.5", "false"),
        ("mag < 5 || nothing.at.all > 3", "true"),
        ("negative < -2", "true"),
        ("count == 3.0", "true"),
        ("type != 'quarry blast'", "true"),
        ("type < 'f'", "true"),
        ("type in ['explosion', 'earthquake']", "true"),
        ("count in [1, 2]", "false"),
        ("count in []", "false"),
        ("!(mag > 4) || yes", "true"),
        ("yes && !no", "true"),
        ("(count + 1) * 2 == 8", "true"),
    ]);
}

#[test]
fn what_is_null_or_missing_compares_with_nothing_but_null() {
    for absent in [
        "none",
        "missing",
        "missing.deeper",
        "mag.deeper",
        "nested.a.b[9]",
        "nested.a[0]",
    ] {
        for operator in ["<", "<=", ">", ">=", "=="] {
            for other in ["0", "-1", "''", "true"] {
                assert_eq!(
                    give(&format!("{absent} {operator} {other}"), QUAKE),
                    "false"
                );
            }
        }
        check(&[
            (&format!("{absent} == null"), "true"),
            (&format!("{absent} != null"), "false"),
            (&format!("{absent} != 4.5"), "true"),
            (&format!("!({absent} >= 4.5)"), "true"),
            (&format!("{absent} in [null]"), "true"),
            (&format!("{absent} + 1"), "null"),
            (&format!("coalesce({absent}, 5)"), "5"),
            (absent, "null"),
        ]);
    }
}

#[test]
fn values_of_different_kinds_are_never_the_same_and_have_no_order() {
    check(&[
        ("mag == '4.5'", "false"),
        ("mag != '4.5'", "true"),
        ("mag < 'a'", "false"),
        ("mag > 'a'", "false"),
        ("yes == 1", "false"),
        ("yes > no", "false"),
        ("nested > 1", "false"),
        ("number('4.5') == mag", "true"),
    ]);
}

#[test]
fn arithmetic() {
    check(&[
        ("1 + 2 * 3 - 4", "3"),
        ("7 / 2", "3.5"),
        ("8 / 2", "4"),
        ("7 % 4", "3"),
        ("-mag", "-4.5"),
        ("--count", "3"),
        ("1 / 0", "null"),
        ("1 % 0", "null"),
        ("9223372036854775807 + 1", "9223372036854775808"),
        // The shortest digits of 2^64.
        ("18446744073709551615 + 1", "1.8446744073709552e19"),
        ("-9223372036854775808 - 1", "-9.223372036854776e18"),
        ("'a' + 'b'", "\"ab\""),
        ("'a' + 1", "null"),
        ("0.1 + 0.2", "0.30000000000000004"),
        ("1e300 * 1e300", "null"),
    ]);
}

#[test]
fn whole_numbers_of_64_bits_are_exact_also_beside_doubles() {
    check(&[
        ("18446744073709551615 == 18446744073709551614", "false"),
        ("18446744073709551615 > 18446744073709551614", "true"),
        ("18446744073709551615 - 18446744073709551614", "1"),
        ("9007199254740993 == 9007199254740992.0", "false"),
        ("9007199254740993 > 9007199254740992.0", "true"),
        ("9007199254740992.0 < big", "true"),
        ("big in [9007199254740992.0]", "false"),
        ("count < 3.5 && count > 2.5 && -count > -3.5", "true"),
        ("1e300 > 18446744073709551615 && -1e300 < -1", "true"),
    ]);
    let largest = r#"{"n":18446744073709551615}"#;
    assert_eq!(give("n == 18446744073709551615", largest), "true");
    assert_eq!(give("n == 18446744073709551614", largest), "false");
    assert_eq!(give("n - 1", largest), "18446744073709551614");
}

#[test]
fn rounding_is_the_same_for_both_kinds_of_numbers() {
    check(&[
        ("round(1234, -2)", "1200"),
        ("round(1234.0, -2)", "1200"),
        ("round(-1250, -2)", "-1300"),
        ("round(-1250.0, -2)", "-1300"),
        ("round(1234, 2)", "1234"),
        ("round(18446744073709551615, -1)", "1.8446744073709552e19"),
        ("round(7, -40)", "0"),
        ("round(1e300, 15)", "1e300"),
        ("round(2.345, 400)", "2.345"),
        ("round(0.125, 2)", "0.13"),
    ]);
}

#[test]
fn nothing_is_left_of_an_earlier_member_of_a_name() {
    let doubled =
        r#"{"a":{"x":1,"z":0},"a":{"x":2,"y":3},"b":{"c":6},"b":5,"l":[1,2],"l":[3],"\u006c":[4]}"#;
    for (expression, expected) in [
        ("a.x", "2"),
        ("a.y", "3"),
        ("a.z", "null"),
        ("b.c", "null"),
        ("b", "5"),
        ("l[0]", "4"),
        ("l[1]", "null"),
        ("a", r#"{"x":2,"y":3}"#),
    ] {
        assert_eq!(give(expression, doubled), expected, "{expression}");
    }
    assert_eq!(
        give(
            "a.z == null && b.c == null && a.x == 2 && a != null",
            doubled
        ),
        "true"
    );
}

#[test]
fn what_an_expression_gives_is_told_from_the_outside() {
    use json_expr::Kind;
    for (text, kind) in [
        ("mag + 1", Kind::NumberOrText),
        ("1 + mag", Kind::Number),
        ("mag - 1", Kind::Number),
        ("null", Kind::Null),
        ("$offset", Kind::Number),
        ("$key", Kind::Text),
        ("if(yes, 1, 'a')", Kind::NumberOrText),
        ("if(yes, null, true)", Kind::Bool),
        ("coalesce(mag, true)", Kind::Any),
        ("coalesce(null, 1)", Kind::Number),
        ("mag", Kind::Any),
    ] {
        let expr = Expr::parse(text, &mut Fields::default()).expect(text);
        assert_eq!(expr.kind(), kind, "{text}");
    }
}

#[test]
fn fields_are_found_wherever_they_are() {
    check(&[
        ("nested.a.b[1].c", "\"deep\""),
        ("nested['a'].b[0]", "10"),
        ("nested.empty", "{}"),
        ("nested.a", r#"{"b":[10,{"c":"deep"}]}"#),
        (
            "nested.a.b[0] == 10 && nested.a.b[1].c == 'deep' && nested.a != null",
            "true",
        ),
        ("`odd name`", "1"),
        ("`quo\"te`", "2"),
        ("text", r#""Zürich \"\u00fc\"""#),
        ("text == 'Zürich \"ü\"'", "true"),
        ("$key + '!'", "\"k1!\""),
        ("$offset + $timestamp", "1007"),
    ]);
    assert_eq!(give("`in` + `null`", r#"{"in": 1, "null": 2}"#), "3");
}

#[test]
fn the_last_of_two_members_of_one_name_counts() {
    check(&[("mag", "4.5"), ("mag + id", "null")]);
}

#[test]
fn numbers_are_copied_and_compared_to_the_last_digit() {
    check(&[
        ("big", "9007199254740993"),
        ("big == 9007199254740992", "false"),
        ("big == 9007199254740993", "true"),
    ]);
    assert_eq!(give("x", r#"{"x": 1.50e+02}"#), "1.50e+02");
    assert_eq!(
        give("x", r#"{"x":123456789012345678901234567890}"#),
        "123456789012345678901234567890"
    );
}

#[test]
fn functions() {
    check(&[
        ("contains(type, 'quake')", "true"),
        ("contains(type, 'quack')", "false"),
        ("contains(mag, '4')", "false"),
        (
            "starts_with(type, 'earth') && ends_with(type, 'quake')",
            "true",
        ),
        ("upper('züri') + lower('ÄB')", "\"ZÜRIäb\""),
        ("length('züri')", "4"),
        ("abs(negative) + floor(mag) + ceil(mag)", "11.15"),
        ("round(negative)", "-2"),
        ("round(3.14159, 2)", "3.14"),
        ("round(count)", "3"),
        ("text(mag) + 'x'", "\"4.5x\""),
        ("number(' 12 ') + number('x')", "null"),
        ("if(mag > 4, 'strong', 'weak')", "\"strong\""),
        ("if(none > 4, 'strong', none)", "null"),
    ]);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (expression, message) in [
        ("", "at character 1: a value is missing at the end"),
        (
            "mag >= 4.5 &&",
            "at character 14: a value is missing at the end",
        ),
        (
            "mag = 4",
            "at character 5: `=` is no operator, `==` compares",
        ),
        ("a & b", "at character 3: `&` is no operator, `&&` is"),
        ("ü + #", "at character 5: `#` means nothing here"),
        ("(a", "at character 3: `)` is missing"),
        (
            "1 < 2 < 3",
            "at character 7: comparisons can't be chained; join two of them with `&&`",
        ),
        (
            "a b",
            "at character 3: nothing was expected after this; is an operator missing?",
        ),
        ("'open", "at character 1: this ' is never closed"),
        ("a.", "at character 3: the name of a field is missing"),
        (
            "a[-1]",
            "at character 3: the number of an item or the name of a field in quotes is missing",
        ),
        (
            "round()",
            "at character 1: `round` takes 1 to 2, and here are 0",
        ),
        ("if(a, b)", "at character 1: `if` takes 3, and here are 2"),
        ("a in 3", "at character 6: `[` is missing"),
        (
            "$nope",
            "at character 1: there is no `$nope`; there are `$key`, `$offset` and `$timestamp`",
        ),
        (
            "1e999",
            "at character 1: a number that large can't be told from others",
        ),
    ] {
        let error = Expr::parse(expression, &mut Fields::default()).unwrap_err();
        assert_eq!(error.to_string(), message, "{expression}");
    }
    let unknown = Expr::parse("has(a)", &mut Fields::default())
        .unwrap_err()
        .to_string();
    assert!(
        unknown.starts_with("at character 1: there is no function `has`; there are if, abs"),
        "{unknown}"
    );
}

#[test]
fn no_expression_is_deep_enough_to_exhaust_the_stack() {
    for (open, close) in [
        ("(", ")"),
        ("!", ""),
        ("-", ""),
        ("a in [", "]"),
        ("abs(", ")"),
        ("if(", ",1,1)"),
    ] {
        let nested = format!("{}1{}", open.repeat(8000), close.repeat(8000));
        let error = Expr::parse(&nested, &mut Fields::default()).unwrap_err();
        assert!(
            error.to_string().ends_with("nested more than 64 deep"),
            "{open}: {error}"
        );
    }
    let error = Expr::parse(&"(".repeat(100_000), &mut Fields::default()).unwrap_err();
    assert!(
        error.to_string().contains("100000 bytes are too many"),
        "{error}"
    );
    let error = Expr::parse(&format!("a{}", ".b".repeat(100)), &mut Fields::default()).unwrap_err();
    assert!(
        error.to_string().contains("a path has 32 steps at most"),
        "{error}"
    );
    // Long is fine where it isn't deep.
    let long = vec!["mag > 1"; 5000].join(" && ");
    assert_eq!(give(&long, QUAKE), "true");
    let long = vec!["1"; 10_000].join("+");
    assert_eq!(give(&long, QUAKE), "10000");
}

#[test]
fn no_value_is_deep_enough_to_exhaust_the_stack() {
    let deep = format!(
        "{{\"a\":{}{},\"b\":1}}",
        "[".repeat(1_000_000),
        "]".repeat(1_000_000)
    );
    assert_eq!(give("b", &deep), "1");
    let deep = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
    assert_eq!(give("a.a.a.a.b", &deep), "null");
}

/// What serde_json takes as JSON where it builds nothing: it has no limit to numbers or depth then, and
/// doesn't ask for pairs of `\u` escapes.
fn is_json(json: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(json).is_ok()
}

/// Both ways over a value, with fields asked for and without.
fn is_taken(json: &[u8]) -> bool {
    let mut found = Found::default();
    let taken = Fields::default().find(json, &mut found).is_ok();
    let mut fields = Fields::default();
    Expr::parse("a.b[1].c == 1 || a[0] == n || n.a[2].b", &mut fields).unwrap();
    assert_eq!(fields.find(json, &mut found).is_ok(), taken, "{json:?}");
    if json.trim_ascii_start().starts_with(b"{") {
        let members = Members::of(json)
            .and_then(|mut members| members.try_for_each(|member| member.map(drop)));
        assert_eq!(members.is_ok(), taken, "{json:?}");
    }
    taken
}

#[test]
fn what_is_not_json_is_told_wherever_it_is_wrong() {
    let texts = [
        "",
        " ",
        "hello",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":1,,\"b\":2}",
        "{\"a\":1]",
        "[1}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1} x",
        "{} {}",
        "1 2",
        "{\"a\":\"open}",
        "{\"a\":\"\\",
        "{\"a\" 1}",
        "{\"a\":{\"b\":[}",
        "\u{1}",
        "{\"a\":1 \"c\":2}",
        "{\"a\":{\"b\":2},\"c\":3}junk",
        "[,]",
        "[1,]",
        "[1 2]",
        "{1:2}",
        "{null:1}",
        "\u{feff}{}",
        "\u{a0}{}",
        "\u{b}1",
        "/**/1",
        "1//",
        "{\"n\":1}\0",
        "\0",
    ];
    let values = [
        "tru",
        "truex",
        "True",
        "nul",
        "nulll",
        "fals",
        "undefined",
        "NaN",
        "Infinity",
        "-Infinity",
        "05",
        "-05",
        "00",
        "-",
        "--1",
        "+1",
        ".5",
        "1.",
        "1.e1",
        "-.5",
        "1e",
        "1e+",
        "1e1.5",
        "0x10",
        "1_000",
        "1,0.",
        "0e",
        "1.2.3",
        "'a'",
        "`a`",
        r#""\x41""#,
        r#""\u12""#,
        r#""\u12G4""#,
        r#""\u+123""#,
        r#""\U0041""#,
        r#""\""#,
        r#""\a""#,
        "\"\t\"",
        "\"\n\"",
        "\"\u{0}\"",
        "\"aaaaaaaaaa\u{1f}\"",
        "\"a\"b\"",
        "[1,2",
        "{\"x\":[{}}",
        "[[[]]",
        "[]]",
        "{]",
        "(1)",
    ];
    let inside = values.iter().flat_map(|value| {
        [
            value.to_string(),
            format!("{{\"n\":{value}}}"),
            format!("{{\"n\":1,\"skipped\":{{\"x\":[0,{value}]}}}}"),
            format!("{{\"n\":{value},\"n\":1}}"),
            format!("[{value}]"),
        ]
    });
    for json in texts.iter().map(|text| text.to_string()).chain(inside) {
        assert!(!is_taken(json.as_bytes()), "{json}");
        assert!(!is_json(json.as_bytes()), "{json}");
    }
    for bytes in [
        &b"\"\xff\""[..],
        b"{\"n\":1,\"x\":\"\xc3\"}",
        b"{\"\xed\xa0\x80\":1}",
        b"{\"n\":1,\"long enough for a word\":\"long enough \xc0\x80 too\"}",
        b"\xef\xbb\xbf{}",
        b"\xff",
        b"1\xff",
    ] {
        assert!(!is_taken(bytes), "{bytes:?}");
        assert!(!is_json(bytes), "{bytes:?}");
    }
}

#[test]
fn what_is_json_is_taken_however_odd_it_is() {
    for json in [
        "{}",
        "[]",
        "1",
        "\"text\"",
        "null",
        " {\"a\" : 1 } \n",
        "[{\"a\":1}]",
        "\t\r\n -0 ",
        "1e400",
        "-1e-400",
        "0.0e+00",
        "[[[]],{\"\":{}}]",
        r#""\ud800""#,
        r#"{"\udc00":"\ud800\ud800"}"#,
        r#""\u0000\"\\\/\b\f\n\r\t""#,
        "\"\u{7f}\u{80}\u{2028}\u{1f30b}\"",
        "{\"a\":1,\"a\":2}",
        "true",
        "false",
    ] {
        assert!(is_taken(json.as_bytes()), "{json}");
        assert!(is_json(json.as_bytes()), "{json}");
    }
}

#[test]
fn what_has_no_value_to_compare_is_null_and_copied_as_it_is() {
    for text in [
        "1e400",
        "-1e400",
        r#""\ud800""#,
        r#""\udc00x""#,
        r#""\ud800\u0041""#,
    ] {
        let json = format!("{{\"n\":{text},\"\\ud800\":1}}");
        assert_eq!(give("n", &json), text);
        assert_eq!(
            give("n == null && !(n > 1) && !(n < 1)", &json),
            "true",
            "{text}"
        );
        assert_eq!(give("coalesce(n, 'none')", &json), "\"none\"", "{text}");
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>()
            .prop_filter("JSON has no others", |float| float.is_finite())
            .prop_map(Into::into),
        "[a-c\\\\\"\u{e9}\u{1f30b}\n]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[a-c\\\\\"]{1,2}", inner, 0..5)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// JSON's own pieces and some that are none, so that what they make together is often nearly JSON.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"a\"",
    "\"b\"",
    "\"a\":",
    "\"n\":",
    "1",
    "-0",
    "0.5",
    "1e5",
    "05",
    "true",
    "tru",
    "null",
    " ",
    "\n",
    "\"",
    "\\",
    "\\u00e9",
    "\\ud83c\\udf0b",
    "\\ud800",
    "\\x",
    "é",
    "\u{1}",
    "\u{feff}",
    "{\"a\":1}",
    "[1,2]",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_is_what_the_reference_takes_as_json(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12)) {
        let json = pieces.concat();
        prop_assert_eq!(is_taken(json.as_bytes()), is_json(json.as_bytes()), "{}", json);
    }

    #[test]
    fn a_byte_changed_anywhere_is_judged_as_by_the_reference(json in any_json(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut text = serde_json::to_vec(&json).unwrap();
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = byte }
        prop_assert_eq!(is_taken(&text), is_json(&text), "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn of_several_members_of_one_name_the_reference_takes_the_same(members in prop::collection::vec(("[abn]", any_json()), 0..6)) {
        let member = |(name, value): &(String, serde_json::Value)| format!("\"{name}\":{value}");
        let text = format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","));
        let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (path, pointer) in [("a", "/a"), ("a.b", "/a/b"), ("b[0].a", "/b/0/a"), ("n.a.c", "/n/a/c")] {
            let ours: serde_json::Value = serde_json::from_str(&give(path, &text)).unwrap();
            prop_assert_eq!(ours, reference.pointer(pointer).cloned().unwrap_or_default(), "{} in {}", path, &text);
        }
    }

    #[test]
    fn every_field_is_found_as_the_reference_finds_it(json in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
        let paths = ["a", "b", "a.a", "a.b", "b.a.c", "a[0]", "a[1].b", "`a\\\\`", "`\\\"`.a"];
        let pointers = ["/a", "/b", "/a/a", "/a/b", "/b/a/c", "/a/0", "/a/1/b", "/a\\", "/\"/a"];
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut fields = Fields::default();
        let exprs = paths.map(|path| Expr::parse(path, &mut fields).unwrap());
        let mut found = Found::default();
        prop_assert!(fields.find(text.as_bytes(), &mut found).is_ok(), "{text}");
        for (expr, pointer) in exprs.iter().zip(pointers) {
            let mut ours = Vec::new();
            expr.write_json(&Env::new(text.as_bytes(), &found), &mut ours);
            let ours: serde_json::Value = serde_json::from_slice(&ours).unwrap();
            let steps_into_array_by_name = pointer.split('/').skip(2).any(|step| step.parse::<u32>().is_ok());
            let reference = json.pointer(pointer).cloned().unwrap_or_default();
            // A pointer's `0` is also a member called `0`; there is none of that name here.
            prop_assert!(ours == reference || steps_into_array_by_name && reference.is_null(), "{pointer} in {text}");
        }
    }

    #[test]
    fn arbitrary_bytes_panic_nowhere(json in prop::collection::vec(any::<u8>(), 0..64), text in "[a-c(){}\\[\\]\"'.<>=!&|0-9+* ]{0,24}") {
        let mut fields = Fields::default();
        if let Ok(expr) = Expr::parse(&text, &mut fields) {
            let mut found = Found::default();
            let _ = fields.find(&json, &mut found);
            let mut out = Vec::new();
            expr.write_json(&Env::new(&json, &found), &mut out);
            let _ = expr.is_true(&Env::new(&json, &found));
        }
    }
}
