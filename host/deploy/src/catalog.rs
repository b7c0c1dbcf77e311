//! The plugins that were admitted, and the components ready to run.
//!
//! A plugin is a record in the ledger and a file that its digest names. The file comes first and goes last: a
//! record's file is there, and a file without a record is taken away at the next start.

mod view;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use cofferdam_ledger::{Change, Durability, Ledger, PluginRow};
use cofferdam_sandbox::{self as sandbox, Component, ComponentKind, Phase, Sandbox};
use semver::Version;
use tokio::sync::{RwLock, Semaphore};

use crate::data_dir::write_whole;
use crate::error::Error;
use crate::name::{PluginName, PluginRef};
use crate::record::Time;
use crate::signature::TrustedKeys;

pub use self::view::PluginView;
use self::view::{Provenance, describe, view};

/// Who admitted what comes with the host.
const SHIPPED: &str = "shipped";

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

/// A plugin that is to be admitted.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The name it is to have.
    pub name: PluginName,
    /// The version it is to have.
    pub version: Version,
    /// The component, or a core module for WASI preview 1.
    pub wasm: Bytes,
    /// The text of its `.minisig` file.
    pub signature: Option<String>,
    /// Who asks for it: the id of a token.
    pub by: String,
}

/// A plugin that a step was resolved to.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// `name@version`, or the digest when the pipeline named one.
    pub(crate) label: String,
    pub(crate) name: PluginName,
    pub(crate) version: Version,
    pub(crate) digest: String,
    pub(crate) phases: Vec<Phase>,
    pub(crate) config_schema: Option<serde_json::Value>,
    /// Keeps the component's file although the plugin may be removed meanwhile.
    _lease: Arc<()>,
}

/// All admitted plugins.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    ledger: Ledger,
    sandbox: Sandbox,
    directory: PathBuf,
    keys: Arc<TrustedKeys>,
    /// The names and versions of what comes with this host.
    shipped: Arc<BTreeSet<(String, String)>>,
    ready: Arc<Mutex<HashMap<String, Component>>>,
    /// The components that deployments are going to run, by digest.
    leases: Arc<Mutex<HashMap<String, Weak<()>>>>,
    /// Held by whoever changes records and files together, shared by whoever takes a lease.
    changing: Arc<RwLock<()>>,
    compiling: Arc<Semaphore>,
}

impl Catalog {
    pub(crate) fn new(
        ledger: Ledger,
        sandbox: Sandbox,
        directory: PathBuf,
        keys: TrustedKeys,
        shipped: &[ShippedPlugin],
    ) -> Self {
        let shipped = shipped
            .iter()
            .map(|plugin| (plugin.name.to_owned(), plugin.version.to_owned()))
            .collect();
        Self {
            ledger,
            sandbox,
            directory,
            keys: Arc::new(keys),
            shipped: Arc::new(shipped),
            ready: Arc::default(),
            leases: Arc::default(),
            changing: Arc::default(),
            compiling: Arc::new(Semaphore::new(MAX_COMPILATIONS)),
        }
    }

    /// Checks, compiles and records a plugin. Admitting the same bytes again changes nothing.
    pub(crate) async fn admit(&self, admission: Admission) -> Result<PluginView, Error> {
        let checked = self
            .keys
            .check(&admission.wasm, admission.signature.as_deref());
        let signed_by = checked.map_err(|message| Error::PluginUntrusted {
            plugin: format!("{}@{}", admission.name, admission.version),
            message,
        })?;
        self.admit_checked(admission, signed_by).await
    }

