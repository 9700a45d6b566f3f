//! The Node.js that CDK will run, and its version.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use semver::Version;

use crate::cache::{Cache, Fingerprint};
use crate::environment::target::Target;
use crate::system::child::{Child, ChildError, Running};
use crate::system::scratch::Scratch;
use crate::system::{executables, files};

/// The Node.js that CDK will run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: PathBuf,
    pub version: Version,
}

/// Why there is no usable Node.js.
#[derive(Debug)]
pub enum NodeError {
    NotFound,
    /// Its output for `--version` is no version.
    Malformed {
        path: PathBuf,
        answer: String,
    },
    Child(ChildError),
}

impl From<ChildError> for NodeError {
    fn from(error: ChildError) -> Self {
        Self::Child(error)
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => write!(f, "no node on PATH, and CDK needs Node.js; install it or extend PATH"),
            Self::Malformed { path, answer } => write!(f, "{} --version said {answer:?}", path.display()),
            Self::Child(error) => error.fmt(f),
        }
    }
}

fn get_cached(target: &Target, cache: &Cache) -> Option<Node> {
    let path = executables::find("node", Some(target.path()))?;
    let version = cache.get(KIND, &cache_key(&path)?)?;
    Some(Node { path, version: serde_json::from_value(version).ok()? })
}

/// Whether the version of the Node.js on the target's PATH may be cached and is not cached yet.
#[must_use]
pub fn is_new(target: &Target, cache: &Cache) -> bool {
    let key = executables::find("node", Some(target.path())).and_then(|path| cache_key(&path));
    key.is_some_and(|key| cache.get(KIND, &key).is_none())
}

/// A Node.js that is being asked for its version.
#[derive(Debug)]
pub struct PendingNode {
    path: PathBuf,
    child: Running,
    /// Holds the output of the child.
    _scratch: Scratch,
}

/// Asks the Node.js on the target's PATH for its version.
///
/// # Errors
/// Returns an error if there is none, it cannot be started, or a signal came.
pub fn ask(target: &Target, limit: Duration) -> Result<PendingNode, NodeError> {
    let path = executables::find("node", Some(target.path())).ok_or(NodeError::NotFound)?;
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let environment = target.environment.clone();
    let child = Child { program: &path, arguments: vec!["--version".into()], environment, limit };
    let child = child.start(&scratch)?;
    Ok(PendingNode { path, child, _scratch: scratch })
}

impl PendingNode {
    /// Waits for the answer, and caches it.
    ///
    /// # Errors
    /// Returns an error if the answer is no version, or a signal came.
    pub fn wait(self, cache: &Cache) -> Result<Node, NodeError> {
        let path = self.path;
        let finished = self.child.wait()?;
        if !finished.status.success() {
            let (program, status, stderr) = (path, finished.status, finished.stderr);
            return Err(NodeError::Child(ChildError::Failed { program, status, stderr }));
        }
        let answer = String::from_utf8_lossy(&finished.stdout).trim().chars().take(80).collect::<String>();
        let Some(version) = answer.strip_prefix('v').and_then(|version| Version::parse(version).ok()) else {
            return Err(NodeError::Malformed { path, answer });
        };
        if let Some(key) = cache_key(&path) {
            cache.put(KIND, &key, &serde_json::to_value(&version).unwrap_or_default());
        }
        Ok(Node { path, version })
    }
}

/// Finds the Node.js on the target's PATH and its version, in the cache where the file is unchanged.
///
/// # Errors
/// Returns an error if there is none, its answer is no version, or a signal came.
pub fn find(target: &Target, limit: Duration, cache: &Cache) -> Result<Node, NodeError> {
    match get_cached(target, cache) {
        Some(node) => Ok(node),
        None => ask(target, limit)?.wait(cache),
    }
}

const KIND: &str = "node";

fn cache_key(path: &Path) -> Option<String> {
    is_plain_node(path).then(|| Fingerprint::new().file(path).key())
}

/// Whether the answer of a node may be cached. That of a version manager's shim depends on the current
/// directory, so a file counts only if it is a binary and its resolved name is node's.
fn is_plain_node(path: &Path) -> bool {
    let resolved = path.canonicalize().unwrap_or_default();
    let is_named_node = matches!(resolved.file_name().and_then(OsStr::to_str), Some("node" | "nodejs"));
    is_named_node && files::read_head(path, 2).is_ok_and(|head| head.len() == 2 && head != *b"#!")
}
