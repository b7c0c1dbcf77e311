//! Sending to an upload that is resumed: after a broken connection, and by the next process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::framed::Framed;
use super::patience::Patience;
use super::state::State;
use crate::api::Api;
use crate::api::resume::{Patched, Place};
use crate::api::upload::Sent;
use crate::exit::Failure;
use crate::package::{self, Package, Prepared, Wanted};
use crate::project::Project;

/// How long a connection may pass no byte in either direction before it is taken for dead. The server needs a while
/// of this to make the last pack durable.
const STALL: Duration = Duration::from_secs(45);

/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is sent to an upload.
pub(super) enum Content<'a> {
    /// The package as it is; its digest, once it was read to its end.
    Plain {
        prepared: &'a mut Prepared,
        digest: Option<String>,
    },
    /// A list of chunks and frames.
    Framed(Arc<Framed>),
}

impl Content<'_> {
    fn bytes(&self) -> u64 {
        match self {
            Content::Plain { prepared, .. } => prepared.bytes.unwrap_or_default(),
            Content::Framed(framed) => framed.bytes(),
        }
    }

    fn media_type(&self) -> &'static str {
        match self {
            Content::Plain { prepared, .. } => prepared.media_type,
            Content::Framed(_) => super::framed::MEDIA_TYPE,
        }
    }

    fn fingerprint(&self) -> String {
        match self {
            Content::Plain { prepared, .. } => prepared.fingerprint(),
            Content::Framed(framed) => framed.fingerprint().to_owned(),
        }
    }

    /// What is sent, from this byte on; and where its digest will be, when it is read to its end.
    async fn open(
        &mut self,
        from: u64,
    ) -> Result<(Package, Option<oneshot::Receiver<String>>), package::Error> {
        match self {
            Content::Plain { prepared, .. } => {
                let (tell, digest) = oneshot::channel();
                let wanted = Wanted {
                    skip: from,
                    digest: Some(tell),
                };
                Ok((prepared.open(wanted).await?, Some(digest)))
            }
            Content::Framed(framed) => Ok((framed.package(from)?, None)),
        }
    }
}

/// Why an upload came to nothing.
pub(super) enum Error {
    /// The package cannot be read.
    Package(package::Error),
    Failure(Failure),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Failure(failure)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Package(error) => error.into(),
            Error::Failure(failure) => failure,
        }
    }
}

/// An upload of which the server has everything.
pub(super) struct Complete {
    upload: String,
    state: State,
}

impl Complete {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.upload
    }

    /// Forgets it here: the server has answered what becomes of it.
    pub(super) fn forget(self) {
        self.state.remove();
    }
}

/// Sends to uploads of one project.
pub(super) struct Uploads {
    pub(super) api: Api,
    pub(super) project: Project,
    pub(super) sent: Arc<Sent>,
    /// How long it is tried in vain.
    pub(super) patience: Duration,
}

impl Uploads {
    /// Sends everything, however often the connection breaks, and returns the complete upload.
    ///
    /// # Errors
    ///
    /// The server's refusal, the package's own failure, or that the server has been out of reach for too long.
    pub(super) async fn send(&self, content: &mut Content<'_>) -> Result<Complete, Error> {
        let length = content.bytes();
        let state = self.state(&content.fingerprint());
        self.sent.total(length);
        let mut known = state.read();
        let mut place: Option<Place> = None;
        let mut patience = Patience::new(self.patience);
        loop {
            let here = match (place.take(), &known) {
                (Some(place), _) => Ok(Some(place)),
                (None, Some(upload)) => self.api.place(upload).await,
                (None, None) => {
                    let media_type = content.media_type();
                    let made = self
                        .api
                        .create_upload(&self.project, length, media_type)
                        .await;
                    made.map(Some)
                }
            };
            let here = match here {
                Ok(Some(here)) if here.length.is_none_or(|known| known == length) => here,
                // It has expired, or was another one's: begin anew.
                Ok(_) => {
                    known = None;
                    state.remove();
                    patience.wait_or("the server forgets its uploads").await?;
                    continue;
                }
                Err(Failure::Unreachable(why)) => {
                    patience.wait_or(&why).await?;
                    continue;
                }
                Err(Failure::Busy { message, after }) => {
                    patience.wait_for(after, &message).await?;
                    continue;
                }
                Err(failure) => return Err(failure.into()),
            };
            if known.as_deref() != Some(&here.upload) {
                state.write(&here.upload);
                known = Some(here.upload.clone());
            }
            self.sent.resume(here.offset);
            patience.reached(here.offset);
            if here.complete {
                return Ok(self.complete(here.upload, state));
            }
            match self.patch(content, &here).await? {
                Patched::Complete => return Ok(self.complete(here.upload, state)),
                Patched::At(offset) => {
                    place = Some(Place { offset, ..here });
                    patience.wait_or("the server takes nothing").await?;
                }
                Patched::Elsewhere => {
                    patience
                        .wait_or("the server does not say where to go on")
                        .await?;
                }
                Patched::Busy(why, after) => {
                    patience.wait_for(after, &why).await?;
                }
                Patched::Broken(why) => {
                    self.sent.broke();
                    patience.wait_or(&why).await?;
                }
            }
        }
    }

    /// Whether an upload of what has this fingerprint was begun before.
    pub(super) fn has_begun(&self, fingerprint: &str) -> bool {
        self.state(fingerprint).read().is_some()
    }

    /// Whether the server has all of such an upload, and has not made a deployment of it.
    pub(super) async fn is_complete(&self, fingerprint: &str) -> bool {
        let Some(upload) = self.state(fingerprint).read() else {
            return false;
        };
        // Whatever is the matter, there are other ways.
        matches!(self.api.place(&upload).await, Ok(Some(place)) if place.complete)
    }

    fn state(&self, fingerprint: &str) -> State {
        State::of(self.api.url(), self.project.as_str(), fingerprint)
    }

    fn complete(&self, upload: String, state: State) -> Complete {
        self.sent.end();
        Complete { upload, state }
    }

    /// Sends the rest, unless the connection stalls.
    async fn patch(&self, content: &mut Content<'_>, here: &Place) -> Result<Patched, Error> {
        let (package, digest) = content.open(here.offset).await.map_err(Error::Package)?;
        let left = content.bytes().saturating_sub(here.offset);
        let patch = self
            .api
            .patch(&here.upload, here.offset, left, package, &self.sent);
        let patched = tokio::select! {
            patched = patch => patched,
            () = self.stalled() => Ok(Patched::Broken("the connection passes nothing".to_owned())),
        };
        let patched = match patched {
            Ok(patched) => patched,
            Err(failure) => {
                return Err(match self.sent.take_package_failure() {
                    Some(error) => Error::Package(error),
                    None => Error::Failure(failure),
                });
            }
        };
        if let (Patched::Broken(_), Some(error)) = (&patched, self.sent.take_package_failure()) {
            return Err(Error::Package(error));
        }
        if let (Patched::Complete, Content::Plain { digest: known, .. }, Some(digest)) =
            (&patched, content, digest)
        {
            *known = digest.await.ok();
        }
        Ok(patched)
    }

    /// Resolves when nothing was taken from here for too long.
    async fn stalled(&self) {
        let mut seen = self.sent.bytes();
        let mut since = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.sent.bytes();
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > STALL {
                return;
            }
        }
    }
}
