//! The store of packages.

use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;

use super::problem::Problem;
use super::{Call, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectQuery {
    /// `true` only asks what would be given back.
    dry_run: Option<String>,
}

/// `POST /v1/store/collect`: gives back the room of what nothing refers to, and says how much that was.
pub(super) async fn collect(call: Call) -> Result<Response, Problem> {
    let query: CollectQuery = call.query()?;
    let dry_run = match query.dry_run.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let detail = format!("dry_run is {other:?}; it is true or false");
            return Err(Problem::bad_request(detail));
        }
    };
    let host = call.api.host().clone();
    let collect = call.api.detach(async move { host.collect(dry_run).await });
    let collected = collect.await.map_err(|error| Problem::internal(&error))??;
    json(StatusCode::OK, &collected)
}
