//! The front of a Cofferdam host: the HTTP API that takes packages and tells what becomes of them, and
//! the ingress that serves the releases.
//!
//! A [`Server`] listens on two addresses. Behind the first is the API (DESIGN section 6): every route is
//! one line of a table that names its method, its path and who may use it. A package is handed to
//! [`cofferdam_deploy`] while it arrives; its events come back as server-sent events. Behind the second
//! is the ingress: it looks at a request's `Host`, and answers from the release that the project serves.
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | [`server`](Server) | binds, opens the host, runs both halves, drains, stops |
//! | `connections` | accepts, speaks HTTP/1.1 and HTTP/2, limits, times out and lingers, for both halves |
//! | `tls` | certificates, and reading them again |
//! | `api` | the table of routes, tokens, problems, and one module for each kind of resource |
//! | `metrics` | figures for Prometheus |
//! | `upload` | the three forms in which a package arrives, as one bounded stream |
//! | `trace_parent` | the trace that a request belongs to |
//! | `ingress` | from a host name to a file or a component of a release |
//!
//! # Example
//!
//! ```no_run
//! # async fn example() -> Result<(), cofferdam_server::Error> {
//! use cofferdam_server::{Server, ServerOptions};
//!
//! let server = Server::bind(ServerOptions::new("cofferdam-data")).await?;
//! println!("the API is at http://{}", server.api_addr());
//! server.run(async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await
//! # }
//! ```

mod api;
mod connections;
mod error;
mod ingress;
mod metrics;
mod server;
mod tls;
mod trace_parent;
mod upload;

pub use error::Error;
pub use metrics::traces::TraceFigures;
pub use server::{Server, ServerOptions};
pub use tls::TlsFiles;
pub use upload::body::BodyLimits;
