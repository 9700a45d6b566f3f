//! The inventory in the JSON of client.py. Pure. By hand: what serde derives for these types takes 100 kB of the
//! binary.

use serde_json::{Value, json};

use crate::rules::inventory::{
    Ami, Bucket, BucketFrom, Deletion, Device, Directory, Inventory, LaunchPermission, LogGroup, Remains,
    Skipped, Snapshot, Stack, Tags, Use,
};
use crate::sorted::sorted_map;

/// A text that is there, or an empty one.
#[must_use]
pub fn text(value: &Value, key: &str) -> String {
    optional(value, key).unwrap_or_default()
}

/// A text that may be absent or null.
#[must_use]
pub fn optional(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().map(str::to_owned)
}

/// The texts of a list.
#[must_use]
pub fn texts(value: &Value, key: &str) -> Vec<String> {
    let entries = value[key].as_array().into_iter().flatten();
    entries.filter_map(|entry| entry.as_str().map(str::to_owned)).collect()
}

fn tags(value: &Value) -> Option<Tags> {
    let entries = value["tags"].as_object()?.iter();
    Some(sorted_map(entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))))
}

fn list<T>(value: &Value, key: &str, read: fn(&Value) -> T) -> Vec<T> {
    value[key].as_array().into_iter().flatten().map(read).collect()
}

/// Reads the answer of client.py; `None` where it names no account or has no list of AMIs.
#[must_use]
pub fn read_inventory(value: &Value) -> Option<Inventory> {
    value["images"].as_array()?;
    Some(Inventory {
        account: optional(value, "account").filter(|account| !account.is_empty())?,
        partition: text(value, "partition"),
        region: text(value, "region"),
        regions: texts(value, "regions"),
        images: list(value, "images", read_ami),
        stacks: list(value, "stacks", read_stack),
        directories: list(value, "directories", read_directory),
        buckets: list(value, "buckets", |bucket| Bucket {
            region: text(bucket, "region"),
            name: text(bucket, "name"),
        }),
        log_groups: list(value, "logGroups", |group| LogGroup {
            region: text(group, "region"),
            name: text(group, "name"),
        }),
        snapshots: list(value, "snapshots", |snapshot| Snapshot {
            region: text(snapshot, "region"),
            id: text(snapshot, "id"),
            volume_gib: snapshot["volumeGiB"].as_u64(),
            full_size_bytes: snapshot["fullSizeBytes"].as_u64(),
            tier: optional(snapshot, "tier"),
        }),
        uses: list(value, "uses", |used| Use {
            region: text(used, "region"),
            image: text(used, "image"),
            by: text(used, "by"),
        }),
        skipped: list(value, "skipped", |skipped| Skipped {
            source: text(skipped, "source"),
            why: text(skipped, "why"),
            permission: optional(skipped, "permission"),
        }),
        remains: list(value, "remains", |left| Remains {
            region: text(left, "region"),
            ami: text(left, "ami"),
            // What is not told is taken for still there.
            image: left["image"].as_bool().unwrap_or(true),
            snapshots: texts(left, "snapshots"),
            directory: left["directory"].as_bool().unwrap_or(true),
        }),
    })
}

fn read_ami(value: &Value) -> Ami {
    let permission = &value["launchPermission"];
    Ami {
        region: text(value, "region"),
        id: text(value, "id"),
        name: text(value, "name"),
        creation_date: text(value, "creationDate"),
        state: text(value, "state"),
        description: optional(value, "description"),
        tags: tags(value).unwrap_or_default(),
        public: value["public"].as_bool().unwrap_or_default(),
        owner_id: text(value, "ownerId"),
        deregistration_protection: optional(value, "deregistrationProtection"),
        snapshots: list(value, "snapshots", |device| Device {
            id: text(device, "id"),
            volume_gib: device["volumeGiB"].as_u64(),
        }),
        launch_permission: permission.is_object().then(|| LaunchPermission {
            users: texts(permission, "users"),
            groups: texts(permission, "groups"),
            organizations: texts(permission, "organizations"),
        }),
    }
}

fn read_stack(value: &Value) -> Stack {
    Stack {
        region: text(value, "region"),
        id: text(value, "id"),
        name: text(value, "name"),
        status: text(value, "status"),
        creation_time: text(value, "creationTime"),
        deletion_time: optional(value, "deletionTime"),
        tags: tags(value),
        image_arn: optional(value, "imageArn"),
    }
}

fn read_directory(value: &Value) -> Directory {
    Directory {
        bucket: text(value, "bucket"),
        region: text(value, "region"),
        version: text(value, "version"),
        directory: text(value, "directory"),
        bucket_from: match value["bucketFrom"].as_str() {
            Some("default") => BucketFrom::Default,
            Some("option") => BucketFrom::Option,
            _ => BucketFrom::Stack,
        },
        template: optional(value, "template"),
        template_modified: optional(value, "templateModified"),
        configuration: optional(value, "configuration"),
    }
}

/// The record of a deletion.
#[must_use]
pub fn write_deletion(deletion: &Deletion) -> Value {
    let Deletion { account, region, ami, snapshots, build_region, bucket, directory, log_group, tags } =
        deletion;
    json!({"account": account, "region": region, "ami": ami, "snapshots": snapshots, "buildRegion": build_region,
           "bucket": bucket, "directory": directory, "logGroup": log_group, "tags": tags})
}

/// Reads the record of a deletion; `None` where it names no AMI.
#[must_use]
pub fn read_deletion(value: &Value) -> Option<Deletion> {
    value["snapshots"].as_array()?;
    Some(Deletion {
        account: optional(value, "account")?,
        region: optional(value, "region")?,
        ami: optional(value, "ami")?,
        snapshots: texts(value, "snapshots"),
        build_region: optional(value, "buildRegion")?,
        bucket: optional(value, "bucket"),
        directory: optional(value, "directory"),
        log_group: optional(value, "logGroup"),
        tags: tags(value).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let deletion = Deletion {
            account: "1".into(),
            region: "r".into(),
            ami: "ami-1".into(),
            snapshots: vec!["snap-1".into(), "snap-2".into()],
            build_region: "b".into(),
            bucket: Some("bucket".into()),
            directory: None,
            log_group: Some("group".into()),
            tags: [("key".to_owned(), "value".to_owned())].into(),
        };
        assert_eq!(read_deletion(&write_deletion(&deletion)), Some(deletion));
        assert_eq!(read_deletion(&json!({})), None);
        assert_eq!(read_deletion(&json!({"account": "1", "region": "r", "ami": "a"})), None);
    }

    #[test]
    fn an_answer_without_an_account_or_amis_is_none() {
        assert!(read_inventory(&json!({"account": "1", "images": []})).is_some());
        for bad in [
            json!(null),
            json!([]),
            json!({"images": []}),
            json!({"account": "", "images": []}),
            json!({"account": "1"}),
        ] {
            assert!(read_inventory(&bad).is_none(), "{bad}");
        }
        let odd = json!({"account": "1", "images": [null, {"id": 3, "tags": []}], "remains": [{}]});
        let inventory = read_inventory(&odd).unwrap();
        assert_eq!(inventory.images.len(), 2);
        assert!(inventory.remains[0].image && inventory.remains[0].directory);
        assert!(inventory.images[0].launch_permission.is_none());
    }
}
