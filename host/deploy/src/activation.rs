//! From the description of services to routes that answer.
//!
//! - here: how a service is started
//! - `swap`: a release takes the place of another: prepared, recorded, routed
//! - `drain`: the other comes to its end
//! - `needed`: what must not be taken away before that
//! - `watch`: the new one is watched for a while, and goes again if it fails

mod drain;
mod needed;
mod swap;
mod watch;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use cofferdam_sandbox::{Sandbox, ServiceSpec, ServiceState};

use crate::catalog::{Catalog, blocking};
use crate::data_dir::{DataDir, make_dir};
use crate::error::Error;
use crate::head::Strategy;
use crate::name::{DeploymentId, ProjectName};
use crate::policy::Policy;
use crate::record::{Service, ServiceKind};
use crate::route::{Route, StaticRoot, Target};
use crate::secrets::SecretStore;
use crate::service::{self, ServiceGrant};

pub(crate) use drain::{Pointer, Pointers, active};
pub(crate) use needed::Needed;
pub(crate) use swap::{Role, Swap};
pub(crate) use watch::{FAILED_PROBES, FEW_REQUESTS, resume as resume_watches};

/// The most services of a release: each has its own name and, if a component, its own code in memory.
const MAX_SERVICES: usize = 16;

/// The largest component that a release may serve; the same bound as for plugins.
const MAX_COMPONENT_BYTES: u64 = 128 << 20;

/// A release about to be served.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) project: &'a ProjectName,
    pub(crate) id: DeploymentId,
    pub(crate) digest: &'a str,
    pub(crate) root: &'a Path,
    pub(crate) services: &'a [Service],
}

/// What starts services.
#[derive(Debug, Clone)]
pub(crate) struct Activator {
    pub(crate) catalog: Catalog,
    pub(crate) sandbox: Sandbox,
    pub(crate) domain: String,
    pub(crate) policy: Arc<Policy>,
    pub(crate) secrets: Arc<SecretStore>,
    pub(crate) data: Arc<DataDir>,
}

impl Activator {
    /// Checks what can be checked of the services before anything is frozen.
    pub(crate) fn check(
        &self,
        project: &ProjectName,
        services: &[Service],
        strategy: Strategy,
    ) -> Result<(), Error> {
        if services.len() > MAX_SERVICES {
            return Err(invalid(format!(
                "{} services are more than the {MAX_SERVICES} allowed",
                services.len()
            )));
        }
        let mut names = HashSet::new();
        for service in services {
            if !names.insert(service.name.as_str()) {
                return Err(invalid(format!(
                    "two services have the name {}",
                    service.name
                )));
            }
            if let ServiceKind::Component { request, .. } = &service.kind {
                service::grant(&self.policy, project, &service.name, request)?;
                service::check_strategy(strategy, &service.name, request).map_err(invalid)?;
            }
            if let Some(ready) = &service.ready {
                let refused = |why| invalid(format!("service {}: {why}", service.name));
                ready.check().map_err(refused)?;
            }
        }
        Ok(())
    }

    /// Prepares every service of a release beside whatever is served now, and returns their routes by host
    /// name. Nothing is routed yet, and no code of a service runs before its first request.
    pub(crate) async fn prepare(
        &self,
        candidate: &Candidate<'_>,
    ) -> Result<Vec<(String, Arc<Route>)>, Error> {
        let Candidate {
            project,
            id,
            digest,
            root,
            services,
        } = candidate;
        let primary = services
            .iter()
            .find(|service| service.name.as_str() == "web")
            .or_else(|| services.first())
            .map(|service| service.name.clone());
        let mut routes = Vec::new();
        for service in *services {
            let target = self.target(project, root, service).await?;
            let route = Arc::new(Route::new(
                (*project).clone(),
                *id,
                (*digest).to_owned(),
                service.name.to_string(),
                target,
            ));
            if Some(&service.name) == primary.as_ref() {
                routes.push((format!("{project}.{}", self.domain), route.clone()));
            }
            routes.push((format!("{}.{project}.{}", service.name, self.domain), route));
        }
        Ok(routes)
    }

    async fn target(
        &self,
        project: &ProjectName,
        root: &Path,
        service: &Service,
    ) -> Result<Target, Error> {
        let root = root.to_owned();
        match &service.kind {
            ServiceKind::Static { root: directory } => {
                let directory = directory.clone();
                let dir = blocking(move || {
                    let release = Dir::open_ambient_dir(&root, ambient_authority())?;
                    release.open_dir(if directory.is_empty() {
                        "."
                    } else {
                        directory.as_str()
                    })
                })
                .await?
                .map_err(|error| not_ready(service, &error))?;
                Ok(Target::Static(StaticRoot { dir }))
            }
            ServiceKind::Component { path, request } => {
                let file = path.clone();
                let wasm = blocking(move || read_component(&root, &file))
                    .await?
                    .map_err(|error| not_ready(service, &error))?;
                // Only what an operator admits is adapted: a release's files are anybody's.
                if cofferdam_sandbox::is_core_module(&wasm) {
                    return Err(Error::NotReady {
                        message: format!(
                            "{path}: it is a core WebAssembly module; a service is a component that exports \
                             wasi:http/incoming-handler"
                        ),
                    });
                }
                let component = self.catalog.compile(wasm).await?;
                let ServiceGrant {
                    spec,
                    secrets,
                    state_bytes,
                } = service::grant(&self.policy, project, &service.name, request)?;
                let label = service::label(&service.name);
                let spec = ServiceSpec {
                    name: format!("{project}/{}", service.name),
                    secrets: self.secrets.open(&label, project, &secrets).await?,
                    ..spec
                };
                let state = match state_bytes {
                    Some(bytes) => Some(self.state(project, service, bytes).await?),
                    None => None,
                };
                let sandbox = self.sandbox.clone();
                let started = blocking(move || sandbox.service(&component, spec, state)).await?;
                let service = started.map_err(|error| match error {
                    cofferdam_sandbox::Error::WrongKind { .. } => Error::NotReady {
                        message: format!("{path}: {error}"),
                    },
                    error => Error::Sandbox(error),
                })?;
                Ok(Target::Http(service))
            }
        }
    }
}

impl Activator {
    /// The directory that a service keeps, made when there is none.
    async fn state(
        &self,
        project: &ProjectName,
        service: &Service,
        bytes: u64,
    ) -> Result<ServiceState, Error> {
        let path = self.data.state(project, &service.name);
        let directory = blocking(move || {
            make_dir(&path)?;
            File::open(&path).map_err(Error::io(format!("open {}", path.display())))
        })
        .await??;
        Ok(ServiceState { directory, bytes })
    }
}

fn read_component(root: &Path, file: &str) -> std::io::Result<Bytes> {
    let release = Dir::open_ambient_dir(root, ambient_authority())?;
    let file = release.open(file)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    if metadata.len() > MAX_COMPONENT_BYTES {
        return Err(std::io::Error::other(format!(
            "it has {} bytes, more than the {MAX_COMPONENT_BYTES} allowed",
            metadata.len()
        )));
    }
    let mut bytes = Vec::new();
    file.take(MAX_COMPONENT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn invalid(message: String) -> Error {
    Error::ReleaseInvalid { message }
}

fn not_ready(service: &Service, error: &std::io::Error) -> Error {
    let what = match &service.kind {
        ServiceKind::Static { root } => format!("the directory {root:?}"),
        ServiceKind::Component { path, .. } => format!("the component {path:?}"),
    };
    Error::NotReady {
        message: format!(
            "{what} of the service {} cannot be opened: {error}",
            service.name
        ),
    }
}
