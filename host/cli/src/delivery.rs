//! A package's way to the server: whole, or without what the server has; in one request, or so that a broken
//! connection costs little.
//!
//! What is small, and what can be read only once, goes in one request as it is. Of anything else the server is asked
//! which chunks the project holds ([`cut`]), and what it misses goes as a list and frames ([`framed`]), unless that
//! would be most of the package. What is then still large goes to an upload first ([`uploads`]), which is resumed
//! after a break, by this process or by the next ([`state`]).
//!
//! Of a directory that was sent before is [remembered](memory) what it was like, and of what the server still has only the
//! files that [changed](unchanged) since are read.
//!
//! What broke in one request goes to an upload the next time, the same bytes. Nothing here has to be known beforehand,
//! and whatever the server says no to is tried in a plainer way: a chunk that it forgot or that did not arrive as it was
//! is sent whole, a server without these routes gets the package as it is.

mod cut;
mod framed;
mod memory;
mod patience;
mod recipe;
mod state;
mod unchanged;
mod uploads;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cofferdam_blobs::Digest;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::api::Api;
use crate::api::upload::{Answer, Sent, random_name};
use crate::exit::Failure;
use crate::pack::Plan;
use crate::package::{self, Package, Prepared, Source, Wanted};
use crate::project::Project;
use framed::Framed;
use memory::Memory;
use patience::Patience;
pub(crate) use patience::{FIRST_WAIT, LONGEST_WAIT};
use unchanged::Known;

/// A package of up to this many bytes goes in one request as it is: asking first would take about as long as
/// sending it over a slow link.
const DIRECT_BYTES: u64 = 1024 * 1024;

/// What has more bytes than this goes to an upload that can be resumed. Below, the server keeps nothing of a broken
/// upload that would not have to be sent again anyway: it is as much as one of its packs.
const RESUMABLE_BYTES: u64 = 64 * 1024 * 1024;

/// How often a package whose files change while they are read is read again.
const READS: usize = 3;

/// How often the chunks that are missing are asked for, when the server has forgotten some in between.
const QUESTIONS: usize = 2;

/// How long a server may be out of reach, or take no byte, before an upload is given up. What it has stays there, and
/// the next run goes on with it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is sent, and where to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) project: &'a Project,
    pub(crate) head: &'a Value,
    /// What the request is called, when it may be sent again.
    pub(crate) key: Option<&'a str>,
    pub(crate) source: &'a Source,
    pub(crate) compress: bool,
    pub(crate) recall: Recall,
    pub(crate) limits: Limits,
}

/// What is made of what is remembered of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recall {
    /// Files that look as they did are not read.
    Trust,
    /// Every file is read, and what it is like remembered for the next time.
    Renew,
    /// The server will not be there a next time.
    Never,
}

/// When a package is sent in which way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// What is longer goes to an upload that can be resumed.
    pub(crate) resumable_bytes: u64,
    /// How long it is tried in vain.
    pub(crate) patience: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            resumable_bytes: RESUMABLE_BYTES,
            patience: PATIENCE,
        }
    }
}

/// A package that is to be delivered.
pub(crate) struct Delivery<'a> {
    api: &'a Api,
    order: Order<'a>,
    prepared: Prepared,
    sent: Arc<Sent>,
    /// What the server was found to miss, for the next attempt.
    framed: Option<Arc<Framed>>,
    /// What the request with that is called when its user has no name for it: of two such requests, one becomes a
    /// deployment.
    own_key: String,
    sending: Sending,
    /// The upload that a deployment has begun with: until its package is recorded, it may be there to be deployed again.
    deployed: Mutex<Option<uploads::Complete>>,
}

/// How the last attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// In one request without a name: once all of it was sent, nobody knows whether it has begun.
    Nameless,
    /// In one request that may be repeated.
    Named,
    /// To an upload, which is tried for as long as anybody is patient.
    Upload,
}

/// How a package is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Whatever is best.
    Best,
    /// The same as the last time, in a way that survives a broken connection.
    Resumed,
    /// In such a way too, and leaning on nothing that the server says it has.
    Whole,
}

