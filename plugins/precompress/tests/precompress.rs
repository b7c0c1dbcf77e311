//! The step over whole releases.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use cofferdam_precompress::{Config, Format, Summary, precompress};
use cofferdam_sdk::testing::{Report, Run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A page that says everything twice, too far apart for gzip.
fn page() -> String {
    let list: String = (0..3000_u32)
        .map(|number| format!("<li>{}</li>\n", number.wrapping_mul(2_654_435_761)))
        .collect();
    list.repeat(2)
}

fn run(release: &Path, config: &Value) -> Report<Summary> {
    let config: Config = serde_json::from_value(config.clone()).unwrap();
    Run::new(release)
        .enter(|| precompress(release, &config))
        .map(Result::unwrap)
}

fn names(release: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(release)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn release(files: &[(&str, &str)]) -> TempDir {
    let release = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = release.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    release
}

#[test]
fn text_assets_get_three_smaller_siblings() {
    let release = release(&[("sub/index.HTML", &page()), ("photo.jpg", &page())]);
    let report = run(release.path(), &json!({}));
    let sub = release.path().join("sub");
    assert_eq!(
        names(&sub),
        [
            "index.HTML",
            "index.HTML.br",
            "index.HTML.gz",
            "index.HTML.zst"
        ]
    );
    assert_eq!(names(release.path()), ["photo.jpg", "sub"]);
    let summary = report.result;
    assert_eq!(summary.assets, 1);
    assert_eq!(summary.bytes, page().len() as u64);
    assert_eq!(summary.formats.len(), 3);
    let smallest = summary.formats.values().map(|form| form.bytes).min();
    assert_eq!(Some(summary.smallest), smallest);
    let last = report.progress.last().unwrap();
    assert_eq!(
        (last.done, last.total),
        (summary.bytes, Some(summary.bytes))
    );
}

#[test]
fn zstd_is_not_written_where_gzip_is_smaller() {
    let release = release(&[("a.txt", &page()[..2000])]);
    run(release.path(), &json!({}));
    assert_eq!(names(release.path()), ["a.txt", "a.txt.br", "a.txt.gz"]);
}

#[test]
fn a_sibling_that_the_package_brought_is_left_alone() {
    let release = release(&[("a.css", &page()), ("a.css.br", "mine")]);
    let report = run(release.path(), &json!({}));
    assert_eq!(
        fs::read_to_string(release.path().join("a.css.br")).unwrap(),
        "mine"
    );
    assert!(!report.result.formats.contains_key(&Format::Brotli));
    assert_eq!(
        names(release.path()),
        ["a.css", "a.css.br", "a.css.gz", "a.css.zst"]
    );
}

#[test]
fn small_hidden_linked_and_incompressible_assets_are_left_alone() {
    let mut state = 7_u64;
    let noise: String = (0..3000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from_u32(0x4E00 + u32::try_from(state >> 50).unwrap()).unwrap()
        })
        .collect();
    let release = release(&[
        ("small.txt", "hello"),
        (".hidden/page.html", &page()),
        ("elsewhere/page.png", &page()),
        (".well-known/page.txt", &page()),
        ("noise.txt", &noise[..1500]),
    ]);
    std::os::unix::fs::symlink("elsewhere/page.png", release.path().join("page.html")).unwrap();
    let report = run(release.path(), &json!({"formats": ["zstd"]}));
    let known = release.path().join(".well-known");
    assert_eq!(names(&known), ["page.txt", "page.txt.zst"]);
    assert_eq!(names(&release.path().join(".hidden")), ["page.html"]);
    assert!(!release.path().join("page.html.zst").exists());
    assert!(!release.path().join("small.txt.zst").exists());
    assert!(report.result.assets <= 2);
}

#[test]
fn the_configuration_narrows_what_is_done() {
    let release = release(&[
        ("public/a.txt", &page()),
        ("src/a.txt", &page()),
        ("public/b.log", &page()),
    ]);
    let config = json!({
        "root": "./public", "min_bytes": 10, "extensions": ["log"], "formats": ["gz"], "quality": 11
    });
    run(release.path(), &config);
    assert_eq!(
        names(&release.path().join("public")),
        ["a.txt", "b.log", "b.log.gz"]
    );
    assert_eq!(names(&release.path().join("src")), ["a.txt"]);
}

#[test]
fn a_root_that_is_not_in_the_release_is_named() {
    let release = release(&[("file", "x")]);
    for (root, problem) in [
        ("../..", "is not a path inside the release"),
        ("nowhere", "is not in the release"),
        ("file", "is not a directory"),
    ] {
        let config: Config = serde_json::from_value(json!({ "root": root })).unwrap();
        let error = precompress(release.path(), &config)
            .unwrap_err()
            .to_string();
        assert!(error.contains(problem) && error.contains(root), "{error}");
    }
}
