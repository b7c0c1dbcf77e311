//! A large package in little memory.

use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};

use crate::server::Server;

/// Bytes of the package's files together.
const PACKAGE_BYTES: u64 = 300 << 20;

/// Files in it.
const FILES: u64 = 300;

/// What the server may need at its peak. Its parts: the program and its compiled plugins, the buffers of
/// one ingest, one step's memory. A server that held the package, or a tenth of it, would exceed it.
const PEAK_BYTES: u64 = 150 << 20;

/// A generator of bytes that do not compress: xorshift64*.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }
}

/// The pieces of a tar that is made while it is sent.
fn pieces() -> impl Iterator<Item = Bytes> + Send {
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let size = PACKAGE_BYTES / FILES;
    (0..FILES)
        .map(move |at| {
            let mut header = tar::Header::new_ustar();
            header.set_path(format!("files/{at}.bin")).unwrap();
            header.set_size(size);
            header.set_mode(0o644);
            header.set_cksum();
            let mut piece = header.as_bytes().to_vec();
            let from = piece.len();
            piece.resize(from + usize::try_from(size).unwrap(), 0);
            noise.fill(&mut piece[from..]);
            piece.resize(piece.len().next_multiple_of(512), 0);
            Bytes::from(piece)
        })
        .chain(std::iter::once(Bytes::from(vec![0; 1024])))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_of_300_megabytes_passes_through_a_server_that_stays_small() {
    let server = Server::start();
    // Plugins are compiled and every path is warm before the peak is measured.
    server
        .succeed(
            "large",
            &json!({}),
            crate::package::tar(&crate::package::site("warm")),
        )
        .await;
    server.clear_peak();

    let response = server
        .request(reqwest::Method::POST, "/v1/projects/large/deployments")
        .body(reqwest::Body::wrap_stream(stream::iter(
            pieces().map(Ok::<_, std::io::Error>),
        )))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 202);
    let record: Value = response.json().await.unwrap();
    let record = server.end_of(&record).await;
    assert_eq!(record["status"], "succeeded", "{record:#}");
    assert_eq!(record["release"]["files"], FILES);
    assert_eq!(record["release"]["bytes"], PACKAGE_BYTES);
    let peak = server.memory("VmHWM");
    assert!(
        peak < PEAK_BYTES,
        "the server's peak was {} MiB",
        peak >> 20
    );
}
