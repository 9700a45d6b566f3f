//! Advice on what to do next, shared by several steps of a repair.

/// Advice if writing to the disk failed, usually because the disk is full. The environment is unchanged.
pub const UNCHANGED_FREE_SPACE: &str =
    "Nothing was changed. Free some space, or set TMPDIR and XDG_STATE_HOME to a place with enough.";

/// Advice if writing to the disk failed, usually because the disk is full. A sentence about the state of the
/// environment precedes this advice.
pub const FREE_SPACE: &str = "Free some space, or set TMPDIR and XDG_STATE_HOME to a place with enough.";

/// Advice if the state directory cannot be used, for example because it is not writable.
pub const SET_STATE_HOME: &str = "Nothing was changed. Set XDG_STATE_HOME to a writable directory.";

/// Advice if the environment itself cannot be changed. `command` is `fix` with the ids of findings.
pub fn keep_beside(command: &str) -> String {
    format!("Run `pcluster preflight {command} --isolated`, which keeps the repair outside the environment.")
}
