//! Reproducible deployments: the same release, whichever server made it and when.

use std::path::Path;

use serde_json::{Value, json};

use crate::package::{self, site};
use crate::server::Server;

/// What a step saw that looked at everything that differs between machines, and the digest of its release.
async fn release(server: &Server, project: &str, reproducible: bool) -> (Value, String) {
    let config = if reproducible {
        json!({})
    } else {
        json!({ "sleep_ms": 1, "wait_ms": 2 })
    };
    let head = json!({
        "reproducible": reproducible,
        "pipeline": { "install": [{ "plugin": "observe", "config": config }] },
    });
    let record = server
        .succeed(project, &head, package::tar(&site("the same")))
        .await;
    let (_, seen) = server.serves(project, "/seen.txt").await;
    (record["release"]["digest"].clone(), seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_make_the_same_release_of_a_reproducible_deployment() {
    // Another path, and another file system where there is one.
    let elsewhere = match Path::new("/dev/shm") {
        shm if shm.is_dir() => tempfile::tempdir_in(shm).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    };
    let one = Server::start();
    let other = Server::start_on(&elsewhere.path().join("a/longer/path/to/data"));
    for server in [&one, &other] {
        server
            .admit("observe", cofferdam_test_guests::program("observe"))
            .await;
    }
    let (digest, seen) = release(&one, "blog", true).await;
    assert!(digest.is_string(), "{digest}");
    assert_eq!(release(&one, "blog", true).await.0, digest);
    let (elsewhere, there) = release(&other, "blog", true).await;
    assert_eq!(there, seen);
    assert_eq!(elsewhere, digest);

    // Without it, what the step saw makes two releases of one package.
    let (first, _) = release(&one, "blog", false).await;
    let (second, _) = release(&other, "blog", false).await;
    assert_ne!(first, second);
}
