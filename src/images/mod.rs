//! Everything of `preflight images`: the AMIs that broken builds left in AWS.
//!
//! `client` asks AWS through the target's boto3 (client.py and what it imports) and gets an `inventory`. `origin` finds
//! what is left of the build of an AMI, `class` says what the AMI is, `rules` what may be done with it (an `image`), `plan` in which
//! steps, and `report` shows all that. `deletions` keeps the record of a deletion until it is done. The command itself
//! is `preflight::images`.

pub mod class;
pub mod client;
pub mod deletions;
pub mod image;
pub mod inventory;
pub mod origin;
pub mod plan;
pub mod report;
pub mod rules;
