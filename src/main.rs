//! The process: argv in; printing, exiting and exec out. Nowhere else.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use pcluster_shim::Outcome;
use pcluster_shim::child::Interrupts;
use pcluster_shim::error::Error;

fn main() -> ExitCode {
    act(pcluster_shim::run(std::env::args_os().collect()))
}

fn act(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Exit { status, stdout, stderr } => {
            print(&stdout, &stderr);
            ExitCode::from(status)
        }
        Outcome::Become { program, arguments, guard, overlay, stderr } => {
            if let Some(signal) = Interrupts::received() {
                return act(Outcome::Die { signal });
            }
            print("", &stderr);
            let mut command = Command::new(&program);
            command.args(arguments);
            guard.apply(&mut command);
            if let Some(python_path) = overlay {
                command.env("PYTHONPATH", python_path);
            }
            let source = command.exec();
            act(Outcome::failed(&Error::CannotExec { program, source }))
        }
        Outcome::Die { signal } => {
            // Only fails for a signal that does not exist; ours were just caught.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            ExitCode::from(1)
        }
    }
}

/// A reader that went away is no failure of ours.
fn print(stdout: &str, stderr: &str) {
    if !stderr.is_empty() {
        let _ = std::io::stderr().write_all(stderr.as_bytes());
    }
    if !stdout.is_empty() {
        let mut out = std::io::stdout();
        let _ = out.write_all(stdout.as_bytes());
        let _ = out.flush();
    }
}
