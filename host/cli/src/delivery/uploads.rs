//! Sending to an upload that is resumed: after a broken connection, and by the next process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

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
            () = stalled(&self.sent) => Ok(Patched::Broken("the connection passes nothing".to_owned())),
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
}

/// Resolves when nothing was taken from here for too long.
async fn stalled(sent: &Sent) {
    let mut seen = sent.bytes();
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = sent.bytes();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > STALL {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
    use std::path::Path;

    use cofferdam_blobs::{ChunkRef, ChunkerParams, Digest};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::super::framed::{Framing, Whole};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_dead_when_nothing_was_taken_for_45_seconds_and_not_before() {
        let began = Instant::now();
        let sent = Sent::default();
        let trickle = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(40)).await;
                sent.add(1);
            }
        };
        tokio::join!(stalled(&sent), trickle);
        let quiet = began
            .elapsed()
            .checked_sub(Duration::from_secs(200))
            .unwrap();
        assert!((45..48).contains(&quiet.as_secs()), "{quiet:?}");
    }

    /// A server that reads whatever comes and never says a word.
    async fn black_hole() -> Uploads {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(1..) = stream.read(&mut buffer).await {}
                });
            }
        });
        Uploads {
            api: Api::new(&url, Some("secret".to_owned()), Path::new("/nowhere")).unwrap(),
            project: "blog".parse().unwrap(),
            sent: Arc::default(),
            patience: Duration::from_secs(60),
        }
    }

    fn content() -> Content<'static> {
        let mut framing = Framing::new(Whole::Read(Box::default())).unwrap();
        let data = b"all that there is";
        let chunk = ChunkRef {
            id: Digest::blake3(data),
            bytes: 17,
        };
        framing.push(chunk, data, Some(&[])).unwrap();
        let framed = framing.finish(&ChunkerParams::default(), "application/x-tar");
        Content::Framed(Arc::new(framed.unwrap()))
    }

    #[tokio::test]
    async fn a_server_that_swallows_everything_is_taken_for_dead_and_given_up_in_time() {
        let uploads = black_hole().await;
        let mut content = content();
        let began = Instant::now();
        let here = Place {
            upload: "0198-aa".to_owned(),
            offset: 0,
            complete: false,
            length: None,
        };
        let bytes = content.bytes();
        let swallowed = async {
            while uploads.sent.bytes() < bytes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // From here on nothing happens any more but that time passes.
            tokio::time::pause();
        };
        let (patched, ()) = tokio::join!(uploads.patch(&mut content, &here), swallowed);
        let Ok(patched) = patched else {
            panic!("a silent server is no failure yet");
        };
        assert_eq!(
            patched,
            Patched::Broken("the connection passes nothing".to_owned())
        );
        let took = began.elapsed();
        assert!((45..55).contains(&took.as_secs()), "{took:?}");
        // Nor does it get more than a minute for making an upload, and the answer that is waited for.
        let began = Instant::now();
        let Err(failure) = uploads.send(&mut content).await.map_err(Failure::from) else {
            panic!("nobody answered");
        };
        assert_eq!(failure.exit_code(), 4);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(150), "{took:?}");
    }
}
