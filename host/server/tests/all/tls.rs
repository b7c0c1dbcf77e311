//! TLS: both listeners, both protocols, and a certificate that is exchanged under way.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cofferdam_server::{Error, Server, ServerOptions, TlsFiles};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

use crate::harness::TestServer;

/// Writes a new certificate for localhost and its key, and answers the certificate.
fn certificate(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

fn files(directory: &Path) -> TlsFiles {
    TlsFiles {
        cert: directory.join("cert.pem"),
        key: directory.join("key.pem"),
    }
}

/// A TLS connection that believes this certificate alone.
async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// What `/healthz` answers over a TLS connection, by the protocol that was agreed on.
async fn health(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    protocols: &[&str],
) -> (Option<Vec<u8>>, u16) {
    let stream = connect(address, trusted, protocols).await.unwrap();
    let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let request = http::Request::get("https://localhost/healthz").header("host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let io = TokioIo::new(stream);
    let response = if agreed.as_deref() == Some(b"h2") {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    (agreed, status)
}

#[tokio::test]
async fn both_protocols_are_agreed_on_under_tls() {
    let directory = tempfile::tempdir().unwrap();
    let trusted = certificate(directory.path());
    let tls = files(directory.path());
    let server = TestServer::start(|options| options.tls = Some(tls));
    let h2 = Some(b"h2".to_vec());
    assert_eq!(
        health(server.api, &trusted, &["h2", "http/1.1"]).await,
        (h2, 200)
    );
    let h1 = Some(b"http/1.1".to_vec());
    assert_eq!(health(server.api, &trusted, &["http/1.1"]).await, (h1, 200));
    assert_eq!(health(server.api, &trusted, &[]).await, (None, 200));
    // Without TLS nothing is answered, and the connection ends.
    let mut plain = server.connect().await;
    plain
        .send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let mut answer = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain.0, &mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[tokio::test]
async fn a_certificate_that_changes_is_read_again_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let first = certificate(directory.path());
    let tls = files(directory.path());
    let server = TestServer::start(|options| options.tls = Some(tls));
    assert_eq!(health(server.api, &first, &[]).await.1, 200);
    std::fs::write(directory.path().join("cert.pem"), "no certificate").unwrap();
    // Long enough for several looks at the files.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(health(server.api, &first, &[]).await.1, 200);
    let second = certificate(directory.path());
    let deadline = Instant::now() + Duration::from_secs(60);
    while connect(server.api, &second, &[]).await.is_err() {
        assert!(Instant::now() < deadline, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(connect(server.api, &first, &[]).await.is_err());
}

#[tokio::test]
async fn without_tls_the_api_stays_on_this_machine() {
    let data = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new(data.path().join("data"));
    options.api = (Ipv4Addr::UNSPECIFIED, 0).into();
    options.ingress = (Ipv4Addr::LOCALHOST, 0).into();
    let refused = Server::bind(options.clone()).await;
    assert!(matches!(refused, Err(Error::Exposed { .. })), "{refused:?}");
    assert!(!data.path().join("data").exists());
    options.insecure = true;
    drop(Server::bind(options).await.unwrap());
}

#[tokio::test]
async fn files_that_are_no_certificate_are_named() {
    let directory = tempfile::tempdir().unwrap();
    certificate(directory.path());
    std::fs::write(directory.path().join("key.pem"), "").unwrap();
    let mut options = ServerOptions::new(directory.path().join("data"));
    options.api = (Ipv4Addr::LOCALHOST, 0).into();
    options.ingress = (Ipv4Addr::LOCALHOST, 0).into();
    options.tls = Some(files(directory.path()));
    let refused = Server::bind(options).await.unwrap_err().to_string();
    assert!(refused.contains("key.pem"), "{refused}");
}
