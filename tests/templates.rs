//! `preflight template`: a template in every form in which users have one. The good template and the bad one
//! were made by aws-parallelcluster 3.1.3 with CDK 1.204.0 and 1.153.0.

use serde_json::{Value, json};

use crate::support::fakes::{BAD, GOOD};
use crate::support::run::Run;
use crate::support::sandbox::Sandbox;

fn checked(sandbox: &Sandbox, content: impl AsRef<[u8]>) -> Run {
    sandbox.write("work/template", content);
    sandbox.pcluster(["preflight", "template", "template"]).run()
}

fn parsed(template: &str) -> Value {
    serde_json::from_str(template).unwrap()
}

#[test]
fn the_good_template_is_ready() {
    let sandbox = Sandbox::new();
    checked(&sandbox, GOOD).exits(0).is_silent().stdout_matches("template-good.txt");
}

#[test]
fn the_bad_template_is_blocked() {
    let sandbox = Sandbox::new();
    checked(&sandbox, BAD).exits(1).is_silent().stdout_matches("template-bad.txt");
    let run = sandbox.pcluster(["preflight", "template", "template", "--format", "json"]).run();
    run.exits(1).is_silent().stdout_matches("template-bad.json");
}

#[test]
fn every_form_gives_the_same_verdict() {
    let yaml = |template: &str| serde_yaml::to_string(&parsed(template)).unwrap();
    let short = |template: &str| {
        let yaml = yaml(template);
        let short = yaml.replace("Region:\n          Ref: AWS::Region", "Region: !Ref AWS::Region");
        assert_ne!(yaml, short, "a short form has to be in it");
        short
            + "Outputs:\n  A:\n    Value: !GetAtt DistributionConfiguration.Arn\n  B:\n    Value: !Sub '${AWS::Region}'\n  C:\n    Value: !Join ['', [a, !Ref AWS::Region]]\n"
    };
    let body = |body: Value| json!({"TemplateBody": body, "StagesAvailable": ["Original"]}).to_string();
    for (template, status) in [(GOOD, 0), (BAD, 1)] {
        let forms = [
            ("JSON", template.to_owned()),
            ("JSON with a BOM", format!("\u{feff}{template}")),
            ("indented JSON", serde_json::to_string_pretty(&parsed(template)).unwrap()),
            ("YAML", yaml(template)),
            ("YAML with short forms", short(template)),
            ("get-template, parsed", body(parsed(template))),
            ("get-template, YAML as text", body(json!(yaml(template)))),
            ("get-template, short YAML as text", body(json!(short(template)))),
            ("get-template, JSON as text", body(json!(template))),
            (
                "get-template --output yaml",
                serde_yaml::to_string(&json!({"TemplateBody": parsed(template)})).unwrap(),
            ),
            ("get-template --query TemplateBody", json!(yaml(template)).to_string()),
        ];
        for (form, content) in forms {
            let sandbox = Sandbox::new();
            let run = checked(&sandbox, content);
            run.holds(run.status.code() == Some(status), &format!("{form}: expected {status}"));
            run.is_silent();
        }
    }
}

#[test]
fn standard_input_is_a_file_too() {
    let sandbox = Sandbox::new();
    for (template, status) in [(GOOD, 0), (BAD, 1)] {
        sandbox.pcluster(["preflight", "template", "-"]).stdin(template).run().exits(status).is_silent();
    }
    let run = sandbox.pcluster(["preflight", "template", "-"]).run();
    run.exits(2).prints("").prefixed().stderr_matches("template-stdin-empty.txt");
}

#[test]
fn what_is_no_template_is_said() {
    for (snapshot, content) in [
        ("empty", &b""[..]),
        ("blank", b" \n\n"),
        ("noise", b"\xff\xfe\x00\x01"),
        ("words", b"just some words\n"),
        ("no-resources", b"{\"AWSTemplateFormatVersion\": \"2010-09-09\"}"),
        ("no-image-builder", b"Resources:\n  Bucket:\n    Type: AWS::S3::Bucket\n"),
        ("no-yaml", b"Resources: [\n"),
        ("half-json", b"{\"Resources\": {"),
        ("list", b"[1, 2]"),
        ("error-of-aws", b"An error occurred (ValidationError) when calling the GetTemplate operation: Stack with id x does not exist\n"),
    ] {
        let sandbox = Sandbox::new();
        let run = checked(&sandbox, content);
        run.exits(2).prints("").prefixed().stderr_matches(&format!("template-{snapshot}.txt"));
    }
}

