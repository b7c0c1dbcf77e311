//! `NAME@VERSION`, and the local file that becomes that plugin.

use std::path::PathBuf;
use std::str::FromStr;

/// A component in a local file, to be admitted under a name and a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluginFile {
    pub(crate) name: PluginName,
    pub(crate) path: PathBuf,
}

/// A plugin's name and version. The server judges both; here they only have to fit into a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PluginName {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl PluginFile {
    /// The file at `path` as the plugin `name`, which is `NAME@VERSION`.
    ///
    /// # Errors
    ///
    /// What is wrong with `name`.
    pub(crate) fn new(name: &str, path: PathBuf) -> Result<PluginFile, String> {
        Ok(PluginFile {
            name: name.parse()?,
            path,
        })
    }
}

/// `NAME@VERSION=FILE`.
impl FromStr for PluginFile {
    type Err = String;

    fn from_str(text: &str) -> Result<PluginFile, String> {
        match text.split_once('=') {
            Some((name, path)) if !path.is_empty() => PluginFile::new(name, PathBuf::from(path)),
            _ => Err(format!("{text:?} is not of the form NAME@VERSION=FILE")),
        }
    }
}

impl FromStr for PluginName {
    type Err = String;

    fn from_str(text: &str) -> Result<PluginName, String> {
        let fits = |part: &str, others: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || others.contains(char::from(byte)))
        };
        match text.split_once('@') {
            Some((name, version)) if fits(name, "-_") && fits(version, ".-+") => Ok(PluginName {
                name: name.to_owned(),
                version: version.to_owned(),
            }),
            _ => Err(format!(
                "{text:?} is not of the form NAME@VERSION, like fill@0.1.0"
            )),
        }
    }
}

impl std::fmt::Display for PluginName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_named_with_its_version() {
        let plugin: PluginFile = "fill@0.1.0-rc.1=target/a=b.wasm".parse().unwrap();
        assert_eq!(plugin.name.to_string(), "fill@0.1.0-rc.1");
        assert_eq!(plugin.path, PathBuf::from("target/a=b.wasm"));
        for bad in [
            "fill=a.wasm",
            "fill@=a",
            "@1=a",
            "fill@1.0.0",
            "fill@1=",
            "../x@1=a",
        ] {
            assert!(bad.parse::<PluginFile>().is_err(), "{bad}");
        }
    }
}
