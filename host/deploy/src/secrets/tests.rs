#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

struct Place {
    directory: tempfile::TempDir,
    ledger: Ledger,
    store: SecretStore,
}

async fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&directory.path().join("ledger.db"))
        .await
        .unwrap();
    let store = SecretStore::new(ledger.clone(), directory.path().join("secrets.key"));
    Place {
        directory,
        ledger,
        store,
    }
}

impl Place {
    fn key(&self) -> PathBuf {
        self.directory.path().join("secrets.key")
    }

    async fn put(&self, project: &str, name: &str, value: &[u8]) -> Result<StoredSecret, Error> {
        let value = Zeroizing::new(value.to_vec());
        self.store
            .put(&project.parse().unwrap(), &name.parse().unwrap(), value)
            .await
    }

    async fn open(&self, project: &str, names: &[&str]) -> Result<Secrets, Error> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.store
            .open("install-1", &project.parse().unwrap(), &names)
            .await
    }
}

fn secrets(values: &[(&str, &[u8])]) -> Secrets {
    let mut secrets = Secrets::default();
    for (name, value) in values {
        secrets.insert(*name, *value);
    }
    secrets
}

#[tokio::test]
async fn a_secret_is_opened_as_it_was_put_and_stored_as_something_else() {
    let place = place().await;
    let value = b"\x00 correct horse \xff";
    let stored = place.put("blog", "TOKEN", value).await.unwrap();
    assert!(stored.redacted && stored.is_new);
    place.put("blog", "other", b"short").await.unwrap();
    assert_eq!(
        place.open("blog", &["TOKEN", "other"]).await.unwrap(),
        secrets(&[("TOKEN", value), ("other", b"short")])
    );
    let row = place.ledger.secret("blog", "TOKEN").await.unwrap().unwrap();
    assert_eq!(row.sealed.len(), value.len() + 1 + 24 + 16);
    assert!(!row.sealed.windows(7).any(|bytes| bytes == b"correct"));

    let names: Vec<_> = place.store.list(&"blog".parse().unwrap()).await.unwrap();
    let names: Vec<_> = names.iter().map(|view| view.name.as_str()).collect();
    assert_eq!(names, ["TOKEN", "other"]);

    let again = place.put("blog", "TOKEN", b"another value").await.unwrap();
    assert!(!again.is_new);
    assert_eq!(again.secret.created_at, stored.secret.created_at);
    assert_eq!(
        place.open("blog", &["TOKEN"]).await.unwrap(),
        secrets(&[("TOKEN", b"another value")])
    );
}

#[tokio::test]
async fn the_same_value_is_sealed_differently_each_time_and_only_for_its_own_name() {
    let place = place().await;
    for (project, name) in [("blog", "A"), ("blog", "B"), ("shop", "A")] {
        place.put(project, name, b"the same value").await.unwrap();
    }
    let a = place.ledger.secret("blog", "A").await.unwrap().unwrap();
    for (project, name) in [("blog", "B"), ("shop", "A")] {
        let row = place.ledger.secret(project, name).await.unwrap().unwrap();
        assert_ne!(row.sealed, a.sealed);
        // Somebody who may write the ledger puts one row's value into another.
        let swapped = SecretRow {
            sealed: a.sealed.clone(),
            ..row
        };
        place
            .ledger
            .commit(Durability::Process, vec![Change::PutSecret(swapped)])
            .await
            .unwrap();
        let error = place.open(project, &[name]).await.unwrap_err();
        assert!(matches!(error, Error::SecretsUnavailable { .. }), "{error}");
    }
    place.open("blog", &["A"]).await.unwrap();
}

