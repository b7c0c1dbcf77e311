//! Sealing: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha), whose nonces are long enough to be random.
//!
//! A sealed value is the version of this format in one byte, the nonce, and the ciphertext with its tag. The project
//! and the name are authenticated with it, so that no row can be put in the place of another.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::key::Key;
use crate::error::Error;
use crate::name::{ProjectName, SecretName};

/// The version of the format.
const FORMAT: u8 = 1;

/// Bytes of a nonce.
const NONCE_BYTES: usize = 24;

/// What is authenticated beside the value. Neither name can contain the byte between them.
fn context(project: &ProjectName, name: &SecretName) -> Vec<u8> {
    format!("cofferdam secret\0{project}\0{name}").into_bytes()
}

pub(super) fn seal(
    key: &Key,
    project: &ProjectName,
    name: &SecretName,
    value: &[u8],
) -> Result<Vec<u8>, Error> {
    seal_in(key, &context(project, name), value)
}

/// Seals a value that can be opened in the same context alone.
pub(super) fn seal_in(key: &Key, context: &[u8], value: &[u8]) -> Result<Vec<u8>, Error> {
    let failed = |source: std::io::Error| Error::Io {
        action: "seal a secret".to_owned(),
        source,
    };
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|error| failed(std::io::Error::other(error)))?;
    let payload = Payload {
        msg: value,
        aad: context,
    };
    let ciphertext = XChaCha20Poly1305::new((&**key).into())
        .encrypt(&XNonce::from(nonce), payload)
        .map_err(|_| failed(std::io::Error::other("it is too long for the cipher")))?;
    let mut sealed = vec![FORMAT];
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

/// The value. Whoever takes it sees to it that it is wiped.
pub(super) fn open(
    key: &Key,
    project: &ProjectName,
    name: &SecretName,
    sealed: &[u8],
) -> Result<Vec<u8>, Error> {
    open_in(key, &context(project, name), sealed).ok_or_else(|| Error::SecretsUnavailable {
        message: format!(
            "secret {name} of project {project} was sealed under another key than the present secrets.key, or is \
             damaged: put the right key back, or set the secret anew"
        ),
    })
}

/// Opens what was sealed in this context; nothing, if it was not, or under another key.
pub(super) fn open_in(key: &Key, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    sealed
        .strip_prefix(&[FORMAT])
        .and_then(|rest| rest.split_first_chunk::<NONCE_BYTES>())
        .and_then(|(nonce, ciphertext)| {
            let payload = Payload {
                msg: ciphertext,
                aad: context,
            };
            XChaCha20Poly1305::new((&**key).into())
                .decrypt(&XNonce::from(*nonce), payload)
                .ok()
        })
}
