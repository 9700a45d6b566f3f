//! The Node.js that CDK will run, and its version.

use std::path::PathBuf;
use std::time::Duration;

use semver::Version;

use crate::environment::target::Target;
use crate::system::child::{Child, ChildError, MAX_OUTPUT, Running};
use crate::system::executables;
use crate::system::scratch::Scratch;

/// The Node.js that CDK will run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: PathBuf,
    pub version: Version,
}

/// Why there is no usable Node.js.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("CDK needs Node.js, but `node` is not on PATH; install it or add it to PATH")]
    NotFound,
    /// The output of `node --version` isn't a version.
    #[error("cannot read the version of Node.js: `{path} --version` printed {answer:?}")]
    Malformed { path: PathBuf, answer: String },
    #[error(transparent)]
    Child(#[from] ChildError),
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
pub fn ask(target: &Target, limit: Duration) -> Result<PendingNode, NodeError> {
    let path = executables::find("node", Some(target.path())).ok_or(NodeError::NotFound)?;
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let environment = target.environment.clone();
    let child = Child {
        program: &path,
        arguments: vec!["--version".into()],
        environment,
        limit,
        max_output: MAX_OUTPUT,
    };
    let child = child.start(&scratch)?;
    Ok(PendingNode { path, child, _scratch: scratch })
}

impl PendingNode {
    /// Waits for the answer.
    pub fn wait(self) -> Result<Node, NodeError> {
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
        Ok(Node { path, version })
    }
}
