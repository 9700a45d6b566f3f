//! The images and builds in AWS, as client.py describes them in JSON. Pure.
//!
//! client.py writes every key. It is an error if a key is missing or has another type, because this data
//! decides what is deleted. Without `deserialize_with`, serde would accept a missing `Option` as `None`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

pub type Tags = BTreeMap<String, String>;

/// The AMIs of one account in the selected regions, and what the rules need to know about them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    #[serde(deserialize_with = "read_account")]
    pub account: String,
    /// The ARN of the caller.
    pub caller: String,
    #[serde(deserialize_with = "Option::deserialize")]
    pub alias: Option<String>,
    /// The AWS profile that the credentials come from, if there is one.
    #[serde(deserialize_with = "Option::deserialize")]
    pub profile: Option<String>,
    pub partition: String,
    /// The region of the boto3 session.
    pub region: String,
    pub regions: Vec<String>,
    pub images: Vec<Ami>,
    pub stacks: Vec<Stack>,
    pub directories: Vec<Directory>,
    /// The buckets in which client.py could list the directories of images.
    pub buckets: Vec<Bucket>,
    pub log_groups: Vec<LogGroup>,
    pub snapshots: Vec<Snapshot>,
    pub uses: Vec<Use>,
    pub skipped: Vec<Skipped>,
    pub remains: Vec<Remains>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ami {
    pub region: String,
    pub id: String,
    pub name: String,
    pub creation_date: Timestamp,
    pub state: String,
    #[serde(deserialize_with = "Option::deserialize")]
    pub description: Option<String>,
    pub tags: Tags,
    pub public: bool,
    pub owner_id: String,
    #[serde(deserialize_with = "Option::deserialize")]
    pub deregistration_protection: Option<String>,
    pub snapshots: Vec<Device>,
    /// `None` if the launch permission is not known.
    #[serde(deserialize_with = "Option::deserialize")]
    pub launch_permission: Option<LaunchPermission>,
}

/// A snapshot as the block device mapping of an AMI names it.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    pub id: String,
    #[serde(rename = "volumeGiB", deserialize_with = "Option::deserialize")]
    pub volume_gib: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct LaunchPermission {
    pub users: Vec<String>,
    pub groups: Vec<String>,
    pub organizations: Vec<String>,
}

/// A stack, live or deleted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stack {
    pub region: String,
    pub id: String,
    pub name: String,
    pub status: String,
    pub creation_time: Timestamp,
    #[serde(deserialize_with = "Option::deserialize")]
    pub deletion_time: Option<Timestamp>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub tags: Option<Tags>,
    /// The physical id of the stack's resource `ParallelClusterImage`. The AMI's tag `Ec2ImageBuilderArn` has
    /// the same value.
    #[serde(deserialize_with = "Option::deserialize")]
    pub image_arn: Option<String>,
}

/// An S3 directory whose name has the form that pcluster uses for the artifacts of an image.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    pub bucket: String,
    pub bucket_from: BucketFrom,
    /// The region whose builds were being searched for when the directory was found.
    pub region: String,
    /// The release of pcluster, with its suffix: `3.2.0b1`.
    pub version: String,
    pub directory: String,
    #[serde(deserialize_with = "Option::deserialize")]
    pub template: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub template_modified: Option<Timestamp>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub configuration: Option<String>,
}

/// Why client.py searched a bucket for the directories of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BucketFrom {
    /// It is pcluster's default bucket. Its name is unique to this account and region.
    #[default]
    Default,
    /// The user has named it with `--bucket`.
    Option,
    /// A tag of a stack names it. The stack need not be one of pcluster's.
    Stack,
}

/// A bucket that client.py has searched for the directories of a region's builds.
#[derive(Debug, Clone, Deserialize)]
pub struct Bucket {
    pub region: String,
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct LogGroup {
    pub region: String,
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub region: String,
    pub id: String,
    #[serde(rename = "volumeGiB", deserialize_with = "Option::deserialize")]
    pub volume_gib: Option<u64>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub full_size_bytes: Option<u64>,
}

/// A use of an AMI, by an instance, a launch template, a launch configuration or something else.
#[derive(Debug, Clone, Deserialize)]
pub struct Use {
    pub region: String,
    pub image: String,
    pub by: String,
}

/// A source of information, such as a call to AWS, that could not be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Skipped {
    pub source: String,
    pub why: String,
    #[serde(deserialize_with = "Option::deserialize", skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    /// The S3 bucket that could not be read, if it may contain artifacts.
    #[serde(deserialize_with = "Option::deserialize", skip_serializing)]
    pub bucket: Option<String>,
}

/// What still exists of an image whose deletion was interrupted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remains {
    pub region: String,
    pub ami: String,
    pub image: bool,
    pub snapshots: Vec<String>,
    pub directory: bool,
    pub log_group: bool,
}

/// What a deletion removes. The record of the deletion on the disk has the same contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    pub account: String,
    pub region: String,
    pub ami: String,
    pub snapshots: Vec<String>,
    /// The region of the build. The build's directory and log group are in this region.
    pub build_region: String,
    #[serde(deserialize_with = "Option::deserialize")]
    pub bucket: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub directory: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub log_group: Option<String>,
    /// The id of the build's own stack. The log group is not deleted if another stack is named
    /// after the image.
    #[serde(default)]
    pub stack_id: Option<String>,
    /// The tags of the AMI, so that the deleted AMI can be traced.
    pub tags: Tags,
}

