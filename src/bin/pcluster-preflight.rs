//! The program by the name that a wheel gives it. A file of its own, because cargo warns of one that two targets have.

use std::process::ExitCode;

#[path = "../main.rs"]
mod program;

fn main() -> ExitCode {
    program::main()
}
