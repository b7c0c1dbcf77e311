//! The table of routes. A route without a rule for who may use it cannot be written down: the rule holds
//! the handler, and hands it what was authorised.

use axum::response::Response;
use axum::routing::MethodFilter;
use cofferdam_deploy::{
    Check, Collected, Head, HoldView, Identity, NewToken, NewWebhook, PluginView, ProjectName,
    ProjectView, Record, Rollback, StoredSecret, UploadView, WebhookView,
};
use futures::future::BoxFuture;
use http::Method;

use super::doc::Doc;
use super::problem::Problem;
use super::{
    Call, audit, check, deploy, deployments, events, health, holds, log, missing, openapi, plugins,
    project_events, projects, releases, secrets, store, tokens, uploads, webhooks,
};

/// What a handler comes to.
pub(super) type Answer = BoxFuture<'static, Result<Response, Problem>>;

/// One route.
pub(super) struct Endpoint {
    /// The method. `GET` answers `HEAD` too.
    pub(super) method: Method,
    /// The path, with its parameters in braces.
    pub(super) path: &'static str,
    /// Who may use it, and what answers.
    pub(super) access: Access,
    /// What the API's document says of it.
    pub(super) doc: Doc,
}

/// Who may use a route, and the handler that answers once that is settled.
pub(super) enum Access {
    /// Anybody, without a token.
    Open(fn(Call) -> Answer),
    /// Whoever has a token; the handler shows what the token may see.
    Token(fn(Call, Identity) -> Answer),
    /// Whoever may read everything: has `read:*` or `admin`.
    Reader(fn(Call) -> Answer),
    /// Whoever has the scope `admin`.
    Admin(fn(Call) -> Answer),
    /// Whoever has the right to the project in the path's `{project}`.
    Project(Right, fn(Call, ProjectName) -> Answer),
    /// Whoever may deploy the project in the query's `project`.
    Asked(fn(Call, ProjectName) -> Answer),
    /// Whoever may deploy the project of the upload in the path's `{upload}`.
    Upload(fn(Call, UploadView) -> Answer),
    /// Whoever has the right to the project of the deployment in the path's `{id}`.
    Deployment(Right, fn(Call, Record) -> Answer),
}

/// What one may do to a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// See it.
    Read,
    /// Change it.
    Deploy,
}

impl Endpoint {
    /// The method as the router wants it.
    pub(super) fn filter(&self) -> MethodFilter {
        self.method
            .clone()
            .try_into()
            .expect("the table names only methods that a router knows")
    }

    /// The same route with its documentation.
    const fn doc(mut self, doc: Doc) -> Self {
        self.doc = doc;
        self
    }
}

const fn route(method: Method, path: &'static str, access: Access) -> Endpoint {
    Endpoint {
        method,
        path,
        access,
        doc: Doc::of(""),
    }
}

/// Whether a route is asked so often, by probes, that its answers are not worth a line each.
pub(super) fn is_quiet(path: &str) -> bool {
    matches!(path, HEALTHZ | READYZ | METRICS)
}

const HEALTHZ: &str = "/healthz";
const READYZ: &str = "/readyz";
const METRICS: &str = "/metrics";
const OPENAPI: &str = "/openapi.json";
const CREATE: &str = "/v1/projects/{project}/deployments";
const HOLD: &str = "/v1/projects/{project}/hold";
const TOKENS: &str = "/v1/tokens";
const PLUGIN: &str = "/v1/plugins/{name}/{version}";
const UPLOAD: &str = "/v1/uploads/{upload}";
const PIN: &str = "/v1/deployments/{id}/pin";
const WEBHOOK: &str = "/v1/projects/{project}/webhook";
const SECRET: &str = "/v1/projects/{project}/secrets/{name}";

