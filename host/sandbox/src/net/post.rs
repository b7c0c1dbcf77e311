//! A message of the host's own, under the rules of a guest's requests: to a public address or one that the operator
//! allows, to whoever proves to be the one that is named, in bounded time, following no redirect.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;

use super::failure::Failure;
use super::grant::{HostPort, IpRange};
use super::upstream::{self, Account, Purse, Stream, Tls};
use crate::limits::Limits;

/// How long the whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How much of the answer is read; nobody looks at it.
const ANSWER: usize = 64 << 10;

/// Bytes of the answer's head.
const HEAD: usize = 64 << 10;

/// Where a message may go.
#[derive(Debug, Clone, Default)]
pub struct PostRules {
    /// Ranges of addresses that are not public and may be reached all the same.
    pub allow_ranges: Vec<IpRange>,
    /// Certificates in PEM that are trusted beside the system's.
    pub extra_roots: Vec<String>,
}

/// Why a message did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// The URL is not one that a message can be sent to.
    #[error("{url:?} is no address for messages: {problem}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It could not be sent, or was not answered.
    #[error("{problem}")]
    Failed {
        /// Why.
        problem: String,
    },
}

/// Whom a URL names, and how it is asked.
#[derive(Debug)]
struct Target {
    host: HostPort,
    is_encrypted: bool,
    authority: String,
    path: Uri,
}

/// Whether messages can be sent to this URL, as far as its words tell.
///
/// # Errors
///
/// [`PostError::Url`].
pub fn check_post_url(url: &str) -> Result<(), PostError> {
    target(url).map(drop)
}

/// Posts a message, and answers the status that came back.
///
/// # Errors
///
/// [`PostError::Url`]; [`PostError::Failed`] when nobody answered in 15 seconds, or may be asked.
pub async fn post(
    url: &str,
    headers: HeaderMap,
    body: Bytes,
    rules: &PostRules,
) -> Result<u16, PostError> {
    let target = target(url)?;
    let sent = tokio::time::timeout(PATIENCE, send(&target, headers, body, rules)).await;
    match sent {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(problem)) => Err(PostError::Failed { problem }),
        Err(_) => Err(PostError::Failed {
            problem: format!("there was no answer within {} s", PATIENCE.as_secs()),
        }),
    }
}

fn target(url: &str) -> Result<Target, PostError> {
    let refused = |problem: &str| PostError::Url {
        url: url.chars().take(200).collect(),
        problem: problem.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|_| refused("it is no URL"))?;
    let scheme = uri.scheme();
    let is_encrypted = scheme == Some(&Scheme::HTTPS);
    if !is_encrypted && scheme != Some(&Scheme::HTTP) {
        return Err(refused("it begins with neither http:// nor https://"));
    }
    let authority = uri.authority().ok_or_else(|| refused("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(refused("it holds a name or password"));
    }
    let port = uri
        .port_u16()
        .unwrap_or(if is_encrypted { 443 } else { 80 });
    let host = format!("{}:{port}", authority.host());
    let host = host
        .parse::<HostPort>()
        .map_err(|error| refused(&error.to_string()))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = path.parse().map_err(|_| refused("its path is none"))?;
    Ok(Target {
        host,
        is_encrypted,
        authority: authority.as_str().to_owned(),
        path,
    })
}

async fn send(
    target: &Target,
    headers: HeaderMap,
    body: Bytes,
    rules: &PostRules,
) -> Result<u16, String> {
    let purse = Arc::new(Purse::new(&Limits::default()));
    let account = Arc::new(Account::new(purse, |_, _| {}));
    let addresses = upstream::resolve(&target.host, &rules.allow_ranges, upstream::system)
        .await
        .map_err(words)?;
    let stream = upstream::connect(&addresses, &account)
        .await
        .map_err(words)?;
    let stream: Box<dyn Stream> = if target.is_encrypted {
        let tls = Arc::new(Tls::new(&rules.extra_roots).map_err(|error| error.to_string())?);
        Box::new(tls.wrap(stream, &target.host).await.map_err(words)?)
    } else {
        Box::new(stream)
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driving = tokio::spawn(async move {
        // What goes wrong here goes wrong for the request, which says so.
        let _ = connection.await;
    });
    let _driving = AbortOnDrop(driving);
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.path.clone();
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(&target.authority).map_err(|error| error.to_string())?;
    request.headers_mut().insert(HOST, host);
    request
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| format!("the connection broke: {error}"))?;
    let status = response.status().as_u16();
    let mut answer = response.into_body();
    let mut read = 0;
    while let Some(Ok(frame)) = answer.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER {
            break;
        }
    }
    Ok(status)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn words(failure: Failure) -> String {
    match failure {
        Failure::Dns => "the name of the host is not known".to_owned(),
        Failure::Prohibited => {
            "the host has an address that is not public; the operator can allow it by network.allow_ranges in \
             policy.toml"
                .to_owned()
        }
        Failure::Refused => "nobody listens there".to_owned(),
        Failure::Certificate => "the host does not prove to be who it should be".to_owned(),
        other => format!("the host cannot be reached ({other:?})"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_url_that_is_open_to_doubt_is_refused() {
        for url in [
            "http://example.org/hook",
            "https://example.org:8443/a?b=c",
            "http://[2001:db8::1]:80/",
        ] {
            assert_eq!(check_post_url(url), Ok(()), "{url}");
        }
        for url in [
            "example.org",
            "ftp://example.org/",
            "/hook",
            "http://user:pass@example.org/",
            "http://0x7f.1/",
            "http://example.org:0/",
            "",
        ] {
            assert!(check_post_url(url).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_message_arrives_where_the_operator_allows_it_and_nowhere_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?x=1", listener.local_addr().unwrap());
        let refused = post(&url, HeaderMap::new(), Bytes::new(), &PostRules::default()).await;
        let problem = refused.unwrap_err().to_string();
        assert!(problem.contains("allow_ranges"), "{problem}");

        let received = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"hello") {
                let mut part = [0; 1024];
                let length = stream.read(&mut part).await.unwrap();
                assert!(length > 0);
                read.extend_from_slice(&part[..length]);
            }
            let answer =
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            String::from_utf8(read).unwrap()
        });
        let rules = PostRules {
            allow_ranges: vec!["127.0.0.0/8".parse().unwrap()],
            extra_roots: Vec::new(),
        };
        let status = post(&url, HeaderMap::new(), Bytes::from("hello"), &rules).await;
        // A redirect is an answer like any other.
        assert_eq!(status, Ok(302));
        let request = received.await.unwrap();
        assert!(
            request.starts_with("POST /hook?x=1 HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("content-length: 5\r\n"), "{request}");
    }
}
