//! `eddy deployment list|show|delete`

use clap::{Args, Subcommand};
use eddy_client::Admin;
use eddy_protocol::admin::{DEFAULT_PORT, DeploymentInfo, DeploymentState};
use serde_json::json;

use super::output::Table;
use super::{Connection, Failure, Output};

/// List, show and delete deployments
#[derive(Debug, Args)]
pub(crate) struct Deployment {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Delete(Delete),
}

/// List all deployments
#[derive(Debug, Args)]
struct List {}

/// Show a deployment: its state and the reason for it, and where each partition is
#[derive(Debug, Args)]
struct Show {
    /// Its name
    name: String,
}

/// End a deployment; what it wrote stays
#[derive(Debug, Args)]
struct Delete {
    /// Its name
    name: String,
}

impl Deployment {
    pub(crate) async fn run(self, connection: &Connection, output: &Output) -> Result<(), Failure> {
        let admin = connection.admin()?;
        match self.command {
            Command::List(_) => list(&admin, output).await,
            Command::Show(show) => {
                let info = admin.deployment(&show.name).await?;
                output.result(&info, || describe(&info))
            }
            Command::Delete(delete) => {
                admin.delete_deployment(&delete.name).await?;
                output.result(&json!({"deleted": delete.name}), || {
                    format!("{}: deleted\n", delete.name)
                })
            }
        }
    }
}

async fn list(admin: &Admin, output: &Output) -> Result<(), Failure> {
    let deployments = admin.deployments().await?;
    let unreadable = admin.unreadable().await?;
    output.result(&deployments, || {
        let mut table = Table::new(&["DEPLOYMENT", "PLUGIN", "FROM", "TO", "LAG", "STATE"]);
        for info in &deployments {
            table.row([
                info.spec.name.clone(),
                info.spec.plugin.clone(),
                info.spec.from.to_string(),
                outputs(info),
                info.partitions
                    .iter()
                    .map(|partition| partition.lag)
                    .sum::<u64>()
                    .to_string(),
                state(info.state, info.reason.as_deref()),
            ]);
        }
        for it in unreadable.iter().filter(|it| it.kind == "deployment") {
            let state = format!("can't be read: {}", it.reason);
            let nothing = String::new;
            table.row([
                it.name.clone(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                state,
            ]);
        }
        table.render()
    })
}

fn outputs(info: &DeploymentInfo) -> String {
    let targets = info
        .spec
        .to
        .iter()
        .map(|(port, topic)| match port.as_str() {
            DEFAULT_PORT => topic.to_string(),
            port => format!("{port}={topic}"),
        });
    targets.collect::<Vec<_>>().join(" ")
}

fn state(state: DeploymentState, reason: Option<&str>) -> String {
    let name = match state {
        DeploymentState::Starting => "starting",
        DeploymentState::Running => "running",
        DeploymentState::Stopped => "stopped",
    };
    reason.map_or_else(|| name.into(), |reason| format!("{name}: {reason}"))
}

/// A deployment for people.
pub(super) fn describe(info: &DeploymentInfo) -> String {
    let mut text = format!(
        "deployment  {}\nplugin      {} ({})\nversion     {}\nfrom        {}\nto          {}\n",
        info.spec.name,
        info.spec.plugin,
        info.digest,
        info.version,
        info.spec.from,
        outputs(info)
    );
    for (name, value) in &info.spec.params {
        text += &format!("param       {name}={value}\n");
    }
    text += &format!(
        "state       {}\n\n",
        state(info.state, info.reason.as_deref())
    );
    let mut table = Table::new(&[
        "PARTITION",
        "POSITION",
        "END",
        "LAG",
        "IN",
        "OUT",
        "BATCHES",
        "STATE",
    ]);
    for partition in &info.partitions {
        table.row([
            partition.partition.to_string(),
            partition.position.to_string(),
            partition.end.to_string(),
            partition.lag.to_string(),
            partition.records_in.to_string(),
            partition.records_out.to_string(),
            partition.batches.to_string(),
            state(partition.state, partition.reason.as_deref()),
        ]);
    }
    text += &table.render();
    for partition in &info.partitions {
        if let Some(lost) = partition.lost {
            text += &format!(
                "partition {}: it was at {}, of history that the partition has lost, and went on from {}\n",
                partition.partition, lost.position, lost.resumed
            );
        }
    }
    for partition in info
        .partitions
        .iter()
        .filter(|partition| partition.missed > 0)
    {
        text += &format!(
            "partition {}: retention took {} records before they were read\n",
            partition.partition, partition.missed
        );
    }
    text
}
