//! Who is asked, and what one hears who asks for nobody.

use std::sync::Arc;

use cofferdam_deploy::{Route, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{get, send};
use super::release::{Server, Tree};

#[tokio::test]
async fn a_request_is_routed_by_its_host_and_by_nothing_else() {
    let (one, two) = (
        Tree::new().file("index.html", "one"),
        Tree::new().file("index.html", "two"),
    );
    let server = Server::start([
        ("one.localhost", one.route()),
        ("two.localhost", two.route()),
    ])
    .await;
    for (line, host, body) in [
        ("GET / HTTP/1.1", "one.localhost", "one"),
        ("GET / HTTP/1.1", "TWO.localhost.:8080", "two"),
        (
            "GET http://two.localhost:80/ HTTP/1.1",
            "one.localhost",
            "two",
        ),
        ("GET / HTTP/1.0", "one.localhost", "one"),
    ] {
        let answer = send(server.address, line, &[("host", host)]).await;
        assert_eq!((answer.status, answer.text()), (200, body), "{line} {host}");
    }
}

#[tokio::test]
async fn a_stranger_learns_that_there_is_no_project_and_no_name_of_one() {
    let tree = Tree::new().file("index.html", "secret");
    let server = Server::start([("hidden-name.localhost", tree.route())]).await;
    for host in [
        "other.localhost",
        "localhost",
        "127.0.0.1:8080",
        "[::1]:8080",
    ] {
        let answer = send(server.address, "GET / HTTP/1.1", &[("host", host)]).await;
        assert_eq!(answer.status, 404);
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(answer.header("server"), None);
        assert!(answer.text().contains("No project here"));
        assert!(!answer.text().contains("hidden-name") && !answer.text().contains(host));
    }
}

#[tokio::test]
async fn a_request_for_nobody_is_refused() {
    let tree = Tree::new().file("index.html", "x");
    let server = tree.serve().await;
    for headers in [
        &[][..],
        &[("host", "a b")],
        &[("host", "site.localhost"), ("host", "site.localhost")],
    ] {
        assert_eq!(
            send(server.address, "GET / HTTP/1.1", headers).await.status,
            400,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_project_that_is_being_replaced_says_when_to_come_back() {
    let tree = Tree::new();
    let server = tree.serve().await;
    let route = Arc::into_inner(tree.route()).unwrap();
    server.swap(
        "site.localhost",
        Arc::new(Route::new(
            route.project,
            route.release,
            route.digest,
            route.service,
            Target::Replacing,
        )),
    );
    let answer = get(server.address, "/", &[]).await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("2"))
    );
}

#[tokio::test]
async fn a_question_about_the_server_itself_has_an_empty_answer() {
    let tree = Tree::new();
    let answer = send(
        tree.serve().await.address,
        "OPTIONS * HTTP/1.1",
        &[("host", "x")],
    )
    .await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order() {
    let tree = Tree::new().file("a", "first").file("b", "second");
    let server = tree.serve().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let requests = "GET /a HTTP/1.1\r\nhost: site.localhost\r\n\r\n\
                    HEAD /b HTTP/1.1\r\nhost: site.localhost\r\n\r\n\
                    GET /missing HTTP/1.1\r\nhost: site.localhost\r\n\r\n\
                    GET /b HTTP/1.1\r\nhost: site.localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut raw = String::new();
    stream.read_to_string(&mut raw).await.unwrap();
    let statuses: Vec<_> = raw
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &raw[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "200", "404", "200"]);
    assert_eq!(
        (raw.matches("first").count(), raw.matches("second").count()),
        (1, 1)
    );
    assert!(raw.ends_with("\r\n\r\nsecond"));
}
