//! `serve`: the load step that ships with Cofferdam. The work is in the library beside it.

use std::error::Error;
use std::process::ExitCode;

use cofferdam_sdk as sdk;
use cofferdam_serve::{Config, serve};

sdk::plugin! {
    name: "serve",
    description: "Describes what a release serves: static files or wasi:http components.",
    phases: ["load"],
    config: {
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "root": {
                "description": "The directory of the one static service.",
                "type": ["string", "null"]
            },
            "services": {
                "description": "Any number of services.",
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "required": ["name", "kind"],
                    "oneOf": [
                        {
                            "additionalProperties": false,
                            "required": ["root"],
                            "properties": {
                                "name": { "type": "string" },
                                "kind": { "const": "static" },
                                "root": { "type": "string" }
                            }
                        },
                        {
                            "additionalProperties": false,
                            "required": ["path"],
                            "properties": {
                                "name": { "type": "string" },
                                "kind": { "const": "component" },
                                "path": { "type": "string" },
                                "request": { "type": ["object", "null"] }
                            }
                        }
                    ]
                }
            }
        }
    },
}

fn step() -> Result<(), Box<dyn Error>> {
    let config: Config = sdk::config()?;
    serve(&sdk::release(), config)?;
    Ok(())
}

fn main() -> ExitCode {
    sdk::run(step)
}
