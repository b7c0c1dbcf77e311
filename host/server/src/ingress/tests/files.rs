//! Which files are found, and which never are.

use std::sync::atomic::{AtomicBool, Ordering};

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use super::super::site::{Found, Site, find};
use super::client::{ask, get};
use super::release::Tree;

#[tokio::test]
async fn a_file_comes_with_its_type_and_nothing_to_sniff() {
    let tree = Tree::new()
        .file("index.html", "<p>home</p>")
        .file("style.CSS", "a{}")
        .file("a b/\u{e9}.txt", "text")
        .file("app.js.gz", "packed")
        .file("LICENSE", "free")
        .file("empty.txt", "");
    let server = tree.serve().await;
    for (path, kind, body) in [
        ("/", "text/html; charset=utf-8", "<p>home</p>"),
        ("/?query=%zz", "text/html; charset=utf-8", "<p>home</p>"),
        ("//index.html", "text/html; charset=utf-8", "<p>home</p>"),
        ("/style.CSS", "text/css; charset=utf-8", "a{}"),
        ("/a%20b/%c3%a9.txt", "text/plain; charset=utf-8", "text"),
        ("/app.js.gz", "application/gzip", "packed"),
        ("/LICENSE", "application/octet-stream", "free"),
        ("/empty.txt", "text/plain; charset=utf-8", ""),
    ] {
        // Twice: from the disk, and from the shelf.
        for _ in 0..2 {
            let answer = get(server.address, path, &[]).await;
            assert_eq!((answer.status, answer.text()), (200, body), "{path}");
            assert_eq!(answer.header("content-type"), Some(kind), "{path}");
            assert_eq!(
                answer.header("content-length"),
                Some(body.len().to_string().as_str()),
                "{path}"
            );
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(
                answer.header("cache-control"),
                Some("public, max-age=0, must-revalidate")
            );
            assert_eq!(answer.header("last-modified"), None);
            assert_eq!(answer.header("content-encoding"), None);
            assert_eq!(answer.header("server"), None);
        }
    }
}

