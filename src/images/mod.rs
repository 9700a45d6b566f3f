//! Everything of `preflight images`: the AMIs that broken builds left in AWS.
//!
//! `client` asks AWS through the target's boto3 (client.py and what it imports) and gets an `inventory`. `origin` finds
//! what is left of the build of an AMI, and `class` says what the AMI is. `rules` makes an `image` of each that the
//! `selection` names, with what may be done with it (`repair_rules`, `deletion_rules`); `fixtures` are of their tests.
//! `listing` has all of them, `sums` counts, and `commands` are those that finish what it shows. `json` and `human`
//! render a listing, and `entry` one AMI of it. `plan` has the steps of a change, and `carry_out` does them;
//! `deletions` keeps the record of a deletion until it is done. The command itself is `preflight::images`.

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
