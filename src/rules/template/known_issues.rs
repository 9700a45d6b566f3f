//! Known issues of upstream that the template shows: the permissions of the role that cleans up. Pure.
//!
//! The role stands in the template of 3.0.0 to 3.13.2 where the configuration names none of its own
//! (`Build.Iam.CleanupLambdaRole`). From 3.14.0 on one role serves all builds.

use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::template::cloudformation::select_resources;

const ROLE: &str = "DeleteStackFunctionExecutionRole";

/// An issue, and the actions whose lack is its sign.
struct Issue {
    id: &'static str,
    actions: &'static [&'static str],
    lack: &'static str,
    cost: &'static str,
    fix: &'static str,
    references: &'static [&'static str],
}

const ISSUES: [Issue; 2] = [
    Issue {
        id: "cleanup-role-3867",
        actions: &["imagebuilder:GetImage", "imagebuilder:CancelImageCreation"],
        lack: "may not read or cancel the build",
        cost: "The image is built, but its stack ends in DELETE_FAILED and has to be deleted by hand.",
        fix: "aws-parallelcluster 3.1.3 or later, or a role of your own in Build.Iam.CleanupLambdaRole",
        references: &["https://github.com/aws/aws-parallelcluster/issues/3867"],
    },
    Issue {
        id: "cleanup-role-5914",
        actions: &["iam:GetRole"],
        lack: "may not read the roles that it deletes",
        cost: "The image is right, but its stack can end in DELETE_FAILED and has to be deleted by hand.",
        fix: "aws-parallelcluster 3.14.0 or later, or a role of your own in Build.Iam.CleanupLambdaRole",
        references: &[
            "https://github.com/aws/aws-parallelcluster/issues/5914",
            "https://github.com/aws/aws-parallelcluster/issues/6478",
        ],
    },
];

/// Finds the issues that this template has.
pub fn check(template: &Value) -> Vec<Finding> {
    let roles = select_resources(template, "AWS::IAM::Role");
    let Some((_, role)) = roles.into_iter().find(|(name, _)| *name == ROLE) else { return Vec::new() };
    let Some(actions) = collect_actions(role) else { return Vec::new() };
    let has = |action: &str| actions.iter().any(|own| covers(own, action));
    let found = ISSUES.iter().filter_map(|issue| {
        let missing: Vec<_> = issue.actions.iter().filter(|action| !has(action)).collect();
        (!missing.is_empty()).then(|| describe(issue, &missing))
    });
    found.collect()
}

fn describe(issue: &Issue, missing: &[&&str]) -> Finding {
    let names = missing.iter().map(|name| **name).collect::<Vec<_>>().join(", ");
    Finding {
        id: issue.id.into(),
        // The image can be used, and the AMI found.
        level: Level::Info,
        kind: Kind::KnownIssue,
        message: format!("the stack's clean-up role {} ({names})", issue.lack),
        cost: Some(issue.cost.into()),
        evidence: json!({"path": format!("$.Resources.{ROLE}.Properties.Policies"), "missing": missing}),
        fix: Some(Fix::by_hand(issue.fix.into())),
        references: issue.references.iter().map(|reference| (*reference).to_owned()).collect(),
        is_told_by_guard: false,
        shows: None,
    }
}

/// The actions that the role's own policies allow; `None` where they cannot be read for sure.
fn collect_actions(role: &Value) -> Option<Vec<&str>> {
    let mut actions = Vec::new();
    for policy in role["Properties"]["Policies"].as_array()? {
        let statements = policy["PolicyDocument"]["Statement"].as_array()?;
        for statement in statements.iter().filter(|statement| statement["Effect"] != "Deny") {
            match &statement["Action"] {
                Value::String(action) => actions.push(action.as_str()),
                Value::Array(list) => actions.extend(list.iter().filter_map(Value::as_str)),
                _ => return None,
            }
        }
    }
    Some(actions)
}

/// Whether an action of a policy, which may end in a wildcard, covers another. IAM ignores their case.
fn covers(allowed: &str, action: &str) -> bool {
    let (allowed, action) = (allowed.to_ascii_lowercase(), action.to_ascii_lowercase());
    match allowed.split_once('*') {
        Some((prefix, _)) => action.starts_with(prefix),
        None => allowed == action,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(role: &str, actions: &Value) -> Vec<String> {
        let policy = json!({"PolicyDocument": {"Statement": [{"Action": actions}, {"Action": "logs:DeleteLogGroup"}]}});
        let role_resource = json!({"Type": "AWS::IAM::Role", "Properties": {"Policies": [policy]}});
        let findings = check(&json!({"Resources": {role: role_resource}}));
        findings.into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn a_missing_permission_is_its_issue() {
        let all = ["imagebuilder:GetImage", "imagebuilder:CancelImageCreation", "iam:GetRole"];
        assert_eq!(found(ROLE, &json!([])), ["cleanup-role-3867", "cleanup-role-5914"]);
        assert_eq!(found(ROLE, &json!(all[..2])), ["cleanup-role-5914"]);
        assert_eq!(found(ROLE, &json!([all[0], all[2]])), ["cleanup-role-3867"]);
        assert!(found(ROLE, &json!(all)).is_empty());
        assert!(found(ROLE, &json!(["ImageBuilder:*", "IAM:Get*"])).is_empty());
        assert!(found(ROLE, &json!("*")).is_empty());
        // Another role is no clean-up role, and what cannot be read is no lack.
        assert!(found("InstanceRole", &json!([])).is_empty());
        assert!(found(ROLE, &json!({"Fn::If": []})).is_empty());
    }
}
