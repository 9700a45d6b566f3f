//! `preflight images`: list, repair and delete the AMIs of broken builds. The plan is made of one inventory, shown,
//! confirmed, and only then carried out.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use crate::cli::args::{Common, Format, ImagesArgs};
use crate::error::{Abort, Error, Interrupted, PREFIX};
use crate::images::class::Class;
use crate::images::client::{Client, StepResult};
use crate::images::deletions::Deletions;
use crate::images::image::{Action, Image};
use crate::images::inventory::{Deletion, Inventory, Skipped, Unfinished};
use crate::images::plan::{Step, Task, plan_deletion, plan_repair, plan_rest};
use crate::images::report::{Kept, Listing};
use crate::images::rules::{Selection, examine};
use crate::outcome::Outcome;
use crate::preflight::context::with_aws;
use crate::preflight::iam_policy;
use crate::progress::Progress;
use crate::report;
use crate::system;
use crate::system::signals::Interrupts;

/// The AMIs that Image Builder has made from a recipe of pcluster's.
const PATTERN: &str = "arn:*:imagebuilder:*:*:image/parallelclusterimage-*";

/// Lists what broken builds have left, and repairs or deletes it where that is asked for.
pub fn run(arguments: &ImagesArgs, common: &Common) -> Result<Outcome, Abort> {
    if let Some(policy) = arguments.print_policy {
        return Ok(Outcome::success(iam_policy::render(policy)));
    }
    with_aws(common, |client, progress| Images { arguments, common, client, progress }.run())
}

struct Images<'a> {
    arguments: &'a ImagesArgs,
    common: &'a Common,
    client: &'a Client<'a>,
    progress: Progress,
}

