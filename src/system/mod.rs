//! The operating system.

pub mod child;
pub mod concurrently;
pub mod date;
pub mod dirs;
pub mod disk;
pub mod executables;
pub mod files;
pub mod prompt;
pub mod scratch;
pub mod signals;
pub mod trust;
