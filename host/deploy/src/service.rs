//! What a release's services ask for, and what each request to them gets.
//!
//! A service asks as a step does, under the ceilings of `[defaults]` and of its project; no plugin's table is about
//! it. The policy is asked at every start: one that was tightened holds for what is already released, too.

use cofferdam_sandbox::{Limits, ServiceLimits, ServiceSpec};

use crate::error::Error;
use crate::grant::{Asker, Decision, decide};
use crate::head::{Head, Request, RequestedLimits, Strategy};
use crate::name::{ProjectName, ServiceName};
use crate::policy::Policy;
use crate::record::{Service, ServiceKind};

/// What a service gets: its specification, but for the values of its secrets, which are opened when it is started.
#[derive(Debug)]
pub(crate) struct ServiceGrant {
    pub(crate) spec: ServiceSpec,
    /// Names of secrets, which the project must have.
    pub(crate) secrets: Vec<String>,
    /// What its directory may hold, if it gets one.
    pub(crate) state_bytes: Option<u64>,
}

/// What a service is called where a step's name would stand.
pub(crate) fn label(name: &ServiceName) -> String {
    format!("service {name}")
}

/// Holds a service's request against its ceilings.
pub(crate) fn judge(policy: &Policy, project: &ProjectName, request: &Request) -> Decision {
    let asker = Asker {
        phase: None,
        reproducible: false,
    };
    let ceilings = policy.ceilings(project, None);
    decide(asker, request, &ceilings, policy.network())
}

/// What a service gets, or the refusal that names everything that it may not have.
pub(crate) fn grant(
    policy: &Policy,
    project: &ProjectName,
    name: &ServiceName,
    request: &Request,
) -> Result<ServiceGrant, Error> {
    let granted = judge(policy, project, request).into_grant(&label(name))?;
    Ok(ServiceGrant {
        spec: ServiceSpec {
            env: granted.env,
            limits: limits(&request.limits, &granted.limits),
            net: granted.net,
            ..ServiceSpec::new(name.to_string())
        },
        secrets: granted.secrets,
        state_bytes: granted.state_bytes,
    })
}

/// What one request may use: what was asked for, else the default of services, or the ceiling where that is lower.
pub(crate) fn limits(asked: &RequestedLimits, granted: &Limits) -> ServiceLimits {
    let default = ServiceLimits::default();
    let of = |asked: Option<u64>, default: u64, granted: u64| asked.unwrap_or(default.min(granted));
    ServiceLimits {
        memory_bytes: of(
            asked.memory_bytes,
            default.memory_bytes,
            granted.memory_bytes,
        ),
        wall_ms: of(asked.wall_ms, default.wall_ms, granted.wall_ms),
        cpu_ms: of(asked.cpu_ms, default.cpu_ms, granted.cpu_ms),
        output_bytes: of(
            asked.output_bytes,
            default.output_bytes,
            granted.output_bytes,
        ),
        line_bytes: of(asked.line_bytes, default.line_bytes, granted.line_bytes),
        requests: of(asked.requests, default.requests, granted.requests),
        egress_bytes: of(
            asked.egress_bytes,
            default.egress_bytes,
            granted.egress_bytes,
        ),
        ingress_bytes: of(
            asked.ingress_bytes,
            default.ingress_bytes,
            granted.ingress_bytes,
        ),
        connections: of(asked.connections, default.connections, granted.connections),
        disk_bytes: of(asked.disk_bytes, default.disk_bytes, granted.disk_bytes),
        files: of(asked.files, default.files, granted.files),
        handles: of(asked.handles, default.handles, granted.handles),
        ..default
    }
}

/// Refuses to let two releases write to one directory: with `blue-green`, the new release's service runs beside the old
/// one's.
pub(crate) fn check_strategy(
    strategy: Strategy,
    name: &ServiceName,
    request: &Request,
) -> Result<(), String> {
    if request.state && strategy == Strategy::BlueGreen {
        return Err(format!(
            "the service {name} keeps a directory, which two releases cannot write to at once: use the strategy \
             recreate"
        ));
    }
    Ok(())
}

