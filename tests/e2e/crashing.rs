//! Clients that go away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::package::{self, site};
use crate::server::{Server, assert_dense, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_the_middle_of_its_upload_fails_its_deployment_and_leaves_nothing()
 {
    let server = Server::start();
    server
        .succeed("blog", &json!({}), package::tar(&site("before")))
        .await;
    let mut archive = package::tar(&site("half"));
    archive.truncate(archive.len() / 2);
    {
        let mut stream = TcpStream::connect(server.api).unwrap();
        let head = format!(
            "POST /v1/projects/blog/deployments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\n",
            server.token
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&archive).unwrap();
        stream.flush().unwrap();
        // Leave only after the deployment has begun, or there is nothing to interrupt.
        wait_for("the deployment to begin", async || {
            let list = server
                .get_json("/v1/deployments?project=blog&limit=1")
                .await;
            list.to_string().contains("extracting").then_some(())
        })
        .await;
    }
    let ended = wait_for("the end", async || {
        let list = server
            .get_json("/v1/deployments?project=blog&status=failed")
            .await;
        let list = list["deployments"]
            .as_array()
            .or(list.as_array())
            .unwrap()
            .clone();
        list.first().cloned()
    })
    .await;
    assert_eq!(ended["error"]["code"], "upload_interrupted", "{ended:#}");
    assert_dense(&server.events(ended["id"].as_str().unwrap(), 0).await, 1);
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    assert!(server.serves("blog", "/").await.1.contains("before"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_after_its_package_is_durable_stops_nothing() {
    let server = Server::start();
    let archive = package::tar(&site("all of it"));
    let mut stream = TcpStream::connect(server.api).unwrap();
    let head = format!(
        "POST /v1/projects/blog/deployments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        server.token,
        archive.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&archive).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 202");
    drop(stream);
    wait_for("the site", async || {
        (server.serves("blog", "/").await.0 == 200).then_some(())
    })
    .await;
}
