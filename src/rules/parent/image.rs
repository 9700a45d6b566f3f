//! The parent image × release → findings. Pure.
//!
//! pcluster 3 does not check the parent image. A finding is an ERROR if pcluster's component on the
//! instance is certain to refuse the image, and if we are certain what the image is. Otherwise, it is at
//! most a WARNING.

use std::str::FromStr as _;

use pep440_rs::Version;
use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::advisories::combinations::Combination;
use crate::rules::advisories::contains;
use crate::rules::parent::facts::ParentImage;
use crate::rules::parent::system::System;
use crate::rules::template::component::Component;

/// The prefix of official AMIs' names, such as `aws-parallelcluster-3.9.3-amzn2-hvm-x86_64-202406191234`.
const OFFICIAL: &str = "aws-parallelcluster-";
const VERSION_TAG: &str = "parallelcluster:version";

/// The build for which an image is the parent.
#[derive(Debug)]
pub struct Build<'a> {
    pub pcluster: &'a str,
    pub template: &'a Value,
    pub combinations: &'a [Combination],
}

pub fn check(image: &ParentImage, build: &Build) -> Vec<Finding> {
    // Without pcluster's component, nothing of pcluster runs on the instance.
    let Some(component) = Component::read(build.template) else { return Vec::new() };
    let checked = Checked { image, build, component };
    let system = System::of(image);
    let origin = checked.check_origin();
    // If an operating system is not supported, it does not matter what else is known about it.
    let outside = match system.as_ref().and_then(|system| checked.check_system(system)) {
        Some(unsupported) => vec![unsupported],
        None => checked.check_combinations(system.as_ref()),
    };
    origin.into_iter().chain(outside).collect()
}

/// Whether an image seems to be made by `ParallelCluster`. Such an image may already contain gems that the
/// component would install.
pub fn is_of_pcluster(image: &ParentImage) -> bool {
    image.tag(VERSION_TAG).is_some() || image.name.as_deref().is_some_and(|name| name.starts_with(OFFICIAL))
}

struct Checked<'a> {
    image: &'a ParentImage,
    build: &'a Build<'a>,
    component: Component,
}

