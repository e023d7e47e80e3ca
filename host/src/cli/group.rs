//! `eddy group list|show|delete`

use clap::{Args, Subcommand};
use eddy_client::Client;
use eddy_protocol::TopicName;
use eddy_protocol::frame::{Cursors, DeleteGroup, Reset};
use serde_json::json;

use super::output::Table;
use super::{Connection, Failure, Output};

/// List, show and delete groups of consumers
#[derive(Debug, Args)]
pub(crate) struct Group {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Delete(Delete),
}

/// List all groups that have cursors
#[derive(Debug, Args)]
struct List {}

/// Show where a group's cursors are
#[derive(Debug, Args)]
struct Show {
    /// The group
    group: String,
}

/// Forget a group's cursors
#[derive(Debug, Args)]
struct Delete {
    /// The group
    group: String,
    /// Only those in this topic
    #[arg(long, value_parser = TopicName::parse)]
    topic: Option<TopicName>,
}

impl Group {
    pub(crate) async fn run(self, connection: &Connection, output: &Output) -> Result<(), Failure> {
        let client = connection.one_shot(output).await?;
        let result = match self.command {
            Command::List(_) => list(&client, output).await,
            Command::Show(show) => show.run(&client, output).await,
            Command::Delete(delete) => delete.run(&client, output).await,
        };
        client.close().await;
        result
    }
}

async fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let groups = client.groups().await?;
    output.result(&groups, || {
        let mut table = Table::new(&["GROUP", "TOPICS"]);
        for info in &groups {
            let topics: Vec<_> = info.topics.iter().map(ToString::to_string).collect();
            table.row([info.group.clone(), topics.join(" ")]);
        }
        table.render()
    })
}

impl Show {
    async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let request = Cursors {
            group: self.group,
            topic: None,
            reset: Reset::Earliest,
        };
        let cursors = client.cursors(request).await?;
        output.result(&cursors, || {
            let mut table = Table::new(&["TOPIC", "PARTITION", "OFFSET", "LOST"]);
            for cursor in &cursors {
                let lost = cursor
                    .lost
                    .map(|lost| format!("it was at {}, of history that is gone", lost.offset));
                table.row([
                    cursor.topic.to_string(),
                    cursor.partition.to_string(),
                    cursor.offset.to_string(),
                    lost.unwrap_or_default(),
                ]);
            }
            table.render()
        })
    }
}

impl Delete {
    async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let Delete { group, topic } = self;
        let request = DeleteGroup {
            group: group.clone(),
            topic,
        };
        client.delete_group(request).await?;
        output.result(&json!({"deleted": group}), || format!("{group}: deleted\n"))
    }
}
