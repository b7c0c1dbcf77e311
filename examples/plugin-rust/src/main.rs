//! `fill`: an install plugin of one's own. It replaces `{{name}}` in every HTML page by the value that its
//! configuration gives, and fails when a page asks for something that it does not give.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cofferdam_sdk as sdk;
use serde::Deserialize;

sdk::plugin! {
    name: "fill",
    description: "Fills {{placeholders}} in HTML pages.",
    phases: ["install"],
    config: {
        "type": "object",
        "required": ["values"],
        "additionalProperties": false,
        "properties": {
            "values": { "type": "object", "additionalProperties": { "type": "string" } }
        }
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    values: BTreeMap<String, String>,
}

fn step() -> Result<(), Box<dyn std::error::Error>> {
    let mut values = sdk::config::<Config>()?.values;
    // Every page may say where it comes from, too.
    let context = sdk::context();
    values.entry("project".into()).or_insert(context.project);
    values
        .entry("deployment".into())
        .or_insert(context.deployment);

    let release = sdk::release();
    let pages = pages(&release)?;
    let mut total = 0;
    for (done, page) in pages.iter().enumerate() {
        sdk::progress(done as u64, pages.len() as u64, "pages");
        let (text, filled) = fill(&fs::read_to_string(page)?, &values)
            .map_err(|unknown| format!("{}: nothing fills {{{{{unknown}}}}}", page.display()))?;
        if filled > 0 {
            fs::write(page, text)?;
            let name = page.strip_prefix(&release).unwrap_or(page);
            println!("{}  {filled} placeholders", name.display());
        }
        total += filled;
    }
    if total == 0 {
        sdk::warning("no page has a placeholder");
    }
    sdk::output("filled", &total)?;
    Ok(())
}

/// Every HTML page below a directory.
fn pages(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(pages(&entry.path())?);
        } else if kind.is_file() && entry.path().extension().is_some_and(|is| is == "html") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The text with every `{{name}}` replaced, and how many there were, or the first name without a value.
fn fill(text: &str, values: &BTreeMap<String, String>) -> Result<(String, u64), String> {
    let mut filled = String::with_capacity(text.len());
    let mut count = 0;
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            break;
        };
        let value = values
            .get(name.trim())
            .ok_or_else(|| name.trim().to_owned())?;
        filled.push_str(before);
        for character in value.chars() {
            match character {
                '&' => filled.push_str("&amp;"),
                '<' => filled.push_str("&lt;"),
                '"' => filled.push_str("&quot;"),
                other => filled.push(other),
            }
        }
        count += 1;
        rest = after;
    }
    filled.push_str(rest);
    Ok((filled, count))
}

fn main() -> ExitCode {
    sdk::run(step)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs;

    use cofferdam_sdk::testing::Run;
    use serde_json::json;

    use super::step;

    #[test]
    fn placeholders_are_filled_and_counted() {
        let release = tempfile::tempdir().unwrap();
        fs::create_dir(release.path().join("sub")).unwrap();
        let page = release.path().join("sub/index.html");
        fs::write(&page, "<h1>{{ greeting }}</h1> {{project}} {{").unwrap();
        let report = Run::new(release.path())
            .project("demo")
            .config(json!({"values": {"greeting": "Hello & <welcome>"}}))
            .enter(step)
            .map(Result::unwrap);
        assert_eq!(
            fs::read_to_string(&page).unwrap(),
            "<h1>Hello &amp; &lt;welcome></h1> demo {{"
        );
        assert_eq!(report.output("filled"), Some(&json!(2)));
    }

    #[test]
    fn a_placeholder_without_a_value_fails_and_is_named() {
        let release = tempfile::tempdir().unwrap();
        fs::write(release.path().join("a.html"), "{{nobody}}").unwrap();
        let report = Run::new(release.path())
            .config(json!({"values": {}}))
            .enter(step);
        let error = report.result.unwrap_err().to_string();
        assert!(
            error.ends_with("a.html: nothing fills {{nobody}}"),
            "{error}"
        );
    }
}
