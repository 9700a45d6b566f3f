//! An AMI as it is displayed: what it is, what it costs, and what can be done with it. Pure.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use crate::images::class::Class;
use crate::images::commands::Commands;
use crate::images::inventory::{Ami, Device, Inventory, Snapshot, Tags};
use crate::images::origin::{Sharing, Source};

/// The price in dollars for a GiB of a standard snapshot per month, as of November 2026: Amazon EBS User
/// Guide, "Pricing and billing for archiving EBS snapshots". The guide names no region, and prices differ
/// between regions.
const USD_PER_GIB_MONTH: f64 = 0.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Possible,
    Refused,
    Done,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    pub ami: String,
    pub region: String,
    pub name: String,
    #[serde(serialize_with = "write_moment")]
    pub creation_date: Timestamp,
    pub class: Class,
    /// The image id in its original case; null if only its lower-case form is known.
    pub image_id: Option<String>,
    /// The image id in lower case.
    #[serde(skip)]
    pub slug: String,
    pub version: Option<String>,
    pub source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack_id: Option<String>,
    /// The tags that a repair writes.
    pub tags: Tags,
    pub snapshots: Vec<SnapshotSize>,
    pub monthly_cost_at_most: Cost,
    pub in_use_by: Vec<String>,
    pub shared_with: Vec<String>,
    pub conflicts_with: Vec<String>,
    pub repair: Action,
    pub delete: Action,
    /// Why a change is refused, and what else the user should know.
    pub reasons: Vec<String>,
    /// The addresses of what a deletion has left behind.
    pub left: Vec<String>,
    /// The tags that the AMI has, or had before it was changed.
    pub had_tags: Tags,
    /// The launch permissions that were lost with the tags.
    #[serde(rename = "lostLaunchPermission", skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// What a deletion removes apart from the AMI and its snapshots.
    #[serde(flatten)]
    pub artifacts: Artifacts,
    /// The kind of refusal, if a repair is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_refused: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_refused: Option<&'static str>,
    /// The addresses of what a deletion would leave behind.
    #[serde(rename = "leaves")]
    pub stays: Vec<String>,
    pub commands: Commands,
}

impl Image {
    /// The age in whole days; negative if a clock is wrong.
    pub fn age_in_days(&self, today: Date) -> i64 {
        let date = TimeZone::UTC.to_datetime(self.creation_date).date();
        today.duration_since(date).as_hours() / 24
    }
}

/// Why a change is refused: the kind of refusal (a summary counts the AMIs of each kind), and the reason for
/// this AMI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: &'static str,
    pub reason: String,
    /// The command that makes the change anyway; the reason contains the command too.
    pub command: Option<String>,
}

impl Refusal {
    pub fn new(kind: &'static str, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), command: None }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotSize {
    pub id: String,
    /// `None` if the size is not known.
    #[serde(rename = "sizeGiB")]
    pub size_gib: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    pub usd: f64,
}

impl Cost {
    /// The maximum cost per month: an archived snapshot costs less, and data that several snapshots share is
    /// billed only once.
    pub fn of(snapshots: &[SnapshotSize]) -> Self {
        let gib: f64 = snapshots.iter().filter_map(|snapshot| snapshot.size_gib).sum();
        Self { usd: round(gib * USD_PER_GIB_MONTH) }
    }
}

/// The sizes of the snapshots of an AMI.
pub fn measure(inventory: &Inventory, ami: &Ami) -> Vec<SnapshotSize> {
    let size = |device: &Device| {
        let is_same = |snapshot: &&Snapshot| snapshot.id == device.id && snapshot.region == ami.region;
        let snapshot = inventory.snapshots.iter().find(is_same);
        let full = snapshot.and_then(|snapshot| snapshot.full_size_bytes).filter(|bytes| *bytes > 0);
        let volume = snapshot.and_then(|snapshot| snapshot.volume_gib).or(device.volume_gib);
        let bytes = full.or_else(|| volume?.checked_mul(1 << 30));
        SnapshotSize { id: device.id.clone(), size_gib: bytes.map(to_gibibytes) }
    };
    ami.snapshots.iter().map(size).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a size to two decimals")]
fn to_gibibytes(bytes: u64) -> f64 {
    round(bytes as f64 / f64::from(1 << 30))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Writes a moment to the millisecond, as EC2 does.
fn write_moment<S: Serializer>(moment: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{moment:.3}"))
}

/// The directory and the log group of an AMI's build, if they belong to no other AMI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifacts {
    /// The region of the build, which may differ from the AMI's.
    #[serde(skip)]
    pub region: String,
    /// Bucket and directory.
    #[serde(rename = "s3Directory", skip_serializing_if = "Option::is_none", serialize_with = "write_place")]
    pub directory: Option<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_group: Option<String>,
}

/// The address of a directory in S3.
pub fn format_place(bucket: &str, directory: &str) -> String {
    format!("s3://{bucket}/{directory}/")
}

#[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
fn write_place<S: Serializer>(place: &Option<(String, String)>, to: S) -> Result<S::Ok, S::Error> {
    place.as_ref().map(|(bucket, directory)| format_place(bucket, directory)).serialize(to)
}
