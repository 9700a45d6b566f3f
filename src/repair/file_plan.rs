//! The files to remove and to add when staged packages replace installed ones, according to their RECORDs. No
//! file is changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::environment::packages::read_installer;
use crate::environment::record::{
    MAX_RECORD, bytecode_of, dist_info_name, installed_files, installed_path, is_bytecode, prefix_of,
    record_path, recorded_names,
};
use crate::model::distribution::Distribution;
use crate::repair::file_digest::{FileDigest, sha256_of};
use crate::repair::journal::{PackageFiles, SavedDirectory};
use crate::system::files::{self, describe};
use crate::text::package_name::normalised;

/// The changes to an environment: files to remove, each with the index of its package, and files to add, each
/// with its content.
#[derive(Debug, Default)]
pub struct FilePlan {
    pub removals: BTreeMap<PathBuf, usize>,
    pub additions: Vec<(PathBuf, Content)>,
    pub packages: Vec<PackageFiles>,
}

#[derive(Debug)]
pub enum Content {
    File(PathBuf),
    Text(String),
}

impl FilePlan {
    /// Plans to install a distribution from `overlay`, the directory of the staged packages, into the
    /// directory `site`, and to remove the old distribution, if there is one.
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
        let mut old_record = String::new();
        if let Some(old) = old {
            for file in installed_files(old, site)? {
                self.removals.extend(bytecode_of(&file).into_iter().map(|compiled| (compiled, index)));
                self.removals.insert(file, index);
            }
            let file = old.metadata.join("RECORD");
            old_record = files::read_text_up_to(&file, MAX_RECORD).unwrap_or_default();
            records.extend(dist_info_name(old).zip(sha256_of(&file)));
        }
        // The file REQUESTED means that the user asked for the package by name. The new package gets this
        // file only if the old one has it.
        let was_requested = old.is_some_and(|old| old.metadata.join("REQUESTED").exists());
        let record_file = new.metadata.join("RECORD");
        let text = files::read_text_up_to(&record_file, MAX_RECORD)
            .map_err(describe("cannot read", &record_file))?;
        let staged_by_uv = read_installer(new).as_deref() == Some("uv");
        let places = Places { site, old_record: &old_record, new_record: &text, staged_by_uv };
        let mut record = String::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let name = record_path(line);
            let is_requested = name.ends_with(".dist-info/REQUESTED");
            if is_bytecode(Path::new(&name)) || (is_requested && !was_requested) {
                continue;
            }
            let staged = installed_path(overlay, &name).ok_or_else(|| {
                let (package, version) = (&new.name, &new.version);
                format!("{package} {version} contains {name}, which is outside {}", places.prefix().display())
            })?;
            let (base, line) = if places.is_of_prefix(&name) {
                (places.prefix(), places.lead_to_prefix(line))
            } else {
                (site, line.to_owned())
            };
            record.push_str(&line);
            record.push('\n');
            if !name.ends_with(".dist-info/RECORD") {
                self.add_file(staged, overlay, base);
            }
        }
        let dist_info = dist_info_name(new).unwrap_or_default();
        records.insert(dist_info.clone(), FileDigest::of_text(&record).sha256);
        self.additions.push((site.join(&dist_info).join("RECORD"), Content::Text(record)));
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

    /// Plans to replace single files of a distribution, and its RECORD, with those of its edited copy.
    /// The other files are not touched. This matters most for METADATA: if the repair were interrupted while
    /// METADATA is missing, the next call would not find aws-parallelcluster. The place of the journal
    /// depends on where aws-parallelcluster is. Therefore, the next call would not find the journal either,
    /// and could not roll the repair back.
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
            self.add_file(overlay.join(name), overlay, site);
        }
        let dist_info = dist_info_name(old).unwrap_or_default();
        let (record, replaced) = (overlay.join(&dist_info).join("RECORD"), old.metadata.join("RECORD"));
        let text = files::read_text_up_to(&record, MAX_RECORD).map_err(describe("cannot read", &record))?;
        let replaced_record = FileDigest::of(&replaced).map_err(describe("cannot read", &replaced))?.sha256;
        let records = BTreeMap::from([(dist_info.clone(), FileDigest::of_text(&text).sha256)]);
        self.removals.insert(replaced, index);
        self.additions.push((site.join(&dist_info).join("RECORD"), Content::Text(text)));
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

    /// Adds a file from `overlay`, and its bytecode, at the same relative path below `base`.
    fn add_file(&mut self, file: PathBuf, overlay: &Path, base: &Path) {
        let all = bytecode_of(&file).into_iter().chain([file]);
        let placed = all.filter_map(|file| {
            let path = base.join(file.strip_prefix(overlay).ok()?);
            Some((path, Content::File(file)))
        });
        self.additions.extend(placed);
    }

    /// Finds a path at which a file would be added, but at which there is already a file that the plan does
    /// not remove.
    pub fn find_conflict(&self) -> Option<&Path> {
        // A bytecode file is not reported: if its source existed, the source would be reported. Bytecode
        // without a source belongs to no package.
        let paths = self.additions.iter().map(|(path, _)| path.as_path()).filter(|path| !is_bytecode(path));
        paths.into_iter().find(|path| path.symlink_metadata().is_ok() && !self.removals.contains_key(*path))
    }

    /// The nearest existing directory above each file to remove or to add.
    pub fn directories(&self) -> BTreeSet<PathBuf> {
        let paths = self.paths().into_iter();
        let existing = paths.filter_map(|file| file.ancestors().skip(1).find(|above| above.is_dir()));
        existing.map(Path::to_owned).collect::<BTreeSet<_>>()
    }

    /// Every file to remove or to add.
    pub fn paths(&self) -> BTreeSet<&Path> {
        let additions = self.additions.iter().map(|(path, _)| path);
        self.removals.keys().chain(additions).map(PathBuf::as_path).collect::<BTreeSet<_>>()
    }

    /// The package directories in which files change.
    pub fn sites(&self) -> Vec<PathBuf> {
        let sites = self.packages.iter().map(|package| &package.site).collect::<BTreeSet<_>>();
        sites.into_iter().cloned().collect()
    }

    /// The prefixes of [`Self::sites`]. They contain scripts and data files, which change too.
    pub fn prefixes(&self) -> Vec<PathBuf> {
        let prefixes = self.packages.iter().map(|package| prefix_of(&package.site)).collect::<BTreeSet<_>>();
        prefixes.into_iter().map(Path::to_owned).collect()
    }

    /// Whether a directory stays when its last file is removed. A prefix stays, and so does a directory
    /// directly in a prefix, such as `bin`.
    pub fn keeps(&self, directory: &Path) -> bool {
        let is_top = |site: &Path, prefix: &Path| {
            directory == prefix || prefix != site && directory.parent() == Some(prefix)
        };
        self.packages.iter().any(|package| is_top(&package.site, prefix_of(&package.site)))
    }

    /// The existing directories above the files to remove and to add, up to the prefixes.
    pub fn existing_directories(&self) -> Vec<SavedDirectory> {
        let prefixes = self.prefixes();
        let is_in_prefix = |directory: &&Path| prefixes.iter().any(|prefix| directory.starts_with(prefix));
        let paths = self.paths();
        let above = paths
            .iter()
            .flat_map(|path| path.ancestors().skip(1))
            .filter(is_in_prefix)
            .collect::<BTreeSet<_>>();
        let saved = |directory: &Path| {
            let metadata = directory.metadata().ok()?;
            let (mode, group) = (metadata.mode(), Some(metadata.gid()));
            Some(SavedDirectory { path: directory.to_owned(), mode, group })
        };
        above.into_iter().filter_map(saved).collect()
    }
}

