//! Where installers and version managers keep environments. Pure: variables in, patterns out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where environments are: a directory, and a pattern of the paths below it, in which `*` matches any one
/// name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub base: PathBuf,
    pub below: &'static str,
}

/// Each line has a directory and the pattern of the environments below it. `~` is HOME. A name in upper case
/// is replaced with the value of this environment variable (the value of `CONDA_ROOT` is derived from
/// `CONDA_EXE`). A line whose variable is not set is skipped. A tool's default directory, such as `~/.pyenv`,
/// has a line of its own.
const PLACES: &[(&str, &str)] = &[
    ("VIRTUAL_ENV", ""),
    ("PYTHONUSERBASE", ""),
    ("~/.local", ""),
    ("~", ""),
    // In ParallelCluster's documentation, the environment is ~/apc-ve.
    ("~", "*"),
    ("PYENV_ROOT", "versions/*"),
    ("~/.pyenv", "versions/*"),
    // pyenv-virtualenv
    ("PYENV_ROOT", "versions/*/envs/*"),
    ("~/.pyenv", "versions/*/envs/*"),
    ("ASDF_DATA_DIR", "installs/python/*"),
    ("~/.asdf", "installs/python/*"),
    ("MISE_DATA_DIR", "installs/python/*"),
    ("XDG_DATA_HOME", "mise/installs/python/*"),
    ("~/.local/share/mise", "installs/python/*"),
    ("PIPX_HOME", "venvs/*"),
    ("XDG_DATA_HOME", "pipx/venvs/*"),
    ("~/.local/share/pipx", "venvs/*"),
    ("~/.local/pipx", "venvs/*"),
    ("/opt/pipx", "venvs/*"),
    ("UV_TOOL_DIR", "*"),
    ("XDG_DATA_HOME", "uv/tools/*"),
    ("~/.local/share/uv/tools", "*"),
    ("CONDA_PREFIX", ""),
    ("CONDA_PREFIX", "envs/*"),
    ("CONDA_ROOT", ""),
    ("CONDA_ROOT", "envs/*"),
    ("MAMBA_ROOT_PREFIX", ""),
    ("MAMBA_ROOT_PREFIX", "envs/*"),
    ("~/.conda", "envs/*"),
    ("~", "*/envs/*"),
    ("/opt", "*"),
    ("/opt", "*/envs/*"),
    ("WORKON_HOME", "*"),
    ("~/.virtualenvs", "*"),
    // pipenv
    ("XDG_DATA_HOME", "virtualenvs/*"),
    ("~/.local/share/virtualenvs", "*"),
    ("POETRY_VIRTUALENVS_PATH", "*"),
    ("POETRY_CACHE_DIR", "virtualenvs/*"),
    ("XDG_CACHE_HOME", "pypoetry/virtualenvs/*"),
    ("~/.cache/pypoetry/virtualenvs", "*"),
    ("~/Library/Caches/pypoetry/virtualenvs", "*"),
    ("/usr/local", ""),
    ("/usr", ""),
];

/// The places. `variable` returns the value of an environment variable.
pub fn list(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let conda_root = || Some(directory("CONDA_EXE")?.parent()?.parent()?.to_owned());
    let base = |name: &str| match name.strip_prefix('~') {
        Some(below) => Some(directory("HOME")?.join(below.trim_start_matches('/'))),
        None if name.starts_with('/') => Some(name.into()),
        None if name == "CONDA_ROOT" => conda_root(),
        None => directory(name),
    };
    PLACES.iter().filter_map(|(name, below)| Some(Place { base: base(name)?, below })).collect()
}

/// The places of the environments from which a version manager's shims choose. `None` if this directory of
/// PATH does not contain such shims. pyenv has its directory `shims` next to `versions`; asdf and mise have
/// it next to `installs`.
pub fn behind_shims(entry_of_path: &Path) -> Option<[Place; 3]> {
    let root = entry_of_path.parent().filter(|_| entry_of_path.ends_with("shims"))?;
    let place = |below| Place { base: root.to_owned(), below };
    Some(["versions/*", "versions/*/envs/*", "installs/python/*"].map(place))
}

/// The environments that conda has listed in `environments.txt`.
pub fn read_conda_list(text: &str) -> Vec<PathBuf> {
    text.lines().map(str::trim).map(PathBuf::from).filter(|path| path.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_names_a_place_only_where_it_is_absolute() {
        let places = |root: &str| {
            let root = root.to_owned();
            list(move |name| (name == "UV_TOOL_DIR").then(|| root.clone().into()))
        };
        let place = Place { base: "/tools".into(), below: "*" };
        assert!(places("/tools").contains(&place));
        assert!(places("tools").iter().all(|place| place.base.is_absolute()));
        assert!(places("").iter().all(|place| place.base.is_absolute()));
    }

    #[test]
    fn shims_lead_to_their_version_manager() {
        let places = behind_shims(Path::new("/home/u/.pyenv/shims")).unwrap();
        assert!(places.contains(&Place { base: "/home/u/.pyenv".into(), below: "versions/*" }));
        assert_eq!(behind_shims(Path::new("/home/u/bin")), None);
        assert_eq!(behind_shims(Path::new("/")), None);
    }

    proptest::proptest! {
        #[test]
        fn conda_lists_absolute_paths_only(text in ".{0,200}") {
            assert!(read_conda_list(&text).iter().all(|path| path.is_absolute()));
        }
    }
}
