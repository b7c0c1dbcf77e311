//! The forms in which a secret is printed.

use zeroize::Zeroizing;

use super::{LONG_FORM, LONG_WINDOW, SHORT_WINDOW};

/// Bytes of a secret in one form, wiped when they are dropped.
type Form = Zeroizing<Vec<u8>>;

/// The two alphabets of base64 (RFC 4648, sections 4 and 5).
const BASE64: [&[u8; 64]; 2] = [
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
];

/// Digits of hex, lower and upper case.
const HEX: [&[u8; 16]; 2] = [b"0123456789abcdef", b"0123456789ABCDEF"];

/// What is left as it is in a URL, beside letters and digits, and whether a space becomes a `+`.
const PERCENT: [(&[u8], bool); 6] = [
    // RFC 3986.
    (b"-_.~", false),
    // `encodeURIComponent`.
    (b"-_.!~*'()", false),
    // HTML forms.
    (b"*-._", true),
    // Where the separators of a path stay, or all that a URL has.
    (b"-_.~/", false),
    (b"-_.!~*'();/?:@&=+$,#", false),
    // The most careful.
    (b"", false),
];

/// What is escaped in JSON without need: nothing, by some the slash, by others what means something in HTML.
const ESCAPED: [&[u8]; 4] = [b"", b"/", b"<>&", b"<>&='"];

/// The lines of a secret.
pub(super) fn lines(secret: &[u8]) -> impl Iterator<Item = &[u8]> {
    secret.split(|byte| matches!(byte, b'\n' | b'\r'))
}

/// A secret in one form.
pub(super) struct Shape<'a> {
    /// What it looks like.
    pub(super) form: &'a [u8],
    /// How long the windows of this form are.
    pub(super) window: usize,
    /// Which bytes differ from another form that was told before, when it was: windows without such a byte are windows
    /// of that one. Most forms of most secrets are nearly the same.
    pub(super) new: Option<&'a [bool]>,
}

/// The length from which on nothing is to be found in a trimmed secret that is not in the whole, but its very end.
const LONG: usize = 64;

/// Bytes of that end: their base64 has more characters than any window.
const END: usize = 24;

