//! What AWS has of images and builds. Pure.

use std::collections::BTreeMap;

pub type Tags = BTreeMap<String, String>;

/// The AMIs of one account in the regions that were asked for, and what the rules need to know of them.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    pub account: String,
    pub partition: String,
    /// The region of the session.
    pub region: String,
    pub regions: Vec<String>,
    pub images: Vec<Ami>,
    pub stacks: Vec<Stack>,
    pub directories: Vec<Directory>,
    /// The buckets that could be listed.
    pub buckets: Vec<Bucket>,
    pub log_groups: Vec<LogGroup>,
    pub snapshots: Vec<Snapshot>,
    pub uses: Vec<Use>,
    pub skipped: Vec<Skipped>,
    pub remains: Vec<Remains>,
}

#[derive(Debug, Clone, Default)]
pub struct Ami {
    pub region: String,
    pub id: String,
    pub name: String,
    /// RFC 3339, as every time here.
    pub creation_date: String,
    pub state: String,
    pub description: Option<String>,
    pub tags: Tags,
    pub public: bool,
    pub owner_id: String,
    pub deregistration_protection: Option<String>,
    pub snapshots: Vec<Device>,
    /// `None` where it is not known.
    pub launch_permission: Option<LaunchPermission>,
}

/// A snapshot as the block device mapping of an AMI names it.
#[derive(Debug, Clone)]
pub struct Device {
    pub id: String,
    pub volume_gib: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct LaunchPermission {
    pub users: Vec<String>,
    pub groups: Vec<String>,
    pub organizations: Vec<String>,
}

/// A stack, live or deleted.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    pub region: String,
    pub id: String,
    pub name: String,
    pub status: String,
    pub creation_time: String,
    pub deletion_time: Option<String>,
    pub tags: Option<Tags>,
    /// The physical id of its `ParallelClusterImage`, which `Ec2ImageBuilderArn` of the AMI repeats.
    pub image_arn: Option<String>,
}

/// A directory of S3 whose name is that of an image's artifacts.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    pub bucket: String,
    pub bucket_from: BucketFrom,
    /// The region of the build that was looked for.
    pub region: String,
    /// The release with its suffix.
    pub version: String,
    pub directory: String,
    pub template: Option<String>,
    pub template_modified: Option<String>,
    pub configuration: Option<String>,
}

/// Why a bucket was listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BucketFrom {
    /// Its name is that of this account and region alone.
    #[default]
    Default,
    /// The user has named it.
    Option,
    /// A stack names it, which need not be one of pcluster's.
    Stack,
}

/// A bucket that was listed for the builds of a region.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub region: String,
    pub name: String,
}

#[derive(Debug, Clone)]
pub struct LogGroup {
    pub region: String,
    pub name: String,
}

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub region: String,
    pub id: String,
    pub volume_gib: Option<u64>,
    pub full_size_bytes: Option<u64>,
    /// `standard` or `archive`.
    pub tier: Option<String>,
}

/// A use of an AMI by an instance, a launch template or something else.
#[derive(Debug, Clone)]
pub struct Use {
    pub region: String,
    pub image: String,
    pub by: String,
}

/// A source that could not be asked.
#[derive(Debug, Clone)]
pub struct Skipped {
    pub source: String,
    pub why: String,
    pub permission: Option<String>,
}

/// What is still there of an image whose deletion was cut off.
#[derive(Debug, Clone, Default)]
pub struct Remains {
    pub region: String,
    pub ami: String,
    pub image: bool,
    pub snapshots: Vec<String>,
    pub directory: bool,
}

/// What a deletion removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    pub account: String,
    pub region: String,
    pub ami: String,
    pub snapshots: Vec<String>,
    /// The region of the build, in which its directory and its logs are.
    pub build_region: String,
    pub bucket: Option<String>,
    pub directory: Option<String>,
    pub log_group: Option<String>,
    /// Those of the AMI, so that it can be traced.
    pub tags: Tags,
}

/// A deletion that was cut off after its AMI was gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Without its directory where that is gone.
    pub deletion: Deletion,
    /// The snapshots that are still there.
    pub snapshots: Vec<String>,
}

