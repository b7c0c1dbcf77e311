//! Project names: what one is, and the one that a directory's name suggests.

/// Longest project name: a DNS label's limit, since it becomes one (`{project}.localhost`).
const LONGEST: usize = 63;

/// A valid project name, `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Project(String);

impl Project {
    /// The nearest valid name to a directory's or an archive's, if anything of it can stay.
    pub(crate) fn suggested_by(name: &str) -> Option<Project> {
        let mut project = String::new();
        for character in name.chars() {
            let character = character.to_ascii_lowercase();
            if character.is_ascii_lowercase() || character.is_ascii_digit() {
                project.push(character);
            } else if !project.is_empty() && !project.ends_with('-') {
                project.push('-');
            }
        }
        project.truncate(LONGEST);
        let project = project.trim_end_matches('-');
        (!project.is_empty()).then(|| Project(project.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Project {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Project {
    type Err = String;

    fn from_str(name: &str) -> Result<Project, String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty()
            || name.len() > LONGEST
            || name.starts_with('-')
            || name.ends_with('-')
            || !name.bytes().all(allowed)
        {
            let suggestion = Project::suggested_by(name)
                .map(|project| format!(" ({project} would be one)"))
                .unwrap_or_default();
            return Err(format!(
                "{name:?} is no project name: up to {LONGEST} of a-z, 0-9 and -, \
                 not starting or ending with -{suggestion}"
            ));
        }
        Ok(Project(name.to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_directory_name_becomes_the_nearest_project_name() {
        for (name, project) in [
            ("hello", "hello"),
            ("My Site", "my-site"),
            ("_build__out_", "build-out"),
            ("Größe", "gr-e"),
            ("v1.2.3", "v1-2-3"),
        ] {
            assert_eq!(Project::suggested_by(name).unwrap().as_str(), project);
        }
        assert_eq!(Project::suggested_by("..."), None);
        // Cut where the label ends, and never at a dash.
        let long = "a".repeat(62) + "-b";
        assert_eq!(
            Project::suggested_by(&long).unwrap().as_str(),
            "a".repeat(62)
        );
    }

    #[test]
    fn a_name_that_is_no_label_is_refused_with_one_that_is() {
        for bad in ["", "-a", "a-", "A", "a_b", "a.b"] {
            assert!(bad.parse::<Project>().is_err(), "{bad}");
        }
        let refusal = "My_Site".parse::<Project>().unwrap_err();
        assert!(refusal.contains("my-site would be one"), "{refusal}");
        assert!("a".repeat(63).parse::<Project>().is_ok());
        assert!("a".repeat(64).parse::<Project>().is_err());
    }
}
