//! AMIs, directories and inventories for the tests of the rules. Pure.

use jiff::Timestamp;

use crate::images::class::{BUILD_STATUS, IMAGE_ID};
use crate::images::inventory::{Ami, Bucket, BucketFrom, Device, Directory, Inventory, LaunchPermission};
use crate::images::selection::Selection;

pub(crate) const ACCOUNT: &str = "123456789012";

pub(crate) fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn arn(slug: &str, version: &str, account: &str) -> String {
    format!("arn:aws:imagebuilder:us-east-1:{account}:image/parallelclusterimage-{slug}/{version}/1")
}

pub(crate) fn ami(id: &str, arn: &str, tags: &[(&str, &str)]) -> Ami {
    let tags = tags.iter().copied().chain([("Ec2ImageBuilderArn", arn)]);
    Ami {
        region: "us-east-1".into(),
        id: id.into(),
        creation_date: moment("2022-10-26T23:00:00.000Z"),
        state: "available".into(),
        tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        owner_id: ACCOUNT.into(),
        snapshots: vec![Device { id: format!("snap-{id}"), volume_gib: Some(40) }],
        launch_permission: Some(LaunchPermission::default()),
        ..Ami::default()
    }
}

pub(crate) const DONE: &[(&str, &str)] = &[(BUILD_STATUS, "available"), ("parallelcluster:os", "alinux2")];

pub(crate) fn template(id: &str, bucket: &str, directory: &str) -> String {
    serde_json::json!({"Resources": {
        "ImageRecipe": {"Type": "AWS::ImageBuilder::ImageRecipe", "Properties": {
            "ParentImage": "ami-0", "Tags": {IMAGE_ID: id, "parallelcluster:image_name": id}}},
        "DeleteStackFunction": {"Type": "AWS::Lambda::Function", "Properties": {"Code": {
            "S3Bucket": bucket, "S3Key": format!("{directory}/custom_resources/artifacts.zip")}}},
    }})
    .to_string()
}

pub(crate) fn directory(id: &str, letter: char, modified: &str) -> Directory {
    let slug = id.to_lowercase();
    let path = format!("parallelcluster/3.1.3/images/{slug}-{}", String::from(letter).repeat(16));
    Directory {
        bucket: "b".into(),
        bucket_from: BucketFrom::Default,
        region: "us-east-1".into(),
        version: "3.1.3".into(),
        template: Some(template(id, "b", &path)),
        directory: path,
        template_modified: Some(moment(modified)),
        configuration: None,
    }
}

pub(crate) fn inventory(images: Vec<Ami>) -> Inventory {
    Inventory {
        account: ACCOUNT.into(),
        partition: "aws".into(),
        region: "us-east-1".into(),
        images,
        buckets: vec![Bucket { region: "us-east-1".into(), name: "b".into() }],
        ..Inventory::default()
    }
}

pub(crate) fn select(image_ids: &[&str], amis: &[&str]) -> Selection {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Selection { image_ids: own(image_ids), amis: own(amis) }
}
