//! pip's settings (pip.conf and `PIP_*`), passed on to uv (`UV_*`), which reads neither.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::system::child::set;
use crate::system::files;

/// Translates pip's settings of indexes into uv's variables: a user whose packages are in a private index
/// has configured it for pip. A variable of uv's that is set already has precedence.
#[must_use]
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

/// Reads pip's settings, of which the last one of a name counts: its files in the order in which pip
/// reads them, then the `PIP_*` variables.
fn read_pip_settings(python: &Path) -> Vec<(String, String)> {
    let in_home = |below: &str| env::var_os("HOME").map(|home| PathBuf::from(home).join(below));
    let config_home = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| in_home(".config"));
    let prefix = python.parent().and_then(Path::parent);
    let mut files = vec![
        Some(PathBuf::from("/etc/pip.conf")),
        in_home(".pip/pip.conf"),
        config_home.map(|base| base.join("pip/pip.conf")),
        prefix.map(|prefix| prefix.join("pip.conf")),
    ];
    if let Some(named) = env::var_os("PIP_CONFIG_FILE") {
        // pip reads no file at all where PIP_CONFIG_FILE is /dev/null.
        files = if named == "/dev/null" { Vec::new() } else { [files, vec![Some(named.into())]].concat() };
    }
    let mut settings: Vec<(String, String)> = files
        .into_iter()
        .flatten()
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

/// Reads the settings of a pip.conf that count for `pip install`: those of two sections. A line that
/// begins with a blank continues the value above it.
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
