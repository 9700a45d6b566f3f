//! Known upstream issues that a template shows: permissions that the clean-up role lacks. The clean-up role
//! is the role of the Lambda function that deletes the build's stack. Pure.
//!
//! The templates of 3.0.0 to 3.13.2 contain the clean-up role unless the configuration names another role
//! (`Build.Iam.CleanupLambdaRole`). From 3.14.0 on, all builds share one role. The template then contains
//! only the ARN of the shared role, which ends in the role's revision.

use pep440_rs::VersionSpecifiers;
use serde_json::{Value, json};

use crate::model::fields::parse_specifiers;
use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::advisories::contains;
use crate::rules::template::cloudformation::{format_resource, select_resources};
use crate::rules::template::recipe::flatten_text;

const ROLE: &str = "DeleteStackFunctionExecutionRole";
const FUNCTION: &str = "DeleteStackFunction";
/// Part of the shared role's ARN: the path, and the beginning of the name.
const COMMON_ROLE: &str = ":role/parallelcluster/PClusterBuildImageCleanupRole-";
/// The releases whose shared clean-up role has the issue `LOG_GROUP`. That role is not in the template, so
/// only the release shows the issue.
const HAVE_LOG_GROUP_ISSUE: &str = ">=3.14.0,<3.16.3";

/// An issue of the clean-up role. A role that lacks one of the `actions` has the issue. `LOG_GROUP` and
/// `REVISION_1` are found in other ways.
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
        lack: "is not allowed to read or cancel the build",
        cost: "The image is built, but its stack ends in DELETE_FAILED and has to be deleted by hand.",
        fix: "upgrade aws-parallelcluster to 3.1.3 or later, or set Build.Iam.CleanupLambdaRole to your own role",
        references: &["https://github.com/aws/aws-parallelcluster/issues/3867"],
    },
    Issue {
        id: "cleanup-role-5914",
        actions: &["iam:GetRole"],
        lack: "is not allowed to read the roles that it deletes",
        cost: "The image is fine, but its stack can end in DELETE_FAILED and has to be deleted by hand.",
        fix: "upgrade aws-parallelcluster to 3.14.0 or later, or set Build.Iam.CleanupLambdaRole to your own role",
        references: &[
            "https://github.com/aws/aws-parallelcluster/issues/5914",
            "https://github.com/aws/aws-parallelcluster/issues/6478",
        ],
    },
];

const LOG_GROUP: Issue = Issue {
    id: "cleanup-role-log-group",
    actions: &["logs:DeleteLogGroup"],
    lack: "is allowed to delete its log group only by an ARN that CloudWatch Logs will no longer accept",
    cost: "The image is fine, but its stack ends in DELETE_FAILED once CloudWatch Logs enforces the new form.",
    fix: "upgrade aws-parallelcluster to 3.16.3 or later, or set Build.Iam.CleanupLambdaRole to your own role",
    references: &["https://github.com/aws/aws-parallelcluster/wiki"],
};

const REVISION_1: Issue = Issue {
    id: "cleanup-role-revision-1",
    actions: &[],
    lack: "is revision 1, which lacks permissions",
    cost: "The image is fine, but its stack can be left behind and has to be deleted by hand.",
    fix: "upgrade aws-parallelcluster to 3.14.2 or later, or set Build.Iam.CleanupLambdaRole to your own role",
    references: &["https://github.com/aws/aws-parallelcluster/pull/7087"],
};

/// Finds the issues that this template has. `pcluster` is the installed release, if there is one.
pub fn check(template: &Value, pcluster: Option<&str>) -> Vec<Finding> {
    let roles = select_resources(template, "AWS::IAM::Role");
    match roles.into_iter().find(|(name, _)| *name == ROLE) {
        Some((_, role)) => check_own_role(role),
        None => check_common_role(template, pcluster),
    }
}

/// Checks the role that the stack creates for itself.
fn check_own_role(role: &Value) -> Vec<Finding> {
    let path = format!("{}.Properties.Policies", format_resource(ROLE));
    let Some(statements) = collect_statements(role) else { return Vec::new() };
    let Some(actions) = statements.iter().map(|statement| actions_of(statement)).collect::<Option<Vec<_>>>()
    else {
        return Vec::new();
    };
    let has = |action: &str| actions.iter().flatten().any(|own| covers(own, action));
    let mut found: Vec<_> = ISSUES
        .iter()
        .filter_map(|issue| {
            let missing: Vec<_> = issue.actions.iter().copied().filter(|action| !has(action)).collect();
            (!missing.is_empty()).then(|| describe(issue, &path, &missing))
        })
        .collect();
    let deleting = statements
        .iter()
        .zip(&actions)
        .filter(|(_, actions)| actions.iter().any(|own| covers(own, LOG_GROUP.actions[0])));
    let resources: Vec<String> = deleting.flat_map(|(statement, _)| resources_of(statement)).collect();
    if !resources.is_empty() && resources.iter().all(|resource| resource.ends_with(":*")) {
        found.push(describe(&LOG_GROUP, &path, LOG_GROUP.actions));
    }
    found
}