#[tokio::test]
async fn what_does_not_exist_is_denied_by_name_and_another_projects_is_not_there() {
    let place = place().await;
    place.put("shop", "TOKEN", b"of the shop").await.unwrap();
    let error = place.open("blog", &["TOKEN", "../x"]).await.unwrap_err();
    let Error::GrantDenied { step, denied } = &error else {
        panic!("{error}")
    };
    assert_eq!(step, "install-1");
    assert!(
        denied[0].contains("secret TOKEN") && denied[1].contains("../x"),
        "{denied:?}"
    );
    assert_eq!(place.open("blog", &[]).await.unwrap(), Secrets::default());

    let (shop, token) = ("shop".parse().unwrap(), "TOKEN".parse().unwrap());
    place.store.remove(&shop, &token).await.unwrap();
    assert!(place.open("shop", &["TOKEN"]).await.is_err());
    let error = place.store.remove(&shop, &token).await.unwrap_err();
    assert_eq!(error.code(), "not_found");
}

#[tokio::test]
async fn values_and_their_number_have_limits() {
    let place = place().await;
    for bad in [vec![], vec![b'x'; MAX_SECRET_BYTES + 1]] {
        let error = place.put("blog", "A", &bad).await.unwrap_err();
        assert!(matches!(error, Error::SecretInvalid { .. }), "{error}");
    }
    let large = vec![b'x'; MAX_SECRET_BYTES];
    for name in ["A", "B", "C"] {
        place.put("blog", name, &large).await.unwrap();
    }
    place.open("blog", &["A", "B"]).await.unwrap();
    let error = place.open("blog", &["A", "B", "C"]).await.unwrap_err();
    assert_eq!(error.code(), "grant_denied");

    for number in 0..MAX_SECRETS {
        place
            .put("full", &format!("S{number}"), b"1")
            .await
            .unwrap();
    }
    let error = place.put("full", "ONE_MORE", b"1").await.unwrap_err();
    assert_eq!(error.code(), "conflict");
    let short = place.put("full", "S0", b"2").await.unwrap();
    assert!(!short.redacted);
}

#[tokio::test]
async fn the_key_is_private_and_made_once() {
    let place = place().await;
    assert!(!place.key().exists());
    place.put("blog", "A", b"value").await.unwrap();
    let key = fs::read(place.key()).unwrap();
    let mode = fs::metadata(place.key()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    place.put("blog", "B", b"value").await.unwrap();
    assert_eq!(fs::read(place.key()).unwrap(), key);
    let names = fs::read_dir(place.directory.path()).unwrap();
    let left = names
        .map(|entry| entry.unwrap().file_name())
        .find(|name| name.to_string_lossy().ends_with(".tmp"));
    assert_eq!(left, None);
}

#[tokio::test]
async fn a_key_that_is_lost_open_to_others_or_another_is_said_and_nothing_is_made_over_it() {
    let place = place().await;
    place.put("blog", "A", b"value").await.unwrap();
    let key = fs::read(place.key()).unwrap();
    let said = async |word: &str| {
        let opened = place.open("blog", &["A"]).await.unwrap_err();
        assert!(opened.to_string().contains(word), "{opened}");
        opened
    };

    fs::set_permissions(place.key(), fs::Permissions::from_mode(0o640)).unwrap();
    said("0640").await;
    fs::remove_file(place.key()).unwrap();
    let error = said("is missing").await;
    assert_eq!(error.kind(), crate::ErrorKind::Conflict);
    let put = place.put("blog", "B", b"value").await.unwrap_err();
    assert!(put.to_string().contains("is missing"), "{put}");
    assert!(!place.key().exists());

    let private = |bytes: &[u8]| {
        fs::write(place.key(), bytes).unwrap();
        fs::set_permissions(place.key(), fs::Permissions::from_mode(0o600)).unwrap();
    };
    private(b"hello\n");
    said("is not a key").await;
    private(format!("{}\n", "A".repeat(43)).as_bytes());
    said("another key").await;
    private(&key);
    place.open("blog", &["A"]).await.unwrap();

    // When nothing is sealed any more, a lost key may be replaced.
    fs::remove_file(place.key()).unwrap();
    let (blog, a) = ("blog".parse().unwrap(), "A".parse().unwrap());
    place.store.remove(&blog, &a).await.unwrap();
    place.put("blog", "B", b"value").await.unwrap();
    place.open("blog", &["B"]).await.unwrap();
}
