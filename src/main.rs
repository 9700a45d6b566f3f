//! The process: argv in; printing, exiting and exec out. Nowhere else.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use pcluster_shim::Outcome;
use pcluster_shim::child::Interrupts;
use pcluster_shim::error::{Error, on_stderr};

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
        Outcome::Become { program, arguments, guard, overlay, stderr } => {
            if let Some(signal) = Interrupts::received() {
                return act(Outcome::Die { signal });
            }
            tell(&stderr);
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
