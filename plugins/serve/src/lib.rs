//! The load step that ships: it describes the release's services.
//!
//! With a configuration it checks that what is named is there: `{"root": "public"}` for one static service,
//! or `{"services": [...]}` for any number of both kinds. Without one it looks around: a `wasi:http`
//! component comes first, then a directory with an `index.html`. A release in which it finds neither is kept
//! and serves nothing, with a warning.
//!
//! # Layout
//!
//! - `config`: what a pipeline may set
//! - `service`: what is described, and the checks
//! - `discovery`: what is found without a configuration

mod config;
mod discovery;
mod service;

pub use config::Config;
pub use service::{Kind, Service};

use std::path::Path;

use cofferdam_sdk as sdk;

/// Why a release could not be described.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration says two things.
    #[error("config: root and services are both set; name the directory in one of them")]
    RootAndServices,
    /// Two services share a name.
    #[error("config.services: two services are named {0:?}")]
    Twice(String),
    /// A service's name is none.
    #[error(
        "config.services: {0:?} is not a name: lower-case letters, digits and hyphens, 63 at the most"
    )]
    Name(String),
    /// What a service names is not there, or is something else.
    #[error("service {name:?}: {path:?} {problem}")]
    Path {
        /// The service.
        name: String,
        /// What it names.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The host did not take a description.
    #[error(transparent)]
    Output(#[from] sdk::Error),
}

/// Describes the release's services to the host, and returns how many there are.
///
/// # Errors
///
/// When what the configuration names is not there.
pub fn serve(release: &Path, config: Config) -> Result<usize, Error> {
    let services = match config.services()? {
        Some(services) => {
            for service in &services {
                service.check(release)?;
            }
            services
        }
        None => discovery::find(release),
    };
    for service in &services {
        println!("{service}");
        sdk::output("service", service)?;
    }
    Ok(services.len())
}
