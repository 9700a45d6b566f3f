//! Text from elsewhere: safe for a terminal, as YAML, and as names of packages. Pure.
//!
//! - [`printable`]: what a terminal would act on is escaped; texts are folded to a width.
//! - [`yaml`]: YAML to a value, at a cost that the length of the text bounds; `yaml/size.rs` counts what
//!   aliases make of it.
//! - [`package_name`]: the names of distributions, normalised and matched.

pub mod package_name;
pub mod printable;
pub mod yaml;
