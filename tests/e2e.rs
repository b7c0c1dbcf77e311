//! The real binary, on real ports, with real packages and real plugins.
//!
//! | module | what it proves |
//! |---|---|
//! | `server` | starts and stops the binary and talks to it; used by all others |
//! | `package` | makes packages of every format |
//! | `activating` | readiness, swaps under load, drains, reverts |
//! | `deploying` | every way in: directory, archive, raw body, multipart, base64, two projects at once |
//! | `exporting` | traces that a collector receives, and collectors that are of no use |
//! | `failing` | every way in which a step can fail, and the code it gets |
//! | `escaping` | archives and guests that try to leave |
//! | `isolating` | steps in processes of their own: killed, orphaned, without Landlock |
//! | `granting` | secrets and hosts of services, under the policy |
//! | `authority` | an encrypted host with an authority of its own; used by others |
//! | `networking` | a granted host reached from a worker, and no other |
//! | `reaching` | what steps and services reach of each other's caches, of frozen releases and of the host |
//! | `releasing` | rollback, history, retention, sharing, teardown, repair |
//! | `reproducing` | the same release from two servers |
//! | `secrets` | a secret that a step says in every way, and that is seen nowhere |
//! | `policy` | ceilings, refusals with their line, and caches |
//! | `uploading` | packages sent without what the server has, and over links that break |
//! | `telling` | reasons with what to do, webhooks, whole projects followed, exit codes |
//! | `watching` | events joined late, resumed, and left |
//! | `queueing` | one deployment of a project at a time: queue, lease, keys, holds, the cap on steps |
//! | `cancelling` | what is cancelled has stopped when that is acknowledged |
//! | `crashing` | clients that go away |
//! | `recovering` | a server that is killed at every boundary of the journal, and goes on where it can |
//! | `storing` | a store whose server is killed again and again, and one that is damaged: checked, repaired, reindexed |
//! | `reclaiming` | quotas, room that stays free, and room that is given back |
//! | `authoring` | a new plugin, its tests, its fixtures |
//! | `plugins` | plugins from files, URLs and registries: shown, signed, removed, cleaned up after |
//! | `serving` | tokens, TLS, and thousands of silent connections |
//! | `tutorial` | docs/writing-plugins.md, done as it says |
//! | `examples` | the examples, as their READMEs say |
//! | `backing_up` | a running server backed up and restored elsewhere |
//! | `bounding` | a large package in little memory |

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "e2e/activating.rs"]
mod activating;
#[path = "e2e/authoring.rs"]
mod authoring;
#[path = "e2e/authority.rs"]
mod authority;
#[path = "e2e/backing_up.rs"]
mod backing_up;
#[path = "e2e/bounding.rs"]
mod bounding;
#[path = "e2e/cancelling.rs"]
mod cancelling;
#[path = "e2e/crashing.rs"]
mod crashing;
#[path = "e2e/deploying.rs"]
mod deploying;
#[path = "e2e/escaping.rs"]
mod escaping;
#[path = "e2e/examples.rs"]
mod examples;
#[path = "e2e/exporting.rs"]
mod exporting;
#[path = "e2e/failing.rs"]
mod failing;
#[path = "e2e/granting.rs"]
mod granting;
#[path = "e2e/isolating.rs"]
mod isolating;
#[path = "e2e/networking.rs"]
mod networking;
#[path = "e2e/package.rs"]
mod package;
#[path = "e2e/plugins.rs"]
mod plugins;
#[path = "e2e/policy.rs"]
mod policy;
#[path = "e2e/queueing.rs"]
mod queueing;
#[path = "e2e/reaching.rs"]
mod reaching;
#[path = "e2e/reclaiming.rs"]
mod reclaiming;
#[path = "e2e/recovering.rs"]
mod recovering;
#[path = "e2e/releasing.rs"]
mod releasing;
#[path = "e2e/reproducing.rs"]
mod reproducing;
#[path = "e2e/secrets.rs"]
mod secrets;
#[path = "e2e/server.rs"]
mod server;
#[path = "e2e/serving.rs"]
mod serving;
#[path = "e2e/storing.rs"]
mod storing;
#[path = "e2e/telling.rs"]
mod telling;
#[path = "e2e/tutorial.rs"]
mod tutorial;
#[path = "e2e/uploading.rs"]
mod uploading;
#[path = "e2e/watching.rs"]
mod watching;
