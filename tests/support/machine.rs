//! Programs of this machine by their absolute paths: a sandbox's PATH has none of the machine's directories.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use std::{fs, io};

/// Time limit of [`wait_for`], far more than the slowest machine needs.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Polls `ready` until it returns a value.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(there) = ready() {
            return there;
        }
        assert!(since.elapsed() < MAX_WAIT, "waited for {what} for {} s", MAX_WAIT.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The absolute path of a program of this machine.
pub(crate) fn on_this_machine(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing; scripts/test says what is needed"))
}

/// Tests that write programs share this lock; a test that starts a process holds it alone. Otherwise a child
/// could be forked while another test writes a program. Until its exec, the child would have the program's
/// file open for writing, and the program could not be run (ETXTBSY).
static FORKING: RwLock<()> = RwLock::new(());

pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let _alone = FORKING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Writes the content of a program, but does not make the file executable.
pub(crate) fn write_program(path: &Path, content: &[u8]) {
    let _no_fork = FORKING.read().unwrap_or_else(PoisonError::into_inner);
    fs::write(path, content).unwrap();
}

/// Writes an executable script. An existing file or link at this path is replaced.
pub(crate) fn write_script(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(path);
    write_program(path, content.as_ref());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub(crate) fn copy_program(from: &Path, to: &Path) {
    let _no_fork = FORKING.read().unwrap_or_else(PoisonError::into_inner);
    fs::copy(from, to).unwrap();
}

/// Runs a program of this machine, and returns its stdout.
#[track_caller]
pub(crate) fn output(program: &Path, arguments: &[&OsStr]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(&mut command).unwrap().wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A real Python 3 of this machine: the interpreter itself, not a version manager's shim, and not the Python
/// of a virtual environment, which has no user site.
pub(crate) fn real_python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let named = on_this_machine("python3");
        let code = "import sys; assert sys.version_info >= (3, 8); print(getattr(sys, '_base_executable', sys.executable))";
        PathBuf::from(output(&named, &["-c".as_ref(), code.as_ref()]).trim())
    })
}
