//! What the modules of the suite share.

pub(crate) mod fakes; // fake environments of pcluster, fake Nodes, the real Python of this machine
pub(crate) mod harness; // the sandbox, one run in it, the scene of a failed assertion, the snapshots
pub(crate) mod workshop; // a broken environment with all its files, and installers that mend it
