//! What steps may touch: nothing but what they were given, and no more of it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use crate::harness::{Run, program, sandbox};
use bytes::Bytes;
use cofferdam_sandbox::{Access, Error, InputError, Preopen, Stdin, Verdict};
use serde_json::json;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn every_way_to_fill_the_disk_ends_at_the_quota() {
    for how in ["stream", "append", "write", "set-size", "sparse"] {
        let run = Run::of("hog_disk")
            .config(json!({ "how": how }))
            .limits(|limits| limits.disk_bytes = 4 * MIB);
        let started = run.start();
        let release = started.release.path().to_path_buf();
        // Kept until the file was looked at.
        let (ended, size) = {
            let crate::harness::Started {
                step,
                release: _release,
                scratch: _scratch,
            } = started;
            let kept = crate::harness::Started {
                step,
                release: TempDir::new().unwrap(),
                scratch: TempDir::new().unwrap(),
            };
            let ended = kept.end().await;
            let size = fs::metadata(release.join("big")).unwrap().len();
            (ended, size)
        };
        let Verdict::DiskExceeded { message } = &ended.outcome.verdict else {
            panic!("{how}: {:?}", ended.outcome)
        };
        assert!(message.contains("4194304 bytes"), "{message}");
        assert!(
            ended.lines()[0].starts_with("refused"),
            "{how}: {:?}",
            ended.lines()
        );
        assert!(size <= 4 * MIB, "{how}: {size}");
        assert!(ended.outcome.receipt.bytes_written <= 4 * MIB);
        assert!(!ended.outcome.host_disk_full);
    }
}

#[tokio::test]
async fn every_way_to_make_files_ends_at_the_quota() {
    for how in ["files", "directories", "symlinks", "links"] {
        let run = Run::of("hog_disk")
            .config(json!({ "how": how }))
            .limits(|limits| limits.files = 50);
        let ended = run.end().await;
        let Verdict::DiskExceeded { message } = &ended.outcome.verdict else {
            panic!("{how}: {:?}", ended.outcome)
        };
        assert!(message.contains("50 files"), "{message}");
        assert_eq!(ended.outcome.receipt.files_created, 50, "{how}");
    }
}

#[tokio::test]
async fn a_program_that_copes_with_a_full_disk_succeeds() {
    let run = Run::of("hog_disk")
        .config(json!({ "politely": true }))
        .limits(|limits| limits.disk_bytes = MIB);
    assert_eq!(run.end().await.outcome.verdict, Verdict::Succeeded);
}

#[tokio::test]
async fn open_descriptors_are_bounded() {
    let ended = Run::of("open_many")
        .limits(|limits| limits.handles = 32)
        .end()
        .await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
    assert!(
        ended.lines()[0].starts_with("refused after 2"),
        "{:?}",
        ended.lines()
    );
    assert!(ended.outcome.receipt.peak_handles <= 32);
}

#[tokio::test]
async fn ordinary_files_behave_ordinarily() {
    let ended = Run::of("files").end().await;
    assert_eq!(
        ended.outcome.verdict,
        Verdict::Succeeded,
        "{:?}",
        ended.lines()
    );
    assert_eq!(ended.lines(), ["all is well"]);
    let receipt = &ended.outcome.receipt;
    assert!(receipt.bytes_read > 0, "{receipt:?}");
    assert!(receipt.files_opened > 0, "{receipt:?}");
}

