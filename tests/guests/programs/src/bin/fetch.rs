//! Sends the requests of its config, all at once, and then reads what comes back, one after the other; or with
//! `one_by_one` sends each when the one before was read.
use serde_json::Value;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
};
use wasip2::io::streams::StreamError;

fn main() {
    let config = cofferdam_test_programs::config();
    let requests = config["requests"].as_array().cloned().unwrap_or_default();
    if config["one_by_one"] == true {
        for request in &requests {
            let pause = request["pause_ms"].as_u64().unwrap_or(0);
            std::thread::sleep(std::time::Duration::from_millis(pause));
            tell(request, send(request));
        }
        return;
    }
    let sent: Vec<_> = requests.iter().map(send).collect();
    for (request, sent) in requests.iter().zip(sent) {
        tell(request, sent);
    }
}

fn tell(request: &Value, sent: Result<FutureIncomingResponse, String>) {
    match sent.and_then(|response| receive(request, &response)) {
        Ok(text) => println!("{text}"),
        Err(error) => println!("error {error}"),
    }
}

fn send(request: &Value) -> Result<FutureIncomingResponse, String> {
    let text = |name: &str, otherwise: &str| request[name].as_str().unwrap_or(otherwise).to_owned();
    let headers = Fields::new();
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default().as_bytes().to_vec();
        headers
            .append(name, &value)
            .map_err(|error| format!("{name}: {error:?}"))?;
    }
    let outgoing = OutgoingRequest::new(headers);
    let method = match text("method", "GET").as_str() {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    };
    let scheme = match text("scheme", "http").as_str() {
        "https" => Scheme::Https,
        _ => Scheme::Http,
    };
    outgoing
        .set_method(&method)
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(&text("to", ""))))
        .and_then(|()| outgoing.set_path_with_query(Some(&text("path", "/"))))
        .map_err(|()| "it cannot be said".to_owned())?;
    let options = RequestOptions::new();
    if let Some(millis) = request["first_byte_ms"].as_u64() {
        let _ = options.set_first_byte_timeout(Some(millis * 1_000_000));
    }
    let body = outgoing.body().map_err(|()| "no body".to_owned())?;
    let response =
        outgoing_handler::handle(outgoing, Some(options)).map_err(|error| name(&error))?;
    let mut left = request["send"].as_u64().unwrap_or(0);
    let stream = body.write().map_err(|()| "no body".to_owned())?;
    let piece = [b'x'; 4096];
    while left > 0 {
        let now = left.min(4096);
        let part = &piece[..usize::try_from(now).unwrap_or(4096)];
        if stream.blocking_write_and_flush(part).is_err() {
            break;
        }
        left -= now;
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
    Ok(response)
}

fn receive(request: &Value, response: &FutureIncomingResponse) -> Result<String, String> {
    response.subscribe().block();
    let response = match response.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(error))) => return Err(name(&error)),
        _ => return Err("no response".to_owned()),
    };
    let status = response.status();
    let headers: Vec<String> = response
        .headers()
        .entries()
        .iter()
        .map(|(name, _)| name.clone())
        .filter(|name| name.starts_with("cofferdam") || name == "location")
        .collect();
    let body = response.consume().map_err(|()| "no body".to_owned())?;
    let stream = body.stream().map_err(|()| "no body".to_owned())?;
    let most = request["read"].as_u64().unwrap_or(u64::MAX);
    let (mut bytes, mut first) = (0, Vec::new());
    while bytes < most {
        match stream.blocking_read(64 << 10) {
            Ok(piece) => {
                bytes += piece.len() as u64;
                if first.len() < 40 {
                    first.extend_from_slice(&piece[..piece.len().min(40)]);
                }
            }
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                let code = code.map_or_else(|| error.to_debug_string(), |error| name(&error));
                return Err(format!("after {status}: {code}"));
            }
        }
    }
    if most < u64::MAX {
        return Ok(format!("{status} and enough"));
    }
    let first = String::from_utf8_lossy(&first).into_owned();
    Ok(format!("{status} {bytes} {headers:?} {first}"))
}

fn name(error: &ErrorCode) -> String {
    let text = format!("{error:?}");
    text.trim_start_matches("ErrorCode::").to_owned()
}
