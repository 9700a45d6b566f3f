//! Template × expectation → findings. Pure.
//!
//! The rule is what the built AMI must carry to be found again: `describe-image`, `list-images` and
//! `delete-image` look AMIs up by their `parallelcluster:` tags, which the template's
//! `AmiDistributionConfiguration` gives them. Casing counts: `CloudFormation` ignores `amiTags`.

use serde_json::{Value, json};

use crate::report::{Finding, Fix, Kind, Level};
use crate::yaml;

/// The tags that aws-parallelcluster gives to every image, 3.0.0 to 3.16.1.
const TAGS: [&str; 7] =
    ["build_config", "build_log", "image_id", "image_name", "s3_bucket", "s3_image_dir", "version"];

/// EC2 Image Builder replaces it; an AMI's name has to be new in every build.
const BUILD_DATE: &str = "{{ imagebuilder:buildDate }}";

const DISTRIBUTION: &str = "AWS::ImageBuilder::DistributionConfiguration";
const IMAGE: &str = "AWS::ImageBuilder::Image";

const COST: &str = "It would cost an hour of EC2 and an AMI that describe-image, list-images and \
                    delete-image cannot find.";

/// What was asked for; what is not known is not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expectation {
    pub image_id: Option<String>,
    pub image_name: Option<String>,
    /// The installed aws-parallelcluster.
    pub version: Option<String>,
    /// The configuration's `Image.Tags`.
    pub tags: Vec<(String, String)>,
    /// The configuration's regions to distribute to.
    pub regions: Vec<String>,
    /// The configuration asks for launch permissions.
    pub launch_permission: bool,
}

impl Expectation {
    /// From an image configuration that the real schema has accepted.
    #[must_use]
    pub fn of(image_id: &str, version: Option<&str>, configuration: &Value) -> Self {
        let name = configuration.pointer("/Image/Name").and_then(Value::as_str);
        let distribution = &configuration["DevSettings"]["DistributionConfiguration"];
        let listed = distribution["Regions"].as_str().unwrap_or_default();
        let tags = configuration.pointer("/Image/Tags").and_then(Value::as_array);
        let tag = |tag: &Value| Some((tag["Key"].as_str()?.to_owned(), tag["Value"].as_str()?.to_owned()));
        Self {
            image_id: Some(image_id.to_owned()),
            image_name: Some(name.unwrap_or(image_id).to_owned()),
            version: version.map(str::to_owned),
            tags: tags.into_iter().flatten().filter_map(tag).collect(),
            regions: listed
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            launch_permission: distribution["LaunchPermission"].as_str().is_some_and(|text| !text.is_empty()),
        }
    }
}

/// Every way in which the template falls short, each as its own finding.
#[must_use]
pub fn check(template: &Value, expectation: &Expectation, fix: &Fix) -> Vec<Finding> {
    let mut checked = Checked { expectation, fix, findings: Vec::new() };
    checked.template(template);
    checked.findings
}

struct Checked<'a> {
    expectation: &'a Expectation,
    fix: &'a Fix,
    findings: Vec<Finding>,
}

