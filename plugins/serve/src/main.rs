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
        "$defs": {
            "ready": {
                "description": "How the service is asked whether it is ready, and watched.",
                "type": ["object", "null"],
                "additionalProperties": false,
                "properties": {
                    "path": { "type": "string", "pattern": "^/" },
                    "status": { "type": "integer", "minimum": 200, "maximum": 599 },
                    "interval_ms": { "type": "integer", "minimum": 10, "maximum": 600000 },
                    "timeout_ms": { "type": "integer", "minimum": 1, "maximum": 600000 },
                    "healthy_ms": { "type": "integer", "minimum": 0, "maximum": 600000 },
                    "within_ms": { "type": "integer", "minimum": 1, "maximum": 600000 },
                    "watch_ms": { "type": "integer", "minimum": 0, "maximum": 600000 }
                }
            }
        },
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
                                "root": { "type": "string" },
                                "ready": { "$ref": "#/$defs/ready" }
                            }
                        },
                        {
                            "additionalProperties": false,
                            "required": ["path"],
                            "properties": {
                                "name": { "type": "string" },
                                "kind": { "const": "component" },
                                "path": { "type": "string" },
                                "request": { "type": ["object", "null"] },
                                "ready": { "$ref": "#/$defs/ready" }
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
