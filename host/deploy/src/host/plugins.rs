//! Admitting, listing and removing plugins.

use semver::Version;

use super::Host;
use crate::catalog::{Admission, PluginView};
use crate::error::Error;
use crate::name::PluginName;

impl Host {
    /// Admits a plugin: checks it, compiles it, and records it under its name and version.
    ///
    /// # Errors
    ///
    /// [`Error::PluginIncompatible`] with the reason; [`Error::PluginUntrusted`] when the operator's policy wants
    /// another signature than it has; [`Error::Conflict`] when the version is admitted with other bytes.
    pub async fn admit(&self, admission: Admission) -> Result<PluginView, Error> {
        self.inner.activator.catalog.admit(admission).await
    }

    /// Removes an admitted plugin: later deployments do not find it. Those that were accepted run it all the same.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Conflict`] for a plugin that comes with the host.
    pub async fn remove_plugin(&self, name: &PluginName, version: &Version) -> Result<(), Error> {
        self.inner.activator.catalog.remove(name, version).await
    }

    /// Every admitted plugin.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub async fn plugins(&self) -> Result<Vec<PluginView>, Error> {
        self.inner.activator.catalog.all().await
    }

    /// One admitted plugin.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], or when the ledger cannot be read.
    pub async fn plugin(&self, name: &PluginName, version: &Version) -> Result<PluginView, Error> {
        self.inner.activator.catalog.get(name, version).await
    }
}
