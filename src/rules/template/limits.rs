//! Limits of EC2 and Image Builder for the name and the tags of an AMI. A build that exceeds a limit may run
//! to its very end before it fails. Pure.
//!
//! A name or tag that EC2's reference clearly refuses is an ERROR. A finding is a WARNING, not an ERROR, if:
//!
//! - the pages of AWS contradict each other, or leave a doubt
//! - only the model of Image Builder's API refuses the name or tag
//! - the template has few enough tags, but AWS and the stack add tags, and the sum is too large; we have
//!   estimated how many tags they add

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::template::cloudformation::{BUILD_DATE, DISTRIBUTION, format_resource, select_resources};

const CREATE_IMAGE: &str = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html";
const AMI_DISTRIBUTION: &str =
    "https://docs.aws.amazon.com/imagebuilder/latest/APIReference/API_AmiDistributionConfiguration.html";
const TAGS: &str = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html";
const TAG: &str = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Tag.html";

/// The maximum number of characters in an AMI's name.
const MAX_NAME: usize = 128;
/// The length of the shortest build date that Image Builder puts into a name: `2026-11-26T09-29-08Z`.
const MIN_BUILD_DATE: usize = 20;
/// The maximum number of characters that Image Builder's API allows in the AMI's name, including the
/// placeholder for the build date.
const MAX_DISTRIBUTION_NAME: usize = 127;
const MAX_TAGS: usize = 50;
/// The number of tags that are added to the AMI: `CreatedBy` and `Ec2ImageBuilderArn` by AWS, `build_status`
/// and `parent_image` by the stack's function.
const ADDED_TAGS: usize = 4;
/// In characters, according to EC2's user guide.
const MAX_TAG_KEY: usize = 128;
/// In characters, according to EC2's API reference.
const MAX_TAG_KEY_OF_API: usize = 127;
/// In characters.
const MAX_TAG_VALUE: usize = 256;

/// The prefix of AWS's own tags.
const RESERVED: &str = "aws:";

/// The maximum number of findings with the same id and level. A template of 1 MB has room for 60,000 tags.
const MAX_FINDINGS: usize = 10;
/// The maximum number of refused characters in a message.
const MAX_REFUSED: usize = 10;
/// The maximum number of characters of a key in a message.
const MAX_SHOWN: usize = 40;

/// Finds the limits that the AMI of this template would exceed. If several regions have the same finding, it
/// is reported once.
pub fn check(template: &Value) -> Vec<Finding> {
    let mut limits = Limits::default();
    for (resource, configuration) in select_resources(template, DISTRIBUTION) {
        let list = configuration["Properties"]["Distributions"].as_array();
        for (index, distribution) in list.into_iter().flatten().enumerate() {
            limits.place = format!(
                "{}.Properties.Distributions[{index}].AmiDistributionConfiguration",
                format_resource(resource)
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
    limits.into_findings()
}

/// Who refuses a value that exceeds a limit.
#[derive(Clone, Copy)]
enum Source {
    /// EC2's reference clearly refuses the value.
    Ec2,
    /// It is not certain that EC2 refuses the value: the pages of AWS contradict each other or leave a doubt,
    /// or the number of tags is an estimate.
    Ec2Perhaps,
    /// Only Image Builder's service model refuses the value, by a pattern or a length.
    ImageBuilderModel,
}

impl Source {
    fn level(self) -> Level {
        match self {
            Self::Ec2 => Level::Error,
            Self::Ec2Perhaps | Self::ImageBuilderModel => Level::Warning,
        }
    }

    fn cost(self) -> &'static str {
        match self {
            Self::Ec2 => {
                "EC2 refuses the image at the end of the build or earlier: up to an hour of EC2 wasted."
            }
            Self::Ec2Perhaps => "The build may fail at its end, after an hour of EC2.",
            Self::ImageBuilderModel => "Image Builder may refuse it, and the stack is then rolled back.",
        }
    }
}

/// The part of the AMI that a limit is about.
#[derive(Clone, Copy)]
enum Part {
    /// The name comes from `Image.Name`. If `Image.Name` is not set, the name comes from the image id, in
    /// which pcluster's own parser accepts only letters, digits and dashes.
    Name,
    Tags,
}

impl Part {
    /// The key in the configuration.
    fn key(self) -> &'static str {
        match self {
            Self::Name => "Image.Name",
            Self::Tags => "Image.Tags",
        }
    }

    /// The key in the template.
    fn property(self) -> &'static str {
        match self {
            Self::Name => "Name",
            Self::Tags => "AmiTags",
        }
    }
}

