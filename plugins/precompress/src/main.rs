//! `precompress`: an install step that ships with Cofferdam. The work is in the library beside it.

use std::error::Error;
use std::process::ExitCode;

use cofferdam_precompress::{Config, precompress};
use cofferdam_sdk as sdk;

sdk::plugin! {
    name: "precompress",
    description: "Writes brotli, zstd and gzip siblings of text assets.",
    phases: ["install"],
    config: {
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "root": {
                "description": "Only assets below this directory of the release.",
                "type": "string",
                "default": "."
            },
            "min_bytes": {
                "description": "Smaller assets are left alone.",
                "type": "integer",
                "minimum": 0,
                "default": 1024
            },
            "extensions": {
                "description": "The extensions of assets, in lower case and without the dot.",
                "type": "array",
                "items": { "type": "string" }
            },
            "formats": {
                "description": "Which siblings to write.",
                "type": "array",
                "items": { "enum": ["brotli", "br", "zstd", "zst", "gzip", "gz"] },
                "default": ["brotli", "zstd", "gzip"]
            },
            "quality": {
                "description": "Brotli's quality.",
                "type": "integer",
                "minimum": 0,
                "maximum": 11,
                "default": 9
            }
        }
    },
}

fn step() -> Result<(), Box<dyn Error>> {
    let config: Config = sdk::config()?;
    let summary = precompress(&sdk::release(), &config)?;
    sdk::output("precompressed", &summary)?;
    Ok(())
}

fn main() -> ExitCode {
    sdk::run(step)
}
