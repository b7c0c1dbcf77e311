//! What is described, and the checks.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// The longest name: it is part of a host name.
const LONGEST_NAME: usize = 63;

/// One service: what the host keeps of the output `service`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, unique in the release.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
    /// How it is asked whether it is ready: `path`, `status` and so on. The host judges it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Value>,
}

/// What a service is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Kind {
    /// Files.
    Static {
        /// The directory they are in, relative to the release.
        root: String,
    },
    /// A `wasi:http` component.
    Component {
        /// Its file, relative to the release.
        path: String,
        /// What it asks for: `env`, `secrets`, `net` and so on, as a step does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<Value>,
    },
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Static { root } => write!(f, "{}: the files of {root}/", self.name),
            Kind::Component { path, .. } => write!(f, "{}: the component {path}", self.name),
        }
    }
}

impl Service {
    pub(crate) fn check_name(&self) -> Result<(), Error> {
        let name = self.name.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        let valid = !name.is_empty()
            && name.len() <= LONGEST_NAME
            && name.iter().all(inner)
            && !self.name.starts_with('-')
            && !self.name.ends_with('-');
        if valid {
            Ok(())
        } else {
            Err(Error::Name(self.name.clone()))
        }
    }

    /// Whether what the service names is there.
    pub(crate) fn check(&self, release: &Path) -> Result<(), Error> {
        let (path, problem) = match &self.kind {
            Kind::Static { root } => (root, check_directory(release, root)),
            Kind::Component { path, .. } => (path, check_component(release, path)),
        };
        problem.map_err(|problem| Error::Path {
            name: self.name.clone(),
            path: path.clone(),
            problem,
        })
    }
}

fn check_directory(release: &Path, root: &str) -> Result<(), String> {
    stay_inside(root)?;
    let metadata = fs::metadata(release.join(root)).map_err(missing)?;
    if !metadata.is_dir() {
        return Err("is not a directory".to_owned());
    }
    Ok(())
}

fn check_component(release: &Path, path: &str) -> Result<(), String> {
    stay_inside(path)?;
    match Wasm::of(&release.join(path)).map_err(missing)? {
        Wasm::Component => Ok(()),
        Wasm::Module => Err(
            "is a core module, not a component; build it for wasm32-wasip2 or wrap it with wasm-tools"
                .to_owned(),
        ),
        Wasm::Neither => Err("is not WebAssembly".to_owned()),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
fn missing(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is not in the release".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

fn stay_inside(path: &str) -> Result<(), String> {
    let inside = !path.is_empty()
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if inside {
        Ok(())
    } else {
        Err("is not a path inside the release".to_owned())
    }
}

/// What a file is by its first eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wasm {
    Component,
    Module,
    Neither,
}

impl Wasm {
    pub(crate) fn of(path: &Path) -> io::Result<Wasm> {
        let mut head = Vec::new();
        File::open(path)?.take(8).read_to_end(&mut head)?;
        // The magic number, then a version of two bytes, and a layer of two: 0 is a module, 1 a component.
        Ok(match head[..] {
            [0, b'a', b's', b'm', _, _, 1, 0] => Wasm::Component,
            [0, b'a', b's', b'm', _, _, 0, 0] => Wasm::Module,
            _ => Wasm::Neither,
        })
    }
}
