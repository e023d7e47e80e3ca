//! The row of a deployment.

use bytes::Bytes;
use eddy_protocol::admin::DeploymentSpec;
use eddy_protocol::{ErrorCode, TopicName, WireError};
use serde::{Deserialize, Serialize};

use crate::log::{Change, Expect, ExpectedValue, Table};
use crate::plugin::PORT_OUT;

/// What is kept of a deployment, as JSON under its name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: DeploymentSpec,
    /// Of the plugin, resolved when it was deployed.
    pub(super) digest: String,
    /// Counts from 1, one more for each replacement.
    pub(super) version: u32,
    /// Random: tells this deployment from an earlier one of the same name. A
    /// replacement keeps it, and with it the positions.
    pub(super) generation: u64,
    /// What ran before the last replacement: kept, as the way back.
    #[serde(default)]
    pub(super) previous_digest: Option<String>,
    /// Why its plugin was stopped.
    #[serde(default)]
    pub(super) stopped: Option<String>,
    /// The row that it was read from: another version of the broker may write
    /// the same record in other bytes.
    #[serde(skip)]
    row: Option<Bytes>,
}

impl Record {
    /// A deployment that begins.
    pub(super) fn new(spec: DeploymentSpec, digest: String) -> Record {
        Record {
            spec,
            digest,
            version: 1,
            generation: fastrand::u64(..),
            previous_digest: None,
            stopped: None,
            row: None,
        }
    }

    /// What takes this one's place, and goes on from its positions.
    pub(super) fn replaced_by(&self, spec: DeploymentSpec, digest: String) -> Record {
        let previous = match digest == self.digest {
            true => self.previous_digest.clone(),
            false => Some(self.digest.clone()),
        };
        Record {
            version: self.version.saturating_add(1),
            generation: self.generation,
            previous_digest: previous,
            ..Record::new(spec, digest)
        }
    }

    /// The same deployment, stopped.
    pub(super) fn stopped_for(&self, reason: String) -> Record {
        Record {
            stopped: Some(reason),
            row: None,
            ..self.clone()
        }
    }

    pub(super) fn read(value: &Bytes) -> Result<Record, serde_json::Error> {
        let record: Record = serde_json::from_slice(value)?;
        Ok(Record {
            row: Some(value.clone()),
            ..record
        })
    }

    pub(super) fn put(&self) -> Result<Change, WireError> {
        Ok(Change::Put {
            table: Table::Deployments,
            key: self.key(),
            value: self.value()?,
        })
    }

    /// That the store has this very deployment: neither stopped, replaced nor deleted.
    pub(super) fn expect(&self) -> Result<Expect, WireError> {
        Ok(Expect {
            table: Table::Deployments,
            key: self.key(),
            value: ExpectedValue::Exactly(self.value()?),
        })
    }

    fn key(&self) -> Bytes {
        Bytes::from(self.spec.name.clone())
    }

    fn value(&self) -> Result<Bytes, WireError> {
        if let Some(row) = &self.row {
            return Ok(row.clone());
        }
        let value = serde_json::to_vec(self)
            .map_err(|error| ErrorCode::Internal.because(error.to_string()))?;
        Ok(value.into())
    }

    /// The plugins that it needs: the one at work, and the one before.
    pub(super) fn digests(&self) -> impl Iterator<Item = &String> {
        [Some(&self.digest), self.previous_digest.as_ref()]
            .into_iter()
            .flatten()
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

/// The end of a deployment's row.
pub(super) fn delete(name: &str) -> Change {
    Change::Delete {
        table: Table::Deployments,
        key: Bytes::from(name.to_owned()),
    }
}