/// Every route there is.
pub(super) static ENDPOINTS: &[Endpoint] = &[
    route(
        Method::GET,
        HEALTHZ,
        Access::Open(|call| Box::pin(health::alive(call))),
    )
    .doc(Doc::of("Whether the server is there").gives::<health::Health>(200, "It is")),
    route(
        Method::GET,
        READYZ,
        Access::Open(|call| Box::pin(health::ready(call))),
    )
    .doc(Doc::of("Whether the server takes deployments").gives::<health::Health>(200, "It does")),
    route(
        Method::GET,
        METRICS,
        Access::Reader(|call| Box::pin(health::metrics(call))),
    )
    .doc(Doc::of("Figures for Prometheus").gives_bytes(200, "The figures", "text/plain")),
    route(
        Method::GET,
        OPENAPI,
        Access::Open(|call| Box::pin(openapi::show(call))),
    )
    .doc(Doc::of("This document").gives_bytes(
        200,
        "An OpenAPI 3.1 document",
        "application/json",
    )),
    route(
        Method::POST,
        CREATE,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(deploy::create(call, project))
        }),
    )
    .doc(CREATE_DOC),
    route(
        Method::PUT,
        CREATE,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(deploy::create(call, project))
        }),
    )
    .doc(CREATE_DOC),
    route(
        Method::POST,
        "/v1/projects/{project}/check",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(check::check(call, project))
        }),
    )
    .doc(
        Doc::of("What a deployment with this head would get, without deploying")
            .takes::<Head>()
            .gives::<Check>(
                200,
                "What each step would get, and which line of the policy decides",
            ),
    ),
    route(
        Method::POST,
        "/v1/projects/{project}/missing",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(missing::missing(call, project))
        }),
    )
    .doc(
        Doc::of("Which chunks of a package the project has to send (docs/protocol.md)")
            .takes_bytes(&["application/octet-stream"])
            .gives::<missing::Answer>(200, "A bit for each chunk, and what to cut with"),
    ),
    route(
        Method::GET,
        "/v1/projects/{project}/chunks",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(missing::list(call, project))
        }),
    )
    .doc(
        Doc::of("The chunks of a package that the project holds (docs/protocol.md)")
            .query("package", "BLAKE3 of the package, in hex")
            .gives_bytes(
                200,
                "36 bytes for each chunk: its length, little-endian, and its BLAKE3",
                "application/octet-stream",
            ),
    ),
    route(
        Method::POST,
        "/v1/uploads",
        Access::Asked(|call, project| Box::pin(uploads::create(call, project))),
    )
    .doc(
        Doc::of("Makes an upload that can be resumed (docs/protocol.md)")
            .query("project", "The project that it is for")
            .header("Upload-Complete", "Whether the body is all of it: ?1 or ?0")
            .header("Upload-Length", "How many bytes it will have")
            .header("Content-Type", "What its bytes are")
            .takes_bytes(&["application/octet-stream"])
            .gives::<uploads::Shown>(201, "It is made; Location says where"),
    ),
    route(
        Method::GET,
        UPLOAD,
        Access::Upload(|call, upload| Box::pin(uploads::show(call, upload))),
    )
    .doc(
        Doc::of("How far an upload is; HEAD ends a request that still writes to it")
            .gives::<uploads::Shown>(200, "The upload; Upload-Offset says where to go on"),
    ),
    route(
        Method::PATCH,
        UPLOAD,
        Access::Upload(|call, upload| Box::pin(uploads::append(call, upload))),
    )
    .doc(
        Doc::of("Goes on with an upload at its offset")
            .header("Upload-Offset", "How many bytes of it are there")
            .header(
                "Upload-Complete",
                "Whether the body is the rest of it: ?1 or ?0",
            )
            .header("Upload-Length", "How many bytes it will have")
            .header("Repr-Digest", "The SHA-256 of all of it, as in RFC 9530")
            .takes_bytes(&["application/partial-upload"])
            .gives_nothing(
                204,
                "What arrived is durable; Upload-Offset says how far it is",
            ),
    ),
    route(
        Method::DELETE,
        UPLOAD,
        Access::Upload(|call, upload| Box::pin(uploads::remove(call, upload))),
    )
    .doc(Doc::of("Forgets an upload").gives_nothing(204, "It is gone")),
    route(
        Method::GET,
        "/v1/deployments",
        Access::Token(|call, identity| Box::pin(deployments::list(call, identity))),
    )
    .doc(
        Doc::of("The deployments that the token may see, newest first")
            .query("project", "only those of this project")
            .query("status", "only those in this status")
            .query("before", "only those older than this one")
            .query("limit", "how many at most, 1 to 200")
            .gives::<deployments::Page>(200, "A page of them"),
    ),
    route(
        Method::GET,
        "/v1/deployments/{id}",
        Access::Deployment(Right::Read, |call, record| {
            Box::pin(deployments::show(call, record))
        }),
    )
    .doc(Doc::of("One deployment").gives::<Record>(200, "Its record")),
    route(
        Method::GET,
        "/v1/deployments/{id}/events",
        Access::Deployment(Right::Read, |call, record| {
            Box::pin(events::stream(call, record))
        }),
    )
    .doc(
        Doc::of("A deployment's events as they happen, from the first or from after one")
            .query("after", "the number of the last event seen")
            .header("Last-Event-ID", "the same, as an EventSource says it")
            .gives_bytes(
                200,
                "Server-sent events, to the end of the deployment",
                "text/event-stream",
            )
            .gives_nothing(204, "There is nothing more: do not connect again"),
    ),
    route(
        Method::GET,
        "/v1/deployments/{id}/log",
        Access::Deployment(Right::Read, |call, record| {
            Box::pin(log::read(call, record))
        }),
    )
    .doc(
        Doc::of("Everything that is recorded of a deployment's log")
            .query("format", "text or jsonl")
            .gives_bytes(200, "The log", "text/plain")
            .gives_bytes(200, "The log", "application/x-ndjson"),
    ),
    route(
        Method::GET,
        "/v1/deployments/{id}/package",
        Access::Deployment(Right::Read, |call, record| {
            Box::pin(deployments::package(call, record))
        }),
    )
    .doc(
        Doc::of("A deployment's package as it was sent").gives_bytes(
            200,
            "Its bytes, of the media type they were sent as",
            "*/*",
        ),
    ),
    route(
        Method::POST,
        "/v1/deployments/{id}/cancel",
        Access::Deployment(Right::Deploy, |call, record| {
            Box::pin(deployments::cancel(call, record))
        }),
    )
    .doc(
        Doc::of("Cancel a deployment; answered when nothing of it runs any more")
            .gives::<Record>(200, "Its record"),
    ),
    route(
        Method::PUT,
        HOLD,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(holds::put(call, project))
        }),
    )
    .doc(
        Doc::of("Refuse deployments of a project, with a reason")
            .takes::<holds::Hold>()
            .gives::<HoldView>(200, "The hold"),
    ),
    route(
        Method::DELETE,
        HOLD,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(holds::release(call, project))
        }),
    )
    .doc(Doc::of("Take deployments of a project again").gives_nothing(204, "It is released")),
    route(
        Method::DELETE,
        "/v1/projects/{project}/lease",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(projects::unlock(call, project))
        }),
    )
    .doc(
        Doc::of("Break the lease of a project's running deployment")
            .gives::<projects::Unlocked>(200, "From whom it was taken"),
    ),
    route(
        Method::GET,
        "/v1/projects",
        Access::Token(|call, identity| Box::pin(projects::list(call, identity))),
    )
    .doc(
        Doc::of("The projects that the token may see, by name")
            .gives::<projects::Page>(200, "All of them"),
    ),
    route(
        Method::GET,
        "/v1/projects/{project}",
        Access::Project(Right::Read, |call, project| {
            Box::pin(projects::show(call, project))
        }),
    )
    .doc(
        Doc::of("One project: what it serves, and its newest deployment")
            .gives::<ProjectView>(200, "The project"),
    ),
    route(
        Method::DELETE,
        "/v1/projects/{project}",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(releases::remove_project(call, project))
        }),
    )
    .doc(Doc::of("Tear a project down; its audit log stays").gives_nothing(204, "It is gone")),
    route(
        Method::GET,
        "/v1/projects/{project}/history",
        Access::Project(Right::Read, |call, project| {
            Box::pin(releases::history(call, project))
        }),
    )
    .doc(
        Doc::of("Every move of a project's pointer, newest first")
            .query("before", "only moves older than this number")
            .query("limit", "how many at most, 1 to 200")
            .gives::<releases::HistoryPage>(200, "A page of the history"),
    ),
    route(
        Method::POST,
        "/v1/projects/{project}/rollback",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(releases::rollback(call, project))
        }),
    )
    .doc(
        Doc::of("Serve a release that is kept again")
            .takes::<Rollback>()
            .gives::<ProjectView>(200, "The project, which serves it"),
    ),
    route(
        Method::POST,
        "/v1/projects/{project}/verify",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(releases::verify(call, project))
        }),
    )
    .doc(
        Doc::of("Read every byte of what a project serves, and restore what is damaged")
            .gives::<releases::Verified>(200, "How its services do"),
    ),
    route(
        Method::GET,
        "/v1/projects/{project}/events",
        Access::Project(Right::Read, |call, project| {
            Box::pin(project_events::stream(call, project))
        }),
    )
    .doc(
        Doc::of("The events of a project's deployments, as they come")
            .header("Last-Event-ID", "DEPLOYMENT/NUMBER of the last event seen")
            .gives_bytes(200, "Server-sent events", "text/event-stream"),
    ),
    // Its address may be a secret by itself.
    route(
        Method::GET,
        WEBHOOK,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(webhooks::show(call, project))
        }),
    )
    .doc(
        Doc::of("Where a project's news go, and what waits to be told")
            .gives::<WebhookView>(200, "The webhook"),
    ),
    route(
        Method::PUT,
        WEBHOOK,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(webhooks::put(call, project))
        }),
    )
    .doc(
        Doc::of("Post a project's news to a URL, under a new key")
            .takes::<webhooks::Wanted>()
            .gives::<NewWebhook>(200, "The key of the signatures, shown now and never again"),
    ),
    route(
        Method::DELETE,
        WEBHOOK,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(webhooks::remove(call, project))
        }),
    )
    .doc(Doc::of("Post a project's news nowhere").gives_nothing(204, "Nobody is told any more")),
    route(
        Method::PUT,
        PIN,
        Access::Deployment(Right::Deploy, |call, record| {
            Box::pin(releases::pin(call, record))
        }),
    )
    .doc(
        Doc::of("Keep a deployment's release and package from retention")
            .gives_nothing(204, "It is pinned"),
    ),
    route(
        Method::DELETE,
        PIN,
        Access::Deployment(Right::Deploy, |call, record| {
            Box::pin(releases::unpin(call, record))
        }),
    )
    .doc(Doc::of("Take a deployment's pin away").gives_nothing(204, "It is not pinned")),
    route(
        Method::DELETE,
        "/v1/deployments/{id}/package",
        Access::Deployment(Right::Deploy, |call, record| {
            Box::pin(releases::remove_package(call, record))
        }),
    )
    .doc(
        Doc::of("Remove the package of a deployment that has ended")
            .gives_nothing(204, "There is none"),
    ),
    // Their names tell what a project talks to: that is for those who may change it.
    route(
        Method::GET,
        "/v1/projects/{project}/secrets",
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(secrets::list(call, project))
        }),
    )
    .doc(
        Doc::of("The names of a project's secrets")
            .gives::<secrets::Page>(200, "Their names and times, never their values"),
    ),
    route(
        Method::PUT,
        SECRET,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(secrets::put(call, project))
        }),
    )
    .doc(
        Doc::of("Set a secret, new or in place of an earlier one")
            .takes_bytes(&["application/octet-stream"])
            .gives::<StoredSecret>(200, "It took the place of an earlier one")
            .gives::<StoredSecret>(201, "It is new"),
    ),
    route(
        Method::DELETE,
        SECRET,
        Access::Project(Right::Deploy, |call, project| {
            Box::pin(secrets::remove(call, project))
        }),
    )
    .doc(Doc::of("Forget a secret").gives_nothing(204, "It is gone")),
    route(
        Method::POST,
        "/v1/store/collect",
        Access::Admin(|call| Box::pin(store::collect(call))),
    )
    .doc(
        Doc::of("Give back the room of what nothing refers to, beside everything else that runs")
            .query("dry_run", "true only asks how much would come free")
            .gives::<Collected>(200, "What was found and done"),
    ),
    route(
        Method::GET,
        "/v1/plugins",
        Access::Token(|call, _| Box::pin(plugins::list(call))),
    )
    .doc(Doc::of("The admitted plugins").gives::<plugins::Page>(200, "All of them")),
    route(
        Method::GET,
        PLUGIN,
        Access::Token(|call, _| Box::pin(plugins::show(call))),
    )
    .doc(Doc::of("One plugin").gives::<PluginView>(200, "The plugin")),
    route(
        Method::PUT,
        PLUGIN,
        Access::Admin(|call| Box::pin(plugins::admit(call))),
    )
    .doc(
        Doc::of("Admit a component as a plugin")
            .header("Cofferdam-Signature", "a .minisig file in base64")
            .takes_bytes(&["application/wasm", "application/octet-stream"])
            .gives::<PluginView>(201, "It is admitted"),
    ),
    route(
        Method::DELETE,
        PLUGIN,
        Access::Admin(|call| Box::pin(plugins::remove(call))),
    )
    .doc(Doc::of("Remove a plugin").gives_nothing(204, "It is gone")),
    route(
        Method::GET,
        TOKENS,
        Access::Admin(|call| Box::pin(tokens::list(call))),
    )
    .doc(
        Doc::of("The tokens: what they are called and what they allow")
            .gives::<tokens::Page>(200, "All of them"),
    ),
    route(
        Method::POST,
        TOKENS,
        Access::Admin(|call| Box::pin(tokens::create(call))),
    )
    .doc(
        Doc::of("Make a token")
            .takes::<NewToken>()
            .gives::<tokens::Made>(201, "The token, shown now and never again"),
    ),
    route(
        Method::DELETE,
        "/v1/tokens/{token}",
        Access::Admin(|call| Box::pin(tokens::revoke(call))),
    )
    .doc(
        Doc::of("Revoke a token; what it had begun ends")
            .gives_nothing(204, "It opens nothing any more"),
    ),
    route(
        Method::GET,
        "/v1/audit",
        Access::Admin(|call| Box::pin(audit::list(call))),
    )
    .doc(
        Doc::of("Who did what, newest first")
            .query("project", "only what was done to this project")
            .query("before", "only rows older than this number")
            .query("limit", "how many at most, 1 to 200")
            .gives::<audit::Page>(200, "A page of the audit log"),
    ),
];

