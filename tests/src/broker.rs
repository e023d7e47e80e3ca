//! The real broker: `eddy serve` on a free port and in a fresh folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use eddy_client::{Client, Config};
use tempfile::TempDir;

use crate::process::{Finished, Process};
use crate::wait::{LIMIT, wait_until};
use crate::{artefact, http};

/// How long a broker may take to answer everything in flight and sync.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A broker with its folder. Both are gone when it is dropped, unless the test
/// is failing: then the log is printed and the folder kept.
pub struct Broker {
    process: Process,
    address: SocketAddr,
    data: PathBuf,
    /// Where the data folder is the broker's own.
    folder: Option<TempDir>,
    arguments: Vec<String>,
    /// What the system gives it, if not as much as the tests have.
    descriptors: Option<u32>,
}

impl Broker {
    /// A broker with the default settings.
    pub fn start() -> Broker {
        Broker::start_with(&[])
    }

    /// The same with further arguments for `eddy serve`, such as
    /// `["--set", "key=value"]`; restarts use them too.
    pub fn start_with(arguments: &[&str]) -> Broker {
        let folder = tempfile::Builder::new()
            .prefix("eddy-test-")
            .tempdir()
            .expect("a temporary folder can be made");
        let mut broker = Broker::start_in(folder.path(), arguments);
        broker.folder = Some(folder);
        broker
    }

    /// The same where the system gives it only so many descriptors.
    pub fn start_with_descriptors(limit: u32) -> Broker {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let started = Broker::try_start(folder.path(), &[], Some(limit));
        let mut broker = started.expect("so many are enough");
        broker.folder = Some(folder);
        broker
    }

    /// The same in a folder that is there and stays.
    #[track_caller]
    pub fn start_in(data: &Path, arguments: &[&str]) -> Broker {
        Broker::try_start_in(data, arguments).unwrap_or_else(|ended| {
            panic!(
                "the broker ended with {:?} instead of listening; its log:\n{}",
                ended.code, ended.stderr
            )
        })
    }

    /// The same where the broker may refuse to start.
    #[track_caller]
    pub fn try_start_in(data: &Path, arguments: &[&str]) -> Result<Broker, Finished> {
        Broker::try_start(data, arguments, None)
    }

    #[track_caller]
    fn try_start(
        data: &Path,
        arguments: &[&str],
        descriptors: Option<u32>,
    ) -> Result<Broker, Finished> {
        let arguments: Vec<_> = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        let (process, address) = serve(command(data, "127.0.0.1:0", &arguments, descriptors))?;
        Ok(Broker {
            process,
            address,
            data: data.to_owned(),
            folder: None,
            arguments,
            descriptors,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its HTTP and its page are.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where its WebSocket is.
    pub fn ws_url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    /// Where its data is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The running process, with its log on standard error.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has written to its log since its last start.
    pub fn log(&self) -> String {
        self.process.stderr().text()
    }

    /// Ends it with SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Ends it with SIGTERM and waits for the graceful stop, which must end
    /// with exit code 0.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.process.terminate();
        let code = wait_until(STOP_LIMIT, "the broker should stop", || {
            self.process.ended()
        });
        assert_eq!(
            code,
            Some(0),
            "the broker did not stop well; its log:\n{}",
            self.log()
        );
    }

    /// Starts it again in the same folder and on the same port. It must have
    /// been ended before.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(
            !self.process.is_running(),
            "restart after kill9 or terminate"
        );
        let listen = self.address.to_string();
        match serve(self.serve_command(&listen)) {
            Ok((process, _)) => self.process = process,
            Err(ended) => panic!(
                "the broker ended with {:?} instead of listening; its log:\n{}",
                ended.code, ended.stderr
            ),
        }
    }

    /// Starts it again and kills it when it has written `lines` lines to its
    /// log, or listens.
    #[track_caller]
    pub fn restart_halfway(&mut self, lines: usize) {
        let listen = self.address.to_string();
        self.process = Process::start(&mut self.serve_command(&listen));
        let process = &mut self.process;
        wait_until(LIMIT, "the broker should write its log", || {
            let log = process.stderr();
            (log.count() >= lines || log.text().contains(LISTENING)).then_some(())
        });
        self.process.kill9();
    }

    fn serve_command(&self, listen: &str) -> Command {
        command(&self.data, listen, &self.arguments, self.descriptors)
    }