impl<'a> Delivery<'a> {
    /// Looks at the package.
    ///
    /// # Errors
    ///
    /// Whatever makes the package impossible before its first byte.
    pub(crate) async fn new(
        api: &'a Api,
        order: Order<'a>,
        sent: &Arc<Sent>,
    ) -> Result<Delivery<'a>, Failure> {
        Ok(Delivery {
            api,
            order,
            prepared: Prepared::of(order.source, order.compress).await?,
            sent: Arc::clone(sent),
            framed: None,
            own_key: random_name(),
            sending: Sending::Nameless,
            deployed: Mutex::new(None),
        })
    }

    /// How many files the package has, and how many bytes, as far as that is known.
    pub(crate) fn size(&self) -> (Option<u64>, Option<u64>) {
        (self.prepared.files, self.prepared.bytes)
    }

    /// Whether it can be sent again.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.prepared.is_repeatable()
    }

    /// Whether the attempt that broke may be followed by another.
    pub(crate) fn may_go_on(&self) -> bool {
        match self.sending {
            Sending::Nameless => self.sent.bytes() > 0 && !self.sent.complete(),
            Sending::Named => self.sent.bytes() > 0,
            Sending::Upload => false,
        }
    }

    /// Sends the package, and returns as soon as the server begins to answer.
    ///
    /// # Errors
    ///
    /// The server's refusal, the package's own failure, or that the server cannot be reached for too long.
    pub(crate) async fn send(&mut self, way: Way, answer: Answer) -> Result<Response, Failure> {
        self.sent.restart();
        self.sending = Sending::Nameless;
        let large = self
            .prepared
            .bytes
            .filter(|bytes| self.prepared.is_repeatable() && *bytes > DIRECT_BYTES);
        let Some(bytes) = large else {
            return self.plainly(answer).await;
        };
        if way == Way::Resumed
            && let Some(framed) = self.framed.clone()
        {
            // The name that the broken request had: of the two, one becomes a deployment.
            let key = Some(self.own_key.clone());
            match self.frames_in_pieces(framed, key, answer).await {
                // What it leans on is gone by now; or the server knows no uploads.
                Err(Failure::Refused { code, .. })
                    if is_forgotten(code.as_deref()) || is_unknown(code.as_deref()) =>
                {
                    self.sent.restart();
                }
                other => return other,
            }
        }
        // All of it may be there, and only the request that deploys it be missing.
        let fingerprint = self.prepared.fingerprint();
        let is_there = way == Way::Best && self.uploads().is_complete(&fingerprint).await;
        let asks = way == Way::Best && !is_there;
        let mut new_server = !asks;
        for question in 0..QUESTIONS {
            if !asks {
                break;
            }
            let framed = match self.ask(question == 0).await? {
                Asked::OldServer => break,
                Asked::NothingHeld => {
                    new_server = true;
                    break;
                }
                Asked::Framed(framed) => Arc::new(framed),
            };
            self.framed = Some(Arc::clone(&framed));
            self.own_key = random_name();
            match self.in_frames(framed, answer).await {
                // The server has forgotten what it said it had.
                Err(Failure::Refused { code, .. }) if is_forgotten(code.as_deref()) => {
                    new_server = true;
                    self.sent.restart();
                }
                other => return other,
            }
        }
        self.framed = None;
        let is_long = bytes > self.order.limits.resumable_bytes;
        if new_server && (is_long || !asks) {
            match self.in_pieces(answer).await {
                // A server that knows no uploads; or one that will say better what it does not know.
                Err(Failure::Refused { code, .. }) if is_unknown(code.as_deref()) => {
                    self.sent.restart();
                }
                other => return other,
            }
        }
        self.plainly(answer).await
    }

    /// The package as it is, in one request.
    async fn plainly(&mut self, answer: Answer) -> Result<Response, Failure> {
        self.sending = Sending::Nameless;
        let mut patience = self.question();
        loop {
            let package = self.prepared.open(Wanted::default()).await?;
            let (head, key) = (self.order.head, self.order.key);
            match self.in_one_request(head, key, package, answer).await {
                Err(Failure::Busy { message, after }) if self.is_repeatable() => {
                    patience.wait_for(after, &message).await?;
                }
                other => return other,
            }
        }
    }

    async fn in_one_request(
        &self,
        head: &Value,
        key: Option<&str>,
        package: Package,
        answer: Answer,
    ) -> Result<Response, Failure> {
        self.sent.resume(0);
        self.api
            .deploy(self.order.project, head, key, package, answer, &self.sent)
            .await
    }

    /// Finds out what has to be sent; `remembering` what the package was like before, or by reading all of it.
    async fn ask(&mut self, remembering: bool) -> Result<Asked, Failure> {
        let first = self
            .question()
            .until_answered(|| self.api.missing(self.order.project, Bytes::new()))
            .await?;
        let Some(first) = first else {
            return Ok(Asked::OldServer);
        };
        if !first.held {
            return Ok(Asked::NothingHeld);
        }
        let mut chunker = first.chunker;
        let mut reads = 0;
        loop {
            let cut = cut::Cut {
                api: self.api,
                project: self.order.project,
                chunker: &chunker,
                sent: &self.sent,
                patience: self.order.limits.patience,
            };
            let known = if remembering && self.order.recall == Recall::Trust && reads == 0 {
                self.known().await
            } else {
                None
            };
            let outcome = match known {
                Some(known) => cut.run_changed(known, self.prepared.media_type).await,
                None => cut.run(&mut self.prepared).await,
            };
            match outcome {
                Ok(cut::Outcome::Framed(framed)) => return Ok(Asked::Framed(framed)),
                Ok(cut::Outcome::NotWorthwhile) => return Ok(Asked::NothingHeld),
                Ok(cut::Outcome::OtherChunker(other)) if reads < READS => chunker = other,
                Ok(cut::Outcome::OtherChunker(_)) => return Ok(Asked::NothingHeld),
                Err(cut::Error::Package(error)) if is_change(&error) && reads + 1 < READS => {
                    self.prepared = Prepared::of(self.order.source, self.order.compress).await?;
                }
                Err(cut::Error::Package(error)) => return Err(error.into()),
                Err(cut::Error::Failure(failure)) => return Err(failure),
            }
            reads += 1;
        }
    }

    /// What is known of the package without reading it, if it was sent before and the server still has what it was.
    async fn known(&self) -> Option<Known> {
        let plan = Arc::clone(self.prepared.plan()?);
        let memory = self.place(&plan).read()?;
        let package = Digest::from(memory.package).to_string();
        // Whatever is wrong with the list, the package can be read.
        let list = self
            .question()
            .until_answered(|| self.api.chunk_list(self.order.project, &package))
            .await;
        Known::new(plan, &memory, list.ok()??)
    }

    fn question(&self) -> Patience {
        Patience::for_a_question(self.order.limits.patience)
    }

    /// Remembers what was sent: the package with this BLAKE3.
    pub(crate) fn remember(&self, package: &str) {
        if let Some(upload) = self.deployed().take() {
            upload.forget();
        }
        if self.order.recall != Recall::Never
            && let Some(plan) = self.prepared.plan()
            && plan.tar_bytes > DIRECT_BYTES
            && let Ok(package) = package.parse::<Digest>()
        {
            let memory = Memory::of(plan, *package.as_bytes());
            self.place(plan).write(&memory);
        }
    }

    fn deployed(&self) -> MutexGuard<'_, Option<uploads::Complete>> {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, plan: &Plan) -> memory::Place {
        let project = self.order.project.as_str();
        memory::Place::of(self.api.url(), project, plan.root())
    }

    /// A list of chunks, and those that are missing.
    async fn in_frames(
        &mut self,
        framed: Arc<Framed>,
        answer: Answer,
    ) -> Result<Response, Failure> {
        let is_long = framed.bytes() > self.order.limits.resumable_bytes;
        if is_long || self.uploads().has_begun(framed.fingerprint()) {
            return self.frames_in_pieces(framed, None, answer).await;
        }
        self.sending = Sending::Named;
        self.sent.plan(framed.bytes(), framed.spared());
        let head = self.head_of(&framed);
        let key = self.order.key.unwrap_or(&self.own_key);
        let sent = async || {
            let package = framed.package(0)?;
            self.in_one_request(&head, Some(key), package, answer).await
        };
        let mut patience = self.question();
        loop {
            match sent().await {
                Err(Failure::Busy { message, after }) => {
                    patience.wait_for(after, &message).await?;
                }
                other => return other,
            }
        }
    }

    /// The same, to an upload first; under the upload's name, unless there is another.
    async fn frames_in_pieces(
        &mut self,
        framed: Arc<Framed>,
        key: Option<String>,
        answer: Answer,
    ) -> Result<Response, Failure> {
        self.sending = Sending::Upload;
        self.sent.plan(framed.bytes(), framed.spared());
        let head = self.head_of(&framed);
        let mut content = uploads::Content::Framed(framed);
        let upload = self.uploads().send(&mut content).await?;
        let name = upload.name().to_owned();
        let key = self.order.key.or(key.as_deref()).unwrap_or(&name);
        let deployed = self.deploy_upload(upload, key, &head, answer).await;
        if let Err(Failure::Refused { code, .. }) = &deployed
            && is_forgotten(code.as_deref())
        {
            // It leans on what is gone, and counts against the quota of what is sent instead.
            self.api.forget_upload(&name).await;
        }
        deployed
    }

    /// The head that goes with these frames.
    fn head_of(&self, framed: &Framed) -> Value {
        match framed.digest() {
            Some(digest) => with_digest(self.order.head, digest),
            None => self.order.head.clone(),
        }
    }

    /// The package as it is, to an upload first.
    async fn in_pieces(&mut self, answer: Answer) -> Result<Response, Failure> {
        self.sending = Sending::Upload;
        let mut reads = 0;
        loop {
            reads += 1;
            self.sent.restart();
            let uploads = self.uploads();
            let mut content = uploads::Content::Plain {
                prepared: &mut self.prepared,
                digest: None,
            };
            let sent = uploads.send(&mut content).await;
            let digest = match content {
                uploads::Content::Plain { digest, .. } => digest,
                uploads::Content::Framed(_) => None,
            };
            let again = reads < READS;
            let upload = match sent {
                Err(uploads::Error::Package(error)) if is_change(&error) && again => {
                    self.prepared = Prepared::of(self.order.source, self.order.compress).await?;
                    continue;
                }
                other => other?,
            };
            let digest = match digest {
                Some(digest) => digest,
                // Another process sent all of it.
                None => self.digest().await?,
            };
            let head = with_digest(self.order.head, &digest);
            let name = upload.name().to_owned();
            let key = self.order.key.unwrap_or(&name);
            match self.deploy_upload(upload, key, &head, answer).await {
                // What an earlier attempt sent was another state of the files.
                Err(Failure::Refused { code, .. })
                    if code.as_deref() == Some("digest_mismatch") && again => {}
                other => return other,
            }
        }
    }

    /// The BLAKE3 of the package, by reading it.
    async fn digest(&mut self) -> Result<String, Failure> {
        let (tell, digest) = oneshot::channel();
        let wanted = Wanted {
            skip: u64::MAX,
            digest: Some(tell),
        };
        let mut package = self.prepared.open(wanted).await?;
        while let Some(part) = package.parts.recv().await {
            part?;
        }
        digest
            .await
            .map_err(|_| Failure::Machine(anyhow::anyhow!("the package's reader stopped")))
    }

    fn uploads(&self) -> uploads::Uploads {
        uploads::Uploads {
            api: self.api.clone(),
            project: self.order.project.clone(),
            sent: Arc::clone(&self.sent),
            patience: self.order.limits.patience,
        }
    }

    /// Makes a deployment of a complete upload. The request is small and has a key, so it is sent again when its
    /// answer does not come. Until its package is recorded the upload is remembered: it need not be sent by the next
    /// process either.
    async fn deploy_upload(
        &self,
        upload: uploads::Complete,
        key: &str,
        head: &Value,
        answer: Answer,
    ) -> Result<Response, Failure> {
        let (api, project) = (self.api, self.order.project);
        let deployed = Patience::new(self.order.limits.patience)
            .until_answered(|| api.deploy_upload(project, head, key, upload.name(), answer))
            .await;
        match &deployed {
            Err(Failure::Unreachable(_)) => {}
            // It stays whole, and the room that it wants can be made.
            Err(Failure::Refused { code, .. }) if code.as_deref() == Some("storage_full") => {}
            Err(_) => upload.forget(),
            Ok(_) => *self.deployed() = Some(upload),
        }
        deployed
    }
}

/// What the server says before anything is sent.
enum Asked {
    /// Nothing: it does not know the question.
    OldServer,
    /// That too little is held for the rest to be worth sending in frames.
    NothingHeld,
    /// What is missing, ready to be sent.
    Framed(Framed),
}

/// The head with the digest that the package has here, unless somebody has said already which it must have.
fn with_digest(head: &Value, blake3: &str) -> Value {
    let mut head = head.clone();
    if let Some(head) = head.as_object_mut() {
        let digest = head.entry("digest").or_insert_with(|| json!({}));
        if let Some(digest) = digest.as_object_mut()
            && !digest.contains_key("blake3")
        {
            digest.insert("blake3".to_owned(), json!(blake3));
        }
    }
    head
}

fn is_forgotten(code: Option<&str>) -> bool {
    code == Some("chunks_missing")
}

/// Whether a refusal may be that of a server which does not know the route.
fn is_unknown(code: Option<&str>) -> bool {
    matches!(code, Some("not_found" | "method_not_allowed"))
}

fn is_change(error: &package::Error) -> bool {
    matches!(
        error,
        package::Error::Pack(crate::pack::Error::Changed { .. })
    )
}
