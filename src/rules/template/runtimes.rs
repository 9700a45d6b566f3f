//! Lambda runtimes of the template × advisories → findings. Pure: today's date is an argument.

use jiff::civil::Date;
use pep440_rs::VersionSpecifiers;
use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Remedy};
use crate::rules::advisories::{Advisory, Subject, contains};
use crate::rules::edits;
use crate::rules::template::cloudformation::{format_resource, select_resources};

/// The id of the findings.
pub const ID: &str = "lambda-runtime";

const FUNCTION: &str = "AWS::Lambda::Function";

/// Finds the functions whose runtime AWS refuses, or will refuse. `pcluster` is the installed release,
/// if any.
pub fn check(template: &Value, pcluster: Option<&str>, advisories: &[Advisory], today: Date) -> Vec<Finding> {
    let functions = select_resources(template, FUNCTION);
    let affects = |releases: &VersionSpecifiers| pcluster.is_none_or(|release| contains(releases, release));
    let applicable = advisories.iter().filter(|advisory| affects(&advisory.pcluster));
    let findings = applicable.filter_map(|advisory| {
        let Subject::Runtime { runtime, refused_from } = &advisory.subject else { return None };
        let asks = |function: &Value| function["Properties"]["Runtime"] == runtime.as_str();
        let (name, _) = functions.iter().find(|(_, function)| asks(function))?;
        let is_refused = today >= *refused_from;
        let message = format!("the template uses Lambda runtime {runtime}, {}", advisory.effect);
        Some(Finding {
            cost: Some(advisory.cost.clone()),
            evidence: json!({
                "path": format!("{}.Properties.Runtime", format_resource(name)), "runtime": runtime,
                "refusedFrom": refused_from, "isRefused": is_refused, "advisory": advisory.id,
            }),
            fix: Some(fix_for(pcluster, advisory)),
            references: advisory.references.clone(),
            fails_build: is_refused,
            ..Finding::new(ID, advisory.level, Kind::LambdaRuntime, message)
        })
    });
    findings.collect()
}

fn fix_for(pcluster: Option<&str>, advisory: &Advisory) -> Fix {
    let has_edit = pcluster.is_some_and(|release| edits::select(release).iter().any(|edit| edit.id == ID));
    if has_edit { Fix::by_command(Remedy::Edit(ID.into())) } else { advisory.to_fix() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::Level;
    use crate::rules::advisories::file::built_in;

    fn template(runtime: &str) -> Value {
        json!({"Resources": {"F": {"Type": FUNCTION, "Properties": {"Runtime": runtime}}}})
    }

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn the_guard_tells_it_from_the_day_on_that_aws_refuses_it() {
        for (today, is_told) in [("2026-08-30", false), ("2026-08-31", true), ("2027-01-01", true)] {
            let findings = check(&template("python3.9"), Some("3.9.3"), &built_in(), day(today));
            assert_eq!(findings.len(), 1);
            assert_eq!((findings[0].id.as_str(), findings[0].level), (ID, Level::Warning));
            assert_eq!(findings[0].fails_build, is_told, "{today}");
            assert_eq!(findings[0].evidence["isRefused"], is_told, "{today}");
        }
    }

    #[test]
    fn other_runtimes_are_no_finding() {
        for runtime in ["python3.12", "python3.90", "nodejs20.x", ""] {
            assert!(
                check(&template(runtime), Some("3.9.3"), &built_in(), day("2027-01-01")).is_empty(),
                "{runtime}"
            );
        }
        assert!(check(&json!({"Resources": []}), None, &built_in(), day("2027-01-01")).is_empty());
        // Without an installed pcluster, a template is judged by its runtime alone.
        assert_eq!(check(&template("python3.8"), None, &built_in(), day("2027-01-01")).len(), 1);
    }
}
