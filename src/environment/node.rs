//! The Node.js that CDK will run, and its version.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use semver::Version;

use crate::cache::{Fingerprint, Memory};
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
pub enum NoNode {
    NotFound,
    /// Its `--version` is no version.
    Odd {
        path: PathBuf,
        said: String,
    },
    Child(ChildError),
    Scratch(std::io::Error),
}

impl fmt::Display for NoNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => write!(f, "no node on PATH, and CDK needs Node.js; install it or extend PATH"),
            Self::Odd { path, said } => write!(f, "{} --version said {said:?}", path.display()),
            Self::Child(error) => error.fmt(f),
            Self::Scratch(source) => write!(f, "no temporary directory: {source}"),
        }
    }
}

/// The `node` on the target's PATH and its version, from memory where the file is the same.
///
/// # Errors
/// There is none, it does not say its version, or we were interrupted.
pub fn of(target: &Target, limit: Duration, memory: &Memory) -> Result<Node, NoNode> {
    let path = executables::find("node", Some(target.path())).ok_or(NoNode::NotFound)?;
    let key = is_plain_node(&path).then(|| Fingerprint::new().file(&path).key());
    let recalled = key.as_ref().and_then(|key| memory.recall("node", key));
    if let Some(version) = recalled.and_then(|kept| serde_json::from_value(kept).ok()) {
        return Ok(Node { path, version });
    }
    let version = ask_node(&path, target, limit)?;
    if let Some(key) = key {
        memory.keep("node", &key, &serde_json::to_value(&version).unwrap_or_default());
    }
    Ok(Node { path, version })
}

/// A version manager's shim under the name of node answers by the directory it is called in, so
/// only a binary that really is called node may be remembered.
fn is_plain_node(path: &Path) -> bool {
    let resolved = path.canonicalize().unwrap_or_default();
    let named = matches!(resolved.file_name().and_then(OsStr::to_str), Some("node" | "nodejs"));
    named && files::read_head(path, 2).is_ok_and(|head| head.len() == 2 && head != *b"#!")
}

fn ask_node(path: &Path, target: &Target, limit: Duration) -> Result<Version, NoNode> {
    let scratch = Scratch::new().map_err(NoNode::Scratch)?;
    let environment = target.environment.clone();
    let child = Child { program: path, arguments: vec!["--version".into()], environment, limit };
    let finished = child.run(&scratch).map_err(NoNode::Child)?;
    if !finished.status.success() {
        let (program, status, stderr) = (path.to_owned(), finished.status, finished.stderr);
        return Err(NoNode::Child(ChildError::Failed { program, status, stderr }));
    }
    let said = String::from_utf8_lossy(&finished.stdout).trim().chars().take(80).collect::<String>();
    let version = said.strip_prefix('v').and_then(|version| Version::parse(version).ok());
    version.ok_or_else(|| NoNode::Odd { path: path.to_owned(), said })
}