impl Checked<'_> {
    /// `expected` is left out where the path says it all.
    fn found(&mut self, id: &str, message: &str, path: &str, value: Option<&Value>, expected: Option<&str>) {
        let mut evidence = json!({"path": path, "found": value.cloned().unwrap_or(Value::Null)});
        if let Some(expected) = expected {
            evidence["expected"] = json!(expected);
        }
        self.findings.push(Finding {
            id: id.to_owned(),
            level: Level::Error,
            kind: Kind::ImageBuilderTemplate,
            message: format!("the template {message}"),
            cost: Some(COST.to_owned()),
            evidence,
            fix: Some(self.fix.clone()),
            references: Vec::new(),
        });
    }

    fn template(&mut self, template: &Value) {
        let of_type = |wanted: &str| -> Vec<(String, &Value)> {
            let resources = template["Resources"].as_object().into_iter().flatten();
            let wanted = resources.filter(|(_, resource)| resource["Type"] == wanted);
            wanted.map(|(name, resource)| (name.clone(), resource)).collect()
        };
        let configurations = of_type(DISTRIBUTION);
        if configurations.is_empty() {
            let message = format!("has no resource of type {DISTRIBUTION}");
            self.found("template-no-distribution", &message, "$.Resources", None, None);
        }
        let mut regions = Vec::new();
        for (name, resource) in &configurations {
            let path = format!("$.Resources.{name}.Properties.Distributions");
            self.distributions(&resource["Properties"]["Distributions"], &path, &mut regions);
        }
        if !configurations.is_empty() {
            self.regions(&configurations[0].0, &regions);
        }
        let names: Vec<&str> = configurations.iter().map(|(name, _)| name.as_str()).collect();
        self.images(&of_type(IMAGE), &names);
    }

    fn distributions<'t>(&mut self, distributions: &'t Value, path: &str, regions: &mut Vec<&'t Value>) {
        match distributions.as_array() {
            Some(list) if !list.is_empty() => {
                for (index, distribution) in list.iter().enumerate() {
                    regions.push(&distribution["Region"]);
                    self.distribution(distribution, &format!("{path}[{index}].AmiDistributionConfiguration"));
                }
            }
            _ => {
                let message = "distributes the AMI to no region";
                self.found("template-no-distribution", message, path, Some(distributions), None);
            }
        }
    }

    fn distribution(&mut self, distribution: &Value, path: &str) {
        let configuration = distribution.get("AmiDistributionConfiguration");
        match configuration.and_then(Value::as_object) {
            Some(map) if map.is_empty() => {
                let message = "has an empty AmiDistributionConfiguration: the AMI gets no name and no tags";
                self.found("template-ami-configuration-empty", message, path, configuration, None);
            }
            Some(map) => {
                self.name(map.get("Name"), path);
                self.tags(map.get("AmiTags"), path);
                let permission = map.get("LaunchPermissionConfiguration");
                if self.expectation.launch_permission && permission.is_none_or(is_void) {
                    let path = format!("{path}.LaunchPermissionConfiguration");
                    let message = "lacks the launch permission that the configuration asks for";
                    self.found("template-launch-permission", message, &path, permission, None);
                }
            }
            None => {
                let message =
                    "has no AmiDistributionConfiguration for a region: the AMI gets no name and no tags";
                self.found("template-ami-configuration-missing", message, path, configuration, None);
            }
        }
        // What was asked for is named piece by piece, so that nobody has to guess what is lost.
        if configuration.is_none_or(is_void) {
            self.name(None, path);
            self.tags(None, path);
        }
    }

    fn name(&mut self, name: Option<&Value>, path: &str) {
        let path = format!("{path}.Name");
        let expected = self.expectation.image_name.as_ref().map(|name| format!("{name} {BUILD_DATE}"));
        let Some(text) = name.and_then(Value::as_str) else {
            let message = "gives the AMI no Name";
            return self.found("template-ami-name", message, &path, name, expected.as_deref());
        };
        if !text.ends_with(BUILD_DATE) {
            let message = format!("names the AMI {text:?}, without the build date that makes a name unique");
            self.found("template-ami-name", &message, &path, name, expected.as_deref());
        } else if expected.as_ref().is_some_and(|expected| expected != text) {
            let message = format!("names the AMI {text:?}");
            self.found("template-ami-name", &message, &path, name, expected.as_deref());
        }
    }

    fn tags(&mut self, tags: Option<&Value>, path: &str) {
        let path = format!("{path}.AmiTags");
        let expectation = self.expectation;
        for name in TAGS {
            let expected = match name {
                "image_id" => expectation.image_id.as_deref(),
                "image_name" => expectation.image_name.as_deref(),
                "version" => expectation.version.as_deref(),
                _ => None,
            };
            self.tag(&format!("parallelcluster:{name}"), expected, tags, &path);
        }
        for (key, value) in &expectation.tags {
            self.tag(key, Some(value), tags, &path);
        }
    }

    fn tag(&mut self, key: &str, expected: Option<&str>, tags: Option<&Value>, path: &str) {
        let found = tags.and_then(|tags| tags.get(key));
        let path = format!("{path}[{key:?}]");
        match found {
            None => {
                let message = format!("lacks the AMI tag {key}");
                self.found("template-ami-tag-missing", &message, &path, None, expected);
            }
            Some(value) if is_void(value) => {
                let message = format!("leaves the AMI tag {key} empty");
                self.found("template-ami-tag-empty", &message, &path, Some(value), expected);
            }
            Some(value) if expected.is_some_and(|expected| value != expected) => {
                let expected_text = expected.unwrap_or_default();
                let message = format!("gives the AMI tag {key} the value {value}, not {expected_text:?}");
                self.found("template-ami-tag-differs", &message, &path, Some(value), expected);
            }
            Some(_) => {}
        }
    }

    fn regions(&mut self, configuration: &str, present: &[&Value]) {
        let path = format!("$.Resources.{configuration}.Properties.Distributions");
        for region in &self.expectation.regions {
            if !present.iter().any(|value| *value == region) {
                let message = format!("does not distribute the AMI to {region}");
                let found = Value::Array(present.iter().map(|value| (*value).clone()).collect());
                self.found("template-region-missing", &message, &path, Some(&found), Some(region));
            }
        }
    }

    fn images(&mut self, images: &[(String, &Value)], configurations: &[&str]) {
        if images.is_empty() {
            let message = format!("has no resource of type {IMAGE}");
            self.found("template-no-image", &message, "$.Resources", None, None);
        }
        for (name, image) in images {
            let arn = &image["Properties"]["DistributionConfigurationArn"];
            let reference =
                arn["Ref"].as_str().or_else(|| arn.pointer("/Fn::GetAtt/0").and_then(Value::as_str));
            if !reference.is_some_and(|reference| configurations.contains(&reference)) {
                let message = "builds the image without its distribution configuration";
                let path = format!("$.Resources.{name}.Properties.DistributionConfigurationArn");
                self.found("template-image-unlinked", message, &path, Some(arn), None);
            }
        }
    }
}

