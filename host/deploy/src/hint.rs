//! What to do about each stable error code (DESIGN section 7), in one line.

/// What to do about `code`; `None` when its message says it all. `ID` in it stands for the deployment's.
#[must_use]
pub fn of(code: &str) -> Option<&'static str> {
    Some(match code {
        "config_invalid" => {
            "correct the step's config in cofferdam.toml; `cofferdam plugin list` shows what plugins take"
        }
        "head_invalid" => "correct cofferdam.toml and deploy again",
        "package_invalid" => {
            "make the archive again, or deploy the directory and let cofferdam pack it"
        }
        "package_too_large" => {
            "leave out what is not needed (.cofferdamignore), or have the operator raise the limit"
        }
        "grant_denied" => "ask for less in the step's request, or have the operator allow it",
        "plugin_unknown" => {
            "admit it first: `cofferdam plugin add FILE NAME@VERSION`, or `--plugin NAME@VERSION=FILE` on up and deploy"
        }
        "plugin_incompatible" => {
            "build it for wasm32-wasip2 (or wasm32-wasip1) against the interfaces that this server offers"
        }
        "step_failed" => "the lines above are the plugin's own; `cofferdam log ID` has all of them",
        "step_trapped" => {
            "the plugin crashed, which is its own fault and not the package's: report it to its author"
        }
        "step_timeout" => {
            "if the work really takes that long, raise request.limits.wall of the step"
        }
        "step_cpu_exceeded" => {
            "if the work really takes that much, raise request.limits.cpu of the step"
        }
        "step_memory_exceeded" => {
            "raise request.limits.memory of the step, or feed it less at a time"
        }
        "step_disk_exceeded" => "raise request.limits.disk or request.limits.files of the step",
        "step_stuck" => "the operator has to look at this machine: a step would not stop",
        "release_invalid" => {
            "the message names the file in the release: deploy without it, or make the step not write it"
        }
        "upload_interrupted" | "interrupted" => "deploy again",
        "digest_mismatch" => {
            "the bytes changed on the way, or the digest belongs to another package: deploy again"
        }
        "not_ready" => {
            "a service of the release did not get ready: the message says how it was asked, the server's log what it \
             printed; what was served before still serves"
        }
        "cancelled" => "deploy again when it is wanted after all",
        "superseded" => "a newer deployment of this project took its place: look at that one",
        "conflict" => {
            "look at what is there (`cofferdam list`, `cofferdam plugin list`); a changed plugin needs a new version"
        }
        "unauthorized" => {
            "set COFFERDAM_TOKEN, or run this where the server's data directory is (--data DIR)"
        }
        "forbidden" => "use a token whose scopes allow it, or have the operator's policy allow it",
        "not_found" => {
            "check the name or id (`cofferdam list`); what a token may not see is not found either"
        }
        "too_many_requests" => "wait for one of this token's uploads to end, or use another token",
        "storage_full" => "make room on the server's disk",
        "internal" => "tell the operator: the server's log has the cause",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::of;

    /// The codes of DESIGN section 7.
    const CODES: [&str; 27] = [
        "head_invalid",
        "config_invalid",
        "package_invalid",
        "package_too_large",
        "grant_denied",
        "plugin_unknown",
        "plugin_incompatible",
        "step_failed",
        "step_trapped",
        "step_timeout",
        "step_cpu_exceeded",
        "step_memory_exceeded",
        "step_disk_exceeded",
        "step_stuck",
        "release_invalid",
        "upload_interrupted",
        "digest_mismatch",
        "not_ready",
        "superseded",
        "cancelled",
        "interrupted",
        "conflict",
        "unauthorized",
        "forbidden",
        "not_found",
        "storage_full",
        "internal",
    ];

    #[test]
    fn every_stable_code_says_what_to_do() {
        for code in CODES {
            assert!(of(code).is_some(), "{code}");
        }
        assert_eq!(of("no_such_code"), None);
    }
}
