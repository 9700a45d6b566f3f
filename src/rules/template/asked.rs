//! Template × expectation → findings. Pure.
//!
//! `describe-image`, `list-images` and `delete-image` find an AMI by its `parallelcluster:` tags. The AMI
//! gets these tags from the template's `AmiDistributionConfiguration`. Property names are compared
//! case-sensitively, because `CloudFormation` ignores a property that is spelled `amiTags`.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::model::expectation::Expectation;
use crate::model::finding::{Finding, Fix};
use crate::rules::template::cloudformation::{BUILD_DATE, DISTRIBUTION, format_resource, select_resources};
use crate::rules::template::grouping::{Detail, Grouping, escape, format_step, quote};

/// The tags that aws-parallelcluster 3.0.0 to 3.16.1 gives to every image.
const TAGS: [&str; 7] = [
    "parallelcluster:build_config",
    "parallelcluster:build_log",
    "parallelcluster:image_id",
    "parallelcluster:image_name",
    "parallelcluster:s3_bucket",
    "parallelcluster:s3_image_dir",
    "parallelcluster:version",
];

const IMAGE: &str = "AWS::ImageBuilder::Image";

const COST: &str = "The build wastes an hour of EC2 on an AMI that describe-image, list-images and \
                    delete-image cannot find.";

/// Compares a template with what the real pcluster asks of it; findings with the same cause are merged.
pub fn check(template: &Value, expectation: &Expectation, fix: &Fix) -> Vec<Finding> {
    let mut checked = Checked { expectation, findings: Grouping::default() };
    checked.check_template(template);
    checked.findings.into_findings(COST, fix)
}

struct Checked<'a> {
    expectation: &'a Expectation,
    findings: Grouping<'a>,
}

/// One `AmiDistributionConfiguration`: the logical id of its resource, and its index in the
/// resource's `Distributions`.
#[derive(Clone, Copy)]
struct Place<'t> {
    resource: &'t str,
    index: usize,
}

impl Place<'_> {
    fn path(self, rest: &str) -> String {
        let distributions = format_distributions(self.resource);
        format!("{distributions}[{}].AmiDistributionConfiguration{rest}", self.index)
    }
}

fn format_distributions(resource: &str) -> String {
    format!("{}.Properties.Distributions", format_resource(resource))
}

impl<'a> Checked<'a> {
    /// Adds an occurrence of a fault that is not about a certain tag or region. All such occurrences with the
    /// same id become a single finding.
    fn add(&mut self, id: &'static str, message: &str, path: impl FnOnce() -> String, found: Option<&Value>) {
        self.findings.add(id, "", path, || Detail { message: message.into(), found, expected: None });
    }

    fn check_template(&mut self, template: &Value) {
        let configurations = select_resources(template, DISTRIBUTION);
        if configurations.is_empty() {
            let message = format!("has no resource of type {DISTRIBUTION}");
            self.add("template-no-distribution", &message, || "$.Resources".into(), None);
        }
        let mut regions = Vec::new();
        for (name, resource) in &configurations {
            self.check_distributions(&resource["Properties"]["Distributions"], name, &mut regions);
        }
        if let Some((first, _)) = configurations.first() {
            self.check_regions(first, &regions);
        }
        let names: HashSet<&str> = configurations.iter().map(|(name, _)| *name).collect();
        self.check_images(&select_resources(template, IMAGE), &names);
    }