    /// How a client reaches it; the pauses between attempts are short.
    pub fn client_config(&self) -> Config {
        Config {
            server: self
                .address
                .to_string()
                .parse()
                .expect("an address and a port"),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(100),
            ..Config::default()
        }
    }

    /// A client whose connection stands.
    pub async fn client(&self) -> Client {
        Client::connect(self.client_config())
            .await
            .expect("the broker listens")
    }

    /// The sum of a metric over its labels; 0 if it was never set.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").ok().text();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = match rest.strip_prefix('{') {
                Some(labelled) => labelled.split_once('}')?.1,
                None => rest,
            };
            rest.strip_prefix(' ')?.parse::<f64>().ok()
        });
        values.sum()
    }

    /// A command of the binary against this broker, to be started as one likes.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(artefact::eddy());
        command.args(arguments).env("EDDY_SERVER", self.url());
        command
    }

    /// Runs a command of the binary against this broker to its end.
    #[track_caller]
    pub fn eddy(&self, arguments: &[&str]) -> Finished {
        Process::start(&mut self.command(arguments)).wait(LIMIT)
    }

    /// Pushes the plugin `byte-filter`.
    #[track_caller]
    pub fn push_byte_filter(&self) {
        let plugin = artefact::plugin("byte-filter");
        let push = ["plugin", "push", &plugin.to_string_lossy()];
        self.eddy(&push).ok();
    }

    /// Deploys it: what contains `contains` goes from one topic to the other.
    #[track_caller]
    pub fn deploy_byte_filter(&self, name: &str, (from, to): (&str, &str), contains: &str) {
        let contains = format!("contains={contains}");
        let what = ["deploy", name, "--plugin", "byte-filter"];
        let options = ["--from", from, "--to", to, "--param", &contains];
        self.eddy(&[&what[..], &options[..]].concat()).ok();
    }

    /// The same as [`eddy`](Self::eddy) with input.
    #[track_caller]
    pub fn eddy_with_input(&self, arguments: &[&str], input: impl Into<Vec<u8>>) -> Finished {
        Process::start_with_input(&mut self.command(arguments), Some(input.into())).wait(LIMIT)
    }

    /// Starts a command of the binary that goes on by itself, such as `sub`.
    pub fn eddy_running(&self, arguments: &[&str]) -> Process {
        Process::start(&mut self.command(arguments))
    }

    /// `GET` from this broker.
    #[track_caller]
    pub fn get(&self, path: &str) -> http::Response {
        http::get(self.address, path)
    }

    /// `POST` of JSON to this broker.
    #[track_caller]
    pub fn post(&self, path: &str, body: &serde_json::Value) -> http::Response {
        let body = body.to_string();
        http::request(
            self.address,
            "POST",
            path,
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill9();
        if thread::panicking() {
            if let Some(folder) = self.folder.take() {
                eprintln!("the broker's data is kept in {:?}", folder.keep());
            }
            eprintln!("its log:\n{}", self.log());
        }
    }
}

/// What the log says when the broker takes connections.
const LISTENING: &str = "listening on http://";

fn command(data: &Path, listen: &str, arguments: &[String], descriptors: Option<u32>) -> Command {
    let mut command = match descriptors {
        None => Command::new(artefact::eddy()),
        Some(limit) => {
            let mut shell = Command::new("sh");
            let script = format!("ulimit -n {limit} && exec \"$@\"");
            shell.args(["-c", &script, "sh"]).arg(artefact::eddy());
            shell
        }
    };
    command
        .args(["serve", "--listen", listen, "--data"])
        .arg(data)
        .args(arguments);
    command
}

/// Starts `eddy serve` and waits until it listens, or ends instead.
#[track_caller]
fn serve(mut command: Command) -> Result<(Process, SocketAddr), Finished> {
    let mut process = Process::start(&mut command);
    let line = wait_until(LIMIT, "the broker should say that it listens", || {
        if process.ended().is_some() {
            return Some(None);
        }
        let log = process.stderr().all();
        log.into_iter()
            .find(|line| line.contains(LISTENING))
            .map(Some)
    });
    let Some(line) = line else {
        return Err(process.wait(LIMIT));
    };
    let address = line.split(LISTENING).nth(1).and_then(|rest| {
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]".contains(c)))
            .unwrap_or(rest.len());
        rest[..end].parse().ok()
    });
    let address = address.unwrap_or_else(|| panic!("no address in the line `{line}`"));
    Ok((process, address))
}
