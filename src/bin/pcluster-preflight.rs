//! The shim under the name `pcluster-preflight`, which a wheel installs. This is a separate file because
//! cargo warns if two targets share a file.

use std::process::ExitCode;

#[path = "../main.rs"]
mod program;

fn main() -> ExitCode {
    program::main()
}
