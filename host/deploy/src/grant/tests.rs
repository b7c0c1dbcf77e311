#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
use std::path::Path;

use super::*;
use crate::policy::Policy;

fn request(json: &str) -> Request {
    serde_json::from_str(json).unwrap()
}

fn settle(policy: &Policy, phase: Phase, json: &str) -> Decision {
    let asker = Asker {
        phase: Some(phase),
        reproducible: false,
    };
    let project = "blog".parse().unwrap();
    let plugin = "fetch".parse().unwrap();
    let ceilings = policy.ceilings(&project, Some((&plugin, None)));
    decide(asker, &request(json), &ceilings, policy.network())
}

fn grant(policy: &Policy, json: &str) -> Result<Grant, Error> {
    settle(policy, Phase::Install, json).into_grant("install-1")
}

#[test]
fn what_is_not_asked_for_has_its_default_and_what_is_within_the_ceiling_is_granted() {
    let policy = Policy::built_in();
    let json =
        r#"{"env": {"LANG": "C"}, "secrets": ["key"], "cache": true, "limits": {"wall_ms": 5000}}"#;
    let grant = grant(&policy, json).unwrap();
    assert_eq!(grant.limits.wall_ms, 5000);
    assert_eq!(grant.limits.memory_bytes, Limits::default().memory_bytes);
    assert_eq!(grant.env["LANG"], "C");
    assert_eq!(grant.secrets, ["key"]);
    assert!(grant.cache && grant.net.is_empty());
}

#[test]
fn everything_that_exceeds_is_named_at_once_with_the_rule_that_stands_against_it() {
    let policy = Policy::parse(
        "policy.toml",
        "[defaults]\nenv = [\"NODE_*\"]\ncache = false\n\n[plugins.fetch]\nnet = [\"*.example.org:443\"]\n\
         [plugins.fetch.limits]\nwall = \"60s\"\n",
        Path::new("."),
    )
    .unwrap();
    let json = r#"{"env": {"COFFERDAM_STEP": "x", "PATH": "/", "NODE_ENV": "production"},
        "net": ["example.net:443", "a.example.org:443", "nonsense"], "cache": true,
        "limits": {"wall_ms": 60001, "files": 0, "cpu_ms": 10}}"#;
    let error = grant(&policy, json).unwrap_err();
    assert_eq!(error.code(), "grant_denied");
    let Error::GrantDenied { denied, .. } = error else {
        panic!("{error}");
    };
    let expected = [
        ("env \"COFFERDAM_STEP\"", "(built-in default)"),
        ("env \"PATH\"", "(policy.toml:2)"),
        ("net \"example.net:443\"", "(policy.toml:6)"),
        ("net \"nonsense\"", "(policy.toml:6)"),
        ("cache true", "(policy.toml:3)"),
        ("limits.wall_ms 60001", "(policy.toml:8)"),
        ("limits.files 0", "(built-in default)"),
    ];
    assert_eq!(denied.len(), expected.len(), "{denied:#?}");
    for (what, rule) in expected {
        assert!(
            denied
                .iter()
                .any(|sentence| sentence.starts_with(what) && sentence.ends_with(rule)),
            "{what} {rule}: {denied:#?}"
        );
    }
}

#[test]
fn a_ceiling_below_the_default_is_what_a_silent_step_gets() {
    let text = "[defaults.limits]\nmemory = \"64MiB\"\n";
    let policy = Policy::parse("policy.toml", text, Path::new(".")).unwrap();
    assert_eq!(grant(&policy, "{}").unwrap().limits.memory_bytes, 64 << 20);
}

#[test]
fn a_step_that_reads_the_package_or_describes_services_has_neither_network_nor_cache() {
    let text = "[defaults]\nnet = [\"example.org:443\"]\n";
    let policy = Policy::parse("policy.toml", text, Path::new(".")).unwrap();
    let json = r#"{"net": ["example.org:443"], "cache": true}"#;
    assert!(grant(&policy, json).is_ok());
    for phase in [Phase::Extract, Phase::Load] {
        let decision = settle(&policy, phase, json);
        assert_eq!(decision.findings.len(), 2);
        assert!(decision.findings.iter().all(|finding| !finding.granted));
    }
}

#[test]
fn granted_network_carries_what_the_operator_says_of_all_network() {
    let text =
        "[defaults]\nnet = [\"*.example.org:443\"]\n[network]\nallow_ranges = [\"10.0.0.0/8\"]\n";
    let policy = Policy::parse("policy.toml", text, Path::new(".")).unwrap();
    let granted = grant(
        &policy,
        r#"{"net": ["A.example.org:443", "a.example.org:443"]}"#,
    )
    .unwrap();
    assert_eq!(granted.net.hosts, ["a.example.org:443".parse().unwrap()]);
    assert_eq!(granted.net.allow_ranges, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(grant(&policy, "{}").unwrap().net, NetGrant::default());
}
