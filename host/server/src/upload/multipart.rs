//! A streaming parser for `multipart/form-data` (RFC 2046, RFC 7578) that costs the same whatever the
//! sender does: linear in its input, with a few kilobytes of memory.
//!
//! It does no input or output: pieces of the body are pushed in, pieces of parts are taken out. What two
//! readers could read differently is refused: a delimiter line with something behind the boundary,
//! folded or repeated headers, bytes after the last delimiter.

use bytes::{Buf as _, Bytes};
use memchr::memmem::Finder;

use super::parameters::{Parameters, is_token};

/// The longest text before the first delimiter. Mail had greetings there; a form has nothing, or an
/// empty line.
const MAX_PREAMBLE: usize = 1024;

/// The longest head of a part, all its headers together.
const MAX_PART_HEAD: usize = 8 * 1024;

/// The most headers of a part. Browsers send two, the rest is custom.
const MAX_PART_HEADERS: usize = 16;

/// The longest white space behind a boundary (RFC 2046 calls it transport padding).
const MAX_PADDING: usize = 64;

/// The longest boundary (RFC 2046, section 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// Why a body is not a form that can be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MultipartError {
    #[error("the content type has no valid boundary; it is 1 to 70 characters of RFC 2046")]
    Boundary,
    #[error("there is no delimiter within the first {} bytes", MAX_PREAMBLE)]
    Preamble,
    #[error("a line begins with the boundary and goes on with something else")]
    Delimiter,
    #[error(
        "a part has more than {} bytes or {} lines of headers",
        MAX_PART_HEAD,
        MAX_PART_HEADERS
    )]
    HeadTooLarge,
    #[error("a header of a part is malformed: {0}")]
    Header(&'static str),
    #[error("bytes follow the last delimiter")]
    Trailing,
    #[error("the body ends before its last delimiter")]
    Truncated,
}

/// What separates the parts of one body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boundary(String);

impl Boundary {
    /// Takes the boundary out of a content type.
    pub(crate) fn of(content_type: &Parameters) -> Result<Self, MultipartError> {
        let boundary = content_type
            .get("boundary")
            .ok_or(MultipartError::Boundary)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
        let fits = (1..=MAX_BOUNDARY).contains(&boundary.len());
        if fits && boundary.bytes().all(allowed) && !boundary.ends_with(' ') {
            Ok(Self(boundary.to_owned()))
        } else {
            Err(MultipartError::Boundary)
        }
    }
}

/// The head of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartHead {
    /// The `name` of its disposition.
    pub(crate) name: String,
    /// Its content type without parameters, in lower case.
    pub(crate) content_type: Option<String>,
}

/// Something that the parser found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A part begins; the one before it, if there was one, is complete.
    Part(PartHead),
    /// Some bytes of the part, never none.
    Data(Bytes),
}

/// The parser.
pub(crate) struct Multipart {
    /// CR LF, two hyphens, the boundary. A carriage return occurs in it at the front alone, which is why
    /// a search that failed never has to look back.
    delimiter: Vec<u8>,
    finder: Finder<'static>,
    /// What was pushed and not looked at yet.
    input: Bytes,
    /// The line or part head that is being collected.
    collected: Vec<u8>,
    state: State,
}

enum State {
    /// Before the first delimiter; so much has been skipped, and so much of a delimiter has been seen.
    Preamble { skipped: usize, matched: usize },
    /// Behind a boundary, collecting the rest of its line.
    Delimiter,
    /// Collecting a part's headers, of which the last line begins at `line`.
    Head { line: usize },
    /// In a part; the input so far ended with so many bytes of a delimiter.
    Data { matched: usize },
    /// Behind the last boundary.
    Epilogue,
}

/// What a search for the delimiter came to.
enum Found {
    /// These bytes belong to the part, or to the preamble.
    Data(Bytes),
    /// The delimiter was there and is consumed.
    Delimiter,
    /// The input is used up; its last bytes were so many of a delimiter's.
    Partial(usize),
}

