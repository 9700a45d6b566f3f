//! RECORD, the list of the files of an installed distribution.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::model::distribution::{Distribution, Packages};
use crate::system::files;

/// A line takes some 100 bytes, so this is far more than the RECORD of any package.
pub const MAX_RECORD: u64 = 64 << 20;

/// The files of an installed distribution.
pub fn installed_files(distribution: &Distribution, site: &Path) -> Result<Vec<PathBuf>, String> {
    let file = distribution.metadata.join("RECORD");
    let (package, version) = (&distribution.name, &distribution.version);
    let unknown = |error| {
        format!("{package} {version} has no RECORD of its files ({error}); it was not installed from a wheel")
    };
    let text = files::read_text_up_to(&file, MAX_RECORD).map_err(unknown)?;
    let outside =
        |name| format!("{package} {version} contains {name}, which is outside {}", prefix_of(site).display());
    let paths = recorded_names(&text).map(|name| installed_path(site, &name).ok_or_else(|| outside(name)));
    let mut files = paths.collect::<Result<Vec<_>, _>>()?;
    files.retain(|path| path.symlink_metadata().is_ok());
    // RECORD may lack files that an installer has added to the `.dist-info`.
    files.extend(
        distribution
            .metadata
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file()),
    );
    Ok(files)
}

/// The paths in a RECORD.
pub fn recorded_names(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| !line.trim().is_empty()).map(record_path)
}

/// The prefix of the package directory `site`: the directory that contains `site`, and also what an installer
/// puts outside `site`, such as `PREFIX/bin/pcluster`. The prefix is three levels above `site` in every
/// current layout (`PREFIX/lib/python3.9/site-packages`, Debian's `PREFIX/lib/python3/dist-packages`), and
/// one level above `site` in older layouts of `PyPy`. A directory that `--target` or PYTHONPATH names has no
/// prefix, so the result is that directory itself.
pub fn prefix_of(site: &Path) -> &Path {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut above = site.ancestors().skip(1);
    let (Some(python), Some(library), Some(prefix)) = (above.next(), above.next(), above.next()) else {
        return site;
    };
    let is_of_python = name(python).starts_with("python") || name(python).starts_with("pypy");
    if name(site).ends_with("-packages") && is_of_python && name(library).starts_with("lib") {
        prefix
    } else if python.join("bin/python").exists() {
        python
    } else {
        site
    }
}

/// The path of a file that a RECORD in `site` names; `None` if the file is outside the prefix.
pub fn installed_path(site: &Path, name: &str) -> Option<PathBuf> {
    let prefix = prefix_of(site);
    // In the RECORD of `pip install --target DIR`, the name of DIR/bin/x is ../../bin/x.
    let name = if prefix == site { name.trim_start_matches("../") } else { name };
    let mut path = site.to_owned();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => drop(path.pop()),
            Component::RootDir => path = PathBuf::from("/"),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path.strip_prefix(prefix).is_ok_and(|rest| rest != Path::new("")).then_some(path)
}

/// Finds the distribution whose RECORD lists a file.
pub fn find_owner<'a>(packages: &'a Packages, file: &Path) -> Option<&'a Distribution> {
    packages.all().values().find(|distribution| {
        let name = distribution.metadata.parent().and_then(|site| file.strip_prefix(site).ok());
        let text = files::read_text_up_to(&distribution.metadata.join("RECORD"), MAX_RECORD);
        match (name.and_then(Path::to_str), text) {
            (Some(name), Ok(text)) => text.lines().any(|line| record_path(line) == name),
            _ => false,
        }
    })
}

/// The name of a distribution's `.dist-info`.
pub fn dist_info_name(distribution: &Distribution) -> Option<String> {
    Some(distribution.metadata.file_name()?.to_str()?.to_owned())
}

