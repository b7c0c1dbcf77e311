//! An orderly end: nothing new, what is under way gets through.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::harness::{TestServer, site, site_with};

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_under_way_gets_through_and_nothing_new_is_accepted() {
    let mut server = TestServer::start(|options| options.drain = Duration::from_secs(30));
    let package = site_with(&[b' '; 200_000]);
    let headers = format!("Content-Length: {}\r\n", package.len());
    let mut upload = server
        .begin("PUT /v1/projects/stopping/deployments", &headers)
        .await;
    upload.send(&package[..1000]).await;
    let page = "/v1/deployments?project=stopping";
    let page = server
        .eventually(page, |page| page["deployments"][0]["id"].is_string())
        .await;
    let id = page["deployments"][0]["id"].as_str().unwrap();
    let mut listener = server
        .begin(
            &format!("GET /v1/deployments/{id}/events"),
            "Connection: close\r\n",
        )
        .await;
    listener.read_until("\"seq\":1").await;
    // Idle after an answer: one that was never accepted would be reset, not closed.
    let mut idle = server.begin("GET /healthz", "").await;
    idle.read_until("\"ok\"}").await;

    server.ask_to_stop();
    // An event stream ends, and its client connects again somewhere; an idle connection is closed.
    listener.read_to_end().await;
    assert_eq!(idle.read_to_end().await, "");
    drop((listener, idle));
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(server.api).await.is_ok() {
        assert!(
            Instant::now() < deadline,
            "the server still accepts connections"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    upload.send(&package[1000..]).await;
    let answer = upload.answer().await;
    assert_eq!(answer.status, 202, "{answer:?}");
    drop(upload);
    server.wait_until_stopped();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_does_not_come_to_its_end_does_not_hold_the_server() {
    let mut server = TestServer::start(|options| options.drain = Duration::from_millis(500));
    let mut upload = server
        .begin(
            "PUT /v1/projects/stuck/deployments",
            "Content-Length: 100000\r\n",
        )
        .await;
    upload.send(&site()[..1000]).await;
    let page = "/v1/deployments?project=stuck";
    server
        .eventually(page, |page| page["deployments"][0]["id"].is_string())
        .await;
    server.ask_to_stop();
    server.wait_until_stopped();
    drop(upload);
}
