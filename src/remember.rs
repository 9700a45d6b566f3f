//! What need not be found out twice: small JSON files in the cache, each named by a fingerprint of
//! everything that its content depends on. Damaged, unwritable or absent: it is found out again.

use std::env;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::cli::base_directory;
use crate::system::disk::{self, Durability};

/// Entries of one kind past which the oldest go: a new image id is a new verdict.
const MOST_ENTRIES: usize = 256;

/// A digest of fields, each with its length: two different lists never run together.
#[derive(Debug, Clone)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Starts with our own version: another build may judge in another way.
    #[must_use]
    pub fn new() -> Self {
        let mut new = Self(Sha256::new());
        new.field(env!("CARGO_PKG_VERSION"));
        new
    }

    /// For names that another version of ours has to find again.
    #[must_use]
    pub fn environment() -> Self {
        Self(Sha256::new())
    }

    pub fn field(&mut self, content: impl AsRef<[u8]>) -> &mut Self {
        let content = content.as_ref();
        self.0.update((content.len() as u64).to_le_bytes());
        self.0.update(content);
        self
    }

    /// A file as far as `stat` tells: an edit, a reinstallation or another file of the name differ.
    pub fn file(&mut self, path: &Path) -> &mut Self {
        self.field(path.as_os_str().as_encoded_bytes());
        match path.metadata() {
            Ok(metadata) => self.metadata(&metadata),
            Err(_) => self.field("absent"),
        }
    }

    pub fn metadata(&mut self, metadata: &Metadata) -> &mut Self {
        let numbers = [
            metadata.dev().cast_signed(),
            metadata.ino().cast_signed(),
            metadata.size().cast_signed(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ];
        numbers.into_iter().fold(self, |digest, number| digest.field(number.to_le_bytes()))
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

/// The cache directory; without one, nothing is remembered.
#[derive(Debug, Clone)]
pub struct Memory {
    directory: Option<PathBuf>,
    /// Recalls nothing, keeps all the same.
    fresh: bool,
}

impl Memory {
    #[must_use]
    pub fn from_environment(fresh: bool) -> Self {
        let directory = base_directory("XDG_CACHE_HOME", ".cache").map(|base| base.join("pcluster-shim"));
        Self { directory, fresh }
    }

    /// A directory of ours below the cache, made if need be.
    #[must_use]
    pub fn directory(&self, kind: &str) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?.join(kind);
        fs::create_dir_all(&directory).ok()?;
        Some(directory)
    }

    /// Where bytecode is kept for environments that have none of their own.
    #[must_use]
    pub fn bytecode(&self) -> Option<PathBuf> {
        self.directory("bytecode")
    }

    /// Removes the bytecode of a directory that is about to go.
    pub fn forget_bytecode(&self, directory: &Path) {
        let below_root = directory.strip_prefix("/").unwrap_or(directory);
        let users = env::var_os("PYTHONPYCACHEPREFIX").map(PathBuf::from).filter(|path| path.is_absolute());
        for bytecode in self.bytecode().into_iter().chain(users) {
            let _ = fs::remove_dir_all(bytecode.join(below_root));
        }
    }

    /// What was kept under this key, if it is whole.
    #[must_use]
    pub fn recall(&self, kind: &str, key: &str) -> Option<Value> {
        if self.fresh {
            return None;
        }
        let text = fs::read_to_string(self.directory.as_ref()?.join(kind).join(key)).ok()?;
        let mut entry: Value = serde_json::from_str(&text).ok()?;
        (entry.get("key")?.as_str()? == key).then(|| entry["content"].take())
    }

    /// Keeps it, or not: a cache that cannot be written costs time only.
    pub fn keep(&self, kind: &str, key: &str, content: &Value) {
        if let Some(directory) = self.directory(kind) {
            let entry = json!({"key": key, "content": content}).to_string();
            let _ = disk::write_atomically(&directory.join(key), entry.as_bytes(), Durability::Cached);
            forget_oldest(&directory);
        }
    }
}

fn forget_oldest(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut entries: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    entries.sort();
    let surplus = entries.len().saturating_sub(MOST_ENTRIES);
    for (_, path) in entries.into_iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
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
    fn damaged_and_exchanged_entries_are_not_recalled() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory { directory: Some(directory.path().to_owned()), fresh: false };
        memory.keep("verdicts", "k1", &json!({"a": 1}));
        assert_eq!(memory.recall("verdicts", "k1"), Some(json!({"a": 1})));
        let file = directory.path().join("verdicts/k1");
        fs::rename(&file, directory.path().join("verdicts/k2")).unwrap();
        assert_eq!(memory.recall("verdicts", "k2"), None);
        fs::write(&file, "{\"key\": \"k1\", \"con").unwrap();
        assert_eq!(memory.recall("verdicts", "k1"), None);
    }

    #[test]
    fn the_oldest_entries_go() {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory { directory: Some(directory.path().to_owned()), fresh: false };
        for number in 0..MOST_ENTRIES + 10 {
            memory.keep("verdicts", &format!("k{number}"), &Value::Null);
        }
        assert_eq!(fs::read_dir(directory.path().join("verdicts")).unwrap().count(), MOST_ENTRIES);
    }
}
