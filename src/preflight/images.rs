//! `preflight images`: lists, repairs and deletes the AMIs of broken builds. For a repair or a deletion, a
//! plan is made from a single inventory, shown, confirmed, and only then carried out.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use crate::cli::args::{Common, Format, ImagesArgs};
use crate::error::{Abort, Error, Interrupted};
use crate::images::carry_out::{STATE_HOME, carry_out};
use crate::images::class::Class;
use crate::images::client::Client;
use crate::images::commands::Commands;
use crate::images::deletions::{Deletions, find_unfinished};
use crate::images::human::{render_list, render_plan, render_question, render_result};
use crate::images::image::Action;
use crate::images::inventory::{Deletion, Inventory, Skipped};
use crate::images::listing::{Change, Identity, Listing, Outcomes, Stage};
use crate::images::plan::{Task, plan_deletion, plan_repair, plan_rest};
use crate::images::rules::examine;
use crate::images::selection::Selection;
use crate::outcome::Outcome;
use crate::preflight::context::{name_as_called, with_aws};
use crate::preflight::iam_policy;
use crate::progress::Progress;
use crate::report;
use crate::system;
use crate::system::signals::Interrupts;
use crate::system::terminal::fold_for;
use crate::text::printable::{count, quote_for_shell};

/// Matches the ARN of every image that Image Builder has created from one of pcluster's recipes.
const PATTERN: &str = "arn:*:imagebuilder:*:*:image/parallelclusterimage-*";

/// Lists what broken builds have left, and repairs or deletes it if requested.
pub fn run(arguments: &ImagesArgs, common: &Common) -> Result<Outcome, Abort> {
    if let Some(policy) = arguments.print_policy {
        return Ok(Outcome::success(iam_policy::render(policy)));
    }
    let change = match (arguments.repair, arguments.delete) {
        (true, _) => Some(Change::Repair),
        (_, true) => Some(Change::Delete),
        _ => None,
    };
    with_aws(common, |client, progress| {
        let selection = Selection { image_ids: arguments.image_id.clone(), amis: arguments.image.clone() };
        Images { arguments, common, client, progress, selection, change }.run()
    })
}

struct Images<'a> {
    arguments: &'a ImagesArgs,
    common: &'a Common,
    client: &'a Client<'a>,
    progress: Progress,
    selection: Selection,
    change: Option<Change>,
}

