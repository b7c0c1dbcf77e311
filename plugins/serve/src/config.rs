//! What a pipeline may set.

use std::collections::HashSet;

use serde::Deserialize;

use crate::Error;
use crate::service::{Kind, Service};

/// The name of a service that was not given one.
pub(crate) const DEFAULT_NAME: &str = "web";

/// The step's configuration: a root, or services, or nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The directory of the one static service.
    pub root: Option<String>,
    /// Any number of services.
    pub services: Option<Vec<Service>>,
}

impl Config {
    /// The services that are asked for, or `None` when none are named.
    pub(crate) fn services(self) -> Result<Option<Vec<Service>>, Error> {
        match (self.root, self.services) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Error::RootAndServices),
            (Some(root), None) => Ok(Some(vec![Service {
                name: DEFAULT_NAME.to_owned(),
                kind: Kind::Static { root },
                ready: None,
            }])),
            (None, Some(services)) => {
                let mut names = HashSet::new();
                for service in &services {
                    service.check_name()?;
                    if !names.insert(service.name.clone()) {
                        return Err(Error::Twice(service.name.clone()));
                    }
                }
                Ok(Some(services))
            }
        }
    }
}
