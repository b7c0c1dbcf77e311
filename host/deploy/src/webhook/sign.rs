//! The signature of a message: HMAC-SHA256 (RFC 2104) over its id, its time and its body, in the form of Standard
//! Webhooks (standardwebhooks.com), for which receivers find libraries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// The value of `webhook-signature`.
pub(super) fn signature(key: &[u8], id: &str, at_seconds: i64, body: &[u8]) -> String {
    let head = format!("{id}.{at_seconds}.");
    let code = hmac(key, &[head.as_bytes(), body]);
    format!("v1,{}", STANDARD.encode(code))
}

fn hmac(key: &[u8], message: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut inner = Sha256::new();
    inner.update(block.map(|byte| byte ^ 0x36));
    for part in message {
        inner.update(part);
    }
    let mut outer = Sha256::new();
    outer.update(block.map(|byte| byte ^ 0x5c));
    outer.update(inner.finalize());
    outer.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_codes_are_those_of_rfc_4231() {
        let cases: [(&[u8], &[u8], &str); 3] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, message, code) in cases {
            assert_eq!(hex(&hmac(key, &[message])), code);
        }
    }

    #[test]
    fn a_signature_is_of_id_time_and_body() {
        let signed = |id, at, body: &[u8]| signature(b"key", id, at, body);
        let one = signed("a", 1, b"body");
        assert!(one.starts_with("v1,"));
        assert_eq!(one, signed("a", 1, b"body"));
        for other in [
            signed("b", 1, b"body"),
            signed("a", 2, b"body"),
            signed("a", 1, b"Body"),
        ] {
            assert_ne!(one, other);
        }
    }
}
