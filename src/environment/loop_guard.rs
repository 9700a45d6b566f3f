//! The guard against loops: a candidate that starts this shim again is recognised and skipped.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::model::env_vars;

/// If more programs than this start one another as `pcluster`, that is certainly a loop.
const MAX_DEPTH: u32 = 100;

/// The value of `PCLUSTER_SHIM_TRIED`, in the form `PID/DEPTH/PATH:PATH…`. The paths are those of the
/// candidates that were started. A process uses the paths only if it wrote them itself (an exec keeps the
/// PID) or if the depth has reached `MAX_DEPTH`. Otherwise it uses only the depth.
#[derive(Debug, Default)]
pub struct LoopGuard {
    depth: u32,
    paths: Vec<PathBuf>,
}

impl LoopGuard {
    pub fn from_environment() -> Self {
        env::var_os(env_vars::TRIED).and_then(|value| Self::parse(&value)).unwrap_or_default()
    }

    /// Reads the value of the variable; `None` if it does not have the form that [`LoopGuard::with`] writes.
    pub fn parse(value: &OsStr) -> Option<Self> {
        let mut parts = value.as_bytes().splitn(3, |byte| *byte == b'/');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u32>().ok();
        let (pid, depth) = (number()?, number()?);
        let paths = OsStr::from_bytes(parts.next()?);
        let paths_count = pid == std::process::id() || depth >= MAX_DEPTH;
        let paths = if paths_count { env::split_paths(paths).collect() } else { Vec::new() };
        Some(Self { depth, paths })
    }

    pub fn contains(&self, candidate: FileId) -> bool {
        self.paths.iter().any(|path| FileId::of(path) == Some(candidate))
    }

    pub fn with(&self, path: &Path) -> OsString {
        let mut value = format!("{}/{}/", std::process::id(), self.depth.saturating_add(1)).into_bytes();
        for tried in self.paths.iter().map(PathBuf::as_path).chain([path]) {
            value.extend_from_slice(tried.as_os_str().as_bytes());
            value.push(b':');
        }
        value.pop();
        OsString::from_vec(value)
    }
}

/// Identifies a file by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    pub fn of(path: &Path) -> Option<Self> {
        path.metadata().ok().as_ref().map(Self::from)
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_count_only_for_the_process_that_wrote_it() {
        let own = std::process::id();
        let read = |value: String| LoopGuard::parse(OsStr::new(&value));
        assert_eq!(read(format!("{own}/1//a/pcluster:/b/pcluster")).unwrap().paths.len(), 2);
        let other = read(format!("{}/7//a/pcluster", own + 1)).unwrap();
        assert!(other.paths.is_empty());
        assert_eq!(other.depth, 7);
        assert_eq!(read(format!("{}/100//a/pcluster", own + 1)).unwrap().paths.len(), 1);
        assert!(read("nonsense".into()).is_none());
        assert!(read(format!("{own}/x//a")).is_none());
    }

    #[test]
    fn the_depth_does_not_begin_anew() {
        let deepest = LoopGuard { depth: u32::MAX, paths: Vec::new() }.with(Path::new("/a"));
        assert_eq!(LoopGuard::parse(&deepest).unwrap().depth, u32::MAX);
    }

    #[test]
    fn a_guard_reads_back_what_it_wrote() {
        let value = LoopGuard::default().with(Path::new("/a b/pcluster"));
        let read = LoopGuard::parse(&value).unwrap();
        assert_eq!(read.paths, [PathBuf::from("/a b/pcluster")]);
        assert_eq!(read.depth, 1);
    }
}
