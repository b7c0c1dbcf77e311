//! A client without manners.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The one value of a header, or nothing.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} comes twice");
        value
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends a request line and headers as they are, and reads until the server is done.
pub(super) async fn send(server: SocketAddr, line: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream
        .write_all(head(line, headers).as_bytes())
        .await
        .unwrap();
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).await.unwrap();
    parse(&raw)
}

/// Asks `site.localhost` for a path.
pub(super) async fn get(server: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    ask(server, "GET", path, headers).await
}

/// Asks `site.localhost` in another way.
pub(super) async fn ask(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let host = [("host", "site.localhost")];
    let headers: Vec<_> = host.iter().chain(headers).copied().collect();
    send(server, &format!("{method} {path} HTTP/1.1"), &headers).await
}

/// A request that asks for the connection to be closed after it.
pub(super) fn head(line: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{line}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// Reads an answer whose body ends with its length or with the connection.
pub(super) fn parse(raw: &[u8]) -> Answer {
    let end = raw
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an answer has a head");
    let head = std::str::from_utf8(&raw[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Answer {
        status,
        headers,
        body: raw[end + 4..].to_vec(),
    }
}
