//! The plugins that were admitted, and the components ready to run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cofferdam_ledger::{Change, Durability, Ledger, PluginRow};
use cofferdam_sandbox::{self as sandbox, Component, ComponentKind, Phase, Sandbox};
use semver::Version;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::data_dir::write_whole;
use crate::error::Error;
use crate::name::{PluginName, PluginRef};
use crate::record::Time;

/// Compilations at a time. Each uses every core it gets and some hundred MiB.
const MAX_COMPILATIONS: usize = 1;

/// Components kept ready in memory. One more clears the cache: what is in use comes back from the disk in
/// half a millisecond.
const MAX_READY: usize = 256;

/// A plugin that comes with the host.
#[derive(Debug, Clone, Copy)]
pub struct ShippedPlugin {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The component.
    pub wasm: &'static [u8],
}

/// An admitted plugin as a client sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PluginView {
    /// Its name.
    pub name: PluginName,
    /// Its version.
    pub version: Version,
    /// The digest of its component, `blake3:<hex>`.
    pub digest: String,
    /// When it was admitted.
    pub admitted_at: Time,
    /// What it says it does.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub description: String,
    /// The phases it says it is for; empty means that it does not say.
    pub phases: Vec<Phase>,
    /// The interfaces it imports.
    pub imports: Vec<String>,
    /// The JSON Schema of its configuration, if it gives one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config_schema: Option<serde_json::Value>,
}

/// The part of a plugin that the ledger stores as text.
#[derive(Debug, Serialize, Deserialize)]
struct PluginBody {
    description: String,
    phases: Vec<Phase>,
    imports: Vec<String>,
    config_schema: Option<serde_json::Value>,
}

/// A plugin that a step was resolved to.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// `name@version`, or the digest when the pipeline named one.
    pub(crate) label: String,
    pub(crate) digest: String,
    pub(crate) phases: Vec<Phase>,
    pub(crate) config_schema: Option<serde_json::Value>,
}

/// All admitted plugins.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    ledger: Ledger,
    sandbox: Sandbox,
    directory: PathBuf,
    ready: Arc<Mutex<HashMap<String, Component>>>,
    compiling: Arc<Semaphore>,
}

impl Catalog {
    pub(crate) fn new(ledger: Ledger, sandbox: Sandbox, directory: PathBuf) -> Self {
        Self {
            ledger,
            sandbox,
            directory,
            ready: Arc::default(),
            compiling: Arc::new(Semaphore::new(MAX_COMPILATIONS)),
        }
    }