#[derive(Default)]
struct Limits {
    findings: Vec<Finding>,
    seen: BTreeSet<String>,
    /// The number of findings of each id and level, including those that are left out of the report.
    counts: BTreeMap<(String, Level), usize>,
    /// The path of the `AmiDistributionConfiguration` that is being checked.
    place: String,
}

impl Limits {
    fn add(&mut self, id: &str, part: Part, source: Source, message: String, reference: &str) {
        if !self.seen.insert(format!("{id} {message}")) {
            return;
        }
        let (key, level) = (part.key(), source.level());
        let count = self.counts.entry((id.to_owned(), level)).or_default();
        *count += 1;
        if *count > MAX_FINDINGS {
            return;
        }
        self.findings.push(Finding {
            cost: Some(source.cost().into()),
            evidence: json!({"path": format!("{}.{}", self.place, part.property()), "key": key}),
            fix: Some(Fix::by_hand(format!("change {key} in the configuration"))),
            references: vec![reference.into()],
            fails_build: level == Level::Warning && matches!(part, Part::Name),
            ..Finding::new(id, level, Kind::ImageLimit, message)
        });
    }

    /// Returns the findings. For each id and level, the last finding says how many others were left out.
    fn into_findings(mut self) -> Vec<Finding> {
        for ((id, level), count) in self.counts {
            let mut of_id = self.findings.iter_mut().rev();
            let last = of_id.find(|finding| finding.id == id && finding.level == level);
            if let (Some(last), 1..) = (last, count.saturating_sub(MAX_FINDINGS)) {
                last.message = format!("{} (and {} more like it)", last.message, count - MAX_FINDINGS);
                last.evidence["count"] = json!(count);
            }
        }
        self.findings
    }

    fn add_of_name(&mut self, id: &str, source: Source, message: String, reference: &str) {
        self.add(id, Part::Name, source, message, reference);
    }

    fn add_of_tags(&mut self, id: &str, source: Source, message: String, reference: &str) {
        self.add(id, Part::Tags, source, message, reference);
    }

    fn check_name(&mut self, name: &str) {
        let own = name.replace(BUILD_DATE, "");
        // If `own` contains another placeholder, we do not know what Image Builder replaces it with.
        let is_known = !own.contains("{{");
        let refused = own.chars().filter(|letter| !is_of_ami_name(*letter)).collect::<BTreeSet<_>>();
        let length = own.chars().count() + if own.len() < name.len() { MIN_BUILD_DATE } else { 0 };
        if is_known && !refused.is_empty() {
            let message = format!("EC2 does not allow {} in the name of an AMI", quote_all(&refused));
            self.add_of_name("ami-name-characters", Source::Ec2, message, CREATE_IMAGE);
        } else if is_known && length > MAX_NAME {
            let message =
                format!("the AMI's name has {length} characters or more, and EC2 allows {MAX_NAME}");
            self.add_of_name("ami-name-length", Source::Ec2, message, CREATE_IMAGE);
        } else if let Some(message) = find_outside_of_model(name, &own, is_known) {
            self.add_of_name("ami-name-image-builder", Source::ImageBuilderModel, message, AMI_DISTRIBUTION);
        }
    }

