//! A plugin as a person sees it.

use serde_json::Value;

use crate::cmd::{text_at, time_at};
use crate::ui::text::{bytes, escaped};

/// Everything that is recorded of a plugin.
pub(super) fn page(view: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if value != "-" && !value.is_empty() {
            out.push_str(&format!("{name:<10} {value}\n"));
        }
    };
    line(
        "plugin",
        &format!("{}@{}", text_at(view, "/name"), text_at(view, "/version")),
    );
    line("does", &text_at(view, "/description"));
    line("phases", &phases(view));
    line("wants", &words(view));
    line("needs", &compact(view.get("requests")));
    line("digest", &text_at(view, "/digest"));
    let size = view.get("bytes").and_then(Value::as_u64);
    let adapted = view.get("adapted").and_then(Value::as_bool) == Some(true);
    line(
        "size",
        &match (size, adapted) {
            (Some(size), true) => format!("{}, a module for WASI preview 1, adapted", bytes(size)),
            (Some(size), false) => bytes(size),
            (None, _) => "-".to_owned(),
        },
    );
    let by = text_at(view, "/admitted_by");
    let admitted = time_at(view, "/admitted_at");
    line(
        "admitted",
        &match by.as_str() {
            "-" => admitted,
            "shipped" => format!("{admitted}, with the server"),
            token => format!("{admitted} by token {token}"),
        },
    );
    let signed_by = text_at(view, "/signed_by");
    line(
        "signed by",
        match signed_by.as_str() {
            "-" => "nobody whom the operator trusts",
            key => key,
        },
    );
    if let Some(schema) = view.get("config_schema").filter(|schema| !schema.is_null()) {
        let text = serde_json::to_string_pretty(schema).unwrap_or_default();
        out.push_str("config\n");
        for text in text.lines() {
            out.push_str(&format!("  {}\n", escaped(text)));
        }
    }
    let imports = strings(view, "imports");
    if !imports.is_empty() {
        out.push_str("imports\n");
        for import in imports {
            out.push_str(&format!("  {}\n", escaped(import)));
        }
    }
    out
}

/// What a plugin can ask for, in words.
pub(crate) fn words(view: &Value) -> String {
    let words = strings(view, "wants");
    if words.is_empty() {
        "nothing but to print".to_owned()
    } else {
        escaped(&words.join(", "))
    }
}

/// The phases that a plugin says it is for.
pub(super) fn phases(view: &Value) -> String {
    let phases = strings(view, "phases");
    if phases.is_empty() {
        "any".to_owned()
    } else {
        escaped(&phases.join(","))
    }
}

fn strings<'a>(view: &'a Value, member: &str) -> Vec<&'a str> {
    let values = view.get(member).and_then(Value::as_array);
    values
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn compact(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(value) => escaped(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_says_what_a_plugin_is_for_wants_and_comes_from() {
        let view = json!({
            "name": "fill", "version": "0.1.0", "digest": "blake3:00", "bytes": 2048, "adapted": true,
            "admitted_at": "2026-11-21T05:00:00.000Z", "admitted_by": "0190", "signed_by": "84A9",
            "description": "Fills\u{1b}[31m", "phases": ["install"], "wants": ["files", "clock"],
            "imports": ["wasi:filesystem/types@0.2.12"], "requests": { "cache": true },
            "config_schema": { "type": "object" },
        });
        let page = page(&view);
        for text in [
            "plugin     fill@0.1.0\n",
            "phases     install\n",
            "wants      files, clock\n",
            "needs      {\"cache\":true}\n",
            "a module for WASI preview 1",
            "admitted   2026-11-21 05:00:00Z by token 0190\n",
            "signed by  84A9\n",
            "  wasi:filesystem/types@0.2.12\n",
        ] {
            assert!(page.contains(text), "{text:?} is not in {page}");
        }
        assert!(!page.contains('\u{1b}'));
        assert_eq!(words(&json!({})), "nothing but to print");
    }
}
