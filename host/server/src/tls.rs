//! TLS for both listeners: a certificate and its key from files, taken anew when they change or on SIGHUP.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::error::Error;

/// How often the files are looked at: whoever renews a certificate does it days before it expires.
const LOOK: Duration = Duration::from_secs(5);

/// The largest file that is read as a certificate or a key: chains have a few kilobytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The protocols that are offered, best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that lead to its root, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// A certificate in use.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

/// What tells that a file is another one than before.
type Stamp = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads the files.
    pub(crate) fn load(files: TlsFiles) -> Result<Arc<Self>, Error> {
        let config = read(&files)?;
        Ok(Arc::new(Self {
            files,
            current: RwLock::new(config),
        }))
    }

    /// What speaks TLS with the certificate of this moment.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(current.clone())
    }

    /// Reads the files again; what cannot be used leaves things as they are.
    fn reload(&self) {
        match read(&self.files) {
            Ok(config) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
                info!(cert = %self.files.cert.display(), "the certificate was read again");
            }
            Err(error) => {
                error!(error = %error.chain(), "the certificate cannot be read again; the one before stays in use");
            }
        }
    }

    fn stamps(&self) -> [Stamp; 2] {
        [&self.files.cert, &self.files.key].map(|path| stamp(path))
    }

    /// Reads the files again whenever they change or a SIGHUP comes, until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => Some(hangup),
            Err(error) => {
                warn!(%error, "SIGHUP cannot be listened to; changes of the certificate are seen all the same");
                None
            }
        };
        let mut seen = self.stamps();
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                () = stop.cancelled() => return,
                () = asked => true,
                () = tokio::time::sleep(LOOK) => self.stamps() != seen,
            };
            if changed {
                seen = self.stamps();
                self.reload();
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |message: String| Error::Tls { path, message }
    };
    let text = pem(&files.cert).map_err(failed(&files.cert))?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| failed(&files.cert)(error.to_string()))?;
    if chain.is_empty() {
        return Err(failed(&files.cert)("it has no certificate in PEM".into()));
    }
    let text = zeroize::Zeroizing::new(pem(&files.key).map_err(failed(&files.key))?);
    let key = PrivateKeyDer::from_pem_slice(&text);
    let key = key.map_err(|error| failed(&files.key)(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&files.cert)(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| failed(&files.cert)(error.to_string()))?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE {
        return Err(format!(
            "it has {length} bytes; at most {MAX_FILE} are read"
        ));
    }
    fs::read(path).map_err(|error| error.to_string())
}
