//! A streaming reader of `{"head": {...}, "package_base64": "..."}`, and of `{"upload": "...", "head": {...}}`.
//!
//! The package is decoded while it arrives, so that a hundred such uploads at a time cost a hundred
//! small buffers. That is why `head`, when there is one, comes first. Like the multipart parser it does
//! no input or output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Buf as _, Bytes};

use super::MAX_HEAD;

/// The longest key. Longer ones are not ours.
const MAX_KEY: usize = 32;

/// The longest name of an upload: a UUID, however it is written.
const MAX_UPLOAD: usize = 45;

/// The most white space between the tokens of the document, all of it together.
const MAX_SPACE: usize = 64 * 1024;

/// Why a body is not a document that can be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("it is not JSON: {expected} is missing")]
    Syntax { expected: &'static str },
    #[error("{0:?} is not a field of it; they are head, and package_base64 or upload")]
    UnknownField(String),
    #[error("{0} is there twice")]
    Repeated(&'static str),
    #[error("head has to come before package_base64")]
    HeadTooLate,
    #[error("the head is longer than {} bytes", MAX_HEAD)]
    HeadTooLarge,
    #[error("package_base64 is not base64 (RFC 4648, the standard alphabet)")]
    Base64,
    #[error("upload is not the name of one, or stands beside a package")]
    Upload,
    #[error("there is more white space in it than content")]
    Space,
    #[error("package_base64, or upload, is missing")]
    NoPackage,
    #[error("it ends early")]
    Truncated,
}

/// Something that the reader found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The head, as JSON text.
    Head(Vec<u8>),
    /// The package begins.
    Package,
    /// The upload that is the package.
    Upload(String),
    /// Some bytes of the package, never none.
    Data(Bytes),
}

/// The reader.
pub(crate) struct Document {
    input: Bytes,
    state: State,
    collected: Vec<u8>,
    space: usize,
    seen_head: bool,
    seen_package: bool,
    seen_upload: bool,
    package: Base64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Head,
    Package,
    Upload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the object.
    Start,
    /// A key; the object may end here when it has no field yet.
    Key {
        may_end: bool,
    },
    /// In a key.
    KeyText,
    Colon(Field),
    Value(Field),
    /// In the head, so many brackets deep.
    Head {
        depth: usize,
        string: InString,
    },
    Null,
    /// In the upload's string.
    Upload,
    /// In the package's string.
    Package,
    /// Behind a backslash in the package's string.
    Escape,
    /// In `\uXXXX`.
    Unicode,
    /// Behind a value.
    Comma,
    /// Behind the object.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InString {
    No,
    Yes,
    Escaped,
}

impl Document {
    /// A reader at the start of a body.
    pub(crate) fn new() -> Self {
        Self {
            input: Bytes::new(),
            state: State::Start,
            collected: Vec::new(),
            space: 0,
            seen_head: false,
            seen_package: false,
            seen_upload: false,
            package: Base64::default(),
        }
    }

