//! The base directories of the XDG specification, which are used on macOS too.

use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The name of the program's own directory below each base directory.
pub const NAME: &str = "pcluster-shim";

const CONFIG: (&str, &str) = ("XDG_CONFIG_HOME", ".config");
const DATA: (&str, &str) = ("XDG_DATA_HOME", ".local/share");
const STATE: (&str, &str) = ("XDG_STATE_HOME", ".local/state");

/// The directory of the config file, even if the directory belongs to another user. In that case, `trust`
/// refuses to read the file.
pub fn config() -> Option<PathBuf> {
    named(CONFIG)
}

/// Where install.sh installs the shim if no prefix is named.
pub fn prefix() -> Option<PathBuf> {
    named(DATA)
}

/// The directory for state. `None` if neither HOME nor `XDG_STATE_HOME` can be used, or if the directory
/// would be in another user's directory.
pub fn state() -> Option<PathBuf> {
    named(STATE).filter(|directory| !is_of_another(directory))
}

/// Why [`state`] returns `None`.
pub fn why_no_state() -> String {
    match named(STATE) {
        Some(directory) => format!("{} would be in another user's directory", directory.display()),
        None => "neither HOME nor XDG_STATE_HOME names a directory that can be used".into(),
    }
}

/// The program's own directories for config and state, whoever they belong to.
pub fn all() -> impl Iterator<Item = PathBuf> {
    [CONFIG, STATE].into_iter().filter_map(named)
}

/// The program's own directory below a base directory. The base directory is the variable's value if that is
/// an absolute path. Otherwise, it is `below_home` in HOME, if HOME exists. A HOME that does not exist is not
/// used: a user such as `nobody` is not supposed to have a home directory. If root ran this program with the
/// HOME of such a user, the program would create that home directory.
fn named((variable, below_home): (&str, &str)) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let below_home = || absolute("HOME").filter(|home| home.exists()).map(|home| home.join(below_home));
    absolute(variable).or_else(below_home).map(|base| base.join(NAME))
}

/// Whether `directory`, or the nearest existing directory above it, belongs to another user. On some systems
/// `sudo` keeps HOME, so root would write into the directory of the user who called `sudo`. Root's
/// directories do not count as another user's: their permissions decide whether this user can write there.
fn is_of_another(directory: &Path) -> bool {
    let owner = directory.ancestors().find_map(|path| path.metadata().ok()).map(|metadata| metadata.uid());
    owner.is_some_and(|owner| owner != rustix::process::geteuid().as_raw() && owner != 0)
}