/// The files that the RECORD of a `.dist-info` names, and all other files in the `.dist-info`. `None` if
/// there is no RECORD.
pub fn recorded_paths(site: &Path, dist_info: &Path) -> Option<BTreeSet<PathBuf>> {
    let text = files::read_text_up_to(&dist_info.join("RECORD"), MAX_RECORD).ok()?;
    let paths = recorded_names(&text).filter_map(|name| installed_path(site, &name));
    let own = dist_info.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    Some(paths.chain(own).collect())
}

/// The first field of a line of RECORD. RECORD is CSV: a field is quoted if it contains a comma or a quote.
pub fn record_path(line: &str) -> String {
    match line.strip_prefix('"') {
        None => line.split(',').next().unwrap_or_default().to_owned(),
        Some(quoted) => {
            let mut path = String::new();
            let mut letters = quoted.chars().peekable();
            while let Some(letter) = letters.next() {
                match letter {
                    '"' if letters.next_if_eq(&'"').is_none() => break,
                    letter => path.push(letter),
                }
            }
            path
        }
    }
}

/// Whether every component of a path is a name, so that the path cannot lead above its starting directory.
pub fn stays_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Whether a file has the name of a bytecode file.
pub fn is_bytecode(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "pyc")
}

/// The bytecode files of a source file, for all versions of Python.
pub fn bytecode_of(source: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(stem)) = (source.parent(), source.file_stem()) else { return Vec::new() };
    if source.extension().is_none_or(|ending| ending != "py") {
        return Vec::new();
    }
    let prefix = [stem.as_encoded_bytes(), b"."].concat();
    let cache = directory.join("__pycache__").read_dir().into_iter().flatten().flatten();
    cache
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(&prefix))
        .map(|entry| entry.path())
        .filter(|path| is_bytecode(path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_lines_are_csv() {
        assert_eq!(record_path("a/b.py,sha256=x,1"), "a/b.py");
        assert_eq!(record_path("\"a,b \"\"c\"\".py\",,"), "a,b \"c\".py");
        assert_eq!(record_path(""), "");
    }

    #[test]
    fn the_prefix_is_three_levels_above_a_directory_of_packages() {
        for (site, prefix) in [
            ("/v/lib/python3.9/site-packages", "/v"),
            ("/v/lib64/python3.9/site-packages", "/v"),
            ("/usr/lib/python3/dist-packages", "/usr"),
            ("/usr/local/lib/python3.9/dist-packages", "/usr/local"),
            ("/home/u/.local/lib/pypy3.9/site-packages", "/home/u/.local"),
            ("/opt/pcluster/packages", "/opt/pcluster/packages"),
            ("/srv/python/site-packages", "/srv/python/site-packages"),
            ("/x", "/x"),
        ] {
            assert_eq!(prefix_of(Path::new(site)), Path::new(prefix), "{site}");
        }
    }

    #[test]
    fn record_may_lead_out_of_the_packages_but_not_out_of_the_prefix() {
        let path = |name| installed_path(Path::new("/v/lib/python3.9/site-packages"), name);
        assert_eq!(path("a/b.py"), Some("/v/lib/python3.9/site-packages/a/b.py".into()));
        assert_eq!(path("../../../bin/x"), Some("/v/bin/x".into()));
        assert_eq!(path("/v/etc/x"), Some("/v/etc/x".into()));
        for outside in ["../../../../x", "../../..", "/etc/passwd", "../../../bin/../../x", "/v"] {
            assert_eq!(path(outside), None, "{outside}");
        }
    }

    #[test]
    fn a_directory_of_pip_target_has_its_scripts_in_itself() {
        let path = |name| installed_path(Path::new("/srv/packages"), name);
        assert_eq!(path("../../bin/x"), Some("/srv/packages/bin/x".into()));
        assert_eq!(path("bin/x"), Some("/srv/packages/bin/x".into()));
        assert_eq!(path("../../bin/../../x"), None);
    }

    #[test]
    fn a_path_that_leads_up_does_not_stay_inside() {
        assert!(stays_inside("a/b"));
        for outside in ["", "../bin/x", "/etc/passwd", "a/../../b", "./a"] {
            assert!(!stays_inside(outside), "{outside}");
        }
    }
}
