//! The process: reads argv, then prints, exits or execs. No other file exits, execs or writes
//! to stdout.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use pcluster_shim::error::{Error, Interrupted, prefix_lines};
use pcluster_shim::outcome::{Exec, Outcome};
use pcluster_shim::progress::write_stderr;
use pcluster_shim::system::signals::Interrupts;

pub(crate) fn main() -> ExitCode {
    act(pcluster_shim::run(std::env::args_os().collect()))
}

fn act(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Exit { status, stdout, stderr } => {
            write_stderr(&stderr);
            match write_stdout(&stdout) {
                Ok(()) => ExitCode::from(status),
                // The caller did not get the output, so the call has failed, whatever its status would
                // have been.
                Err(error) => {
                    write_stderr(&prefix_lines(&format!("error: cannot write to standard output: {error}")));
                    ExitCode::from(1)
                }
            }
        }
        Outcome::Exec { exec, stderr } => {
            if let Some(interrupted) = Interrupts::received() {
                return act(Outcome::Die(interrupted));
            }
            write_stderr(&stderr);
            act(Outcome::failed(&become_program(exec)))
        }
        Outcome::Die(Interrupted(signal)) => {
            // This fails only for a signal that does not exist. This signal exists, because it was caught.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            ExitCode::from(1)
        }
    }
}

/// Replaces the process; returns only if that fails.
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

/// Writes to stdout. It is not an error if the reader has closed the pipe, as `head` does.
fn write_stdout(stdout: &str) -> io::Result<()> {
    if stdout.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout();
    match out.write_all(stdout.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
