//! Compiles guest crates to `wasm32-wasip2` from a build script.
//!
//! The crates that hand out the bytes of guests (`plugins/`, `tests/guests/`) call [`compile`] from their
//! `build.rs`. It runs a second cargo in a target directory of its own, because the outer cargo holds the
//! lock of the usual one for as long as the build script runs. When rustup does not have the target yet,
//! it is added first; when that cannot be done, the panic says which command would.
//!
//! ```no_run
//! // build.rs
//! let guests = cofferdam_guest_build::compile(&["cofferdam-unpack"]);
//! cofferdam_guest_build::write_module(&guests);
//! ```

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// The target that every guest is compiled for.
pub const TARGET: &str = "wasm32-wasip2";

/// The profile guests are built with: always optimised, because a guest's speed is a host's latency.
const PROFILE: &str = "guest";

/// One compiled guest: a program, or a library of the type `cdylib` (which is what a component is that
/// exports a handler and no `main`).
#[derive(Debug, Clone)]
pub struct Guest {
    /// The name of its binary, without `.wasm`.
    pub name: String,
    /// The version of its package.
    pub version: String,
    /// Its package's `Cargo.toml`.
    manifest: PathBuf,
    /// Where the component lies.
    pub path: PathBuf,
}

/// Compiles every program and `cdylib` of the given workspace packages and returns them sorted by name.
///
/// # Panics
///
/// When the target is missing and cannot be added, or when a guest does not compile: a build script has
/// nobody else to tell.
#[must_use]
pub fn compile(packages: &[&str]) -> Vec<Guest> {
    let root = workspace_root();
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Err(problem) = ensure_target(&rustc, &root) {
        panic!("{problem}");
    }

    let target_dir = guest_target_dir();
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(&root)
        .arg("build")
        .args(["--locked", "--target", TARGET, "--profile", PROFILE])
        .args(["--message-format", "json-render-diagnostics"])
        .arg("--target-dir")
        .arg(&target_dir);
    for package in packages {
        cargo.args(["--package", package]);
    }
    // What the outer cargo sets for its own target must not leak into the guests' build.
    for (name, _) in env::vars_os() {
        if leaks_into_guests(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot start cargo to compile the guests: {error}"));
    assert!(
        output.status.success(),
        "compiling {} for {TARGET} failed (see above); to repeat it: cargo build --target {TARGET} --profile {PROFILE} -p {}",
        packages.join(", "),
        packages.join(" -p "),
    );

    let mut guests = artifacts(&String::from_utf8_lossy(&output.stdout));
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(
        !guests.is_empty(),
        "{} have neither programs nor cdylibs",
        packages.join(", ")
    );
    watch_sources(&root, &target_dir, &guests);
    guests
}

/// Writes `$OUT_DIR/guests.rs`: for each guest `pub const NAME: &[u8]` and `pub const NAME_VERSION: &str`,
/// and for all of them `pub const ALL`, a table of names and bytes. The guests are copied beside it, so that the binary does not depend on another
/// directory's clean-up.
///
/// # Panics
///
/// When the files cannot be written.
pub fn write_module(guests: &[Guest]) {
    let out = PathBuf::from(variable("OUT_DIR"));
    let mut module = String::new();
    let mut table = String::new();
    for guest in guests {
        let constant = guest.name.to_uppercase().replace('-', "_");
        let file = format!("{}.wasm", guest.name);
        fs::copy(&guest.path, out.join(&file))
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", guest.path.display()));
        write!(
            module,
            "/// The component `{}`.\npub const {constant}: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\"));\n",
            guest.name
        )
        .expect("writing to a string does not fail");
        write!(
            module,
            "/// The version of `{}`.\npub const {constant}_VERSION: &str = {:?};\n",
            guest.name, guest.version
        )
        .expect("writing to a string does not fail");
        writeln!(table, "    (\"{}\", {constant}),", guest.name)
            .expect("writing to a string does not fail");
    }
    write!(
        module,
        "/// Every component here: its name and its bytes.\npub const ALL: &[(&str, &[u8])] = &[\n{table}];\n"
    )
    .expect("writing to a string does not fail");
    fs::write(out.join("guests.rs"), module).expect("OUT_DIR is writable");
}

/// Adds the wasm target with rustup when the compiler that `rustc` means in `directory` lacks it.
///
/// # Errors
///
/// A sentence with the command that would add it, when it cannot be added.
pub fn ensure_target(rustc: &OsStr, directory: &Path) -> Result<(), String> {
    let installed = || {
        let output = Command::new(rustc)
            .current_dir(directory)
            .args(["--print", "target-libdir", "--target", TARGET])
            .output();
        output.is_ok_and(|output| {
            output.status.success()
                && fs::read_dir(String::from_utf8_lossy(&output.stdout).trim())
                    .is_ok_and(|mut entries| entries.next().is_some())
        })
    };
    if installed() {
        return Ok(());
    }
    let by_hand = format!("rustup target add {TARGET}");
    // What rustup says goes where messages go: the caller's standard output may be for a script.
    let added = Command::new("rustup")
        .current_dir(directory)
        .args(["target", "add", TARGET])
        .stdout(Stdio::null())
        .status();
    match added {
        Ok(status) if status.success() && installed() => Ok(()),
        Ok(status) => Err(format!(
            "the target {TARGET} is missing and `{by_hand}` ended with {status}; run it by hand, then build again"
        )),
        Err(error) => Err(format!(
            "the target {TARGET} is missing and rustup cannot be started ({error}); install the target for this \
             compiler (with rustup: `{by_hand}`), then build again"
        )),
    }
}

/// Cargo and rustc settings that belong to the outer build alone.
fn leaks_into_guests(name: &str) -> bool {
    const EXACT: &[&str] = &[
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CLIPPY_ARGS",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
    ];
    EXACT.contains(&name)
        || name.starts_with("CARGO_CFG_")
        || name.starts_with("CARGO_FEATURE_")
        || name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_PROFILE_")
        || name.starts_with("DEP_")
}

/// The guests that cargo's JSON messages name. Only a few fields of one kind of message matter, and file
/// names of components hold no escapes but Windows' separators, so a JSON parser would be the only dependency
/// of this crate.
fn artifacts(messages: &str) -> Vec<Guest> {
    let mut guests = Vec::new();
    for line in messages
        .lines()
        .filter(|line| line.contains("\"reason\":\"compiler-artifact\""))
    {
        let is_library = line.contains("\"crate_types\":[\"cdylib\"]");
        let file = field(line, "\"executable\":\"")
            .or_else(|| field(line, "\"filenames\":[\"").filter(|_| is_library));
        let Some(path) = file.map(PathBuf::from) else {
            continue;
        };
        let name = path
            .file_stem()
            .expect("a file that was compiled has a name")
            .to_string_lossy()
            .into_owned();
        // `path+file:///...#1.0.0`, or `#name@1.0.0` where the directory has another name.
        let id = field(line, "\"package_id\":\"").unwrap_or_default();
        let version = id.rsplit(['#', '@']).next().unwrap_or_default();
        guests.push(Guest {
            name,
            version: version.to_owned(),
            manifest: field(line, "\"manifest_path\":\"")
                .map(PathBuf::from)
                .unwrap_or_default(),
            path,
        });
    }
    guests
}

/// The text between `marker` and the next quote.
fn field(line: &str, marker: &str) -> Option<String> {
    let start = line.find(marker)? + marker.len();
    let len = line[start..].find('"')?;
    Some(line[start..start + len].replace("\\\\", "\\"))
}

/// Makes the outer cargo run the build script again when a source of a guest changes: the compiler's own
/// dependency files say which those are.
fn watch_sources(root: &Path, target_dir: &Path, guests: &[Guest]) {
    println!(
        "cargo::rerun-if-changed={}",
        root.join("Cargo.lock").display()
    );
    println!(
        "cargo::rerun-if-changed={}",
        root.join("Cargo.toml").display()
    );
    println!("cargo::rerun-if-env-changed=RUSTC");
    for guest in guests {
        let list = guest.path.with_extension("d");
        // What the list does not name: the package's version and features.
        println!("cargo::rerun-if-changed={}", guest.manifest.display());
        let Ok(text) = fs::read_to_string(&list) else {
            let package = guest.manifest.parent().unwrap_or(root);
            println!("cargo::rerun-if-changed={}", package.display());
            continue;
        };
        let sources = text.split_once(": ").map_or("", |(_, sources)| sources);
        for source in sources.replace("\\ ", "\u{0}").split_whitespace() {
            let source = PathBuf::from(source.replace('\u{0}', " "));
            if !source.starts_with(target_dir) {
                println!("cargo::rerun-if-changed={}", source.display());
            }
        }
    }
}

/// The target directory of all guests: beside the outer profile's directory (`target/guests`), so that
/// `cargo clean` takes it away and every crate that compiles guests shares it.
fn guest_target_dir() -> PathBuf {
    let out = PathBuf::from(variable("OUT_DIR"));
    // OUT_DIR is <target>[/<triple>]/<profile>/build/<crate>-<hash>/out.
    let profile = out
        .ancestors()
        .nth(3)
        .expect("OUT_DIR has the depth that cargo gives it");
    profile.parent().unwrap_or(profile).join("guests")
}

/// The directory of the workspace's `Cargo.toml`: the nearest one above the calling crate with a lock file.
fn workspace_root() -> PathBuf {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .find(|directory| directory.join("Cargo.lock").is_file())
        .unwrap_or_else(|| panic!("no Cargo.lock above {}", manifest.display()))
        .to_path_buf()
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: call this from a build script"))
}

#[cfg(test)]
mod tests {
    use super::artifacts;

    #[test]
    fn programs_and_cdylibs_are_found_in_cargos_messages_and_nothing_else() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","package_id":"registry+https://x#serde@1.0.1","manifest_path":"/r/Cargo.toml","target":{"kind":["lib"],"crate_types":["lib"]},"filenames":["/t/libserde.rlib"],"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/plugins/unpack#cofferdam-unpack@1.2.0","manifest_path":"/w/plugins/unpack/Cargo.toml","target":{"kind":["bin"],"crate_types":["bin"]},"filenames":["/t/unpack.wasm"],"executable":"/t/unpack.wasm"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/hello#0.1.0","manifest_path":"/w/hello/Cargo.toml","target":{"kind":["cdylib"],"crate_types":["cdylib"]},"filenames":["/t/http_hello.wasm"],"executable":null}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found: Vec<_> = artifacts(messages)
            .into_iter()
            .map(|guest| (guest.name, guest.version))
            .collect();
        let pair = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        assert_eq!(
            found,
            [pair("unpack", "1.2.0"), pair("http_hello", "0.1.0")]
        );
    }
}
