//! The journal of a repair, written before anything changes. It lists every file that is removed or added, so
//! that any later call can restore the old files. A journal is read from disk, so each path in it is checked
//! before use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::environment::record::{is_bytecode, prefix_of, recorded_paths};
use crate::repair::change::Change;
use crate::repair::file_digest::{FileDigest, sha256_of};
use crate::repair::token::{self, TOKEN_FILE};
use crate::system::files::describe;
use crate::system::trust;
use crate::text::package_name::normalised;

/// The maximum size of a journal. Each file in a journal takes about 200 bytes: the journal of a repair for
/// the advisory cdk-imagebuilder-1.153.0 (1,215 files) has 230 kB.
const MAX_JOURNAL: u64 = 64 << 20;

/// A file that a repair removes, and the name of its copy in the snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedFile {
    pub path: PathBuf,
    pub copy: String,
    /// The digest of the copy when it was made. Absent in the journals of version 0.1.0.
    #[serde(flatten)]
    pub digest: Option<FileDigest>,
    /// The index of the file's package in [`Journal::parts`].
    #[serde(default)]
    pub part: Option<usize>,
}

/// A directory as it was before the exchange. The journals of version 0.1.0 contain a pair of path and
/// mode instead.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedDirectory {
    pub path: PathBuf,
    pub mode: u32,
    #[serde(default)]
    pub group: Option<u32>,
}

/// The files of one package in an exchange.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackageFiles {
    pub package: String,
    /// The directory that contains the package's `.dist-info`.
    pub site: PathBuf,
    /// The range of the package's files in [`Journal::created`].
    pub created: Range<usize>,
    /// The SHA-256 of RECORD in the old and in the new `.dist-info`, by the name of the `.dist-info`.
    pub records: BTreeMap<String, String>,
    /// The name of the new `.dist-info`.
    pub new: String,
    /// The SHA-256 of the old RECORD, if the new RECORD replaces it in the same `.dist-info`.
    #[serde(default)]
    pub replaced_record: Option<String>,
}

/// The journal of one transaction: together with the copies, it is all that a rollback needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Journal {
    /// Part of the snapshot's name.
    pub id: String,
    /// The directory that is locked during the exchange.
    pub site: PathBuf,
    pub changes: Vec<Change>,
    pub removed: Vec<SavedFile>,
    pub created: Vec<PathBuf>,
    /// The digest of each file in [`Self::created`]. Absent in the journals of 0.1.0.
    #[serde(default)]
    pub created_digests: Vec<FileDigest>,
    /// The directories above the removed and added files, as far as they existed before the exchange;
    /// parents first.
    #[serde(default)]
    pub directories: Vec<SavedDirectory>,
    /// Every package directory in which something changes. Absent in the journals of 0.1.0.
    #[serde(default)]
    pub sites: Vec<PathBuf>,
    #[serde(default)]
    pub parts: Vec<PackageFiles>,
    /// The token ([`token`]) that the repair writes into every directory in [`Self::sites`]. An environment
    /// without this token is not the repaired environment, and the journal does not apply to it. A journal of
    /// 0.1.0 has no token, and applies to any environment at the path of the repaired environment.
    #[serde(default)]
    pub token: Option<String>,
}

/// Packages that another installer has written since the repair began, and their files in the journal.
#[derive(Debug, Default)]
pub struct ForeignPackages {
    /// The normalised names of these packages.
    pub names: Vec<String>,
    /// Files that the repair added, but that a rollback must not remove.
    pub not_removed: BTreeSet<PathBuf>,
    /// Files that the repair removed, but that a rollback must not restore.
    pub not_restored: BTreeSet<PathBuf>,
}

