//! `preflight stack`.

use std::time::Instant;

use crate::cli::args::{Common, Deny};
use crate::error::{Abort, Error};
use crate::images::client::{Client, StackTemplate};
use crate::outcome::Outcome;
use crate::preflight::context::{deny, render_report, with_aws};
use crate::preflight::template::check_template;
use crate::report::Verdict;
use crate::rules::template::cloudformation;

/// Checks the template of a stack in AWS.
pub fn run(
    name: &str,
    region: Option<&str>,
    denied: Option<Deny>,
    common: &Common,
) -> Result<Outcome, Abort> {
    let since = Instant::now();
    let stack = with_aws(common, |client: &Client, progress| {
        let _step = progress.step(&format!("getting the template of stack {name}"));
        client.get_stack(name, region)
    })?;
    let template = cloudformation::parse(stack.template.as_bytes())
        .map_err(|message| Error::NotATemplate { file: format!("stack {}", stack.name), message })?;
    let mut report = check_template(&template, since);
    deny(&mut report, denied);
    let is_broken = report.verdict == Verdict::Blocked;
    let outcome = render_report(&report, common);
    let advice = if is_broken { advise(&stack) } else { None };
    match (outcome, advice) {
        (Outcome::Exit { status, stdout, .. }, Some(advice)) => {
            Ok(Outcome::Exit { status, stdout, stderr: crate::error::prefix_lines(&advice) })
        }
        (outcome, _) => Ok(outcome),
    }
}

/// What can still be saved. Not `pcluster delete-image`, which can take the healthy image of another id.
fn advise(stack: &StackTemplate) -> Option<String> {
    let StackTemplate { name, region, status, .. } = stack;
    (status == "CREATE_IN_PROGRESS").then(|| {
        format!(
            "stack {name} is building now ({status}): the rest of its hour can still be saved.\n\
             aws cloudformation delete-stack --stack-name {name} --region {region}"
        )
    })
}
