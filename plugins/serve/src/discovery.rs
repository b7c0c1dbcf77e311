//! What is found without a configuration.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use cofferdam_sdk as sdk;

use crate::config::DEFAULT_NAME;
use crate::service::{Kind, Service, Wasm};

/// Where sites are, as people and their tools lay them out. The first that has an `index.html` is it.
const SITES: &[&str] = &[".", "public", "dist", "build", "site", "_site", "out"];

/// Where components are.
const COMPONENTS: &[&str] = &[".", "dist"];

/// The name that says it.
const APP: &str = "app.wasm";

/// The export that makes a component a web service. A component's export is in its bytes by name.
const HANDLER: &[u8] = b"wasi:http/incoming-handler";

/// The one service of a release that nobody described, or a warning that there is none.
pub(crate) fn find(release: &Path) -> Vec<Service> {
    let kind = component(release)
        .map(|path| Kind::Component {
            path,
            request: None,
        })
        .or_else(|| site(release).map(|root| Kind::Static { root }));
    let Some(kind) = kind else {
        sdk::warning(format!(
            "nothing to serve: there is no wasi:http component ({APP}, or the only one here or in dist) and \
             no index.html in {}; the release is kept and has no service. To name one, configure this step \
             with {{\"root\": \"DIRECTORY\"}}",
            SITES.join(", ")
        ));
        return Vec::new();
    };
    vec![Service {
        name: DEFAULT_NAME.to_owned(),
        kind,
        ready: None,
    }]
}

/// The component that answers requests: `app.wasm`, or the only one there is.
fn component(release: &Path) -> Option<String> {
    let mut found = Vec::new();
    for directory in COMPONENTS {
        let Ok(entries) = fs::read_dir(release.join(directory)) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = Path::new(directory).join(entry.file_name());
            let is_wasm = path
                .extension()
                .is_some_and(|extension| extension == "wasm");
            if is_wasm && handles_requests(&release.join(&path)).unwrap_or(false) {
                found.push(path);
            }
        }
    }
    found.sort();
    let named = found.iter().find(|path| path.ends_with(APP));
    match (named, found.as_slice()) {
        (Some(path), _) => Some(shown(path)),
        (None, [only]) => Some(shown(only)),
        (None, []) => None,
        (None, several) => {
            let names: Vec<_> = several.iter().map(|path| shown(path)).collect();
            sdk::warning(format!(
                "there are {} components that answer requests ({}); name the one to serve {APP}, or list \
                 them in this step's services",
                names.len(),
                names.join(", ")
            ));
            None
        }
    }
}

/// Whether a file is a component that exports the handler. What a site gives its browsers is a module.
fn handles_requests(path: &Path) -> io::Result<bool> {
    /// How much is looked at once, and how far the name may straddle two looks.
    const LOOK: usize = 64 * 1024;

    if Wasm::of(path)? != Wasm::Component {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    let mut seen = Vec::with_capacity(2 * LOOK);
    loop {
        let keep = seen.len().min(HANDLER.len() - 1);
        seen.drain(..seen.len() - keep);
        if file.by_ref().take(LOOK as u64).read_to_end(&mut seen)? == 0 {
            return Ok(false);
        }
        if seen.windows(HANDLER.len()).any(|window| window == HANDLER) {
            return Ok(true);
        }
    }
}

fn site(release: &Path) -> Option<String> {
    let mut sites = SITES
        .iter()
        .filter(|directory| release.join(directory).join("index.html").is_file());
    let site = sites.next()?;
    if let Some(other) = sites.next() {
        println!(
            "{site} and {other} both have an index.html; {site} it is, unless root says otherwise"
        );
    }
    Some((*site).to_owned())
}

/// A path as the host wants it: with slashes, and without a leading dot.
fn shown(path: &Path) -> String {
    let parts: PathBuf = path
        .components()
        .skip_while(|part| part.as_os_str() == ".")
        .collect();
    parts.to_string_lossy().into_owned()
}
