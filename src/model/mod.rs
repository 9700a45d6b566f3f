//! The small types that all other modules use. Pure.
//!
//! - [`finding`]: what a rule has found: level, message, cost and fix.
//! - [`fields`]: the fields of an advisory, read from YAML.
//! - [`distribution`]: installed packages.
//! - [`expectation`]: what the real pcluster requires of a template, and why pcluster failed to start.
//! - [`env_vars`]: the names of environment variables.
//! - [`options`]: mode, strategy, installer, and how the real pcluster was found.

pub mod distribution;
pub mod env_vars;
pub mod expectation;
pub mod fields;
pub mod finding;
pub mod options;
