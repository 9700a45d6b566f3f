//! What to do next, where several steps of a repair have the same advice.

/// What to do about a directory that cannot be written.
pub const UNCHANGED_FREE_SPACE: &str =
    "Nothing was changed. Free some space, or set TMPDIR and XDG_STATE_HOME to a place that has some.";

/// The same, where it has been said what became of the environment.
pub const FREE_SPACE: &str = "Free some space, or set TMPDIR and XDG_STATE_HOME to a place that has some.";

/// What to do where state cannot be written.
pub const SET_STATE_HOME: &str = "Set XDG_STATE_HOME to a directory that can be written.";

/// What to do where the environment itself cannot be changed.
pub const ISOLATED: &str =
    "Run `pcluster preflight fix --isolated`: it keeps the repair beside the environment.";
