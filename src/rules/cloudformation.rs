//! Bytes → a template of `CloudFormation`. Pure.

use serde_json::{Value, json};

use crate::yaml;

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
        json!({"Resources": {
            "D": {"Type": "AWS::ImageBuilder::DistributionConfiguration", "Properties": {"Tags": {"a": 1}}},
            "I": {"Type": "AWS::ImageBuilder::Image", "Properties": {"DistributionConfigurationArn": {"Ref": "D"}}},
        }})
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
            let _ = parse(&input);
        }
    }
}
