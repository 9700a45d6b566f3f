//! What was found in AWS, and what a change does to it. Pure.

use jiff::civil::Date;
use serde::Serialize;

use crate::images::class::Class;
use crate::images::commands::Commands;
use crate::images::image::{Action, Image};
use crate::images::inventory::{Skipped, Unfinished};

/// What is to be done with the AMIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Repair,
    Delete,
}

/// What a listing is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    #[default]
    List,
    Plan(Change),
    Result(Change),
}

/// Who owns the AMIs, and who is asking.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub account: String,
    /// The account's alias. AWS is asked for it only before a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    pub caller: String,
    pub profile: Option<String>,
    pub region: String,
    pub regions: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Listing {
    pub identity: Identity,
    pub images: Vec<Image>,
    pub unfinished: Vec<Unfinished>,
    pub skipped: Vec<Skipped>,
    /// Deletions that were interrupted and are finished now.
    pub ended: Vec<Unfinished>,
    pub outcomes: Outcomes,
    /// AMIs and image ids that the user named, but that are not among the AMIs that pcluster built in the
    /// searched regions.
    pub missing: Vec<String>,
    pub today: Date,
    pub stage: Stage,
    /// The commands to run next. A list suggests the user's command with `--repair` or `--delete` added. The
    /// result of a change that failed suggests the user's command again.
    pub commands: Commands,
    /// The age in days, if only AMIs older than this were requested.
    pub older_than: Option<i64>,
    /// Whether the user has named AMIs or image ids.
    pub is_named: bool,
    pub is_verbose: bool,
}

/// The results of a change for its AMIs.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// AMIs whose tasks were completed, in the order of the tasks.
    pub done: Vec<String>,
    /// AMIs whose tasks failed, each with the reason.
    pub failed: Vec<(String, String)>,
    /// AMIs, each with what a completed task has left behind.
    pub left: Vec<(String, String)>,
    /// AMIs, each with what else the user should know.
    pub notes: Vec<(String, String)>,
}

impl Image {
    pub fn action(&self, change: Change) -> Action {
        if change == Change::Delete { self.delete } else { self.repair }
    }

    pub fn refused(&self, change: Change) -> Option<&'static str> {
        if change == Change::Delete { self.delete_refused } else { self.repair_refused }
    }

    /// Whether the size of every snapshot is known, and the sum of the known sizes.
    pub fn size_gib(&self) -> (bool, f64) {
        let sizes = self.snapshots.iter().map(|snapshot| snapshot.size_gib);
        (sizes.clone().all(|size| size.is_some()), sizes.flatten().sum())
    }
}

impl Listing {
    pub fn select(&self, class: Class) -> impl Iterator<Item = &Image> {
        self.images.iter().filter(move |image| image.class == class)
    }

    pub fn has_orphans(&self) -> bool {
        !self.unfinished.is_empty() || self.select(Class::Orphan).next().is_some()
    }

    /// Whether the user has requested a change of an image, and the change is refused. For an orphan, the
    /// change counts as requested even if the user has not named the orphan.
    pub fn is_refused(&self, image: &Image, change: Change) -> bool {
        let counts = match image.class {
            Class::Orphan => true,
            // A repair of a healthy AMI has nothing to do. That is not a refusal.
            Class::Healthy => change == Change::Delete && self.is_named,
            _ => self.is_named,
        };
        counts && image.action(change) == Action::Refused
    }

    /// Stores the outcomes of a change in the images, and moves each finished deletion from `unfinished` to
    /// the list `ended`.
    pub fn note_outcomes(&mut self, change: Change, outcomes: Outcomes) {
        for image in &mut self.images {
            let own = |pairs: &[(String, String)]| -> Vec<String> {
                pairs.iter().filter(|(ami, _)| *ami == image.ami).map(|(_, what)| what.clone()).collect()
            };
            let failure = own(&outcomes.failed);
            let action = match failure.as_slice() {
                [] if !outcomes.done.contains(&image.ami) => continue,
                [] => Action::Done,
                _ => Action::Refused,
            };
            let (left, notes) = (own(&outcomes.left), own(&outcomes.notes));
            image.reasons.extend(failure.iter().map(|why| format!("failed: {why}")).chain(notes));
            if change == Change::Delete && action == Action::Done {
                image.left = image.stays.iter().cloned().chain(left).collect();
            }
            *(if change == Change::Delete { &mut image.delete } else { &mut image.repair }) = action;
        }
        let unfinished = std::mem::take(&mut self.unfinished);
        (self.ended, self.unfinished) =
            unfinished.into_iter().partition(|left| outcomes.done.contains(&left.deletion.ami));
        self.outcomes = outcomes;
        self.stage = Stage::Result(change);
    }

    /// Whether something that was requested is refused or not found.
    pub fn has_refusals(&self, change: Change) -> bool {
        !self.missing.is_empty() || self.images.iter().any(|image| self.is_refused(image, change))
    }

    /// Whether a change has failed or left something behind.
    pub fn has_left(&self) -> bool {
        let is_left = |image: &Image| !image.left.is_empty();
        !self.outcomes.failed.is_empty() || !self.outcomes.left.is_empty() || self.images.iter().any(is_left)
    }

    /// What was removed when an interrupted deletion was finished.
    pub fn removed(&self, ended: &Unfinished) -> Vec<String> {
        let left = &self.outcomes.left;
        let is_left = |what: &str| {
            left.iter().any(|(ami, left)| *ami == ended.deletion.ami && left.starts_with(&format!("{what}:")))
        };
        ended.list().into_iter().filter(|what| !is_left(what)).collect()
    }
}

impl Skipped {
    /// The consequence if this source could not be asked; `None` if the consequence is obvious.
    pub fn effect(&self) -> Option<&'static str> {
        let is_references = self.source.starts_with("ec2:DescribeImageReferences");
        is_references.then_some(
            "uses of an AMI by SSM parameters, recipes and older versions of launch templates are not detected",
        )
    }
}
