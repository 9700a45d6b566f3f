//! Refuses a repair in place if it would change directories or packages that belong to somebody else: to
//! the system (PEP 668), conda, Spack, or another user. What counts is the directory that would change, not
//! the interpreter: a virtual environment with `--system-site-packages` has directories of several owners
//! on its `sys.path`.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::cli::is_preflight;
use crate::environment::interpreter::Interpreter;
use crate::environment::packages::{is_in_cache_of_uv, read_installer};
use crate::error::Error;
use crate::model::distribution::Distribution;
use crate::repair::change::Change;
use crate::repair::context::Repair;
use crate::repair::hints::keep_beside;
use crate::system::executables::own_executable;
use crate::text::package_name::{PCLUSTER, matches};
use crate::text::printable::quote_for_shell;

/// The name of PEP 668's marker file, which is in the directory of the standard library.
const MARKER: &str = "EXTERNALLY-MANAGED";

/// Refuses what can be refused before packages are fetched: directories of other owners, and directories to
/// which this user cannot write.
pub fn refuse_early(repair: &Repair) -> Result<(), Error> {
    let is_moving = |name: &str| repair.goal.reasons.iter().any(|reason| matches(&reason.fix.packages, name));
    let moving = repair.packages.all().iter().filter(|(name, _)| is_moving(name));
    let moving: Vec<&Distribution> = moving.map(|(_, package)| package).collect();
    if moving.iter().any(|package| is_installed_by_conda(package) || find_spack_prefix(package).is_some()) {
        // These packages are refused after staging, because the message names a command with the new
        // versions, which are not known yet.
        return Ok(());
    }
    let parents = moving.iter().filter_map(|package| package.metadata.parent());
    let mut sites = parents.map(Path::to_owned).collect::<BTreeSet<_>>();
    if sites.is_empty() {
        // If no installed package moves, this checks the directory of aws-parallelcluster, into which new
        // packages are installed.
        sites.insert(repair.state.site.clone());
    }
    refuse_directories(repair, &sites.iter().cloned().collect::<Vec<_>>(), &sites)
}

/// Refuses directories that are in uv's cache, belong to the system or to another user, or are not writable.
/// `sites` contains package directories, `all` contains the directories in which files change.
pub fn refuse_directories(repair: &Repair, sites: &[PathBuf], all: &BTreeSet<PathBuf>) -> Result<(), Error> {
    if let Some(site) = sites.iter().find(|site| is_in_cache_of_uv(site)) {
        let why = format!("{} is in uv's cache, which all uvx calls share", site.display());
        let version = repair.packages.get(PCLUSTER).map(|pcluster| pcluster.version.as_str());
        let next = format!(
            "If packages have to move, pass `uvx --constraints FILE` the output of `pcluster preflight \
             constraints {}`. Otherwise, install aws-parallelcluster with `uv tool install` or pip, and run this there.",
            version.unwrap_or_default()
        );
        return Err(Error::NotInPlace { why, next });
    }
    let marked = |site: &PathBuf| Some((site.clone(), find_marker(site, &repair.target.interpreter)?));
    if let Some((site, marker)) = sites.iter().find_map(marked) {
        let why = format!("{} is managed by the system (see {})", site.display(), marker.display());
        return Err(Error::NotInPlace { why, next: keep_beside(&repair.options.command()) });
    }
    let every = sites.iter().chain(all).map(PathBuf::as_path);
    refuse_another_users(every, &repair.options.command(), &repair.request.real.path)?;
    match all.iter().find(|directory| !is_writable(directory)) {
        Some(directory) => {
            let why = format!("{} is not writable", directory.display());
            Err(Error::NotInPlace { why, next: keep_beside(&repair.options.command()) })
        }
        None => Ok(()),
    }
}