#[tokio::test]
async fn relative_paths_are_relative_to_the_release() {
    let ended = Run::of("relative_paths").end().await;
    assert_eq!(
        ended.outcome.verdict,
        Verdict::Succeeded,
        "{:?}",
        ended.lines()
    );
    assert_eq!(
        ended.lines(),
        ["relative", "relative", r#"["a", "moved.txt"]"#, "/"]
    );
}

#[tokio::test]
async fn no_known_trick_leaves_the_directories_or_changes_what_is_read_only() {
    let (other, frozen) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(other.path().join("theirs"), "theirs").unwrap();
    fs::write(frozen.path().join("fixed"), "fixed").unwrap();
    fs::create_dir(frozen.path().join("deep")).unwrap();
    let dated = fs::metadata(frozen.path().join("fixed"))
        .unwrap()
        .modified()
        .unwrap();

    let run = Run::of("escape")
        .directory("/other", Access::ReadWrite, other.path())
        .directory("/frozen", Access::ReadOnly, frozen.path());
    fs::create_dir(run.release.path().join("inside")).unwrap();
    let mut started = run.start();
    let mut lines = Vec::new();
    while let Some(event) = started.step.next_event().await {
        if let cofferdam_sandbox::StepEvent::Line { text, .. } = event {
            lines.push(text);
        }
    }
    let must_work = [
        "rename inside",
        "rename from . to /release",
        "link inside",
        "relative link",
        "read through a relative link",
        "read read-only",
    ];
    assert!(lines.len() > 45, "{lines:#?}");
    for line in &lines {
        let (trick, came) = line.split_once(": ").unwrap();
        assert_eq!(
            came == "WORKED",
            must_work.contains(&trick),
            "{line}\nof {lines:#?}"
        );
    }
    let of = |trick: &str| lines.iter().find(|line| line.starts_with(trick)).unwrap();
    assert!(
        of("link into another preopen").contains("cross-device"),
        "{}",
        of("link into another preopen")
    );
    let refusal = of("link out of read-only");
    assert!(refusal.contains("not-permitted"), "{refusal}");

    assert_eq!(
        started.step.outcome().await.unwrap().verdict,
        Verdict::Succeeded
    );
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    assert_eq!(fs::read(other.path().join("theirs")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(frozen.path()).unwrap().count(), 2);
    assert_eq!(fs::read(frozen.path().join("fixed")).unwrap(), b"fixed");
    assert_eq!(
        fs::metadata(frozen.path().join("fixed"))
            .unwrap()
            .modified()
            .unwrap(),
        dated
    );
}

#[tokio::test]
async fn a_directory_that_another_step_swaps_for_a_link_leads_nowhere() {
    let base = TempDir::new().unwrap();
    let (shared, outside) = (base.path().join("shared"), base.path().join("outside"));
    for directory in [
        &shared,
        &outside,
        &shared.join("door"),
        &outside.join("room"),
    ] {
        fs::create_dir(directory).unwrap();
    }
    for directory in [&outside, &shared.join("door")] {
        fs::write(directory.join("theirs"), "theirs").unwrap();
    }
    let snapshot = || {
        let mut entries: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let content = fs::read(&path).ok();
                (path, content, metadata.mode(), metadata.modified().unwrap())
            })
            .collect();
        entries.sort();
        (entries, fs::metadata(&outside).unwrap().modified().unwrap())
    };
    let before = snapshot();
    let run = |role: &str| {
        Run::of("swap")
            .config(json!({ "role": role }))
            .directory("/shared", Access::ReadWrite, &shared)
            .end()
    };
    let (swapped, knocked) = tokio::join!(run("swap"), run("knock"));
    for ended in [&swapped, &knocked] {
        assert_eq!(
            ended.outcome.verdict,
            Verdict::Succeeded,
            "{:?}",
            ended.lines()
        );
    }
    // It met the link, and was refused.
    let refusals = knocked.lines()[0].strip_prefix("refused ").unwrap();
    assert_ne!(refusals, "0");
    assert_eq!(before, snapshot());
}

