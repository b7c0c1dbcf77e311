//! TLS as a client: the system's roots, or one file of them, and ring for the arithmetic.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::exit::{Failure, plain};

/// Makes ring what every TLS client of this process uses, also those that are built without being told.
pub(crate) fn install_provider() {
    // An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// How to speak TLS: believing the certificates in `ca` and no others, else the system's roots.
///
/// # Errors
///
/// [`Failure::Usage`] when the file cannot be read or has no certificate.
pub(crate) fn client(ca: Option<&Path>) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let shown = path.display();
            let text = std::fs::read(path).map_err(|error| {
                Failure::Usage(format!("cannot read {shown}: {}", plain(&error)))
            })?;
            for certificate in CertificateDer::pem_slice_iter(&text) {
                certificate
                    .map_err(|error| error.to_string())
                    .and_then(|found| roots.add(found).map_err(|error| error.to_string()))
                    .map_err(|error| {
                        Failure::Usage(format!(
                            "{shown} has a certificate that cannot be used: {error}"
                        ))
                    })?;
            }
            if roots.is_empty() {
                return Err(Failure::Usage(format!("{shown} has no certificate in PEM")));
            }
        }
        None => {
            // What one system cannot read of its own roots is no reason to refuse the rest.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Machine(anyhow::Error::new(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