/// The components that a head's load step is told to describe, with what they ask for: `serve` has them in its
/// configuration, and so may any other. What the step says in the end is judged again.
pub(crate) fn announced(head: &Head) -> Vec<(ServiceName, Request)> {
    let load = head.pipeline.load.as_ref();
    let services = load.and_then(|step| step.config.get("services")?.as_array());
    services
        .into_iter()
        .flatten()
        // What is no service is the plugin's to refuse, which knows its own configuration.
        .filter_map(|service| Service::parse(service).ok())
        .filter_map(|service| match service.kind {
            ServiceKind::Component { request, .. } => Some((service.name, *request)),
            ServiceKind::Static { .. } => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn granted(policy: &Policy, request: &serde_json::Value) -> Result<ServiceGrant, Error> {
        let request = serde_json::from_value(request.clone()).unwrap();
        let (project, name) = ("blog".parse().unwrap(), "api".parse().unwrap());
        grant(policy, &project, &name, &request)
    }

    #[test]
    fn a_service_gets_what_its_project_may_have() {
        let text = "[defaults]\nnet = []\nsecrets = []\n\n[projects.blog]\nnet = [\"db.example.org:443\"]\n\
                    secrets = [\"DB_*\"]\n";
        let policy = Policy::parse("policy.toml", text, Path::new(".")).unwrap();
        let request =
            json!({ "env": { "LANG": "C" }, "net": ["db.example.org:443"], "secrets": ["DB_KEY"] });
        let grant = granted(&policy, &request).unwrap();
        assert_eq!(
            grant.spec.net.hosts,
            ["db.example.org:443".parse().unwrap()]
        );
        assert_eq!(grant.secrets, ["DB_KEY"]);
        assert_eq!(grant.spec.env["LANG"], "C");
        assert_eq!(grant.spec.limits, ServiceLimits::default());
    }

    #[test]
    fn what_a_service_may_not_have_is_named_with_its_line() {
        let text = "[defaults]\nnet = [\"db.example.org:443\"]\nsecrets = [\"DB_*\"]\n";
        let policy = Policy::parse("policy.toml", text, Path::new(".")).unwrap();
        let request = json!({
            "net": ["example.org:443"],
            "secrets": ["OTHER"],
            "cache": true,
            "limits": { "disk_bytes": 1, "files": 1, "handles": 1 },
        });
        let error = granted(&policy, &request).unwrap_err();
        let Error::GrantDenied { step, denied } = error else {
            panic!("{error}");
        };
        assert_eq!(step, "service api");
        for expected in [
            ("net \"example.org:443\"", "(policy.toml:2)"),
            ("secrets \"OTHER\"", "(policy.toml:3)"),
            ("cache true", "(built-in default)"),
            ("limits.disk_bytes 1", "(built-in default)"),
            ("limits.files 1", "(built-in default)"),
            ("limits.handles 1", "(built-in default)"),
        ] {
            let found = denied
                .iter()
                .any(|sentence| sentence.starts_with(expected.0) && sentence.ends_with(expected.1));
            assert!(found, "{expected:?}: {denied:#?}");
        }
        assert_eq!(denied.len(), 6, "{denied:#?}");
    }

    #[test]
    fn a_directory_wants_the_operators_word_and_a_strategy_that_keeps_releases_apart() {
        let request = json!({ "state": true, "limits": { "files": 7 } });
        let error = granted(&Policy::built_in(), &request).unwrap_err();
        assert!(error.to_string().contains("state true"), "{error}");
        let text = "[projects.blog]\nstate = true\nstate_bytes = \"5MiB\"\n";
        let policy = Policy::parse("policy.toml", text, Path::new(".")).unwrap();
        let grant = granted(&policy, &request).unwrap();
        assert_eq!(grant.state_bytes, Some(5 << 20));
        assert_eq!(grant.spec.limits.files, 7);
        assert_eq!(granted(&policy, &json!({})).unwrap().state_bytes, None);

        let name = "api".parse().unwrap();
        let request: Request = serde_json::from_value(request).unwrap();
        let why = check_strategy(Strategy::BlueGreen, &name, &request).unwrap_err();
        assert!(why.contains("recreate"), "{why}");
        assert!(check_strategy(Strategy::Recreate, &name, &request).is_ok());
        assert!(check_strategy(Strategy::BlueGreen, &name, &Request::default()).is_ok());
    }

    #[test]
    fn every_limit_of_a_request_is_what_was_asked_for_or_the_lower_of_default_and_ceiling() {
        let text = "[defaults.limits]\nmemory = \"16MiB\"\nrequests = 3\nwall = \"1h\"\n";
        let policy = Policy::parse("policy.toml", text, Path::new(".")).unwrap();
        let request = json!({ "limits": { "cpu_ms": 7, "output_bytes": 8, "line_bytes": 9, "egress_bytes": 10,
            "ingress_bytes": 11, "connections": 2 } });
        let limits = granted(&policy, &request).unwrap().spec.limits;
        let expected = ServiceLimits {
            memory_bytes: 16 << 20,
            cpu_ms: 7,
            output_bytes: 8,
            line_bytes: 9,
            requests: 3,
            egress_bytes: 10,
            ingress_bytes: 11,
            connections: 2,
            ..ServiceLimits::default()
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn the_components_of_a_load_steps_configuration_are_known_before_it_runs() {
        let head = json!({ "pipeline": { "load": { "plugin": "serve", "config": { "services": [
            { "name": "web", "kind": "static", "root": "public" },
            { "name": "api", "kind": "component", "path": "app.wasm", "request": { "secrets": ["KEY"] } },
            { "name": "odd", "kind": "component", "path": "app.wasm", "requests": {} },
            7,
        ] } } } });
        let head = Head::from_json(head.to_string().as_bytes()).unwrap();
        let announced = announced(&head);
        assert_eq!(announced.len(), 1);
        assert_eq!(announced[0].0.as_str(), "api");
        assert_eq!(announced[0].1.secrets, ["KEY"]);
        assert!(super::announced(&Head::default()).is_empty());
    }
}
