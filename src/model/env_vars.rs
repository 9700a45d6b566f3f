//! The names of the environment variables that the shim reads or sets.

/// `block`, `fix`, `warn` or `off`.
pub const MODE: &str = "PCLUSTER_SHIM_MODE";
/// Absolute path of the real pcluster.
pub const REAL: &str = "PCLUSTER_SHIM_REAL";
/// `1`: a check that cannot run stops `build-image`.
pub const STRICT: &str = "PCLUSTER_SHIM_STRICT";
/// The time limit for each child process of a check, in seconds.
pub const TIMEOUT: &str = "PCLUSTER_SHIM_TIMEOUT";
/// The path of the config file.
pub const CONFIG: &str = "PCLUSTER_SHIM_CONFIG";
/// Set by the shell function `pcluster` (see install.sh), but only for `preflight where`.
pub const FUNCTION: &str = "PCLUSTER_SHIM_FUNCTION";
/// Set for launchers that might start the shim again; see [`crate::environment::locate`].
pub const TRIED: &str = "PCLUSTER_SHIM_TRIED";
/// The directory for the answer to a question that a launcher is asked; see [`crate::environment::question`].
pub const QUESTION: &str = "PCLUSTER_SHIM_QUESTION";
