//! Clients that go away, and a server that is killed.

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

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_comes_back_serving_and_ends_what_it_left() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut server = Server::start_on(&data);
    server
        .succeed("blog", &json!({}), package::tar(&site("kept")))
        .await;
    server
        .admit("forever", cofferdam_test_guests::program("sleep_forever"))
        .await;
    let head = json!({ "pipeline": { "install": [{ "plugin": "forever" }] } });
    let record = server
        .deploy("blog", &head, package::tar(&site("never")))
        .await;
    let id = record["id"].as_str().unwrap().to_owned();
    wait_for("the endless step", async || {
        let record = server.get_json(&format!("/v1/deployments/{id}")).await;
        (record["status"] == "installing").then_some(())
    })
    .await;
    assert_eq!(
        server.names_in("staging").as_slice(),
        std::slice::from_ref(&id)
    );
    let seen = server.get_json(&format!("/v1/deployments/{id}")).await["events"]["last"]
        .as_u64()
        .unwrap();
    server.kill();

    let server = Server::start_on(&data);
    assert!(server.serves("blog", "/").await.1.contains("kept"));
    let record = server.get_json(&format!("/v1/deployments/{id}")).await;
    assert_eq!(record["status"], "failed", "{record:#}");
    assert_eq!(record["error"]["code"], "interrupted");
    assert_eq!(server.names_in("staging"), Vec::<String>::new());
    let events = server.events(&id, 0).await;
    assert_dense(&events, 1);
    assert!(
        events.len() as u64 > seen,
        "{} events, {seen} were seen before",
        events.len()
    );
    server
        .succeed("blog", &json!({}), package::tar(&site("after")))
        .await;
    assert!(server.serves("blog", "/").await.1.contains("after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_at_any_moment_of_a_deployment_comes_back_whole() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut active = None;
    for round in 0..8_u64 {
        let mut server = Server::start_on(&data);
        // Whatever the last round left is in order by now.
        assert_eq!(server.names_in("staging"), Vec::<String>::new());
        let deployments = server.get_json("/v1/deployments").await;
        for record in deployments["deployments"]
            .as_array()
            .or(deployments.as_array())
            .unwrap()
        {
            let id = record["id"].as_str().unwrap();
            assert!(record["finished_at"].is_string(), "{record:#}");
            assert_dense(&server.events(id, 0).await, 1);
            if record["status"] == "succeeded" && active.is_none() {
                active = Some(());
            }
        }
        if active.is_some() {
            assert_eq!(server.serves("blog", "/").await.0, 200);
        }
        let request = server
            .request(reqwest::Method::POST, "/v1/projects/blog/deployments")
            .body(package::tar(&site(&format!("round {round}"))));
        let upload = tokio::spawn(request.send());
        // Each round lives a little longer, so that the kill falls into every part of a deployment.
        tokio::time::sleep(std::time::Duration::from_millis(4 * round * round)).await;
        server.kill();
        // The answer, if there was one, does not matter here.
        let _ = upload.await.unwrap();
    }
    let server = Server::start_on(&data);
    server
        .succeed("blog", &json!({}), package::tar(&site("the end")))
        .await;
    assert!(server.serves("blog", "/").await.1.contains("the end"));
}
