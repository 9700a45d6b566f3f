//! The process: argv in; printing, exiting and exec out. Nowhere else.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use pcluster_shim::error::{Error, Interrupted, on_stderr};
use pcluster_shim::outcome::{Exec, Outcome};
use pcluster_shim::system::signals::Interrupts;

fn main() -> ExitCode {
    act(pcluster_shim::run(std::env::args_os().collect()))
}

fn act(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Exit { status, stdout, stderr } => {
            tell(&stderr);
            match print(&stdout) {
                Ok(()) => ExitCode::from(status),
                // What was asked for is not there, whatever it would have said.
                Err(error) => {
                    tell(&on_stderr(&format!("cannot write to standard output: {error}")));
                    ExitCode::from(1)
                }
            }
        }
        Outcome::Exec { exec, stderr } => {
            if let Some(interrupted) = Interrupts::received() {
                return act(Outcome::Die(interrupted));
            }
            tell(&stderr);
            act(Outcome::failed(&become_program(exec)))
        }
        Outcome::Die(Interrupted(signal)) => {
            // Only fails for a signal that does not exist; this one was just caught.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            ExitCode::from(1)
        }
    }
}

/// Returns only where that fails.
fn become_program(exec: Exec) -> Error {
    let mut command = Command::new(&exec.program);
    command.args(exec.arguments);
    for (name, value) in exec.environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let source = command.exec();
    Error::CannotExec { program: exec.program, source }
}

/// Where stderr cannot be written there is no place left to say so.
fn tell(stderr: &str) {
    if !stderr.is_empty() {
        let _ = io::stderr().write_all(stderr.as_bytes());
    }
}

/// A reader that went away, as `head` does, has what it wanted: that is no failure.
///
/// # Errors
/// Returns an error if stdout cannot be written otherwise, such as on a full disk.
fn print(stdout: &str) -> io::Result<()> {
    if stdout.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout();
    match out.write_all(stdout.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