#[tokio::test]
async fn the_executable_bit_is_set_on_the_file_and_nowhere_else() {
    let mut started = Run::of("report").start();
    while started.step.next_event().await.is_some() {}
    let mode = fs::metadata(started.release.path().join("tool"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(
        started.step.outcome().await.unwrap().verdict,
        Verdict::Succeeded
    );
}

#[tokio::test]
async fn the_network_is_not_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let ended = Run::of("sockets").config(json!({ "to": to })).end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
    assert_eq!(ended.lines().len(), 4);
    for line in ended.lines() {
        assert!(line.contains(": refused"), "{line}");
    }
}

#[tokio::test]
async fn numbers_lead_to_nothing_that_was_not_given() {
    let ended = Run::of("reach").end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
    let (tries, facts): (Vec<&str>, Vec<&str>) = ended
        .lines()
        .iter()
        .partition(|line| line.contains(": WORKED") || line.contains(": refused"));
    assert!(tries.len() > 20, "{tries:?}");
    for line in tries {
        assert!(line.contains(": refused"), "{line}");
    }
    assert_eq!(
        facts,
        [
            "files by number 0",
            "the clock counts from the start true",
            "nothing of the host's environment true",
            "arguments 1",
            "directories . /release /tmp",
        ]
    );
    // A number of the host's table that the guest was never given: not even a question is answered.
    for handle in [100, 4096, 1 << 27, u64::from(u32::MAX)] {
        let run = Run::of("reach").config(json!({ "handle": handle }));
        let ended = run.end().await;
        let Verdict::Trapped { message } = &ended.outcome.verdict else {
            panic!("{handle}: {:?}", ended.outcome)
        };
        assert!(message.contains("handle"), "{message}");
    }
}

#[tokio::test]
async fn the_environment_is_what_was_granted_and_the_context() {
    let mut run = Run::of("environment").config(json!({ "a": 1 }));
    run.spec.env.insert("LANG".into(), "C".into());
    run.spec
        .env
        .insert("COFFERDAM_PROJECT".into(), "an impostor".into());
    let ended = run.end().await;
    assert_eq!(
        ended.lines(),
        [
            "env COFFERDAM_CONFIG={\"a\":1}",
            "env COFFERDAM_DEPLOYMENT=0190a7c0-0000-7000-8000-000000000000",
            "env COFFERDAM_PROJECT=blog",
            "env COFFERDAM_STEP=install-1",
            "env LANG=C",
            "args 1",
            "cwd /",
        ]
    );
}

#[tokio::test]
async fn input_streams_through() {
    let (run, input) = Run::of("read_stdin").stdin();
    let started = run.start();
    let sending = tokio::spawn(async move {
        for _ in 0..100 {
            input.send(Ok(Bytes::from(vec![1; 100_000]))).await.unwrap();
            input.send(Ok(Bytes::new())).await.unwrap();
        }
    });
    let ended = started.end().await;
    sending.await.unwrap();
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
    assert!(
        ended.lines()[1].starts_with("10000000 bytes"),
        "{:?}",
        ended.lines()
    );
}

#[tokio::test]
async fn an_error_of_the_input_is_an_error_to_the_guest_and_told_apart() {
    let (run, input) = Run::of("read_stdin").stdin();
    let started = run.start();
    let error = InputError {
        message: "the upload broke off".into(),
    };
    input
        .send(Ok(Bytes::from_static(b"some bytes")))
        .await
        .unwrap();
    input.send(Err(error.clone())).await.unwrap();
    let ended = started.end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Exited { code: 1 });
    assert_eq!(ended.outcome.input_error, Some(error));
    assert!(
        ended.lines()[1].starts_with("after 10 bytes"),
        "{:?}",
        ended.lines()
    );
}

#[tokio::test]
async fn waiting_for_input_is_not_the_steps_own_time() {
    let (run, input) = Run::of("read_stdin")
        .limits(|limits| limits.wall_ms = 200)
        .stdin();
    let mut started = run.start();
    started.until_line("reading").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    input.send(Ok(Bytes::from_static(b"late"))).await.unwrap();
    drop(input);
    let ended = started.end().await;
    assert_eq!(ended.outcome.verdict, Verdict::Succeeded);
    assert!(
        ended.outcome.receipt.waited_ms >= 400,
        "{:?}",
        ended.outcome.receipt
    );
    assert!(
        ended.outcome.receipt.wall_ms < 200,
        "{:?}",
        ended.outcome.receipt
    );
}

#[tokio::test]
async fn a_cancel_ends_a_program_that_waits_for_input() {
    let (run, input) = Run::of("read_stdin").stdin();
    let mut started = run.start();
    started.until_line("reading").await;
    started.step.cancel();
    assert_eq!(started.end().await.outcome.verdict, Verdict::Cancelled);
    assert!(input.is_closed());
}

#[tokio::test]
async fn a_program_that_reads_only_the_beginning_lets_go_of_the_input() {
    let (run, input) = Run::of("read_stdin").config(json!({ "most": 10 })).stdin();
    let started = run.start();
    input
        .send(Ok(Bytes::from_static(b"0123456789abcdef")))
        .await
        .unwrap();
    assert_eq!(started.end().await.outcome.verdict, Verdict::Succeeded);
    assert!(input.is_closed());
}

#[tokio::test]
async fn specifications_that_contradict_themselves_are_refused() {
    let directory = TempDir::new().unwrap();
    let component = program("succeed");
    let start = |paths: &[&str]| {
        let preopens = paths
            .iter()
            .map(|path| Preopen::open(*path, Access::ReadOnly, directory.path()).unwrap())
            .collect();
        sandbox()
            .start(&component, Run::of("succeed").spec, preopens, Stdin::Closed)
            .map(drop)
    };
    assert!(start(&["/a", "/b"]).is_ok());
    for paths in [&["/a", "/a"][..], &["a"], &["/a/../b"]] {
        assert!(
            matches!(start(paths), Err(Error::Specification { .. })),
            "{paths:?}"
        );
    }
    let mut run = Run::of("succeed");
    run.spec.env.insert("A=B".into(), String::new());
    let refused = sandbox().start(&component, run.spec, Vec::new(), Stdin::Closed);
    assert!(matches!(refused, Err(Error::Specification { .. })));
}
