//! Digests as people write them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::exit::Failure;

/// What a file's bytes must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    hex: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Blake3,
    Sha256,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Algorithm::Blake3 => "blake3",
            Algorithm::Sha256 => "sha256",
        }
    }

    fn of(self, bytes: &[u8]) -> String {
        match self {
            Algorithm::Blake3 => blake3::hash(bytes).to_hex().to_string(),
            Algorithm::Sha256 => hex(&Sha256::digest(bytes)),
        }
    }
}

impl Digest {
    /// Whether it is a SHA-256, which registries name things by.
    pub(super) fn is_sha256(&self) -> bool {
        self.algorithm == Algorithm::Sha256
    }

    /// Refuses bytes that have another digest.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<(), Failure> {
        let found = self.algorithm.of(bytes);
        if found == self.hex {
            return Ok(());
        }
        Err(Failure::Refused {
            code: Some("digest_mismatch".to_owned()),
            message: format!(
                "what came has the digest {}:{found}, and it was to be {self}",
                self.algorithm.name()
            ),
        })
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Digest, String> {
        let algorithm = match text.split_once(':') {
            Some(("blake3", _)) => Some(Algorithm::Blake3),
            Some(("sha256", _)) => Some(Algorithm::Sha256),
            _ => None,
        };
        let digest = algorithm.and_then(|algorithm| {
            let hex = text.split_once(':')?.1.to_ascii_lowercase();
            (hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .then_some(Digest { algorithm, hex })
        });
        digest.ok_or_else(|| {
            format!("{text:?} is not a digest: blake3: or sha256: and 64 hexadecimal digits")
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_digest_knows_its_bytes_and_no_others() {
        // SHA-256 of nothing, from its specification's examples.
        let empty = "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
        let empty: Digest = empty.parse().unwrap();
        assert!(empty.check(b"").is_ok());
        let refusal = empty.check(b"x").unwrap_err();
        assert!(
            refusal.to_string().contains(&empty.to_string()),
            "{refusal}"
        );
        let own: Digest = format!("blake3:{}", blake3::hash(b"x")).parse().unwrap();
        assert!(own.check(b"x").is_ok() && own.check(b"y").is_err());
        for bad in ["", "md5:00", "blake3:", "sha256:zz", "e3b0c442"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
