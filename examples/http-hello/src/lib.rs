//! A `wasi:http` component: what to answer is decided here, and `component` speaks to the host.

#[cfg(target_os = "wasi")]
mod component;

/// What a request is answered with.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// A status, a content type, and a text.
    Text(u16, &'static str, String),
    /// The request's own body, as it comes.
    Echo,
}

const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Decides what to answer.
#[must_use]
pub fn answer(method: &str, path: &str) -> Answer {
    let path = path.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET" | "HEAD", "/") => Answer::Text(200, HTML, INDEX.to_owned()),
        ("POST" | "PUT", "/echo") => Answer::Echo,
        ("GET" | "HEAD", _) => match path.strip_prefix("/hello/") {
            Some(name) if !name.is_empty() && !name.contains('/') => {
                Answer::Text(200, PLAIN, format!("Hello, {}!\n", decoded(name)))
            }
            _ => Answer::Text(404, PLAIN, format!("There is no {path} here.\n")),
        },
        _ => Answer::Text(405, PLAIN, format!("{method} means nothing to {path}.\n")),
    }
}

const INDEX: &str = "<!doctype html>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>http-hello</title>
<style>
  body { font: 1.1rem/1.6 ui-serif, Georgia, serif; max-width: 36rem; margin: 15vh auto; padding: 0 1.5rem;
         color: #1d2b36; background: #f7f5f0 }
  code { font-family: ui-monospace, Menlo, monospace; font-size: .9em }
</style>
<h1>A component answered this.</h1>
<p>There is no process that waits for you here. Your request was given a WebAssembly instance of its own,
with no files and no network, and the instance is gone by now.</p>
<p>Try <a href=\"/hello/river\"><code>/hello/river</code></a>, or send something to <code>/echo</code>.</p>
";

/// A part of a path with its `%` escapes resolved; what they do not explain becomes U+FFFD.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some((before, escape)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let byte = escape
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &escape[2..];
            }
            None => {
                bytes.push(b'%');
                rest = escape;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Answer, PLAIN, answer};

    #[test]
    fn everybody_is_greeted_by_name() {
        for (path, name) in [
            ("/hello/river", "river"),
            ("/hello/r%C3%ADo?x=1", "río"),
            ("/hello/50%", "50%"),
        ] {
            let text = format!("Hello, {name}!\n");
            assert_eq!(answer("GET", path), Answer::Text(200, PLAIN, text));
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        assert!(matches!(answer("GET", "/nowhere"), Answer::Text(404, ..)));
        assert!(matches!(answer("GET", "/hello/"), Answer::Text(404, ..)));
        assert!(matches!(answer("DELETE", "/"), Answer::Text(405, ..)));
        assert_eq!(answer("POST", "/echo"), Answer::Echo);
    }
}
