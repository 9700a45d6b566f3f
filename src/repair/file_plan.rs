//! The files to be removed and to be added when staged packages replace installed ones, by their
//! RECORDs. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::environment::packages::Distribution;
use crate::environment::record::{
    MAX_RECORD, bytecode_of, dist_info_name, installed_files, is_bytecode, record_path, stays_inside,
};
use crate::package_name::normalised;
use crate::repair::console_scripts::{is_console_script, is_shared_script, keep_script_lines};
use crate::repair::file_digest::{FileDigest, sha256_of};
use crate::repair::journal::PackageFiles;
use crate::sorted::sorted_set;
use crate::system::files::{self, describe};

/// The changes to an environment: files to be removed, each with the index of its package, and files
/// to be added with their content.
#[derive(Debug, Default)]
pub struct FilePlan {
    pub removals: BTreeMap<PathBuf, usize>,
    pub additions: Vec<(PathBuf, Content)>,
    pub packages: Vec<PackageFiles>,
}

#[derive(Debug)]
pub enum Content {
    File(PathBuf),
    /// A text, and the file whose owner, group and mode it gets.
    Text {
        text: String,
        like: Option<PathBuf>,
    },
}

impl FilePlan {
    /// Replaces one distribution by its staged successor, in the directory `site`.
    ///
    /// # Errors
    /// Returns an error if its files are not known, or lie outside `site`.
    pub fn replace(
        &mut self,
        old: Option<&Distribution>,
        new: &Distribution,
        overlay: &Path,
        site: &Path,
    ) -> Result<(), String> {
        let index = self.packages.len();
        let first = self.additions.len();
        let mut records = BTreeMap::new();
        let mut kept = String::new();
        if let Some(old) = old {
            let record = files::read_text_up_to(&old.metadata.join("RECORD"), MAX_RECORD).unwrap_or_default();
            keep_script_lines(&record).for_each(|line| kept.extend([line, "\n"]));
            for file in installed_files(old, site, |name| is_shared_script(old, new, name))? {
                self.removals.extend(bytecode_of(&file).into_iter().map(|compiled| (compiled, index)));
                self.removals.insert(file, index);
            }
            records.extend(dist_info_name(old).zip(sha256_of(&old.metadata.join("RECORD"))));
        }
        // REQUESTED records that the user asked for the package by name, which a repair does not change.
        let was_requested = old.is_some_and(|old| old.metadata.join("REQUESTED").exists());
        let record_file = new.metadata.join("RECORD");
        let text = files::read_text_up_to(&record_file, MAX_RECORD)
            .map_err(describe("cannot read", &record_file))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let name = record_path(line);
            let is_requested = name.ends_with(".dist-info/REQUESTED");
            if is_bytecode(Path::new(&name))
                || (is_requested && !was_requested)
                || is_console_script(new, &name)
            {
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
                self.add_file(overlay, &name, site);
            }
        }
        let dist_info = dist_info_name(new).unwrap_or_default();
        records.insert(dist_info.clone(), FileDigest::of_text(&kept).sha256);
        self.additions.push((site.join(&dist_info).join("RECORD"), Content::Text { text: kept, like: None }));
        self.packages.push(PackageFiles {
            package: normalised(&new.name),
            site: site.to_owned(),
            created: first..self.additions.len(),
            records,
            new: dist_info,
            replaced_record: None,
        });
        Ok(())
    }

    /// Exchanges single files of a distribution, and its RECORD, for those of its edited copy. Its other
    /// files stay where they are, its METADATA above all: without it a repair that is cut off would not be
    /// found.
    ///
    /// # Errors
    /// Returns an error if a RECORD cannot be read.
    pub fn edit<'a>(
        &mut self,
        old: &Distribution,
        names: impl Iterator<Item = &'a str>,
        overlay: &Path,
        site: &Path,
    ) -> Result<(), String> {
        let index = self.packages.len();
        let first = self.additions.len();
        for name in names {
            let file = site.join(name);
            self.removals.extend(bytecode_of(&file).into_iter().map(|compiled| (compiled, index)));
            self.removals.insert(file, index);
            self.add_file(overlay, name, site);
        }
        let dist_info = dist_info_name(old).unwrap_or_default();
        let (record, replaced) = (overlay.join(&dist_info).join("RECORD"), old.metadata.join("RECORD"));
        let text = files::read_text_up_to(&record, MAX_RECORD).map_err(describe("cannot read", &record))?;
        let replaced_record = FileDigest::of(&replaced).map_err(describe("cannot read", &replaced))?.sha256;
        let records = BTreeMap::from([(dist_info.clone(), FileDigest::of_text(&text).sha256)]);
        self.removals.insert(replaced, index);
        self.additions
            .push((site.join(&dist_info).join("RECORD"), Content::Text { text, like: Some(record) }));
        self.packages.push(PackageFiles {
            package: normalised(&old.name),
            site: site.to_owned(),
            created: first..self.additions.len(),
            records,
            new: dist_info,
            replaced_record: Some(replaced_record),
        });
        Ok(())
    }

    /// Adds a file, and its bytecode.
    fn add_file(&mut self, overlay: &Path, name: &str, site: &Path) {
        let file = overlay.join(name);
        let compiled = bytecode_of(&file).into_iter().filter_map(|compiled| {
            let path = site.join(compiled.strip_prefix(overlay).ok()?);
            Some((path, Content::File(compiled)))
        });
        self.additions.extend(compiled);
        self.additions.push((site.join(name), Content::File(file)));
    }

    /// Finds a file to be added whose path is taken by a file that is not to be removed.
    #[must_use]
    pub fn find_conflict(&self) -> Option<&Path> {
        // Bytecode whose source is missing belongs to no package.
        let paths = self.additions.iter().map(|(path, _)| path.as_path()).filter(|path| !is_bytecode(path));
        paths.into_iter().find(|path| path.symlink_metadata().is_ok() && !self.removals.contains_key(*path))
    }

    /// The existing directories in which files are removed or added.
    #[must_use]
    pub fn directories(&self) -> BTreeSet<PathBuf> {
        let paths = self.paths().into_iter();
        let existing = paths.filter_map(|file| file.ancestors().skip(1).find(|above| above.is_dir()));
        sorted_set(existing.map(Path::to_owned))
    }

    /// Every file to be removed or added.
    #[must_use]
    pub fn paths(&self) -> BTreeSet<&Path> {
        let additions = self.additions.iter().map(|(path, _)| path);
        sorted_set(self.removals.keys().chain(additions).map(PathBuf::as_path))
    }

    /// The directories of packages in which files change.
    #[must_use]
    pub fn sites(&self) -> Vec<PathBuf> {
        let sites = sorted_set(self.packages.iter().map(|package| &package.site));
        sites.into_iter().cloned().collect()
    }

    /// The directories of the files to be removed, up to those of packages, with their modes.
    #[must_use]
    pub fn directories_of_removals(&self) -> Vec<(PathBuf, u32)> {
        let sites = self.sites();
        let is_in_site = |directory: &&Path| sites.iter().any(|site| directory.starts_with(site));
        let directories =
            sorted_set(self.removals.keys().flat_map(|path| path.ancestors().skip(1)).filter(is_in_site));
        let mode = |directory: &Path| Some(directory.metadata().ok()?.permissions().mode());
        directories
            .into_iter()
            .filter_map(|directory| Some((directory.to_owned(), mode(directory)?)))
            .collect()
    }
}
