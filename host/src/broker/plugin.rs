//! Uploaded plugins: a name, a digest, an artefact.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use eddy_protocol::admin::{PluginInfo, Unreadable};
use eddy_protocol::{ErrorCode, WireError};

use super::blob::Blobs;
use super::filter::unknown_plugin;
use super::{Broker, refusal, whole};
use crate::log::{Change, Commit, Table};
use crate::plugin::{CodeCache, Digest, Plugin};

/// A plugin's or a deployment's name has at most this many characters.
const NAME_LEN_MAX: usize = 128;
/// How many plugins there may be.
const PLUGINS_MAX: usize = 1_000;

impl Broker {
    /// Takes an artefact under a name. The name may have had another one
    /// before: deployments keep what they were deployed with.
    pub async fn push_plugin(
        self: &Arc<Self>,
        name: &str,
        wasm: Bytes,
    ) -> Result<PluginInfo, WireError> {
        check_name("plugin", name)?;
        if name.parse::<Digest>().is_ok() {
            return Err(ErrorCode::InvalidName.because(format!(
                "`{name}` can't name a plugin: it looks like a digest, by which a plugin is found too"
            )));
        }
        let compiled = self.engine.compile(wasm.clone()).await;
        let plugin =
            compiled.map_err(|error| refusal::of_upload(&format!("plugin `{name}`"), &error))?;
        let info = PluginInfo {
            name: name.to_owned(),
            digest: plugin.digest().to_string(),
            bytes: wasm.len() as u64,
            pushed_at_ms: self.now_ms(),
            superseded: false,
            deployments: Vec::new(),
        };
        let broker = self.clone();
        whole(async move {
            let _admission = broker.deployments.admission.lock().await;
            let kept = broker.keep_plugin(&info, plugin, wasm).await;
            // What the name had before may have no name now; a new one that was refused has none either.
            broker.sweep_plugins().await;
            kept.map(|()| info)
        })
        .await
    }

    async fn keep_plugin(
        &self,
        info: &PluginInfo,
        plugin: Plugin,
        wasm: Bytes,
    ) -> Result<(), WireError> {
        self.check_room_for(&info.name).await?;
        let (blobs, file) = (self.blobs.clone(), artefact(&plugin.digest()));
        in_background(move || blobs.write(&file, &wasm)).await?;
        self.compiled.insert(plugin.digest(), plugin);
        let value = serde_json::to_vec(info)
            .map_err(|error| ErrorCode::Internal.because(error.to_string()))?;
        let put = Change::Put {
            table: Table::Plugins,
            key: Bytes::from(info.name.clone()),
            value: value.into(),
        };
        self.change(vec![put]).await
    }

    async fn check_room_for(&self, name: &str) -> Result<(), WireError> {
        let rows = self.plugin_rows().await?;
        if rows.len() < PLUGINS_MAX || rows.iter().any(|(key, _)| key == name.as_bytes()) {
            return Ok(());
        }
        Err(ErrorCode::InvalidArgument.because(format!(
            "there are {PLUGINS_MAX} plugins, which is the limit; delete one before you push `{name}`"
        )))
    }

    /// All plugins, in the order of their names; those that have no name any more, but deployments,
    /// behind the one that has it.
    pub async fn plugins(&self) -> Result<Vec<PluginInfo>, WireError> {
        let rows = self.plugin_rows().await?;
        let mut plugins: Vec<_> = rows.iter().filter_map(|(_, row)| read(row).ok()).collect();
        let named: BTreeSet<String> = plugins.iter().map(|it| it.digest.clone()).collect();
        let mut deployed = self.deployments.plugins();
        for plugin in &mut plugins {
            let users = deployed.get(&plugin.digest);
            plugin.deployments = users.map_or_else(Vec::new, |(_, users)| users.clone());
        }
        deployed.retain(|digest, _| !named.contains(digest));
        for (digest, (name, deployments)) in deployed {
            plugins.extend(self.superseded(digest, name, deployments).await?);
        }
        plugins.sort_by(|a, b| (&a.name, a.superseded).cmp(&(&b.name, b.superseded)));
        Ok(plugins)
    }

