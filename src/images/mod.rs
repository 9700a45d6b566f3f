//! Everything for `preflight images`: the AMIs that broken builds left in AWS.
//!
//! `client` asks AWS: it runs client.py with the target's boto3, and returns an `inventory`. `origin` finds
//! what is left of the build of an AMI, and `class` says what the AMI is. From each AMI in the `selection`,
//! `rules` makes an `image`, which also says what can be done about the AMI (`repair_rules`,
//! `deletion_rules`; their tests use `fixtures`). `listing` contains all images, `sums` has the totals of a
//! listing, and `commands` has the commands that a listing suggests. `json` and `human` render a listing;
//! `entry` renders a single AMI. `plan` has the steps of a change, and `carry_out` performs them; `deletions`
//! keeps the record of a deletion until the deletion is done. The command itself is `preflight::images`.

pub mod carry_out;
pub mod class;
pub mod client;
pub mod commands;
pub mod deletion_rules;
pub mod deletions;
pub mod entry;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod human;
pub mod image;
pub mod inventory;
pub mod json;
pub mod listing;
pub mod origin;
pub mod plan;
pub mod repair_rules;
pub mod rules;
pub mod selection;
pub mod sums;
