//! Which files go and which come when staged packages take the place of installed ones, by their
//! RECORDs. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::environment::packages::Distribution;
use crate::package_name::normalised;
use crate::repair::file_digest::{FileDigest, sha256_of};
use crate::repair::journal::PackageFiles;
use crate::repair::record::{
    MAX_RECORD, bytecode_of, installed_files, is_bytecode, name_of, record_path, stays_inside,
};
use crate::system::files::{self, describe};

/// What is to be done to an environment: files that go, each with the index of its package, and
/// files that come with their source.
#[derive(Debug, Default)]
pub struct FilePlan {
    pub removals: BTreeMap<PathBuf, usize>,
    pub additions: Vec<(PathBuf, Content)>,
    /// A package each.
    pub packages: Vec<PackageFiles>,
}

#[derive(Debug)]
pub enum Content {
    File(PathBuf),
    Text(String),
}

impl FilePlan {
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
    ) -> Result<(), String> {
        let part = self.packages.len();
        let first = self.additions.len();
        let mut records = BTreeMap::new();
        if let Some(old) = old {
            for file in installed_files(old, site)? {
                self.removals.extend(bytecode_of(&file).into_iter().map(|compiled| (compiled, part)));
                self.removals.insert(file, part);
            }
            records.extend(name_of(old).zip(sha256_of(&old.metadata.join("RECORD"))));
        }
        // Whether the user asked for a package by name is not ours to change.
        let was_requested = old.is_some_and(|old| old.metadata.join("REQUESTED").exists());
        let record_file = new.metadata.join("RECORD");
        let mut kept = String::new();
        let text = files::read_text_up_to(&record_file, MAX_RECORD)
            .map_err(describe("cannot read", &record_file))?;
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
        records.insert(dist_info.clone(), FileDigest::of_text(&kept).sha256);
        self.additions.push((site.join(&dist_info).join("RECORD"), Content::Text(kept)));
        self.packages.push(PackageFiles {
            package: normalised(&new.name),
            site: site.to_owned(),
            created: first..self.additions.len(),
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
        self.additions.extend(compiled);
        self.additions.push((site.join(name), Content::File(file)));
    }

    /// A file that comes and lies there already, though it does not go.
    #[must_use]
    pub fn conflict(&self) -> Option<&Path> {
        // What Python has compiled of a file that is gone is nobody's.
        let there = self.additions.iter().map(|(path, _)| path.as_path()).filter(|path| !is_bytecode(path));
        there.into_iter().find(|path| path.symlink_metadata().is_ok() && !self.removals.contains_key(*path))
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
        self.removals
            .keys()
            .chain(self.additions.iter().map(|(path, _)| path))
            .map(PathBuf::as_path)
            .collect()
    }

    /// The directories of packages in which something changes.
    #[must_use]
    pub fn sites(&self) -> Vec<PathBuf> {
        let sites: BTreeSet<&PathBuf> = self.packages.iter().map(|part| &part.site).collect();
        sites.into_iter().cloned().collect()
    }

    /// The directories of the files that go, up to those of packages, with their modes.
    #[must_use]
    pub fn directories_of_old(&self) -> Vec<(PathBuf, u32)> {
        let sites = self.sites();
        let inside = |directory: &&Path| sites.iter().any(|site| directory.starts_with(site));
        let directories: BTreeSet<&Path> =
            self.removals.keys().flat_map(|path| path.ancestors().skip(1)).filter(inside).collect();
        let mode = |directory: &Path| Some(directory.metadata().ok()?.permissions().mode());
        directories
            .into_iter()
            .filter_map(|directory| Some((directory.to_owned(), mode(directory)?)))
            .collect()
    }
}