/// Refuses to change packages that conda or Spack has installed. The message names a command that the user
/// can run instead.
pub fn refuse_managed_packages(repair: &Repair, changes: &[Change]) -> Result<(), Error> {
    let filtered = |is_managed: fn(&Distribution) -> bool| -> Vec<&Change> {
        let is_managed = |change: &&Change| repair.packages.get(&change.package).is_some_and(is_managed);
        changes.iter().filter(is_managed).collect()
    };
    let by_conda = filtered(is_installed_by_conda);
    if by_conda.iter().any(|change| !change.edits.is_empty()) {
        let why =
            format!("{PCLUSTER} was installed by conda, which checks its files against recorded digests");
        return Err(Error::NotInPlace { why, next: keep_beside(&repair.options.command()) });
    }
    if !by_conda.is_empty() {
        return Err(refuse_conda_packages(repair, &by_conda));
    }
    let by_spack = filtered(|package| find_spack_prefix(package).is_some());
    let prefix = by_spack.iter().find_map(|change| find_spack_prefix(repair.packages.get(&change.package)?));
    prefix.map_or(Ok(()), |prefix| Err(refuse_spack_packages(repair, &by_spack, &prefix)))
}

fn refuse_conda_packages(repair: &Repair, changes: &[&Change]) -> Error {
    let name = |package: &str| {
        repair.packages.get(package).map_or_else(|| package.to_owned(), |old| old.name.to_lowercase())
    };
    let specs = changes.iter().map(|change| format!("'{}={}'", name(&change.package), change.to));
    let specs = specs.collect::<Vec<_>>().join(" ");
    let prefix = repair.target.interpreter.prefix.display();
    let why = "its packages were installed by conda, which would not notice changes made by pip";
    let next = format!("Run `conda install --prefix {prefix} {specs}`.");
    Error::NotInPlace { why: why.into(), next }
}

fn refuse_spack_packages(repair: &Repair, changes: &[&Change], prefix: &Path) -> Error {
    // In Spack, Python packages are called py-NAME.
    let specs = changes.iter().map(|change| format!(" ^py-{}@{}", change.package, change.to));
    let version = repair.packages.get(PCLUSTER).map(|pcluster| format!("@{}", pcluster.version));
    let why = format!(
        "{} was installed by Spack, which checks its files against recorded digests",
        prefix.display()
    );
    let next = format!(
        "Run `spack install {PCLUSTER}{}{}`, or `pcluster preflight {} --isolated`, which keeps the repair \
         outside the environment.",
        version.unwrap_or_default(),
        specs.collect::<String>(),
        repair.options.command()
    );
    Error::NotInPlace { why, next }
}

fn is_installed_by_conda(distribution: &Distribution) -> bool {
    read_installer(distribution).as_deref() == Some("conda")
}

/// Whether this user can add and remove files in a directory.
pub fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// Finds the PEP 668 marker that applies to a package directory. The marker is in the interpreter's standard
/// library. The marker does not apply in virtual environments. Outside the interpreter's prefix, the marker
/// applies only to directories called site-packages or dist-packages: any other directory is probably on
/// `sys.path` because of PYTHONPATH, and pip does not refuse to install into such a directory.
fn find_marker(directory: &Path, interpreter: &Interpreter) -> Option<PathBuf> {
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

/// Finds the Spack prefix that contains a distribution: the prefix of a Spack package, or the prefix of a
/// Spack view. A package's prefix has a spec file (`spec.json` or `spec.yaml`) in its directory `.spack`. A
/// view's prefix has such a file in `.spack/NAME` for each of its packages. (`~/.spack` contains Spack's
/// configuration, but no spec file.)
fn find_spack_prefix(distribution: &Distribution) -> Option<PathBuf> {
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

/// If root runs this, refuses directories of another user, who could not change the files that root would
/// write there.
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
    // The shim's path is absolute, because sudo replaces PATH. The user is given by ID, because in a
    // container, the ID may have no name.
    let next = format!(
        "Nothing was changed. Run this as that user: `sudo -H -u '#{uid}' {}{word} {command} --real {}`.",
        quote_for_shell(&shim.display().to_string()),
        quote_for_shell(&real.display().to_string())
    );
    Err(Error::repair(message, &next))
}
