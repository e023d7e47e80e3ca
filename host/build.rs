//! Puts the console's files into the binary: `$EDDY_WEB_DIR`, or `target/web`
//! of the workspace, which `cargo xtask web` fills. Without them the binary
//! carries a page that says so.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

const PLACEHOLDER: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Eddy</title>
<body style="font: 16px/1.5 system-ui; max-width: 40em; margin: 4em auto; padding: 0 1em">
<h1>Eddy is running</h1>
<p>This binary was built without its console. <code>cargo xtask web</code> builds the console,
and the next <code>cargo build</code> puts it in here.</p>
<p>The API works all the same: <a href="/openapi.json">openapi.json</a>,
<a href="/v1/topics">topics</a>, <a href="/metrics">metrics</a>.</p>
</body>
</html>
"#;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=EDDY_WEB_DIR");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let web = web_dir();
    // Cargo runs this again when something in the folder changes; a folder that
    // is missing would make it run, and the binary be built, every time.
    if fs::create_dir_all(&web).is_ok() {
        println!("cargo::rerun-if-changed={}", web.display());
    }
    let mut files = Vec::new();
    collect(&web, &mut files);
    files.sort();
    if !files.contains(&web.join("index.html")) {
        let placeholder = out.join("index.html");
        fs::write(&placeholder, PLACEHOLDER).expect("OUT_DIR can be written to");
        fs::write(out.join("page.rs"), table(&out, &[placeholder]))
            .expect("OUT_DIR can be written to");
        return;
    }
    fs::write(out.join("page.rs"), table(&web, &files)).expect("OUT_DIR can be written to");
}

fn web_dir() -> PathBuf {
    match env::var_os("EDDY_WEB_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let host = PathBuf::from(
                env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"),
            );
            host.parent()
                .expect("host/ lies in the workspace")
                .join("target/web")
        }
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn table(root: &Path, files: &[PathBuf]) -> String {
    let mut text = String::from("const FILES: &[File] = &[\n");
    for file in files {
        let bytes = fs::read(file).expect("a file of the console can be read");
        let name = file
            .strip_prefix(root)
            .expect("found below the root")
            .to_string_lossy()
            .replace('\\', "/");
        writeln!(
            text,
            "    File {{ path: {:?}, content_type: {:?}, etag: {:?}, bytes: include_bytes!({:?}) }},",
            format!("/{name}"),
            content_type(&name),
            format!("\"{:016x}\"", fnv1a(&bytes)),
            file.display().to_string(),
        )
        .expect("a String takes everything");
    }
    text.push_str("];\n");
    text
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff2" => "font/woff2",
        "txt" | "md" | "ts" => "text/plain; charset=utf-8",
        "webmanifest" => "application/manifest+json",
        _ => "application/octet-stream",
    }
}

/// FNV-1a, 64 bits: a tag for a file's content, the same on every machine.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
