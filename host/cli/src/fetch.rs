//! Where a plugin's bytes come from: a file, a URL or a registry.
//!
//! What comes over a network is bounded, and held against a digest before anything is done with it: the one that the
//! person gave, or in a registry the one that names the blob.
//!
//! - `digest`: `blake3:` and `sha256:` digests
//! - `web`: one bounded download
//! - `oci`: the small part of a registry's interface that pulls one file

mod digest;
mod oci;
mod web;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

use crate::exit::{Failure, plain};

pub(crate) use digest::Digest;
pub(crate) use oci::Reference;

/// The most bytes of a component: what a server takes.
const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// The most bytes of a signature's file; minisign's have three hundred.
const MAX_SIGNATURE_BYTES: u64 = 4096;

/// Where a plugin's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file on this machine.
    File(PathBuf),
    /// A file on a web server.
    Web(Url),
    /// A file in a registry.
    Oci(Reference),
}

/// A plugin's bytes, and its signature if there is one.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) wasm: Vec<u8>,
    pub(crate) signature: Option<Vec<u8>>,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Source, String> {
        match text.split_once("://") {
            Some(("oci", reference)) => Ok(Source::Oci(reference.parse()?)),
            Some(("http", _)) => match Url::parse(text) {
                Ok(url) if url.has_host() => Ok(Source::Web(url)),
                _ => Err(format!("{text:?} is not a URL")),
            },
            Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Err(format!(
                    "{text:?} asks for {scheme}, and a plugin comes from a file, http:// or oci://; fetch it with \
                     another program and add the file"
                ))
            }
            _ => Ok(Source::File(PathBuf::from(text))),
        }
    }
}

impl Source {
    /// Fetches the bytes, and the signature in `signature` or beside a file.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] for a file that cannot be read and for a URL without a digest, [`Failure::Unreachable`] for
    /// a server that does not give it, and a refusal for bytes that are not the ones that were named.
    pub(crate) async fn fetch(
        &self,
        digest: Option<&Digest>,
        signature: Option<&Path>,
    ) -> Result<Fetched, Failure> {
        let wasm = match self {
            Source::File(path) => read(path, MAX_COMPONENT_BYTES).await?,
            Source::Web(url) => {
                if digest.is_none() {
                    return Err(Failure::Usage(
                        "what comes from a URL is taken by its digest alone: give --digest blake3:HEX or sha256:HEX"
                            .to_owned(),
                    ));
                }
                web::download(url).await?
            }
            Source::Oci(reference) => oci::pull(reference).await?,
        };
        if let Some(digest) = digest {
            digest.check(&wasm)?;
        }
        let signature = match (signature, self) {
            (Some(path), _) => Some(read(path, MAX_SIGNATURE_BYTES).await?),
            (None, Source::File(path)) => beside(path).await?,
            (None, _) => None,
        };
        Ok(Fetched { wasm, signature })
    }
}

/// The signature that lies beside a file, if one does.
async fn beside(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    let path = PathBuf::from(name);
    if tokio::fs::try_exists(&path).await.unwrap_or(false) {
        read(&path, MAX_SIGNATURE_BYTES).await.map(Some)
    } else {
        Ok(None)
    }
}

async fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    use tokio::io::AsyncReadExt as _;

    let refused = |why: String| Failure::Usage(format!("cannot read {}: {why}", path.display()));
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|error| refused(plain(&error)))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| refused(plain(&error)))?;
    if bytes.len() as u64 > limit {
        return Err(refused(format!(
            "it has more than the {limit} bytes that are taken"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_source_is_a_file_unless_it_names_a_scheme() {
        let source = |text: &str| text.parse::<Source>();
        assert_eq!(source("a/b.wasm"), Ok(Source::File("a/b.wasm".into())));
        assert_eq!(source("./a:b"), Ok(Source::File("./a:b".into())));
        assert!(matches!(
            source("http://example.org/a.wasm"),
            Ok(Source::Web(_))
        ));
        assert!(matches!(
            source("oci://localhost:5000/a:1"),
            Ok(Source::Oci(_))
        ));
        assert!(source("ftp://example.org/a").unwrap_err().contains("ftp"));
        assert!(source("http://").is_err());
        assert!(source("oci://").is_err());
    }

    #[tokio::test]
    async fn a_signature_beside_a_file_goes_along_and_too_large_a_file_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.wasm");
        std::fs::write(&path, "wasm").unwrap();
        let source = Source::File(path.clone());
        assert!(source.fetch(None, None).await.unwrap().signature.is_none());
        std::fs::write(directory.path().join("a.wasm.minisig"), "signature").unwrap();
        let fetched = source.fetch(None, None).await.unwrap();
        assert_eq!(fetched.signature.as_deref(), Some(&b"signature"[..]));
        let other = directory.path().join("other");
        std::fs::write(&other, "another").unwrap();
        let fetched = source.fetch(None, Some(&other)).await.unwrap();
        assert_eq!(fetched.signature.as_deref(), Some(&b"another"[..]));
        std::fs::write(&other, vec![0; 5000]).unwrap();
        assert!(source.fetch(None, Some(&other)).await.is_err());
        let digest = "blake3:00".parse::<Digest>();
        assert!(digest.is_err());
    }
}