#[tokio::test]
async fn a_directory_with_an_index_is_found_with_a_slash() {
    let tree = Tree::new()
        .file("docs/index.html", "docs")
        .file("bare/file", "x")
        .file("odd name/index.html", "odd")
        .link("alias", "docs");
    let server = tree.serve().await;
    for (path, location) in [
        ("/docs", "/docs/"),
        ("/docs?a=b&c", "/docs/?a=b&c"),
        ("//docs", "/docs/"),
        ("/odd%20name", "/odd%20name/"),
        ("/alias", "/alias/"),
    ] {
        let answer = get(server.address, path, &[]).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (308, Some(location)),
            "{path}"
        );
    }
    for path in ["/docs/", "/docs//", "/docs/index.html", "/alias/"] {
        assert_eq!(
            get(server.address, path, &[]).await.text(),
            "docs",
            "{path}"
        );
    }
    for path in [
        "/bare",
        "/bare/",
        "/",
        "/docs/index.html/",
        "/bare/file/",
        "/bare/file/x",
    ] {
        assert_eq!(get(server.address, path, &[]).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn nothing_outside_the_root_is_reached_by_any_spelling() {
    let tree = Tree::new()
        .file("index.html", "in")
        .file("sub/x", "x")
        .file("../secret.txt", "SECRET");
    let absolute = tree.path("../secret.txt");
    let tree = tree
        .link("relative", "../secret.txt")
        .link("absolute", &absolute)
        .link("directory", "..")
        .link("sub/twice", "../relative")
        .link("self", "self")
        .link("proc", "/proc/self/environ");
    let server = tree.serve().await;
    for path in [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/%2E%2e/secret.txt",
        "/.%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/%252e%252e/secret.txt",
        "/%252e%252e%252fsecret.txt",
        "/..\\secret.txt",
        "/..%5csecret.txt",
        "/sub\\..\\..\\secret.txt",
        "/....//secret.txt",
        "/;/../secret.txt",
        "/relative",
        "/absolute",
        "/directory/secret.txt",
        "/directory",
        "/sub/twice",
        "/self",
        "/proc",
        "/%c0%ae%c0%ae/secret.txt",
        "/secret.txt%00.html",
        "/index.html%00",
        "/%",
    ] {
        for method in ["GET", "HEAD"] {
            let answer = ask(server.address, method, path, &[]).await;
            assert!(
                matches!(answer.status, 400 | 404),
                "{method} {path}: {}",
                answer.status
            );
            assert!(!answer.text().contains("SECRET"), "{path}");
        }
    }
    let long = format!("/{}", "x".repeat(5000));
    assert_eq!(get(server.address, &long, &[]).await.status, 404);
    let deep = "/x".repeat(5000);
    assert_eq!(get(server.address, &deep, &[]).await.status, 404);
}

#[tokio::test]
async fn a_dot_file_is_not_served_by_its_name_or_by_another() {
    let tree = Tree::new()
        .file(".env", "SECRET")
        .file(".git/config", "SECRET")
        .file("sub/.htpasswd", "SECRET")
        .file(".well-known/security.txt", "contact")
        .file(".well-known/.hidden", "SECRET")
        .file("sub/.well-known/x", "SECRET")
        .link("env.txt", ".env")
        .link("git", ".git")
        .link("sub/pass.txt", "../sub/.htpasswd")
        .link("chain", "env.txt")
        .link("contact", ".well-known/security.txt")
        .file("page.html", "page, longer than its sibling")
        .link("page.html.br", ".env");
    let server = tree.serve().await;
    for path in [
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/sub/.htpasswd",
        "/.well-known/.hidden",
        "/sub/.well-known/x",
        "/env.txt",
        "/git/config",
        "/sub/pass.txt",
        "/chain",
        "/page.html.br",
    ] {
        let answer = get(server.address, path, &[]).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.text().contains("SECRET"), "{path}");
    }
    for path in ["/.well-known/security.txt", "/contact"] {
        assert_eq!(
            get(server.address, path, &[]).await.text(),
            "contact",
            "{path}"
        );
    }
    let answer = get(server.address, "/page.html", &[("accept-encoding", "br")]).await;
    assert_eq!(
        (answer.header("content-encoding"), answer.status),
        (None, 200)
    );
}

#[tokio::test]
async fn what_is_missing_gets_the_sites_own_page() {
    let tree = Tree::new()
        .file("404.html", "<p>our own words, long enough to compress</p>")
        .file("404.html.gz", "packed");
    let server = tree.serve().await;
    for path in ["/missing", "/missing/", "/.env", "/a/../b"] {
        let answer = get(
            server.address,
            path,
            &[("range", "bytes=0-1"), ("if-none-match", "*")],
        )
        .await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(
            answer.text(),
            "<p>our own words, long enough to compress</p>"
        );
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(answer.header("etag"), None);
    }
    let answer = get(server.address, "/missing", &[("accept-encoding", "gzip")]).await;
    assert_eq!(
        (
            answer.status,
            answer.text(),
            answer.header("content-encoding")
        ),
        (404, "packed", Some("gzip"))
    );
    let answer = ask(server.address, "HEAD", "/missing", &[]).await;
    assert_eq!(
        (
            answer.status,
            answer.body.len(),
            answer.header("content-length")
        ),
        (404, 0, Some("45"))
    );
    assert_eq!(get(server.address, "/404.html", &[]).await.status, 200);
}

#[tokio::test]
async fn files_are_read_and_nothing_else() {
    let tree = Tree::new().file("index.html", "home");
    let server = tree.serve().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
        let answer = ask(server.address, method, "/", &[]).await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD, OPTIONS")),
            "{method}"
        );
    }
    let answer = ask(server.address, "OPTIONS", "/", &[]).await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
}

#[test]
fn a_file_that_is_replaced_by_its_like_is_there_all_the_time() {
    let tree = Tree::new().file("page.html", "alike").file("like", "alike");
    let dir = Dir::open_ambient_dir(tree.path(""), ambient_authority()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // As it is done when two releases begin to share a file.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                std::fs::copy(tree.path("like"), tree.path("next")).unwrap();
                std::fs::rename(tree.path("next"), tree.path("page.html")).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let missed = (0..5_000)
            .filter(|_| {
                let site = Site {
                    release: [1; 16],
                    digest: "blake3:00",
                    service: "web",
                    dir: &dir,
                };
                !matches!(find(site, "page.html"), Ok(Found::Page(_)))
            })
            .count();
        over.store(true, Ordering::Relaxed);
        assert_eq!(missed, 0);
    });
}
