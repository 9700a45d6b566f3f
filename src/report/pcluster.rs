//! The stop in the form in which the real pcluster rejects a configuration. Pure.

use serde_json::{Value, json};

use crate::report::human::mend;
use crate::report::{Report, Verdict, pretty};
use crate::rules::Kind;

/// What the real pcluster prints when it rejects a configuration, so that scripts keep working.
#[must_use]
pub fn pcluster_shaped(report: &Report) -> String {
    let entry = |kind: Kind, message: String| json!({"level": "ERROR", "type": kind, "message": message});
    let mut errors: Vec<Value> = report
        .errors()
        .map(|finding| {
            let cost = finding.cost.as_deref().map(|cost| format!(" {cost}")).unwrap_or_default();
            entry(finding.kind, format!("{}.{cost} Fix: {}", finding.located(), mend(finding)))
        })
        .collect();
    if errors.is_empty() {
        errors = report
            .not_run()
            .map(|why| {
                let to_do = "Run `pcluster preflight` for the details, or switch strict off";
                entry(Kind::CheckNotRun, format!("Not checked: {why}. Fix: {to_do}"))
            })
            .collect();
    }
    let message = match report.verdict {
        Verdict::Blocked => "pcluster-shim stopped build-image: the image would be unusable.",
        _ => "pcluster-shim stopped build-image: a check could not run, and strict is set.",
    };
    pretty(&json!({"configurationValidationErrors": errors, "message": message}))
}