    fn check_distributions<'t>(
        &mut self,
        distributions: &'t Value,
        resource: &str,
        regions: &mut Vec<&'t Value>,
    ) {
        let list = distributions.as_array().map(Vec::as_slice).unwrap_or_default();
        if list.is_empty() {
            let message = "does not distribute the AMI to any region";
            let path = || format_distributions(resource);
            self.add("template-no-distribution", message, path, Some(distributions));
        }
        for (index, distribution) in list.iter().enumerate() {
            let region = &distribution["Region"];
            if is_void(region) {
                let path = || format!("{}[{index}].Region", format_distributions(resource));
                self.add("template-region-missing", "does not name a region for the AMI", path, Some(region));
            }
            regions.push(region);
            self.check_distribution(distribution, Place { resource, index });
        }
    }

    fn check_distribution(&mut self, distribution: &Value, place: Place) {
        let configuration = distribution.get("AmiDistributionConfiguration");
        let path = || place.path("");
        match configuration.and_then(Value::as_object) {
            Some(map) if map.is_empty() => {
                let message = "has an empty AmiDistributionConfiguration: the AMI gets no name and no tags";
                self.add("template-ami-configuration-empty", message, path, configuration);
            }
            Some(_) => {}
            None => {
                let message =
                    "has no AmiDistributionConfiguration for a region: the AMI gets no name and no tags";
                self.add("template-ami-configuration-missing", message, path, configuration);
            }
        }
        // If the whole configuration is missing or empty, the name and each tag still get a finding of their
        // own, but the launch permission does not.
        let piece = |key| configuration.and_then(|map| map.get(key));
        self.check_name(piece("Name"), place);
        self.check_tags(piece("AmiTags"), place);
        if configuration.is_some_and(|map| !is_void(map)) {
            self.check_permission(piece("LaunchPermissionConfiguration"), place);
        }
    }

    fn check_name(&mut self, name: Option<&Value>, place: Place) {
        let expected = self.expectation.name.as_deref();
        let text = name.and_then(Value::as_str);
        let message = match (text, name) {
            (Some(text), _) if expected == Some(text) => return,
            (Some(text), _) if !text.ends_with(BUILD_DATE) => {
                let text = quote(text);
                format!("names the AMI {text}, without the build date that makes a name unique")
            }
            (Some(text), _) => match expected {
                Some(expected) => format!("names the AMI {}, not {}", quote(text), quote(expected)),
                None => return,
            },
            // An intrinsic cannot be compared, and is accepted if no name is expected.
            (None, Some(value)) if expected.is_none() && value.is_object() && !is_void(value) => return,
            (None, _) => "gives the AMI no Name".into(),
        };
        let detail = || Detail { message, found: name, expected: expected.map(str::to_owned) };
        self.findings.add("template-ami-name", "", || place.path(".Name"), detail);
    }

    fn check_tags(&mut self, tags: Option<&Value>, place: Place) {
        let asked = &self.expectation.tags;
        for key in TAGS {
            self.check_tag(key, asked.get(key).and_then(Value::as_str), tags, place);
        }
        for (key, value) in asked.iter().filter(|(key, _)| !TAGS.contains(&key.as_str())) {
            self.check_tag(key, value.as_str(), tags, place);
        }
    }

    fn check_tag(&mut self, key: &'a str, expected: Option<&str>, tags: Option<&Value>, place: Place) {
        let found = tags.and_then(|tags| tags.get(key));
        let id = match (found, expected) {
            (None, _) => "template-ami-tag-missing",
            (Some(value), Some(expected)) if value == expected => return,
            (Some(value), _) if is_void(value) => "template-ami-tag-empty",
            (Some(_), None) => return,
            (Some(_), Some(_)) => "template-ami-tag-differs",
        };
        let path = || place.path(&format!(".AmiTags[{}]", quote(key)));
        let detail = || {
            let key = escape(key);
            let message = match (found, expected) {
                (None, _) => format!("lacks the AMI tag {key}"),
                (Some(value), Some(expected)) if !is_void(value) => {
                    let value = escape(&value.to_string());
                    format!("gives the AMI tag {key} the value {value}, not {}", quote(expected))
                }
                (Some(_), _) => format!("leaves the AMI tag {key} empty"),
            };
            Detail { message, found, expected: expected.map(str::to_owned) }
        };
        self.findings.add(id, key, path, detail);
    }

    fn check_permission(&mut self, found: Option<&Value>, place: Place) {
        let asked = &self.expectation.launch_permission;
        if asked.is_null() || found.is_some_and(|found| is_same(found, asked)) {
            return;
        }
        let message = if found.is_none_or(is_void) {
            "lacks the launch permission that the configuration asks for"
        } else {
            "gives a launch permission other than the one that the configuration asks for"
        };
        let path = || place.path(".LaunchPermissionConfiguration");
        let detail = || Detail { message: message.into(), found, expected: Some(asked.to_string()) };
        self.findings.add("template-launch-permission", "", path, detail);
    }

    fn check_regions(&mut self, configuration: &str, present: &[&Value]) {
        let names: HashSet<&str> = present.iter().filter_map(|region| region.as_str()).collect();
        let found = Value::Array(present.iter().map(|value| (*value).clone()).collect());
        for region in self.expectation.regions.iter().filter(|region| !names.contains(region.as_str())) {
            let detail = || Detail {
                message: format!("does not distribute the AMI to {}", escape(region)),
                found: Some(&found),
                expected: Some(region.clone()),
            };
            let path = || format_distributions(configuration);
            self.findings.add("template-region-missing", region, path, detail);
        }
    }

    fn check_images(&mut self, images: &[(&str, &Value)], configurations: &HashSet<&str>) {
        if images.is_empty() {
            let message = format!("has no resource of type {IMAGE}");
            self.add("template-no-image", &message, || "$.Resources".into(), None);
        }
        for (name, image) in images {
            let arn = &image["Properties"]["DistributionConfigurationArn"];
            let reference =
                arn["Ref"].as_str().or_else(|| arn.pointer("/Fn::GetAtt/0").and_then(Value::as_str));
            if !reference.is_some_and(|reference| configurations.contains(reference)) {
                let message = "builds the image without its distribution configuration";
                let path =
                    || format!("$.Resources{}.Properties.DistributionConfigurationArn", format_step(name));
                self.add("template-image-unlinked", message, path, Some(arn));
            }
        }
    }
}