impl Images<'_> {
    fn run(&self) -> Result<Outcome, Abort> {
        let deletions = Deletions::find();
        let (begun, unread) = self.read_begun(&deletions)?;
        let inventory = self.take_inventory(&begun)?;
        let ended = deletions.as_ref().ok().filter(|_| self.deletes());
        let mut listing = self.make_listing(inventory, begun, ended, unread);
        if let Some(change) = self.change {
            return self.change(change, &mut listing, deletions);
        }
        let status = u8::from(listing.has_orphans() || !listing.missing.is_empty());
        let has_images = listing.select(Class::Orphan).next().is_some();
        listing.commands = Commands {
            repair: has_images.then(|| self.command(Change::Repair)),
            delete: listing.has_orphans().then(|| self.command(Change::Delete)),
            ..Commands::default()
        };
        let text = render_list(&listing);
        Ok(self.render(status, &listing, &text))
    }

    fn deletes(&self) -> bool {
        self.change == Some(Change::Delete)
    }

    /// Reads the records of deletions that earlier calls have begun. If they cannot be read, a deletion
    /// fails; a listing or a repair continues without them.
    fn read_begun(
        &self,
        deletions: &Result<Deletions, String>,
    ) -> Result<(Vec<Deletion>, Option<Skipped>), Abort> {
        let Ok(deletions) = deletions else { return Ok((Vec::new(), None)) };
        match deletions.read() {
            Ok(begun) => Ok((begun, None)),
            Err(message) if self.deletes() => {
                Err(Error::Failed { message, next: READ_DELETIONS.into() }.into())
            }
            Err(why) => {
                let source = "interrupted deletions".to_owned();
                Ok((Vec::new(), Some(Skipped { source, why, permission: None, bucket: None })))
            }
        }
    }

    fn take_inventory(&self, begun: &[Deletion]) -> Result<Inventory, Abort> {
        let _step = self.progress.step("looking for AMIs that pcluster built");
        self.client.take_inventory(json!({
            "region": self.arguments.region,
            "allRegions": self.arguments.all_regions,
            "alias": self.change.is_some(),
            "buckets": self.arguments.bucket,
            "imageIds": self.arguments.image_id,
            "ids": self.arguments.image,
            "pattern": PATTERN,
            "remains": begun,
        }))
    }

    fn make_listing(
        &self,
        inventory: Inventory,
        begun: Vec<Deletion>,
        ended: Option<&Deletions>,
        unread: Option<Skipped>,
    ) -> Listing {
        let mut images = examine(&inventory, &self.selection);
        let mut unfinished = find_unfinished(&inventory, begun, ended);
        unfinished.retain(|left| self.selection.selects_deletion(&left.deletion));
        let missing = self.selection.find_missing(&images, &unfinished);
        let today = system::today();
        if let Some(days) = self.arguments.older_than {
            images.retain(|image| image.age_in_days(today) > days);
        }
        Listing {
            images,
            unfinished,
            missing,
            today,
            identity: Identity {
                account: inventory.account,
                alias: inventory.alias,
                caller: inventory.caller,
                profile: inventory.profile,
                region: inventory.region,
                regions: inventory.regions,
            },
            skipped: inventory.skipped.into_iter().chain(unread).collect(),
            older_than: self.arguments.older_than,
            is_named: !self.selection.is_empty(),
            is_verbose: self.common.verbose,
            ..Listing::default()
        }
    }

    /// The command that was called, with `--repair` or `--delete` added.
    fn command(&self, change: Change) -> String {
        let change = if change == Change::Delete { "--delete" } else { "--repair" };
        let ImagesArgs { image_id, image, region, all_regions, bucket, older_than, .. } = self.arguments;
        let option = |flag: &str, value: &String| format!(" {flag} {}", quote_for_shell(value));
        let mut command = format!("pcluster preflight images {change}");
        command.extend(image_id.iter().map(|id| option("-i", id)));
        command.extend(image.iter().map(|ami| option("--image", ami)));
        command.extend(older_than.map(|days| format!(" --older-than {days}d")));
        command.extend(bucket.iter().map(|name| option("--bucket", name)));
        command.extend(region.iter().map(|region| option("-r", region)));
        command.extend(all_regions.then_some(" --all-regions"));
        command
    }

    fn render(&self, status: u8, listing: &Listing, text: &str) -> Outcome {
        let stdout = match self.common.format {
            _ if self.common.quiet => String::new(),
            Format::Json => report::format_json(&listing.to_json()),
            _ => fold_for(io::stdout(), text, "").into_owned(),
        };
        Outcome::Exit { status, stdout, stderr: String::new() }
    }

    /// Makes the plan, shows it, asks for confirmation, and carries it out.
    fn change(
        &self,
        change: Change,
        listing: &mut Listing,
        deletions: Result<Deletions, String>,
    ) -> Result<Outcome, Abort> {
        listing.stage = Stage::Plan(change);
        let tasks = plan(change, listing);
        let plan = render_plan(listing, change);
        if tasks.is_empty() || self.arguments.dry_run {
            return Ok(self.render(u8::from(listing.has_refusals(change)), listing, &plan));
        }
        if !self.common.quiet || !self.arguments.yes {
            // The confirmation prompt refers to this plan; with --yes, the plan is
            // the record of what was done.
            let plan = name_as_called(&plan);
            Progress::Lines.write_output(&fold_for(io::stderr(), &plan, ""), true);
        }
        let question = render_question(listing, change);
        if !self.arguments.yes && !confirm(&question)?.ok_or(Error::Unconfirmed)? {
            return Err(Error::Failed { message: "cancelled".into(), next: ANSWER.into() }.into());
        }
        let deletions = match deletions {
            Err(message) if self.deletes() => {
                return Err(Error::Failed { message, next: STATE_HOME.into() }.into());
            }
            other => other.ok().filter(|_| self.deletes()),
        };
        let is_refused = listing.has_refusals(change);
        let mut outcomes = Outcomes::default();
        if let Err(abort) = self.carry_out(&tasks, deletions.as_ref(), &mut outcomes) {
            self.explain_interruption(&abort, &tasks, &outcomes);
            return Err(abort);
        }
        listing.note_outcomes(change, outcomes);
        if !listing.outcomes.failed.is_empty() {
            let command = Some(self.command(change));
            listing.commands = if self.deletes() {
                Commands { delete: command, ..Commands::default() }
            } else {
                Commands { repair: command, ..Commands::default() }
            };
        }
        let status = u8::from(is_refused || listing.has_left());
        Ok(self.render(status, listing, &render_result(listing, change)))
    }

    fn carry_out(
        &self,
        tasks: &[Task],
        deletions: Option<&Deletions>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Abort> {
        let what = if self.deletes() { "deleting" } else { "writing tags to" };
        let _step = self.progress.step(&format!("{what} {}", count(tasks.len(), "AMI")));
        carry_out(self.client, tasks, deletions, outcomes)
    }

    /// Explains what an interrupted change has done and left, and how to finish it.
    fn explain_interruption(&self, abort: &Abort, tasks: &[Task], outcomes: &Outcomes) {
        let Abort::Interrupted(_) = abort else { return };
        let finished = outcomes.done.len() + outcomes.failed.len();
        let (what, change) =
            if self.deletes() { ("deleted", Change::Delete) } else { ("repaired", Change::Repair) };
        let interrupted =
            format!("interrupted: {} of {} {what}", outcomes.done.len(), count(tasks.len(), "AMI"));
        let half_done = tasks.get(finished).map(|task| {
            let steps: Vec<String> = task.steps.iter().map(ToString::to_string).collect();
            format!("{} may be half done: {}", task.ami, steps.join(", "))
        });
        let hint = format!("hint: To finish, run `{}`.", self.command(change));
        let text =
            [Some(interrupted), half_done, Some(hint)].into_iter().flatten().collect::<Vec<_>>().join("\n");
        Progress::Lines.write(&name_as_called(&text));
    }
}