/// Calls back with every form of a secret.
pub(super) fn each(secret: &[u8], mut told: impl FnMut(&Shape<'_>)) {
    let mut whole = |form: &[u8], new: Option<&[bool]>| {
        let window = match form.len() {
            LONG_FORM.. => LONG_WINDOW,
            SHORT_WINDOW.. => SHORT_WINDOW,
            _ => return,
        };
        told(&Shape { form, window, new });
    };
    encodings(secret, &mut whole);
    // Programs trim the line end that a file brought along, and that changes the end of every base64.
    let trimmed = secret.trim_ascii();
    if trimmed.len() < secret.len() {
        if trimmed.len() < LONG {
            encodings(trimmed, &mut whole);
        } else {
            let end = &trimmed[(trimmed.len() - END) / 3 * 3..];
            for alphabet in BASE64 {
                whole(&base64(end, alphabet), None);
            }
        }
    }
    for line in lines(secret) {
        let Some(window) = line_window(secret, line) else {
            continue;
        };
        told(&Shape {
            form: line,
            window,
            new: None,
        });
    }
}

/// How long the windows of a secret's line are: as those of the whole, unless it is too short for them.
pub(super) fn line_window(secret: &[u8], line: &[u8]) -> Option<usize> {
    match line.len() {
        LONG_WINDOW.. if secret.len() >= LONG_FORM => Some(LONG_WINDOW),
        SHORT_WINDOW.. => Some(SHORT_WINDOW),
        _ => None,
    }
}

/// Calls back with every form of a secret that has no line ends in it.
fn encodings(secret: &[u8], form: &mut impl FnMut(&[u8], Option<&[bool]>)) {
    if secret.len() < SHORT_WINDOW {
        return;
    }
    for (number, alphabet) in BASE64.into_iter().enumerate() {
        let forms = [
            base64(secret, alphabet),
            base64_within(secret, 1, alphabet),
            base64_within(secret, 2, alphabet),
        ];
        for text in forms {
            // The alphabets share all characters but these.
            let own = |character: &u8| alphabet[62..].contains(character);
            let new: Vec<bool> = text.iter().map(own).collect();
            form(&text, (number > 0).then_some(&new));
        }
    }
    for (number, digits) in HEX.into_iter().enumerate() {
        let text = hex(secret, digits);
        let new: Vec<bool> = text.iter().map(u8::is_ascii_alphabetic).collect();
        form(&text, (number > 0).then_some(&new));
        let (usual, usual_plus) = PERCENT[0];
        for (kind, (kept, plus)) in PERCENT.into_iter().enumerate() {
            let mut text = Marked::for_bytes(secret.len() * 3);
            for byte in secret {
                let changed = match kind {
                    0 => has_letters(*byte) && !is_kept(*byte, kept),
                    _ => {
                        is_kept(*byte, kept) != is_kept(*byte, usual)
                            || (*byte == b' ' && plus != usual_plus)
                    }
                };
                text.add(changed, |out| percent(*byte, kept, plus, digits, out));
            }
            form(&text.form, (kind + number > 0).then_some(&text.new));
        }
    }
    // What is not UTF-8 has no form in JSON but with replacement characters, which is also how it is shown.
    let source = Zeroizing::new(String::from_utf8_lossy(secret).into_owned());
    for ascii in [false, true] {
        for (number, digits) in HEX.into_iter().enumerate() {
            for (kind, escaped) in ESCAPED.into_iter().enumerate() {
                let mut text = Marked::for_bytes(source.len() * 2);
                for character in source.chars() {
                    let changed = match (kind, number) {
                        (0, 0) => !character.is_ascii(),
                        (0, _) => {
                            character < ' ' && has_letters(u32::from(character).to_le_bytes()[0])
                                || !character.is_ascii()
                        }
                        _ => is_one_of(character, escaped),
                    };
                    text.add(changed, |out| json(character, escaped, ascii, digits, out));
                }
                let is_first = (kind, number, ascii) == (0, 0, false);
                form(&text.form, (!is_first).then_some(&text.new));
            }
        }
    }
}

/// A form, and which of its bytes are not as in another.
struct Marked {
    form: Form,
    new: Vec<bool>,
}

impl Marked {
    fn for_bytes(bytes: usize) -> Self {
        Self {
            form: Form::new(Vec::with_capacity(bytes)),
            new: Vec::with_capacity(bytes),
        }
    }

    fn add(&mut self, changed: bool, push: impl FnOnce(&mut Vec<u8>)) {
        push(&mut self.form);
        self.new.resize(self.form.len(), changed);
    }
}

/// Whether the hex digits of a byte depend on the case.
fn has_letters(byte: u8) -> bool {
    byte >> 4 > 9 || byte & 15 > 9
}

fn is_kept(byte: u8, kept: &[u8]) -> bool {
    byte.is_ascii_alphanumeric() || kept.contains(&byte)
}

fn is_one_of(character: char, bytes: &[u8]) -> bool {
    u8::try_from(character).is_ok_and(|byte| bytes.contains(&byte))
}

/// The whole secret in base64, padded: windows of it are found without the padding too.
fn base64(secret: &[u8], alphabet: &[u8; 64]) -> Form {
    let mut out = Form::new(Vec::with_capacity(secret.len().div_ceil(3) * 4));
    for group in secret.chunks(3) {
        let bits = group.iter().enumerate().fold(0_u32, |bits, (at, byte)| {
            bits | u32::from(*byte) << (16 - 8 * at)
        });
        for at in 0..4 {
            let sextet = bits >> (18 - 6 * at) & 63;
            out.push(if at <= group.len() {
                alphabet[sextet as usize]
            } else {
                b'='
            });
        }
    }
    out
}

/// The characters that a secret determines alone when it stands `before` bytes behind a multiple of three in a longer
/// text. The one at either end that it shares with its neighbours, and with it 2 to 4 bits, is not among them.
fn base64_within(secret: &[u8], before: usize, alphabet: &[u8; 64]) -> Form {
    let mut padded = Form::new(vec![0; before]);
    padded.extend_from_slice(secret);
    let mut out = base64(&padded, alphabet);
    let shared = padded.len() % 3;
    if shared > 0 {
        // The padding, and the last character of the secret's.
        let padding = 3 - shared;
        let determined = out.len() - padding - 1;
        out.truncate(determined);
    }
    out.drain(..=before);
    out
}

fn hex(secret: &[u8], digits: &[u8; 16]) -> Form {
    let mut out = Form::new(Vec::with_capacity(secret.len() * 2));
    for byte in secret {
        push_hex(&mut out, *byte, digits);
    }
    out
}

fn percent(byte: u8, kept: &[u8], plus: bool, digits: &[u8; 16], out: &mut Vec<u8>) {
    if is_kept(byte, kept) {
        out.push(byte);
    } else if plus && byte == b' ' {
        out.push(b'+');
    } else {
        out.push(b'%');
        push_hex(out, byte, digits);
    }
}

/// A character of a JSON string. `escaped` are characters that need no escape and get one: `\/`, and the `\u003c` of
/// those who embed JSON in HTML.
fn json(character: char, escaped: &[u8], ascii: bool, digits: &[u8; 16], out: &mut Vec<u8>) {
    let short = match character {
        '"' | '\\' => Some(character),
        '/' if escaped == b"/" => Some('/'),
        '\u{8}' => Some('b'),
        '\u{c}' => Some('f'),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        _ => None,
    };
    let must = character < ' ';
    let may = is_one_of(character, escaped);
    if let Some(short) = short {
        out.push(b'\\');
        let mut utf8 = [0; 4];
        out.extend_from_slice(short.encode_utf8(&mut utf8).as_bytes());
    } else if must || may || (ascii && !character.is_ascii()) {
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            out.extend_from_slice(b"\\u");
            for byte in unit.to_be_bytes() {
                push_hex(out, byte, digits);
            }
        }
    } else {
        let mut utf8 = [0; 4];
        out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
    }
}

