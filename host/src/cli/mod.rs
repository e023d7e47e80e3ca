//! The command line: one command, one file. Results go to standard output,
//! notes to standard error; with `--json` both are JSON, a document a line.
//!
//! The commands of a client know the broker only through `eddy_client`; only
//! `serve`, `check-config`, `default-config` and `inspect` know that it is in
//! this binary.

mod check_config;
mod completions;
mod connection;
mod default_config;
mod deploy;
mod deployment;
mod exit;
mod group;
mod inspect;
mod interrupt;
mod output;
mod plugin;
mod publish;
mod serve;
mod subscribe;
mod topic;
mod value;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::connection::Connection;
use self::exit::Failure;
use self::output::Output;

const AFTER_HELP: &str = "\
Exit codes:
    0  done; for `pub`, every record is acknowledged
    1  refused by the broker, or failed
    2  the command line or the configuration is wrong
    3  the broker cannot be reached, or nothing moved within --timeout
  130  interrupted before it was done";

/// An event bus in one binary: topics on disk, WebAssembly on every partition,
/// browsers and devices over WebSocket.
#[derive(Debug, Parser)]
#[command(name = "eddy", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// Results, notes and errors as JSON, a document a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Topic(topic::Topic),
    #[command(name = "pub")]
    Publish(publish::Publish),
    #[command(name = "sub")]
    Subscribe(subscribe::Subscribe),
    Group(group::Group),
    Plugin(plugin::Plugin),
    Deploy(deploy::Deploy),
    Deployment(deployment::Deployment),
    CheckConfig(check_config::CheckConfig),
    DefaultConfig(default_config::DefaultConfig),
    Inspect(inspect::Inspect),
    Completions(completions::Completions),
}

/// Runs the command line: what `main` does.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = Output::new(cli.json);
    match run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

/// Help, the version, or what is wrong with the command line.
fn refuse(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if !(wants_json && error.use_stderr()) {
        error.exit();
    }
    let text = error.render().to_string();
    let sentence = text.split("\n\n").next().unwrap_or_default();
    let failure = Failure::usage(sentence.trim_start_matches("error: ").trim());
    Output::new(true).failure(&failure);
    failure.exit_code()
}

fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(dispatch(cli, output));
    // A read from a terminal that never ends must not hold the exit up.
    runtime.shutdown_background();
    result
}

async fn dispatch(cli: Cli, output: &Output) -> Result<(), Failure> {
    let connection = &cli.connection;
    match cli.command {
        Command::Serve(serve) => serve.run(output).await,
        Command::Topic(topic) => topic.run(connection, output).await,
        Command::Publish(publish) => publish.run(connection, output).await,
        Command::Subscribe(subscribe) => subscribe.run(connection, output).await,
        Command::Group(group) => group.run(connection, output).await,
        Command::Plugin(plugin) => plugin.run(connection, output).await,
        Command::Deploy(deploy) => deploy.run(connection, output).await,
        Command::Deployment(deployment) => deployment.run(connection, output).await,
        Command::CheckConfig(check) => check.run(output),
        Command::DefaultConfig(default) => default.run(output),
        Command::Inspect(inspect) => inspect.run(output),
        Command::Completions(completions) => completions.run(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_documentation_shows_can_be_typed() {
        for line in [
            "eddy serve --data d --listen 127.0.0.1:0 --config c --set a.b=1 --set c=2",
            "eddy topic create quakes --partitions 8 --retention 7d --retention-bytes 1GiB --durability memory",
            "eddy topic alter quakes --retention none",
            "eddy pub quakes --key-field device.id quakes.ndjson --timeout 1m",
            "eddy pub quakes -",
            "eddy pub quakes --key us1 --tombstone",
            "eddy pub quakes --json records.ndjson --partition 1 --header h=1",
            "eddy pub quakes --json --input value --key-field id quakes.ndjson",
            "eddy sub quakes --from 2018-02-01",
            "eddy sub quakes --from -15m --format %v --count 3",
            "eddy sub quakes --from earliest --partition 1 --partition 2 --filter json-filter --param where=mag>4",
            "eddy --server http://edge:7117 --json topic list",
            "eddy plugin push json-filter.wasm --name f",
            "eddy deploy strong --plugin json-filter --from quakes --to strong --param where=mag>=4.5 --start latest",
            "eddy deployment show strong",
            "eddy completions zsh",
            "eddy inspect data",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_contradicts_itself_is_a_usage_error() {
        for line in [
            "eddy",
            "eddy pub t --key a --key-field b",
            "eddy pub t --tombstone",
            "eddy pub t --key a --tombstone file",
            "eddy sub t --param a=b",
            "eddy topic create t --partitions 0",
            "eddy topic create t --partitions 1025",
            "eddy topic create a/b",
            "eddy topic alter t",
            "eddy deploy d --plugin p --from a",
            "eddy --server ftp://x topic list",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
