//! The program under the name that a wheel gives it. A separate file, because cargo warns if two targets share
//! one.

use std::process::ExitCode;

#[path = "../main.rs"]
mod program;

fn main() -> ExitCode {
    program::main()
}
