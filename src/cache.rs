//! The cache: small JSON files, each named by a fingerprint of everything that its content depends on. An
//! entry that is missing or damaged is computed again.

use std::env;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::system::disk::{self, Durability};
use crate::system::{dirs, trust};

/// The number of entries of one kind past which the oldest are removed: every image id has a verdict of its
/// own.
const MAX_ENTRIES: usize = 256;

/// A digest of fields, each with its length, so that two different lists never have one digest.
#[derive(Debug, Clone)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// A fingerprint that differs between versions of this program, which may decide differently.
    #[must_use]
    pub fn new() -> Self {
        let mut new = Self(Sha256::new());
        new.field(env!("CARGO_PKG_VERSION"));
        new
    }

    /// A fingerprint for names on disk, which every version of this program has to find.
    #[must_use]
    pub fn stable() -> Self {
        Self(Sha256::new())
    }

    pub fn field(&mut self, content: impl AsRef<[u8]>) -> &mut Self {
        let content = content.as_ref();
        self.0.update((content.len() as u64).to_le_bytes());
        self.0.update(content);
        self
    }

    /// Adds a file by its `stat`: it differs after an edit, a reinstallation or a replacement.
    pub fn file(&mut self, path: &Path) -> &mut Self {
        self.field(path.as_os_str().as_encoded_bytes());
        self.metadata(path.metadata().ok().as_ref())
    }

    /// What `stat` tells of a file; `None` where there is none.
    pub fn metadata(&mut self, metadata: Option<&Metadata>) -> &mut Self {
        let Some(metadata) = metadata else { return self.field("absent") };
        let numbers = [
            metadata.dev().cast_signed(),
            metadata.ino().cast_signed(),
            metadata.size().cast_signed(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ];
        self.field(numbers.map(i64::to_le_bytes).as_flattened())
    }

    #[must_use]
    pub fn key(&self) -> String {
        self.0.clone().finalize().iter().fold(String::new(), |key, byte| key + &format!("{byte:02x}"))
    }
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}

/// The cache directory. Without one, nothing is cached.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: Option<PathBuf>,
    /// Gets nothing, but puts all the same.
    is_fresh: bool,
}

impl Cache {
    #[must_use]
    pub fn from_environment(fresh: bool) -> Self {
        Self { directory: dirs::cache(), is_fresh: fresh }
    }

    /// Whether it gets nothing, as `--fresh` asks.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// A directory below the cache, made if it is missing.
    #[must_use]
    pub fn directory(&self, kind: &str) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?.join(kind);
        trust::make_directory(&directory).ok()?;
        Some(directory)
    }

    /// The directory for the bytecode of environments that have none themselves.
    #[must_use]
    pub fn bytecode(&self) -> Option<PathBuf> {
        self.directory("bytecode")
    }

    /// Removes the bytecode of environments that no longer exist. Bytecode is stored below the path of its
    /// environment.
    pub fn sweep_bytecode(&self) {
        if let Some(directory) = &self.directory {
            sweep_mirror(&directory.join("bytecode"), Path::new("/"), MAX_SWEPT_LEVELS);
        }
    }

    /// Removes all bytecode, because a file of it is damaged.
    pub fn clear_bytecode(&self) {
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory.join("bytecode"));
        }
    }

    /// Removes the bytecode of a directory that is about to be removed.
    pub fn remove_bytecode(&self, directory: &Path) {
        let below_root = directory.strip_prefix("/").unwrap_or(directory);
        let users = env::var_os("PYTHONPYCACHEPREFIX").map(PathBuf::from).filter(|path| path.is_absolute());
        for bytecode in self.bytecode().into_iter().chain(users) {
            let _ = fs::remove_dir_all(bytecode.join(below_root));
        }
    }

    /// Gets the entry of a key, if there is one and it is not damaged.
    #[must_use]
    pub fn get(&self, kind: &str, key: &str) -> Option<Value> {
        if self.is_fresh {
            return None;
        }
        let text = trust::read_to_string(&self.directory.as_ref()?.join(kind).join(key)).ok()?;
        let mut entry: Value = serde_json::from_str(&text).ok()?;
        (entry.get("key")?.as_str()? == key).then(|| entry["content"].take())
    }

    /// Puts an entry. Errors are ignored, because an entry that is missing only costs time.
    pub fn put(&self, kind: &str, key: &str, content: &Value) {
        if let Some(directory) = self.directory(kind) {
            let entry = json!({"key": key, "content": content}).to_string();
            let _ = disk::write_atomically(&directory.join(key), entry.as_bytes(), Durability::Cached);
            remove_oldest(&directory);
        }
    }
}

