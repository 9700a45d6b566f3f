//! `preflight template`: a template in every form in which people have one; the good and the bad
//! one were made by aws-parallelcluster 3.1.3 with CDK 1.204.0 and 1.153.0.

use serde_json::{Value, json};

use crate::fakes::{BAD, GOOD};
use crate::harness::{Run, Sandbox};

fn checked(sandbox: &Sandbox, content: impl AsRef<[u8]>) -> Run<'_> {
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

/// No pcluster is involved, so none is needed.
#[test]
fn it_needs_no_pcluster_and_starts_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("work/template", GOOD);
    let run = sandbox.pcluster(["preflight", "template", "template"]).path(&[sandbox.path("shim")]).run();
    run.exits(0).is_silent();
    assert_eq!(sandbox.tree("cache"), "");
}
