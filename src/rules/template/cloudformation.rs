//! Bytes → a template of `CloudFormation`. Pure.

use std::fmt;

use serde::de::{self, EnumAccess, MapAccess, SeqAccess, VariantAccess as _, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::rules::template::grouping::format_step;
use crate::text::yaml;

/// Reads a template as JSON, as YAML with long or short intrinsics, or as the answer of `GetTemplate`, whose
/// `TemplateBody` is either the template or its text.
pub fn parse(input: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(input).map_err(|_| "not a template: it is not UTF-8 text".to_owned())?;
    if text.trim().is_empty() {
        return Err("not a template: it is empty".into());
    }
    let mut template = parse_text(strip_stages(text))?;
    if let Value::String(text) = &template {
        // `aws … --query TemplateBody` prints the text as a JSON string.
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
        Err("not a build-image template: it has no EC2 Image Builder resources".into())
    }
}

/// Removes the last lines of the output of `aws cloudformation get-template --output text`: one for each
/// stage of the template.
fn strip_stages(text: &str) -> &str {
    text.find("\nSTAGESAVAILABLE\t").map_or(text, |end| &text[..=end])
}

fn parse_text(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let Yaml(value) = yaml::parse(text).map_err(|message| format!("neither JSON nor YAML: {message}"))?;
    Ok(value)
}

/// A YAML document as JSON, with `!Ref x` as `{"Ref": "x"}` and `!Sub x` as `{"Fn::Sub": "x"}`. It is
/// deserialised straight into JSON: in the YAML parser's own `Value` type, a mapping takes quadratic time if
/// its keys are numbers.
#[derive(Debug, Default)]
pub struct Yaml(pub Value);

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(YamlVisitor).map(Self)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    // A JSON `Value` cannot hold an integer of 128 bits. As a string, the integer keeps all its digits.
    fn visit_i128<E: de::Error>(self, number: i128) -> Result<Value, E> {
        Ok(Value::String(number.to_string()))
    }

    fn visit_u128<E: de::Error>(self, number: u128) -> Result<Value, E> {
        Ok(Value::String(number.to_string()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Yaml(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((Yaml(key), Yaml(value))) = map.next_entry()? {
            let key = match key {
                Value::String(text) => text,
                Value::Array(_) | Value::Object(_) => {
                    return Err(de::Error::custom("a key is a list or a mapping"));
                }
                other => other.to_string(),
            };
            if values.contains_key(&key) {
                return Err(de::Error::custom(format!("duplicate key {key:?}")));
            }
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, value) = tagged.variant::<String>()?;
        let Yaml(value) = value.newtype_variant()?;
        Ok(expand_intrinsic(&tag, value))
    }
}

fn expand_intrinsic(tag: &str, value: Value) -> Value {
    let name = tag.trim_start_matches('!');
    // A lone `!` is not an intrinsic: it only turns a scalar into a text.
    if name.is_empty() {
        return value;
    }
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

/// EC2 Image Builder replaces this placeholder with the date of the build. An AMI's name needs the date,
/// because the name has to be unique in its region.
pub const BUILD_DATE: &str = "{{ imagebuilder:buildDate }}";

pub const DISTRIBUTION: &str = "AWS::ImageBuilder::DistributionConfiguration";

/// The path of a resource: short and without control characters, whatever its logical id is.
pub fn format_resource(resource: &str) -> String {
    format!("$.Resources{}", format_step(resource))
}

/// The resources of one type, with their logical ids.
pub fn select_resources<'t>(template: &'t Value, wanted: &str) -> Vec<(&'t str, &'t Value)> {
    let resources = template["Resources"].as_object().into_iter().flatten();
    let wanted = resources.filter(|(_, resource)| resource["Type"] == wanted);
    wanted.map(|(name, resource)| (name.as_str(), resource)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Value {
        json!({"Resources": {
            "D": {"Type": "AWS::ImageBuilder::DistributionConfiguration", "Properties": {"Tags": {"a": 1}}},
            "I": {"Type": "AWS::ImageBuilder::Image", "Properties": {"DistributionConfigurationArn": {"Ref": "D"}}},
        }})
    }

    #[test]
    fn every_form_of_a_template_is_read_alike() {
        let json = template().to_string();
        let yaml = serde_yaml::to_string(&template()).unwrap();
        let short = yaml
            .replace("DistributionConfigurationArn:\n        Ref: D", "DistributionConfigurationArn: !Ref D");
        assert_ne!(short, yaml);
        let body_text = json!({"TemplateBody": yaml, "StagesAvailable": ["Original"]}).to_string();
        let body_value = json!({"TemplateBody": template()}).to_string();
        let body_yaml = serde_yaml::to_string(&json!({"TemplateBody": json})).unwrap();
        let cli_text = format!("{yaml}\nSTAGESAVAILABLE\tOriginal\nSTAGESAVAILABLE\tProcessed\n");
        for form in [json, yaml, short, body_text, body_value, body_yaml, cli_text] {
            assert_eq!(parse(form.as_bytes()), Ok(template()), "{form}");
        }
        let get_att = parse(b"Resources:\n  I:\n    Type: AWS::ImageBuilder::Image\n    A: !GetAtt D.Arn\n    B: !Sub '${X}'\n").unwrap();
        assert_eq!(get_att["Resources"]["I"]["A"], json!({"Fn::GetAtt": ["D", "Arn"]}));
        assert_eq!(get_att["Resources"]["I"]["B"], json!({"Fn::Sub": "${X}"}));
    }

    #[test]
    fn a_key_that_is_no_text_is_written_as_json() {
        let read = |text: &str| {
            let yaml = format!("Resources:\n  I:\n    Type: AWS::ImageBuilder::Image\n    A: {text}\n");
            parse(yaml.as_bytes()).map(|mut template| template["Resources"]["I"]["A"].take())
        };
        for (key, text) in [("1", "1"), ("1.5", "1.5"), ("true", "true"), ("~", "null")] {
            assert_eq!(read(&format!("{{{key}: x}}")), Ok(json!({text: "x"})));
        }
        for text in ["{[a]: x}", "{{a: b}: x}", "{!Ref a: x}", "{a: x, a: y}", "{1: x, '1': y}"] {
            assert!(read(text).unwrap_err().contains("key"), "{text}");
        }
        // If a mapping were accepted as a key, its JSON would become the key's text. Each level of nesting
        // would then escape all quotes and backslashes again, and so double the length of the key.
        let nested = (0..60).fold("a".to_owned(), |key, _| format!("{{? {key} : 1}}"));
        assert!(read(&nested).is_err());
        let digits = "123456789012345678901234567890";
        assert_eq!(read(digits), Ok(digits.into()));
        assert_eq!(
            read("[-9223372036854775809, 18446744073709551616]"),
            Ok(json!(["-9223372036854775809", "18446744073709551616"]))
        );
        assert_eq!(read("! x"), Ok("x".into()));
        assert_eq!(read("!GetAtt [a, b]"), Ok(json!({"Fn::GetAtt": ["a", "b"]})));
    }

    #[test]
    fn an_input_that_is_no_template_is_refused() {
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
            let _ = parse(&input);
        }
    }
}
