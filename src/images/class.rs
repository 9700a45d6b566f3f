//! What an AMI is: the class of each AMI, and the S3 directory that belongs to the AMI. Pure.
//!
//! In case of doubt, an AMI is foreign. There can be doubt because these look alike: a build
//! that failed in its tests, a build that is still running, and somebody else's recipe that is
//! called `ParallelClusterImage-…`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::images::inventory::{Ami, BuildArn, Inventory, Stack};
use crate::images::origin::{Origin, PREFIX, image_arn, is_named};
use crate::rules::advisories::releases::read_dates;

pub const IMAGE_ID: &str = "parallelcluster:image_id";
pub const BUILD_STATUS: &str = "parallelcluster:build_status";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The commands of pcluster find the AMI.
    Healthy,
    /// pcluster built the AMI completely, but no pcluster command finds the AMI.
    Orphan,
    /// A build that has not ended.
    InProgress,
    /// A build that ended before its AMI was complete.
    FailedBuild,
    /// Nothing shows that pcluster built the AMI.
    Foreign,
}

/// An AMI with its class, and what is left of its build.
#[derive(Debug)]
pub struct Known<'a> {
    pub ami: &'a Ami,
    pub arn: Option<BuildArn>,
    pub class: Class,
    /// `None` for a healthy AMI, and for an AMI whose `arn` is `None`.
    pub origin: Option<Origin<'a>>,
}

/// Whether this version of the shim knows a release of pcluster.
pub fn is_known_release(version: &str) -> bool {
    read_dates().any(|(release, _)| release == version)
}

/// Whether a version has the form of a release: three numbers.
fn is_release(version: &str) -> bool {
    let parts: Vec<&str> = version.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()))
}

impl<'a> Known<'a> {
    pub fn new(inventory: &'a Inventory, ami: &'a Ami) -> Self {
        let arn = image_arn(ami).and_then(BuildArn::read);
        let is_own = |arn: &BuildArn| {
            arn.account == inventory.account && ami.owner_id == inventory.account && is_release(&arn.version)
        };
        let Some(arn) = arn.filter(is_own) else {
            return Self { ami, arn: None, class: Class::Foreign, origin: None };
        };
        if ami.tags.contains_key(IMAGE_ID) {
            return Self { ami, arn: Some(arn), class: Class::Healthy, origin: None };
        }
        let origin = Origin::find(inventory, ami, &arn);
        let class = classify(inventory, ami, &arn, &origin);
        Self { ami, arn: Some(arn), class, origin: Some(origin) }
    }

    /// Whether pcluster's commands find the AMI, no matter who built it.
    fn is_tagged(&self) -> bool {
        self.ami.tags.contains_key(IMAGE_ID)
    }

    /// The image id in lower case.
    pub fn slug(&self) -> &str {
        self.arn.as_ref().map_or("", |arn| &arn.slug)
    }

    pub fn image_id(&self) -> Option<&str> {
        let found = self.origin.as_ref().and_then(Origin::image_id);
        self.ami.tags.get(IMAGE_ID).map(String::as_str).or(found)
    }

    /// The bucket and the directory that the AMI's tags name, or that the AMI's build is known to have used.
    pub fn directory(&self) -> Option<(&str, &str)> {
        if self.is_tagged() {
            let tag = |name: &str| self.ami.tags.get(&format!("{PREFIX}{name}")).map(String::as_str);
            return Some((tag("s3_bucket")?, tag("s3_image_dir")?));
        }
        let (_, recipe) = self.origin.as_ref()?.artifacts.as_ref()?;
        Some((&recipe.bucket, &recipe.directory))
    }

    pub fn has_same_id(&self, other: &Known) -> bool {
        self.image_id().zip(other.image_id()).is_none_or(|(own, other)| own == other)
    }
}

fn classify(inventory: &Inventory, ami: &Ami, arn: &BuildArn, origin: &Origin) -> Class {
    let mut live = live_stacks(inventory, arn);
    if ami.state == "pending" || live.any(|stack| stack.status.ends_with("_IN_PROGRESS")) {
        return Class::InProgress;
    }
    let is_marked = has_mark(ami) || origin.artifacts.is_some() || has_stack_of(inventory, ami, arn);
    let has_ended = ami.tags.get(BUILD_STATUS).is_some_and(|status| status == "available")
        && matches!(ami.state.as_str(), "available" | "disabled");
    match (is_marked, has_ended) {
        (true, true) => Class::Orphan,
        (true, false) => Class::FailedBuild,
        (false, false) if inventory.stacks.iter().any(|stack| is_named(stack, arn)) => Class::FailedBuild,
        (false, _) => Class::Foreign,
    }
}

/// Whether the AMI has what only pcluster gives to an AMI: a tag from pcluster's Lambda function (the tags
/// for the status and the image id do not count), or the description that pcluster's component writes.
fn has_mark(ami: &Ami) -> bool {
    let is_mark = |key: &String| key.starts_with(PREFIX) && key != BUILD_STATUS && key != IMAGE_ID;
    ami.tags.keys().any(is_mark)
        || ami.description.as_deref().is_some_and(|text| text.starts_with("AWS ParallelCluster AMI for "))
}

/// Whether a stack that is named after the image has the same image ARN as this AMI.
fn has_stack_of(inventory: &Inventory, ami: &Ami, arn: &BuildArn) -> bool {
    let is_image = |stack: &Stack| stack.image_arn.is_some() && stack.image_arn.as_deref() == image_arn(ami);
    inventory.stacks.iter().any(|stack| is_named(stack, arn) && is_image(stack))
}

pub fn live_stacks<'a>(inventory: &'a Inventory, arn: &'a BuildArn) -> impl Iterator<Item = &'a Stack> {
    inventory.stacks.iter().filter(|stack| is_named(stack, arn) && stack.status != "DELETE_COMPLETE")
}

pub type Owners<'a> = BTreeMap<(&'a str, &'a str), Option<&'a str>>;

/// For each S3 directory, the id of the AMI that owns the directory: an orphan in the region of its build.
/// The orphan does not own the directory if another AMI has the same directory, and this other AMI is in the
/// region of its build or is found by pcluster's commands. An orphan that was copied to another region is
/// never an owner: the original AMI has the same directory, even if the inventory lacks the original AMI.
pub fn find_owners<'a>(known: &'a [Known]) -> Owners<'a> {
    let mut owners = Owners::new();
    for known in known.iter().filter(|known| known.class != Class::Foreign || known.is_tagged()) {
        let is_at_home = known.arn.as_ref().is_some_and(|arn| arn.region == known.ami.region);
        if !known.is_tagged() && !is_at_home {
            continue;
        }
        let Some(directory) = known.directory() else { continue };
        let own = (known.class == Class::Orphan).then_some(known.ami.id.as_str());
        owners.entry(directory).and_modify(|owner| *owner = None).or_insert(own);
    }
    owners
}