/// Decides where the files of a staged distribution are installed: scripts and data files in the prefix, all
/// other files in the package directory.
struct Places<'a> {
    site: &'a Path,
    old_record: &'a str,
    new_record: &'a str,
    staged_by_uv: bool,
}

impl Places<'_> {
    fn prefix(&self) -> &Path {
        prefix_of(self.site)
    }

    /// Whether a file in the staged RECORD belongs in the prefix. With `--target`, pip lists the script `x`
    /// as `../../bin/x`, but uv lists it as `bin/x`, and a file of a package called `bin` would have the path
    /// `bin/x` too. So if uv wrote the RECORD, we look for the first directory of the path (here `bin`) in
    /// the RECORD of the old distribution. If the old distribution has this directory in the prefix, the file
    /// belongs in the prefix. If the old distribution has this directory only in the package directory, the
    /// file belongs in the package directory. If the old distribution has this directory in neither place, or
    /// if there is no old distribution, the file belongs in the prefix only if `USUAL` contains this
    /// directory and the new distribution has no package of that name.
    fn is_of_prefix(&self, name: &str) -> bool {
        const USUAL: [&str; 4] = ["bin", "etc", "include", "share"];
        if name.starts_with("../") || !self.staged_by_uv {
            return name.starts_with("../");
        }
        let Some((top, _)) = name.split_once('/') else { return self.had_in_prefix(name) };
        let is_in_site = |name: String| name.starts_with(&format!("{top}/"));
        let is_package = recorded_names(self.new_record).any(|name| name == format!("{top}/__init__.py"));
        let is_usual =
            || USUAL.contains(&top) && !is_package && !recorded_names(self.old_record).any(is_in_site);
        self.had_in_prefix(top) || is_usual()
    }

    /// Whether the old distribution has a file or a directory of this name in the prefix.
    fn had_in_prefix(&self, top: &str) -> bool {
        let depth = self.lead().len();
        recorded_names(self.old_record).any(|name| {
            let in_prefix = name.strip_prefix(&self.lead()).filter(|_| depth > 0);
            in_prefix.is_some_and(|name| name.split('/').next() == Some(top))
        })
    }

    /// The relative path from the package directory to the prefix, for example `../../../`.
    fn lead(&self) -> String {
        "../".repeat(self.site.strip_prefix(self.prefix()).map_or(0, |below| below.components().count()))
    }

    /// A line of the staged RECORD about a file in the prefix, rewritten with a path that is relative to the
    /// package directory.
    fn lead_to_prefix(&self, line: &str) -> String {
        let (quote, rest) = line.strip_prefix('"').map_or(("", line), |rest| ("\"", rest));
        format!("{quote}{}{}", self.lead(), rest.trim_start_matches("../"))
    }
}
