use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_release_is_published_at_a_place_that_is_free() {
    let data = tree();
    let staging = data.path().join("staging/1");
    let release = data.path().join("releases/blog/1");
    put(&data, "staging/1/index.html", "hello");
    fs::create_dir_all(release.parent().unwrap()).unwrap();
    let tree = inspect(&staging).unwrap();
    make_durable(&staging).unwrap();
    durable::sync_each(&staging).unwrap();
    publish(&staging, &release).unwrap();
    assert!(!staging.exists());
    assert_eq!(inspect(&release).unwrap(), tree);

    // Not over another, even an empty one.
    fs::create_dir(&staging).unwrap();
    let taken = publish(&staging, &release).unwrap_err();
    assert!(matches!(taken, FreezeError::Exists { .. }), "{taken}");
    assert!(staging.exists());
    assert_eq!(inspect(&release).unwrap(), tree);
    let empty = data.path().join("releases/blog/2");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(
        publish(&staging, &empty),
        Err(FreezeError::Exists { .. })
    ));

    let nowhere = publish(
        &data.path().join("staging/9"),
        &data.path().join("releases/blog/9"),
    );
    assert!(matches!(nowhere, Err(FreezeError::Io { .. })));
}

#[test]
fn a_release_that_is_replaced_is_there_all_the_time() {
    let data = tree();
    let (staging, trash) = (data.path().join("staging/1"), data.path().join("trash"));
    let release = data.path().join("releases/blog/1");
    fs::create_dir_all(release.parent().unwrap()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for round in 0..200 {
            let _ = fs::remove_dir_all(&staging);
            put(&data, "staging/1/index.html", &round.to_string());
            // The first has nothing to take the place of.
            replace(&staging, &release, &trash).unwrap();
            assert_eq!(staging.exists(), round > 0, "what was there is here now");
            let page = release.join("index.html");
            assert_eq!(fs::read_to_string(&page).unwrap(), round.to_string());
            if round == 0 {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        assert!(page.exists());
                    }
                });
            }
        }
    });
    // Nothing is thrown away for a tree that is not there.
    assert!(replace(&data.path().join("nothing"), &release, &trash).is_err());
    assert!(release.join("index.html").exists());
}

/// Says that it is over, also when it was not to be.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_discarded_is_gone_at_once_and_removed_later() {
    let data = tree();
    let trash = data.path().join("trash");
    empty_trash(&trash).unwrap();
    for n in 0..3 {
        put(&data, "staging/d/e/file", "x");
        put(&data, "staging/top", "x");
        symlink("/etc", data.path().join("staging/link")).unwrap();
        discard(&data.path().join("staging"), &trash).unwrap();
        assert!(!data.path().join("staging").exists());
        assert_eq!(fs::read_dir(&trash).unwrap().count(), n + 1);
    }
    discard(&data.path().join("staging"), &trash).unwrap();
    discard(&put(&data, "file", "x"), &trash).unwrap();
    assert_eq!(fs::read_dir(&trash).unwrap().count(), 4);
    empty_trash(&trash).unwrap();
    assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
    assert!(Path::new("/etc/passwd").exists());
}

/// A guest with a descriptor can go on where paths end.
#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let data = tree();
    let trash = data.path().join("trash");
    let staging = data.path().join("staging");
    fs::create_dir(&staging).unwrap();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = open(&staging, flags, Mode::empty()).unwrap();
    for _ in 0..3000 {
        let name = "a-directory-with-a-name";
        mkdirat(&directory, name, Mode::RWXU).unwrap();
        directory = openat(&directory, name, flags, Mode::empty()).unwrap();
    }
    drop(directory);
    assert!(inspect(&staging).unwrap_err().is_refusal());
    discard(&staging, &trash).unwrap();
    empty_trash(&trash).unwrap();
    assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
}

#[test]
fn several_may_empty_the_trash_at_once() {
    let data = tree();
    let trash = data.path().join("trash");
    for n in 0..2000 {
        put(&data, &format!("trash/{}/{}/{n}", n % 5, n % 37), "x");
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| empty_trash(&trash).unwrap());
        }
    });
    empty_trash(&trash).unwrap();
    assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
}

#[test]
fn a_directory_that_nobody_may_enter_is_removed() {
    let data = tree();
    let trash = data.path().join("trash");
    put(&data, "trash/1/closed/file", "x");
    set_mode(&data.path().join("trash/1/closed"), 0o000);
    empty_trash(&trash).unwrap();
    assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
}
