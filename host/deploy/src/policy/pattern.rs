//! Names and addresses with a `*` in them.

use std::fmt;

use cofferdam_sandbox::HostPort;

/// A name in which each `*` stands for any characters, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamePattern(String);

impl NamePattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(['=', '\0']) || text.chars().any(char::is_whitespace) {
            return Err(format!(
                "{text:?} is no name: leave out blanks and `=`; `*` stands for any characters"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn any() -> Self {
        Self("*".to_owned())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            // There was no `*`.
            return rest.is_empty();
        };
        for part in parts {
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host and a port: exactly one, or every name below a domain (`*.example.org:443`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostPattern {
    /// This one.
    Exact(HostPort),
    /// Every name that ends in a dot and this one.
    Below(HostPort),
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (rest, below) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let host: HostPort = rest.parse().map_err(|error| {
            format!("{error}; write `example.org:443`, or `*.example.org:443` for every name below")
        })?;
        if !below {
            return Ok(Self::Exact(host));
        }
        if host.host().parse::<std::net::IpAddr>().is_ok() {
            return Err(format!("{text:?} has a `*` before an address"));
        }
        Ok(Self::Below(host))
    }

    pub(crate) fn matches(&self, asked: &HostPort) -> bool {
        match self {
            Self::Exact(host) => host == asked,
            Self::Below(domain) => {
                domain.port() == asked.port()
                    && asked
                        .host()
                        .strip_suffix(&domain.host())
                        .is_some_and(|below| below.len() > 1 && below.ends_with('.'))
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_everything_else_for_itself() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("*", "PATH", true),
            ("NODE_*", "NODE_ENV", true),
            ("NODE_*", "NODE_", true),
            ("NODE_*", "XNODE_ENV", false),
            ("*_KEY", "API_KEY", true),
            ("*_KEY", "API_KEYS", false),
            ("A*B*C", "A-B-B-C", true),
            ("A*B*C", "A-C-B", false),
            ("AB*BA", "ABA", false),
            ("CI", "CI", true),
            ("CI", "CIX", false),
            ("a**b", "ab", true),
        ] {
            let parsed = NamePattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(name), fits, "{pattern} {name}");
        }
        assert!(NamePattern::parse("A=B").is_err());
        assert!(NamePattern::parse("").is_err());
    }

    #[test]
    fn a_domain_is_not_below_itself_and_ports_are_exact() {
        for (pattern, asked, fits) in [
            ("example.org:443", "EXAMPLE.org:443", true),
            ("example.org:443", "example.org:80", false),
            ("example.org:443", "www.example.org:443", false),
            ("*.example.org:443", "www.example.org:443", true),
            ("*.example.org:443", "a.b.example.org:443", true),
            ("*.example.org:443", "example.org:443", false),
            ("*.example.org:443", "badexample.org:443", false),
            ("*.example.org:443", "www.example.org:80", false),
            ("192.0.2.1:80", "192.0.2.1:80", true),
        ] {
            let parsed = HostPattern::parse(pattern).unwrap();
            assert_eq!(
                parsed.matches(&asked.parse().unwrap()),
                fits,
                "{pattern} {asked}"
            );
            assert_eq!(parsed.to_string(), pattern);
        }
        for bad in [
            "*",
            "*:443",
            "example.org",
            "a.*.org:443",
            "*.192.0.2.1:80",
            "*.example.org",
        ] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
