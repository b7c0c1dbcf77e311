//! Encrypted hosts and kept connections, with real servers on the loopback and certificates of authorities that nobody
//! else knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cofferdam_sandbox::{NetGrant, Verdict};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Ended, Run};

/// An authority that signs certificates.
type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server that shows a certificate for `name`, and how many connections it took.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn encrypted(authority: &Authority, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        Self::start(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn plain() -> Self {
        Self::start(None).await
    }

    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
        };
        let connections = Arc::clone(&server.connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let tls = tls.clone();
                tokio::spawn(async move {
                    // A client that refuses the certificate, or has had enough, is what some of the tests are about.
                    let _ = match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => answer(stream).await,
                            Err(error) => Err(error),
                        },
                        None => answer(stream).await,
                    };
                });
            }
        });
        server
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

/// Answers requests on one connection until the client leaves, or a path says otherwise.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let mut head = vec![stream.read_u8().await?];
        if !head[0].is_ascii_alphabetic() {
            // Not a word of HTTP.
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await?;
            return stream.shutdown().await;
        }
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        // A GET without a body says nothing of one.
        assert!(!head.contains("transfer-encoding"), "{head}");
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let close = if path == "/last" {
            "connection: close\r\n"
        } else {
            ""
        };
        let text = format!("HTTP/1.1 200 OK\r\n{close}content-length: 5\r\n\r\nhello");
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await?;
        if path == "/last" || path == "/leaves" {
            return stream.shutdown().await;
        }
    }
}

fn grant(servers: &[&Server], roots: &[&Authority]) -> NetGrant {
    NetGrant {
        hosts: servers
            .iter()
            .map(|server| server.name().parse().unwrap())
            .collect(),
        allow_ranges: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
        extra_roots: roots.iter().map(|root| root.pem()).collect(),
    }
}

async fn fetch(net: NetGrant, requests: &Value) -> Ended {
    let mut run = Run::of("fetch").config(json!({ "requests": requests, "one_by_one": true }));
    run.spec.net = net;
    let ended = run.end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded, "{ended:?}");
    ended
}

#[tokio::test]
async fn an_encrypted_host_is_reached_by_the_operators_own_authority() {
    let authority = authority();
    let server = Server::encrypted(&authority, "localhost").await;
    let request = json!({ "to": server.name(), "scheme": "https" });
    let net = grant(&[&server], &[&authority]);
    let ended = fetch(net, &json!([request, request, request])).await;
    assert_eq!(ended.lines(), ["200 5 [] hello"; 3]);
    let used = ended.outcome.receipt.hosts[&server.name()];
    assert_eq!((used.requests, used.denied), (3, 0));
    // The handshake is on the wire, and so it counts.
    assert!(used.bytes_in > 500 && used.bytes_out > 500, "{used:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_host_that_cannot_prove_who_it_is_is_refused() {
    let (known, unknown) = (authority(), authority());
    let stranger = Server::encrypted(&unknown, "localhost").await;
    let impostor = Server::encrypted(&known, "example.org").await;
    let plain = Server::plain().await;
    let servers = [&stranger, &impostor, &plain];
    let requests: Vec<Value> = servers
        .iter()
        .map(|server| json!({ "to": server.name(), "scheme": "https" }))
        .collect();
    let ended = fetch(grant(&servers, &[&known]), &json!(requests)).await;
    assert_eq!(
        ended.lines(),
        [
            "error TlsCertificateError",
            "error TlsCertificateError",
            "error TlsProtocolError",
        ]
    );
    // And without the operator's word, nobody knows the first authority either.
    let server = Server::encrypted(&known, "localhost").await;
    let request = json!([{ "to": server.name(), "scheme": "https" }]);
    let ended = fetch(grant(&[&server], &[]), &request).await;
    assert_eq!(ended.lines(), ["error TlsCertificateError"]);
}

#[tokio::test]
async fn one_connection_carries_requests_until_its_upstream_ends_it() {
    let server = Server::plain().await;
    let to = |path: &str| json!({ "to": server.name(), "path": path });
    let net = || grant(&[&server], &[]);
    let ended = fetch(net(), &json!([to("/"), to("/"), to("/"), to("/")])).await;
    assert_eq!(ended.lines(), ["200 5 [] hello"; 4]);
    assert_eq!(server.connections(), 1);
    assert_eq!(ended.outcome.receipt.hosts[&server.name()].requests, 4);

    // One that says it goes, and one that goes without a word.
    let mut later = to("/");
    later["pause_ms"] = json!(200);
    let ended = fetch(net(), &json!([to("/last"), to("/"), to("/leaves"), later])).await;
    assert_eq!(ended.lines(), ["200 5 [] hello"; 4]);
    assert_eq!(server.connections(), 4);

    // No step takes over a connection of another.
    let before = server.connections();
    fetch(net(), &json!([to("/")])).await;
    assert_eq!(server.connections(), before + 1);
}

#[tokio::test]
async fn a_connection_is_kept_for_its_own_host_alone() {
    let authority = authority();
    let (plain, encrypted) = (
        Server::plain().await,
        Server::encrypted(&authority, "localhost").await,
    );
    let net = grant(&[&plain, &encrypted], &[&authority]);
    let (http, https) = (
        json!({ "to": plain.name() }),
        json!({ "to": encrypted.name(), "scheme": "https" }),
    );
    // The same host and port, once encrypted and once not, is not the same.
    let wrong = json!({ "to": plain.name(), "scheme": "https" });
    let ended = fetch(net, &json!([http, https, wrong, https, http])).await;
    assert_eq!(
        ended.lines(),
        [
            "200 5 [] hello",
            "200 5 [] hello",
            "error TlsProtocolError",
            "200 5 [] hello",
            "200 5 [] hello",
        ]
    );
    assert_eq!((plain.connections(), encrypted.connections()), (2, 1));
}
