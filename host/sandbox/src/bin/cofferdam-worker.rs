//! A worker and nothing else, for programs that embed the sandbox and would rather not start themselves again.

use std::process::ExitCode;

fn main() -> ExitCode {
    cofferdam_sandbox::worker::main()
}
