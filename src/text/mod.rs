//! Text from elsewhere: safe for a terminal, as YAML, and as names of packages. Pure.
//!
//! - [`printable`]: escapes what a terminal would act on, and folds texts to a width.
//! - [`yaml`]: YAML to a value, at a cost that is bounded by the length of the text; `yaml/size.rs` counts
//!   what aliases expand to.
//! - [`package_name`]: the names of distributions, normalised and matched.

pub mod package_name;
pub mod printable;
pub mod yaml;
