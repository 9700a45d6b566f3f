//! What to ask AWS about the build that a template describes, and the answers. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::rules::template::cloudformation::select_resources;
use crate::rules::template::recipe::RECIPE;

/// What to look up for a build. A script with an `https` URL is looked up at its host, everything else in
/// AWS. All values are from the build's template.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Questions {
    /// The id of an AMI, or the ARN of an Image Builder image.
    pub parent: Option<String>,
    /// The URLs of scripts.
    pub scripts: Vec<String>,
    /// The ARNs of components. Those without a build number are left out, because `GetComponent` does not
    /// accept them.
    pub components: Vec<String>,
    pub subnet: Option<String>,
}

impl Questions {
    pub fn of(template: &Value) -> Self {
        let mut questions = Self::default();
        for (_, recipe) in select_resources(template, RECIPE) {
            questions.parent = recipe["Properties"]["ParentImage"].as_str().map(str::to_owned);
            let components = recipe["Properties"]["Components"].as_array().into_iter().flatten();
            let arns = components.filter_map(|component| component["ComponentArn"].as_str());
            questions.components.extend(arns.filter(|arn| names_a_build(arn)).map(str::to_owned));
        }
        for (name, component) in select_resources(template, "AWS::ImageBuilder::Component") {
            if name.starts_with("ScriptComponent") {
                questions.scripts.extend(read_script(&component["Properties"]["Description"]));
            }
        }
        for (_, infrastructure) in
            select_resources(template, "AWS::ImageBuilder::InfrastructureConfiguration")
        {
            questions.subnet = infrastructure["Properties"]["SubnetId"].as_str().map(str::to_owned);
        }
        questions
    }
}

/// pcluster describes a script's component like this: `…, script name is NAME, script url is URL`.
fn read_script(description: &Value) -> Option<String> {
    let (_, url) = description.as_str()?.split_once("script url is ")?;
    Some(url.trim().to_owned())
}

/// Whether an ARN ends in a version and a build number, `/1.0.0/1`, as `GetComponent` requires.
fn names_a_build(arn: &str) -> bool {
    let mut parts = arn.rsplit('/');
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.next().is_some_and(is_number)
        && parts
            .next()
            .is_some_and(|version| version.split('.').count() == 3 && version.split('.').all(is_number))
}

/// An image as `ec2:DescribeImages` describes it. Any field may be missing or null, because the description
/// may come from a file instead of AWS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ParentImage {
    #[serde(default)]
    pub image_id: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub owner_id: Option<String>,
    #[serde(default, rename = "ImageOwnerAlias")]
    pub owner_alias: Option<String>,
    #[serde(default)]
    pub architecture: Option<String>,
    #[serde(default)]
    pub platform: Option<String>,
    #[serde(default)]
    pub platform_details: Option<String>,
    #[serde(default, deserialize_with = "read_or_default")]
    pub tags: Vec<Tag>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    pub key: String,
    #[serde(default, deserialize_with = "read_or_default")]
    pub value: String,
}

fn read_or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl ParentImage {
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str())
    }
}

/// The answers of AWS, and the reason for each answer that is missing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    pub image: Option<ParentImage>,
    /// By URL.
    pub scripts: BTreeMap<String, Found>,
    /// By ARN.
    pub components: BTreeMap<String, Found>,
    pub subnet: Option<Subnet>,
    /// Why an answer is missing. The key is the check that needs the answer: `parent`, `components`
    /// or `network`.
    pub skipped: BTreeMap<String, String>,
}

/// Whether a script or component of a build exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Found {
    Present,
    /// AWS, or a public host that was asked twice, reports that there is no such script or component.
    Absent,
    /// A host without a public address reports that there is no such script. The instance of the build may
    /// get another answer than this machine.
    Hidden,
}

/// How the instance of a build reaches the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    pub has_internet_gateway: bool,
    pub gives_public_addresses: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_names_what_to_ask() {
        let template = json!({"Resources": {
            "ImageRecipe": {"Type": RECIPE, "Properties": {"ParentImage": "ami-1", "Components": [
                {"ComponentArn": {"Ref": "ScriptComponent0"}},
                {"ComponentArn": "arn:aws:imagebuilder:eu-west-1:1:component/mine/1.0.0/1"},
                {"ComponentArn": "arn:aws:imagebuilder:eu-west-1:aws:component/update-linux/x.x.x"},
                {"ComponentArn": "arn:aws:imagebuilder:eu-west-1:1:component/mine/1.0.0"},
            ]}},
            "ScriptComponent0": {"Type": "AWS::ImageBuilder::Component", "Properties": {
                "Description": "This component is custom component for script, script name is a.sh, script url is s3://b/a.sh"}},
            "InfrastructureConfiguration": {"Type": "AWS::ImageBuilder::InfrastructureConfiguration",
                "Properties": {"SubnetId": "subnet-1"}},
        }});
        let expected = Questions {
            parent: Some("ami-1".into()),
            scripts: vec!["s3://b/a.sh".into()],
            components: vec!["arn:aws:imagebuilder:eu-west-1:1:component/mine/1.0.0/1".into()],
            subnet: Some("subnet-1".into()),
        };
        assert_eq!(Questions::of(&template), expected);
        assert_eq!(Questions::of(&json!({})), Questions::default());
    }
}
