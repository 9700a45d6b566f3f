//! What the program asks of the operating system, below everything else.

pub mod dirs;
pub mod disk;
pub mod executables;
pub mod files;
pub mod trust;
