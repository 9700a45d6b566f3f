//! The operating system.
//!
//! - `child`: the only way to run a child process
//! - `concurrently`: runs functions at the same time
//! - `dirs`: the base directories of the XDG specification
//! - `disk`: atomic writes, and syncing files and directories to the disk
//! - `executables`: programs by path and by name
//! - `files`: regular files, read up to a limit
//! - `scratch`: private directories for temporary files
//! - `signals`: signals that end a check
//! - `terminal`: the width of a terminal
//! - `trust`: files that no other user could have written

pub mod child;
pub mod concurrently;
pub mod dirs;
pub mod disk;
pub mod executables;
pub mod files;
pub mod scratch;
pub mod signals;
pub mod terminal;
pub mod trust;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// Today in UTC.
pub fn today() -> Date {
    TimeZone::UTC.to_datetime(Timestamp::now()).date()
}
