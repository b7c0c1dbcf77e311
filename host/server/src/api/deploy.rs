//! `POST` or `PUT /v1/projects/{project}/deployments`: a package comes in and becomes a deployment.
//!
//! The upload is received by a task of its own, which the connection feeds and does not own: a client
//! that goes away in the middle fails the deployment, one that goes away after the last byte stops
//! nothing.

use axum::response::{IntoResponse as _, Response};
use cofferdam_deploy::{Act, DeploymentId, Error, Identity, Intake, ProjectName, Record};
use http::StatusCode;
use http::header::LOCATION;
use tracing::info;

use super::problem::Problem;
use super::{Call, audit, events, json};
use crate::upload::Arrival;

/// Answers once the package is durable; or at once, with the events, when the client accepts them.
pub(super) async fn create(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let streamed = call.accepts("text/event-stream");
    let Call {
        api, parts, body, ..
    } = call;
    let limits = api.inner.body_limits.clone();
    let mut arrival =
        Arrival::open(&parts.headers, body, limits, api.inner.max_package_bytes).await?;

    let (head, media_type) = (std::mem::take(&mut arrival.head), arrival.media_type.take());
    let host = api.host().clone();
    let origin = parts
        .extensions
        .get::<Identity>()
        .map(|identity| audit::origin(identity, &parts))
        .unwrap_or_default();
    let begin = api.detach(async move {
        let intake = host.begin(&project, head, media_type).await?;
        let id = intake.id().to_string();
        let act = Act {
            action: "deployment.begin",
            project: Some(&project),
            target: Some(&id),
            detail: None,
        };
        if let Err(error) = host.audit(&origin, act).await {
            tracing::error!(cause = error.chain(), "the audit log cannot be written");
        }
        Ok::<_, Error>(intake)
    });
    let intake = begin.await.map_err(|error| Problem::internal(&error))??;
    let id = intake.id();
    info!(deployment = %id, "accepted");

    let upload = api.detach(receive(intake, arrival));
    if streamed {
        // The head is committed and the pipeline runs: whatever happens from here on is an event.
        let subscription = api
            .host()
            .events(id, 0)
            .await
            .map_err(|error| Problem::from(error).of(id))?;
        let stop = api.inner.stop.clone();
        let until = async move {
            // An answer that ends takes the connection with it, and the upload must not go that way.
            let _ = upload.await;
            stop.cancelled().await;
        };
        return Ok((
            [(LOCATION, location(id))],
            events::answer(subscription, until),
        )
            .into_response());
    }
    let record = upload
        .await
        .map_err(|error| Problem::internal(&error).of(id))??;
    Ok((
        [(LOCATION, location(id))],
        json(StatusCode::ACCEPTED, &record)?,
    )
        .into_response())
}

/// Moves a package from its request into the host, and returns once it is durable.
async fn receive(mut intake: Intake, mut arrival: Arrival) -> Result<Record, Problem> {
    let id = intake.id();
    let received = loop {
        match arrival.next().await {
            Ok(Some(bytes)) => {
                if let Err(error) = intake.write(bytes).await {
                    break Err(error.into());
                }
            }
            Ok(None) => break intake.finish().await.map_err(Problem::from),
            Err(error) => {
                intake.refuse(error.refusal(), error.to_string());
                break Err(error.into());
            }
        }
    };
    received.map_err(|problem| {
        info!(deployment = %id, code = problem.code(), "an upload ended early");
        problem.of(id)
    })
}

fn location(id: DeploymentId) -> String {
    format!("/v1/deployments/{id}")
}
