//! The multipart parser: however a body arrives, its parts or its error are the same, and nothing is kept.
#![no_main]

#[allow(dead_code, unreachable_pub)]
#[path = "."]
mod upload {
    #[path = "../../host/server/src/upload/multipart.rs"]
    pub(crate) mod multipart;
    #[path = "../../host/server/src/upload/parameters.rs"]
    pub(crate) mod parameters;
}

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use upload::multipart::{Boundary, Multipart, Piece};
use upload::parameters::Parameters;

type Parts = Vec<(String, Vec<u8>)>;

fn parse<'a>(boundary: &Boundary, pieces: impl Iterator<Item = &'a [u8]>) -> Result<Parts, String> {
    let mut parser = Multipart::new(boundary);
    let mut parts = Parts::new();
    for piece in pieces {
        parser.push(Bytes::copy_from_slice(piece));
        while let Some(piece) = parser.next().map_err(|error| error.to_string())? {
            match piece {
                Piece::Part(head) => parts.push((head.name, Vec::new())),
                Piece::Data(data) => match parts.last_mut() {
                    Some((_, bytes)) => bytes.extend_from_slice(&data),
                    None => panic!("data before a part"),
                },
            }
        }
    }
    parser.finish().map_err(|error| error.to_string())?;
    Ok(parts)
}

// The first byte says in pieces of how many bytes the rest arrives.
fuzz_target!(|input: &[u8]| {
    let Some((size, body)) = input.split_first() else {
        return;
    };
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if let Some(parameters) = str::from_utf8(line).ok().and_then(Parameters::parse) {
        let _ = Boundary::of(&parameters);
    }
    let parameters = Parameters::parse("multipart/form-data; boundary=XyZ");
    let Some(Ok(boundary)) = parameters.map(|parameters| Boundary::of(&parameters)) else {
        panic!("this is a boundary");
    };
    let whole = parse(&boundary, std::iter::once(body));
    let pieces = parse(&boundary, body.chunks(usize::from(*size).max(1)));
    assert_eq!(whole.is_ok(), pieces.is_ok());
    if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
        let held: usize = whole.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(held < body.len());
        assert_eq!(whole, pieces);
    }
});
