//! Which files go and which come when staged packages take the place of installed ones, by their
//! RECORDs. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::package_name::normalised;
use crate::packages::Distribution;
use crate::repair::journal::{Mark, Part, sha256_of};
use crate::system::files;

/// Far more than any package's: 100 bytes a file.
const MAX_RECORD: u64 = 64 << 20;

/// What is to be done to an environment: files that go, each with the index of its package, and
/// files that come with their source.
#[derive(Debug, Default)]
pub struct Exchange {
    pub go: BTreeMap<PathBuf, usize>,
    pub come: Vec<(PathBuf, Content)>,
    /// A package each.
    pub parts: Vec<Part>,
}

#[derive(Debug)]
pub enum Content {
    File(PathBuf),
    Text(String),
}

/// What went wrong, in words that name the file.
pub type Fault = String;

pub(super) fn at(path: &Path, what: &str) -> impl FnOnce(io::Error) -> Fault {
    let what = format!("{what} {}", path.display());
    move |error| format!("{what}: {error}")
}

impl Exchange {
    /// Replaces one distribution by its staged successor, in the directory `site`.
    ///
    /// # Errors
    /// Its files are not known, or they lie outside `site`.
    pub fn replace(
        &mut self,
        old: Option<&Distribution>,
        new: &Distribution,
        overlay: &Path,
        site: &Path,
    ) -> Result<(), Fault> {
        let part = self.parts.len();
        let first = self.come.len();
        let mut records = BTreeMap::new();
        if let Some(old) = old {
            for file in record(old, site)? {
                self.go.extend(bytecode_of(&file).into_iter().map(|compiled| (compiled, part)));
                self.go.insert(file, part);
            }
            records.extend(name_of(old).zip(sha256_of(&old.metadata.join("RECORD"))));
        }
        // Whether the user asked for a package by name is not ours to change.
        let was_requested = old.is_some_and(|old| old.metadata.join("REQUESTED").exists());
        let record_file = new.metadata.join("RECORD");
        let mut kept = String::new();
        let text =
            files::read_text_up_to(&record_file, MAX_RECORD).map_err(at(&record_file, "cannot read"))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let name = record_path(line);
            let is_requested = name.ends_with(".dist-info/REQUESTED");
            if is_bytecode(Path::new(&name)) || (is_requested && !was_requested) {
                continue;
            }
            if !stays_inside(&name) || name.starts_with("bin/") {
                return Err(format!(
                    "{} {} brings {name}, which lies outside {}",
                    new.name,
                    new.version,
                    site.display()
                ));
            }
            kept.push_str(line);
            kept.push('\n');
            if !name.ends_with(".dist-info/RECORD") {
                self.bring(overlay, &name, site);
            }
        }
        let dist_info = name_of(new).unwrap_or_default();
        records.insert(dist_info.clone(), Mark::of_text(&kept).sha256);
        self.come.push((site.join(&dist_info).join("RECORD"), Content::Text(kept)));
        self.parts.push(Part {
            package: normalised(&new.name),
            site: site.to_owned(),
            created: first..self.come.len(),
            records,
            new: dist_info,
        });
        Ok(())
    }

    /// One file, and what was compiled of it.
    fn bring(&mut self, overlay: &Path, name: &str, site: &Path) {
        let file = overlay.join(name);
        let compiled = bytecode_of(&file).into_iter().filter_map(|compiled| {
            let place = site.join(compiled.strip_prefix(overlay).ok()?);
            Some((place, Content::File(compiled)))
        });
        self.come.extend(compiled);
        self.come.push((site.join(name), Content::File(file)));
    }

    /// A file that comes and lies there already, though it does not go.
    #[must_use]
    pub fn conflict(&self) -> Option<&Path> {
        // What Python has compiled of a file that is gone is nobody's.
        let there = self.come.iter().map(|(path, _)| path.as_path()).filter(|path| !is_bytecode(path));
        there.into_iter().find(|path| path.symlink_metadata().is_ok() && !self.go.contains_key(*path))
    }

    /// The directories in which something goes or comes, as far as they exist.
    #[must_use]
    pub fn directories(&self) -> BTreeSet<PathBuf> {
        self.paths()
            .into_iter()
            .filter_map(|file| file.ancestors().skip(1).find(|directory| directory.is_dir()))
            .map(Path::to_owned)
            .collect()
    }

    /// Every file that goes or comes.
    #[must_use]
    pub fn paths(&self) -> BTreeSet<&Path> {
        self.go.keys().chain(self.come.iter().map(|(path, _)| path)).map(PathBuf::as_path).collect()
    }

    /// The directories of packages in which something changes.
    #[must_use]
    pub fn sites(&self) -> Vec<PathBuf> {
        let sites: BTreeSet<&PathBuf> = self.parts.iter().map(|part| &part.site).collect();
        sites.into_iter().cloned().collect()
    }

    /// The directories of the files that go, up to those of packages, with their modes.
    #[must_use]
    pub fn directories_of_old(&self) -> Vec<(PathBuf, u32)> {
        let sites = self.sites();
        let inside = |directory: &&Path| sites.iter().any(|site| directory.starts_with(site));
        let directories: BTreeSet<&Path> =
            self.go.keys().flat_map(|path| path.ancestors().skip(1)).filter(inside).collect();
        let mode = |directory: &Path| Some(directory.metadata().ok()?.permissions().mode());
        directories
            .into_iter()
            .filter_map(|directory| Some((directory.to_owned(), mode(directory)?)))
            .collect()
    }
}

