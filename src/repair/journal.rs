//! What a repair writes down before its first change: every file that goes or comes, by which
//! whoever finds it puts everything back. It is data from disk: each path is checked before use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::package_name::normalised;
use crate::repair::file_digest::{FileDigest, sha256_of};
use crate::repair::plan::Change;
use crate::repair::record::recorded_paths;

/// A file that goes, and its copy below the snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    pub path: PathBuf,
    pub copy: String,
    /// What the copy was when it was made. Absent in the journals of version 0.1.0.
    #[serde(default)]
    pub size: Option<u64>,
    #[serde(default)]
    pub sha256: Option<String>,
    /// The index of its package in [`Journal::parts`].
    #[serde(default)]
    pub part: Option<usize>,
}

/// What one package has in an exchange.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackageFiles {
    pub package: String,
    /// The directory that holds its `.dist-info`.
    pub site: PathBuf,
    /// Its files among [`Journal::created`].
    pub created: Range<usize>,
    /// The `.dist-info` of before and of after, and the SHA-256 of the RECORD in each.
    pub records: BTreeMap<String, String>,
    /// The `.dist-info` of after.
    pub new: String,
}

/// Everything that is needed to put the old files back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Journal {
    /// Names the snapshot too.
    pub id: String,
    /// The directory that is locked meanwhile.
    pub site: PathBuf,
    pub changes: Vec<Change>,
    pub removed: Vec<Saved>,
    pub created: Vec<PathBuf>,
    /// Directories that may go with their last file, parents first, and their modes.
    #[serde(default)]
    pub directories: Vec<(PathBuf, u32)>,
    /// Every directory of packages in which something changes. Absent in the journals of 0.1.0.
    #[serde(default)]
    pub sites: Vec<PathBuf>,
    #[serde(default)]
    pub parts: Vec<PackageFiles>,
}

/// The files of packages that another program has installed since.
#[derive(Debug, Default)]
pub struct Taken {
    pub packages: Vec<String>,
    /// Not to be removed.
    pub keep: BTreeSet<PathBuf>,
    /// Not to be put back.
    pub leave: BTreeSet<PathBuf>,
}

impl Journal {
    /// The directories outside of which nothing is changed.
    #[must_use]
    pub fn roots(&self) -> Vec<PathBuf> {
        if self.sites.is_empty() { vec![self.site.clone()] } else { self.sites.clone() }
    }

    /// # Errors
    /// Returns an error if the journal is another environment's, or names a path outside of its
    /// directories of packages.
    pub fn refuse_paths_outside(&self, site: &Path) -> Result<(), String> {
        if self.site != site {
            return Err(format!("it is about {}, not about {}", self.site.display(), site.display()));
        }
        let is_name = |name: &str| {
            let mut parts = Path::new(name).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
        };
        let names = self.removed.iter().map(|saved| &saved.copy).chain([&self.id]);
        if let Some(name) = names.into_iter().find(|name| !is_name(name)) {
            return Err(format!("it names a copy {name:?}"));
        }
        let roots = self.roots();
        let mut inside = Inside::new(&roots);
        let mut files = self.removed.iter().map(|saved| &saved.path).chain(&self.created);
        let mut sites = self.parts.iter().map(|part| &part.site);
        let outside =
            files.find(|path| !inside.holds(path)).or_else(|| sites.find(|site| !roots.contains(site)));
        match outside {
            Some(path) => Err(format!("it names {}, which lies outside {}", path.display(), site.display())),
            None => Ok(()),
        }
    }

    /// The copies that are gone or are not what was saved, in words. A file that is in its place
    /// already needs none.
    #[must_use]
    pub fn missing(&self, snapshot: &Path) -> Vec<String> {
        let lost = |saved: &Saved| {
            let copy = snapshot.join(&saved.copy);
            let why = match saved.is_in(&copy) {
                Ok(true) => return None,
                Ok(false) => "is not what was saved".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "is gone".into(),
                Err(error) => format!("cannot be read ({error})"),
            };
            let is_back = saved.sha256.is_some() && saved.is_in(&saved.path).unwrap_or(false);
            (!is_back).then(|| format!("{}, the copy of {}, {why}", copy.display(), saved.path.display()))
        };
        self.removed.iter().filter_map(lost).collect()
    }

