//! Carries out the tasks of a plan, one AMI after another. The record of a deletion is written before the
//! deletion's first call to AWS, and removed after its last.

use crate::error::{Abort, Error};
use crate::images::client::{Client, StepResult};
use crate::images::deletions::Deletions;
use crate::images::image::format_place;
use crate::images::listing::Outcomes;
use crate::images::plan::{Step, Task};

/// The advice if a deletion cannot be recorded.
pub const STATE_HOME: &str = "Nothing was changed. Set XDG_STATE_HOME to a writable directory.";

/// Carries out the tasks, and notes the result of each in `outcomes`. If a signal interrupts the work,
/// `outcomes` keeps the results so far. If a task cannot reach AWS, or cannot record its deletion, this task
/// and all later tasks count as failed. `deletions` is needed only for a deletion.
pub fn carry_out(
    client: &Client,
    tasks: &[Task],
    deletions: Option<&Deletions>,
    outcomes: &mut Outcomes,
) -> Result<(), Abort> {
    let _lock = deletions.map(Deletions::lock).transpose()?;
    let mut unreachable: Option<String> = None;
    for task in tasks {
        let failure = match &unreachable {
            Some(message) => Some(message.clone()),
            None => match carry_out_one(client, task, deletions, outcomes) {
                Ok(failure) => failure,
                Err(Abort::Error(error)) => {
                    unreachable = Some(format!("not started: {error}"));
                    Some(error.to_string())
                }
                Err(interrupted) => return Err(interrupted),
            },
        };
        match failure {
            Some(why) => outcomes.failed.push((task.ami.clone(), why)),
            None => outcomes.done.push(task.ami.clone()),
        }
    }
    Ok(())
}

/// Carries out one task; if it fails, returns why.
fn carry_out_one(
    client: &Client,
    task: &Task,
    deletions: Option<&Deletions>,
    outcomes: &mut Outcomes,
) -> Result<Option<String>, Abort> {
    let record = deletions.zip(task.deletion.as_ref());
    if let Some((deletions, deletion)) = record {
        deletions.begin(deletion).map_err(|message| Error::Failed { message, next: STATE_HOME.into() })?;
    }
    let results = client.apply(task.region(), &task.steps)?;
    for (number, step) in task.steps.iter().enumerate() {
        let result = results.get(number);
        let Some(StepResult { message, .. }) = result.filter(|result| result.ok) else {
            return Ok(Some(describe_failure(&task.steps[..number], step, result)));
        };
        let Some(message) = message else { continue };
        match step {
            Step::Snapshot { snapshot, .. } => {
                outcomes.left.push((task.ami.clone(), format!("snapshot {snapshot}: {message}")));
            }
            Step::Directory { bucket, directory, .. } => {
                let place = format_place(bucket, directory);
                outcomes.left.push((task.ami.clone(), format!("{place}: {message}")));
            }
            _ => outcomes.notes.push((task.ami.clone(), message.clone())),
        }
    }
    if let Some((deletions, deletion)) = record {
        deletions.end(deletion);
    }
    Ok(None)
}

fn describe_failure(done: &[Step], step: &Step, result: Option<&StepResult>) -> String {
    let why = result.and_then(|result| result.message.as_deref()).unwrap_or("AWS gave no answer");
    let needs = result.and_then(|result| result.permission.as_deref());
    let needs = needs.map(|permission| format!(" (it needs {permission})")).unwrap_or_default();
    let done: Vec<String> = done.iter().map(Step::to_string).collect();
    let done = if done.is_empty() { String::new() } else { format!("; already done: {}", done.join(", ")) };
    format!("cannot {step}: {why}{needs}{done}")
}
