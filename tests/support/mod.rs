//! The harness: what the test modules share.

pub(crate) mod broken_environment; // files and RECORDs of a broken environment, and installers that repair it
pub(crate) mod fakes; // fake environments of pcluster, fake Nodes
pub(crate) mod machine; // programs of this machine, a real Python among them
pub(crate) mod run; // one run in a sandbox, and assertions on it
pub(crate) mod sandbox; // HOME, PATH, XDG directories and TMPDIR of one test
pub(crate) mod snapshots; // what users see, with its varying parts redacted
