//! pip's settings (pip.conf and `PIP_*`), handed to uv, which reads neither.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::system::child::set;
use crate::system::files;

/// pip's index settings, as uv understands them: uv does not read pip.conf, and a user whose
/// packages come from a private index has said so once. What is said to uv itself wins.
#[must_use]
pub fn uv_environment(python: &Path) -> Vec<(OsString, Option<OsString>)> {
    let settings = pip_settings(python);
    let named = [
        ("index-url", &["UV_DEFAULT_INDEX", "UV_INDEX_URL"][..]),
        ("extra-index-url", &["UV_INDEX", "UV_EXTRA_INDEX_URL"]),
        ("find-links", &["UV_FIND_LINKS"]),
        ("trusted-host", &["UV_INSECURE_HOST"]),
        ("no-index", &["UV_NO_INDEX"]),
        ("cert", &["SSL_CERT_FILE"]),
    ];
    let mut variables = Vec::new();
    for (setting, names) in named {
        let said = names.iter().any(|name| env::var_os(name).is_some());
        if let Some(value) = settings.iter().rev().find(|(name, _)| name == setting).filter(|_| !said) {
            let separator = if setting == "find-links" { "," } else { " " };
            let value = value.1.split_whitespace().collect::<Vec<_>>().join(separator);
            variables.push(set(names[0], value));
        }
    }
    variables
}

/// pip's settings, later ones stronger: its files in the order in which pip reads them, then
/// `PIP_*` variables.
fn pip_settings(python: &Path) -> Vec<(String, String)> {
    let state = |below: &str| env::var_os("HOME").map(|state| PathBuf::from(state).join(below));
    let config_home = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| state(".config"));
    let prefix = python.parent().and_then(Path::parent);
    let mut files = vec![
        Some(PathBuf::from("/etc/pip.conf")),
        state(".pip/pip.conf"),
        config_home.map(|base| base.join("pip/pip.conf")),
        prefix.map(|prefix| prefix.join("pip.conf")),
    ];
    if let Some(named) = env::var_os("PIP_CONFIG_FILE") {
        // /dev/null turns all of them off.
        files = if named == "/dev/null" { Vec::new() } else { [files, vec![Some(named.into())]].concat() };
    }
    let mut settings: Vec<(String, String)> = files
        .into_iter()
        .flatten()
        .filter_map(|file| files::read_to_string(&file).ok())
        .flat_map(|text| ini_settings(&text))
        .collect();
    for (name, value) in env::vars() {
        if let Some(name) = name.strip_prefix("PIP_") {
            settings.push((name.to_lowercase().replace('_', "-"), value));
        }
    }
    settings
}

/// `name = value` of the sections that count for `pip install`; lines that begin with a space go on.
fn ini_settings(text: &str) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut counts = false;
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(section) = line.trim().strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            counts = section == "global" || section == "install";
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = settings.last_mut().filter(|_| counts) {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(['=', ':']).filter(|_| counts) {
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
        let settings = ini_settings(text);
        let expected = [
            ("index-url", "https://a/simple"),
            ("find-links", " /one /two"),
            ("extra-index-url", "https://b"),
        ];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
