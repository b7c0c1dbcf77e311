//! Between the host and [`answer`](crate::answer).

use std::io::{self, Write as _};

use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

use crate::Answer;

struct Component;

#[allow(
    unsafe_code,
    reason = "the macro's code: an export takes its arguments from raw memory"
)]
mod export {
    use super::Component;

    wasip2::http::proxy::export!(Component);
}

/// How much of a body is passed on at once.
const PART: u64 = 64 * 1024;

impl wasip2::exports::http::incoming_handler::Guest for Component {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (status, content_type, content) = match crate::answer(&method(&request), &path) {
            Answer::Text(status, content_type, text) => (status, content_type, Content::Text(text)),
            Answer::Echo => match request.consume() {
                Ok(body) => (200, "application/octet-stream", Content::Body(body)),
                Err(()) => (500, "text/plain", Content::Text(String::new())),
            },
        };
        let fields = Fields::new();
        let typed = fields.append("content-type", content_type.as_bytes());
        typed.expect("content-type is a header that a response may have");
        let response = OutgoingResponse::new(fields);
        response
            .set_status_code(status)
            .expect("these are status codes");
        let body = response.body().expect("it was not taken yet");
        ResponseOutparam::set(out, Ok(response));
        if let Err(error) = send(&body, content) {
            // Nothing can be answered any more; an unfinished body tells the client.
            eprintln!("the answer broke off: {error}");
            return;
        }
        if let Err(error) = OutgoingBody::finish(body, None) {
            eprintln!("the answer was not taken: {error}");
        }
    }
}

enum Content {
    Text(String),
    Body(IncomingBody),
}

fn send(body: &OutgoingBody, content: Content) -> io::Result<()> {
    let mut out = body.write().expect("it was not taken yet");
    match content {
        Content::Text(text) => out.write_all(text.as_bytes())?,
        Content::Body(request) => {
            let stream = request.stream().expect("it was not taken yet");
            loop {
                match stream.blocking_read(PART) {
                    Ok(part) => out.write_all(&part)?,
                    Err(StreamError::Closed) => break,
                    Err(StreamError::LastOperationFailed(error)) => {
                        return Err(io::Error::other(error.to_debug_string()));
                    }
                }
            }
        }
    }
    io::Write::flush(&mut out)
}

fn method(request: &IncomingRequest) -> String {
    match request.method() {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(other) => return other,
    }
    .to_owned()
}
