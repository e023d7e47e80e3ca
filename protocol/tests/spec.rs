//! `SPEC.md` is true: every example on the page is its golden file and is what
//! the codec reads and writes, and the table of errors is that of the codes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use eddy_protocol::batch::Batch;
use eddy_protocol::codec::{Form, decode_client, decode_server, encode_client, encode_server};
use eddy_protocol::error::ErrorCode;
use eddy_protocol::frame::{broker_capabilities, client_capabilities};

fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn page() -> String {
    fs::read_to_string(here("SPEC.md")).expect("the page")
}

fn golden(file: &str) -> Vec<u8> {
    let path = here("golden").join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A block of the page that shows a golden file.
struct Example {
    name: String,
    bytes: Vec<u8>,
    json: Option<String>,
}

fn examples(page: &str) -> Vec<Example> {
    let blocks = page.split("\n```golden ").skip(1);
    blocks
        .map(|block| {
            let (block, _) = block.split_once("\n```").expect("the block's end");
            let (name, shown) = block.split_once('\n').expect("what it shows");
            let (hex, json) = match shown.split_once("\njson") {
                Some((hex, json)) => (hex, Some(json.trim().to_owned())),
                None => (shown, None),
            };
            let hex = hex.strip_prefix("bincode").expect("bytes");
            let byte = |digits| u8::from_str_radix(digits, 16).expect("two digits");
            Example {
                name: name.to_owned(),
                bytes: hex.split_whitespace().map(byte).collect(),
                json,
            }
        })
        .collect()
}

/// The JSON form of a frame in bincode.
fn in_json(name: &str, bytes: &[u8]) -> String {
    let json = if name.starts_with("client-") {
        let frame = decode_client(bytes, Form::Binary, 0).expect("a request");
        encode_client(&frame, Form::Json)
    } else {
        let frame = decode_server(bytes, Form::Binary).expect("a frame of the broker");
        encode_server(&frame, Form::Json)
    };
    String::from_utf8(json.expect("it has a JSON form").to_vec()).expect("JSON is text")
}

#[test]
fn every_example_is_its_golden_file_and_what_the_codec_makes_of_it() {
    for Example { name, bytes, json } in examples(&page()) {
        assert!(
            golden(&format!("{name}.bin")) == bytes,
            "the bytes of {name}"
        );
        let Some(json) = json else {
            Batch::parse(Bytes::from(bytes)).unwrap_or_else(|error| panic!("{name}: {error}"));
            continue;
        };
        assert_eq!(golden(&format!("{name}.json")), json.as_bytes(), "{name}");
        assert_eq!(in_json(&name, &bytes), json, "{name}");
    }
}

#[test]
fn everything_that_has_a_golden_file_is_shown() {
    let shown: BTreeSet<String> = examples(&page()).into_iter().map(|at| at.name).collect();
    let files = fs::read_dir(here("golden")).expect("the golden files");
    let names = files.map(|file| file.expect("an entry").path());
    let missing: BTreeSet<String> = names
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        // The table of errors stands for theirs.
        .filter(|name| !name.starts_with("server-error-") && !shown.contains(name))
        .collect();
    // The page says in words what these hold.
    assert_eq!(
        missing.into_iter().collect::<Vec<_>>(),
        ["batch-lz4", "batch-zstd"]
    );
}

/// A request and a frame have a section; what was added to them has a row.
#[test]
fn every_capability_is_on_the_page() {
    let page = page();
    for name in broker_capabilities()
        .into_iter()
        .chain(client_capabilities())
    {
        let is_section =
            |line: &str| line.starts_with("### ") && line.ends_with(&format!("`{name}`"));
        let is_row = |line: &str| line.starts_with("| ") && line.contains(&format!("`{name}`"));
        let found = match name.contains('.') {
            true => page.lines().any(is_row),
            false => page.lines().any(is_section),
        };
        assert!(found, "`{name}`");
    }
}

#[test]
fn the_table_of_errors_is_that_of_the_codes() {
    let page = page();
    let (_, section) = page.split_once("\n## 9. Errors\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| number"))
        .map(|line| line.split('|').map(str::trim).skip(1).take(4).collect())
        .collect();
    let codes: Vec<Vec<String>> = ErrorCode::ALL
        .iter()
        .map(|code| {
            let retry = if code.retryable() { "yes" } else { "no" };
            vec![
                code.number().to_string(),
                format!("`{}`", code.name()),
                code.http_status().to_string(),
                retry.to_owned(),
            ]
        })
        .collect();
    assert_eq!(rows, codes);
}
