//! `unpack`: the extract step that ships with Cofferdam. The work is in the library beside it.

use std::process::ExitCode;

use cofferdam_sdk as sdk;
use cofferdam_unpack::input::Stdin;
use cofferdam_unpack::{Config, Error, Input, unpack};
use serde::Serialize;

sdk::plugin! {
    name: "unpack",
    description: "Unpacks tar, tar.gz, tar.zst and zip, and refuses whatever is ambiguous.",
    phases: ["extract"],
    config: {
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "strip": {
                "description": "How many leading directories to take away.",
                "enum": [0, 1],
                "default": 0
            },
            "max_entries": {
                "description": "The most entries that an archive may have.",
                "type": "integer",
                "minimum": 0,
                "default": 400000
            },
            "max_bytes": {
                "description": "The most bytes that its files may have together.",
                "type": ["integer", "null"],
                "minimum": 0
            },
            "max_ratio": {
                "description": "How many times larger than the package its contents may be, beyond 16 MiB.",
                "type": "integer",
                "minimum": 1,
                "default": 1000
            }
        }
    },
}

/// The output by which the host tells a package at fault from a step at fault.
#[derive(Serialize)]
struct RefusedOutput<'a> {
    reason: &'static str,
    message: &'a str,
}

fn step() -> Result<(), Box<dyn std::error::Error>> {
    let config: Config = sdk::config()?;
    match unpack(
        &config,
        Input::new(Stdin::open()),
        &sdk::release(),
        &sdk::scratch(),
    ) {
        Ok(summary) => sdk::output("unpacked", &summary)?,
        Err(error) => {
            if let Error::Refused(refused) = &error {
                sdk::output(
                    "refused",
                    &RefusedOutput {
                        reason: refused.reason.word(),
                        message: &refused.message,
                    },
                )?;
            }
            return Err(error.into());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    sdk::run(step)
}
