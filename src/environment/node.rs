//! The Node.js that CDK will run, and its version.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use semver::Version;

use crate::cache::{Cache, Fingerprint};
use crate::environment::target::Target;
use crate::system::child::{Child, ChildError};
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

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => write!(f, "no node on PATH, and CDK needs Node.js; install it or extend PATH"),
            Self::Odd { path, said } => write!(f, "{} --version said {said:?}", path.display()),
            Self::Child(error) => error.fmt(f),
        }
    }
}

/// The Node.js on the target's PATH, where the cache has its version.
#[must_use]
pub fn get_cached(target: &Target, cache: &Cache) -> Option<Node> {
    let path = executables::find("node", Some(target.path()))?;
    let version = cache.get(KIND, &cache_key(&path)?)?;
    Some(Node { path, version: serde_json::from_value(version).ok()? })
}

/// The Node.js on the target's PATH, asked for its version, which is cached.
///
/// # Errors
/// Returns an error if there is none, it does not say its version, or a signal came.
pub fn find(target: &Target, limit: Duration, cache: &Cache) -> Result<Node, NodeError> {
    if let Some(node) = get_cached(target, cache) {
        return Ok(node);
    }
    let path = executables::find("node", Some(target.path())).ok_or(NodeError::NotFound)?;
    let version = ask_node(&path, target, limit)?;
    if let Some(key) = cache_key(&path) {
        cache.put(KIND, &key, &serde_json::to_value(&version).unwrap_or_default());
    }
    Ok(Node { path, version })
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

fn ask_node(path: &Path, target: &Target, limit: Duration) -> Result<Version, NodeError> {
    let scratch = Scratch::new().map_err(|error| NodeError::Child(ChildError::Scratch(error)))?;
    let environment = target.environment.clone();
    let child = Child { program: path, arguments: vec!["--version".into()], environment, limit };
    let finished = child.run(&scratch).map_err(NodeError::Child)?;
    if !finished.status.success() {
        let (program, status, stderr) = (path.to_owned(), finished.status, finished.stderr);
        return Err(NodeError::Child(ChildError::Failed { program, status, stderr }));
    }
    let said = String::from_utf8_lossy(&finished.stdout).trim().chars().take(80).collect::<String>();
    let version = said.strip_prefix('v').and_then(|version| Version::parse(version).ok());
    version.ok_or_else(|| NodeError::Odd { path: path.to_owned(), said })
}
