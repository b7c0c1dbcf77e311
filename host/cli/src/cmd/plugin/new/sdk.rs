//! The SDK's sources, as they are written into a new crate.

/// Paths in the SDK's crate, and the text of each.
macro_rules! sources {
    ($($path:literal),* $(,)?) => {
        &[
            ("Cargo.toml", include_str!("../../../../templates/sdk/package.toml")),
            $(($path, include_str!(concat!("../../../../../../guest-sdk/", $path)))),*
        ]
    };
}

/// Everything that the crate `cofferdam-sdk` needs outside this workspace.
pub(super) const FILES: &[(&str, &str)] = sources![
    "src/bytes.rs",
    "src/context.rs",
    "src/description.rs",
    "src/entry.rs",
    "src/error.rs",
    "src/files.rs",
    "src/host.rs",
    "src/host/component.rs",
    "src/host/local.rs",
    "src/lib.rs",
    "src/report.rs",
    "src/secrets.rs",
    "src/testing.rs",
    "src/testing/fixtures.rs",
    "wit/deps/README.md",
    "wit/deps/cli.wit",
    "wit/deps/clocks.wit",
    "wit/deps/filesystem.wit",
    "wit/deps/io.wit",
    "wit/deps/random.wit",
    "wit/deps/sockets.wit",
    "wit/step.wit",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use toml::Table;

    use super::FILES;

    fn files_below(root: &Path, directory: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files_below(root, &path, found);
            } else {
                found.insert(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }

    #[test]
    fn every_source_of_the_sdk_is_written() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk");
        let mut expected = BTreeSet::from(["Cargo.toml".to_owned()]);
        files_below(&sdk, &sdk.join("src"), &mut expected);
        files_below(&sdk, &sdk.join("wit"), &mut expected);
        let written: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(written, expected);
    }

    #[test]
    fn its_manifest_says_what_the_workspace_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |path: &str| -> Table {
            fs::read_to_string(root.join(path))
                .unwrap()
                .parse()
                .unwrap()
        };
        let (sdk, workspace) = (read("guest-sdk/Cargo.toml"), read("Cargo.toml"));
        let written: Table = FILES[0].1.parse().unwrap();
        assert_eq!(written["package"]["version"], sdk["package"]["version"]);
        for key in ["edition", "rust-version", "license"] {
            assert_eq!(
                written["package"][key], workspace["workspace"]["package"][key],
                "{key}"
            );
        }
        let names = |table: &toml::Value| -> Vec<String> {
            table.as_table().unwrap().keys().cloned().collect()
        };
        assert_eq!(names(&written["dependencies"]), names(&sdk["dependencies"]));
        assert_eq!(names(&written["target"]), names(&sdk["target"]));
        for (target, dependencies) in written["target"].as_table().unwrap() {
            let ours = &sdk["target"][target]["dependencies"];
            assert_eq!(names(&dependencies["dependencies"]), names(ours));
        }
        let version = |value: &toml::Value| {
            value
                .as_str()
                .or_else(|| value.get("version")?.as_str())
                .unwrap()
                .to_owned()
        };
        let mut all = written["dependencies"].as_table().unwrap().clone();
        for dependencies in written["target"].as_table().unwrap().values() {
            all.extend(dependencies["dependencies"].as_table().unwrap().clone());
        }
        for (name, dependency) in all {
            let ours = &workspace["workspace"]["dependencies"][&name];
            assert_eq!(version(&dependency), version(ours), "{name}");
        }
    }
}
