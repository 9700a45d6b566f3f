//! The last step of the process. `exec` and `exit` skip destructors, so `main` performs an outcome after
//! everything else has been dropped.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Interrupted};

/// The last thing that a call does.
#[derive(Debug)]
pub enum Outcome {
    /// End with this status after printing both texts.
    Exit { status: u8, stdout: String, stderr: String },
    /// Print the text on stderr, then replace the process with this program.
    Exec { exec: Exec, stderr: String },
    /// Die by the signal that interrupted the call.
    Die(Interrupted),
}

/// The program that replaces the shim in its process.
#[derive(Debug)]
pub struct Exec {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Variables to set, or to remove if they have no value.
    pub environment: Vec<(&'static str, Option<OsString>)>,
}

impl Outcome {
    pub fn failed(error: &Error) -> Self {
        Self::Exit { status: error.exit_status(), stdout: String::new(), stderr: error.render_for_stderr() }
    }

    pub fn exec(exec: Exec) -> Self {
        Self::Exec { exec, stderr: String::new() }
    }

    pub fn success(stdout: String) -> Self {
        Self::Exit { status: 0, stdout, stderr: String::new() }
    }
}