    /// Checks, compiles and records a plugin. Admitting the same bytes again changes nothing.
    pub(crate) async fn admit(
        &self,
        name: &PluginName,
        version: &Version,
        wasm: Bytes,
    ) -> Result<PluginView, Error> {
        let component = self.compile(wasm.clone()).await?;
        if component.kind() != ComponentKind::Command {
            return Err(Error::PluginIncompatible {
                message: "it serves HTTP; a plugin is a program (it exports wasi:cli/run)"
                    .to_owned(),
            });
        }
        let schema = component
            .description()
            .and_then(|said| said.config_schema.as_ref());
        if let Some(Err(message)) = schema.map(crate::plan::check_schema) {
            return Err(Error::PluginIncompatible {
                message: format!("the schema of its config is not valid: {message}"),
            });
        }
        let digest = component.digest().to_owned();
        if let Some(row) = self
            .ledger
            .plugin(name.as_str(), &version.to_string())
            .await?
        {
            return same_bytes(&row, &digest).and_then(|()| view(&row));
        }

        let path = self.path(&digest)?;
        let row = PluginRow {
            name: name.to_string(),
            version: version.to_string(),
            digest: digest.clone(),
            created_at: Time::now().as_millis(),
            body: describe(&component),
        };
        // The file is durable before the ledger names it.
        blocking(move || {
            if path.exists() {
                Ok(())
            } else {
                write_whole(&path, &wasm)
            }
        })
        .await??;
        match self
            .ledger
            .commit(Durability::Power, vec![Change::InsertPlugin(row.clone())])
            .await
        {
            Ok(_) => {}
            Err(cofferdam_ledger::Error::Exists { .. }) => {
                let Some(row) = self.ledger.plugin(&row.name, &row.version).await? else {
                    return Err(Error::NotFound {
                        what: format!("plugin {name}@{version}"),
                    });
                };
                same_bytes(&row, &digest)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.keep(component);
        view(&row)
    }

    /// Admits what comes with the host, unless it was before.
    pub(crate) async fn admit_shipped(&self, shipped: &[ShippedPlugin]) -> Result<(), Error> {
        for plugin in shipped {
            let name: PluginName = plugin.name.parse()?;
            let version =
                Version::parse(plugin.version).map_err(|error| Error::PluginIncompatible {
                    message: format!(
                        "the shipped plugin {name} has the version {:?}: {error}",
                        plugin.version
                    ),
                })?;
            let known = self.ledger.plugin(plugin.name, plugin.version).await?;
            let digest = format!("blake3:{}", blake3::hash(plugin.wasm).to_hex());
            match known {
                Some(row) if row.digest == digest => {}
                Some(_) => {
                    // Only a host built from changed sources under an unchanged version gets here. What was
                    // recorded under the name stays what it is; the newer bytes need a newer version.
                    tracing::warn!(%name, %version, "the shipped plugin differs from the admitted one of the same version; the admitted one is used");
                }
                None => {
                    self.admit(&name, &version, Bytes::from_static(plugin.wasm))
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Finds what a pipeline means by a plugin's name.
    pub(crate) async fn resolve(&self, reference: &PluginRef) -> Result<Resolved, Error> {
        let found = match reference {
            PluginRef::Digest(digest) => self
                .ledger
                .plugin_by_digest(digest)
                .await?
                .map(|row| (row.digest.clone(), row)),
            PluginRef::Named {
                name,
                version: Some(version),
            } => self
                .ledger
                .plugin(name.as_str(), &version.to_string())
                .await?
                .map(|row| (format!("{}@{}", row.name, row.version), row)),
            PluginRef::Named {
                name,
                version: None,
            } => {
                let rows = self.ledger.plugins(Some(name.as_str())).await?;
                rows.into_iter()
                    .filter_map(|row| Some((Version::parse(&row.version).ok()?, row)))
                    .max_by(|(a, _), (b, _)| a.cmp(b))
                    .map(|(_, row)| (format!("{}@{}", row.name, row.version), row))
            }
        };
        let Some((label, row)) = found else {
            return Err(Error::PluginUnknown {
                plugin: reference.to_string(),
                known: self.known().await?,
            });
        };
        let view = view(&row)?;
        Ok(Resolved {
            label,
            digest: row.digest,
            phases: view.phases,
            config_schema: view.config_schema,
        })
    }

    async fn known(&self) -> Result<String, Error> {
        let rows = self.ledger.plugins(None).await?;
        let names: Vec<_> = rows
            .iter()
            .map(|row| format!("{}@{}", row.name, row.version))
            .collect();
        Ok(if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        })
    }

    /// The component of an admitted plugin, ready to run.
    pub(crate) async fn component(&self, digest: &str) -> Result<Component, Error> {
        if let Some(component) = self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
        {
            return Ok(component.clone());
        }
        let path = self.path(digest)?;
        let wasm = blocking(move || read(&path)).await??;
        let component = self.compile(wasm).await?;
        if component.digest() != digest {
            return Err(Error::PluginIncompatible {
                message: format!(
                    "the stored component {digest} is damaged: it is {}",
                    component.digest()
                ),
            });
        }
        self.keep(component.clone());
        Ok(component)
    }

    /// Checks and compiles a component that is not a plugin, such as a release's service.
    pub(crate) async fn compile(&self, wasm: Bytes) -> Result<Component, Error> {
        let turn = self
            .compiling
            .acquire()
            .await
            .map_err(|_| Error::Stopping)?;
        let sandbox = self.sandbox.clone();
        let component = blocking(move || sandbox.admit(&wasm)).await?;
        drop(turn);
        component.map_err(|error| match error {
            sandbox::Error::TooLarge { .. }
            | sandbox::Error::NotWasm { .. }
            | sandbox::Error::CoreModule { .. }
            | sandbox::Error::Invalid { .. }
            | sandbox::Error::Incompatible { .. }
            | sandbox::Error::Description { .. }
            | sandbox::Error::WrongKind { .. } => Error::PluginIncompatible {
                message: error.to_string(),
            },
            error => Error::Sandbox(error),
        })
    }

    pub(crate) async fn all(&self) -> Result<Vec<PluginView>, Error> {
        self.ledger.plugins(None).await?.iter().map(view).collect()
    }

    pub(crate) async fn get(
        &self,
        name: &PluginName,
        version: &Version,
    ) -> Result<PluginView, Error> {
        match self
            .ledger
            .plugin(name.as_str(), &version.to_string())
            .await?
        {
            Some(row) => view(&row),
            None => Err(Error::NotFound {
                what: format!("plugin {name}@{version}"),
            }),
        }
    }

    fn keep(&self, component: Component) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.len() >= MAX_READY {
            ready.clear();
        }
        ready.insert(component.digest().to_owned(), component);
    }

    fn path(&self, digest: &str) -> Result<PathBuf, Error> {
        let hex = digest
            .strip_prefix("blake3:")
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(hex) = hex else {
            return Err(Error::NotFound {
                what: format!("plugin {digest:?}"),
            });
        };
        Ok(self.directory.join(format!("{hex}.wasm")))
    }
}

fn read(path: &Path) -> Result<Bytes, Error> {
    std::fs::read(path)
        .map(Bytes::from)
        .map_err(Error::io(format!("read {}", path.display())))
}

/// Runs what blocks on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Task)
}

fn same_bytes(row: &PluginRow, digest: &str) -> Result<(), Error> {
    if row.digest == digest {
        return Ok(());
    }
    Err(Error::Conflict {
        message: format!(
            "{}@{} is admitted with other bytes ({}, these are {digest}): give them a new version",
            row.name, row.version, row.digest
        ),
    })
}

fn describe(component: &Component) -> String {
    let said = component.description().cloned().unwrap_or_default();
    let body = PluginBody {
        description: said.description,
        phases: said.phases,
        imports: component.imports().to_vec(),
        config_schema: said.config_schema,
    };
    serde_json::to_string(&body).expect("a body has only string keys and serialises")
}

fn view(row: &PluginRow) -> Result<PluginView, Error> {
    let damaged = |source| Error::Damaged {
        what: format!("plugin {}@{}", row.name, row.version),
        source,
    };
    let body: PluginBody = serde_json::from_str(&row.body).map_err(damaged)?;
    Ok(PluginView {
        name: row.name.parse()?,
        version: Version::parse(&row.version).map_err(|error| Error::PluginIncompatible {
            message: error.to_string(),
        })?,
        digest: row.digest.clone(),
        admitted_at: Time::from_millis(row.created_at),
        description: body.description,
        phases: body.phases,
        imports: body.imports,
        config_schema: body.config_schema,
    })
}