impl ForeignPackages {
    /// Adds single files that a rollback must not touch. Returns the files that were neither in `not_removed`
    /// nor in `not_restored` before.
    pub fn add_files(&mut self, files: BTreeSet<PathBuf>) -> Vec<PathBuf> {
        let is_covered = |path: &PathBuf| self.not_removed.contains(path) || self.not_restored.contains(path);
        let files: Vec<PathBuf> = files.into_iter().filter(|path| !is_covered(path)).collect();
        self.not_removed.extend(files.iter().cloned());
        self.not_restored.extend(files.iter().cloned());
        files
    }
}

impl Journal {
    /// The directories outside of which nothing is changed: the prefixes of the package directories.
    pub fn roots(&self) -> Vec<PathBuf> {
        self.all_sites().iter().map(|site| prefix_of(site).to_owned()).collect()
    }

    /// The package directories in which something changes.
    pub fn all_sites(&self) -> &[PathBuf] {
        if self.sites.is_empty() { std::slice::from_ref(&self.site) } else { &self.sites }
    }

    /// Refuses this journal if it is about another package directory than `site`, if it names a file outside
    /// [`Self::roots`] or a package outside [`Self::all_sites`], or if its id, its token or the name of a
    /// copy is invalid.
    pub fn refuse_paths_outside(&self, site: &Path) -> Result<(), String> {
        if self.site != site {
            return Err(format!(
                "it describes a repair of {}, not of {}",
                self.site.display(),
                site.display()
            ));
        }
        let is_name = |name: &str| {
            let mut parts = Path::new(name).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        };
        let names = self.removed.iter().map(|saved| &saved.copy).chain([&self.id]);
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Err(format!("it names {name:?}, which is not the name of a copy"));
        }
        if let Some(token) = self.token.as_ref().filter(|token| !token::is_token(token)) {
            return Err(format!("its token {token:?} is invalid"));
        }
        let roots = self.roots();
        let files = self.removed.iter().map(|saved| &saved.path).chain(&self.created);
        let mut sites = self.parts.iter().map(|part| &part.site);
        let outside = find_outside(&roots, files.map(PathBuf::as_path))
            .or_else(|| sites.find(|site| !self.all_sites().contains(site)).map(PathBuf::as_path));
        match outside {
            Some(path) => {
                Err(format!("it names {}, which is outside {}", path.display(), prefix_of(site).display()))
            }
            None => Ok(()),
        }
    }

    /// Finds the copies that are missing or damaged, and returns a message for each. No copy is needed if the
    /// old file is in place.
    pub fn find_missing_copies(&self, snapshot: &Path) -> Vec<String> {
        let describe_missing = |saved: &SavedFile| {
            let copy = snapshot.join(&saved.copy);
            let why = match saved.is_at(&copy) {
                Ok(true) => return None,
                Ok(false) => "has changed since it was saved".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "is gone".into(),
                Err(error) => format!("cannot be read ({error})"),
            };
            let is_in_place = saved.digest.is_some() && saved.is_at(&saved.path).unwrap_or(false);
            (!is_in_place).then(|| format!("{}, the copy of {}, {why}", copy.display(), saved.path.display()))
        };
        self.removed.iter().filter_map(describe_missing).collect()
    }

    /// Finds the packages for which another installer has written a `.dist-info`
    /// ([`PackageFiles::find_foreign_dist_infos`]), and their files that a rollback must leave alone.
    pub fn find_foreign_packages(&self) -> ForeignPackages {
        let mut foreign = ForeignPackages::default();
        for (index, part) in self.parts.iter().enumerate() {
            let dist_infos = part.find_foreign_dist_infos();
            if dist_infos.is_empty() {
                continue;
            }
            foreign.names.push(part.package.clone());
            let created = self.created.get(part.created.clone()).unwrap_or_default();
            let recorded = dist_infos.iter().map(|dist_info| recorded_paths(&part.site, dist_info));
            foreign.not_removed.extend(match recorded.collect::<Option<Vec<_>>>() {
                Some(recorded) => {
                    let recorded = recorded.into_iter().flatten().collect::<BTreeSet<_>>();
                    created.iter().filter(|path| recorded.contains(*path)).cloned().collect()
                }
                // If there is no RECORD, the other installer is still running, and we do not know which files
                // it has written.
                None => created.to_vec(),
            });
            let own = self.removed.iter().filter(|saved| saved.part == Some(index));
            foreign.not_restored.extend(own.map(|saved| saved.path.clone()));
        }
        foreign
    }

    /// Whether every package directory in this journal contains the journal's token. If not, the environment
    /// is not the one that the repair changed. Always true for a journal of 0.1.0, which has no token.
    pub fn is_bound(&self) -> Result<bool, String> {
        let Some(token) = &self.token else { return Ok(true) };
        for site in self.all_sites() {
            if !token::is_in(site, token).map_err(describe("cannot read", &site.join(TOKEN_FILE)))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Finds the files in the journal that have neither their old content (from before the exchange) nor
    /// their new content. Missing files do not count.
    pub fn find_changed_files(&self) -> BTreeSet<PathBuf> {
        self.find_files_unlike(PartialEq::eq)
    }

    /// Finds the changed files that a loss of power does not explain: another program has written them.
    pub fn find_foreign_files(&self) -> BTreeSet<PathBuf> {
        self.find_files_unlike(|expected, found| expected == found || expected.may_be_cut_off_as(found))
    }

    fn find_files_unlike(&self, is_like: impl Fn(&FileDigest, &FileDigest) -> bool) -> BTreeSet<PathBuf> {
        // A journal of version 0.1.0 has no token, and no digests of the new files.
        if self.token.is_none() {
            return BTreeSet::new();
        }
        let mut known: BTreeMap<&Path, Vec<Option<FileDigest>>> = BTreeMap::new();
        for saved in &self.removed {
            known.entry(&saved.path).or_default().push(saved.digest.clone());
        }
        for (index, path) in self.created.iter().enumerate() {
            known.entry(path).or_default().push(self.created_digests.get(index).cloned());
        }
        let is_unlike = |path: &Path, known: &[Option<FileDigest>]| {
            let is_known =
                |found| known.iter().any(|known| known.as_ref().is_none_or(|known| is_like(known, &found)));
            // Bytecode does not count, because Python may have compiled the sources again.
            !is_bytecode(path) && FileDigest::of(path).is_ok_and(|found| !is_known(found))
        };
        let unlike = known.into_iter().filter(|(path, known)| is_unlike(path, known));
        unlike.map(|(path, _)| path.to_owned()).collect::<BTreeSet<_>>()
    }

    /// Finds a package that another installer has written since the repair, over the repair's files or next
    /// to them. A package whose files are merely gone does not count.
    pub fn find_reinstalled_package(&self) -> Option<&str> {
        let is_reinstalled = |part: &&PackageFiles| {
            let record = part.site.join(&part.new).join("RECORD");
            let is_other = || sha256_of(&record).as_ref() != part.records.get(&part.new);
            (record.exists() && is_other()) || !part.find_foreign_dist_infos().is_empty()
        };
        self.parts.iter().find(is_reinstalled).map(|part| part.package.as_str())
    }

    /// Finds a package that is no longer in the state in which the repair left it.
    pub fn find_changed_package(&self) -> Option<&str> {
        let is_new = |part: &PackageFiles| {
            let record = sha256_of(&part.site.join(&part.new).join("RECORD"));
            record.is_some() && record.as_ref() == part.records.get(&part.new)
        };
        let changed =
            self.parts.iter().find(|part| !is_new(part) || !part.find_foreign_dist_infos().is_empty());
        changed.map(|part| part.package.as_str())
    }
}

impl PackageFiles {
    /// Finds the `.dist-info` directories of this package that another installer has written: those that the
    /// journal does not name, or that contain another RECORD than the journal names.
    pub fn find_foreign_dist_infos(&self) -> Vec<PathBuf> {
        let entries = self.site.read_dir().into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let of_package = |name: &String| {
            let stem = name.strip_suffix(".dist-info").and_then(|stem| stem.rsplit_once('-'));
            stem.is_some_and(|(package, _)| normalised(package) == self.package)
        };
        let known = |name: &String| {
            let Some(expected) = self.records.get(name) else { return false };
            // The repair may have removed or written only a part of the directory. The directory then has no
            // RECORD or, after a loss of power, an empty one, and does not count as foreign.
            let found = FileDigest::of(&self.site.join(name).join("RECORD"));
            found.map_or(true, |found| {
                let is_replaced = self.replaced_record.as_ref() == Some(&found.sha256);
                found.size == 0 || found.sha256 == *expected || is_replaced
            })
        };
        named.filter(of_package).filter(|name| !known(name)).map(|name| self.site.join(name)).collect()
    }
}

impl SavedFile {
    /// Whether the copy in a snapshot still has the content that was saved. A damaged copy must not replace a
    /// file that is intact.
    pub fn has_copy_in(&self, snapshot: &Path) -> bool {
        self.digest.is_none() || self.is_at(&snapshot.join(&self.copy)).unwrap_or(false)
    }

    /// Whether the file at this path has the content that was saved.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let metadata = path.symlink_metadata()?;
        let Some(saved) = &self.digest else { return Ok(metadata.is_file() || metadata.is_symlink()) };
        if metadata.is_file() && metadata.len() != saved.size {
            return Ok(false);
        }
        Ok(FileDigest::of(path)? == *saved)
    }
}

