//! Templates from a file or from AWS: the bytes are parsed, and all rules check the template.
//!
//! After a record separator, the input can have a second part: an expectation, in the JSON of synthesis.py.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pcluster_shim::images::origin::Recipe;
use pcluster_shim::model::distribution::Packages;
use pcluster_shim::model::expectation::Expectation;
use pcluster_shim::report;
use pcluster_shim::report::builder::{CheckResult, ReportBuilder};
use pcluster_shim::rules::advisories::Advisory;
use pcluster_shim::rules::advisories::file::built_in;
use pcluster_shim::rules::template::TemplateRules;
use pcluster_shim::rules::template::{cloudformation, runtimes};
use pcluster_shim_fuzz::{assert_line, assert_safe, input, split};
use serde_json::{Value, json};

static ADVISORIES: LazyLock<Vec<Advisory>> = LazyLock::new(built_in);

static EXPECTATION: LazyLock<Expectation> = LazyLock::new(|| {
    let asked = json!({
        "name": "name {{ imagebuilder:buildDate }}",
        "tags": {
            "team": "hpc", "blank": " ", "odd": null, "parallelcluster:image_id": "my-image",
            "parallelcluster:image_name": "name", "parallelcluster:version": "3.1.3",
        },
        "regions": ["eu-west-1"],
        "launchPermission": {"UserIds": ["1", null, {}], "n": 1.0},
    });
    serde_json::from_value(asked).expect("the expectation has the form of synthesis.py's")
});

/// Maximum length of the message and the path of a finding, in characters, whatever the template contains.
const MAX_SHOWN: usize = 8000;

/// Maximum number of findings of one template. Findings with the same cause are merged. If many findings have
/// the same id, those beyond a certain number are only counted.
const MAX_FINDINGS: usize = 1000;

fn check(template: &Value, expectation: &Expectation) {
    let packages = Packages::default();
    let rules =
        TemplateRules { packages: &packages, advisories: &ADVISORIES, today: "2026-11-26".parse().unwrap() };
    let findings = rules.check(template, expectation);
    assert!(findings.len() <= MAX_FINDINGS, "{} findings", findings.len());
    let falls_short = findings.iter().any(|finding| finding.id.starts_with("template-"));
    assert_eq!(falls_short, rules.falls_short(template, expectation));
    for finding in &findings {
        assert!(finding.message.chars().count() <= MAX_SHOWN, "{} has a long message", finding.id);
        assert_line(&finding.message);
        let path = finding.path().expect("a finding of a template has a path");
        assert!(path.chars().count() <= MAX_SHOWN, "{} has a long path", finding.id);
        assert_line(path);
    }
    let mut report = ReportBuilder::new(None);
    report.add("template", std::time::Duration::ZERO, CheckResult::Findings(findings));
    let report = [*report.build(report::Shim { version: "0", path: None })];
    assert_safe(&report::human::render(&report[0], &report::human::Paint { is_colored: false, width: 80 }));
    assert_safe(&report::junit::render(&report));
    assert_safe(&report::github::render(&report));
    assert_safe(&report::pcluster::render_stop(&report[0]));
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let [text, asked] = split(&bytes);
    let Ok(template) = cloudformation::parse(text) else { return };
    assert!(template["Resources"].is_object());
    let _ = Recipe::read(&template);
    let _ = runtimes::check(&template, Some("3.1.3"), &ADVISORIES, "2020-01-01".parse().unwrap());
    check(&template, &EXPECTATION);
    check(&template, &Expectation::default());
    if let Ok(expectation) = serde_json::from_slice(asked) {
        check(&template, &expectation);
    }
});
