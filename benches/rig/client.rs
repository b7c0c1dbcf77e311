//! A client that costs little: one connection, no library.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::Server;

/// One kept connection to the API.
pub(crate) struct Client {
    address: SocketAddr,
    token: String,
    connection: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(server: &Server) -> Self {
        let address = server.api.strip_prefix("http://").unwrap().parse().unwrap();
        Self {
            address,
            token: server.token.clone(),
            connection: connect(address),
        }
    }

    /// A JSON document.
    pub(crate) fn get(&mut self, path: &str) -> Value {
        let request = self.request("GET", path, "", 0);
        self.connection
            .get_mut()
            .write_all(request.as_bytes())
            .unwrap();
        let (status, body) = self.answer();
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Posts a small document; the answer.
    pub(crate) fn post(&mut self, path: &str, document: &str) -> Value {
        let request = self.request("POST", path, "", document.len());
        let text = format!("{request}{document}");
        self.connection
            .get_mut()
            .write_all(text.as_bytes())
            .unwrap();
        let (status, body) = self.answer();
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Deploys a package and waits for its end; the record.
    pub(crate) fn deploy(&mut self, project: &str, head: &str, package: &[u8]) -> Value {
        let id = self.begin(project, head, package);
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let record = self.get(&format!("/v1/deployments/{id}"));
            let status = record["status"].as_str().unwrap();
            if matches!(status, "succeeded" | "failed" | "cancelled") {
                return record;
            }
            assert!(Instant::now() < deadline, "{record:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Deploys a package; the id, once the package is durable.
    pub(crate) fn begin(&mut self, project: &str, head: &str, package: &[u8]) -> String {
        let more = format!("Cofferdam-Head: {head}\r\n");
        let path = format!("/v1/projects/{project}/deployments");
        let request = self.request("PUT", &path, &more, package.len());
        self.connection
            .get_mut()
            .write_all(request.as_bytes())
            .unwrap();
        self.connection.get_mut().write_all(package).unwrap();
        let (status, body) = self.answer();
        assert_eq!(status, 202, "{}", String::from_utf8_lossy(&body));
        let record: Value = serde_json::from_slice(&body).unwrap();
        record["id"].as_str().unwrap().to_owned()
    }

    /// Deploys a package by the default pipeline with the events as the answer; the last of them.
    pub(crate) fn deploy_streaming(&mut self, project: &str, package: &[u8]) -> String {
        let path = format!("/v1/projects/{project}/deployments");
        let request = self.request("PUT", &path, "Accept: text/event-stream\r\n", package.len());
        let mut connection = connect(self.address);
        connection.get_mut().write_all(request.as_bytes()).unwrap();
        connection.get_mut().write_all(package).unwrap();
        let mut last = String::new();
        let mut done = false;
        for line in connection.lines() {
            let line = line.unwrap();
            if line.starts_with("event: done") || line.starts_with("event:done") {
                done = true;
            } else if line.starts_with("data:") {
                last = line;
                if done {
                    break;
                }
            }
        }
        last
    }

    fn request(&self, method: &str, path: &str, more: &str, bytes: usize) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {bytes}\r\n{more}\r\n",
            self.address, self.token
        )
    }

    fn answer(&mut self) -> (u16, Vec<u8>) {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = None;
        loop {
            line.clear();
            self.connection.read_line(&mut line).unwrap();
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>().unwrap());
            }
        }
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length, 0);
                self.connection.read_exact(&mut body).unwrap();
            }
            None => loop {
                line.clear();
                self.connection.read_line(&mut line).unwrap();
                let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
                let start = body.len();
                body.resize(start + size, 0);
                self.connection.read_exact(&mut body[start..]).unwrap();
                self.connection.read_exact(&mut [0; 2]).unwrap();
                if size == 0 {
                    break;
                }
            },
        }
        (status, body)
    }
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    BufReader::with_capacity(64 * 1024, stream)
}
