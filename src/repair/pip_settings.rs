//! The settings of installers. uv does not read pip's settings (pip.conf, `PIP_*`), so the repair passes
//! pip's index settings to uv as environment variables. The repair also overrides settings that would make an
//! installer do anything other than install into a given directory.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::system::child::set;
use crate::system::files;

/// Settings that make pip do something other than what the repair asks for, and the values that prevent that;
/// `None` removes a variable. A value is better than `None`, because it also overrides pip.conf. `None` is
/// used only where pip knows no value that means "not set".
///
/// All other settings of the user are kept: indexes, proxies, certificates, constraints, and rules such as
/// `require-hashes` or `require-virtualenv`. If an installation would break such a rule, pip names the rule
/// and installs nothing.
pub const PIP_OVERRIDES: [(&str, Option<&str>); 17] = [
    // If the user sets this, pip resolves, reports success, and installs nothing.
    ("PIP_DRY_RUN", Some("0")),
    // If the user sets one of these, pip installs only some of the packages.
    ("PIP_NO_DEPS", Some("0")),
    ("PIP_ONLY_DEPS", Some("0")),
    // If the user sets one of these, pip installs more than the repair asks for.
    ("PIP_REQUIREMENT", None),
    ("PIP_REQUIREMENTS_FROM_SCRIPT", None),
    ("PIP_EDITABLE", None),
    ("PIP_GROUP", None),
    // If the user sets one of these, pip installs into another place, or fails because it does not allow the
    // setting together with `--target`.
    ("PIP_ROOT", Some("/")),
    ("PIP_USER", Some("0")),
    ("PIP_PREFIX", None),
    // If the user sets one of these, pip installs for another Python.
    ("PIP_PYTHON", None),
    ("PIP_PYTHON_VERSION", None),
    ("PIP_PLATFORM", None),
    ("PIP_ABI", None),
    ("PIP_IMPLEMENTATION", None),
    // If the user sets this, pip overwrites the user's report file.
    ("PIP_REPORT", None),
    // If the user sets this, `pip check` does not print unmet requirements, so that every requirement seems
    // to be met.
    ("PIP_QUIET", Some("0")),
];

/// Options that keep `uv pip install` from doing something other than what the repair asks for, as
/// [`PIP_OVERRIDES`] does for pip. These options override `UV_*` variables and uv.toml.
pub const UV_INSTALL_OPTIONS: [&str; 3] = [
    // Symbolic links into uv's cache would be dead after `uv cache clean`. Where hard links are not possible,
    // uv copies.
    "--link-mode=hardlink",
    // uv cannot compile bytecode if a sitecustomize prints anything. If the environment contains bytecode,
    // the repair compiles the packages itself.
    "--no-compile-bytecode",
    // This overrides `no-deps = true` in uv.toml.
    "--deps",
];

/// Translates pip's index settings into uv's variables, because users with a private index may have
/// configured only pip for that index. A uv variable that is already set takes precedence.
pub fn translate_for_uv(python: &Path) -> Vec<(OsString, Option<OsString>)> {
    let settings = read_pip_settings(python);
    let translations = [
        ("index-url", &["UV_DEFAULT_INDEX", "UV_INDEX_URL"][..]),
        ("extra-index-url", &["UV_INDEX", "UV_EXTRA_INDEX_URL"]),
        ("find-links", &["UV_FIND_LINKS"]),
        ("trusted-host", &["UV_INSECURE_HOST"]),
        ("no-index", &["UV_NO_INDEX"]),
        ("cert", &["SSL_CERT_FILE"]),
    ];
    let mut variables = Vec::new();
    for (setting, names) in translations {
        let is_set = names.iter().any(|name| env::var_os(name).is_some());
        if let Some(value) = settings.iter().rev().find(|(name, _)| name == setting).filter(|_| !is_set) {
            let separator = if setting == "find-links" { "," } else { " " };
            let value = value.1.split_whitespace().collect::<Vec<_>>().join(separator);
            variables.push(set(names[0], value));
        }
    }
    variables
}

