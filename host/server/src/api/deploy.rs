//! `POST` or `PUT /v1/projects/{project}/deployments`: a package comes in and becomes a deployment.
//!
//! The upload is received by a task of its own, which the connection feeds and does not own: a client
//! that goes away in the middle fails the deployment, one that goes away after the last byte stops
//! nothing.

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use cofferdam_deploy::{
    Act, Begun, DeploymentId, Error, IdempotencyKey, Identity, Intake, ProjectName, Record, Repeat,
};
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use tracing::field::display;
use tracing::{Span, info};

use super::problem::Problem;
use super::{Api, Call, audit, events, json};
use crate::upload::Arrival;

/// The header by which a client says that it may send the request again.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Answers once the package is durable; or at once, with the events, when the client accepts them.
pub(super) async fn create(call: Call, project: ProjectName) -> Result<Response, Problem> {
    let streamed = call.accepts("text/event-stream");
    let key = idempotency_key(&call.parts.headers)?;
    let Call {
        api, parts, body, ..
    } = call;
    let limits = api.inner.body_limits.clone();
    let mut arrival =
        Arrival::open(&parts.headers, body, limits, api.inner.max_package_bytes).await?;

    let (head, media_type) = (std::mem::take(&mut arrival.head), arrival.media_type.take());
    let host = api.host().clone();
    let identity = parts.extensions.get::<Identity>();
    let origin = identity
        .map(|identity| audit::origin(identity, &parts))
        .unwrap_or_default();
    let token = identity.map(|identity| identity.id);
    let begin = api.detach(async move {
        let intake = match (key, token) {
            (Some(key), Some(token)) => {
                match host
                    .begin_once(&project, head, media_type, token, key)
                    .await?
                {
                    Begun::New(intake) => intake,
                    repeat @ Begun::Repeat(_) => return Ok(repeat),
                }
            }
            _ => host.begin(&project, head, media_type).await?,
        };
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
        Ok::<_, Error>(Begun::New(intake))
    });
    let intake = match begin.await.map_err(|error| Problem::internal(&error))?? {
        Begun::New(intake) => intake,
        Begun::Repeat(repeat) => return answer_again(&api, repeat, arrival, streamed).await,
    };
    let id = intake.id();
    Span::current().record("deployment", display(id));
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
        let listener = api.inner.metrics.listener();
        let stream = events::answer(subscription, until, listener);
        return Ok(([(LOCATION, location(id))], stream).into_response());
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
        // Whoever stops the deployment does not wait for its sender.
        let next = tokio::select! {
            biased;
            () = intake.unwanted() => Ok(Some(Bytes::new())),
            next = arrival.next() => next,
        };
        match next {
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

/// Answers a request that was sent before as it was answered then. Its package is read and compared, and starts
/// nothing.
async fn answer_again(
    api: &Api,
    mut repeat: Repeat,
    mut arrival: Arrival,
    streamed: bool,
) -> Result<Response, Problem> {
    let id = repeat.id();
    info!(deployment = %id, "a request that was sent before");
    while let Some(bytes) = arrival.next().await? {
        repeat.write(&bytes);
    }
    let record = repeat.finish().await?;
    let location = [(LOCATION, location(id))];
    if streamed {
        let subscription = api.host().events(id, 0).await?;
        let stop = api.inner.stop.clone();
        let until = async move { stop.cancelled().await };
        let listener = api.inner.metrics.listener();
        let stream = events::answer(subscription, until, listener);
        return Ok((location, stream).into_response());
    }
    Ok((location, json(StatusCode::ACCEPTED, &record)?).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::bad_request(
            "there are two Idempotency-Key headers; send one",
        ));
    }
    // What is no text is no key, and is refused with what one is.
    let key = value.to_str().unwrap_or_default().parse()?;
    Ok(Some(key))
}

fn location(id: DeploymentId) -> String {
    format!("/v1/deployments/{id}")
}