    /// An artefact that only deployments know, if it is there.
    async fn superseded(
        &self,
        digest: String,
        name: String,
        deployments: Vec<String>,
    ) -> Result<Option<PluginInfo>, WireError> {
        let Ok(parsed) = digest.parse::<Digest>() else {
            return Ok(None);
        };
        let (blobs, file) = (self.blobs.clone(), artefact(&parsed));
        let wasm = in_background(move || blobs.read(&file)).await?;
        Ok(wasm.map(|wasm| PluginInfo {
            name,
            digest,
            bytes: wasm.len() as u64,
            pushed_at_ms: 0,
            superseded: true,
            deployments,
        }))
    }

    /// One plugin, by its name or its digest.
    pub async fn plugin(&self, name_or_digest: &str) -> Result<PluginInfo, WireError> {
        let plugins = self.plugins().await?;
        let is_it = |it: &PluginInfo| match it.superseded {
            true => it.digest == name_or_digest,
            false => it.name == name_or_digest || it.digest == name_or_digest,
        };
        if let Some(found) = plugins.into_iter().find(is_it) {
            return Ok(found);
        }
        let row = self
            .state
            .get(Table::Plugins, name_or_digest.as_bytes())
            .await;
        match row.map_err(|error| refusal::of_table(&error))? {
            Some(row) => read(&row),
            None => Err(unknown_plugin(name_or_digest)),
        }
    }

    /// What the broker keeps and can't read. It can be deleted or replaced.
    pub async fn unreadable(&self) -> Result<Vec<Unreadable>, WireError> {
        let mut unreadable = self.unreadable_deployments();
        for (key, row) in self.plugin_rows().await? {
            if let Err(error) = read(&row) {
                unreadable.push(Unreadable {
                    kind: "plugin".to_owned(),
                    name: String::from_utf8_lossy(&key).into_owned(),
                    reason: error.message,
                });
            }
        }
        unreadable.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
        Ok(unreadable)
    }

    async fn plugin_rows(&self) -> Result<Vec<(Bytes, Bytes)>, WireError> {
        let rows = self.state.scan(Table::Plugins, b"").await;
        rows.map_err(|error| refusal::of_table(&error))
    }

    /// Forgets a plugin. Refused while a deployment runs it.
    pub async fn delete_plugin(self: &Arc<Self>, name: &str) -> Result<(), WireError> {
        let (broker, name) = (self.clone(), name.to_owned());
        whole(async move {
            let _admission = broker.deployments.admission.lock().await;
            let key = match broker.plugin(&name).await {
                Ok(info) => broker.deletable(&name, info).await?,
                // Its row can't be read, and is to go for that.
                Err(error) if error.code == ErrorCode::StorageFailed => name,
                Err(error) => return Err(error),
            };
            broker
                .change(vec![Change::Delete {
                    table: Table::Plugins,
                    key: Bytes::from(key),
                }])
                .await?;
            broker.sweep_plugins().await;
            Ok(())
        })
        .await
    }

    /// The name to delete, unless it is the last one of a plugin that a deployment needs.
    async fn deletable(&self, name: &str, info: PluginInfo) -> Result<String, WireError> {
        let plugins = self.plugins().await?;
        let named = plugins.iter().filter(|it| it.digest == info.digest);
        let last_name = named.count() == 1;
        match info.deployments.first().filter(|_| last_name) {
            Some(deployment) => Err(ErrorCode::PluginInUse.because(format!(
                "plugin `{name}` is used by deployment `{deployment}`; delete that first"
            ))),
            None => Ok(info.name),
        }
    }

    /// Removes the artefacts that no plugin's name and no deployment needs any more, and all compiled
    /// code but theirs and this engine's. Called at the start and under the lock of admissions.
    pub(super) async fn sweep_plugins(&self) {
        let swept = match self.digests_in_use().await {
            Ok(used) => {
                self.compiled.retain(|digest, _| used.contains(digest));
                let files = |digest: &Digest| {
                    let code = self.engine.code_key(digest);
                    [artefact(digest), compiled(&code)]
                };
                let kept: BTreeSet<String> = used.iter().flat_map(files).collect();
                let blobs = self.blobs.clone();
                in_background(move || sweep(&blobs, &kept)).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "plugins that nobody needs were not removed");
        }
    }

