//! The rules: what is known to break builds, compared with an environment and its template. Pure.
//!
//! - [`advisories`]: packages and their known faults; `advisories/file.rs` reads the advisories,
//!   `constraints.rs` turns advisories into constraints for an installer, `releases.rs` has the release
//!   dates of aws-parallelcluster, and `combinations.rs` has the parent images with which a release is known
//!   to fail.
//! - [`edits`]: edits of aws-parallelcluster's installed files, so that builds succeed.
//! - [`parent`]: what AWS says about a parent image, components and a network.
//! - [`startup`]: why pcluster does not start.
//! - [`template`]: the rules about a template.

pub mod advisories;
pub mod edits;
pub mod parent;
pub mod startup;
pub mod template;