fn plan(change: Change, listing: &Listing) -> Vec<Task> {
    let possible = listing.images.iter().filter(|image| image.action(change) == Action::Possible);
    if change == Change::Repair {
        return possible.map(plan_repair).collect();
    }
    let left = listing.unfinished.iter().map(plan_rest);
    left.chain(possible.map(|image| plan_deletion(image, &listing.identity.account))).collect()
}

/// While waiting for an answer, we check for a signal at this interval.
const SIGNAL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

const READ_DELETIONS: &str = "This file records which snapshots an interrupted deletion left behind. Fix it, or remove it if those snapshots are gone.";
const ANSWER: &str = "Nothing was changed. Answer y to continue, or pass --yes.";

/// Asks whether to continue; `None` if there is no terminal. Everything but y or yes means no.
fn confirm(question: &str) -> Result<Option<bool>, Interrupted> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let interrupts = Interrupts::caught();
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let stdin = io::stdin();
    loop {
        interrupts.check()?;
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        // A signal ends the wait with an error; the check above detects the signal.
        if matches!(poll(&mut polled, Some(&SIGNAL_INTERVAL)), Ok(1..)) {
            let mut line = String::new();
            let _ = stdin.lock().read_line(&mut line);
            return Ok(Some(["y", "yes"].contains(&line.trim().to_lowercase().as_str())));
        }
    }
}
