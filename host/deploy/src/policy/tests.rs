#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
use super::*;

fn policy(text: &str) -> Policy {
    Policy::parse("policy.toml", text, Path::new(".")).unwrap()
}

fn refusal(text: &str) -> String {
    Policy::parse("policy.toml", text, Path::new("."))
        .unwrap_err()
        .to_string()
}

fn wall(policy: &Policy, project: &str, plugin: &str, version: &str) -> (u64, String) {
    let limit = LIMITS.iter().find(|limit| limit.name == "wall_ms").unwrap();
    let version = version.parse().unwrap();
    let plugin = plugin.parse().unwrap();
    let ceilings = policy.ceilings(&project.parse().unwrap(), Some((&plugin, Some(&version))));
    let (value, rule) = ceilings.limit(limit);
    (value, rule.to_string())
}

#[test]
fn the_most_specific_table_that_names_a_key_decides_it() {
    let policy = policy(
        "[defaults.limits]\nwall_ms = 1000\n\
         [plugins.npm.limits]\nwall_ms = 2000\n\
         [plugins.\"npm@1.2.0\".limits]\nwall_ms = 3000\n\
         [projects.blog.limits]\nwall_ms = 500\n",
    );
    let decided = |project, plugin, version| wall(&policy, project, plugin, version);
    assert_eq!(
        decided("shop", "pip", "1.0.0"),
        (1000, "policy.toml:2".to_owned())
    );
    assert_eq!(
        decided("shop", "npm", "1.1.0"),
        (2000, "policy.toml:4".to_owned())
    );
    assert_eq!(
        decided("shop", "npm", "1.2.0"),
        (3000, "policy.toml:6".to_owned())
    );
    assert_eq!(
        decided("blog", "npm", "1.2.0"),
        (500, "policy.toml:8".to_owned())
    );
    let built_in = wall(&Policy::built_in(), "blog", "npm", "1.2.0");
    assert_eq!(built_in, (3_600_000, "built-in default".to_owned()));
}

#[test]
fn a_table_that_does_not_name_a_key_leaves_it_to_the_next_one() {
    let policy = policy("[defaults]\nenv = [\"CI\"]\n[projects.blog]\ncache = false\n");
    let ceilings = policy.ceilings(&"blog".parse().unwrap(), None);
    assert!(ceilings.env("CI").0 && !ceilings.env("PATH").0);
    assert!(!ceilings.cache().0);
    assert!(policy.ceilings(&"shop".parse().unwrap(), None).cache().0);
}

#[test]
fn what_a_policy_cannot_say_is_refused_with_its_line_and_key() {
    for (text, line, words) in [
        ("[defaults]\nnets = []\n", 2, "nets"),
        ("[default]\n", 1, "default"),
        (
            "[defaults]\nnet = [\n  \"example.org:443\",\n  \"example.org\",\n]\n",
            4,
            "net",
        ),
        ("[defaults.limits]\nwall = 60\n", 2, "limits.wall"),
        ("[defaults.limits]\nwall_ms = -1\n", 2, "limits.wall_ms"),
        ("[defaults.limits]\nmemory = \"1\"\n", 2, "limits.memory"),
        ("[defaults.limits]\nfiles = \"many\"\n", 2, "limits.files"),
        ("[defaults.limits]\nwal_ms = 1\n", 2, "limits.wal_ms"),
        (
            "[defaults.limits]\nwall_ms = 1\nwall = \"1s\"\n",
            0,
            "keep one of the two",
        ),
        ("[projects.Blog]\ncache = true\n", 1, "Blog"),
        ("[plugins.\"npm@1\"]\ncache = true\n", 1, "plugins"),
        ("[defaults]\ncache = \"yes\"\n", 2, "boolean"),
        (
            "[network]\nallow_ranges = [\"10.0.0.1/8\"]\n",
            2,
            "network.allow_ranges",
        ),
        (
            "[network]\nextra_roots = [\"no-such-file.pem\"]\n",
            2,
            "no-such-file.pem",
        ),
        ("[signatures]\nrequired = true\n", 2, "signatures.required"),
        ("[signatures]\nkeys = [\"RWS\"]\n", 2, "signatures.keys"),
        ("[defaults]\ncache_bytes = \"2\"\n", 2, "cache_bytes"),
        ("[defaults\n", 1, "line 1"),
    ] {
        let message = refusal(text);
        assert!(
            message.starts_with("the policy policy.toml cannot be used: line"),
            "{message}"
        );
        assert!(
            line == 0 || message.contains(&format!("line {line}:")),
            "{text} {message}"
        );
        assert!(message.contains(words), "{text} {message}");
    }
}

#[test]
fn an_empty_file_is_the_built_in_policy() {
    let project = "blog".parse().unwrap();
    assert_eq!(
        policy("").ceilings(&project, None),
        Policy::built_in().ceilings(&project, None)
    );
    assert_eq!(policy("").signatures(), SignaturePolicy::default());
}

#[test]
fn certificates_are_read_beside_the_file_and_signing_keys_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(directory.path().join("inner.pem"), pem).unwrap();
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let path = directory.path().join("policy.toml");
    let text = format!(
        "[network]\nextra_roots = [\"inner.pem\"]\n[signatures]\nrequired = true\nkeys = [\"{key}\"]\n"
    );
    std::fs::write(&path, text).unwrap();
    let policy = Policy::read(&path).unwrap();
    assert_eq!(policy.network().extra_roots, [pem]);
    assert!(policy.signatures().required);
    assert_eq!(policy.signatures().keys, [key]);
    assert!(Policy::read(&directory.path().join("none.toml")).is_err());
}

#[test]
fn the_example_in_the_manual_is_a_policy() {
    let manual = include_str!("../../../../docs/operating.md");
    let (_, rest) = manual.split_once("```toml\n# policy.toml").unwrap();
    let (example, _) = rest.split_once("\n```").unwrap();
    let policy = policy(&format!("# policy.toml{example}"));
    let blog = policy.ceilings(&"blog".parse().unwrap(), None);
    assert!(blog.net(&"api.example.org:443".parse().unwrap()).0);
    assert!(!policy.signatures().required);
}
