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

/// Calls back with every form of a secret, and with how long the windows of that form are.
pub(super) fn each(secret: &[u8], mut form: impl FnMut(&[u8], usize)) {
    let mut whole = |text: &[u8]| {
        if text.len() >= LONG_FORM {
            form(text, LONG_WINDOW);
        } else if text.len() >= SHORT_WINDOW {
            form(text, SHORT_WINDOW);
        }
    };
    encodings(secret, &mut whole);
    // Programs trim the line end that a file brought along, and that changes the end of every base64.
    let trimmed = secret.trim_ascii();
    if trimmed.len() < secret.len() {
        encodings(trimmed, &mut whole);
    }
    for line in lines(secret) {
        // The windows of a line are as long as those of the whole, unless it is too short for them.
        if secret.len() >= LONG_FORM && line.len() >= LONG_WINDOW {
            form(line, LONG_WINDOW);
        } else if line.len() >= SHORT_WINDOW {
            form(line, SHORT_WINDOW);
        }
    }
}

/// Calls back with every form of a secret that has no line ends in it.
fn encodings(secret: &[u8], form: &mut impl FnMut(&[u8])) {
    if secret.len() < SHORT_WINDOW {
        return;
    }
    for alphabet in BASE64 {
        form(&base64(secret, alphabet));
        for before in 1..3 {
            form(&base64_within(secret, before, alphabet));
        }
    }
    for digits in HEX {
        form(&hex(secret, digits));
        for (kept, plus) in PERCENT {
            form(&percent(secret, kept, plus, digits));
        }
    }
    // What is not UTF-8 has no form in JSON but with replacement characters, which is also how it is shown.
    let text = Zeroizing::new(String::from_utf8_lossy(secret).into_owned());
    for digits in HEX {
        for escaped in ESCAPED {
            for ascii in [false, true] {
                form(&json(&text, escaped, ascii, digits));
            }
        }
    }
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

fn percent(secret: &[u8], kept: &[u8], plus: bool, digits: &[u8; 16]) -> Form {
    let mut out = Form::new(Vec::with_capacity(secret.len() * 3));
    for byte in secret {
        if byte.is_ascii_alphanumeric() || kept.contains(byte) {
            out.push(*byte);
        } else if plus && *byte == b' ' {
            out.push(b'+');
        } else {
            out.push(b'%');
            push_hex(&mut out, *byte, digits);
        }
    }
    out
}

/// A JSON string without its quotes. `escaped` are characters that need no escape and get one: `\/`, and the
/// `\u003c` of those who embed JSON in HTML.
fn json(text: &str, escaped: &[u8], ascii: bool, digits: &[u8; 16]) -> Form {
    let mut out = Form::new(Vec::with_capacity(text.len() * 2));
    for character in text.chars() {
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
        let may = u8::try_from(character).is_ok_and(|byte| escaped.contains(&byte));
        if let Some(short) = short {
            out.push(b'\\');
            let mut utf8 = [0; 4];
            out.extend_from_slice(short.encode_utf8(&mut utf8).as_bytes());
        } else if must || may || (ascii && !character.is_ascii()) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out.extend_from_slice(b"\\u");
                for byte in unit.to_be_bytes() {
                    push_hex(&mut out, byte, digits);
                }
            }
        } else {
            let mut utf8 = [0; 4];
            out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
        }
    }
    out
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
            text(&percent(secret.as_bytes(), kept, plus, HEX[hex])).to_owned()
        };
        assert_eq!(of(0, 1), "a%20b%2Fc~%28%C3%BC%29%22%5C%0A%3C");
        assert_eq!(of(1, 1), "a%20b%2Fc~(%C3%BC)%22%5C%0A%3C");
        assert_eq!(of(2, 1), "a+b%2Fc%7E%28%C3%BC%29%22%5C%0A%3C");
        assert_eq!(of(3, 0), "a%20b/c~%28%c3%bc%29%22%5c%0a%3c");
        let of = |escaped: &[u8], ascii| {
            String::from_utf8(json(secret, escaped, ascii, HEX[0]).to_vec()).expect("UTF-8")
        };
        assert_eq!(of(b"", false), "a b/c~(ü)\\\"\\\\\\n<");
        assert_eq!(of(b"/", true), "a b\\/c~(\\u00fc)\\\"\\\\\\n<");
        assert_eq!(of(b"<>&", false), "a b/c~(ü)\\\"\\\\\\n\\u003c");
    }
}
