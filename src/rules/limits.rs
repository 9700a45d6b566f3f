//! Limits of EC2 and Image Builder that a build meets only at its end: the AMI's name and tags. Pure.
//!
//! What EC2's reference refuses without a doubt is an ERROR; what only Image Builder's model or an
//! estimate of what AWS adds refuses is a WARNING.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::rules::template::{BUILD_DATE, DISTRIBUTION, select_resources};
use crate::rules::{Finding, Fix, Kind, Level};

const CREATE_IMAGE: &str = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html";
const AMI_DISTRIBUTION: &str =
    "https://docs.aws.amazon.com/imagebuilder/latest/APIReference/API_AmiDistributionConfiguration.html";
const TAGS: &str = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html";

/// Characters of an AMI's name.
const MAX_NAME: usize = 128;
/// The build date that Image Builder puts into a name, at its shortest: `2026-11-26T09-29-08Z`.
const MIN_BUILD_DATE: usize = 20;
/// Characters of the name in a distribution, with the placeholder of the build date.
const MAX_DISTRIBUTION_NAME: usize = 127;
const MAX_TAGS: usize = 50;
/// `CreatedBy`, `Ec2ImageBuilderArn`, and the stack's function: `build_status`, `parent_image`.
const ADDED_TAGS: usize = 4;
/// Characters.
const MAX_TAG_KEY: usize = 128;
/// Characters.
const MAX_TAG_VALUE: usize = 256;

/// Finds the limits that the AMI of this template would exceed, each once for all regions.
#[must_use]
pub fn check(template: &Value) -> Vec<Finding> {
    let mut limits = Limits::default();
    for (resource, configuration) in select_resources(template, DISTRIBUTION) {
        let list = configuration["Properties"]["Distributions"].as_array();
        for (index, distribution) in list.into_iter().flatten().enumerate() {
            limits.place = format!(
                "$.Resources.{resource}.Properties.Distributions[{index}].AmiDistributionConfiguration"
            );
            let ami = &distribution["AmiDistributionConfiguration"];
            if let Some(name) = ami["Name"].as_str() {
                limits.check_name(name);
            }
            if let Some(tags) = ami["AmiTags"].as_object() {
                limits.check_tags(tags);
            }
        }
    }
    limits.findings
}

#[derive(Default)]
struct Limits {
    findings: Vec<Finding>,
    seen: BTreeSet<String>,
    /// The path of the configuration that is checked.
    place: String,
}

impl Limits {
    fn add(&mut self, id: &str, level: Level, at: &str, message: String, key: &str, reference: &str) {
        if !self.seen.insert(format!("{id} {message}")) {
            return;
        }
        let cost = match level {
            Level::Error => "EC2 refuses the image at the end of the build, when the hour is spent.",
            Level::Warning | Level::Info => "The build may fail at its end, when the hour is spent.",
        };
        self.findings.push(Finding {
            id: id.into(),
            level,
            kind: Kind::ImageLimit,
            message,
            cost: Some(cost.into()),
            evidence: json!({"path": format!("{}{at}", self.place), "key": key}),
            fix: Some(Fix::by_hand(format!("change {key} in the configuration"))),
            references: vec![reference.into()],
            is_told_by_guard: level == Level::Warning && id.starts_with("ami-name"),
        });
    }

    /// The name is that of `Image.Name`, or the image id, which the real parser restricts to letters,
    /// digits and dashes.
    fn check_name(&mut self, name: &str) {
        let (key, at) = ("Image.Name", ".Name");
        let own = name.replace(BUILD_DATE, "");
        // What other placeholders become is not known.
        let is_known = !own.contains("{{");
        let refused: BTreeSet<char> = own.chars().filter(|letter| !is_of_ami_name(*letter)).collect();
        let length = own.chars().count() + if own.len() < name.len() { MIN_BUILD_DATE } else { 0 };
        if is_known && !refused.is_empty() {
            let refused = quote_all(&refused);
            let message = format!("EC2 allows no {refused} in the name of an AMI");
            self.add("ami-name-characters", Level::Error, at, message, key, CREATE_IMAGE);
        } else if is_known && length > MAX_NAME {
            let message =
                format!("the AMI's name has {length} characters or more, and EC2 allows {MAX_NAME}");
            self.add("ami-name-length", Level::Error, at, message, key, CREATE_IMAGE);
        } else if is_known && !is_of_distribution(&own) {
            let message = "Image Builder's model allows only letters, digits, spaces and - _ : . in a name";
            self.add("ami-name-image-builder", Level::Warning, at, message.into(), key, AMI_DISTRIBUTION);
        } else if name.chars().count() > MAX_DISTRIBUTION_NAME {
            let message = format!(
                "the AMI's name with the placeholder of its date is longer than the {MAX_DISTRIBUTION_NAME} \
                 characters of Image Builder's model"
            );
            self.add("ami-name-image-builder", Level::Warning, at, message, key, AMI_DISTRIBUTION);
        }
    }

    fn check_tags(&mut self, tags: &Map<String, Value>) {
        let (key, at) = ("Image.Tags", ".AmiTags");
        let count = tags.len();
        if count > MAX_TAGS {
            let message = format!("the AMI gets {count} tags, and EC2 allows {MAX_TAGS}");
            self.add("ami-tags-number", Level::Error, at, message, key, TAGS);
        } else if count + ADDED_TAGS > MAX_TAGS {
            let message = format!(
                "the AMI gets {count} tags and {ADDED_TAGS} of AWS and the stack, and EC2 allows {MAX_TAGS}"
            );
            self.add("ami-tags-number", Level::Warning, at, message, key, TAGS);
        }
        for (name, value) in tags {
            self.check_tag(name, value.as_str().unwrap_or_default());
        }
    }