impl Checked<'_> {
    /// Reports an image that another release of pcluster made. Only an official image is certain to be
    /// refused. A tag is not proof: pcluster tags its images even if it ran nothing on them
    /// (`DevSettings.DisablePclusterComponent`). A name is not proof either, but it is all that a copied
    /// image has: copies lose their tags.
    fn check_origin(&self) -> Option<Finding> {
        let named = self.named_version();
        let made_by = named.or_else(|| self.image.tag(VERSION_TAG).filter(|tag| is_release(tag)))?;
        let pcluster = self.build.pcluster;
        let is_official = named.is_some() && self.image.owner_alias.as_deref() == Some("amazon");
        let is_own = is_same_release(pcluster, made_by);
        let was = if is_official { "was" } else { "seems to have been" };
        let message = format!(
            "the parent image {} {was} made by ParallelCluster {made_by}, not {pcluster}",
            self.name()
        );
        let cost = if self.has_own_cookbook() {
            "The build fails on its instance, unless your cookbook accepts images of another version."
        } else {
            "The build fails on its instance: the cookbook refuses images of another version."
        };
        let fix = format!(
            "choose a parent image made by ParallelCluster {pcluster}, or one not made by ParallelCluster"
        );
        let is_certain = is_official && !self.has_own_cookbook();
        let level = if is_certain { Level::Error } else { Level::Warning };
        let reference = "https://docs.aws.amazon.com/parallelcluster/latest/ug/building-custom-ami-v3.html";
        (!is_own).then(|| self.describe("parent-parallelcluster", level, message, cost, fix, reference))
    }

    /// The version in the name of an official `ParallelCluster` AMI, or of a copy of one.
    fn named_version(&self) -> Option<&str> {
        let rest = self.image.name.as_deref()?.strip_prefix(OFFICIAL)?;
        rest.split('-').next().filter(|version| is_release(version))
    }

    /// Reports an operating system that is not in the component's list.
    fn check_system(&self, system: &System) -> Option<Finding> {
        let supported = self.component.supported_systems();
        if supported.is_empty() || supported.contains(&system.name) {
            return None;
        }
        let (pcluster, title) = (self.build.pcluster, system.title());
        let (level, is) =
            if system.is_certain { (Level::Error, "is") } else { (Level::Warning, "seems to be") };
        let message = format!(
            "the parent image {} {is} {title}, which pcluster {pcluster} does not support",
            self.name()
        );
        let cost = "The build fails on its instance: the first step there refuses the operating system.";
        let list = supported.into_iter().collect::<Vec<_>>().join(", ");
        let fix = format!("choose a parent image with one of these systems: {list}");
        let reference = "https://docs.aws.amazon.com/parallelcluster/latest/ug/operating-systems-v3.html";
        Some(self.describe("parent-os-unsupported", level, message, cost, fix, reference))
    }

    /// Reports the combinations of release and parent image that are known to fail.
    fn check_combinations(&self, system: Option<&System>) -> Vec<Finding> {
        let pcluster = self.build.pcluster;
        let is_certain = system.is_some_and(|system| system.is_certain) && !self.has_own_cookbook();
        let most = if is_certain { Level::Error } else { Level::Warning };
        let affected =
            self.build.combinations.iter().filter(|combination| self.is_meant(combination, system));
        let parent = format!(" (parent image {})", self.name());
        affected.map(|combination| combination.describe(pcluster, most, &parent, Kind::ParentImage)).collect()
    }

    fn is_meant(&self, combination: &Combination, system: Option<&System>) -> bool {
        let is_system =
            combination.os.is_empty() || system.is_some_and(|system| combination.os.contains(&system.name));
        let is_version = combination.os_version.as_ref().is_none_or(|versions| {
            let version = system.and_then(|system| system.version.as_deref());
            version.is_some_and(|version| contains(versions, version))
        });
        let architecture = self.image.architecture.as_deref();
        contains(&combination.pcluster, self.build.pcluster)
            && is_system
            && is_version
            && combination.architecture.is_none_or(|one| architecture == Some(one.name()))
            && (!combination.update_os_packages || self.updates_packages())
            && (!combination.lustre_client || self.installs_lustre())
    }

    fn installs_lustre(&self) -> bool {
        let attributes = self.parameter("CfnParamChefDnaJson").map(serde_json::from_str::<Value>);
        !attributes.is_some_and(|read| read.is_ok_and(|read| read["cluster"]["lustre"]["enabled"] == "no"))
    }

    fn updates_packages(&self) -> bool {
        self.parameter("CfnParamUpdateOsAndReboot") == Some("true")
    }

    fn has_own_cookbook(&self) -> bool {
        self.parameter("CfnParamChefCookbook").is_some_and(|cookbook| !cookbook.is_empty())
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.build.template["Parameters"][name]["Default"].as_str()
    }

    /// What messages call the image: its id, and its name if it has one.
    fn name(&self) -> String {
        let id = self.image.image_id.as_deref().unwrap_or("of unknown id");
        self.image.name.as_ref().map_or_else(|| id.to_owned(), |name| format!("{id} ({name})"))
    }

    fn describe(
        &self,
        id: &str,
        level: Level,
        message: String,
        cost: &str,
        fix: String,
        reference: &str,
    ) -> Finding {
        let ParentImage { image_id, name, owner_id, .. } = self.image;
        Finding {
            cost: Some(cost.into()),
            evidence: json!({"image": image_id, "name": name, "owner": owner_id}),
            fix: Some(Fix::by_hand(fix)),
            references: vec![reference.into()],
            fails_build: level == Level::Warning,
            ..Finding::new(id, level, Kind::ParentImage, message)
        }
    }
}

/// Whether the cookbook of the release `pcluster` accepts an image made by the release `other`. The cookbook
/// compares the complete text of both versions. But a pcluster with a local version (`3.9.3+ours`) may use
/// the cookbook of the release that it was built from.
fn is_same_release(pcluster: &str, other: &str) -> bool {
    let other = other.trim();
    pcluster == other || pcluster.split('+').next() == Some(other)
}

