//! Answers HTTP requests in the way that the path names.

use std::io::Write as _;

use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, OutgoingBody,
    OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};

struct Service;

wasip2::http::proxy::export!(Service);

impl wasip2::exports::http::incoming_handler::Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        match path.as_str() {
            "/" => {
                // Where it has a directory, it counts how often it was asked whether it is alive.
                count("probes");
                answer(out, 404, b"there is nothing here\n");
            }
            "/hello" => answer(out, 200, b"hello\n"),
            "/environment" => {
                let names: Vec<String> = std::env::vars()
                    .map(|(name, value)| format!("{name}={value}\n"))
                    .collect();
                answer(out, 200, names.concat().as_bytes());
            }
            "/print" => {
                println!("a line for the log");
                answer(out, 200, b"printed\n");
            }
            "/loop" => loop {
                std::hint::black_box(0);
            },
            "/sleep" => loop {
                std::thread::sleep(std::time::Duration::from_secs(3600));
            },
            "/memory" => {
                let mut held = Vec::new();
                loop {
                    held.push(std::hint::black_box(vec![1_u8; 1 << 20]));
                }
            }
            "/panic" => panic!("as asked"),
            "/health" => answer(out, health(), b"so it is\n"),
            "/slow" => {
                std::thread::sleep(std::time::Duration::from_millis(1500));
                answer(out, 200, b"slowly, but wholly\n");
            }
            "/silent" => {}
            "/error" => ResponseOutparam::set(
                out,
                Err(ErrorCode::InternalError(Some("as asked".to_owned()))),
            ),
            "/echo" => echo(&request, out),
            "/stream" => stream(out, usize::MAX),
            "/broken" => {
                stream(out, 3);
            }
            "/late" => {
                stream(out, 0);
            }
            "/fetch" => {
                let refused = fetch("http", "127.0.0.1:9");
                answer(out, 200, refused.as_bytes());
            }
            "/files" => {
                let found = std::fs::read_dir("/").is_ok() || std::fs::read_dir(".").is_ok();
                answer(out, 200, found.to_string().as_bytes());
            }
            path => match path.split_once('?') {
                Some(("/tamper", target)) => answer(out, 200, tamper(target).as_bytes()),
                Some(("/fetch", to)) => answer(out, 200, fetch("http", to).as_bytes()),
                Some(("/fetch-https", to)) => answer(out, 200, fetch("https", to).as_bytes()),
                Some(("/secret", name)) => answer(out, 200, &secret(name)),
                Some(("/count", name)) => answer(out, 200, count(name).as_bytes()),
                Some(("/fill", bytes)) => answer(out, 200, fill(bytes).as_bytes()),
                Some(("/clear", name)) => {
                    let cleared = std::fs::remove_file(format!("/state/{name}"));
                    answer(out, 200, format!("{cleared:?}").as_bytes());
                }
                Some(("/secret-panic", name)) => {
                    panic!("{}", String::from_utf8_lossy(&secret(name)))
                }
                Some(("/secret-error", name)) => {
                    let text = String::from_utf8_lossy(&secret(name)).into_owned();
                    ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some(text))));
                }
                _ => answer(out, 404, b"there is nothing here\n"),
            },
        }
    }
}

fn start(out: ResponseOutparam, status: u16) -> OutgoingBody {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("it is a status");
    let body = response.body().expect("it is taken once");
    ResponseOutparam::set(out, Ok(response));
    body
}

fn answer(out: ResponseOutparam, status: u16, content: &[u8]) {
    let body = start(out, status);
    let mut stream = body.write().expect("it is taken once");
    stream.write_all(content).expect("somebody listens");
    drop(stream);
    OutgoingBody::finish(body, None).expect("it has no stated length");
}

/// Sends back what comes, as it comes.
fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("it is taken once");
    let input = incoming.stream().expect("it is taken once");
    let body = start(out, 200);
    let output = body.write().expect("it is taken once");
    while output.blocking_splice(&input, 64 << 10).is_ok() {}
    drop(output);
    drop(input);
    drop(IncomingBody::finish(incoming));
    OutgoingBody::finish(body, None).expect("it has no stated length");
}