    fn check_tag(&mut self, name: &str, value: &str) {
        let (key, at) = ("Image.Tags", ".AmiTags");
        let shown: String = name.chars().take(40).collect();
        if name.chars().count() > MAX_TAG_KEY {
            let message = format!("the key of the tag {shown:?}… is longer than {MAX_TAG_KEY} characters");
            self.add("ami-tag-key-length", Level::Error, at, message, key, TAGS);
        }
        if value.chars().count() > MAX_TAG_VALUE {
            let message = format!("the value of the tag {shown:?} is longer than {MAX_TAG_VALUE} characters");
            self.add("ami-tag-value-length", Level::Error, at, message, key, TAGS);
        }
        if name.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("aws:")) {
            let message = format!("the tag {shown:?} begins with aws:, which AWS reserves");
            self.add("ami-tag-reserved", Level::Error, at, message, key, TAGS);
        }
    }
}

/// "3-128 alphanumeric characters, parentheses (()), square brackets ([]), spaces ( ), periods (.), slashes
/// (/), dashes (-), single quotes ('), at-signs (@), or underscores(_)".
fn is_of_ami_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "()[] ./-'@_".contains(letter)
}

/// The characters of `^[-_A-Za-z0-9{][-_A-Za-z0-9\s:{}\.]+[-_A-Za-z0-9}]$`, of which EC2 allows these too.
fn is_of_distribution(name: &str) -> bool {
    name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_ .".contains(letter))
}

fn quote_all(letters: &BTreeSet<char>) -> String {
    letters.iter().map(|letter| format!("{letter:?}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(name: &str, tags: &Value) -> Value {
        let ami = json!({"Name": format!("{name} {BUILD_DATE}"), "AmiTags": tags});
        let distribution = json!({"AmiDistributionConfiguration": ami});
        json!({"Resources": {"D": {"Type": DISTRIBUTION, "Properties": {"Distributions": [distribution, distribution]}}}})
    }

    #[expect(clippy::needless_pass_by_value, reason = "each test makes its own")]
    fn found(name: &str, tags: Value) -> Vec<(String, Level)> {
        check(&template(name, &tags)).into_iter().map(|finding| (finding.id, finding.level)).collect()
    }

    fn of_name(name: &str) -> Vec<(String, Level)> {
        found(name, json!({}))
    }

    fn tags(count: usize) -> Value {
        Value::Object((0..count).map(|index| (format!("key{index}"), json!("value"))).collect())
    }

    #[test]
    fn a_name_is_held_to_ec2s_alphabet_and_length() {
        assert!(of_name("My image_1.0-x").is_empty());
        let characters = [("ami-name-characters".to_owned(), Level::Error)];
        assert_eq!(of_name("größe"), characters);
        assert_eq!(of_name("a:b"), characters);
        assert_eq!(of_name("a\nb"), characters);
        let length = [("ami-name-length".to_owned(), Level::Error)];
        assert_eq!(of_name(&"a".repeat(108)), length);
        let model = [("ami-name-image-builder".to_owned(), Level::Warning)];
        assert_eq!(of_name(&"a".repeat(107)), model);
        assert_eq!(of_name("a (b)"), model);
        assert!(of_name(&"a".repeat(98)).is_empty());
        // Another placeholder may become anything.
        assert!(of_name("{{ imagebuilder:other:x }}").is_empty());
    }

    #[test]
    fn tags_are_counted_with_those_of_aws() {
        assert!(found("a", tags(46)).is_empty());
        assert_eq!(found("a", tags(47)), [("ami-tags-number".to_owned(), Level::Warning)]);
        assert_eq!(found("a", tags(51)), [("ami-tags-number".to_owned(), Level::Error)]);
    }

    #[test]
    fn keys_and_values_have_their_limits() {
        let long = |count: usize| "é".repeat(count);
        assert!(found("a", json!({long(128): long(256), "empty": "", "Awsome": {"Ref": "x"}})).is_empty());
        assert_eq!(found("a", json!({long(129): ""})), [("ami-tag-key-length".to_owned(), Level::Error)]);
        assert_eq!(found("a", json!({"x": long(257)})), [("ami-tag-value-length".to_owned(), Level::Error)]);
        assert_eq!(found("a", json!({"AWS:x": ""})), [("ami-tag-reserved".to_owned(), Level::Error)]);
    }

    proptest::proptest! {
        #[test]
        fn no_name_and_no_tag_makes_it_panic(name in ".{0,200}", key in ".{0,10}", value in ".{0,10}") {
            let _ = check(&template(&name, &json!({key: value})));
        }

        #[test]
        fn what_both_services_allow_is_no_finding(name in "[A-Za-z0-9][-_A-Za-z0-9 .]{1,90}[A-Za-z0-9]") {
            proptest::prop_assert!(of_name(&name).is_empty());
        }

        #[test]
        fn what_ec2_allows_is_never_an_error(name in r"[A-Za-z0-9()\[\] ./\-'@_]{1,100}") {
            proptest::prop_assert!(of_name(&name).iter().all(|(_, level)| *level == Level::Warning));
        }
    }
}