/// Finds a path that is not below any of these directories. Links in the path's parent are followed, but a
/// link at the path itself is not followed. A relative path, or a path with `..`, is never below a directory.
pub fn find_outside<'a>(roots: &[PathBuf], paths: impl IntoIterator<Item = &'a Path>) -> Option<&'a Path> {
    let roots = roots.iter().filter(|root| is_plain(root)).filter_map(|root| resolve(root));
    let roots: Vec<PathBuf> = roots.collect();
    let is_below = |directory: PathBuf| roots.iter().any(|root| directory.starts_with(root));
    // Most paths share their directory with others, so the result is kept for each directory.
    let mut known: BTreeMap<&Path, bool> = BTreeMap::new();
    let mut is_inside = |path: &'a Path| {
        path.parent().filter(|_| is_plain(path)).is_some_and(|directory| {
            *known.entry(directory).or_insert_with(|| resolve(directory).is_some_and(is_below))
        })
    };
    paths.into_iter().find(|path| !is_inside(path))
}

/// Whether a path is absolute and has no `..`.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// The path, with the links in its existing part resolved.
fn resolve(path: &Path) -> Option<PathBuf> {
    let (there, canonical) =
        path.ancestors().find_map(|there| Some((there, fs::canonicalize(there).ok()?)))?;
    Some(canonical.join(path.strip_prefix(there).ok()?))
}

/// Reads a journal about the packages in `site`; `None` if there is no file, or if reading it fails with an
/// error that is `ignored`.
pub fn read_journal(path: &Path, site: &Path, ignored: &[io::ErrorKind]) -> Result<Option<Journal>, String> {
    let text = match trust::read_up_to(path, MAX_JOURNAL) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) if ignored.contains(&error.kind()) => return Ok(None),
        Err(error) => return Err(describe("cannot read", path)(error)),
    };
    let journal: Journal =
        serde_json::from_slice(&text).map_err(|error| describe("cannot read", path)(error.into()))?;
    let refused = journal.refuse_paths_outside(site);
    refused.map_err(|why| format!("{} was rejected: {why}", path.display()))?;
    Ok(Some(journal))
}

/// Reads only the id from a journal. The journal's paths are not used, so they are not checked.
pub fn read_id(path: &Path) -> io::Result<String> {
    #[derive(Deserialize)]
    struct JournalId {
        id: String,
    }
    let text = trust::read_up_to(path, MAX_JOURNAL)?;
    Ok(serde_json::from_slice::<JournalId>(&text)?.id)
}