/// Whether CDK wrote what was asked for. CDK omits nulls, and formats numbers as JavaScript does.
fn is_same(found: &Value, asked: &Value) -> bool {
    match (found, asked) {
        (Value::Object(found), Value::Object(asked)) => {
            let count = |map: &Map<String, Value>| map.values().filter(|value| !value.is_null()).count();
            let mut entries = asked.iter().filter(|(_, value)| !value.is_null());
            count(found) == count(asked)
                && entries.all(|(key, value)| found.get(key).is_some_and(|found| is_same(found, value)))
        }
        (Value::Array(found), Value::Array(asked)) => {
            let present =
                |list: &'_ [Value]| list.iter().filter(|value| !value.is_null()).cloned().collect::<Vec<_>>();
            let (found, asked) = (present(found), present(asked));
            found.len() == asked.len() && found.iter().zip(&asked).all(|(found, asked)| is_same(found, asked))
        }
        (Value::Number(found), Value::Number(asked)) => found.as_f64() == asked.as_f64(),
        // pcluster reads CDK's template as YAML, in which a number such as 1e+22 is a string.
        (Value::String(found), Value::Number(asked)) => found.parse().ok() == asked.as_f64(),
        (found, asked) => found == asked,
    }
}

/// Whether a value is empty. `CloudFormation` treats such a value as absent, or as an empty text.
fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::template::cloudformation;
    use serde_json::json;

    fn template() -> Value {
        let mut tags = Map::from_iter(TAGS.map(|name| (name.to_owned(), json!("x"))));
        tags["parallelcluster:image_id"] = json!("my-image");
        tags["parallelcluster:image_name"] = json!("name");
        tags["parallelcluster:version"] = json!("3.1.3");
        tags["parallelcluster:build_log"] = json!({"Fn::Join": ["", []]});
        tags.insert("team".into(), json!("hpc"));
        tags.insert("blank".into(), json!(" "));
        tags.insert("empty".into(), json!(""));
        tags.insert("odd".into(), json!({"Ref": "AWS::Region"}));
        json!({"Resources": {
            "D": {"Type": DISTRIBUTION, "Properties": {"Distributions": [
                {"Region": "eu-west-1", "AmiDistributionConfiguration": {
                    "Name": format!("name {BUILD_DATE}"), "AmiTags": tags,
                    "LaunchPermissionConfiguration": {"UserIds": ["1", {}], "Rest": [], "n": 1},
                }},
            ]}},
            "I": {"Type": IMAGE, "Properties": {"DistributionConfigurationArn": {"Ref": "D"}}},
        }})
    }

    fn expectation() -> Expectation {
        serde_json::from_value(json!({
            "name": format!("name {BUILD_DATE}"),
            "tags": {
                "team": "hpc", "blank": " ", "empty": "", "odd": null,
                "parallelcluster:image_id": "my-image", "parallelcluster:image_name": "name",
                "parallelcluster:version": "3.1.3",
            },
            "regions": ["eu-west-1"],
            "launchPermission": {"UserIds": ["1", null, {}], "Rest": [], "x": null, "n": 1.0},
        }))
        .unwrap()
    }

    fn fix() -> Fix {
        Fix::by_hand("fix".into())
    }

    fn found(template: &Value) -> Vec<(String, String)> {
        let findings = check(template, &expectation(), &fix());
        findings
            .into_iter()
            .map(|finding| (finding.id, finding.evidence["path"].as_str().unwrap().to_owned()))
            .collect()
    }

    const AMI: &str = "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration";

    #[test]
    fn a_complete_template_has_no_findings() {
        assert_eq!(found(&template()), []);
    }

    #[test]
    fn everything_that_is_lost_is_found_with_its_path() {
        let ami = |rest: &str| format!("{AMI}{rest}");
        let changes: [(String, Value, &str); 20] = [
            ("/Resources/D/Type".into(), json!("AWS::Other"), "template-no-distribution"),
            ("/Resources/D/Properties/Distributions".into(), json!([]), "template-no-distribution"),
            (ami(""), json!({}), "template-ami-configuration-empty"),
            (ami(""), Value::Null, "template-ami-configuration-missing"),
            (ami("/Name"), json!("name"), "template-ami-name"),
            (ami("/Name"), json!({"Ref": "N"}), "template-ami-name"),
            (ami("/Name"), json!(format!("other {BUILD_DATE}")), "template-ami-name"),
            (ami("/AmiTags/parallelcluster:image_id"), json!("other"), "template-ami-tag-differs"),
            (ami("/AmiTags/parallelcluster:s3_bucket"), json!(""), "template-ami-tag-empty"),
            (ami("/AmiTags/parallelcluster:build_log"), json!({}), "template-ami-tag-empty"),
            (ami("/AmiTags/team"), json!("sales"), "template-ami-tag-differs"),
            (ami("/AmiTags/team"), json!(" "), "template-ami-tag-empty"),
            (ami("/AmiTags/blank"), json!(""), "template-ami-tag-empty"),
            (ami("/AmiTags/odd"), json!(""), "template-ami-tag-empty"),
            (ami("/LaunchPermissionConfiguration"), Value::Null, "template-launch-permission"),
            (ami("/LaunchPermissionConfiguration/UserIds"), json!(["1"]), "template-launch-permission"),
            ("/Resources/D/Properties/Distributions/0/Region".into(), json!("x"), "template-region-missing"),
            ("/Resources/D/Properties/Distributions/0/Region".into(), json!(""), "template-region-missing"),
            (
                "/Resources/I/Properties/DistributionConfigurationArn/Ref".into(),
                json!("Other"),
                "template-image-unlinked",
            ),
            ("/Resources/I/Type".into(), json!("AWS::Other"), "template-no-image"),
        ];
        for (pointer, value, id) in changes {
            let mut template = template();
            *template.pointer_mut(&pointer).unwrap() = value;
            assert!(
                found(&template).iter().any(|(found, _)| found == id),
                "{pointer}: {:?}",
                found(&template)
            );
        }
    }

    /// A tag that was asked for must be there, even if the value that was asked for is empty, blank or
    /// unknown (null).
    #[test]
    fn only_what_was_asked_for_can_be_lost() {
        for key in ["team", "blank", "empty", "odd"] {
            let mut template = template();
            template.pointer_mut(&format!("{AMI}/AmiTags")).unwrap().as_object_mut().unwrap().remove(key);
            let path = format!(
                "$.Resources.D.Properties.Distributions[0].AmiDistributionConfiguration.AmiTags[{key:?}]"
            );
            assert_eq!(found(&template), [("template-ami-tag-missing".to_owned(), path)]);
        }
    }

    #[test]
    fn a_launch_permission_is_as_cdk_writes_it() {
        for (written, asked, same) in [
            (json!({}), json!({}), true),
            (json!([1, [], {}]), json!([1, null, [], {}]), true),
            (
                json!({"a": 12_345_678_901_234_567_000_u64}),
                json!({"a": 12_345_678_901_234_567_890_u64}),
                true,
            ),
            (json!({"a": []}), json!({"a": [], "b": null}), true),
            (json!(["1e+22"]), json!([1e22]), true),
            (json!(["1e+22"]), json!([1e21]), false),
            (json!(["x"]), json!([1]), false),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"A": 1}), json!({"a": 1}), false),
            (json!({"a": 1, "b": 1}), json!({"a": 1}), false),
            (json!({"a": 1}), json!({"a": 1, "b": 1}), false),
            (json!([1, 2]), json!([1]), false),
            (json!([1]), json!([1, 2]), false),
            (json!(""), json!(false), false),
        ] {
            assert_eq!(is_same(&written, &asked), same, "{written} {asked}");
        }
    }

    #[test]
    fn the_case_of_a_property_name_is_compared() {
        let mut template = template();
        let ami = template.pointer_mut(AMI).unwrap();
        *ami = json!({"name": ami["Name"].clone(), "amiTags": ami["AmiTags"].clone()});
        let ids: Vec<String> = found(&template).into_iter().map(|(id, _)| id).collect();
        assert!(ids.contains(&"template-ami-name".to_owned()));
        assert_eq!(ids.iter().filter(|id| *id == "template-ami-tag-missing").count(), 11);
    }

    #[test]
    fn a_missing_tag_has_its_path() {
        let mut template = template();
        template.pointer_mut(AMI).unwrap()["AmiTags"]
            .as_object_mut()
            .unwrap()
            .remove("parallelcluster:version");
        let path = "$.Resources.D.Properties.Distributions[0].AmiDistributionConfiguration.AmiTags[\"parallelcluster:version\"]";
        assert_eq!(found(&template), [("template-ami-tag-missing".to_owned(), path.to_owned())]);
    }

    proptest::proptest! {
        #[test]
        fn no_shape_makes_it_panic(key in "[A-Za-z:]{0,8}", value in "[\\[\\]{}a-z:!, \"\n-]{0,80}") {
            let text = format!("Resources:\n  D:\n    Type: {DISTRIBUTION}\n    {key}x: {value}\n");
            if let Ok(template) = cloudformation::parse(text.as_bytes()) {
                let _ = check(&template, &expectation(), &fix());
                let _ = check(&template, &Expectation::default(), &fix());
            }
        }
    }
}
