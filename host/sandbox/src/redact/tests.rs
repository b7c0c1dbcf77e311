use serde_json::json;

use super::*;

const TOKEN: &str = "s3cr3t/Tok+en~for \"us\" \u{fc}9";

fn redactor(secrets: &[&[u8]]) -> Redactor {
    let mut all = Secrets::default();
    for (at, secret) in secrets.iter().enumerate() {
        all.insert(format!("SECRET_{at}"), *secret);
    }
    Redactor::new(&all)
}

fn redacted(redactor: &Redactor, text: &str) -> String {
    redactor.text(text).into_owned()
}

/// What a stream becomes when it arrives in these pieces.
fn streamed<'a>(redactor: &Redactor, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    for piece in pieces {
        stream.push(piece, |bytes| out.extend_from_slice(bytes));
    }
    stream.finish(|bytes| out.extend_from_slice(bytes));
    out
}

#[test]
fn a_secret_is_found_in_every_form_within_any_text() {
    let redactor = redactor(&[TOKEN.as_bytes()]);
    let forms = [
        TOKEN,
        "czNjcjN0L1Rvaytlbn5mb3IgInVzIiDDvDk=",
        "7333637233742f546f6b2b656e7e666f72202275732220c3bc39",
        "7333637233742F546F6B2B656E7E666F72202275732220C3BC39",
        "s3cr3t%2FTok%2Ben~for%20%22us%22%20%C3%BC9",
        "s3cr3t%2fTok%2ben~for%20%22us%22%20%c3%bc9",
        "s3cr3t%2FTok%2Ben%7Efor+%22us%22+%C3%BC9",
        r#"s3cr3t/Tok+en~for \"us\" ü9"#,
        r#"s3cr3t\/Tok+en~for \"us\" ü9"#,
        r#"s3cr3t/Tok+en~for \"us\" \u00fc9"#,
        r#"s3cr3t/Tok+en~for \"us\" \u00FC9"#,
    ];
    for form in forms {
        let text = format!("before {form} after");
        assert_eq!(
            redacted(&redactor, &text),
            "before [redacted] after",
            "{form}"
        );
    }
}

#[test]
fn base64_of_a_text_around_the_secret_shows_none_of_it() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let secret = b"\xff\xfe\xfdhorse battery staple\xfb\xef\xbe";
    let redactor = redactor(&[secret]);
    for before in 0..6 {
        for after in 0..4 {
            let mut text = vec![b'u'; before];
            text.extend_from_slice(secret);
            text.extend(vec![b'v'; after]);
            for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                let shown = redacted(&redactor, &encoded);
                let left = shown.replace(REDACTED, "");
                // What surrounds it in full, and at most the characters that it shares with its neighbours.
                assert!(shown.contains(REDACTED), "{encoded}");
                assert!(
                    left.trim_end_matches('=').len() * 6 <= (before + after) * 8 + 4 * 6,
                    "{shown}"
                );
            }
        }
    }
}

#[test]
fn a_piece_of_a_secret_is_found_too_and_a_shorter_one_is_not() {
    let redactor = redactor(&[b"0f1e2d3c4b5a69788796a5b4c3d2e1f0"]);
    assert_eq!(redacted(&redactor, "0f1e2d3c4b5a6978"), REDACTED);
    assert_eq!(redacted(&redactor, "8796a5b4c3d2e1f0"), REDACTED);
    assert_eq!(redacted(&redactor, "(69788796a5b4...)"), "([redacted]...)");
    assert_eq!(redacted(&redactor, "69788796a5b"), "69788796a5b");
    let short = self::redactor(&[b"hunter2!"]);
    assert_eq!(redacted(&short, "x hunter2! x"), "x [redacted] x");
    assert_eq!(redacted(&short, "hunter2 hunter2"), "hunter2 hunter2");
}

#[test]
fn what_is_shorter_than_a_window_is_left_alone() {
    assert!(redactor(&[b"1234567", b"", b"abc"]).is_empty());
    assert!(redactor(&[]).is_empty());
    assert!(!Redactor::can_redact(b"1234567\n7654321\n"));
    assert!(Redactor::can_redact(b"12345678\n"));
}

#[test]
fn the_lines_of_a_key_are_found_one_by_one_and_lines_go_out_at_once() {
    let key = "-----BEGIN KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6\r\nSEqVTm50DFtMDoQi\n-----END KEY-----\n";
    let redactor = redactor(&[key.as_bytes()]);
    assert_eq!(
        redacted(&redactor, &format!("a\n{key}b\n")),
        "a\n[redacted]\n[redacted]\r\n[redacted]\n[redacted]\nb\n"
    );
    assert_eq!(
        redacted(&redactor, &json!(key).to_string()),
        "\"[redacted]\""
    );
    let mut stream = redactor.stream();
    for line in ["an ordinary line\n", "MC4CAQ\n", "-----\n"] {
        let mut out = Vec::new();
        stream.push(line.as_bytes(), |bytes| out.extend_from_slice(bytes));
        assert_eq!(out, line.as_bytes());
    }
}

