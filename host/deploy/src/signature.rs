//! Signatures of plugins: minisign's, over the bytes that are admitted.
//!
//! A signature is good when a key that the operator trusts made it over exactly these bytes, in minisign's present
//! form, which hashes first. Signatures of the old form are refused: their key would also have signed anything else
//! that it was given as a hash.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a public key's and a signature's first two bytes are, and a signature's of the form that hashes first.
const ED25519: &[u8; 2] = b"Ed";
const HASHED: &[u8; 2] = b"ED";

/// Bytes of a key's id.
const ID_BYTES: usize = 8;

/// Which signatures plugins must have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignaturePolicy {
    /// Whether a plugin without a good signature is refused. The plugins that come with the host need none: they are
    /// part of it.
    pub required: bool,
    /// minisign's public keys: the base64 line of each, or the whole text of its file.
    pub keys: Vec<String>,
}

/// The keys of a policy, ready to check signatures.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustedKeys {
    required: bool,
    keys: Vec<(String, PublicKey)>,
}

impl TrustedKeys {
    /// Reads the policy's keys.
    pub(crate) fn of(policy: &SignaturePolicy) -> Result<Self, Error> {
        let keys = policy
            .keys
            .iter()
            .map(|text| {
                key(text).ok_or_else(|| Error::SignaturePolicy {
                    message: format!(
                        "{:?} is not a public key of minisign; give the line of 56 characters that minisign.pub ends with",
                        text.chars().take(80).collect::<String>()
                    ),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if policy.required && keys.is_empty() {
            return Err(Error::SignaturePolicy {
                message: "signatures of plugins are required and no key is trusted, so none could be admitted: name \
                          a key"
                    .to_owned(),
            });
        }
        Ok(Self {
            required: policy.required,
            keys,
        })
    }

    /// Checks a plugin's signature, the text of its `.minisig` file. Answers the id of the key that made it, or
    /// nothing for a plugin that is not signed by a trusted key and need not be.
    ///
    /// # Errors
    ///
    /// Why the plugin is refused.
    pub(crate) fn check(
        &self,
        wasm: &[u8],
        signature: Option<&str>,
    ) -> Result<Option<String>, String> {
        let Some(text) = signature else {
            return if self.required {
                Err(format!(
                    "it is not signed, and the operator's policy admits signed plugins only: sign it with `minisign -S` \
                     and give the signature along; trusted are {}",
                    self.trusted()
                ))
            } else {
                Ok(None)
            };
        };
        if self.keys.is_empty() {
            // There is nothing to hold it against.
            return Ok(None);
        }
        let (form, id) = form_and_id(text).ok_or(
            "its signature is not one of minisign: give the whole text of the .minisig file",
        )?;
        let Some((id, key)) = self.keys.iter().find(|(known, _)| *known == id) else {
            return if self.required {
                Err(format!(
                    "it is signed with the key {id}, which the operator does not trust; trusted are {}",
                    self.trusted()
                ))
            } else {
                Ok(None)
            };
        };
        if form == *ED25519 {
            return Err(format!(
                "its signature with the key {id} is of minisign's old form, which does not hash first: sign it anew \
                 with minisign 0.10 or newer, or with `minisign -S -H`"
            ));
        }
        let signature = Signature::decode(text)
            .map_err(|error| format!("its signature cannot be read: {error}"))?;
        key.verify(wasm, &signature, false).map_err(|_| {
            format!(
                "its signature with the key {id} is not good: the bytes or the signature were changed since it was signed"
            )
        })?;
        Ok(Some(id.clone()))
    }

    fn trusted(&self) -> String {
        let ids: Vec<&str> = self.keys.iter().map(|(id, _)| id.as_str()).collect();
        ids.join(", ")
    }
}

/// A key and its id, from the line or the file.
fn key(text: &str) -> Option<(String, PublicKey)> {
    let line = text.lines().rfind(|line| !line.trim().is_empty())?.trim();
    let (form, id) = start_of(line)?;
    if form != *ED25519 && form != *HASHED {
        return None;
    }
    Some((id, PublicKey::from_base64(line).ok()?))
}

/// The form of a signature and the id of its key, unless it is none.
fn form_and_id(text: &str) -> Option<([u8; 2], String)> {
    let (form, id) = start_of(text.lines().nth(1)?.trim())?;
    (form == *ED25519 || form == *HASHED).then_some((form, id))
}

/// What keys and signatures begin with: a form, and a key's id as minisign shows it.
fn start_of(line: &str) -> Option<([u8; 2], String)> {
    let bytes = STANDARD.decode(line).ok()?;
    let (form, rest) = bytes.split_first_chunk::<2>()?;
    let id = u64::from_le_bytes(*rest.first_chunk::<ID_BYTES>()?);
    Some((*form, format!("{id:016X}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use cofferdam_test_guests::signed::{
        KEY, KEY_ID, LEGACY_SIGNATURE, OTHER_KEY, OTHER_SIGNATURE, PROGRAM, SIGNATURE,
    };

    use super::*;

    fn trusting(required: bool, keys: &[&str]) -> TrustedKeys {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        TrustedKeys::of(&SignaturePolicy { required, keys }).unwrap()
    }

    #[test]
    fn a_good_signature_is_known_by_its_key() {
        let keys = trusting(true, &[OTHER_KEY, KEY]);
        let signed_by = keys.check(PROGRAM, Some(SIGNATURE)).unwrap();
        assert_eq!(signed_by.as_deref(), Some(KEY_ID));
        // A key may be given with the comment that its file has.
        let file = format!("untrusted comment: minisign public key {KEY_ID}\n{KEY}\n");
        let keys = trusting(true, &[&file]);
        assert!(keys.check(PROGRAM, Some(SIGNATURE)).unwrap().is_some());
    }

    #[test]
    fn where_signatures_are_required_everything_else_is_refused() {
        let keys = trusting(true, &[KEY]);
        let refusal =
            |wasm: &[u8], signature: Option<&str>| keys.check(wasm, signature).unwrap_err();
        assert!(refusal(PROGRAM, None).contains("not signed"));
        let foreign = refusal(PROGRAM, Some(OTHER_SIGNATURE));
        assert!(
            foreign.contains("does not trust") && foreign.contains(KEY_ID),
            "{foreign}"
        );
        let mut changed = PROGRAM.to_vec();
        changed.extend_from_slice(b"\0\x05\x04more");
        assert!(refusal(&changed, Some(SIGNATURE)).contains("not good"));
        let retold = SIGNATURE.replace("a test program", "another program");
        assert_ne!(retold, SIGNATURE);
        assert!(refusal(PROGRAM, Some(&retold)).contains("not good"));
        assert!(refusal(PROGRAM, Some(LEGACY_SIGNATURE)).contains("old form"));
        for nonsense in ["", "x\ny\nz\n", "\n\n\n\n", "untrusted comment: x\nRUQ=\n"] {
            assert!(
                refusal(PROGRAM, Some(nonsense)).contains("minisign"),
                "{nonsense:?}"
            );
        }
        let cut: String = SIGNATURE.lines().take(2).collect::<Vec<_>>().join("\n");
        assert!(refusal(PROGRAM, Some(&cut)).contains("cannot be read"));
    }

    #[test]
    fn where_none_is_required_a_bad_one_is_refused_all_the_same() {
        let keys = trusting(false, &[KEY]);
        assert_eq!(keys.check(PROGRAM, None), Ok(None));
        assert_eq!(keys.check(PROGRAM, Some(OTHER_SIGNATURE)), Ok(None));
        assert!(keys.check(b"\0asm", Some(SIGNATURE)).is_err());
        assert_eq!(trusting(false, &[]).check(PROGRAM, Some("?")), Ok(None));
    }

    #[test]
    fn a_policy_that_could_admit_nothing_is_refused() {
        let policy = SignaturePolicy {
            required: true,
            keys: Vec::new(),
        };
        assert!(TrustedKeys::of(&policy).is_err());
        let policy = SignaturePolicy {
            required: false,
            keys: vec!["no key".to_owned()],
        };
        assert!(TrustedKeys::of(&policy).is_err());
    }
}