/// Reads pip's settings: first from pip's files, in the order in which pip reads them, then from the `PIP_*`
/// variables. If the result contains a setting several times, the last one counts.
fn read_pip_settings(python: &Path) -> Vec<(String, String)> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let mut files = if cfg!(target_os = "macos") {
        files_on_macos(home.as_deref())
    } else {
        files_on_linux(home.as_deref(), |name| env::var_os(name))
    };
    files.extend(python.parent().and_then(Path::parent).map(|prefix| prefix.join("pip.conf")));
    if let Some(named) = env::var_os("PIP_CONFIG_FILE") {
        // pip reads no file at all if PIP_CONFIG_FILE is /dev/null.
        files = if named == "/dev/null" { Vec::new() } else { [files, vec![named.into()]].concat() };
    }
    let mut settings: Vec<(String, String)> = files
        .into_iter()
        .filter_map(|file| files::read_to_string(&file).ok())
        .flat_map(|text| read_ini(&text))
        .collect();
    for (name, value) in env::vars() {
        if let Some(name) = name.strip_prefix("PIP_") {
            settings.push((name.to_lowercase().replace('_', "-"), value));
        }
    }
    settings
}

/// The pip.conf files of the machine and of the user, in the order in which `pip/_internal/configuration.py`
/// reads them.
fn files_on_linux(home: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let machine = variable("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".into());
    let mut files: Vec<PathBuf> = env::split_paths(&machine).map(|base| base.join("pip/pip.conf")).collect();
    files.push("/etc/pip.conf".into());
    files.extend(home.map(|home| home.join(".pip/pip.conf")));
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".config")));
    files.extend(config.map(|base| base.join("pip/pip.conf")));
    files
}

/// As on Linux, but in the directories that `pip/_internal/utils/appdirs.py` names for macOS. If the user has
/// no macOS directory for pip, pip uses `~/.config/pip`.
fn files_on_macos(home: Option<&Path>) -> Vec<PathBuf> {
    const SUPPORT: &str = "Library/Application Support/pip";
    let mut files = vec![Path::new("/").join(SUPPORT).join("pip.conf")];
    if let Some(home) = home {
        files.push(home.join(".pip/pip.conf"));
        let own = home.join(SUPPORT);
        files.push(if own.is_dir() { own } else { home.join(".config/pip") }.join("pip.conf"));
    }
    files
}

/// Reads the settings in a pip.conf that apply to `pip install`: the sections `global` and `install`. A line
/// that begins with a blank continues the value above it.
fn read_ini(text: &str) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut section_counts = false;
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(section) = line.trim().strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section_counts = section == "global" || section == "install";
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = settings.last_mut().filter(|_| section_counts) {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(['=', ':']).filter(|_| section_counts) {
            settings.push((name.trim().to_lowercase().replace('_', "-"), value.trim().to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[PathBuf]) -> Vec<&str> {
        paths.iter().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn pip_looks_for_its_files_in_the_places_of_linux() {
        let home = Some(Path::new("/home/u"));
        let expected = [
            "/etc/xdg/pip/pip.conf",
            "/etc/pip.conf",
            "/home/u/.pip/pip.conf",
            "/home/u/.config/pip/pip.conf",
        ];
        assert_eq!(paths(&files_on_linux(home, |_| None)), expected);
        assert_eq!(paths(&files_on_linux(home, |_| Some("".into()))), expected);
        let set = |name: &str| Some(if name == "XDG_CONFIG_DIRS" { "/a:/b" } else { "/c" }.into());
        let expected = ["/a/pip/pip.conf", "/b/pip/pip.conf", "/etc/pip.conf", "/c/pip/pip.conf"];
        assert_eq!(paths(&files_on_linux(None, set)), expected);
    }

    #[test]
    fn pip_looks_for_its_files_in_the_places_of_macos() {
        let root = tempfile::tempdir().unwrap();
        let found = files_on_macos(Some(root.path()));
        assert_eq!(found[0], Path::new("/Library/Application Support/pip/pip.conf"));
        assert_eq!(found[1..], [root.path().join(".pip/pip.conf"), root.path().join(".config/pip/pip.conf")]);
        let own = root.path().join("Library/Application Support/pip");
        std::fs::create_dir_all(&own).unwrap();
        assert_eq!(files_on_macos(Some(root.path())).last(), Some(&own.join("pip.conf")));
    }

    #[test]
    fn pip_conf_is_read_as_pip_reads_it() {
        let text = "[global]\nindex_url = https://a/simple\n# x\n[freeze]\nindex-url=no\n[install]\n\
                    find-links =\n  /one\n  /two\nextra-index-url: https://b\n";
        let settings = read_ini(text);
        let expected = [
            ("index-url", "https://a/simple"),
            ("find-links", " /one /two"),
            ("extra-index-url", "https://b"),
        ];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
