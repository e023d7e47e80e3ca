//! The row of a deployment.

use bytes::Bytes;
use eddy_protocol::admin::DeploymentSpec;
use eddy_protocol::{ErrorCode, TopicName, WireError};
use serde::{Deserialize, Serialize};

use crate::plugin::PORT_OUT;
use crate::store::{Change, Table};

/// What is kept of a deployment, as JSON under its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: DeploymentSpec,
    /// Of the plugin, resolved when it was deployed.
    pub(super) digest: String,
    pub(super) version: u32,
    /// Random: tells this deployment from an earlier one of the same name.
    pub(super) generation: u64,
    /// Why its plugin was stopped.
    #[serde(default)]
    pub(super) stopped: Option<String>,
}

impl Record {
    pub(super) fn read(value: &[u8]) -> Result<Record, serde_json::Error> {
        serde_json::from_slice(value)
    }

    pub(super) fn put(&self) -> Result<Change, WireError> {
        let value = serde_json::to_vec(self)
            .map_err(|error| ErrorCode::Internal.because(error.to_string()))?;
        Ok(Change::Put {
            table: Table::Deployments,
            key: self.key(),
            value: value.into(),
        })
    }

    pub(super) fn delete(&self) -> Change {
        Change::Delete {
            table: Table::Deployments,
            key: self.key(),
        }
    }

    fn key(&self) -> Bytes {
        Bytes::from(self.spec.name.clone())
    }

    /// The topics of its outputs with their ports, in the order of the ports' names.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (&String, &TopicName)> {
        self.spec.to.iter()
    }

    /// Which of the outputs gets what a plugin merely keeps; none is connected if there is none.
    pub(super) fn kept_output(&self) -> Option<usize> {
        self.outputs().position(|(port, _)| port == PORT_OUT)
    }
}