impl Deletion {
    pub fn build(&self) -> Option<BuildArn> {
        BuildArn::read(self.tags.get(BUILDER_ARN)?)
    }
}

/// The tag with which Image Builder marks what it creates.
pub const BUILDER_ARN: &str = "Ec2ImageBuilderArn";

/// A deletion that was interrupted after its AMI was gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The directory and the log group are `None` if they are gone. The log group is also `None` if another
    /// build may use it.
    pub deletion: Deletion,
    /// The snapshots that still exist.
    pub snapshots: Vec<String>,
}

impl Unfinished {
    /// What still exists.
    pub fn list(&self) -> Vec<String> {
        let Deletion { bucket, directory, log_group, .. } = &self.deletion;
        let snapshots = self.snapshots.iter().map(|snapshot| format!("snapshot {snapshot}"));
        let directory = bucket.iter().zip(directory);
        let directory = directory.map(|(bucket, directory)| format!("s3://{bucket}/{directory}/"));
        let logs = log_group.iter().map(|name| format!("log group {name}"));
        snapshots.chain(directory).chain(logs).collect()
    }
}

fn read_account<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let account = String::deserialize(from)?;
    if account.is_empty() { Err(D::Error::custom("the account is empty")) } else { Ok(account) }
}

impl Inventory {
    /// Finds a skipped source whose name starts with `source` and ends with `region`.
    pub fn find_skipped(&self, source: &str, region: &str) -> Option<&Skipped> {
        self.skipped
            .iter()
            .find(|skipped| skipped.source.starts_with(source) && skipped.source.ends_with(region))
    }
}

/// The ARN of an image that Image Builder created for pcluster: who built what, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildArn {
    pub region: String,
    pub account: String,
    /// The image id in lower case.
    pub slug: String,
    /// The release of pcluster, without its suffix.
    pub version: String,
}

impl BuildArn {
    /// Reads `arn:PARTITION:imagebuilder:REGION:ACCOUNT:image/parallelclusterimage-SLUG/VERSION/NUMBER`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

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

    fn ami() -> Value {
        json!({
            "region": "us-east-1", "id": "ami-1", "name": "x", "creationDate": "2022-10-26T22:30:05.000Z",
            "state": "available", "description": null, "tags": {}, "public": false, "ownerId": "1",
            "deregistrationProtection": null, "snapshots": [{"id": "snap-1", "volumeGiB": 35}],
            "launchPermission": null,
        })
    }

    fn inventory(ami: &Value) -> Value {
        json!({
            "account": "1", "caller": "arn:aws:iam::1:user/x", "alias": null, "profile": null, "partition": "aws", "region": "us-east-1", "regions": ["us-east-1"], "images": [ami],
            "stacks": [], "directories": [], "buckets": [], "logGroups": [], "snapshots": [], "uses": [],
            "skipped": [], "remains": [],
        })
    }

    fn error_of(value: &Value) -> String {
        Inventory::deserialize(value).unwrap_err().to_string()
    }

    #[test]
    fn ami_with_missing_key_is_an_error_that_names_it() {
        let complete = ami();
        assert_eq!(Inventory::deserialize(inventory(&complete)).unwrap().images[0].id, "ami-1");
        for key in complete.as_object().unwrap().keys() {
            let mut incomplete = complete.clone();
            incomplete.as_object_mut().unwrap().remove(key);
            assert!(error_of(&inventory(&incomplete)).contains(&format!("`{key}`")), "{key}");
        }
    }

    #[test]
    fn inventory_with_missing_key_is_an_error_that_names_it() {
        let complete = inventory(&ami());
        for key in complete.as_object().unwrap().keys() {
            let mut incomplete = complete.clone();
            incomplete.as_object_mut().unwrap().remove(key);
            assert!(error_of(&incomplete).contains(&format!("`{key}`")), "{key}");
        }
    }

    #[test]
    fn values_of_another_type_are_errors() {
        for (key, value) in [
            ("id", json!(3)),
            ("tags", json!([])),
            ("public", Value::Null),
            ("creationDate", json!("2022-10-26")),
            ("snapshots", json!([null])),
            ("launchPermission", json!({"users": [], "groups": []})),
        ] {
            let mut odd = ami();
            odd[key] = value;
            error_of(&inventory(&odd));
        }
        for odd in [json!(null), json!([]), inventory(&Value::Null)] {
            error_of(&odd);
        }
        let mut nameless = inventory(&ami());
        nameless["account"] = json!("");
        assert_eq!(error_of(&nameless), "the account is empty");
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let deletion = Deletion {
            account: "1".into(),
            region: "r".into(),
            ami: "ami-1".into(),
            snapshots: vec!["snap-1".into(), "snap-2".into()],
            build_region: "b".into(),
            bucket: Some("bucket".into()),
            directory: None,
            log_group: Some("group".into()),
            stack_id: None,
            tags: [("key".to_owned(), "value".to_owned())].into(),
        };
        let record = json!(deletion);
        assert_eq!(Deletion::deserialize(&record).unwrap(), deletion);
        for key in record.as_object().unwrap().keys().filter(|key| *key != "stackId") {
            let mut incomplete = record.clone();
            incomplete.as_object_mut().unwrap().remove(key);
            let error = Deletion::deserialize(&incomplete).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
    }
}