    async fn admit_checked(
        &self,
        admission: Admission,
        signed_by: Option<String>,
    ) -> Result<PluginView, Error> {
        let Admission {
            name,
            version,
            wasm,
            by,
            ..
        } = admission;
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
        let _change = self.changing.write().await;
        if let Some(row) = self
            .ledger
            .plugin(name.as_str(), &version.to_string())
            .await?
        {
            return same_bytes(&row, &digest).and_then(|()| view(&row));
        }

        let path = self.path(&digest)?;
        let provenance = Provenance {
            bytes: wasm.len() as u64,
            admitted_by: by,
            signed_by,
        };
        let row = PluginRow {
            name: name.to_string(),
            version: version.to_string(),
            digest,
            created_at: Time::now().as_millis(),
            body: describe(&component, provenance),
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
        self.ledger
            .commit(Durability::Power, vec![Change::InsertPlugin(row.clone())])
            .await?;
        self.keep(component);
        view(&row)
    }

    /// Forgets a plugin. A deployment that was accepted runs it all the same; later ones do not find it.
    pub(crate) async fn remove(&self, name: &PluginName, version: &Version) -> Result<(), Error> {
        let key = (name.to_string(), version.to_string());
        if self.shipped.contains(&key) {
            return Err(Error::Conflict {
                message: format!(
                    "{name}@{version} comes with the server and cannot be removed; a pipeline that names another \
                     plugin does not run it"
                ),
            });
        }
        let _change = self.changing.write().await;
        let (name, version) = key;
        let Some(row) = self.ledger.plugin(&name, &version).await? else {
            return Err(Error::NotFound {
                what: format!("plugin {name}@{version}"),
            });
        };
        // The record first: a crash in between leaves a file without one, which the next start takes away.
        let removal = Change::RemovePlugin { name, version };
        self.ledger.commit(Durability::Power, vec![removal]).await?;
        if self.ledger.plugin_by_digest(&row.digest).await?.is_some() {
            return Ok(());
        }
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&row.digest);
        if self.is_leased(&row.digest) {
            // A deployment is going to run it. The next start takes the file away.
            return Ok(());
        }
        let path = self.path(&row.digest)?;
        let sandbox = self.sandbox.clone();
        blocking(move || {
            sandbox.forget(&row.digest);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // The plugin is removed; its file is taken away at the next start.
                    tracing::warn!(path = %path.display(), %error, "the component of a removed plugin stays behind");
                }
                _ => {}
            }
        })
        .await
    }

    /// Takes away the files that no record names: of admissions that a crash cut off, and of removals.
    pub(crate) async fn collect_orphans(&self) -> Result<(), Error> {
        let _change = self.changing.write().await;
        let rows = self.ledger.plugins(None).await?;
        let mut known: HashSet<PathBuf> = rows
            .iter()
            .map(|row| self.path(&row.digest))
            .collect::<Result<_, _>>()?;
        // Of plugins that were removed and that a deployment is going to run all the same.
        let leased: Vec<String> = {
            let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.keys().cloned().collect()
        };
        for digest in leased.iter().filter(|digest| self.is_leased(digest)) {
            known.insert(self.path(digest)?);
        }
        let directory = self.directory.clone();
        let sandbox = self.sandbox.clone();
        blocking(move || {
            let failed = || format!("read {}", directory.display());
            for entry in fs::read_dir(&directory).map_err(Error::io(failed()))? {
                let entry = entry.map_err(Error::io(failed()))?;
                let path = entry.path();
                // Ours are components and what was to become one; anything else is not ours to take away.
                let ours = path.extension().is_some_and(|ending| ending == "wasm" || ending == "tmp");
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                if !ours || !is_file || known.contains(&path) {
                    continue;
                }
                tracing::info!(path = %path.display(), "a component that no plugin names is removed");
                if let Some(hex) = path.file_stem().and_then(|stem| stem.to_str()) {
                    sandbox.forget(&format!("blake3:{hex}"));
                }
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "it could not be removed");
                }
            }
            Ok(())
        })
        .await?
    }

    fn lease(&self, digest: &str) -> Arc<()> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|_, lease| lease.strong_count() > 0);
        if let Some(lease) = leases.get(digest).and_then(Weak::upgrade) {
            return lease;
        }
        let lease = Arc::new(());
        leases.insert(digest.to_owned(), Arc::downgrade(&lease));
        lease
    }

    fn is_leased(&self, digest: &str) -> bool {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases
            .get(digest)
            .is_some_and(|lease| lease.strong_count() > 0)
    }

    /// Admits what comes with the host, unless it was before. The first error comes when everything else was tried.
    pub(crate) async fn admit_shipped(&self, shipped: &[ShippedPlugin]) -> Result<(), Error> {
        let mut result = Ok(());
        for plugin in shipped {
            result = result.and(self.admit_one_shipped(plugin).await);
        }
        result
    }

    async fn admit_one_shipped(&self, plugin: &ShippedPlugin) -> Result<(), Error> {
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
                // It is as trusted as the host that it is part of.
                let admission = Admission {
                    name,
                    version,
                    wasm: Bytes::from_static(plugin.wasm),
                    signature: None,
                    by: SHIPPED.to_owned(),
                };
                self.admit_checked(admission, None).await?;
            }
        }
        Ok(())
    }

    /// Finds what a pipeline means by a plugin's name.
    pub(crate) async fn resolve(&self, reference: &PluginRef) -> Result<Resolved, Error> {
        let _unchanged = self.changing.read().await;
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
            _lease: self.lease(&row.digest),
            name: view.name,
            version: view.version,
            digest: row.digest,
            phases: view.phases,
            config_schema: view.config_schema,
        })
    }

    /// A plugin that was resolved before the host was last started. It may have been removed since: its component
    /// stays for as long as this is held.
    pub(crate) async fn recall(
        &self,
        label: String,
        name: PluginName,
        version: Version,
        digest: String,
    ) -> Resolved {
        let _unchanged = self.changing.read().await;
        Resolved {
            label,
            name,
            version,
            _lease: self.lease(&digest),
            digest,
            phases: Vec::new(),
            config_schema: None,
        }
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
    fs::read(path)
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
