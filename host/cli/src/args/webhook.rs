//! The arguments of `cofferdam webhook`.

use clap::{Args, Subcommand};

use super::ClientArgs;
use crate::project::Project;

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Post a project's ends, rollbacks and reverts to a URL; prints the key of the signatures, this once
    #[command(after_help = SET_HELP)]
    Set(WebhookSetArgs),
    /// Show where a project's news go, and what waits to be told
    Show(WebhookArgs),
    /// Tell nobody any more
    Remove(WebhookArgs),
}

const SET_HELP: &str = "\
Each message is JSON: {\"type\": \"deployment.failed\", \"timestamp\": ..., \"data\": {...}}. Its headers are those of \
Standard Webhooks: webhook-id (the same when a message comes twice), webhook-timestamp, and webhook-signature, which is \
`v1,` and the HMAC-SHA256 of `ID.TIMESTAMP.BODY` in base64. The key is what stands behind `whsec_`, in base64.

A message that is not answered with 2xx is sent again with growing pauses, for three days. The receiver has a public \
address, or one that the operator's policy allows (network.allow_ranges).";

#[derive(Debug, Args)]
pub(crate) struct WebhookSetArgs {
    /// The project
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    /// Where to post to, http or https
    #[arg(value_name = "URL")]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WebhookArgs {
    /// The project
    #[arg(value_name = "PROJECT")]
    pub(crate) project: Project,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl WebhookCommand {
    /// Whether standard output is for a script.
    pub(crate) fn json(&self) -> bool {
        match self {
            WebhookCommand::Set(args) => args.json,
            WebhookCommand::Show(args) | WebhookCommand::Remove(args) => args.json,
        }
    }
}
