//! Projects: list and show.

use axum::response::Response;
use cofferdam_deploy::{Broken, Identity, ProjectName, ProjectView, Scope};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::problem::Problem;
use super::{Call, json};

/// A list of projects.
#[derive(Serialize, JsonSchema)]
pub(super) struct Page {
    projects: Vec<ProjectView>,
}

/// What breaking a lease came to.
#[derive(Serialize, JsonSchema)]
pub(super) struct Unlocked {
    /// The lease that was broken; nothing when nobody had it.
    broken: Option<Broken>,
}

/// `DELETE /v1/projects/{project}/lease`: takes the lease from whoever has it, and says from whom.
pub(super) async fn unlock(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let (host, by) = (call.api.host().clone(), call.who());
    let unlock = call
        .api
        .detach(async move { host.unlock(&project, &by).await });
    let broken = unlock.await.map_err(|error| Problem::internal(&error))??;
    json(StatusCode::OK, &Unlocked { broken })
}

/// `GET /v1/projects`: those that the token may see, by name.
pub(super) async fn list(call: Call, identity: Identity) -> Result<Response, Problem> {
    let mut projects = call.api.host().projects().await?;
    projects.retain(|project| identity.allows(&Scope::Read(Some(project.name.clone()))));
    json(StatusCode::OK, &Page { projects })
}

/// `GET /v1/projects/{project}`.
pub(super) async fn show(call: Call, project: ProjectName) -> Result<Response, Problem> {
    json(StatusCode::OK, &call.api.host().project(&project).await?)
}