impl Inventory {
    /// The source that could not be asked and whose name begins so, in a region.
    #[must_use]
    pub fn find_skipped(&self, source: &str, region: &str) -> Option<&Skipped> {
        self.skipped
            .iter()
            .find(|skipped| skipped.source.starts_with(source) && skipped.source.ends_with(region))
    }
}

/// The ARN of an Image Builder image of pcluster's: who built what, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildArn {
    pub region: String,
    pub account: String,
    /// The image id in lower case.
    pub slug: String,
    /// The release without its suffix.
    pub version: String,
}

impl BuildArn {
    /// Reads `arn:PARTITION:imagebuilder:REGION:ACCOUNT:image/parallelclusterimage-SLUG/VERSION/NUMBER`.
    #[must_use]
    pub fn read(arn: &str) -> Option<Self> {
        let mut parts = arn.splitn(6, ':');
        let head = [parts.next()?, parts.next()?, parts.next()?];
        let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
        let mut steps = resource.strip_prefix("image/parallelclusterimage-")?.split('/');
        let (slug, version, number) = (steps.next()?, steps.next()?, steps.next()?);
        let is_slug = slug.starts_with(|first: char| first.is_ascii_lowercase())
            && slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
        let is_complete =
            head[0] == "arn" && !head[1].is_empty() && head[2] == "imagebuilder" && !region.is_empty();
        (is_complete && is_slug && is_number && steps.next().is_none()).then(|| Self {
            region: region.into(),
            account: account.into(),
            slug: slug.into(),
            version: version.into(),
        })
    }
}

/// A moment of UTC to the second, which sorts as text. `None` where the text is none.
#[must_use]
pub fn read_moment(text: &str) -> Option<&str> {
    let moment = text.get(..19)?;
    let is_moment = moment.bytes().enumerate().all(|(index, byte)| match index {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    });
    let rest = &text[19..];
    let is_utc = rest.ends_with('Z') || rest.ends_with("+00:00");
    (is_moment && is_utc).then_some(moment)
}

/// Whether the first moment is not after the second; false where one of them is none.
#[must_use]
pub fn is_not_after(first: &str, second: &str) -> bool {
    matches!((read_moment(first), read_moment(second)), (Some(first), Some(second)) if first <= second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_arn_of_pcluster_is_read() {
        let good =
            "arn:aws-cn:imagebuilder:cn-north-1:123456789012:image/parallelclusterimage-gpu-2/3.1.3/12";
        let read = BuildArn::read(good).unwrap();
        assert_eq!((read.slug.as_str(), read.version.as_str()), ("gpu-2", "3.1.3"));
        assert_eq!((read.region.as_str(), read.account.as_str()), ("cn-north-1", "123456789012"));
        for bad in [
            "",
            "arn:aws:imagebuilder:r:1:image/parallelclusterimage-x/3.1.3",
            "arn:aws:imagebuilder:r:1:image/parallelclusterimage-x/3.1.3/1/2",
            "arn:aws:imagebuilder:r:1:image/parallelclusterimage-x/3.1.3/",
            "arn:aws:imagebuilder:r:1:image/parallelclusterimage-/3.1.3/1",
            "arn:aws:imagebuilder:r:1:image/parallelclusterimage-2x/3.1.3/1",
            "arn:aws:imagebuilder:r:1:image/parallelclusterimage-X/3.1.3/1",
            "arn:aws:imagebuilder:r:1:image-recipe/parallelclusterimage-x/3.1.3/1",
            "arn:aws:ec2:r:1:image/parallelclusterimage-x/3.1.3/1",
        ] {
            assert_eq!(BuildArn::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn moments_are_compared_in_utc_only() {
        assert!(is_not_after("2022-10-26T22:30:05.912000+00:00", "2022-10-26T22:30:06.000Z"));
        assert!(is_not_after("2022-10-26T22:30:05Z", "2022-10-26T22:30:05.1Z"));
        assert!(!is_not_after("2022-10-26T22:30:06Z", "2022-10-26T22:30:05Z"));
        for none in
            ["", "2022-10-26", "2022-10-26T22:30:05+02:00", "2022-10-26 22:30:05Z", "ä022-10-26T22:30:0Z"]
        {
            assert!(!is_not_after(none, "2022-10-26T22:30:05Z"), "{none}");
        }
    }
}
