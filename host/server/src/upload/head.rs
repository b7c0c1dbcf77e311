//! Reading a head: one JSON object or one CBOR map, and nothing behind it.

use serde::de::DeserializeOwned;

/// The major type of a CBOR map: the upper three bits of its first byte (RFC 8949, section 3.1).
const CBOR_MAP: u8 = 5;

/// Reads a head in JSON; the error is a sentence.
pub(crate) fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    // A derived reader takes an array for a structure too, field by field.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err("it is not a JSON object".to_owned());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Reads a head in CBOR; the error is a sentence.
pub(crate) fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.first().is_none_or(|first| first >> 5 != CBOR_MAP) {
        return Err("it is not a CBOR map".to_owned());
    }
    let mut rest = bytes;
    let head = ciborium::from_reader(&mut rest).map_err(|error| error.to_string())?;
    if rest.is_empty() {
        Ok(head)
    } else {
        Err(format!("{} bytes follow it", rest.len()))
    }
}
