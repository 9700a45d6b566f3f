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

/// The Node that CDK will run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: PathBuf,
    pub version: Version,
}

/// Why there is no usable Node.
#[derive(Debug)]
pub enum NodeError {
    NotFound,
    /// Its `--version` is no version.
    Odd {
        path: PathBuf,
        said: String,
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
            Self::Odd { path, said } => write!(f, "{} --version said {said:?}", path.display()),
            Self::Child(error) => error.fmt(f),
        }
    }
}

fn get_cached(target: &Target, cache: &Cache) -> Option<Node> {
    let path = executables::find("node", Some(target.path()))?;
    let version = cache.get(KIND, &cache_key(&path)?)?;
    Some(Node { path, version: serde_json::from_value(version).ok()? })
}

/// Whether the Node.js on the target's PATH is one whose version will be cached and is not yet.
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
    /// Holds what the child prints.
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
    /// Returns an error if it does not say its version, or a signal came.
    pub fn wait(self, cache: &Cache) -> Result<Node, NodeError> {
        let path = self.path;
        let finished = self.child.wait()?;
        if !finished.status.success() {
            let (program, status, stderr) = (path, finished.status, finished.stderr);
            return Err(NodeError::Child(ChildError::Failed { program, status, stderr }));
        }
        let answer = String::from_utf8_lossy(&finished.stdout).trim().chars().take(80).collect::<String>();
        let Some(version) = answer.strip_prefix('v').and_then(|version| Version::parse(version).ok()) else {
            return Err(NodeError::Odd { path, said: answer });
        };
        if let Some(key) = cache_key(&path) {
            cache.put(KIND, &key, &serde_json::to_value(&version).unwrap_or_default());
        }
        Ok(Node { path, version })
    }
}

/// The Node.js on the target's PATH and its version, from the cache where the file is the same.
///
/// # Errors
/// Returns an error if there is none, it does not say its version, or a signal came.
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

/// A version manager's shim under the name of node answers by the directory it is called in, so
/// only a binary that really is called node may be remembered.
fn is_plain_node(path: &Path) -> bool {
    let resolved = path.canonicalize().unwrap_or_default();
    let named = matches!(resolved.file_name().and_then(OsStr::to_str), Some("node" | "nodejs"));
    named && files::read_head(path, 2).is_ok_and(|head| head.len() == 2 && head != *b"#!")
}
