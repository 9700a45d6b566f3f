//! The totals of a listing of AMIs, and those of a plan or of its result. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::images::class::Class;
use crate::images::image::{Action, Cost, Image};
use crate::images::inventory::Unfinished;
use crate::images::listing::{Change, Listing};

/// The totals of a listing. `healthy` is the number of healthy AMIs; all other totals count only orphans.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub orphans: usize,
    pub healthy: usize,
    pub repairable: usize,
    pub deletable: usize,
    /// The number of refusals of each kind.
    pub not_repaired: BTreeMap<&'static str, usize>,
    pub not_deleted: BTreeMap<&'static str, usize>,
    #[serde(flatten)]
    pub snapshots: SnapshotSums,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSums {
    #[serde(rename = "snapshots")]
    pub number: usize,
    #[serde(rename = "sizeGiB")]
    pub size_gib: f64,
    pub monthly_cost_at_most: Cost,
}

/// The totals of what a change would do, or of what it has done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeSums {
    pub change: Change,
    pub amis: usize,
    /// `None` for a repair.
    #[serde(flatten)]
    pub snapshots: Option<SnapshotSums>,
    pub interrupted_deletions: usize,
    /// The number of refusals of each kind.
    pub refused: BTreeMap<&'static str, usize>,
    pub failed: usize,
    /// The number of AMIs whose deletion leaves something behind.
    pub leaving: usize,
}

impl SnapshotSums {
    fn of(images: &[&Image]) -> Self {
        let snapshots: Vec<_> = images.iter().flat_map(|image| image.snapshots.iter().cloned()).collect();
        Self {
            number: snapshots.len(),
            size_gib: snapshots.iter().filter_map(|snapshot| snapshot.size_gib).sum(),
            monthly_cost_at_most: Cost::of(&snapshots),
        }
    }
}

impl Listing {
    pub fn summarize(&self) -> Summary {
        let orphans: Vec<&Image> = self.select(Class::Orphan).collect();
        let possible =
            |change: Change| orphans.iter().filter(|image| image.action(change) == Action::Possible).count();
        let refused = |change: Change| count_kinds(orphans.iter().filter_map(|image| image.refused(change)));
        Summary {
            orphans: orphans.len(),
            healthy: self.select(Class::Healthy).count(),
            repairable: possible(Change::Repair),
            deletable: possible(Change::Delete),
            not_repaired: refused(Change::Repair),
            not_deleted: refused(Change::Delete),
            snapshots: SnapshotSums::of(&orphans),
        }
    }

    /// The totals of a plan, or of its result.
    pub fn sum_up(&self, change: Change, is_done: bool) -> ChangeSums {
        let action = if is_done { Action::Done } else { Action::Possible };
        let images: Vec<&Image> = self.images.iter().filter(|image| image.action(change) == action).collect();
        let deletions = if is_done { &self.ended } else { &self.unfinished };
        let is_leaving = |image: &&&Image| !(if is_done { &image.left } else { &image.stays }).is_empty();
        let has_left = |ended: &&Unfinished| self.removed(ended).len() < ended.list().len();
        let refused = self.images.iter().filter(|image| self.is_refused(image, change));
        ChangeSums {
            change,
            amis: images.len(),
            snapshots: (change == Change::Delete).then(|| SnapshotSums::of(&images)),
            interrupted_deletions: if change == Change::Delete { deletions.len() } else { 0 },
            refused: count_kinds(refused.filter_map(|image| image.refused(change))),
            failed: self.outcomes.failed.len(),
            leaving: match change {
                Change::Repair => 0,
                Change::Delete => {
                    images.iter().filter(is_leaving).count() + self.ended.iter().filter(has_left).count()
                }
            },
        }
    }
}

fn count_kinds(kinds: impl Iterator<Item = &'static str>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for kind in kinds {
        *counts.entry(kind).or_insert(0) += 1;
    }
    counts
}
