//! Bytes → a template of `CloudFormation`. Pure.

use serde_json::{Value, json};

use crate::yaml;

/// Reads a template as JSON, as YAML with long or short intrinsics, or as the answer of `GetTemplate`,
/// whose `TemplateBody` is the template or its text.
///
/// # Errors
/// Returns an error if the input is none of them, or no template of `build-image`.
pub fn parse(input: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(input).map_err(|_| "not a template: it is not UTF-8 text".to_owned())?;
    if text.trim().is_empty() {
        return Err("not a template: it is empty".into());
    }
    let mut template = parse_text(strip_stages(text))?;
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

/// Cuts off the lines, one for each stage of the template, in which the output of `aws cloudformation
/// get-template --output text` ends.
fn strip_stages(text: &str) -> &str {
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
    expand(yaml, MAX_DEPTH).ok_or_else(|| "not a template: it is nested too deeply".to_owned())
}

/// Levels of nesting; `CloudFormation`'s own limits keep a template far below.
const MAX_DEPTH: usize = 200;

/// Converts YAML to JSON, `!Ref x` as `{"Ref": "x"}`, `!Sub x` as `{"Fn::Sub": "x"}`.
fn expand(yaml: serde_yaml::Value, depth: usize) -> Option<Value> {
    use serde_yaml::Value as Yaml;
    let depth = depth.checked_sub(1)?;
    Some(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(flag) => Value::Bool(flag),
        Yaml::Number(number) => serde_json::to_value(number).unwrap_or_default(),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(list) => {
            Value::Array(list.into_iter().map(|item| expand(item, depth)).collect::<Option<_>>()?)
        }
        Yaml::Mapping(map) => {
            let entry = |(key, value)| Some((format_key(expand(key, depth)?), expand(value, depth)?));
            Value::Object(map.into_iter().map(entry).collect::<Option<_>>()?)
        }
        Yaml::Tagged(tagged) => expand_intrinsic(&tagged.tag.to_string(), expand(tagged.value, depth)?),
    })
}

fn format_key(key: Value) -> String {
    match key {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn expand_intrinsic(tag: &str, value: Value) -> Value {
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
        let keys = |text: &str| {
            let yaml =
                format!("Resources:\n  I:\n    Type: AWS::ImageBuilder::Image\n    A: {{{text}: x}}\n");
            parse(yaml.as_bytes()).unwrap()["Resources"]["I"]["A"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        for (key, text) in [
            ("1", "1"),
            ("1.5", "1.5"),
            ("true", "true"),
            ("~", "null"),
            ("[a, 1]", "[\"a\",1]"),
            ("!Ref a", "{\"Ref\":\"a\"}"),
        ] {
            assert_eq!(keys(key), [text]);
        }
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
