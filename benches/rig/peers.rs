//! Other people's stores.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::server::curl;

/// A docker-registry over a directory, gone with its data when it is dropped.
pub(crate) struct Registry {
    child: Child,
    directory: PathBuf,
    url: String,
    pushed: Mutex<Option<String>>,
}

impl Registry {
    pub(crate) fn start(directory: &Path) -> Self {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).unwrap();
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let config = directory.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
                directory.display()
            ),
        )
        .unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is needed for the comparison");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        Self {
            child,
            directory: directory.to_owned(),
            url: format!("http://{address}/v2/bench/blobs"),
            pushed: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// One monolithic upload: ask for a place, then `PUT` everything with its digest, which the server checks.
    pub(crate) fn push(&self, file: &Path) {
        let digest = format!("sha256:{}", sha256(file));
        let answer = curl()
            .args([
                "--request",
                "POST",
                "--dump-header",
                "-",
                "--output",
                "/dev/null",
            ])
            .arg(format!("{}/uploads/", self.url))
            .output()
            .unwrap();
        let headers = String::from_utf8(answer.stdout).unwrap();
        let location = headers
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .unwrap()
            .trim();
        let done = curl()
            .args([
                "--header",
                "Content-Type: application/octet-stream",
                "--upload-file",
            ])
            .arg(file)
            .arg(format!("{location}&digest={digest}"))
            .status()
            .unwrap();
        assert!(done.success());
        *self.pushed.lock().unwrap() = Some(digest);
    }

    /// Seconds to download what was pushed last.
    pub(crate) fn pull(&self) -> f64 {
        let digest = self.pushed.lock().unwrap().clone().unwrap();
        let start = Instant::now();
        let done = curl()
            .args(["--output", "/dev/null"])
            .arg(format!("{}/{digest}", self.url))
            .status()
            .unwrap();
        assert!(done.success());
        start.elapsed().as_secs_f64()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The digest that the registry wants beforehand: its client's work, so it is known before anything is timed.
pub(crate) fn sha256(file: &Path) -> String {
    static KNOWN: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    if let Some(known) = KNOWN.lock().unwrap().get(file) {
        return known.clone();
    }
    let mut hasher = Sha256::new();
    let mut file_bytes = fs::File::open(file).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file_bytes.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    let digest: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    KNOWN
        .lock()
        .unwrap()
        .insert(file.to_owned(), digest.clone());
    digest
}

fn quietly(command: &mut Command) {
    let done = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(done.is_ok_and(|status| status.success()), "{command:?}");
}

/// restic: its own repository in a directory.
pub(crate) mod restic {
    use super::{Command, Path, fs, quietly};

    fn command(store: &Path) -> Command {
        let mut command = Command::new("restic");
        command
            .env("RESTIC_PASSWORD", "bench")
            .arg("--no-cache")
            .arg("--repo")
            .arg(store);
        command
    }

    pub(crate) fn init(store: &Path) {
        let _ = fs::remove_dir_all(store);
        quietly(command(store).arg("init"));
    }

    pub(crate) fn push(store: &Path, tree: &Path) {
        quietly(command(store).arg("backup").arg(tree));
    }
}

/// casync: a chunk store in a directory, and an archive index beside it.
pub(crate) mod casync {
    use super::{Command, Path, fs, quietly};

    pub(crate) fn push(store: &Path, tree: &Path, name: &str) {
        fs::create_dir_all(store).unwrap();
        quietly(
            Command::new("casync")
                .arg("make")
                .arg("--store")
                .arg(store)
                .arg(store.join(format!("{name}.caidx")))
                .arg(tree),
        );
    }
}