    /// Gives the reader the next bytes of the body, once [`next`](Self::next) has no more.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        debug_assert!(
            self.input.is_empty(),
            "take every piece before the next push"
        );
        self.input = bytes;
    }

    /// The next piece; nothing when the reader needs more of the body.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, DocumentError> {
        while !self.input.is_empty() {
            let found = match self.state {
                State::Package => self.package_text()?,
                State::Head { depth, string } => self.head_text(depth, string)?,
                _ => self.token()?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Says whether the body, which has ended, was whole.
    pub(crate) fn finish(&self) -> Result<(), DocumentError> {
        match self.state {
            State::End if self.seen_package || self.seen_upload => Ok(()),
            State::End => Err(DocumentError::NoPackage),
            _ => Err(DocumentError::Truncated),
        }
    }

    /// Everything but the two values: one byte at a time, there are few of them.
    fn token(&mut self) -> Result<Option<Piece>, DocumentError> {
        let byte = self.input[0];
        let between = !matches!(
            self.state,
            State::KeyText | State::Null | State::Upload | State::Escape | State::Unicode
        );
        if between && matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            self.input.advance(1);
            self.space += 1;
            return if self.space > MAX_SPACE {
                Err(DocumentError::Space)
            } else {
                Ok(None)
            };
        }
        self.state = match (self.state, byte) {
            (State::Start, b'{') => State::Key { may_end: true },
            (State::Key { may_end: true } | State::Comma, b'}') => State::End,
            (State::Key { .. }, b'"') => State::KeyText,
            (State::KeyText, b'"') => self.key()?,
            (State::KeyText, _) if self.collected.len() < MAX_KEY => {
                self.collected.push(byte);
                State::KeyText
            }
            (State::Colon(field), b':') => State::Value(field),
            (State::Value(Field::Head), b'{') => State::Head {
                depth: 0,
                string: InString::No,
            },
            (State::Value(Field::Head), b'n') | (State::Null, _) => return self.null(),
            (State::Value(Field::Package), b'"') => {
                self.input.advance(1);
                self.seen_package = true;
                self.state = State::Package;
                return Ok(Some(Piece::Package));
            }
            (State::Value(Field::Upload), b'"') => State::Upload,
            (State::Upload, b'"') => {
                self.input.advance(1);
                self.state = State::Comma;
                let name = String::from_utf8(std::mem::take(&mut self.collected));
                return name
                    .map(|name| Some(Piece::Upload(name)))
                    .map_err(|_| DocumentError::Upload);
            }
            (State::Upload, _) if self.collected.len() < MAX_UPLOAD && byte != b'\\' => {
                self.collected.push(byte);
                State::Upload
            }
            (State::Upload, _) => return Err(DocumentError::Upload),
            (State::Comma, b',') => State::Key { may_end: false },
            (State::Escape | State::Unicode, _) => self.escape(byte)?,
            (state, _) => {
                return Err(DocumentError::Syntax {
                    expected: state.expected(),
                });
            }
        };
        // The bracket that opens the head is part of it.
        if !matches!(self.state, State::Head { .. }) {
            self.input.advance(1);
        }
        Ok(None)
    }

    fn key(&mut self) -> Result<State, DocumentError> {
        let field = match self.collected.as_slice() {
            b"head" if self.seen_head => return Err(DocumentError::Repeated("head")),
            b"head" if self.seen_package => return Err(DocumentError::HeadTooLate),
            b"head" => Field::Head,
            b"upload" if self.seen_upload => return Err(DocumentError::Repeated("upload")),
            b"upload" if self.seen_package => return Err(DocumentError::Upload),
            b"upload" => Field::Upload,
            b"package_base64" if self.seen_upload => return Err(DocumentError::Upload),
            b"package_base64" if self.seen_package => {
                return Err(DocumentError::Repeated("package_base64"));
            }
            b"package_base64" => Field::Package,
            other => {
                let name = String::from_utf8_lossy(other).into_owned();
                return Err(DocumentError::UnknownField(name));
            }
        };
        self.seen_head |= field == Field::Head;
        self.seen_upload |= field == Field::Upload;
        self.collected.clear();
        Ok(State::Colon(field))
    }

    /// Collects `null`, which stands for no head.
    fn null(&mut self) -> Result<Option<Piece>, DocumentError> {
        self.state = State::Null;
        self.collected.push(self.input.get_u8());
        if !b"null".starts_with(&self.collected) {
            return Err(DocumentError::Syntax {
                expected: "an object as head",
            });
        }
        if self.collected.len() == b"null".len() {
            self.collected.clear();
            self.state = State::Comma;
        }
        Ok(None)
    }

    /// Collects the head up to its last bracket. Whether it is valid is for its own parser to say.
    fn head_text(
        &mut self,
        mut depth: usize,
        mut string: InString,
    ) -> Result<Option<Piece>, DocumentError> {
        let mut taken = 0;
        let mut complete = false;
        for byte in &self.input {
            taken += 1;
            match (string, *byte) {
                (InString::Escaped, _) => string = InString::Yes,
                (InString::Yes, b'\\') => string = InString::Escaped,
                (InString::Yes, b'"') => string = InString::No,
                (InString::No, b'"') => string = InString::Yes,
                (InString::No, b'{' | b'[') => depth += 1,
                (InString::No, b'}' | b']') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                complete = true;
                break;
            }
        }
        if self.collected.len() + taken > MAX_HEAD {
            return Err(DocumentError::HeadTooLarge);
        }
        self.collected
            .extend_from_slice(&self.input.split_to(taken));
        if complete {
            self.state = State::Comma;
            return Ok(Some(Piece::Head(std::mem::take(&mut self.collected))));
        }
        self.state = State::Head { depth, string };
        Ok(None)
    }

    /// Decodes the package up to its closing quote or the next escape.
    fn package_text(&mut self) -> Result<Option<Piece>, DocumentError> {
        let end = memchr::memchr2(b'"', b'\\', &self.input);
        let text = self.input.split_to(end.unwrap_or(self.input.len()));
        let mut data = self.package.decode(&text)?;
        if end.is_some() {
            if self.input.get_u8() == b'"' {
                data.extend(self.package.finish()?);
                self.state = State::Comma;
            } else {
                self.state = State::Escape;
            }
        }
        Ok((!data.is_empty()).then(|| Piece::Data(data.into())))
    }

    /// The escapes that base64 meets in the wild: PHP writes `\/`, some write `\u003d` for `=`, and a
    /// wrapped text holds `\r\n`.
    fn escape(&mut self, byte: u8) -> Result<State, DocumentError> {
        if self.state == State::Escape {
            return match byte {
                b'/' => self.package.one(b'/').map(|()| State::Package),
                b'n' | b'r' => Ok(State::Package),
                b'u' => Ok(State::Unicode),
                _ => Err(DocumentError::Base64),
            };
        }
        self.collected.push(byte);
        if self.collected.len() < 4 {
            return Ok(State::Unicode);
        }
        let code = std::str::from_utf8(&self.collected).ok();
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        self.collected.clear();
        self.package.one(code.ok_or(DocumentError::Base64)?)?;
        Ok(State::Package)
    }
}

