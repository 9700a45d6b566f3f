//! The steps of a repair or a deletion for each AMI. Pure.

use std::fmt;

use serde::Serialize;

use crate::images::image::Image;
use crate::images::inventory::{Deletion, Tags, Unfinished};

/// What is to be done with one AMI.
#[derive(Debug)]
pub struct Task {
    pub ami: String,
    pub steps: Vec<Step>,
    /// The record of a deletion, which is written before the first step.
    pub deletion: Option<Deletion>,
}

impl Task {
    /// The region of the AMI.
    pub fn region(&self) -> Option<&str> {
        match self.steps.first()? {
            Step::Tag { region, .. } | Step::Deregister { region, .. } => Some(region),
            _ => self.deletion.as_ref().map(|deletion| deletion.region.as_str()),
        }
    }
}

/// One step of a change in AWS.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "action", rename_all = "camelCase")]
pub enum Step {
    Tag { region: String, ami: String, tags: Tags },
    Deregister { region: String, ami: String },
    Snapshot { region: String, snapshot: String },
    Directory { region: String, bucket: String, directory: String },
    LogGroup { region: String, name: String },
}

/// What the step does: `deregister ami-0`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag { ami, .. } => write!(f, "write the tags of {ami}"),
            Self::Deregister { ami, .. } => write!(f, "deregister {ami}"),
            Self::Snapshot { snapshot: object, .. }
            | Self::Directory { directory: object, .. }
            | Self::LogGroup { name: object, .. } => write!(f, "delete {object}"),
        }
    }
}

pub fn plan_repair(image: &Image) -> Task {
    let Image { ami, region, tags, .. } = image.clone();
    Task { ami: ami.clone(), steps: vec![Step::Tag { region, ami, tags }], deletion: None }
}

/// Plans the removal of what an interrupted deletion has left behind.
pub fn plan_rest(left: &Unfinished) -> Task {
    let deletion = left.deletion.clone();
    let steps = plan_removals(&deletion, &left.snapshots);
    Task { ami: deletion.ami.clone(), steps, deletion: Some(deletion) }
}

pub fn plan_deletion(image: &Image, account: &str) -> Task {
    let (bucket, directory) = image.artifacts.directory.clone().unzip();
    let deletion = Deletion {
        account: account.to_owned(),
        region: image.region.clone(),
        ami: image.ami.clone(),
        snapshots: image.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect(),
        build_region: image.artifacts.region.clone(),
        bucket,
        directory,
        log_group: image.artifacts.log_group.clone(),
        stack_id: image.stack_id.clone(),
        tags: image.had_tags.clone(),
    };
    let mut steps = vec![Step::Deregister { region: image.region.clone(), ami: image.ami.clone() }];
    steps.extend(plan_removals(&deletion, &deletion.snapshots));
    Task { ami: image.ami.clone(), steps, deletion: Some(deletion) }
}

/// The steps that follow the deregistration of the AMI.
fn plan_removals(deletion: &Deletion, snapshots: &[String]) -> Vec<Step> {
    let Deletion { region, build_region, bucket, directory, log_group, .. } = deletion;
    let snapshots =
        snapshots.iter().map(|id| Step::Snapshot { region: region.clone(), snapshot: id.clone() });
    let directory = bucket.clone().zip(directory.clone());
    let directory = directory.map(|(bucket, directory)| Step::Directory {
        region: build_region.clone(),
        bucket,
        directory,
    });
    let log_group = log_group.clone().map(|name| Step::LogGroup { region: build_region.clone(), name });
    snapshots.chain(directory).chain(log_group).collect()
}
