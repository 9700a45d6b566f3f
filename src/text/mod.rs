//! Text from outside the program: made safe for a terminal, read as YAML, or compared as names of
//! packages. Pure.
//!
//! - [`printable`]: escapes what a terminal would act on, and folds lines to a width.
//! - [`yaml`]: reads YAML at a cost bounded by the length of the text; `yaml/size.rs` counts what aliases
//!   expand to.
//! - [`package_name`]: normalises and matches the names of distributions.

pub mod package_name;
pub mod printable;
pub mod yaml;
