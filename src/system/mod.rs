//! What the program asks of the operating system, below everything else.

pub mod disk;
pub mod files;