/// The files of an installed distribution.
fn record(distribution: &Distribution, site: &Path) -> Result<Vec<PathBuf>, Fault> {
    let file = distribution.metadata.join("RECORD");
    let unknown = |error| {
        let (name, version) = (&distribution.name, &distribution.version);
        format!("{name} {version} has no RECORD of its files ({error}); it was not installed from a wheel")
    };
    let text = files::read_text_up_to(&file, MAX_RECORD).map_err(unknown)?;
    let mut files = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let name = record_path(line);
        if !stays_inside(&name) {
            let (name_of, version) = (&distribution.name, &distribution.version);
            return Err(format!("{name_of} {version} has {name}, which lies outside {}", site.display()));
        }
        let path = site.join(name);
        if path.symlink_metadata().is_ok() {
            files.push(path);
        }
    }
    // Written by whoever installs later, and not in its own list with some installers.
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

/// The name of a `.dist-info`.
fn name_of(distribution: &Distribution) -> Option<String> {
    Some(distribution.metadata.file_name()?.to_str()?.to_owned())
}

/// The files that the RECORD of a `.dist-info` names, and what else lies in that directory; `None`
/// without a RECORD.
pub(super) fn recorded_paths(site: &Path, dist_info: &Path) -> Option<BTreeSet<PathBuf>> {
    let text = files::read_text_up_to(&dist_info.join("RECORD"), MAX_RECORD).ok()?;
    let names = text.lines().map(record_path).filter(|name| stays_inside(name));
    let own = dist_info.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    Some(names.map(|name| site.join(name)).chain(own).collect())
}

/// The first field of a line of RECORD, which is CSV: quoted where it holds a comma or a quote.
fn record_path(line: &str) -> String {
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

fn stays_inside(name: &str) -> bool {
    use std::path::Component;
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

fn is_bytecode(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "pyc")
}

/// What Python has compiled of a source file, for whatever version.
pub(super) fn bytecode_of(source: &Path) -> Vec<PathBuf> {
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
    fn nothing_outside_is_ours() {
        assert!(stays_inside("a/b"));
        for outside in ["", "../bin/x", "/etc/passwd", "a/../../b", "./a"] {
            assert!(!stays_inside(outside), "{outside}");
        }
    }
}