/// Sends blocks, and panics after `blocks` of them.
fn stream(out: ResponseOutparam, blocks: usize) {
    let body = start(out, 200);
    let mut output = body.write().expect("it is taken once");
    for _ in 0..blocks {
        if output.write_all(&[b'x'; 32 << 10]).is_err() {
            return;
        }
    }
    panic!("that was enough");
}

/// Tries to change what is at a path, and says what came of it.
fn tamper(path: &str) -> String {
    use std::fs;
    let tried = [
        ("read", fs::read(path).map(drop)),
        ("list", fs::read_dir(path).map(drop)),
        ("write", fs::write(path, "changed")),
        ("create in", fs::write(format!("{path}/planted"), "planted")),
        ("link", fs::hard_link(path, "linked")),
        ("rename", fs::rename(path, "renamed")),
        ("remove", fs::remove_file(path)),
        ("remove the directory", fs::remove_dir(path)),
    ];
    let told = tried.map(|(verb, result)| match result {
        Ok(()) => format!("{verb} {path}: WORKED\n"),
        Err(error) => format!("{verb} {path}: refused ({error})\n"),
    });
    told.concat()
}

/// 200, or 500 outside of the time from `HEALTHY_FROM` to `HEALTHY_UNTIL`, in milliseconds since the epoch.
fn health() -> u16 {
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |time| time.as_millis());
    let moment = |name: &str| std::env::var(name).ok()?.parse::<u128>().ok();
    let early = moment("HEALTHY_FROM").is_some_and(|from| now < from);
    let late = moment("HEALTHY_UNTIL").is_some_and(|until| now >= until);
    if early || late { 500 } else { 200 }
}

/// Adds a byte to a file of its directory, and says how many there are.
fn count(name: &str) -> String {
    let path = format!("/state/{name}");
    let mut file = match std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
    {
        Ok(file) => file,
        Err(error) => return format!("refused: {error}"),
    };
    if let Err(error) = file.write_all(b"x") {
        return format!("refused: {error}");
    }
    std::fs::metadata(path).map_or_else(|error| error.to_string(), |file| file.len().to_string())
}

/// Writes a file of so many bytes.
fn fill(bytes: &str) -> String {
    let content = vec![b'x'; bytes.parse().expect("it is a number")];
    match std::fs::write("/state/filling", content) {
        Ok(()) => "written".to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

/// A secret, which it also prints in two pieces on one stream and whole on the other.
fn secret(name: &str) -> Vec<u8> {
    match cofferdam_sdk::secret(name) {
        Ok(value) => {
            let text = String::from_utf8_lossy(&value);
            let (first, second) = text.split_at(text.len() / 2);
            print!("the secret is {first}");
            println!("{second}");
            eprintln!("the secret is {text}");
            value
        }
        Err(error) => format!("refused: {error}").into_bytes(),
    }
}

fn fetch(scheme: &str, to: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if scheme == "https" {
        Scheme::Https
    } else {
        Scheme::Http
    };
    request.set_scheme(Some(&scheme)).expect("it is a scheme");
    request.set_authority(Some(to)).expect("it is an authority");
    request
        .set_path_with_query(Some("/"))
        .expect("it is a path");
    match wasip2::http::outgoing_handler::handle(request, None) {
        Err(error) => format!("refused: {error}"),
        Ok(response) => {
            response.subscribe().block();
            match response.get() {
                Some(Ok(Ok(response))) => format!("{} {}", response.status(), text(&response)),
                Some(Ok(Err(error))) => format!("refused: {error}"),
                other => format!("refused: {other:?}"),
            }
        }
    }
}

/// The beginning of a response's body.
fn text(response: &IncomingResponse) -> String {
    let body = response.consume().expect("it is taken once");
    let stream = body.stream().expect("it is taken once");
    let bytes = stream.blocking_read(4096).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn main() {}