impl Multipart {
    /// A parser for a body with this boundary.
    pub(crate) fn new(boundary: &Boundary) -> Self {
        let delimiter = format!("\r\n--{}", boundary.0).into_bytes();
        Self {
            finder: Finder::new(&delimiter).into_owned(),
            delimiter,
            input: Bytes::new(),
            collected: Vec::new(),
            // The first delimiter needs no line end before it: it is as if one had been there.
            state: State::Preamble {
                skipped: 0,
                matched: 2,
            },
        }
    }

    /// Gives the parser the next bytes of the body, once [`next`](Self::next) has no more.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        debug_assert!(
            self.input.is_empty(),
            "take every piece before the next push"
        );
        self.input = bytes;
    }

    /// The next piece; nothing when the parser needs more of the body.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, MultipartError> {
        while !self.input.is_empty() {
            match self.state {
                State::Preamble { skipped, matched } => {
                    self.state = match self.search(matched) {
                        Found::Delimiter => State::Delimiter,
                        Found::Partial(matched) => State::Preamble { skipped, matched },
                        Found::Data(data) if skipped + data.len() > MAX_PREAMBLE => {
                            return Err(MultipartError::Preamble);
                        }
                        Found::Data(data) => State::Preamble {
                            skipped: skipped + data.len(),
                            matched: 0,
                        },
                    };
                }
                State::Data { matched } => match self.search(matched) {
                    Found::Delimiter => self.state = State::Delimiter,
                    Found::Partial(matched) => self.state = State::Data { matched },
                    Found::Data(data) => {
                        self.state = State::Data { matched: 0 };
                        return Ok(Some(Piece::Data(data)));
                    }
                },
                State::Delimiter => self.delimiter_line()?,
                State::Head { line } => {
                    if let Some(head) = self.part_head(line)? {
                        return Ok(Some(Piece::Part(head)));
                    }
                }
                State::Epilogue => self.epilogue()?,
            }
        }
        Ok(None)
    }

    /// Says whether the body, which has ended, was whole.
    pub(crate) fn finish(&self) -> Result<(), MultipartError> {
        let padding = |byte: &u8| matches!(byte, b' ' | b'\t');
        let line = self
            .collected
            .strip_suffix(b"\r\n")
            .unwrap_or(&self.collected);
        match self.state {
            State::Epilogue if line.iter().all(padding) => Ok(()),
            State::Epilogue => Err(MultipartError::Trailing),
            _ => Err(MultipartError::Truncated),
        }
    }

    /// Looks for the delimiter, of which `matched` bytes have been seen at the end of the last input.
    fn search(&mut self, matched: usize) -> Found {
        if matched > 0 {
            let wanted = &self.delimiter[matched..];
            let same = wanted
                .iter()
                .zip(&self.input)
                .take_while(|(a, b)| a == b)
                .count();
            self.input.advance(same);
            return if same == wanted.len() {
                Found::Delimiter
            } else if self.input.is_empty() {
                Found::Partial(matched + same)
            } else {
                Found::Data(Bytes::copy_from_slice(&self.delimiter[..matched + same]))
            };
        }
        if let Some(at) = self.finder.find(&self.input) {
            if at > 0 {
                // Found again at once by the next call: nothing is read twice but the delimiter.
                return Found::Data(self.input.split_to(at));
            }
            self.input.advance(self.delimiter.len());
            return Found::Delimiter;
        }
        let tail = self.input.len().saturating_sub(self.delimiter.len() - 1);
        let start = memchr::memrchr(b'\r', &self.input[tail..])
            .map(|at| tail + at)
            .filter(|at| self.delimiter.starts_with(&self.input[*at..]));
        match start {
            None => Found::Data(std::mem::take(&mut self.input)),
            Some(0) => Found::Partial(std::mem::take(&mut self.input).len()),
            Some(at) => Found::Data(self.input.split_to(at)),
        }
    }

    /// Collects the rest of a delimiter's line: padding and a line end, or two hyphens.
    fn delimiter_line(&mut self) -> Result<(), MultipartError> {
        self.collected.push(self.input.get_u8());
        match self.collected.as_slice() {
            b"-" => {}
            b"--" => {
                self.collected.clear();
                self.state = State::Epilogue;
            }
            [padding @ .., b'\r', b'\n'] if is_padding(padding) => {
                self.collected.clear();
                self.state = State::Head { line: 0 };
            }
            [padding @ .., b'\r'] | padding if is_padding(padding) => {}
            _ => return Err(MultipartError::Delimiter),
        }
        Ok(())
    }

    /// Collects the headers of a part, and reads them once the empty line has come.
    fn part_head(&mut self, line: usize) -> Result<Option<PartHead>, MultipartError> {
        let end = memchr::memchr(b'\n', &self.input);
        let taken = end.map_or(self.input.len(), |at| at + 1);
        if self.collected.len() + taken > MAX_PART_HEAD {
            return Err(MultipartError::HeadTooLarge);
        }
        self.collected
            .extend_from_slice(&self.input.split_to(taken));
        if end.is_none() {
            return Ok(None);
        }
        match &self.collected[line..] {
            b"\r\n" => {
                let head = parse_head(&self.collected[..line])?;
                self.collected.clear();
                self.state = State::Data { matched: 0 };
                Ok(Some(head))
            }
            [.., b'\r', b'\n'] => {
                self.state = State::Head {
                    line: self.collected.len(),
                };
                Ok(None)
            }
            _ => Err(MultipartError::Header("a line does not end with CR LF")),
        }
    }

    /// Behind the last delimiter: padding and one line end, and nothing more.
    fn epilogue(&mut self) -> Result<(), MultipartError> {
        self.collected.push(self.input.get_u8());
        match self.collected.as_slice() {
            [padding @ .., b'\r', b'\n'] | [padding @ .., b'\r'] | padding
                if is_padding(padding) =>
            {
                Ok(())
            }
            _ => Err(MultipartError::Trailing),
        }
    }
}

