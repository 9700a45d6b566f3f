//! The rules: what is known to break builds, compared with an environment and its template. Pure.
//!
//! - [`advisories`]: packages and their known faults; `advisories/file.rs` reads them, `constraints.rs` turns them
//!   into constraints for an installer, `releases.rs` has the dates of aws-parallelcluster.
//! - [`edits`]: edits of installed files of aws-parallelcluster that let its builds succeed.
//! - [`startup`]: an import that fails.
//! - [`template`]: all rules on one template.

pub mod advisories;
pub mod edits;
pub mod startup;
pub mod template;
