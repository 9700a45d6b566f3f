//! The small types that everybody speaks of. Pure.
//!
//! - [`finding`]: what a rule has found: level, message, cost, and the fix with what it changes.
//! - [`fields`]: the fields of an advisory, read from YAML.

pub mod fields;
pub mod finding;
