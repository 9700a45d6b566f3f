//! The report of a stopped build-image, in the form that the real pcluster uses to reject a
//! configuration. Pure.

use serde_json::{Value, json};

use crate::model::finding::Kind;
use crate::report::human::describe_hint;
use crate::report::{Report, Verdict, format_json};

/// Renders the errors that stopped build-image. The form is the JSON that the real pcluster prints when it
/// rejects a configuration, so scripts that read this JSON keep working.
pub fn render_stop(report: &Report) -> String {
    let entry = |kind: Kind, message: String| json!({"level": "ERROR", "type": kind, "message": message});
    let mut errors: Vec<Value> = report
        .causes()
        .map(|finding| {
            let cost = finding.cost.as_deref().map(|cost| format!(" {cost}")).unwrap_or_default();
            entry(
                finding.kind,
                format!("{}.{cost} Fix: {}", finding.describe_with_path(), describe_hint(finding)),
            )
        })
        .collect();
    if errors.is_empty() {
        errors = report
            .describe_not_run()
            .map(|why| {
                let to_do = "run `pcluster preflight` for details, or set PCLUSTER_SHIM_STRICT=0";
                entry(Kind::CheckNotRun, format!("Not checked: {why}. Fix: {to_do}"))
            })
            .collect();
    }
    let message = match report.verdict {
        Verdict::Blocked => {
            "pcluster-shim stopped build-image: it would fail, or its image would be unusable."
        }
        _ => "pcluster-shim stopped build-image: a check could not run, and strict is set.",
    };
    format_json(&json!({"configurationValidationErrors": errors, "message": message}))
}
