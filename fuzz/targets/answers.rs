//! The answers of child processes: of interpreter.py, of synthesis.py, and of a launcher that was asked which
//! Python it runs.
//!
//! The input is two JSON answers, with a record separator between them.

#![no_main]

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use libfuzzer_sys::fuzz_target;
use pcluster_shim::environment::interpreter::read_answer;
use pcluster_shim::environment::question::agree;
use pcluster_shim::environment::synthesis::Synthesis;
use pcluster_shim::model::distribution::{Distribution, Packages};
use pcluster_shim::model::expectation::StartupFailure;
use pcluster_shim::model::finding::{Kind, Level};
use pcluster_shim::report::builder::{CheckResult, ReportBuilder};
use pcluster_shim::report::{Shim, human};
use pcluster_shim::rules::startup::{Owners, describe};
use pcluster_shim::rules::template::TemplateRules;
use pcluster_shim::system::child::{Finished, framed};
use pcluster_shim_fuzz::{assert_safe, input, split};
use serde_json::Value;

const SENTINEL: &str = "pcluster-shim:1:1";

/// Puts an answer between two lines of the sentinel, as a child prints it, and reads the result.
fn frame(answer: &[u8]) -> Option<Value> {
    let line = format!("\n{SENTINEL}\n");
    let stdout = [b"noise", line.as_bytes(), answer, line.as_bytes(), answer].concat();
    let finished = Finished { status: ExitStatus::from_raw(0), stdout, stderr: Vec::new() };
    framed(&finished, SENTINEL, Path::new("/v/bin/python")).ok()
}

fn check_interpreter(answers: &[&Value]) {
    let mut valid = Vec::new();
    for answer in answers.iter().filter_map(|answer| read_answer(answer)) {
        let interpreter = answer.interpreter();
        assert!(interpreter.executable.is_absolute());
        let _ = (interpreter.is_at_least(8), answer.changes());
        valid.push(answer);
    }
    match agree(&valid, &[]) {
        Ok(agreed) => assert_eq!(agreed.map(|(answer, _)| answer), valid.first().cloned()),
        Err(error) => assert!(valid.len() > 1 && !error.to_string().is_empty()),
    }
}

fn check_failure(failure: &StartupFailure) {
    let owner = Distribution {
        name: "Flask".into(),
        version: "2.3.3".into(),
        metadata: "/v/site-packages/Flask-2.3.3.dist-info".into(),
        requires: Vec::new(),
    };
    for owners in [Owners::default(), Owners { file: Some(&owner), module: Some(&owner) }] {
        let mut report = ReportBuilder::new(None);
        let findings = CheckResult::Findings(vec![describe(failure, owners)]);
        report.add("template", std::time::Duration::ZERO, findings);
        assert_safe(&human::render(
            &report.build(Shim { version: "0", path: None }),
            &human::Paint { is_colored: false, width: 80 },
        ));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let [first, second] = split(&bytes);
    let answers: Vec<Value> = [first, second].into_iter().filter_map(frame).collect();
    check_interpreter(&answers.iter().collect::<Vec<_>>());
    for answer in answers {
        match serde_json::from_value(answer) {
            Ok(Synthesis::Unstartable(failure)) => check_failure(&failure),
            Ok(Synthesis::Template { template, expectation }) => {
                let rules = TemplateRules {
                    packages: &Packages::default(),
                    advisories: &[],
                    today: "2026-11-26".parse().unwrap(),
                };
                let falls_short = rules.falls_short(&template, &expectation);
                assert!(
                    falls_short
                        || rules
                            .check(&template, &expectation)
                            .iter()
                            .all(|found| found.level < Level::Error || found.kind == Kind::ImageLimit)
                );
            }
            Ok(_) | Err(_) => {}
        }
    }
});
