//! `eddy plugin push|list|show|delete`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use eddy_client::Admin;
use eddy_protocol::admin::PluginInfo;
use serde_json::json;

use super::output::Table;
use super::value::{describe_size, describe_timestamp};
use super::{Connection, Failure, Output};

/// Push, list, show and delete plugins
#[derive(Debug, Args)]
pub(crate) struct Plugin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Push(Push),
    List(List),
    Show(Show),
    Delete(Delete),
}

/// Check, compile and store a plugin
///
/// A name that is there already names the new plugin from now on; what is
/// deployed keeps running what it was deployed with.
#[derive(Debug, Args)]
struct Push {
    /// A WebAssembly component
    file: PathBuf,
    /// Its name [default: the file's name without .wasm]
    #[arg(long)]
    name: Option<String>,
}

/// List all plugins
#[derive(Debug, Args)]
struct List {}

/// Show a plugin
#[derive(Debug, Args)]
struct Show {
    /// Its name or digest
    plugin: String,
}

/// Delete a plugin that no deployment uses
#[derive(Debug, Args)]
struct Delete {
    /// Its name
    plugin: String,
}

impl Plugin {
    pub(crate) async fn run(self, connection: &Connection, output: &Output) -> Result<(), Failure> {
        let admin = connection.admin()?;
        match self.command {
            Command::Push(push) => push.run(&admin, output).await,
            Command::List(_) => list(&admin, output).await,
            Command::Show(show) => show.run(&admin, output).await,
            Command::Delete(delete) => delete.run(&admin, output).await,
        }
    }
}

impl Push {
    async fn run(self, admin: &Admin, output: &Output) -> Result<(), Failure> {
        let name = self.name()?;
        let wasm = std::fs::read(&self.file).map_err(|error| {
            Failure::local(format!("cannot read {}: {error}", self.file.display()))
        })?;
        let info = admin.push_plugin(&name, wasm.into()).await?;
        output.result(&info, || {
            format!(
                "{}: {} {}\n",
                info.name,
                describe_size(info.bytes),
                info.digest
            )
        })
    }

    fn name(&self) -> Result<String, Failure> {
        let stem = self.file.file_stem().and_then(|stem| stem.to_str());
        self.name
            .clone()
            .or_else(|| stem.map(String::from))
            .ok_or_else(|| {
                Failure::usage(format!(
                    "`{}` gives no name for the plugin: say --name",
                    self.file.display()
                ))
            })
    }
}

async fn list(admin: &Admin, output: &Output) -> Result<(), Failure> {
    let plugins = admin.plugins().await?;
    let unreadable = admin.unreadable().await?;
    output.result(&plugins, || {
        let mut table = Table::new(&["PLUGIN", "SIZE", "PUSHED", "DIGEST", "DEPLOYMENTS"]);
        for info in &plugins {
            table.row(cells(info));
        }
        for it in unreadable.iter().filter(|it| it.kind == "plugin") {
            let reason = format!("can't be read: {}", it.reason);
            let nothing = String::new;
            table.row([it.name.clone(), nothing(), nothing(), nothing(), reason]);
        }
        table.render()
    })
}

fn cells(info: &PluginInfo) -> [String; 5] {
    let (pushed, digest) = match info.superseded {
        // Nothing else names it.
        true => ("(name was pushed again)".to_owned(), info.digest.clone()),
        false => (
            describe_timestamp(info.pushed_at_ms),
            info.digest.chars().take(12).collect(),
        ),
    };
    [
        info.name.clone(),
        describe_size(info.bytes),
        pushed,
        digest,
        info.deployments.join(" "),
    ]
}

impl Show {
    async fn run(self, admin: &Admin, output: &Output) -> Result<(), Failure> {
        let info = admin.plugin(&self.plugin).await?;
        output.result(&info, || {
            format!(
                "plugin  {}\ndigest  {}\nsize    {}\npushed  {}\n",
                info.name,
                info.digest,
                describe_size(info.bytes),
                describe_timestamp(info.pushed_at_ms)
            )
        })
    }
}

impl Delete {
    async fn run(self, admin: &Admin, output: &Output) -> Result<(), Failure> {
        admin.delete_plugin(&self.plugin).await?;
        output.result(&json!({"deleted": self.plugin}), || {
            format!("{}: deleted\n", self.plugin)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_named_after_its_file_unless_told_otherwise() {
        let push = |file: &str, name: Option<&str>| Push {
            file: file.into(),
            name: name.map(String::from),
        };
        assert_eq!(
            push("target/plugins/json-filter.wasm", None)
                .name()
                .expect("a stem"),
            "json-filter"
        );
        assert_eq!(push("a.wasm", Some("b")).name().expect("a name"), "b");
        assert!(push("..", None).name().is_err());
    }
}
