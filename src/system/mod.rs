//! What the program asks of the operating system, below everything else.

pub mod executables;
pub mod files;