fn is_release(version: &str) -> bool {
    Version::from_str(version).is_ok_and(|version| version.release().len() == 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::advisories::combinations::built_in;
    use crate::rules::template::cloudformation::Yaml;
    use crate::rules::template::component::template_with;
    use crate::text::printable::name_of;
    use crate::text::yaml;

    /// A template whose component supports these systems.
    fn template(systems: &[&str]) -> Value {
        let cases = systems
            .iter()
            .map(|system| format!("        {system}*) echo '{system}' ;;"))
            .collect::<Vec<_>>()
            .join("\n");
        template_with(&format!(
            "phases:\n- name: build\n  steps:\n  - name: OperatingSystemName\n    inputs:\n      commands:\n      - |\n{cases}"
        ))
    }

    fn found(image: &Value, pcluster: &str, template: &Value) -> Vec<String> {
        let image: ParentImage = serde_json::from_value(image.clone()).unwrap();
        let combinations = built_in();
        let findings = check(&image, &Build { pcluster, template, combinations: &combinations });
        findings.iter().map(|finding| format!("{} {}", finding.id, name_of(finding.level))).collect()
    }

    #[test]
    fn each_answer_has_its_findings_in_five_releases() {
        let Yaml(table) = yaml::parse(include_str!("../../../tests/fixtures/parents.yaml")).unwrap();
        let images = table["images"].as_array().unwrap();
        assert!(images.len() >= 20 && table["systems"].as_object().unwrap().len() == 5);
        for row in images {
            for (release, systems) in table["systems"].as_object().unwrap() {
                let systems: Vec<&str> =
                    systems.as_array().unwrap().iter().filter_map(Value::as_str).collect();
                let found = found(&row["image"], release, &template(&systems));
                assert_eq!(json!(found), row["finds"][release], "{} on {release}", row["what"]);
            }
        }
    }

    const RHEL: &str = "RHEL-8.9.0_HVM-20240327-x86_64-4-Hourly2-GP3";

    #[test]
    fn an_update_counts_where_a_row_names_it() {
        let image = json!({"ImageId": "ami-1", "Name": RHEL, "OwnerId": "309956199498"});
        let mut template = template(&["rhel8"]);
        assert!(found(&image, "3.9.3", &template).is_empty());
        template["Parameters"]["CfnParamUpdateOsAndReboot"]["Default"] = json!("true");
        assert_eq!(found(&image, "3.9.3", &template), ["el-8-update WARNING"]);
        assert!(found(&image, "3.11.0", &template).is_empty());
    }

    #[test]
    fn a_cookbook_of_ones_own_makes_it_a_warning() {
        let name = "aws-parallelcluster-3.8.0-amzn2-hvm-x86_64-202406191234";
        let made = json!({"ImageId": "ami-1", "Name": name, "ImageOwnerAlias": "amazon"});
        let el = json!({"ImageId": "ami-1", "Name": RHEL.replace("8.9", "8.10"), "OwnerId": "309956199498"});
        let mut template = template(&["rhel8"]);
        assert_eq!(found(&made, "3.9.3", &template), ["parent-parallelcluster ERROR"]);
        template["Parameters"]["CfnParamChefCookbook"]["Default"] = json!("https://example.com/cookbook.tgz");
        assert_eq!(found(&made, "3.9.3", &template), ["parent-parallelcluster WARNING"]);
        assert_eq!(found(&el, "3.9.3", &template), ["el-8.10-version WARNING"]);
    }

    #[test]
    fn a_tag_or_a_copied_name_makes_it_a_warning() {
        let template = template(&["alinux2"]);
        let tagged = |version: &str| {
            let tags = json!([{"Key": VERSION_TAG, "Value": version}]);
            found(&json!({"ImageId": "ami-1", "Tags": tags}), "3.9.3", &template)
        };
        for version in ["3.8.0", "3.9.3+site"] {
            assert_eq!(tagged(version), ["parent-parallelcluster WARNING"], "{version}");
        }
        for version in ["3.9.3", "", "n/a", "3.9"] {
            assert!(tagged(version).is_empty(), "{version:?}");
        }
        let copied = json!({"Name": "aws-parallelcluster-3.8.0-amzn2-hvm-x86_64-202406191234"});
        assert_eq!(found(&copied, "3.9.3", &template), ["parent-parallelcluster WARNING"]);
        let own = json!({"Tags": [{"Key": VERSION_TAG, "Value": "3.9.3"}]});
        assert!(found(&own, "3.9.3+ours", &template).is_empty());
    }

    #[test]
    fn a_build_without_lustre_needs_no_lustre_client() {
        let rocky = json!({"Name": "Rocky-9-EC2-Base-9.7-20251123.2.x86_64", "OwnerId": "792107900819"});
        let mut template = template(&["rocky9"]);
        for (enabled, expected) in [("no", 0), ("yes", 1)] {
            let attributes = json!({"cluster": {"lustre": {"enabled": enabled}}}).to_string();
            template["Parameters"]["CfnParamChefDnaJson"]["Default"] = json!(attributes);
            assert_eq!(found(&rocky, "3.15.0", &template).len(), expected, "{enabled}");
        }
    }

    #[test]
    fn without_the_component_nothing_is_said() {
        let windows = json!({"ImageId": "ami-1", "Platform": "windows"});
        assert!(found(&windows, "3.9.3", &json!({"Resources": {}})).is_empty());
        // If a component has no list of systems that we can read, it counts as supporting all of them.
        assert!(found(&windows, "3.9.3", &template_with("phases: []")).is_empty());
    }

    #[test]
    fn arm64_counts_for_the_first_release() {
        let image = |architecture: &str| json!({"ImageId": "ami-1", "Architecture": architecture});
        assert_eq!(
            found(&image("arm64"), "3.0.0", &template(&["alinux2"])),
            ["arm-compiler-certificate WARNING"]
        );
        assert!(found(&image("x86_64"), "3.0.0", &template(&["alinux2"])).is_empty());
        assert!(found(&image("arm64"), "3.0.1", &template(&["alinux2"])).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_image_makes_it_panic(name in ".{0,40}", value in ".{0,10}") {
            let image = json!({"Name": name, "ImageOwnerAlias": "amazon", "Tags": [{"Key": VERSION_TAG, "Value": value}]});
            found(&image, "3.9.3", &template(&["alinux2"]));
        }
    }
}
