//! The smallest IAM policies for `preflight images` and `preflight check --aws`.

use serde_json::{Value, json};

use crate::cli::args::Policy;
use crate::report;

/// The policy for `preflight images`, as JSON for `aws iam create-policy --policy-document`.
pub fn render(policy: Policy) -> String {
    let mut statements = list();
    match policy {
        Policy::List => {}
        Policy::Repair => statements.push(allow_made(&["ec2:CreateTags"], "arn:*:ec2:*::image/*")),
        Policy::Delete => statements.extend(delete()),
    }
    report::format_json(&json!({"Version": "2012-10-17", "Statement": statements}))
}

/// The policy for `preflight check --aws`, as JSON for `--policy-document`.
pub fn render_check() -> String {
    let read = [
        "ec2:DescribeImages",
        "ec2:DescribeRouteTables",
        "ec2:DescribeSubnets",
        "imagebuilder:GetComponent",
        "imagebuilder:GetImage",
    ];
    // If a component's script is missing, S3 answers "not found" only to callers with the permission
    // s3:ListBucket. Other callers get "denied".
    let statements = [allow(&read, "*"), allow(&["s3:GetObject", "s3:ListBucket"], "arn:*:s3:::*")];
    report::format_json(&json!({"Version": "2012-10-17", "Statement": statements}))
}

fn allow(actions: &[&str], resource: &str) -> Value {
    json!({"Effect": "Allow", "Action": actions, "Resource": resource})
}

/// Allows the actions only on resources that have the tag of EC2 Image Builder.
fn allow_made(actions: &[&str], resource: &str) -> Value {
    let mut statement = allow(actions, resource);
    statement["Condition"] = json!({"StringEquals": {"aws:ResourceTag/CreatedBy": "EC2 Image Builder"}});
    statement
}

fn list() -> Vec<Value> {
    let describe = [
        "autoscaling:DescribeLaunchConfigurations",
        "ec2:DescribeImages",
        "ec2:DescribeImageAttribute",
        "ec2:DescribeImageReferences",
        "ec2:DescribeInstances",
        "ec2:DescribeLaunchTemplateVersions",
        "ec2:DescribeRegions",
        "ec2:DescribeSnapshots",
        "cloudformation:DescribeStackResource",
        "cloudformation:DescribeStacks",
        "cloudformation:GetTemplate",
        "cloudformation:ListStacks",
        "iam:ListAccountAliases",
        "logs:DescribeLogGroups",
    ];
    vec![
        allow(&describe, "*"),
        // ListBucketVersions is needed only after an interrupted deletion, to find out what that deletion has
        // left behind.
        allow(&["s3:ListBucket", "s3:ListBucketVersions"], "arn:*:s3:::parallelcluster-*-v1-do-not-delete"),
        allow(&["s3:GetObject"], "arn:*:s3:::parallelcluster-*-v1-do-not-delete/parallelcluster/*"),
    ]
}

/// The statements that a deletion needs in addition to those of [`list`]. They do not allow the deletion of
/// snapshots that lack Image Builder's tag. For these, a user has to add a statement without the condition
/// of [`allow_made`].
fn delete() -> Vec<Value> {
    let bucket = "arn:*:s3:::parallelcluster-*-v1-do-not-delete";
    vec![
        allow_made(&["ec2:DeregisterImage"], "arn:*:ec2:*::image/*"),
        allow_made(&["ec2:DeleteSnapshot"], "arn:*:ec2:*::snapshot/*"),
        allow(&["s3:DeleteObject", "s3:DeleteObjectVersion"], &format!("{bucket}/parallelcluster/*")),
        allow(&["logs:DeleteLogGroup"], "arn:*:logs:*:*:log-group:/aws/imagebuilder/ParallelClusterImage-*"),
    ]
}