    fn check_tags(&mut self, tags: &Map<String, Value>) {
        let count = tags.len();
        if count > MAX_TAGS {
            let message = format!("the AMI gets {count} tags, and EC2 allows {MAX_TAGS}");
            self.add_of_tags("ami-tags-number", Source::Ec2, message, TAGS);
        } else if count + ADDED_TAGS > MAX_TAGS {
            let message = format!(
                "the AMI gets {count} tags plus {ADDED_TAGS} from AWS and the stack, and EC2 allows {MAX_TAGS}"
            );
            self.add_of_tags("ami-tags-number", Source::Ec2Perhaps, message, TAGS);
        }
        for (name, value) in tags {
            self.check_tag_key(name);
            if value.as_str().unwrap_or_default().chars().count() > MAX_TAG_VALUE {
                let message =
                    format!("the value of the tag {} is longer than {MAX_TAG_VALUE} characters", quote(name));
                self.add_of_tags("ami-tag-value-length", Source::Ec2, message, TAGS);
            }
        }
    }

    fn check_tag_key(&mut self, name: &str) {
        let shown = quote(name);
        let length = name.chars().count();
        if length > MAX_TAG_KEY {
            let message = format!("the key of the tag {shown} is longer than {MAX_TAG_KEY} characters");
            self.add_of_tags("ami-tag-key-length", Source::Ec2, message, TAGS);
        } else if length > MAX_TAG_KEY_OF_API {
            let message = format!(
                "the key of the tag {shown} has {length} characters, and EC2 may allow only {MAX_TAG_KEY_OF_API}"
            );
            self.add_of_tags("ami-tag-key-length", Source::Ec2Perhaps, message, TAG);
        }
        if name.starts_with(RESERVED) {
            let message = format!("the tag {shown} begins with {RESERVED}, which AWS reserves");
            self.add_of_tags("ami-tag-reserved", Source::Ec2, message, TAGS);
        } else if name.get(..RESERVED.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(RESERVED)) {
            // EC2's keys are case-sensitive; other services reserve the prefix in upper and lower case.
            let message = format!(
                "the prefix of the tag {shown} differs only in case from {RESERVED}, which AWS reserves"
            );
            self.add_of_tags("ami-tag-reserved", Source::Ec2Perhaps, message, TAGS);
        }
        let outside = name.chars().filter(|letter| !is_of_distribution_tag(*letter)).collect::<BTreeSet<_>>();
        let message = if name.is_empty() {
            "a tag has an empty key, which Image Builder's API does not allow".into()
        } else if outside.is_empty() {
            return;
        } else {
            format!("Image Builder's API does not allow {} in the key of a tag: {shown}", quote_all(&outside))
        };
        self.add_of_tags("ami-tag-image-builder", Source::ImageBuilderModel, message, AMI_DISTRIBUTION);
    }
}

/// Whether EC2 allows a character in the name of an AMI. EC2's reference says: "3-128 alphanumeric
/// characters, parentheses (()), square brackets ([]), spaces ( ), periods (.), slashes (/), dashes (-),
/// single quotes ('), at-signs (@), or underscores(_)".
fn is_of_ami_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "()[] ./-'@_".contains(letter)
}

/// Describes what Image Builder's API does not allow in a name. The API limits the name's length, and
/// requires this pattern: `^[-_A-Za-z0-9{][-_A-Za-z0-9\s:{}\.]+[-_A-Za-z0-9}]$`. `own` is the name without
/// the placeholder of the build date. `is_known` means that `own` contains no other placeholder. The check of
/// such an `own` leaves out the `:`, `{` and `}` of the pattern, because the caller has already refused every
/// character that EC2 does not allow.
fn find_outside_of_model(name: &str, own: &str, is_known: bool) -> Option<String> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    if is_known && !own.chars().all(|letter| is_word(letter) || " .".contains(letter)) {
        return Some(
            "Image Builder's API allows only letters, digits, spaces and the characters - _ : . in a name"
                .to_owned(),
        );
    }
    let is_edge = |letter: char| is_word(letter) || "{}".contains(letter);
    if !name.starts_with(is_edge) || !name.ends_with(is_edge) {
        return Some("Image Builder's API does not allow a space or dot at either end of a name".to_owned());
    }
    (name.chars().count() > MAX_DISTRIBUTION_NAME).then(|| {
        format!(
            "the AMI's name with its date placeholder is longer than {MAX_DISTRIBUTION_NAME} characters, \
             the limit of Image Builder's API"
        )
    })
}