    /// Of everything that has a name or a deployment; refused where a row that can't be read may
    /// need another one.
    async fn digests_in_use(&self) -> Result<BTreeSet<Digest>, WireError> {
        let rows = self.plugin_rows().await?;
        let named = rows.iter().map(|(_, value)| Ok(read(value)?.digest));
        let deployed = self
            .deployments
            .digests()
            .ok_or_else(|| ErrorCode::StorageFailed.because("a deployment's row can't be read"))?;
        let digests: Vec<String> = named
            .chain(deployed.into_iter().map(Ok))
            .collect::<Result<_, WireError>>()?;
        Ok(digests
            .iter()
            .filter_map(|digest| digest.parse().ok())
            .collect())
    }

    /// A plugin ready to be instantiated.
    pub(super) async fn compiled(
        &self,
        name_or_digest: &str,
    ) -> Result<(PluginInfo, Plugin), WireError> {
        let info = self.plugin(name_or_digest).await?;
        let plugin = self.compiled_digest(&info.digest).await?;
        Ok((info, plugin))
    }

    /// The plugin with this digest, ready to be instantiated.
    pub(super) async fn compiled_digest(&self, digest: &str) -> Result<Plugin, WireError> {
        let digest: Digest = digest.parse().map_err(|_| unknown_plugin(digest))?;
        if let Some(plugin) = self.compiled.get(&digest) {
            return Ok(plugin.clone());
        }
        let (blobs, file) = (self.blobs.clone(), artefact(&digest));
        let wasm = in_background(move || blobs.read(&file)).await?;
        let wasm = wasm.ok_or_else(|| unknown_plugin(&digest.to_string()))?;
        if Digest::of(&wasm) != digest {
            return Err(ErrorCode::InvalidPlugin.because(format!(
                "the stored artefact of plugin {digest} is damaged; push it again"
            )));
        }
        let compiled = self.engine.compile(wasm).await;
        let plugin =
            compiled.map_err(|error| refusal::of_plugin(&format!("plugin {digest}"), &error))?;
        self.compiled.insert(digest, plugin.clone());
        Ok(plugin)
    }

    pub(super) async fn change(&self, changes: Vec<Change>) -> Result<(), WireError> {
        let commit = Commit {
            changes,
            ..Commit::default()
        };
        self.log
            .commit(commit)
            .await
            .map_err(|error| refusal::of_commit(&error))?;
        Ok(())
    }
}

/// A plugin's or a deployment's name: what fits in a URL and on a command line.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), WireError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.')
    {
        return Ok(());
    }
    Err(ErrorCode::InvalidName.because(format!(
        "`{}` can't name a {what}: a name has 1 to {NAME_LEN_MAX} letters, digits, `.`, `_` or `-`, and doesn't begin with `.`",
        name.escape_default()
    )))
}

/// What the name of an artefact ends with.
const ARTEFACT: &str = ".wasm";
/// What the name of compiled code ends with.
const COMPILED: &str = ".compiled";

fn artefact(digest: &Digest) -> String {
    format!("{digest}{ARTEFACT}")
}

fn read(value: &[u8]) -> Result<PluginInfo, WireError> {
    serde_json::from_slice(value).map_err(|error| {
        ErrorCode::StorageFailed.because(format!("the plugin's row can't be read: {error}"))
    })
}

/// Removes all artefacts and compiled code but these.
fn sweep(blobs: &Blobs, kept: &BTreeSet<String>) -> std::io::Result<()> {
    let names = match blobs.list() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    let is_ours = |name: &String| [ARTEFACT, COMPILED].iter().any(|kind| name.ends_with(kind));
    for name in names.iter().filter(|name| is_ours(name)) {
        if !kept.contains(name) {
            blobs.delete(name)?;
        }
    }
    Ok(())
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, WireError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::StorageFull => {
            Err(ErrorCode::DiskFull.because(error.to_string()))
        }
        Ok(Err(error)) => Err(ErrorCode::StorageFailed.because(error.to_string())),
        Err(error) => Err(refusal::of_join(&error)),
    }
}

/// Compiled code, kept among the store's blobs. What can't be kept is compiled again.
pub struct StoredCode(pub Blobs);

impl CodeCache for StoredCode {
    fn load(&self, key: &str) -> Option<Vec<u8>> {
        self.0.read(&compiled(key)).ok().flatten().map(Vec::from)
    }

    fn store(&self, key: &str, entry: &[u8]) {
        if let Err(error) = self.0.write(&compiled(key), entry) {
            tracing::warn!(key, %error, "compiled code was not kept");
        }
    }
}

fn compiled(key: &str) -> String {
    format!("{key}{COMPILED}")
}