/// Nothing in it: `CloudFormation` would take it for absent or write an empty text.
fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A template in any form in which one is met: JSON, YAML with long or short intrinsics, and what
/// `GetTemplate` answers, where it is the `TemplateBody`, parsed or as text.
///
/// # Errors
/// What the input is instead.
pub fn parse(input: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(input).map_err(|_| "not a template: it is not UTF-8 text".to_owned())?;
    if text.trim().is_empty() {
        return Err("not a template: it is empty".into());
    }
    let mut template = parse_text(without_stages(text))?;
    if let Value::String(text) = &template {
        // `--query TemplateBody` prints the text as a JSON string.
        template = parse_text(text)?;
    }
    if let Some(body) = template.get_mut("TemplateBody") {
        template = match body.take() {
            Value::String(text) => parse_text(&text)?,
            other => other,
        };
    }
    if !template["Resources"].is_object() {
        return Err("not a CloudFormation template: it has no Resources".into());
    }
    let resources = template["Resources"].as_object().into_iter().flatten();
    let has_image_builder = resources.into_iter().any(|(_, resource)| {
        resource["Type"].as_str().is_some_and(|kind| kind.starts_with("AWS::ImageBuilder::"))
    });
    if has_image_builder {
        Ok(template)
    } else {
        Err("not a template of build-image: it has no resource of EC2 Image Builder".into())
    }
}

/// `aws cloudformation get-template --output text` ends in a line for each stage that there is.
fn without_stages(text: &str) -> &str {
    text.find("\nSTAGESAVAILABLE\t").map_or(text, |end| &text[..=end])
}

fn parse_text(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let yaml: serde_yaml::Value =
        yaml::parse(text).map_err(|message| format!("neither JSON nor YAML: {message}"))?;
    long_form(yaml, DEEPEST).ok_or_else(|| "not a template: it is nested too deeply".to_owned())
}

/// Far more than `CloudFormation`'s own limits let a template nest.
const DEEPEST: usize = 200;