    /// What belongs to another installer by now: a `.dist-info` of a package that neither was there
    /// before nor is the repair's own.
    #[must_use]
    pub fn taken(&self) -> Taken {
        let mut taken = Taken::default();
        for (index, part) in self.parts.iter().enumerate() {
            let foreign = part.foreign();
            if foreign.is_empty() {
                continue;
            }
            taken.packages.push(part.package.clone());
            let created = self.created.get(part.created.clone()).unwrap_or_default();
            let named = foreign.iter().map(|dist_info| recorded_paths(&part.site, dist_info));
            taken.keep.extend(match named.collect::<Option<Vec<_>>>() {
                Some(named) => {
                    let named: BTreeSet<PathBuf> = named.into_iter().flatten().collect();
                    created.iter().filter(|path| named.contains(*path)).cloned().collect()
                }
                // Without a RECORD its installer is still at work: what is whose is not known.
                None => created.to_vec(),
            });
            let own = self.removed.iter().filter(|saved| saved.part == Some(index));
            taken.leave.extend(own.map(|saved| saved.path.clone()));
        }
        taken
    }

    /// The first package that is not as the repair has placed it.
    #[must_use]
    pub fn moved(&self) -> Option<&str> {
        let is_there = |part: &PackageFiles| part.site.join(&part.new).join("RECORD").is_file();
        let moved = self.parts.iter().find(|part| !is_there(part) || !part.foreign().is_empty());
        moved.map(|part| part.package.as_str())
    }
}

impl PackageFiles {
    /// The `.dist-info` directories of this package that are not known to the journal.
    #[must_use]
    pub fn foreign(&self) -> Vec<PathBuf> {
        let entries = self.site.read_dir().into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let of_package = |name: &String| {
            let stem = name.strip_suffix(".dist-info").and_then(|stem| stem.rsplit_once('-'));
            stem.is_some_and(|(package, _)| normalised(package) == self.package)
        };
        let known = |name: &String| {
            let Some(expected) = self.records.get(name) else { return false };
            // Half removed or half placed it has no RECORD.
            sha256_of(&self.site.join(name).join("RECORD")).is_none_or(|is| is == *expected)
        };
        named.filter(of_package).filter(|name| !known(name)).map(|name| self.site.join(name)).collect()
    }
}

impl Saved {
    /// Whether this path has what was saved.
    fn is_in(&self, path: &Path) -> io::Result<bool> {
        let metadata = path.symlink_metadata()?;
        let (Some(size), Some(sha256)) = (self.size, self.sha256.as_ref()) else {
            return Ok(metadata.is_file() || metadata.is_symlink());
        };
        if metadata.is_file() && metadata.len() != size {
            return Ok(false);
        }
        let mark = FileDigest::of(path)?;
        Ok(mark.size == size && mark.sha256 == *sha256)
    }
}

/// Which paths lie below some directories, links followed.
struct Inside {
    roots: Vec<PathBuf>,
    seen: BTreeMap<PathBuf, bool>,
}

impl Inside {
    fn new(roots: &[PathBuf]) -> Self {
        let roots = roots.iter().filter(|root| is_plain(root)).filter_map(|root| resolved(root));
        Self { roots: roots.collect(), seen: BTreeMap::new() }
    }

    fn holds(&mut self, path: &Path) -> bool {
        let Some(directory) = path.parent().filter(|_| is_plain(path)) else { return false };
        if let Some(known) = self.seen.get(directory) {
            return *known;
        }
        let below = |directory: PathBuf| self.roots.iter().any(|root| directory.starts_with(root));
        let holds = resolved(directory).is_some_and(below);
        self.seen.insert(directory.to_owned(), holds);
        holds
    }
}

/// Absolute, and without `..`.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// With the links of what exists of it followed.
fn resolved(path: &Path) -> Option<PathBuf> {
    let (there, canonical) =
        path.ancestors().find_map(|there| Some((there, fs::canonicalize(there).ok()?)))?;
    Some(canonical.join(path.strip_prefix(there).ok()?))
}
