//! `eddy deploy`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use eddy_client::Admin;
use eddy_protocol::TopicName;
use eddy_protocol::admin::{DeploymentInfo, DeploymentSpec, DeploymentState, LimitsSpec};
use eddy_protocol::frame::Start;
use tokio::time::Instant;

use super::connection::{DEPLOYING, waited};
use super::value::{Pair, StartPoint, Target, parse_duration, parse_size};
use super::{Connection, Failure, Output, deployment};

/// How often the deployment is looked at while it starts.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Put a plugin to work on a topic
///
/// Waits until the deployment runs on every partition, or says why it does not.
/// A deployment of this name that is there already is an error, unless it is to
/// be replaced.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The deployment's name
    name: String,
    /// The plugin's name or digest
    #[arg(long)]
    plugin: String,
    /// The topic that it reads
    #[arg(long, value_name = "TOPIC", value_parser = TopicName::parse)]
    from: TopicName,
    /// The topic that it writes; for a plugin with several outputs port=topic, repeated
    #[arg(long, value_name = "[PORT=]TOPIC", required = true)]
    to: Vec<Target>,
    /// A parameter of the plugin; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    param: Vec<Pair>,
    /// Where it begins to read: earliest, latest, an offset or a time
    #[arg(long, default_value = "earliest", allow_hyphen_values = true)]
    start: StartPoint,
    /// Take the place of the deployment of this name, at work or stopped: the new plugin, parameters,
    /// limits and outputs go on where it is
    #[arg(long, conflicts_with = "start")]
    replace: bool,
    /// The most memory an instance may take
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// The most time a batch may take
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    batch_time: Option<Duration>,
    /// The most output a batch may give
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    output_bytes: Option<u64>,
}

impl Deploy {
    pub(crate) async fn run(self, connection: &Connection, output: &Output) -> Result<(), Failure> {
        let (start, replace) = (self.start, self.replace);
        let spec = self.spec()?;
        let admin = connection.admin()?;
        if start.is_offset() {
            let client = connection.one_shot(output).await?;
            let info = client.describe_topic(&spec.from).await?;
            client.close().await;
            start.check(&info, &[]).map_err(Failure::usage)?;
        }
        match replace {
            true => admin.replace_deployment(&spec).await?,
            false => admin.deploy(&spec).await?,
        };
        let info = running(&admin, &spec.name, connection.timeout_or(DEPLOYING)).await?;
        output.result(&info, || deployment::describe(&info))
    }

    fn spec(self) -> Result<DeploymentSpec, Failure> {
        Ok(DeploymentSpec {
            name: self.name,
            plugin: self.plugin,
            from: self.from,
            to: targets(self.to)?,
            params: params(self.param)?,
            start: Start::from(self.start),
            limits: LimitsSpec {
                memory_bytes_max: self.memory,
                batch_time_max_ms: self
                    .batch_time
                    .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                output_bytes_max: self.output_bytes,
            },
        })
    }
}

fn targets(targets: Vec<Target>) -> Result<BTreeMap<String, TopicName>, Failure> {
    let mut ports = BTreeMap::new();
    for Target { port, topic } in targets {
        if ports.insert(port.clone(), topic).is_some() {
            return Err(Failure::usage(format!(
                "--to names the port `{port}` twice"
            )));
        }
    }
    Ok(ports)
}

/// Parameters by name; none twice.
pub(super) fn params(pairs: Vec<Pair>) -> Result<BTreeMap<String, String>, Failure> {
    let mut params = BTreeMap::new();
    for Pair { name, value } in pairs {
        if params.insert(name.clone(), value).is_some() {
            return Err(Failure::usage(format!("--param gives `{name}` twice")));
        }
    }
    Ok(params)
}

async fn running(admin: &Admin, name: &str, patience: Duration) -> Result<DeploymentInfo, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        let info = admin.deployment(name).await?;
        match info.state {
            DeploymentState::Running => return Ok(info),
            DeploymentState::Stopped => {
                let reason = info
                    .reason
                    .as_deref()
                    .unwrap_or("the broker gives no reason");
                return Err(Failure::local(format!(
                    "deployment `{name}` stopped: {reason}"
                )));
            }
            DeploymentState::Starting if Instant::now() >= deadline => {
                let reason = info.reason.map(|reason| format!(" ({reason})"));
                let message = format!(
                    "deployment `{name}` is still starting{}; {}",
                    reason.unwrap_or_default(),
                    waited(patience)
                );
                return Err(Failure::timed_out(message));
            }
            DeploymentState::Starting => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_or_a_parameter_given_twice_is_an_error() {
        let target = |text: &str| text.parse::<Target>().expect("a target");
        assert!(targets(vec![target("a"), target("late=b")]).is_ok());
        let error = targets(vec![target("a"), target("out=b")]).expect_err("twice the port out");
        assert!(
            error
                .sentence()
                .is_some_and(|sentence| sentence.contains("`out`"))
        );
        let pair = |text: &str| text.parse::<Pair>().expect("a pair");
        assert!(params(vec![pair("a=1"), pair("a=2")]).is_err());
    }
}
