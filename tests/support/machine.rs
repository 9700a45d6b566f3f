//! Programs of this machine, by their absolute paths: a sandbox's PATH has none of its directories.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The absolute path of a program of this machine.
pub(crate) fn on_this_machine(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("this suite needs {name} on PATH"))
}

/// Runs a program of this machine, and gives its stdout.
#[track_caller]
pub(crate) fn output(program: &Path, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A real Python 3 of this machine: the interpreter itself, not a version manager's shim and not
/// a virtual environment's, which has no user site.
pub(crate) fn real_python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let named = on_this_machine("python3");
        let code = "import sys; assert sys.version_info >= (3, 8); print(getattr(sys, '_base_executable', sys.executable))";
        PathBuf::from(output(&named, &["-c".as_ref(), code.as_ref()]).trim())
    })
}
