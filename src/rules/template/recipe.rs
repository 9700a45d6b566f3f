//! The image recipe: components of another region, and a volume that is smaller than what pcluster
//! reserves. Pure.

use std::str::FromStr as _;

use pep440_rs::Version;
use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::template::cloudformation::{DISTRIBUTION, format_resource, select_resources};

pub const RECIPE: &str = "AWS::ImageBuilder::ImageRecipe";

/// Each row: a release, and how many GiB pcluster adds to the size of the parent image from that release on,
/// if `RootVolume.Size` is not set.
const RESERVED: [([u64; 2], u64); 3] = [([3, 13], 37), ([3, 11], 32), ([3, 0], 27)];

/// Checks the recipe. `pcluster` is the installed release, if there is one.
pub fn check(template: &Value, pcluster: Option<&str>) -> Vec<Finding> {
    let region = find_region(template);
    let mut findings = Vec::new();
    for (name, recipe) in select_resources(template, RECIPE) {
        let (place, properties) = (format!("{}.Properties", format_resource(name)), &recipe["Properties"]);
        if let Some(region) = &region {
            findings.extend(check_components(properties, region, &place));
        }
        let release = pcluster.or_else(|| properties["Version"].as_str());
        findings.extend(release.and_then(|release| check_size(properties, release, &place)));
    }
    findings
}

/// Reports the first component that is in another region. Others would give the same finding.
fn check_components(properties: &Value, region: &str, place: &str) -> Option<Finding> {
    let components = properties["Components"].as_array().into_iter().flatten().enumerate();
    let mut arns =
        components.filter_map(|(index, component)| Some((index, component["ComponentArn"].as_str()?)));
    let (index, arn, other) = arns.find_map(|(index, arn)| {
        let other = read_region(arn)?;
        (other != region).then_some((index, arn, other))
    })?;
    let message = format!("a component is in {other}, but the image is built in {region}");
    Some(Finding {
        cost: Some("Image Builder refuses the recipe, and the stack is rolled back within minutes.".into()),
        evidence: json!({"path": format!("{place}.Components[{index}].ComponentArn"), "found": arn, "region": region}),
        fix: Some(Fix::by_hand(format!("use a component in {region} in Build.Components"))),
        references: vec![
            "https://docs.aws.amazon.com/imagebuilder/latest/APIReference/API_ComponentConfiguration.html"
                .into(),
        ],
        ..Finding::new("component-region", Level::Error, Kind::BuildComponent, message)
    })
}

/// The region of `arn:aws:imagebuilder:REGION:OWNER:component/…`.
fn read_region(arn: &str) -> Option<&str> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        ["arn", _, "imagebuilder", region, _, resource]
            if resource.starts_with("component/") && !region.is_empty() =>
        {
            Some(region)
        }
        _ => None,
    }
}

/// The region in which the image is built. pcluster writes the ARN of the build's log group into a tag of the
/// AMI, and this ARN contains the region.
pub fn find_region(template: &Value) -> Option<String> {
    let configurations = select_resources(template, DISTRIBUTION).into_iter();
    let mut logs = configurations.flat_map(|(_, resource)| {
        let list = resource["Properties"]["Distributions"].as_array().into_iter().flatten();
        list.map(|distribution| &distribution["AmiDistributionConfiguration"]["AmiTags"]["parallelcluster:build_log"])
    });
    logs.find_map(|log| {
        let arn = flatten_text(log);
        let region = arn.split_once(":logs:")?.1.split(':').next()?;
        let is_region = |region: &str| {
            !region.is_empty()
                && region.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'-')
        };
        is_region(region).then(|| region.to_owned())
    })
}

/// A string, the string of a `Fn::Sub`, or the parts of a `Fn::Join` with `*` for each part that is not
/// a string.
pub(super) fn flatten_text(value: &Value) -> String {
    if let Some(text) = value.as_str().or_else(|| value["Fn::Sub"].as_str()) {
        return text.to_owned();
    }
    let parts = value["Fn::Join"][1].as_array().into_iter().flatten();
    parts.map(|part| part.as_str().unwrap_or("*")).collect()
}

