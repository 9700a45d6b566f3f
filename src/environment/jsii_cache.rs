//! The package cache that jsii uses during a check, apart from the user's own. Unpacking CDK takes a
//! third of a synthesis.
//!
//! jsii takes any directory at the path of an entry for a complete entry, and fails where another process
//! holds the lock of one. So one synthesis at a time uses the cache, and the others unpack without it;
//! the remains of one that was killed are removed before the next one begins.

use std::ffi::OsString;
use std::fs::{self, DirEntry, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::cache::Cache;
use crate::system::child::set;

/// The file that jsii writes into an entry when it is complete, and touches at each use.
const MARKER: &str = ".jsii-runtime-package-cache";

/// The depth of an entry: name, or scope and name; version; digest.
const MAX_DEPTH: usize = 4;

/// An entry is a package of CDK, of which a template needs some 27, 50 MB in all: five releases.
const MAX_ENTRIES: usize = 150;

/// jsii's own limit for its cache.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The cache, locked for one synthesis.
#[derive(Debug)]
pub struct JsiiCache {
    root: PathBuf,
    _lock: File,
}

impl JsiiCache {
    /// Locks the cache and removes the entries that are incomplete or too old; `None` where another
    /// synthesis uses it or it cannot be written.
    #[must_use]
    pub fn lock(cache: &Cache) -> Option<Self> {
        let root = cache.directory("jsii")?;
        let options = File::options().write(true).create(true).truncate(false).mode(0o600).to_owned();
        let lock = options.open(root.join("lock")).ok()?;
        lock.try_lock().ok()?;
        let root = root.join("packages");
        remove_unusable(&root, MAX_ENTRIES, SystemTime::now());
        Some(Self { root, _lock: lock })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.read_dir().map_or(true, |mut entries| entries.next().is_none())
    }

    /// Removes every entry, because one of them may be the cause of a failure.
    pub fn clear(&self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// The variables by which jsii uses this cache, or none. Without them it would use the user's own, which a
/// check does not change.
#[must_use]
pub fn variables(cache: Option<&JsiiCache>) -> Vec<(OsString, Option<OsString>)> {
    match cache {
        Some(cache) => vec![
            set("JSII_RUNTIME_PACKAGE_CACHE", "enabled"),
            set("JSII_RUNTIME_PACKAGE_CACHE_ROOT", &cache.root),
        ],
        None => vec![set("JSII_RUNTIME_PACKAGE_CACHE", "disabled")],
    }
}

/// Removes incomplete entries, entries that have not been used for long, and the oldest ones past a
/// number.
fn remove_unusable(root: &Path, max_entries: usize, now: SystemTime) {
    let mut entries = Vec::new();
    sort_out(root, MAX_DEPTH, &mut entries);
    entries.sort_unstable();
    let surplus = entries.len().saturating_sub(max_entries);
    for (index, (used, entry)) in entries.iter().enumerate() {
        if index < surplus || now.duration_since(*used).is_ok_and(|age| age > MAX_AGE) {
            let _ = fs::remove_dir_all(entry);
        }
    }
}

/// Collects the complete entries, each with the time of its last use, removes all other files and
/// directories that hold no entry, and returns whether there is an entry.
fn sort_out(directory: &Path, depth: usize, entries: &mut Vec<(SystemTime, PathBuf)>) -> bool {
    let mut has_entries = false;
    for child in directory.read_dir().into_iter().flatten().flatten() {
        let path = child.path();
        if !is_directory(&child) {
            // A lock that a killed process has left.
            let _ = fs::remove_file(path);
        } else if let Ok(used) = path.join(MARKER).metadata().and_then(|marker| marker.modified()) {
            entries.push((used, path));
            has_entries = true;
        } else if depth > 1 && sort_out(&path, depth - 1, entries) {
            has_entries = true;
        } else {
            let _ = fs::remove_dir_all(path);
        }
    }
    has_entries
}

fn is_directory(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(root: &Path, path: &str, is_whole: bool) -> PathBuf {
        let entry = root.join(path);
        fs::create_dir_all(entry.join("lib")).unwrap();
        fs::write(entry.join("package.json"), "{}").unwrap();
        if is_whole {
            fs::write(entry.join(MARKER), "").unwrap();
        }
        entry
    }

    #[test]
    fn what_a_killed_synthesis_has_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let whole = entry(root.path(), "@aws-cdk/core/1.204.0/aa", true);
        let unscoped = entry(root.path(), "constructs/3.4.344/dd", true);
        let partial = entry(root.path(), "@aws-cdk/core/1.204.0/bb", false);
        let empty = root.path().join("@aws-cdk/iam/1.204.0/cc");
        fs::create_dir_all(&empty).unwrap();
        let unscoped_partial = entry(root.path(), "constructs/3.4.344/ee", false);
        let lock = root.path().join("@aws-cdk/core/1.204.0/bb.lock");
        fs::write(&lock, "").unwrap();
        remove_unusable(root.path(), MAX_ENTRIES, SystemTime::now());
        assert!(whole.join("package.json").exists());
        assert!(unscoped.join("lib").exists());
        for gone in [partial, empty, unscoped_partial, lock] {
            assert!(!gone.exists(), "{}", gone.display());
        }
    }

    #[test]
    fn the_oldest_entries_and_those_of_long_ago_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        let used = |path: &str, age: Duration| {
            let entry = entry(root.path(), path, true);
            let marker = File::options().write(true).open(entry.join(MARKER)).unwrap();
            marker.set_modified(now - age).unwrap();
            entry
        };
        let (first, second) = (used("a/1/a", days(1)), used("a/1/b", days(2)));
        let (third, long_ago) = (used("a/1/c", days(3)), used("a/1/d", days(31)));
        remove_unusable(root.path(), 3, now);
        assert!(first.exists() && second.exists() && third.exists());
        assert!(!long_ago.exists());
        remove_unusable(root.path(), 2, now);
        assert!(first.exists() && second.exists());
        assert!(!third.exists());
    }
}