impl State {
    fn expected(self) -> &'static str {
        match self {
            Self::Start => "an object",
            Self::Key { .. } | Self::KeyText => "a key in quotes",
            Self::Colon(_) => "a colon",
            Self::Value(Field::Head) => "an object as head",
            Self::Value(Field::Package) => "a string as package_base64",
            Self::Value(Field::Upload) => "a string as upload",
            Self::Comma => "a comma or the end of the object",
            _ => "the end of the body",
        }
    }
}

/// A decoder of base64 that is given its text in pieces.
#[derive(Default)]
struct Base64 {
    /// Up to three letters that do not make a group yet.
    group: Vec<u8>,
    padding: usize,
}

impl Base64 {
    fn one(&mut self, letter: u8) -> Result<(), DocumentError> {
        // A group that this letter completes is decoded with the next piece.
        if letter == b'=' {
            self.padding += 1;
        } else if self.padding > 0 {
            return Err(DocumentError::Base64);
        } else {
            self.group.push(letter);
        }
        Ok(())
    }

    fn decode(&mut self, text: &[u8]) -> Result<Vec<u8>, DocumentError> {
        let letters = text.len() - text.iter().rev().take_while(|byte| **byte == b'=').count();
        let (letters, padding) = text.split_at(letters);
        if self.padding > 0 && !letters.is_empty() {
            return Err(DocumentError::Base64);
        }
        self.padding += padding.len();
        let mut data = Vec::with_capacity((self.group.len() + letters.len()) / 4 * 3 + 3);
        let missing = self.group.len().next_multiple_of(4) - self.group.len();
        let (first, letters) = letters.split_at(missing.min(letters.len()));
        self.group.extend_from_slice(first);
        if self.group.len().is_multiple_of(4) {
            append(&std::mem::take(&mut self.group), &mut data)?;
        }
        let (groups, rest) = letters.split_at(letters.len() / 4 * 4);
        append(groups, &mut data)?;
        self.group.extend_from_slice(rest);
        Ok(data)
    }

    fn finish(&mut self) -> Result<Vec<u8>, DocumentError> {
        let padded = (self.group.len() + self.padding).is_multiple_of(4);
        if self.padding > 2 || (self.padding > 0 && !padded) {
            return Err(DocumentError::Base64);
        }
        let last = std::mem::take(&mut self.group);
        STANDARD_NO_PAD
            .decode(last)
            .map_err(|_| DocumentError::Base64)
    }
}

/// Decodes whole groups. Padding in them would be padding in the middle.
fn append(groups: &[u8], data: &mut Vec<u8>) -> Result<(), DocumentError> {
    STANDARD_NO_PAD
        .decode_vec(groups, data)
        .map_err(|_| DocumentError::Base64)
}

#[cfg(test)]
mod tests;