#[test]
fn a_file_that_is_not_there() {
    let sandbox = Sandbox::new();
    sandbox
        .pcluster(["preflight", "template", "absent"])
        .run()
        .exits(2)
        .prefixed()
        .stderr_matches("template-absent.txt");
    sandbox.pcluster(["preflight", "template", "."]).run().exits(2).prints("").prefixed();
    sandbox.pcluster(["preflight", "template"]).run().exits(2).prints("");
}

#[test]
fn it_needs_no_pcluster_and_starts_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("work/template", GOOD);
    let run = sandbox.pcluster(["preflight", "template", "template"]).path(&[sandbox.path("shim")]).run();
    run.exits(0).is_silent();
    assert_eq!(sandbox.tree("state"), "");
}

/// Even if a template contains a megabyte of faults, the report is short: faults with the same cause share
/// a finding, which has their number and the first few of their places.
#[test]
fn a_report_is_bounded_whatever_the_template() {
    const MEGABYTE: usize = 1_000_000;
    let start = r#"{"Resources": {"D": {"Type": "AWS::ImageBuilder::DistributionConfiguration", "Properties": {"Distributions": ["#;
    let end = r#"]}}, "I": {"Type": "AWS::ImageBuilder::Image"}}}"#;
    let filled = |item: &dyn Fn(usize) -> String| {
        let mut text = start.to_owned() + &item(0);
        for index in 1.. {
            let next = item(index);
            if text.len() + next.len() + 1 + end.len() > MEGABYTE {
                break;
            }
            text += ",";
            text += &next;
        }
        text + end
    };
    let ami = |rest: &str| format!(r#"{{"Region": "a", "AmiDistributionConfiguration": {{{rest}}}}}"#);
    let resource =
        |index: usize| format!(r#"{{"L{index}": {{"Type": "AWS::ImageBuilder::DistributionConfiguration"}}"#);
    let resources: Vec<_> = (0..12_000).map(|index| resource(index)[1..].to_owned()).collect();
    let resources = format!(r#"{{"Resources": {{{}}}}}"#, resources.join(","));
    for (what, template) in [
        ("empty distributions", filled(&|_| "{}".into())),
        ("empty configurations", filled(&|_| ami(""))),
        ("a name of its own in each", filled(&|index| ami(&format!(r#""Name": "n{index}""#)))),
        ("one long name", filled(&|_| ami(&format!(r#""Name": "{}""#, "n".repeat(400_000))))),
        ("a letter of its own in each name", filled(&|index| ami(&format!(r#""Name": "é{index}""#)))),
        (
            "a tag in each",
            filled(&|index| {
                ami(&format!(r#""Name": "n", "AmiTags": {{"{}{index}": "é"}}"#, "é".repeat(200)))
            }),
        ),
        ("one long id", format!("{start}{end}").replace(r#""D""#, &format!("{:?}", "D".repeat(900_000)))),
        ("resources", resources),
    ] {
        assert!(template.len() <= MEGABYTE, "{what}");
        let sandbox = Sandbox::new();
        sandbox.write("work/template", template);
        let run = sandbox.pcluster(["preflight", "template", "template", "--format", "json"]).run();
        run.exits(1).is_silent();
        let length = run.stdout.len();
        assert!(length < 50_000, "{what}: {length} bytes of JSON");
        let length = sandbox.pcluster(["preflight", "template", "template"]).run().stdout.len();
        assert!(length < 20_000, "{what}: {length} bytes for people");
    }
}

#[test]
fn findings_of_one_cause_are_one_finding() {
    let sandbox = Sandbox::new();
    let mut template = parsed(BAD);
    let distributions =
        &mut template["Resources"]["DistributionConfiguration"]["Properties"]["Distributions"];
    let first = distributions[0].clone();
    distributions.as_array_mut().unwrap().extend(vec![first; 6]);
    checked(&sandbox, template.to_string()).exits(1).is_silent().stdout_matches("template-many.txt");
    let run = sandbox.pcluster(["preflight", "template", "template", "--format", "json"]).run();
    run.exits(1).is_silent().stdout_matches("template-many.json");
}

/// A fault blocks if EC2 is certain to refuse it. Other faults are only reported.
#[test]
fn what_ec2_and_image_builder_allow_is_told() {
    let own_ami =
        "/Resources/DistributionConfiguration/Properties/Distributions/0/AmiDistributionConfiguration";
    let changed = |name: &str, tags: Value| {
        let mut template = parsed(GOOD);
        let ami = template.pointer_mut(own_ami).unwrap();
        ami["Name"] = json!(format!("{name} {{{{ imagebuilder:buildDate }}}}"));
        ami["AmiTags"].as_object_mut().unwrap().extend(tags.as_object().unwrap().clone());
        template.to_string()
    };
    let numbered = |count: usize| {
        Value::Object((0..count).map(|index| (format!("key{index}"), json!("value"))).collect())
    };
    let long_key = |length: usize| json!({"k".repeat(length): ""});
    let long_name = "n".repeat(110);
    let edge_name = "n".repeat(99);
    for (snapshot, status, template) in [
        ("limits-name-characters", 1, changed("gr\u{f6}\u{df}e", json!({}))),
        ("limits-name-length", 1, changed(&long_name, json!({}))),
        ("limits-name-parentheses", 0, changed("image (test)", json!({}))),
        ("limits-name-dot", 0, changed(".image", json!({}))),
        ("limits-name-edge", 0, changed(&edge_name, json!({}))),
        ("limits-tags-fifty", 1, changed("image", numbered(44))),
        ("limits-tags-forty", 0, changed("image", numbered(40))),
        ("limits-tag-key-long", 1, changed("image", long_key(129))),
        ("limits-tag-key-edge", 0, changed("image", long_key(128))),
        ("limits-tag-value-long", 1, changed("image", json!({"team": "v".repeat(257)}))),
        ("limits-tag-reserved", 1, changed("image", json!({"aws:team": ""}))),
        ("limits-tag-reserved-case", 0, changed("image", json!({"AWS:team": ""}))),
        ("limits-tag-letters", 0, changed("image", json!({"\u{e9}quipe": "", "": ""}))),
    ] {
        let sandbox = Sandbox::new();
        checked(&sandbox, template).exits(status).is_silent().stdout_matches(&format!("{snapshot}.txt"));
    }
}

/// The component that releases 3.8.0 to 3.9.3 have, and the same component with the line that people add to
/// correct it.
#[test]
fn a_component_that_installs_minitar_blocks_unless_it_was_corrected() {
    let sandbox = Sandbox::new();
    let pinned = |before: &str| {
        let template =
            GOOD.replace("value: 17.2.29", "value: 18.2.7").replace("value: 7.2.0", "value: 8.0.7");
        let install = "/opt/cinc/embedded/bin/gem install --no-document berkshelf";
        assert!(template.contains(install) && template.contains("value: 18.2.7"));
        template.replace(install, &format!("{before}{install}"))
    };
    checked(&sandbox, pinned("")).exits(1).is_silent().stdout_matches("minitar.txt");
    let corrected = pinned("/opt/cinc/embedded/bin/gem install --no-document minitar:0.12\\n\\n        ");
    checked(&sandbox, corrected).exits(0).is_silent();
    let mut with_cookbook = parsed(&pinned(""));
    with_cookbook["Parameters"]["CfnParamChefCookbook"]["Default"] = json!("https://example.com/c.tgz");
    checked(&sandbox, with_cookbook.to_string()).exits(0).is_silent().stdout_matches("minitar-cookbook.txt");
    let run = sandbox.pcluster(["preflight", "template", "template", "--deny", "warnings"]).run();
    run.exits(1).is_silent();
}

/// A recipe with some faults that would waste an hour of EC2, and with some that are only reported.
#[test]
fn a_recipe_is_checked() {
    let sandbox = Sandbox::new();
    let mut template = parsed(GOOD);
    let resources = &mut template["Resources"];
    let recipe = &mut resources["ImageRecipe"]["Properties"];
    recipe["BlockDeviceMappings"][0]["Ebs"] =
        json!({"Encrypted": true, "KmsKeyId": "alias/aws/ebs", "VolumeSize": 20});
    let component =
        json!({"ComponentArn": "arn:aws:imagebuilder:eu-west-3:aws:component/update-linux/x.x.x"});
    recipe["Components"].as_array_mut().unwrap().push(component);
    let ami = &mut resources["DistributionConfiguration"]["Properties"]["Distributions"][0];
    ami["AmiDistributionConfiguration"]["LaunchPermissionConfiguration"] =
        json!({"UserIds": ["111122223333"]});
    checked(&sandbox, template.to_string()).exits(1).is_silent().stdout_matches("recipe.txt");
}

/// Somebody else may have written the template, so the names in a template can contain control characters.
#[test]
fn a_name_does_not_reach_the_terminal_as_a_control() {
    let sandbox = Sandbox::new();
    let bad = BAD.replace("\"DistributionConfiguration\"", r#""D\u001b]0;x\u0007\u009b31m""#);
    assert_ne!(bad, BAD);
    let run = checked(&sandbox, bad);
    let raw = run.stdout().chars().any(|letter| letter.is_control() && letter != '\n');
    run.exits(1).holds(!raw, "a control character reached the terminal");
}
