//! Reports everything there is to report.
use std::fs;
use std::process::ExitCode;

use cofferdam_sdk as sdk;

sdk::plugin! {
    name: "report",
    description: "Reports everything there is to report.",
    phases: ["install"],
}

fn report() -> Result<(), Box<dyn std::error::Error>> {
    let run = sdk::context();
    println!("{} {} {}", run.project, run.deployment, run.step);
    let reports = cofferdam_test_programs::number("reports", 1000);
    for done in 1..=reports {
        sdk::progress(done, Some(reports), "counting");
    }
    sdk::warning("this deserves a look");
    sdk::output(
        "service",
        &serde_json::json!({ "name": "web", "kind": "static", "root": "." }),
    )?;
    let outputs = cofferdam_test_programs::number("outputs", 1);
    for number in 1..outputs {
        sdk::output(&format!("output-{number}"), &number)?;
    }
    fs::write("tool", "#!/bin/sh\n")?;
    sdk::set_executable("tool", true)?;
    println!("executable {}", sdk::is_executable("/release/tool")?);
    println!("directory {}", sdk::set_executable(".", true).is_err());
    println!("outside {}", sdk::set_executable("../tool", true).is_err());
    println!("secret {}", sdk::secret("token").is_ok());
    Ok(())
}

fn main() -> ExitCode {
    sdk::run(report)
}