/// Checks the role that all builds of an account share.
fn check_common_role(template: &Value, pcluster: Option<&str>) -> Vec<Finding> {
    let functions = select_resources(template, "AWS::Lambda::Function");
    let Some((_, function)) = functions.into_iter().find(|(name, _)| *name == FUNCTION) else {
        return Vec::new();
    };
    let role = flatten_text(&function["Properties"]["Role"]);
    if !role.contains(COMMON_ROLE) {
        return Vec::new();
    }
    let path = format!("{}.Properties.Role", format_resource(FUNCTION));
    let affected = |releases: &VersionSpecifiers| pcluster.is_some_and(|release| contains(releases, release));
    let mut found = Vec::new();
    if role.ends_with("-v1") {
        found.push(describe(&REVISION_1, &path, &[]));
    }
    if parse_specifiers(HAVE_LOG_GROUP_ISSUE).is_ok_and(|releases| affected(&releases)) {
        found.push(describe(&LOG_GROUP, &path, LOG_GROUP.actions));
    }
    found
}

fn describe(issue: &Issue, path: &str, actions: &[&str]) -> Finding {
    let names = if actions.is_empty() { String::new() } else { format!(" ({})", actions.join(", ")) };
    let message = format!("the stack's clean-up role {}{names}", issue.lack);
    Finding {
        cost: Some(issue.cost.into()),
        evidence: json!({"path": path, "missing": actions}),
        fix: Some(Fix::by_hand(issue.fix.into())),
        references: issue.references.iter().map(|reference| (*reference).to_owned()).collect(),
        // Only an INFO: in spite of the issue, the image is usable, and pcluster can find the AMI.
        ..Finding::new(issue.id, Level::Info, Kind::KnownIssue, message)
    }
}

/// The statements with which the role's own policies allow something; `None` if they cannot be read with
/// certainty.
fn collect_statements(role: &Value) -> Option<Vec<&Value>> {
    let mut found = Vec::new();
    for policy in role["Properties"]["Policies"].as_array()? {
        let statements = policy["PolicyDocument"]["Statement"].as_array()?;
        found.extend(statements.iter().filter(|statement| statement["Effect"] != "Deny"));
    }
    Some(found)
}

fn actions_of(statement: &Value) -> Option<Vec<&str>> {
    match &statement["Action"] {
        Value::String(action) => Some(vec![action.as_str()]),
        Value::Array(list) => Some(list.iter().filter_map(Value::as_str).collect()),
        _ => None,
    }
}

fn resources_of(statement: &Value) -> Vec<String> {
    match &statement["Resource"] {
        Value::Array(list) => list.iter().map(flatten_text).collect(),
        Value::Null => Vec::new(),
        one => vec![flatten_text(one)],
    }
}

/// Whether an action that a policy allows covers `action`. `allowed` may end in a wildcard. IAM ignores the
/// case of actions.
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

    fn ids(template: &Value, pcluster: &str) -> Vec<String> {
        check(template, Some(pcluster)).into_iter().map(|finding| finding.id).collect()
    }

    fn with_statements(role: &str, statements: &Value) -> Vec<String> {
        let policy = json!({"PolicyDocument": {"Statement": statements}});
        let role_resource = json!({"Type": "AWS::IAM::Role", "Properties": {"Policies": [policy]}});
        ids(&json!({"Resources": {role: role_resource}}), "3.13.2")
    }

    fn found(role: &str, actions: &Value) -> Vec<String> {
        with_statements(role, &json!([{"Action": actions}, {"Action": "logs:DeleteLogGroup"}]))
    }

    #[test]
    fn a_log_group_by_the_old_form_alone_is_told() {
        let all = json!({"Action": ["ImageBuilder:*", "IAM:Get*"], "Resource": "*"});
        let delete = |resource: &Value| json!([all, {"Action": "logs:DeleteLogGroup", "Resource": resource}]);
        let join = |end: &str| json!({"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, end]]});
        for old in [join(":logs:x:*"), json!([join(":*")]), json!("arn:aws:logs:x:y:log-group:z:*")] {
            assert_eq!(with_statements(ROLE, &delete(&old)), ["cleanup-role-log-group"], "{old}");
        }
        for new in [join(":logs:x"), json!([join(":*"), join(":x")]), json!("*"), join("-*")] {
            assert!(with_statements(ROLE, &delete(&new)).is_empty(), "{new}");
        }
    }

    #[test]
    fn the_common_role_is_judged_by_its_revision_and_the_release() {
        let with_role = |role: &Value| {
            json!({"Resources": {FUNCTION: {
                "Type": "AWS::Lambda::Function", "Properties": {"Role": role},
            }}})
        };
        let sub = |revision: u32| format!("arn:${{AWS::Partition}}:iam::1{COMMON_ROLE}abc-v{revision}");
        let common = |revision: u32| with_role(&json!({"Fn::Sub": sub(revision)}));
        assert_eq!(ids(&common(1), "3.14.0"), ["cleanup-role-revision-1", "cleanup-role-log-group"]);
        assert_eq!(ids(&common(2), "3.16.2"), ["cleanup-role-log-group"]);
        assert!(ids(&common(2), "3.16.3").is_empty());
        assert!(ids(&with_role(&json!("arn:aws:iam::1:role/mine")), "3.14.0").is_empty());
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
        // Other roles are not clean-up roles, and what cannot be read does not count as missing.
        assert!(found("InstanceRole", &json!([])).is_empty());
        assert!(found(ROLE, &json!({"Fn::If": []})).is_empty());
    }
}