/// YAML as JSON, `!Ref x` as `{"Ref": "x"}`, `!Sub x` as `{"Fn::Sub": "x"}`.
fn long_form(yaml: serde_yaml::Value, depth: usize) -> Option<Value> {
    use serde_yaml::Value as Yaml;
    let depth = depth.checked_sub(1)?;
    Some(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => Value::Bool(flag),
        Yaml::Number(number) => serde_json::to_value(number).unwrap_or_default(),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(list) => {
            Value::Array(list.into_iter().map(|item| long_form(item, depth)).collect::<Option<_>>()?)
        }
        Yaml::Mapping(map) => {
            let entry = |(key, value)| Some((key_text(key), long_form(value, depth)?));
            Value::Object(map.into_iter().map(entry).collect::<Option<_>>()?)
        }
        Yaml::Tagged(tagged) => intrinsic(&tagged.tag.to_string(), long_form(tagged.value, depth)?),
    })
}

fn key_text(key: serde_yaml::Value) -> String {
    match key {
        serde_yaml::Value::String(text) => text,
        other => serde_yaml::to_string(&other).unwrap_or_default().trim().to_owned(),
    }
}

fn intrinsic(tag: &str, value: Value) -> Value {
    let name = tag.trim_start_matches('!');
    let value = match (name, &value) {
        ("GetAtt", Value::String(path)) => match path.split_once('.') {
            Some((resource, attribute)) => json!([resource, attribute]),
            None => value,
        },
        _ => value,
    };
    match name {
        "Ref" | "Condition" => json!({name: value}),
        _ => json!({format!("Fn::{name}"): value}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        let tags = TAGS.map(|name| (format!("parallelcluster:{name}"), json!("x")));
        let mut tags = serde_json::Map::from_iter(tags);
        tags["parallelcluster:image_id"] = json!("my-image");
        tags["parallelcluster:image_name"] = json!("name");
        tags["parallelcluster:version"] = json!("3.1.3");
        tags["parallelcluster:build_log"] = json!({"Fn::Join": ["", []]});
        tags.insert("team".into(), json!("hpc"));
        json!({"Resources": {
            "D": {"Type": DISTRIBUTION, "Properties": {"Distributions": [
                {"Region": "eu-west-1", "AmiDistributionConfiguration": {"Name": format!("name {BUILD_DATE}"), "AmiTags": tags}},
            ]}},
            "I": {"Type": IMAGE, "Properties": {"DistributionConfigurationArn": {"Ref": "D"}}},
        }})
    }

    fn expectation() -> Expectation {
        let configuration = json!({
            "Image": {"Name": "name", "Tags": [{"Key": "team", "Value": "hpc"}]},
            "DevSettings": {"DistributionConfiguration": {"Regions": " eu-west-1 ,"}},
        });
        Expectation::of("my-image", Some("3.1.3"), &configuration)
    }

    fn mend() -> Fix {
        Fix { command: "mend".into(), advised: None }
    }

    fn found(template: &Value) -> Vec<(String, String)> {
        let findings = check(template, &expectation(), &mend());
        findings
            .into_iter()
            .map(|finding| (finding.id, finding.evidence["path"].as_str().unwrap().to_owned()))
            .collect()
    }

    const AMI: &str = "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration";

    #[test]
    fn a_good_template_has_no_findings() {
        assert_eq!(found(&good()), []);
    }

    #[test]
    fn every_fault_is_found_where_it_is() {
        let faults: [(&str, Value, &str); 13] = [
            ("/Resources/D/Type", json!("AWS::Other"), "template-no-distribution"),
            ("/Resources/D/Properties/Distributions", json!([]), "template-no-distribution"),
            (
                "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration",
                json!({}),
                "template-ami-configuration-empty",
            ),
            (
                "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration",
                Value::Null,
                "template-ami-configuration-missing",
            ),
            (
                "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration/Name",
                json!("name"),
                "template-ami-name",
            ),
            (
                "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration/Name",
                json!(format!("other {BUILD_DATE}")),
                "template-ami-name",
            ),
            (
                "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration/AmiTags/parallelcluster:image_id",
                json!("other"),
                "template-ami-tag-differs",
            ),
            (
                "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration/AmiTags/parallelcluster:s3_bucket",
                json!(""),
                "template-ami-tag-empty",
            ),
            (
                "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration/AmiTags/parallelcluster:build_log",
                json!({}),
                "template-ami-tag-empty",
            ),
            (
                "/Resources/D/Properties/Distributions/0/AmiDistributionConfiguration/AmiTags/team",
                json!("sales"),
                "template-ami-tag-differs",
            ),
            ("/Resources/D/Properties/Distributions/0/Region", json!("us-east-1"), "template-region-missing"),
            (
                "/Resources/I/Properties/DistributionConfigurationArn/Ref",
                json!("Other"),
                "template-image-unlinked",
            ),
            ("/Resources/I/Type", json!("AWS::Other"), "template-no-image"),
        ];
        for (pointer, value, id) in faults {
            let mut template = good();
            *template.pointer_mut(pointer).unwrap() = value;
            assert!(
                found(&template).iter().any(|(found, _)| found == id),
                "{pointer}: {:?}",
                found(&template)
            );
        }
    }

    #[test]
    fn the_casing_of_cloudformation_counts() {
        let mut template = good();
        let ami = template.pointer_mut(AMI).unwrap();
        *ami = json!({"name": ami["Name"].clone(), "amiTags": ami["AmiTags"].clone()});
        let ids: Vec<String> = found(&template).into_iter().map(|(id, _)| id).collect();
        assert!(ids.contains(&"template-ami-name".to_owned()));
        assert_eq!(ids.iter().filter(|id| *id == "template-ami-tag-missing").count(), 8);
    }

    #[test]
    fn the_path_of_a_missing_tag_is_told() {
        let mut template = good();
        template.pointer_mut(AMI).unwrap()["AmiTags"]
            .as_object_mut()
            .unwrap()
            .remove("parallelcluster:version");
        let path = "$.Resources.D.Properties.Distributions[0].AmiDistributionConfiguration.AmiTags[\"parallelcluster:version\"]";
        assert_eq!(found(&template), [("template-ami-tag-missing".to_owned(), path.to_owned())]);
    }

    #[test]
    fn every_form_of_a_template_is_the_same_template() {
        let json = good().to_string();
        let yaml = serde_yaml::to_string(&good()).unwrap();
        let short = yaml
            .replace("DistributionConfigurationArn:\n        Ref: D", "DistributionConfigurationArn: !Ref D");
        assert_ne!(short, yaml);
        let body_text = json!({"TemplateBody": yaml, "StagesAvailable": ["Original"]}).to_string();
        let body_value = json!({"TemplateBody": good()}).to_string();
        let body_yaml = serde_yaml::to_string(&json!({"TemplateBody": json})).unwrap();
        let cli_text = format!("{yaml}\nSTAGESAVAILABLE\tOriginal\nSTAGESAVAILABLE\tProcessed\n");
        for form in [json, yaml, short, body_text, body_value, body_yaml, cli_text] {
            assert_eq!(parse(form.as_bytes()), Ok(good()), "{form}");
        }
        let get_att = parse(b"Resources:\n  I:\n    Type: AWS::ImageBuilder::Image\n    A: !GetAtt D.Arn\n    B: !Sub '${X}'\n").unwrap();
        assert_eq!(get_att["Resources"]["I"]["A"], json!({"Fn::GetAtt": ["D", "Arn"]}));
        assert_eq!(get_att["Resources"]["I"]["B"], json!({"Fn::Sub": "${X}"}));
    }

    #[test]
    fn what_is_no_template_is_said() {
        for (input, why) in [
            (&b""[..], "empty"),
            (b" \n", "empty"),
            (b"\xff\xfe\x00", "UTF-8"),
            (b"just words", "no Resources"),
            (b"a: [", "neither"),
            (b"{\"Resources\": []}", "no Resources"),
            (b"Resources: {B: {Type: 'AWS::S3::Bucket'}}", "EC2 Image Builder"),
            (b"{\"TemplateBody\": 3}", "no Resources"),
        ] {
            let error = parse(input).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic(input in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = parse(&input).map(|template| check(&template, &expectation(), &mend()));
        }

        #[test]
        fn no_shape_makes_it_panic(key in "[A-Za-z:]{0,8}", value in "[\\[\\]{}a-z:!, \"\n-]{0,80}") {
            let text = format!("Resources:\n  D:\n    Type: {DISTRIBUTION}\n    {key}x: {value}\n");
            let _ = parse(text.as_bytes()).map(|template| check(&template, &Expectation::default(), &mend()));
        }
    }
}
