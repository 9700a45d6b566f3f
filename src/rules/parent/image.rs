//! The parent image × release → findings. Pure.
//!
//! pcluster 3 does not look at the parent. What the component on the instance refuses for sure is an ERROR if the image
//! is certain to be what it seems; everything else is a WARNING.

use std::str::FromStr as _;

use pep440_rs::Version;
use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::advisories::combinations::Combination;
use crate::rules::advisories::contains;
use crate::rules::parent::facts::ParentImage;
use crate::rules::parent::system::System;
use crate::rules::template::component::Component;

/// The names of official `ParallelCluster` AMIs: `aws-parallelcluster-3.9.3-amzn2-hvm-x86_64-202406191234`.
const OFFICIAL: &str = "aws-parallelcluster-";
const VERSION_TAG: &str = "parallelcluster:version";

/// The build for which an image is the parent.
#[derive(Debug)]
pub struct Build<'a> {
    pub pcluster: &'a str,
    pub template: &'a Value,
    pub combinations: &'a [Combination],
}

/// Checks a parent image.
pub fn check(image: &ParentImage, build: &Build) -> Vec<Finding> {
    // Without pcluster's component, nothing of pcluster runs on the instance.
    let Some(component) = Component::read(build.template) else { return Vec::new() };
    let checked = Checked { image, build, component };
    let system = System::of(image);
    let mut findings = Vec::from_iter(checked.check_origin());
    if let Some(system) = &system {
        findings.extend(checked.check_system(system));
    }
    findings.extend(checked.check_combinations(system.as_ref()));
    findings
}

struct Checked<'a> {
    image: &'a ParentImage,
    build: &'a Build<'a>,
    component: Component,
}

impl Checked<'_> {
    /// An image that another release of pcluster has made.
    fn check_origin(&self) -> Option<Finding> {
        let made_by = self.official_version().or_else(|| self.image.tag(VERSION_TAG))?;
        let pcluster = self.build.pcluster;
        let is_own = is_same_release(pcluster, made_by);
        let message =
            format!("the parent image {} was made by ParallelCluster {made_by}, not {pcluster}", self.name());
        let cost = "The build fails on its instance: the cookbook refuses images of another version.";
        let fix = format!(
            "choose a parent image made by ParallelCluster {pcluster}, or one not made by ParallelCluster"
        );
        let level = if self.has_own_cookbook() { Level::Warning } else { Level::Error };
        let reference = "https://docs.aws.amazon.com/parallelcluster/latest/ug/building-custom-ami-v3.html";
        (!is_own).then(|| self.describe("parent-parallelcluster", level, message, cost, fix, reference))
    }

    /// The version of an official `ParallelCluster` AMI. Others can give such a name too, so the owner counts.
    fn official_version(&self) -> Option<&str> {
        let is_amazons = self.image.owner_alias.as_deref() == Some("amazon");
        let rest = self.image.name.as_deref()?.strip_prefix(OFFICIAL).filter(|_| is_amazons)?;
        rest.split('-').next().filter(|version| version.split('.').count() == 3)
    }

    /// An operating system that the component does not list.
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
        let cost = "The build fails on its instance: its first step refuses the operating system.";
        let list = supported.into_iter().collect::<Vec<_>>().join(", ");
        let fix = format!("choose a parent image of one of: {list}");
        let reference = "https://docs.aws.amazon.com/parallelcluster/latest/ug/operating-systems-v3.html";
        Some(self.describe("parent-os-unsupported", level, message, cost, fix, reference))
    }

    /// What is known to fail with this release.
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

    /// The image for messages.
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
            id: id.into(),
            level,
            kind: Kind::ParentImage,
            message,
            cost: Some(cost.into()),
            evidence: json!({"image": image_id, "name": name, "owner": owner_id}),
            fix: Some(Fix::by_hand(fix)),
            references: vec![reference.into()],
            fails_build: level == Level::Warning,
            is_ignored: false,
            shows: None,
        }
    }
}

/// Whether both are one release; a local version is the release that it was made of.
fn is_same_release(pcluster: &str, other: &str) -> bool {
    let parse = |version: &str| Version::from_str(version).ok().map(Version::without_local);
    parse(pcluster).is_some_and(|pcluster| parse(other) == Some(pcluster))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::advisories::combinations::built_in;
    use crate::rules::template::cloudformation::Yaml;
    use crate::rules::template::component::template_with;
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
        findings.iter().map(|finding| format!("{} {}", finding.id, finding.level.name())).collect()
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
        let made = json!({"ImageId": "ami-1", "Tags": [{"Key": VERSION_TAG, "Value": "3.8.0"}]});
        let el = json!({"ImageId": "ami-1", "Name": RHEL.replace("8.9", "8.10"), "OwnerId": "309956199498"});
        let mut template = template(&["rhel8"]);
        assert_eq!(found(&made, "3.9.3", &template), ["parent-parallelcluster ERROR"]);
        template["Parameters"]["CfnParamChefCookbook"]["Default"] = json!("https://example.com/cookbook.tgz");
        assert_eq!(found(&made, "3.9.3", &template), ["parent-parallelcluster WARNING"]);
        assert_eq!(found(&el, "3.9.3", &template), ["el-8.10-version WARNING"]);
    }

    #[test]
    fn without_the_component_nothing_is_said() {
        let windows = json!({"ImageId": "ami-1", "Platform": "windows"});
        assert!(found(&windows, "3.9.3", &json!({"Resources": {}})).is_empty());
        // A component that lists the systems in another way supports anything.
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
