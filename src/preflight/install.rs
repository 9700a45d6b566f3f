//! `preflight install`: runs the repository's install.sh, which installs this program.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;

use crate::error::{Abort, Error, describe_io};
use crate::outcome::{Exec, Outcome};
use crate::system::executables::own_executable;

const INSTALL_SH: &str = include_str!("../../install.sh");

/// A shell script that runs the install.sh in the directory `$0`, then removes that directory. A signal
/// reaches both shells: it ends the inner shell, which runs install.sh, and the outer shell continues with
/// the removal.
const RUN: &str = r#"trap : HUP INT QUIT TERM
/bin/sh "$0/install.sh" "$@"
status=$?
rm -rf "${0:?}"
exit "$status""#;

/// Replaces this process with a shell that runs install.sh. We pass `--binary`; if the user passes it too,
/// the user's value comes later and overrides ours.
pub fn run(arguments: Vec<OsString>) -> Result<Outcome, Abort> {
    let failed = |message: String| Error::Failed {
        message: format!("cannot start install.sh: {message}"),
        next: "Nothing was changed. Set TMPDIR to a writable directory with free space.".into(),
    };
    let cannot_write = |error: &io::Error| {
        failed(format!("cannot write in {}: {}", env::temp_dir().display(), describe_io(error)))
    };
    let own = own_executable().ok_or_else(|| failed("cannot determine the path of this program".into()))?;
    let directory = tempfile::Builder::new()
        .prefix("pcluster-preflight-install-")
        .tempdir()
        .map_err(|error| cannot_write(&error))?;
    fs::write(directory.path().join("install.sh"), INSTALL_SH).map_err(|error| cannot_write(&error))?;
    let directory = directory.keep().into_os_string();
    let first = ["-c".into(), RUN.into(), directory, "--binary".into(), own.into_os_string()];
    let exec = Exec {
        program: "/bin/sh".into(),
        arguments: first.into_iter().chain(arguments).collect(),
        environment: Vec::new(),
    };
    Ok(Outcome::exec(exec))
}