/// What both methods of a deployment do.
const CREATE_DOC: Doc = Doc::of("Deploy a package")
    .header("Cofferdam-Head", "the head of a raw body, as JSON")
    .header(
        "Idempotency-Key",
        "the same key and body give the same deployment",
    )
    .takes_bytes(&[
        "multipart/form-data",
        "application/json",
        "application/octet-stream",
        "application/x-tar",
        "application/gzip",
        "application/zstd",
        "application/zip",
    ])
    .gives::<Record>(202, "The package is durable, and the pipeline runs")
    .gives_bytes(
        200,
        "Its events as they happen, when they are accepted",
        "text/event-stream",
    );

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_probes_and_the_document_are_open() {
        for endpoint in ENDPOINTS {
            let open = matches!(endpoint.access, Access::Open(_));
            assert_eq!(
                open,
                [HEALTHZ, READYZ, OPENAPI].contains(&endpoint.path),
                "{} {}",
                endpoint.method,
                endpoint.path
            );
        }
    }

    #[test]
    fn every_rule_finds_what_it_judges_in_the_path() {
        for endpoint in ENDPOINTS {
            let wanted = match endpoint.access {
                Access::Project(..) => Some("{project}"),
                Access::Deployment(..) => Some("{id}"),
                Access::Upload(_) => Some("{upload}"),
                Access::Open(_)
                | Access::Token(_)
                | Access::Reader(_)
                | Access::Admin(_)
                | Access::Asked(_) => None,
            };
            for parameter in ["{project}", "{id}", "{upload}"] {
                let there = endpoint.path.contains(parameter);
                assert_eq!(there, wanted == Some(parameter), "{}", endpoint.path);
            }
        }
    }

    #[test]
    fn what_changes_something_wants_more_than_a_token() {
        for endpoint in ENDPOINTS {
            let changes = endpoint.method != Method::GET;
            let rule = &endpoint.access;
            let guarded = matches!(
                rule,
                Access::Admin(_)
                    | Access::Project(Right::Deploy, _)
                    | Access::Deployment(Right::Deploy, _)
                    | Access::Asked(_)
                    | Access::Upload(_)
            );
            assert!(guarded || !changes, "{} {}", endpoint.method, endpoint.path);
        }
    }

    #[test]
    fn no_route_is_there_twice() {
        for (at, endpoint) in ENDPOINTS.iter().enumerate() {
            let twice = ENDPOINTS[..at]
                .iter()
                .any(|other| (&other.method, other.path) == (&endpoint.method, endpoint.path));
            assert!(!twice, "{} {}", endpoint.method, endpoint.path);
        }
    }
}
