//! A real browser (Chromium, headless), driven over its debugging protocol.
//!
//! A page is an object with four verbs: open, evaluate, wait, photograph. What
//! the page writes to its console is kept and shown when something fails.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::process::Process;
use crate::wait::LIMIT;

/// Where the browser may be; `EDDY_CHROMIUM` names another.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// No sandbox, because tests may run as root; nothing that calls home.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// One browser at a time: several would only wait for each other's processor time.
static TURN: Mutex<()> = Mutex::new(());

/// A browser with an empty profile; ended when dropped.
pub struct Browser {
    devtools: String,
    _process: Process,
    _profile: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// One page of it.
pub struct Page {
    connection: Connection,
}

impl Browser {
    /// Starts one, when no other test of this program has one.
    pub fn launch() -> Browser {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = tempfile::Builder::new()
            .prefix("eddy-browser-")
            .tempdir()
            .expect("a temporary folder can be made");
        let mut command = Command::new(program());
        command
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank");
        let process = Process::start(&mut command);
        let line = process.stderr().wait_for("DevTools listening on ws://", 0);
        let devtools = line
            .split("listening on ")
            .nth(1)
            .expect("the line was found by this")
            .trim()
            .to_owned();
        Browser {
            devtools,
            _process: process,
            _profile: profile,
            _turn: turn,
        }
    }

    /// A new page, loaded from `url`.
    pub async fn open(&self, url: &str) -> Page {
        let created = Connection::to(&self.devtools)
            .await
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let target = created["targetId"]
            .as_str()
            .expect("the protocol promises an id");
        let (base, _) = self
            .devtools
            .split_once("/devtools/")
            .expect("the protocol promises this path");
        let mut connection = Connection::to(&format!("{base}/devtools/page/{target}")).await;
        for domain in ["Page", "Runtime", "Log"] {
            connection
                .call(&format!("{domain}.enable"), json!({}))
                .await;
        }
        let mut page = Page { connection };
        page.resize(1280, 800).await;
        let answer = page
            .connection
            .call("Page.navigate", json!({"url": url}))
            .await;
        assert!(
            answer["errorText"].is_null(),
            "{url} could not be opened: {answer}"
        );
        page.connection.wait_until_loaded().await;
        page
    }
}

impl Page {
    /// The value of a JavaScript expression; promises are awaited.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.connection.call("Runtime.evaluate", parameters).await;
        let console = self.connection.console.join("\n");
        assert!(
            answer["exceptionDetails"].is_null(),
            "`{expression}` failed: {answer}\nconsole:\n{console}"
        );
        answer["result"]["value"].take()
    }

    /// Evaluates until the value is truthy, and gives it.
    pub async fn wait_for(&mut self, limit: Duration, expression: &str) -> Value {
        // In the page, so that waiting costs one exchange: a page that is busy is not asked all the time.
        let promise = format!(
            "(async () => {{ const end = performance.now() + {}; let found;
               while (!(found = ({expression})) && performance.now() < end) await new Promise((done) => setTimeout(done, 20));
               return found || null; }})()",
            limit.as_millis()
        );
        let found = self.eval(&promise).await;
        let console = self.connection.console.join("\n");
        assert!(
            !found.is_null(),
            "waited {limit:?} in vain for `{expression}` in the page; console:\n{console}"
        );
        found
    }

    /// What the page wrote to its console, and errors of its network.
    pub fn console(&self) -> &[String] {
        &self.connection.console
    }

    /// Writes what is to be seen as a PNG.
    pub async fn screenshot(&mut self, path: &Path) {
        let answer = self
            .connection
            .call("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let encoded = answer["data"].as_str().expect("the protocol promises data");
        let image = STANDARD
            .decode(encoded)
            .expect("the protocol promises base64");
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder"))
            .expect("the folder can be made");
        std::fs::write(path, image).expect("the screenshot can be written");
    }

    /// Gives the window a size in pixels.
    pub async fn resize(&mut self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.connection
            .call("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// Says whether the person at the screen likes it `dark` or `light`.
    pub async fn prefer_color_scheme(&mut self, scheme: &str) {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.connection
            .call("Emulation.setEmulatedMedia", media)
            .await;
    }
}

/// A conversation with the browser: one call at a time.
struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    console: Vec<String>,
    loaded: bool,
}

impl Connection {
    async fn to(url: &str) -> Connection {
        let (socket, _) = connect_async(url)
            .await
            .unwrap_or_else(|error| panic!("no browser at {url}: {error}"));
        Connection {
            socket,
            last_id: 0,
            console: Vec::new(),
            loaded: false,
        }
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        // Longer than any wait inside a page.
        let answered = tokio::time::timeout(LIMIT * 4, self.exchange(method, parameters)).await;
        answered.unwrap_or_else(|_| panic!("the browser did not answer {method}"))
    }

    async fn exchange(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let call = json!({"id": self.last_id, "method": method, "params": parameters});
        self.socket
            .send(Message::text(call.to_string()))
            .await
            .expect("the browser is there");
        loop {
            let mut message = self.next().await;
            if message["id"] == self.last_id {
                assert!(
                    message["error"].is_null(),
                    "the browser refused {method}: {}",
                    message["error"]
                );
                return message["result"].take();
            }
        }
    }

    /// Waits for the load of the page that was asked for last.
    async fn wait_until_loaded(&mut self) {
        let loaded = async {
            while !self.loaded {
                self.next().await;
            }
        };
        tokio::time::timeout(LIMIT, loaded)
            .await
            .expect("the page should load");
    }

    /// The next message; what it says of the page is noted.
    async fn next(&mut self) -> Value {
        loop {
            let message = self
                .socket
                .next()
                .await
                .expect("the browser is there")
                .expect("the browser is there");
            let Ok(text) = message.into_text() else {
                continue;
            };
            let Ok(message) = serde_json::from_str::<Value>(&text) else {
                continue;
            };
            self.note(&message);
            return message;
        }
    }

    /// Keeps what belongs to the console, and whether the page is there.
    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Page.loadEventFired") => self.loaded = true,
            Some("Runtime.consoleAPICalled") => {
                let words = parameters["args"].as_array().into_iter().flatten();
                self.console.push(
                    words
                        .map(|word| plain(&word["value"], &word["description"]))
                        .collect::<Vec<_>>()
                        .join(" "),
                );
            }
            Some("Runtime.exceptionThrown") => self.console.push(plain(
                &parameters["exceptionDetails"]["exception"]["description"],
                &parameters["exceptionDetails"]["text"],
            )),
            Some("Log.entryAdded") => {
                let entry = &parameters["entry"];
                self.console.push(format!(
                    "{} {}",
                    entry["text"].as_str().unwrap_or_default(),
                    entry["url"].as_str().unwrap_or_default()
                ));
            }
            _ => {}
        }
    }
}

/// A value as the console shows it; its description where it is not plain.
fn plain(value: &Value, description: &Value) -> String {
    let shown = if value.is_null() { description } else { value };
    shown
        .as_str()
        .map_or_else(|| shown.to_string(), str::to_owned)
}

fn program() -> PathBuf {
    if let Some(named) = env::var_os("EDDY_CHROMIUM") {
        return named.into();
    }
    let folders: Vec<_> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    let found = PROGRAMS
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file());
    found.expect("there is no Chromium: `cargo xtask setup` installs it or says how")
}
