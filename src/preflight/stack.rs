//! `preflight stack`.

use std::time::Instant;

use crate::cli::args::{Common, Deny};
use crate::error::{Abort, Error, prefix_lines};
use crate::images::client::{Client, StackTemplate};
use crate::outcome::Outcome;
use crate::preflight::context::{deny, render_report, with_aws};
use crate::preflight::template::{BUILD_AGAIN, check_template};
use crate::report::Verdict;
use crate::rules::template::cloudformation;
use crate::text::printable::quote_for_shell;

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
    let build = Build::of(&stack);
    let mut report = check_template(&template, build.fix(), since);
    deny(&mut report, denied);
    let is_broken = report.verdict == Verdict::Blocked;
    let mut outcome = render_report(&report, common)?;
    if let Outcome::Exit { stderr, .. } = &mut outcome
        && is_broken
    {
        *stderr = prefix_lines(&build.advise(&stack));
    }
    Ok(outcome)
}

/// How far the build of a stack has got.
enum Build {
    Running,
    /// The build has created an AMI, as far as the stack shows.
    Ended,
    Failed,
}

impl Build {
    fn of(stack: &StackTemplate) -> Self {
        match stack.status.as_str() {
            "CREATE_IN_PROGRESS" => Self::Running,
            "CREATE_COMPLETE" | "DELETE_COMPLETE" | "DELETE_FAILED" | "DELETE_IN_PROGRESS" => Self::Ended,
            _ => Self::Failed,
        }
    }

    /// What can be done about lost tags.
    fn fix(&self) -> &'static str {
        match self {
            Self::Running => {
                "stop the build now, or let it finish and restore the tags with `pcluster preflight images --repair`"
            }
            Self::Ended => {
                "restore the tags with `pcluster preflight images --repair`; if the AMI is gone, build the image again \
                 in an environment that `pcluster preflight` finds ready"
            }
            Self::Failed => BUILD_AGAIN,
        }
    }

    /// The advice, with complete commands. It never includes `pcluster delete-image -i x`: if no AMI has the
    /// image id `x` in its tags, that command deletes an AMI whose Image Builder ARN only begins with
    /// `…:image/parallelclusterimage-x`. That can be the healthy AMI of the image id `x-2`.
    fn advise(&self, stack: &StackTemplate) -> String {
        let StackTemplate { name, region, status, .. } = stack;
        let (own_name, own_region) = (quote_for_shell(name), quote_for_shell(region));
        let repair = format!("pcluster preflight images --repair -i {own_name} -r {own_region}");
        match self {
            Self::Running => format!(
                "warning: stack {name} is still building ({status})\n\
                 hint: To stop it now and save the rest of the hour, run \
                 `aws cloudformation delete-stack --stack-name {own_name} --region {own_region}`.\n\
                 hint: To keep the build, let it finish, then restore the tags of its AMI with `{repair}`."
            ),
            Self::Ended => {
                format!("hint: To restore the tags of its AMI without another build, run `{repair}`.")
            }
            Self::Failed => String::new(),
        }
    }
}
