//! The size and the SHA-256 of a file, for checking a copy of it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of a file; `None` if it cannot be read.
pub fn sha256_of(path: &Path) -> Option<String> {
    FileDigest::of(path).ok().map(|digest| digest.sha256)
}

pub fn sha256_of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The block size of a file system: a loss of power truncates a file at a multiple of this size.
const BLOCK: u64 = 4096;

/// The digest of a file's content, or of the path in a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    pub size: u64,
    pub sha256: String,
}

impl FileDigest {
    /// Reads a file, or the path in a symbolic link. The link is not followed.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = path.symlink_metadata()?;
        let content = if metadata.is_symlink() {
            fs::read_link(path)?.into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            fs::read(path)?
        } else {
            return Err(io::Error::other("not a regular file"));
        };
        Ok(Self { size: content.len() as u64, sha256: sha256_of_bytes(&content) })
    }

    /// The digest of a file that contains this text.
    pub fn of_text(text: &str) -> Self {
        Self { size: text.len() as u64, sha256: sha256_of_bytes(text.as_bytes()) }
    }

    /// Whether `found` may be what a loss of power has left of a file with this digest: `found` is shorter,
    /// and its size is a multiple of the block size.
    pub fn may_be_cut_off_as(&self, found: &Self) -> bool {
        found.size < self.size && found.size.is_multiple_of(BLOCK)
    }
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
