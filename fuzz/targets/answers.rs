//! The answers of child processes: of interpreter.py, of a launcher that was asked, of synthesis.py, and the
//! traceback of a start.
//!
//! The input is one JSON answer, another one, and a stderr, with a record separator between them.

#![no_main]

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use libfuzzer_sys::fuzz_target;
use pcluster_shim::environment::interpreter::{InterpreterAnswer, read_answer};
use pcluster_shim::environment::packages::{Distribution, Packages};
use pcluster_shim::environment::question::agree;
use pcluster_shim::environment::startup::shows;
use pcluster_shim::environment::synthesis::{StartupFailure, Synthesis};
use pcluster_shim::report::{Shim, builder::ReportBuilder, human};
use pcluster_shim::rules::startup::{Owners, describe};
use pcluster_shim::rules::template_rules::TemplateRules;
use pcluster_shim::rules::{Kind, Level};
use pcluster_shim::system::child::{Finished, framed};
use pcluster_shim_fuzz::{assert_safe, input, split};
use serde_json::Value;

const SENTINEL: &str = "pcluster-shim:1:1";

/// An answer as the child prints it, between two lines of the sentinel.
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
        // In this form the cache holds it.
        let cached = serde_json::to_string(&answer).expect("an answer is JSON");
        let again: InterpreterAnswer = serde_json::from_str(&cached).expect("a cached answer is read");
        assert_eq!(again, answer);
        valid.push(answer);
    }
    match agree(&valid) {
        Ok(agreed) => assert_eq!(agreed.map(|(answer, _)| answer), valid.first().cloned()),
        Err(error) => assert!(valid.len() > 1 && !error.to_string().is_empty()),
    }
}

fn check_failure(failure: &StartupFailure, stderr: &[u8]) {
    let _ = shows(stderr, failure);
    if failure.exception != "SystemExit" && !failure.exception.contains(['\n', '\r', ':', '.']) {
        let name = failure.exception.trim();
        let traceback =
            format!("Traceback (most recent call last):\n{name}: {}\n", flatten(&failure.message));
        let flat = StartupFailure { message: flatten(&failure.message), ..failure.clone() };
        let is_named = name == failure.exception;
        assert!(!is_named || shows(traceback.as_bytes(), &flat), "{flat:?} is not in {traceback:?}");
    }
    let owner = Distribution {
        name: "Flask".into(),
        version: "2.3.3".into(),
        metadata: "/v/site-packages/Flask-2.3.3.dist-info".into(),
        requires: Vec::new(),
    };
    for owners in [Owners::default(), Owners { file: Some(&owner), module: Some(&owner) }] {
        let mut report = ReportBuilder::new(None);
        report.add_findings("template", std::time::Duration::ZERO, vec![describe(failure, owners)]);
        assert_safe(&human::render(&report.build(Shim { version: "0", path: None }), false));
    }
}

/// As synthesis.py writes a message: its words, with one blank between them.
fn flatten(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let [first, second, stderr] = split(&bytes);
    let answers: Vec<Value> = [first, second].into_iter().filter_map(frame).collect();
    check_interpreter(&answers.iter().collect::<Vec<_>>());
    for answer in answers {
        match serde_json::from_value(answer) {
            Ok(Synthesis::Unstartable(failure)) => check_failure(&failure, stderr),
            Ok(Synthesis::Template { template, expectation }) => {
                let rules =
                    TemplateRules { packages: &Packages::default(), advisories: &[], today: "2026-11-26" };
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