fn is_padding(line: &[u8]) -> bool {
    line.len() <= MAX_PADDING && line.iter().all(|byte| matches!(byte, b' ' | b'\t'))
}

/// Reads the headers of a part: every line ends with CR LF.
fn parse_head(head: &[u8]) -> Result<PartHead, MultipartError> {
    use MultipartError::Header;
    let head = std::str::from_utf8(head).map_err(|_| Header("it is not UTF-8"))?;
    let mut disposition = None;
    let mut content_type = None;
    for (count, line) in head.split_terminator("\r\n").enumerate() {
        if count == MAX_PART_HEADERS {
            return Err(MultipartError::HeadTooLarge);
        }
        let (name, value) = line.split_once(':').ok_or(Header("it has no colon"))?;
        if !is_token(name) {
            return Err(Header(
                "its name is not a token, or it is folded over two lines",
            ));
        }
        let value = value.trim_matches([' ', '\t']);
        if value
            .bytes()
            .any(|byte| byte.is_ascii_control() && byte != b'\t')
        {
            return Err(Header("it holds a control character"));
        }
        let slot = match name.to_ascii_lowercase().as_str() {
            "content-disposition" => &mut disposition,
            "content-type" => &mut content_type,
            "content-transfer-encoding" => match value.to_ascii_lowercase().as_str() {
                "binary" | "8bit" | "7bit" => continue,
                _ => {
                    return Err(Header(
                        "parts are sent as they are, without a transfer encoding",
                    ));
                }
            },
            _ => continue,
        };
        let value = Parameters::parse(value).ok_or(Header("its parameters do not parse"))?;
        if slot.replace(value).is_some() {
            return Err(Header("it is there twice"));
        }
    }
    let disposition = disposition.ok_or(Header("there is no Content-Disposition"))?;
    if disposition.value != "form-data" {
        return Err(Header("the disposition is not form-data"));
    }
    let name = disposition
        .get("name")
        .ok_or(Header("the disposition has no name"))?;
    Ok(PartHead {
        name: name.to_owned(),
        content_type: content_type.map(|found| found.value),
    })
}

#[cfg(test)]
mod tests;