impl Images<'_> {
    fn run(&self) -> Result<Outcome, Abort> {
        let deletions = Deletions::find();
        let begun = match &deletions {
            Ok(deletions) => deletions.read(),
            Err(_) => Ok(Vec::new()),
        };
        let (begun, unread) = match begun {
            Ok(begun) => (begun, None),
            Err(message) if self.arguments.delete => {
                return Err(Error::Images { message, next: READ_DELETIONS }.into());
            }
            Err(why) => {
                let source = "deletions that were cut off".to_owned();
                (Vec::new(), Some(Skipped { source, why, permission: None }))
            }
        };
        let inventory = self.take_inventory(&begun)?;
        let ended = deletions.as_ref().ok().filter(|_| self.arguments.delete);
        let unfinished = find_unfinished(&inventory, begun, ended);
        let mut listing = Listing {
            images: examine(&inventory, &self.selection()),
            unfinished,
            account: inventory.account.clone(),
            regions: inventory.regions.clone(),
            skipped: inventory.skipped.iter().cloned().chain(unread).collect(),
            ended: Vec::new(),
            kept: Vec::new(),
            today: system::today(),
            is_named: self.arguments.image.is_some() || self.arguments.image_id.is_some(),
        };
        if self.arguments.repair || self.arguments.delete {
            return self.change(&mut listing, deletions);
        }
        let status = u8::from(listing.has_orphans() || listing.names_nothing());
        Ok(self.render(status, &listing, listing.render_list()))
    }

    fn selection(&self) -> Selection {
        Selection { image_id: self.arguments.image_id.clone(), ami: self.arguments.image.clone() }
    }

    fn take_inventory(&self, begun: &[Deletion]) -> Result<Inventory, Abort> {
        let _step = self.progress.step("looking for AMIs of pcluster");
        self.client.take_inventory(json!({
            "region": self.arguments.region,
            "allRegions": self.arguments.all_regions,
            "buckets": self.arguments.bucket,
            "imageIds": self.arguments.image_id.iter().collect::<Vec<_>>(),
            "ids": self.arguments.image.iter().collect::<Vec<_>>(),
            "pattern": PATTERN,
            "remains": begun,
        }))
    }

    fn render(&self, status: u8, listing: &Listing, text: String) -> Outcome {
        let stdout = match self.common.format {
            _ if self.common.quiet => String::new(),
            Format::Json => report::format_json(&listing.to_json()),
            _ => text,
        };
        Outcome::Exit { status, stdout, stderr: String::new() }
    }

    /// Plans, shows the plan, asks, and carries it out.
    fn change(&self, listing: &mut Listing, deletions: Result<Deletions, String>) -> Result<Outcome, Abort> {
        let tasks = self.plan(listing);
        let is_refused = listing.images.iter().any(|image| self.is_refused(image, listing.is_named));
        let plan = listing.render_plan(self.arguments.delete);
        let names_nothing = listing.names_nothing() && tasks.is_empty();
        if tasks.is_empty() || self.arguments.dry_run {
            let status = u8::from(is_refused || names_nothing);
            return Ok(self.render(status, listing, plan));
        }
        if !self.common.quiet || !self.arguments.yes {
            // What is asked about, and with --yes the record of it.
            Progress::Lines.write_output(&plan, true);
        }
        if !self.is_confirmed()? {
            return Err(Error::Images { message: "nothing was changed".into(), next: ANSWER }.into());
        }
        let deletions = match deletions {
            Err(message) if self.arguments.delete => {
                return Err(Error::Images { message, next: STATE_HOME }.into());
            }
            other => other.ok(),
        };
        let Carried { failures, kept } = self.carry_out(&tasks, deletions.as_ref())?;
        for image in &mut listing.images {
            self.note(image, &tasks, &failures);
        }
        listing.note_kept(kept);
        let unfinished = std::mem::take(&mut listing.unfinished);
        (listing.unfinished, listing.ended) = unfinished.into_iter().partition(|left| {
            let ami = &left.deletion.ami;
            failures.iter().any(|(failed, _)| failed == ami) || tasks.iter().all(|task| task.ami != *ami)
        });
        let status = u8::from(is_refused || !failures.is_empty() || !listing.kept.is_empty());
        let done = listing.render_done(self.arguments.delete, &failures);
        Ok(self.render(status, listing, done))
    }

    /// Whether something that was asked for is not done.
    fn is_refused(&self, image: &Image, is_named: bool) -> bool {
        let action = if self.arguments.delete { image.delete } else { image.repair };
        let counts = match image.class {
            Class::Orphan => true,
            // A second repair of one image has nothing to do.
            Class::Healthy => self.arguments.delete && is_named,
            _ => is_named,
        };
        counts && action == Action::Refused
    }

    fn is_confirmed(&self) -> Result<bool, Abort> {
        if self.arguments.yes {
            return Ok(true);
        }
        let what = if self.arguments.delete { "Delete them?" } else { "Write these tags?" };
        confirm(what)?.ok_or_else(|| Error::Unconfirmed.into())
    }

    fn plan(&self, listing: &Listing) -> Vec<Task> {
        if !self.arguments.delete {
            let possible = listing.images.iter().filter(|image| image.repair == Action::Possible);
            return possible.map(plan_repair).collect();
        }
        let is_selected = |left: &&Unfinished| {
            self.arguments.image_id.is_none()
                && self.arguments.image.as_ref().is_none_or(|ami| *ami == left.deletion.ami)
        };
        let left = listing.unfinished.iter().filter(is_selected).map(plan_rest);
        let possible = listing.images.iter().filter(|image| image.delete == Action::Possible);
        left.chain(possible.map(|image| plan_deletion(image, &listing.account))).collect()
    }

    /// Carries the tasks out one after the other. Where AWS cannot be asked any more, the rest has failed too.
    fn carry_out(&self, tasks: &[Task], deletions: Option<&Deletions>) -> Result<Carried, Abort> {
        let _lock = deletions.filter(|_| self.arguments.delete).map(lock).transpose()?;
        let what = if self.arguments.delete { "deleting" } else { "writing tags of" };
        let _step = self.progress.step(&format!("{what} {} AMIs", tasks.len()));
        let mut carried = Carried::default();
        let mut unreachable: Option<String> = None;
        for task in tasks {
            let failure = match &unreachable {
                Some(message) => Some(message.clone()),
                None => match self.carry_out_one(task, deletions, &mut carried.kept) {
                    Ok(failure) => failure,
                    Err(Abort::Error(error)) => {
                        unreachable = Some(format!("not begun: {error}"));
                        Some(error.to_string())
                    }
                    Err(interrupted) => return Err(interrupted),
                },
            };
            carried.failures.extend(failure.map(|why| (task.ami.clone(), why)));
        }
        Ok(carried)
    }

    /// Carries one task out; returns why it failed, where it did.
    fn carry_out_one(
        &self,
        task: &Task,
        deletions: Option<&Deletions>,
        kept: &mut Vec<Kept>,
    ) -> Result<Option<String>, Abort> {
        let record = deletions.zip(task.deletion.as_ref());
        if let Some((deletions, deletion)) = record {
            deletions.begin(deletion).map_err(|message| Error::Images { message, next: STATE_HOME })?;
        }
        let results = self.client.apply(self.arguments.region.as_deref(), &task.steps)?;
        for (number, step) in task.steps.iter().enumerate() {
            let result = results.get(number);
            let Some(StepResult { message, .. }) = result.filter(|result| result.ok) else {
                return Ok(Some(describe_failure(&task.steps[..number], step, result)));
            };
            if let (Step::Snapshot { snapshot, .. }, Some(why)) = (step, message) {
                kept.push(Kept { ami: task.ami.clone(), snapshot: snapshot.clone(), why: why.clone() });
            }
        }
        if let Some((deletions, deletion)) = record {
            deletions.end(deletion);
        }
        Ok(None)
    }

    /// Notes on an image what has become of it.
    fn note(&self, image: &mut Image, tasks: &[Task], failures: &[(String, String)]) {
        if !tasks.iter().any(|task| task.ami == image.ami) {
            return;
        }
        let failure = failures.iter().find(|(ami, _)| *ami == image.ami);
        let action = if failure.is_some() { Action::Refused } else { Action::Done };
        image.reasons.extend(failure.map(|(_, why)| format!("failed: {why}")));
        *(if self.arguments.delete { &mut image.delete } else { &mut image.repair }) = action;
    }
}