#[test]
fn only_what_may_be_the_beginning_of_a_secret_is_held_back() {
    let redactor = redactor(&[b"correct-horse-battery"]);
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    stream.push(b"password: corre", |bytes| out.extend_from_slice(bytes));
    assert_eq!(out, b"password: ");
    stream.push(b"ct", |bytes| out.extend_from_slice(bytes));
    assert_eq!(out, b"password: ");
    stream.push(b"-horse-battery", |bytes| out.extend_from_slice(bytes));
    assert_eq!(out, b"password: [redacted]");
    stream.push(b"!\n", |bytes| out.extend_from_slice(bytes));
    assert_eq!(out, b"password: [redacted]!\n");
    out.clear();
    stream.push(b"corre", |_| panic!("it may be the secret"));
    stream.push(b"lation", |bytes| out.extend_from_slice(bytes));
    stream.finish(|bytes| out.extend_from_slice(bytes));
    assert_eq!(out, b"correlation");
}

#[test]
fn rulers_and_indentation_stay() {
    let secret = b"{\n            \"key\": \"0123456789\"\n}\n------------------------------";
    let redactor = redactor(&[secret]);
    let text = "----------------\n            ok\n";
    assert_eq!(redacted(&redactor, text), text);
    // Unless there is nothing else to go by.
    let ruler = self::redactor(&[b"------------"]);
    assert_eq!(redacted(&ruler, "a------------b"), "a[redacted]b");
    // Many different bytes are of no use when they are too far apart for a window.
    let sparse = "1-----------2-----------3-----------4-----------5-----------6";
    let redactor = self::redactor(&[sparse.as_bytes()]);
    assert_eq!(redacted(&redactor, sparse), "[redacted]");
}

#[test]
fn json_values_lose_secrets_from_texts_keys_and_numbers() {
    let redactor = redactor(&[b"hunter2!hunter3?", b"31415926535"]);
    let value = json!({
        "a": ["hunter2!hunter3?", 31_415_926_535_u64, 2.5, true, null],
        "hunter2!hunter3?": { "b": "hunter2!" },
    });
    assert_eq!(
        redactor.value(value),
        json!({
            "a": [REDACTED, REDACTED, 2.5, true, null],
            "[redacted]": { "b": REDACTED },
        })
    );
    let plain = json!({ "a": [1, "b"] });
    assert_eq!(redactor.value(plain.clone()), plain);
}

/// A small deterministic generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("below a usize")
    }
}

/// The obvious definition: every window of the raw lines that occurs is marked, byte by byte.
fn by_definition(secrets: &[&[u8]], text: &[u8]) -> Vec<bool> {
    let mut covered = vec![false; text.len()];
    for secret in secrets {
        forms::each(secret, |shape| {
            let (form, length) = (shape.form, shape.window);
            let varied = |window: &&[u8]| {
                let mut bytes = window.to_vec();
                bytes.sort_unstable();
                bytes.dedup();
                bytes.len() >= 3
            };
            for window in form.windows(length).filter(varied) {
                for at in 0..text.len().saturating_sub(length - 1) {
                    if &text[at..at + length] == window {
                        covered[at..at + length].fill(true);
                    }
                }
            }
        });
    }
    covered
}

#[test]
fn however_a_stream_is_cut_the_result_is_the_same_and_shows_no_window() {
    // Each has more than two different bytes.
    let secrets: [&[u8]; 4] = [
        b"abcabcabdabcabcabdabcabe",
        b"cabdabca",
        b"line one of it\nand line two\n",
        b"aaaaaaaaabc",
    ];
    let redactor = redactor(&secrets);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for round in 0..250 {
        let mut text = Vec::new();
        for _ in 0..random.below(12) {
            let secret = secrets[random.below(secrets.len())];
            let from = random.below(secret.len());
            let to = from + random.below(secret.len() - from + 1);
            text.extend_from_slice(&secret[from..to]);
            text.extend(std::iter::repeat_n(
                b"abcd\n"[random.below(5)],
                random.below(3),
            ));
        }
        let whole = streamed(&redactor, [text.as_slice()]);
        let mut pieces = Vec::new();
        let mut rest = text.as_slice();
        while !rest.is_empty() {
            let longest = rest.len().min(if round % 2 == 0 { 3 } else { 40 });
            let (head, tail) = rest.split_at(1 + random.below(longest));
            pieces.push(head);
            rest = tail;
        }
        let cut = streamed(&redactor, pieces.iter().copied());
        assert_eq!(
            String::from_utf8_lossy(&cut),
            String::from_utf8_lossy(&whole),
            "{pieces:?}"
        );

        let mut expected = Vec::new();
        let mut marked = false;
        for (byte, covered) in text.iter().zip(by_definition(&secrets, &text)) {
            if !covered {
                expected.push(*byte);
            } else if !marked {
                expected.extend_from_slice(REDACTED.as_bytes());
            }
            marked = covered;
        }
        assert_eq!(
            String::from_utf8_lossy(&whole),
            String::from_utf8_lossy(&expected)
        );
        let text = String::from_utf8(text).expect("ASCII");
        assert_eq!(redacted(&redactor, &text).as_bytes(), expected);
    }
}

#[test]
fn a_large_secret_is_found_wherever_it_is_cut() {
    let mut random = Random(7);
    let byte = || u8::try_from(random.below(256)).expect("below 256");
    let secret: Vec<u8> = std::iter::repeat_with(byte).take(4_000).collect();
    let redactor = redactor(&[&secret]);
    let lines = secret
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter(|line| line.len() >= SHORT_WINDOW);
    for line in lines {
        assert_eq!(streamed(&redactor, line.chunks(5)), REDACTED.as_bytes());
    }
}
