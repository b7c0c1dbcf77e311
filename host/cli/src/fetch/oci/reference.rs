//! `HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use crate::api::is_loopback;
use crate::fetch::Digest;

/// The longest repository and tag that registries take.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A file in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
    /// What the manifest is asked for by: the digest's text, or the tag.
    version: String,
}

impl Reference {
    /// What everything of the repository begins with.
    pub(super) fn base(&self) -> String {
        format!("http://{}/v2/{}", self.host, self.repository)
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// What the manifest is asked for by: the digest, or the tag.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether a token may be asked for at `url`, perhaps with a password: from this machine alone where the
    /// registry is this machine.
    pub(super) fn may_ask(&self, url: &Url) -> bool {
        url.scheme() == "http" && url.has_host() && self.is_local() == is_loopback(url)
    }

    /// Whether the registry is this very machine.
    pub(super) fn is_local(&self) -> bool {
        Url::parse(&self.base()).is_ok_and(|base| is_loopback(&base))
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Reference, String> {
        let refused = || {
            format!(
                "{text:?} is not of the form oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST], like \
                 oci://127.0.0.1:5000/plugins/fill:0.1.0"
            )
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest: Digest = digest.parse()?;
                if !digest.is_sha256() {
                    return Err(format!("{digest}: registries name things by sha256"));
                }
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (host, path) = rest.split_once('/').ok_or_else(refused)?;
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-', '_'])
                && part.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
                })
        };
        let is_tag = |tag: &str| {
            !tag.is_empty()
                && tag.len() <= MAX_TAG
                && !tag.starts_with(['.', '-'])
                && tag
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let is_host = Url::parse(&format!("http://{host}/"))
            .is_ok_and(|url| url.has_host() && url.path() == "/" && url.username().is_empty())
            && !host.is_empty()
            && !host.contains(['?', '#', '\\']);
        if !is_host
            || repository.len() > MAX_NAME
            || !repository.split('/').all(is_part)
            || !tag.is_none_or(is_tag)
        {
            return Err(refused());
        }
        let local = Url::parse(&format!("http://{host}/")).is_ok_and(|url| is_loopback(&url));
        if !local && digest.is_none() {
            return Err(format!(
                "{text:?} is fetched over plain http, where anybody on the way can exchange it: name it by its digest \
                 (@sha256:...)"
            ));
        }
        let version = match (&digest, tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        Ok(Reference {
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
            version,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_reference_names_a_registry_a_repository_and_a_version() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let text = format!("example.org/plugins/fill:1@{digest}");
        let full: Reference = text.parse().unwrap();
        assert_eq!(full.to_string(), format!("oci://{text}"));
        assert_eq!(
            (full.repository(), full.version()),
            ("plugins/fill", digest.as_str())
        );
        assert_eq!(full.base(), "http://example.org/v2/plugins/fill");
        let plain: Reference = "127.0.0.1:5000/fill".parse().unwrap();
        assert_eq!((plain.version(), plain.digest()), ("latest", None));
        let tagged: Reference = "localhost:5000/fill:0.1.0".parse().unwrap();
        assert_eq!(tagged.version(), "0.1.0");
        let long = "a".repeat(300);
        for bad in [
            "",
            "localhost",
            "localhost/",
            "localhost/A",
            "localhost/../x",
            "localhost/a//b",
            "localhost/a:",
            "localhost/a:x/y",
            "localhost/a@sha256:00",
            "user@localhost/a",
            "/a",
            "localhost?x/a",
            &format!("localhost/{long}"),
            &format!("localhost/a@blake3:{}", "0a".repeat(32)),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        let open = "example.org/fill:1".parse::<Reference>().unwrap_err();
        assert!(open.contains("digest"), "{open}");
    }

    #[test]
    fn a_registry_of_this_machine_sends_nobody_elsewhere() {
        let ask = |registry: &str, realm: &str| {
            let reference: Reference = registry.parse().unwrap();
            reference.may_ask(&Url::parse(realm).unwrap())
        };
        let foreign = format!("example.org/a@sha256:{}", "0a".repeat(32));
        assert!(ask("127.0.0.1:5000/a", "http://127.0.0.1:9/token"));
        assert!(!ask("127.0.0.1:5000/a", "http://example.org/token"));
        assert!(ask(&foreign, "http://auth.example.org/token"));
        assert!(!ask(&foreign, "http://127.0.0.1:80/token"));
    }
}