/// What has become of tasks.
#[derive(Default)]
struct Carried {
    /// AMIs, and why.
    failures: Vec<(String, String)>,
    kept: Vec<Kept>,
}

/// How often a wait for the answer asks for a signal.
const SIGNAL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

const READ_DELETIONS: &str =
    "It tells which snapshots a deletion has left. Correct that, or remove the file if they are gone.";
const STATE_HOME: &str = "Nothing was changed. Set XDG_STATE_HOME to a directory that can be written.";
const ANSWER: &str = "Answer y to go on, or give --yes.";

/// Deletions whose AMI is gone and that have left something. Of those that have left nothing the records in `ended`
/// are removed, which a listing does not do: EC2 shows what it has with a delay.
fn find_unfinished(
    inventory: &Inventory,
    begun: Vec<Deletion>,
    ended: Option<&Deletions>,
) -> Vec<Unfinished> {
    // A record of a running deletion is not to be removed.
    let lock = ended.filter(|_| !begun.is_empty()).and_then(Deletions::try_lock);
    let mut unfinished = Vec::new();
    let is_asked = |deletion: &Deletion| {
        deletion.account == inventory.account && inventory.regions.contains(&deletion.region)
    };
    for mut deletion in begun.into_iter().filter(is_asked) {
        let is_same = |ami: &str, region: &str| ami == deletion.ami && region == deletion.region;
        let Some(left) = inventory.remains.iter().find(|left| is_same(&left.ami, &left.region)) else {
            continue;
        };
        if left.image {
            // It had not begun, or the AMI was restored: the next deletion is planned anew.
            continue;
        }
        if !left.directory {
            deletion.directory = None;
        }
        if left.snapshots.is_empty() && !left.directory {
            if let (Some(deletions), Some(_)) = (ended, &lock) {
                deletions.end(&deletion);
            }
            continue;
        }
        unfinished.push(Unfinished { snapshots: left.snapshots.clone(), deletion });
    }
    unfinished
}

fn describe_failure(done: &[Step], step: &Step, result: Option<&StepResult>) -> String {
    let why = result.and_then(|result| result.message.as_deref()).unwrap_or("AWS gave no answer");
    let needs = result.and_then(|result| result.permission.as_deref());
    let needs = needs.map(|permission| format!(" (it needs {permission})")).unwrap_or_default();
    let done: Vec<String> = done.iter().map(Step::to_string).collect();
    let done = if done.is_empty() { String::new() } else { format!("; done before: {}", done.join(", ")) };
    format!("to {step}: {why}{needs}{done}")
}

/// Keeps other deletions out, and a listing from taking the record of a running one for an old one.
fn lock(deletions: &Deletions) -> Result<File, Error> {
    deletions.try_lock().ok_or_else(|| Error::Images {
        message: "another deletion is running, or its record cannot be written".into(),
        next: "Nothing was changed. Run it again when the other has ended, or set XDG_STATE_HOME.",
    })
}

/// Asks to go on; `None` where there is no terminal to ask at. Everything but y or yes is no.
fn confirm(question: &str) -> Result<Option<bool>, Interrupted> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let interrupts = Interrupts::caught();
    let _ = write!(io::stderr(), "{PREFIX}{question} [y/N] ");
    let stdin = io::stdin();
    loop {
        interrupts.check()?;
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        // A signal ends the wait with an error, and is seen above.
        if matches!(poll(&mut polled, Some(&SIGNAL_INTERVAL)), Ok(1..)) {
            let mut line = String::new();
            let _ = stdin.lock().read_line(&mut line);
            return Ok(Some(["y", "yes"].contains(&line.trim().to_lowercase().as_str())));
        }
    }
}
