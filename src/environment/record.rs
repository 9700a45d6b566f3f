//! RECORD, the list of the files of an installed distribution.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::environment::packages::{Distribution, Packages};
use crate::system::files;

/// A line takes some 100 bytes, so this is far more than any package has.
pub const MAX_RECORD: u64 = 64 << 20;

/// The files of an installed distribution, without those that `is_left` names by their path in RECORD.
///
/// # Errors
/// Returns an error if they are not known, or one of them lies outside `site`.
pub fn installed_files(
    distribution: &Distribution,
    site: &Path,
    is_left: impl Fn(&str) -> bool,
) -> Result<Vec<PathBuf>, String> {
    let file = distribution.metadata.join("RECORD");
    let unknown = |error| {
        let (name, version) = (&distribution.name, &distribution.version);
        format!("{name} {version} has no RECORD of its files ({error}); it was not installed from a wheel")
    };
    let text = files::read_text_up_to(&file, MAX_RECORD).map_err(unknown)?;
    let names = recorded_names(&text, is_left).map_err(|name| {
        let (package, version) = (&distribution.name, &distribution.version);
        format!("{package} {version} has {name}, which lies outside {}", site.display())
    })?;
    let paths = names.into_iter().map(|name| site.join(name));
    let mut files: Vec<PathBuf> = paths.filter(|path| path.symlink_metadata().is_ok()).collect();
    // Some installers leave files that they add to the `.dist-info` out of RECORD.
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

/// The paths in a RECORD, without those that `is_left` names.
///
/// # Errors
/// Returns an error if one of them leads outside of the directory of the packages: that path.
pub fn recorded_names(text: &str, is_left: impl Fn(&str) -> bool) -> Result<Vec<String>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let names = lines.map(record_path).filter(|name| !is_left(name));
    names.map(|name| if stays_inside(&name) { Ok(name) } else { Err(name) }).collect()
}

/// Finds the distribution whose RECORD lists a file.
#[must_use]
pub fn find_owner<'a>(packages: &'a Packages, file: &Path) -> Option<&'a Distribution> {
    packages.iter().map(|(_, distribution)| distribution).find(|distribution| {
        let name = distribution.metadata.parent().and_then(|site| file.strip_prefix(site).ok());
        let text = files::read_text_up_to(&distribution.metadata.join("RECORD"), MAX_RECORD);
        match (name.and_then(Path::to_str), text) {
            (Some(name), Ok(text)) => text.lines().any(|line| record_path(line) == name),
            _ => false,
        }
    })
}

/// The name of a distribution's `.dist-info`.
#[must_use]
pub fn dist_info_name(distribution: &Distribution) -> Option<String> {
    Some(distribution.metadata.file_name()?.to_str()?.to_owned())
}

/// The files that the RECORD of a `.dist-info` names, and all others in that directory; `None` without
/// a RECORD.
pub fn recorded_paths(site: &Path, dist_info: &Path) -> Option<BTreeSet<PathBuf>> {
    let text = files::read_text_up_to(&dist_info.join("RECORD"), MAX_RECORD).ok()?;
    let names = text.lines().map(record_path).filter(|name| stays_inside(name));
    let own = dist_info.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    Some(names.map(|name| site.join(name)).chain(own).collect())
}

/// The first field of a line of RECORD, which is CSV: quoted where it holds a comma or a quote.
#[must_use]
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

/// Whether a relative path leads to no directory above.
#[must_use]
pub fn stays_inside(name: &str) -> bool {
    use std::path::Component;
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Whether a file is bytecode, by its name.
#[must_use]
pub fn is_bytecode(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "pyc")
}

/// The bytecode of a source file, of every version of Python.
#[must_use]
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
    fn a_path_that_leads_outside_is_refused() {
        assert!(stays_inside("a/b"));
        for outside in ["", "../bin/x", "/etc/passwd", "a/../../b", "./a"] {
            assert!(!stays_inside(outside), "{outside}");
        }
    }
}
