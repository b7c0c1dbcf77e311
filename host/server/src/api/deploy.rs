//! `POST` or `PUT /v1/projects/{project}/deployments`: a package comes in and becomes a deployment.
//!
//! The upload is received by a task of its own, which the connection feeds and does not own: a client
//! that goes away in the middle fails the deployment, one that goes away after the last byte stops
//! nothing.

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use cofferdam_deploy::{
    Act, Begun, DeploymentId, Error, Head, IdempotencyKey, Identity, Intake, ProjectName, Record,
    Repeat, UploadClaim, UploadId, UploadView,
};
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::field::display;
use tracing::{Span, info, warn};
use uuid::Uuid;

use super::problem::Problem;
use super::{Api, Call, audit, events, json, uploads};
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
    let limit = api.inner.max_package_bytes;
    let identity = parts.extensions.get::<Identity>();
    let token = identity.map(|identity| identity.id);
    let mut arrival = Arrival::open(&parts.headers, body, limits, limit).await?;
    let mut stored = None;
    let mut used_up = None;
    if let Some(upload) = arrival.upload {
        let once = key.as_ref().zip(token);
        let (claim, upload) = match find(&api, &project, upload, &arrival.head, once).await? {
            Found::Upload(upload) => *upload,
            Found::Deployed(record) => return answer_repeated(&api, &record, streamed).await,
        };
        if Arrival::is_in_chunks(upload.media_type.as_deref()) {
            let package = api.host().upload_reader(&upload).await?;
            arrival = Arrival::stored(arrival.head, package, limit);
            used_up = Some(claim);
        } else {
            stored = Some((claim, upload));
        }
    }
    arrival.assemble(api.host(), &project).await?;

    let (head, media_type) = (std::mem::take(&mut arrival.head), arrival.media_type.take());
    let is_nearly_here = arrival.is_nearly_here();
    let host = api.host().clone();
    let origin = identity
        .map(|identity| audit::origin(identity, &parts))
        .unwrap_or_default();
    let begin = async move {
        let intake = match (key.zip(token), stored) {
            (once, Some((claim, upload))) => {
                let once = once.map(|(key, token)| (token, key));
                let upload = (claim, &upload);
                host.begin_upload(&project, head, upload, once).await?
            }
            (Some((key, token)), None) => {
                match host
                    .begin_once(&project, head, media_type, token, key)
                    .await?
                {
                    Begun::New(intake) => intake,
                    repeat @ Begun::Repeat(_) => return Ok(repeat),
                }
            }
            (None, None) => host.begin(&project, head, media_type).await?,
        };
        if is_nearly_here {
            intake.settle_first();
        }
        intake.attribute(origin.clone());
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
    };
    // Not by this task: a client that goes away between the beginning and the first byte would take the deployment along.
    let (tell, accepted) = oneshot::channel();
    api.detach({
        let api = api.clone();
        async move {
            let accepted = match begin.await {
                Ok(Begun::New(intake)) => {
                    let id = intake.id();
                    let upload = api.detach(receive(api.clone(), intake, arrival, used_up));
                    Ok(Accepted::Now(id, upload))
                }
                Ok(Begun::Repeat(repeat)) => Ok(Accepted::Before(Box::new((repeat, arrival)))),
                Err(error) => Err(Problem::from(error)),
            };
            // A deployment goes on whether or not anybody waits for it.
            let _ = tell.send(accepted);
        }
    });
    let (id, upload) = match accepted
        .await
        .map_err(|error| Problem::internal(&error))??
    {
        Accepted::Now(id, upload) => (id, upload),
        Accepted::Before(before) => {
            let (repeat, arrival) = *before;
            return answer_again(&api, repeat, arrival, streamed).await;
        }
    };
    Span::current().record("deployment", display(id));
    info!(deployment = %id, "accepted");

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

/// What a request turned out to be.
enum Accepted {
    /// A deployment of its own, whose package is on its way.
    Now(DeploymentId, JoinHandle<Result<Record, Problem>>),
    /// One that was made when it was sent before; its package is still to be compared.
    Before(Box<(Repeat, Arrival)>),
}

/// Moves a package from its request into the host, and returns once it is durable. The upload that it is put
/// together from, if it is, has served its purpose then.
async fn receive(
    api: Api,
    mut intake: Intake,
    mut arrival: Arrival,
    used_up: Option<UploadClaim>,
) -> Result<Record, Problem> {
    let id = intake.id();
    let received = loop {
        // Whoever stops the deployment does not wait for its sender.
        let next = tokio::select! {
            biased;
            () = intake.unwanted() => Ok(Some(Bytes::new().into())),
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
    // A list that leans on what is not there, or stands for something else, is of no use either.
    let is_over = match &received {
        Ok(_) => true,
        Err(problem) => matches!(problem.code(), "chunks_missing" | "digest_mismatch"),
    };
    if let Some(claim) = used_up.filter(|_| is_over) {
        let upload = claim.id();
        if let Err(error) = api.host().discard_upload(claim).await {
            // It expires.
            warn!(%upload, %error, "an upload that was deployed could not be removed");
        }
    }
    received.map_err(|problem| {
        info!(deployment = %id, code = problem.code(), "an upload ended early");
        problem.of(id)
    })
}

/// What a request that names an upload is for.
enum Found {
    /// The upload, which nobody else takes.
    Upload(Box<(UploadClaim, UploadView)>),
    /// The deployment that the same request became before: the upload is none any more, and the key alone still knows.
    Deployed(Box<Record>),
}

/// Finds the upload of a request, which may have a key.
async fn find(
    api: &Api,
    project: &ProjectName,
    id: UploadId,
    head: &Head,
    once: Option<(&IdempotencyKey, Uuid)>,
) -> Result<Found, Problem> {
    let host = api.host();
    let repeated = async || match once {
        Some((key, token)) => host.repeated(project, head, token, key).await,
        None => Ok(None),
    };
    if let Some(record) = repeated().await? {
        return Ok(Found::Deployed(Box::new(record)));
    }
    // Before it is claimed: nobody gets in the way of what is not theirs.
    if let Err(problem) = uploads::of_project(host, id, project).await {
        // It may have been deployed in the meantime.
        let record = repeated().await?.ok_or(problem)?;
        return Ok(Found::Deployed(Box::new(record)));
    }
    let claim = match once {
        // Whoever may send a request again waits for what becomes of the first.
        Some(_) => host.claim_upload_when_free(id).await?,
        None => host.claim_upload(id)?,
    };
    if let Some(record) = repeated().await? {
        return Ok(Found::Deployed(Box::new(record)));
    }
    let upload = uploads::of_project(host, id, project).await?;
    Ok(Found::Upload(Box::new((claim, upload))))
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
    answer_repeated(api, &record, streamed).await
}

/// Answers with what a request became when it was sent before.
async fn answer_repeated(api: &Api, record: &Record, streamed: bool) -> Result<Response, Problem> {
    let id = record.id;
    let location = [(LOCATION, location(id))];
    if streamed {
        let subscription = api.host().events(id, 0).await?;
        let stop = api.inner.stop.clone();
        let until = async move { stop.cancelled().await };
        let listener = api.inner.metrics.listener();
        let stream = events::answer(subscription, until, listener);
        return Ok((location, stream).into_response());
    }
    Ok((location, json(StatusCode::ACCEPTED, record)?).into_response())
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
