//! The owner of a package directory: a distributor (PEP 668), Spack, or another user. It depends on the directory
//! that is changed, not on the interpreter: a virtual environment with `--system-site-packages` has directories of
//! several owners on its `sys.path`.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::cli::is_preflight;
use crate::environment::interpreter::Interpreter;
use crate::error::Error;
use crate::model::distribution::Distribution;
use crate::system::executables::own_executable;
use crate::text::printable::quote_for_shell;

/// The file of PEP 668, in the directory of the standard library.
const MARKER: &str = "EXTERNALLY-MANAGED";

/// Finds the PEP 668 marker that applies to a package directory. The marker is in the interpreter's standard
/// library, and applies to every directory outside virtual environments. It does not apply to a directory that
/// only PYTHONPATH names; pip does not refuse that either.
pub fn find_marker(directory: &Path, interpreter: &Interpreter) -> Option<PathBuf> {
    let is_library = |entry: &&PathBuf| entry.join("os.py").is_file();
    let marker = interpreter.sys_path.iter().find(is_library)?.join(MARKER);
    let is_named_so =
        directory.file_name().is_some_and(|name| name == "site-packages" || name == "dist-packages");
    let applies = (is_named_so || directory.starts_with(&interpreter.prefix)) && !is_in_venv(directory);
    (applies && marker.is_file()).then_some(marker)
}

fn is_in_venv(directory: &Path) -> bool {
    directory.ancestors().any(|above| above.join("pyvenv.cfg").is_file())
}

/// Finds the prefix of the Spack package, or the Spack view, that contains a distribution. Spack keeps the spec of
/// an installed package in `.spack` in its prefix, and the specs of a view in `.spack/NAME`. (`~/.spack`, Spack's
/// configuration, has no spec.)
pub fn find_spack_prefix(distribution: &Distribution) -> Option<PathBuf> {
    // The files of a view are links into the package's own prefix.
    let metadata = distribution.metadata.join("METADATA").canonicalize().ok();
    let above = metadata.iter().flat_map(|file| file.ancestors());
    let mut all = above.chain(distribution.metadata.ancestors());
    all.find(|directory| has_spec(&directory.join(".spack"))).map(Path::to_owned)
}

fn has_spec(metadata: &Path) -> bool {
    let has = |directory: &Path| ["spec.json", "spec.yaml"].iter().any(|name| directory.join(name).is_file());
    let views = metadata.read_dir().into_iter().flatten().flatten();
    has(metadata) || views.map(|entry| entry.path()).any(|directory| has(&directory))
}

/// If root runs this, refuses directories of another user, who could not change root's files in them.
pub fn refuse_another_users<'a>(
    directories: impl IntoIterator<Item = &'a Path>,
    command: &str,
    real: &Path,
) -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = |directory: &Path| directory.metadata().map_or(0, |metadata| metadata.uid());
    let others = directories.into_iter().map(|directory| (directory, owner(directory)));
    let Some((directory, uid)) = others.into_iter().find(|(_, uid)| *uid != 0) else { return Ok(()) };
    let message = format!(
        "{} belongs to user {uid}, who would not be able to change files that root writes there",
        directory.display()
    );
    let shim = own_executable().unwrap_or_else(|| "pcluster".into());
    let word = if is_preflight(shim.as_os_str()) { "" } else { " preflight" };
    // An absolute path, because sudo sets PATH; a user ID, because a container may have no name for it.
    let next = format!(
        "Nothing was changed. Run this as that user: `sudo -H -u '#{uid}' {}{word} {command} --real {}`.",
        quote_for_shell(&shim.display().to_string()),
        quote_for_shell(&real.display().to_string())
    );
    Err(Error::repair(message, &next))
}