/// Finds a root volume that is smaller than what pcluster reserves on top of the parent image. The volume has
/// to hold the parent image too.
fn check_size(properties: &Value, release: &str, place: &str) -> Option<Finding> {
    let reserved = reserved_size(release)?;
    let volumes = properties["BlockDeviceMappings"].as_array()?.iter().enumerate();
    let (index, size) = volumes
        .filter_map(|(index, mapping)| Some((index, mapping["Ebs"]["VolumeSize"].as_u64()?)))
        .find(|(_, size)| *size < reserved)?;
    let message = format!(
        "the root volume has {size} GiB; pcluster {release} reserves {reserved} GiB on top of the parent image"
    );
    Some(Finding {
        cost: Some("The build fails if the volume becomes full.".into()),
        evidence: json!({"path": format!("{place}.BlockDeviceMappings[{index}].Ebs.VolumeSize"), "found": size, "reserved": reserved}),
        fix: Some(Fix::by_hand(
            "increase Image.RootVolume.Size, or remove it so that pcluster chooses the size".into(),
        )),
        references: vec!["https://github.com/aws/aws-parallelcluster/issues/6478".into()],
        // Only an INFO, because pcluster can reserve more than a build needs. pcluster 3.11.0 reserves 32 GiB
        // on top of the parent image. In upstream's issue 6478, a volume of 32 GiB was enough for the parent
        // image and everything that pcluster 3.11.0 installed.
        ..Finding::new("root-volume-small", Level::Info, Kind::ImageLimit, message)
    })
}

fn reserved_size(release: &str) -> Option<u64> {
    let release = Version::from_str(release).ok()?;
    RESERVED.iter().find(|(from, _)| release >= Version::new(from)).map(|(_, reserved)| *reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(recipe: &Value, pcluster: Option<&str>) -> Vec<String> {
        let log = json!({"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":logs:eu-west-1:", {"Ref": "AWS::AccountId"}, ":x"]]});
        let ami = json!({"AmiDistributionConfiguration": {"AmiTags": {"parallelcluster:build_log": log}}});
        let template = json!({"Resources": {
            "R": {"Type": RECIPE, "Properties": recipe},
            "D": {"Type": DISTRIBUTION, "Properties": {"Distributions": [ami]}},
        }});
        check(&template, pcluster).into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn a_component_of_another_region_is_found() {
        let found = |arn: &Value| {
            ids(&json!({"Components": [{"ComponentArn": {"Ref": "X"}}, {"ComponentArn": arn}]}), None)
        };
        for arn in [
            "arn:aws:imagebuilder:us-east-1:aws:component/amazon-cloudwatch-agent-linux/x.x.x",
            "arn:aws:imagebuilder:eu-west-2:123456789012:component/mine/1.0.0/1",
        ] {
            assert_eq!(found(&json!(arn)), ["component-region"], "{arn}");
        }
        for arn in [
            json!("arn:aws:imagebuilder:eu-west-1:aws:component/update-linux/x.x.x"),
            json!("arn:aws:imagebuilder::aws:component/x"),
            json!("arn:aws:imagebuilder:eu-west-2:123456789012:image/mine/1.0.0/1"),
            json!("component"),
            json!({"Fn::Sub": "arn:aws:imagebuilder:eu-west-2:1:component/x"}),
        ] {
            assert!(found(&arn).is_empty(), "{arn}");
        }
        // If the build's region is not known, nothing is reported.
        let components = json!([{"ComponentArn": "arn:aws:imagebuilder:us-east-1:aws:component/x/1.0.0"}]);
        let alone = json!({"Resources": {"R": {"Type": RECIPE, "Properties": {"Components": components}}}});
        assert!(check(&alone, None).is_empty());
    }

    #[test]
    fn a_volume_below_the_reserve_is_told() {
        let sized =
            |size: u64| json!({"BlockDeviceMappings": [{"Ebs": {"VolumeSize": size}}], "Version": "3.10.1"});
        for (release, reserved) in
            [("3.0.0", 27), ("3.10.1", 27), ("3.11.0", 32), ("3.12.0", 32), ("3.13.0", 37), ("3.16.3", 37)]
        {
            assert_eq!(ids(&sized(reserved - 1), Some(release)), ["root-volume-small"], "{release}");
            assert!(ids(&sized(reserved), Some(release)).is_empty(), "{release}");
        }
        assert_eq!(ids(&sized(26), None), ["root-volume-small"]);
        assert!(ids(&sized(8), Some("a local build")).is_empty());
    }
}
