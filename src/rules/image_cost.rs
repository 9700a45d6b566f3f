//! The sizes of snapshots, and what they cost at most. Pure.

use serde::Serialize;

use crate::rules::inventory::{Ami, Device, Inventory};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotSize {
    pub id: String,
    /// `None` where it is not known.
    #[serde(rename = "sizeGiB")]
    pub size_gib: Option<f64>,
    #[serde(skip)]
    pub is_archived: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    pub usd: f64,
    pub source: &'static str,
    pub date: &'static str,
}

/// Dollars for a GiB and month, standard and archived. Other regions differ.
const PRICES: (f64, f64) = (0.05, 0.0125);
const PRICE_SOURCE: &str =
    "Amazon EBS User Guide, Pricing and billing for archiving EBS snapshots; other regions differ";
const PRICE_DATE: &str = "2026-11";

/// The sizes of the snapshots of an AMI.
#[must_use]
pub fn measure(inventory: &Inventory, ami: &Ami) -> Vec<SnapshotSize> {
    let size = |device: &Device| {
        let snapshots = inventory.snapshots.iter();
        let mut same = snapshots.filter(|s| s.id == device.id && s.region == ami.region);
        let snapshot = same.next();
        let full = snapshot.and_then(|snapshot| snapshot.full_size_bytes).filter(|bytes| *bytes > 0);
        let volume = snapshot.and_then(|snapshot| snapshot.volume_gib).or(device.volume_gib);
        SnapshotSize {
            id: device.id.clone(),
            size_gib: full.map(gibibytes).or(volume.map(|gib| gibibytes(gib << 30))),
            is_archived: snapshot.is_some_and(|snapshot| snapshot.tier.as_deref() == Some("archive")),
        }
    };
    ami.snapshots.iter().map(size).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a size to two decimals")]
fn gibibytes(bytes: u64) -> f64 {
    round(bytes as f64 / f64::from(1 << 30))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// At most: a snapshot shares blocks with those of its lineage, which are billed once.
#[must_use]
pub fn price(snapshots: &[SnapshotSize]) -> Cost {
    let (standard, archived) = PRICES;
    let cost = |snapshot: &SnapshotSize| {
        snapshot.size_gib.unwrap_or_default() * if snapshot.is_archived { archived } else { standard }
    };
    let usd = round(snapshots.iter().map(cost).sum());
    Cost { usd, source: PRICE_SOURCE, date: PRICE_DATE }
}
