//! The operating system.

pub mod child;
pub mod concurrently;
pub mod dirs;
pub mod disk;
pub mod executables;
pub mod files;
pub mod scratch;
pub mod signals;
pub mod trust;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// Today in UTC.
pub fn today() -> Date {
    TimeZone::UTC.to_datetime(Timestamp::now()).date()
}