/// The depth below which no environment is expected, and the directories are too many to read.
const MAX_SWEPT_LEVELS: usize = 16;

/// Removes the directories of `mirror` that are missing at their original paths. It descends only through
/// directories without files: where a file is, the bytecode of one environment begins, which is kept or
/// removed as one.
fn sweep_mirror(mirror: &Path, original: &Path, levels: usize) {
    let entries: Vec<_> = mirror.read_dir().into_iter().flatten().flatten().collect();
    if levels == 0 || !entries.iter().all(is_directory) {
        return;
    }
    for entry in entries {
        let original = original.join(entry.file_name());
        match original.symlink_metadata() {
            Ok(_) => sweep_mirror(&entry.path(), &original, levels - 1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _ = fs::remove_dir_all(entry.path());
            }
            // Whether a path exists is not known where it cannot be read.
            Err(_) => {}
        }
    }
}

fn is_directory(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

fn remove_oldest(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut entries: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    entries.sort_unstable();
    let surplus = entries.len().saturating_sub(MAX_ENTRIES);
    for (_, path) in entries.into_iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_separated_in_a_digest() {
        let key = |fields: &[&str]| {
            let mut fingerprint = Fingerprint::new();
            for field in fields {
                fingerprint.field(field);
            }
            fingerprint.key()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }

    #[test]
    fn damaged_and_exchanged_entries_are_not_got() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache { directory: Some(directory.path().to_owned()), is_fresh: false };
        cache.put("verdicts", "k1", &json!({"a": 1}));
        assert_eq!(cache.get("verdicts", "k1"), Some(json!({"a": 1})));
        let file = directory.path().join("verdicts/k1");
        fs::rename(&file, directory.path().join("verdicts/k2")).unwrap();
        assert_eq!(cache.get("verdicts", "k2"), None);
        fs::write(&file, "{\"key\": \"k1\", \"con").unwrap();
        assert_eq!(cache.get("verdicts", "k1"), None);
    }

    #[test]
    fn the_bytecode_of_missing_environments_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache { directory: Some(root.path().join("cache")), is_fresh: false };
        let mirror = |path: &Path| root.path().join("cache/bytecode").join(path.strip_prefix("/").unwrap());
        let site = |name: &str| root.path().join(name).join("lib/python3.9/site-packages");
        let (here, gone) = (site("here"), site("gone"));
        for directory in [&here, &gone] {
            fs::create_dir_all(mirror(&directory.join("aws_cdk/core"))).unwrap();
            fs::write(mirror(&directory.join("six.pyc")), "").unwrap();
        }
        fs::create_dir_all(&here).unwrap();
        cache.sweep_bytecode();
        assert!(mirror(&here.join("six.pyc")).exists());
        assert!(mirror(&here.join("aws_cdk/core")).exists());
        assert!(!mirror(&root.path().join("gone")).exists());
    }

    #[test]
    fn the_oldest_entries_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache { directory: Some(directory.path().to_owned()), is_fresh: false };
        for number in 0..MAX_ENTRIES + 10 {
            cache.put("verdicts", &format!("k{number}"), &Value::Null);
        }
        assert_eq!(fs::read_dir(directory.path().join("verdicts")).unwrap().count(), MAX_ENTRIES);
    }
}