/// Whether Image Builder allows a character in the key of a tag. The pattern of keys is
/// `^(?!aws:)[a-zA-Z0-9\s_.:/=+\-@]*$`.
fn is_of_distribution_tag(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter.is_ascii_whitespace() || "_.:/=+-@".contains(letter)
}

/// A key as messages show it: only its beginning, if it is long.
fn quote(name: &str) -> String {
    let shown: String = name.chars().take(MAX_SHOWN).collect();
    let ellipsis = if shown.len() < name.len() { "..." } else { "" };
    format!("{shown:?}{ellipsis}")
}

fn quote_all(letters: &BTreeSet<char>) -> String {
    let named: Vec<_> = letters.iter().take(MAX_REFUSED).map(|letter| format!("{letter:?}")).collect();
    let others = letters.len().saturating_sub(MAX_REFUSED);
    if others == 0 { named.join(", ") } else { format!("{} and {others} more", named.join(", ")) }
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
        for name in [".a", " a"] {
            assert_eq!(of_name(name), model, "{name:?}");
        }
        // We do not know what any other placeholder is replaced with, so the name is accepted.
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
        let key = |count: usize| "k".repeat(count);
        assert!(found("a", json!({key(127): long(256), "empty": "", "Awsome": {"Ref": "x"}})).is_empty());
        let of_key = |tag: &str, id: &str, level: Level| {
            assert_eq!(found("a", json!({tag: ""})), [(id.to_owned(), level)], "{tag:?}");
        };
        // The limits in EC2's user guide and in its API reference differ by one.
        of_key(&key(128), "ami-tag-key-length", Level::Warning);
        of_key(&key(129), "ami-tag-key-length", Level::Error);
        assert_eq!(found("a", json!({"x": long(257)})), [("ami-tag-value-length".to_owned(), Level::Error)]);
        of_key("aws:x", "ami-tag-reserved", Level::Error);
        of_key("AWS:x", "ami-tag-reserved", Level::Warning);
        for outside in ["", "équipe", "a,b", "\u{1b}"] {
            of_key(outside, "ami-tag-image-builder", Level::Warning);
        }
        assert!(found("a", json!({"cost centre": "", "a_.:/=+-@9": "équipe"})).is_empty());
    }

    #[test]
    fn a_report_is_bounded() {
        let tags: Map<_, _> = (0..1000).map(|index| (format!("é{index}"), json!("x".repeat(300)))).collect();
        let findings = check(&template("a", &Value::Object(tags)));
        let of = |id: &str| findings.iter().filter(|finding| finding.id == id).collect::<Vec<_>>();
        let outside = of("ami-tag-image-builder");
        assert_eq!((outside.len(), outside[9].evidence["count"].as_u64()), (MAX_FINDINGS, Some(1000)));
        assert!(outside[9].message.ends_with(" (and 990 more like it)"), "{}", outside[9].message);
        assert_eq!(of("ami-tag-value-length").len(), MAX_FINDINGS);

        let letters: String = ('一'..).take(500).collect();
        let findings = check(&template(&letters, &json!({})));
        assert!(findings[0].message.contains(" and 490 more in the name"), "{}", findings[0].message);
    }

    /// Many warnings with an id do not hide an error with the same id.
    #[test]
    fn levels_are_counted_apart() {
        let mut tags: Map<_, _> = (0..30).map(|index| (format!("{index:k>128}"), json!(""))).collect();
        tags.insert("z".repeat(129), json!(""));
        let findings = check(&template("a", &Value::Object(tags)));
        assert!(findings.iter().any(|finding| finding.level == Level::Error));
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
        fn a_tag_within_ec2s_limits_is_never_an_error(key in "[^a].{0,126}", value in ".{0,256}") {
            let found = found("a", json!({key: value}));
            proptest::prop_assert!(found.iter().all(|(_, level)| *level == Level::Warning));
        }

        #[test]
        fn what_ec2_allows_is_never_an_error(name in r"[A-Za-z0-9()\[\] ./\-'@_]{1,100}") {
            proptest::prop_assert!(of_name(&name).iter().all(|(_, level)| *level == Level::Warning));
        }
    }
}