fn push_hex(out: &mut Vec<u8>, byte: u8, digits: &[u8; 16]) {
    out.push(digits[usize::from(byte >> 4)]);
    out.push(digits[usize::from(byte & 15)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(form: &Form) -> &str {
        std::str::from_utf8(form).expect("ASCII")
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, encoded) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(text(&base64(plain.as_bytes(), BASE64[0])), encoded);
        }
        assert_eq!(text(&base64(b"\xfb\xff\xfe", BASE64[0])), "+//+");
        assert_eq!(text(&base64(b"\xfb\xff\xfe", BASE64[1])), "-__-");
    }

    #[test]
    fn the_core_of_a_base64_is_there_wherever_the_secret_stands() {
        let secret = b"correct horse battery";
        for length in 8..secret.len() {
            let secret = &secret[..length];
            for before in 0..7 {
                for after in 0..4 {
                    let mut whole = vec![0xff; before];
                    whole.extend_from_slice(secret);
                    whole.extend(vec![0xff; after]);
                    let whole = base64(&whole, BASE64[0]);
                    let core = match before % 3 {
                        0 => base64(&secret[..length / 3 * 3], BASE64[0]),
                        other => base64_within(secret, other, BASE64[0]),
                    };
                    assert!(
                        text(&whole).contains(text(&core)),
                        "{before} {length} {after}"
                    );
                    // All of it but the bits it shares with its neighbours; or what no whole group is left of.
                    assert!(core.len() * 6 + 16 >= secret.len() * 8);
                }
            }
        }
    }

    #[test]
    fn percent_and_json_forms_are_those_of_the_common_encoders() {
        let secret = "a b/c~(ü)\"\\\n<";
        let of = |kept: usize, hex: usize| {
            let (kept, plus) = PERCENT[kept];
            let mut out = Vec::new();
            for byte in secret.bytes() {
                percent(byte, kept, plus, HEX[hex], &mut out);
            }
            String::from_utf8(out).expect("ASCII")
        };
        assert_eq!(of(0, 1), "a%20b%2Fc~%28%C3%BC%29%22%5C%0A%3C");
        assert_eq!(of(1, 1), "a%20b%2Fc~(%C3%BC)%22%5C%0A%3C");
        assert_eq!(of(2, 1), "a+b%2Fc%7E%28%C3%BC%29%22%5C%0A%3C");
        assert_eq!(of(3, 0), "a%20b/c~%28%c3%bc%29%22%5c%0a%3c");
        let of = |escaped: &[u8], ascii| {
            let mut out = Vec::new();
            for character in secret.chars() {
                json(character, escaped, ascii, HEX[0], &mut out);
            }
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(of(b"", false), "a b/c~(ü)\\\"\\\\\\n<");
        assert_eq!(of(b"/", true), "a b\\/c~(\\u00fc)\\\"\\\\\\n<");
        assert_eq!(of(b"<>&", false), "a b/c~(ü)\\\"\\\\\\n\\u003c");
    }
}
