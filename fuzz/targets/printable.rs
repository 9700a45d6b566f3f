//! Foreign text, in every form in which the shim shows it.

#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pcluster_shim::error::prefix_lines;
use pcluster_shim::model::finding::{Finding, Fix, Kind, Level};
use pcluster_shim::model::options::FoundBy;
use pcluster_shim::report::{self, Check, Decision, Report, Shim, Status, TargetInfo};
use pcluster_shim::text::printable::{escape, escape_line, fill, flatten, wrap};
use pcluster_shim_fuzz::{assert_line, assert_safe, input};
use serde_json::{Value, json};

/// Maximum length of the foreign text in a report, in characters.
const MAX_IN_REPORT: usize = 60;

const PLAIN: report::human::Paint = report::human::Paint { is_colored: false, width: 80 };

fn finding_of(text: &str, level: Level) -> Finding {
    Finding {
        id: text.into(),
        level,
        kind: Kind::ImageBuilderTemplate,
        message: text.into(),
        cost: Some(text.into()),
        evidence: json!({"path": format!("$.Resources.{text}")}),
        fix: Some(Fix::by_hand(text.into())),
        references: vec![text.into()],
        fails_build: true,
        is_ignored: false,
        shows: None,
    }
}

fn report_of(text: &str, is_blocked: bool) -> Report {
    let target = TargetInfo {
        path: text.into(),
        found_by: FoundBy::Path,
        launcher: None,
        interpreter: Some(text.into()),
        python_version: Some(text.into()),
        pcluster_version: Some(text.into()),
        node: Some(text.into()),
        node_version: Some(text.into()),
    };
    let checks = [Status::Failed, Status::Unknown, Status::Skipped, Status::Passed].map(|status| {
        let mut check = Check::new("node", status, Duration::ZERO, Some(text.to_owned()));
        check.findings = 1;
        check
    });
    let levels = if is_blocked { [Level::Error, Level::Warning] } else { [Level::Warning, Level::Info] };
    let findings = levels.map(|level| finding_of(text, level));
    let packages = BTreeMap::from([("aws-cdk-aws-imagebuilder".to_owned(), text.to_owned())]);
    Report::new(Shim { version: "0", path: None }, Some(target), packages, checks.into(), findings.into())
}

fn check_reports(reports: &[Report]) {
    for report in reports {
        assert_safe(&report::human::render(report, &PLAIN));
        // The guard puts a prefix before each line.
        let lines = prefix_lines(&report::human::render_for_stderr(report, Decision::Stop));
        assert_safe(&lines);
        assert!(lines.lines().count() <= 3 * report.findings.len() + 1);
        let stop = report::pcluster::render_stop(report);
        assert_safe(&stop);
        assert!(serde_json::from_str::<Value>(&stop).is_ok_and(|value| value["message"].is_string()));
        let json = report::format_json(report);
        assert_safe(&json);
        let value = serde_json::from_str::<Value>(&json).expect("a report is JSON");
        assert_eq!(value, serde_json::to_value(report).expect("a report is JSON"));
    }
    let list = report::list::render(reports, &PLAIN);
    assert_safe(&list);
    assert_eq!(list.lines().count(), reports.len() + 3);
    let junit = report::junit::render(reports);
    assert_safe(&junit);
    assert_eq!(junit.matches("<testcase ").count(), 4 * reports.len());
    assert_eq!(junit.matches("</testsuite>").count(), reports.len());
    let github = report::github::render(reports);
    assert_safe(&github);
    // Each report has one line with the verdict, one annotation for the check with the status Unknown, and
    // one annotation for each cause of its two findings. The two findings can have the same cause, although
    // their levels differ. So a report has two or three annotations.
    let (commands, verdicts): (Vec<&str>, Vec<&str>) =
        github.lines().partition(|line| line.starts_with("::"));
    assert_eq!(verdicts.len(), reports.len());
    let most: usize = reports.iter().map(|report| report.findings.len() + 1).sum();
    assert!((2 * reports.len()..=most).contains(&commands.len()), "{} annotations", commands.len());
    for line in commands {
        let names = ["::error title=", "::warning title=", "::notice title="];
        assert!(names.iter().any(|name| line.starts_with(name)), "{line:?}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let text = String::from_utf8_lossy(&bytes);
    assert_safe(&escape(&text));
    assert_line(&escape_line(&text));
    assert!(!flatten(&text).contains(['\n', '\r']));
    for width in [1, 72] {
        for line in wrap(&text, width) {
            assert_line(&line);
            // A single word and text in backquotes are not broken.
            let is_one_piece = line.contains('`') || !line.contains(char::is_whitespace);
            assert!(line.chars().count() <= width || is_one_piece, "{line:?} is too wide");
        }
    }
    assert_eq!(fill(text.split_inclusive('.'), "", 20).concat(), text);
    let annotation = report::github::render_error(&text, &text);
    assert_eq!(annotation.lines().count(), 1);
    assert_safe(&annotation);
    assert_safe(&report::junit::render_error(&text, &text));
    // Together, all forms of a report contain the text some hundred times, so the text is shortened.
    let text: String = text.chars().take(MAX_IN_REPORT).collect();
    check_reports(&[report_of(&text, bytes.len().is_multiple_of(2)), report_of("x", true)]);
});
