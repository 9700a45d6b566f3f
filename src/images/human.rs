//! The AMIs of broken builds as text: the list, the plan with its confirmation prompt, and the result. Pure.
//!
//! What applies to all AMIs is in the summary, and is not repeated for each. The lines are not folded here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::images::class::Class;
use crate::images::commands::Commands;
use crate::images::entry::{
    describe_done, describe_ended, describe_orphan, describe_other, describe_planned, describe_refused,
    describe_unfinished, headline, line,
};
use crate::images::image::{Action, Image};
use crate::images::inventory::Skipped;
use crate::images::listing::{Change, Listing};
use crate::images::sums::{ChangeSums, SnapshotSums};
use crate::text::printable::{capitalize, count, escape_line};

/// Every orphan with its cost, and what prevents a change.
pub fn render_list(listing: &Listing) -> String {
    let mut entries = String::new();
    for image in &listing.images {
        match image.class {
            Class::Orphan => entries += &describe_orphan(listing, image),
            Class::Healthy if !listing.is_named => {}
            _ => entries += &describe_other(listing, image),
        }
    }
    entries.extend(listing.unfinished.iter().map(describe_unfinished));
    let mut text = head(listing) + &separate(&entries) + &summarize(listing) + &describe_rest(listing);
    let Commands { repair, delete, .. } = &listing.commands;
    let has_images = listing.images.iter().any(|image| image.class == Class::Orphan);
    let deletion = if has_images { "To delete them" } else { "To finish what was interrupted" };
    let named = [("To restore their tags", repair), (deletion, delete)];
    let commands = named.iter().filter_map(|(aim, command)| Some((aim, command.as_ref()?)));
    let commands: String =
        commands.map(|(aim, command)| paragraph(&format!("{aim}, run `{command}`."))).collect();
    if !commands.is_empty() {
        text += "\n";
    }
    text + &commands
}

/// What a change would do.
pub fn render_plan(listing: &Listing, change: Change) -> String {
    let mut entries = String::new();
    for image in &listing.images {
        if image.action(change) == Action::Possible {
            entries += &describe_planned(listing, image, change);
        } else if image.class == Class::Orphan || listing.is_refused(image, change) {
            entries += &describe_refused(listing, image, change);
        }
    }
    if change == Change::Delete {
        entries.extend(listing.unfinished.iter().map(describe_unfinished));
    }
    head(listing)
        + &separate(&entries)
        + &describe_sums(&listing.sum_up(change, false), false)
        + &describe_rest(listing)
}

/// What was done.
pub fn render_result(listing: &Listing, change: Change) -> String {
    let mut text = String::new();
    for image in &listing.images {
        let failure = listing.outcomes.failed.iter().find(|(ami, _)| *ami == image.ami);
        match (image.action(change), failure) {
            (Action::Done, _) => text += &describe_done(listing, image, change),
            (_, Some((_, why))) => text += &(headline("failed", image) + &line(why)),
            _ if image.class == Class::Orphan => text += &describe_refused(listing, image, change),
            _ => {}
        }
    }
    text.extend(listing.ended.iter().map(|ended| describe_ended(listing, ended)));
    let is_unlisted = |ami: &String| listing.images.iter().all(|image| image.ami != *ami);
    for (ami, why) in listing.outcomes.failed.iter().filter(|(ami, _)| is_unlisted(ami)) {
        let _ = writeln!(text, "failed {}", escape_line(ami));
        text += &line(why);
    }
    let mut text = separate(&text) + &describe_sums(&listing.sum_up(change, true), true);
    if !listing.outcomes.failed.is_empty() {
        text += "To finish what failed, fix the cause and run the same command again.\n";
    } else if change == Change::Repair && !listing.outcomes.done.is_empty() {
        let them = if listing.outcomes.done.len() == 1 { "it" } else { "them" };
        let _ =
            writeln!(text, "`pcluster list-images`, `describe-image` and `delete-image` find {them} now.");
    }
    text
}

/// The confirmation prompt of a plan: `Delete 12 AMIs and 14 snapshots in account 111122223333 (eu-west-1)?`
pub fn render_question(listing: &Listing, change: Change) -> String {
    let possible: Vec<&Image> =
        listing.images.iter().filter(|image| image.action(change) == Action::Possible).collect();
    let amis = count(possible.len(), "AMI");
    let place = format!("in account {} ({})", listing.identity.account, format_regions(listing));
    if change == Change::Repair {
        return escape_line(&format!("Write tags to {amis} {place}?"));
    }
    let left: usize = listing.unfinished.iter().map(|left| left.snapshots.len()).sum();
    let snapshots = possible.iter().map(|image| image.snapshots.len()).sum::<usize>() + left;
    let what = match (possible.len(), snapshots) {
        (0, 0) => format!("what is left of {}", count(listing.unfinished.len(), "AMI")),
        (0, snapshots) => count(snapshots, "snapshot"),
        (_, snapshots) => format!("{amis} and {}", count(snapshots, "snapshot")),
    };
    escape_line(&format!("Delete {what} {place}?"))
}

/// Account, caller, profile, region.
fn head(listing: &Listing) -> String {
    let identity = &listing.identity;
    let alias = identity.alias.as_ref().map(|alias| format!(" ({alias})")).unwrap_or_default();
    let profile = identity.profile.as_ref().map(|profile| format!(", profile {profile}")).unwrap_or_default();
    let account = format!("account {}{alias}, {}{profile}", identity.account, format_regions(listing));
    format!("{}\ncaller {}\n\n", escape_line(&account), escape_line(&identity.caller))
}

fn format_regions(listing: &Listing) -> String {
    match listing.identity.regions.as_slice() {
        [region] => region.clone(),
        regions => format!("{} regions", regions.len()),
    }
}

/// The totals of a listing.
fn summarize(listing: &Listing) -> String {
    let summary = listing.summarize();
    let regions = format_regions(listing);
    if summary.orphans == 0 {
        let found = count(summary.healthy, "AMI");
        let text = match (listing.older_than, listing.is_named) {
            (Some(days), _) => format!("No orphans older than {} in {regions}.", format_days(days)),
            (None, true) => format!("No orphans match these names in {regions}."),
            (None, false) => format!("No orphans in {regions}; pcluster finds {found}."),
        };
        return paragraph(&text);
    }
    // If the user has selected some AMIs, the number of the others is not known.
    let found = if listing.is_named || listing.older_than.is_some() {
        String::new()
    } else {
        format!("; pcluster finds {}", count(summary.healthy, "other AMI"))
    };
    let usd = summary.snapshots.monthly_cost_at_most.usd;
    let orphans = count(summary.orphans, "orphan");
    let age = listing.older_than.map(|days| format!(" older than {}", format_days(days)));
    let what = format!("{orphans}{} in {regions} that no pcluster command finds", age.unwrap_or_default());
    let text = format!("{what}: {:.0} GiB, at most ${usd:.2} a month{found}.", summary.snapshots.size_gib);
    let other = |number: usize, done: &str, kinds: &BTreeMap<&str, usize>| {
        let refused = kinds.values().sum::<usize>();
        let refused =
            if refused == 0 { String::new() } else { format!(", {refused} cannot ({})", list_kinds(kinds)) };
        line(&format!("{number} can be {done}{refused}"))
    };
    paragraph(&text)
        + &other(summary.repairable, "repaired", &summary.not_repaired)
        + &other(summary.deletable, "deleted", &summary.not_deleted)
}

fn format_days(days: i64) -> String {
    if days == 1 { "1 day".into() } else { format!("{days} days") }
}

fn list_kinds(kinds: &BTreeMap<&str, usize>) -> String {
    kinds.iter().map(|(kind, number)| format!("{kind}: {number}")).collect::<Vec<_>>().join(", ")
}

fn describe_sums(sums: &ChangeSums, is_done: bool) -> String {
    let mut parts = Vec::new();
    if sums.amis > 0 {
        let verb = match (sums.change, is_done) {
            (Change::Delete, true) => "deleted",
            (Change::Delete, false) => "to delete:",
            (Change::Repair, true) => "repaired",
            (Change::Repair, false) => "to repair:",
        };
        parts.push(format!("{verb} {}", count(sums.amis, "AMI")));
        parts.extend(sums.snapshots.iter().flat_map(describe_snapshots));
    }
    if sums.interrupted_deletions > 0 {
        let verb = if is_done { "finished" } else { "to finish:" };
        parts.push(format!("{verb} {}", count(sums.interrupted_deletions, "interrupted deletion")));
    }
    if parts.is_empty() {
        let nothing = match (sums.change, is_done) {
            (Change::Delete, true) => "no deletion was completed",
            (Change::Repair, true) => "no repair was completed",
            (_, false) => "nothing to do",
        };
        parts.push(nothing.into());
    }
    let mut sentences = vec![parts.join(", ")];
    if !sums.refused.is_empty() {
        let refused = sums.refused.values().sum::<usize>();
        sentences.push(format!("refused: {refused} ({})", list_kinds(&sums.refused)));
    }
    if sums.failed > 0 {
        sentences.push(format!("failed: {}", sums.failed));
    }
    if sums.leaving > 0 {
        let leaving = if is_done { "left something behind" } else { "will leave something behind" };
        sentences.push(format!("{} {leaving}", count(sums.leaving, "AMI")));
    }
    let sentences = sentences.iter().map(|sentence| capitalize(sentence) + ".");
    paragraph(&sentences.collect::<Vec<_>>().join(" "))
}

fn describe_snapshots(sums: &SnapshotSums) -> [String; 3] {
    let SnapshotSums { number, size_gib, monthly_cost_at_most: cost } = sums;
    [count(*number, "snapshot"), format!("{size_gib:.0} GiB"), format!("at most ${:.2} a month", cost.usd)]
}

fn paragraph(text: &str) -> String {
    escape_line(text) + "\n"
}

/// Entries, followed by an empty line.
fn separate(entries: &str) -> String {
    if entries.is_empty() { String::new() } else { format!("{entries}\n") }
}

/// The names that were not found, and the sources that could not be asked.
fn describe_rest(listing: &Listing) -> String {
    let mut text = String::new();
    if !listing.missing.is_empty() {
        let names = listing.missing.join(", ");
        let regions = format_regions(listing);
        text += &paragraph(&format!("Not found among the AMIs that pcluster built in {regions}: {names}"));
    }
    let skipped = |one: &Skipped| paragraph(&format!("not checked: {}: {}", one.source, one.why));
    text += &listing.skipped.iter().map(skipped).collect::<String>();
    let effects: BTreeSet<&str> = listing.skipped.iter().filter_map(Skipped::effect).collect();
    text.extend(effects.iter().map(|effect| format!("As a result, {effect}.\n")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::fixtures::{ACCOUNT, DONE, ami, arn, directory, inventory};
    use crate::images::inventory::{Ami, Deletion, Inventory, Unfinished};
    use crate::images::listing::{Identity, Outcomes};
    use crate::images::rules::examine;
    use crate::images::selection::Selection;
    use crate::text::printable::{escape, fold};

    /// A listing with `text` in place of the names, ids, regions and messages that AWS sends.
    fn listing(text: &str) -> Listing {
        let orphan =
            Ami { region: text.into(), name: text.into(), ..ami(text, &arn("x", "3.1.3", ACCOUNT), DONE) };
        let inventory = inventory(vec![orphan]);
        let left = || {
            let deletion = Deletion {
                region: text.into(),
                ami: text.into(),
                bucket: Some(text.into()),
                directory: Some(text.into()),
                log_group: Some(text.into()),
                ..Deletion::default()
            };
            vec![Unfinished { snapshots: vec![text.into()], deletion }]
        };
        let pair = || vec![(text.to_owned(), text.to_owned())];
        Listing {
            identity: Identity {
                account: text.into(),
                alias: Some(text.into()),
                caller: text.into(),
                profile: Some(text.into()),
                region: text.into(),
                regions: vec![text.into()],
            },
            images: examine(&inventory, &Selection::default()),
            unfinished: left(),
            ended: left(),
            outcomes: Outcomes { failed: pair(), left: pair(), notes: pair(), ..Outcomes::default() },
            missing: vec![text.into()],
            is_named: true,
            is_verbose: true,
            ..Listing::default()
        }
    }

    #[test]
    fn no_text_of_aws_reaches_a_terminal_as_it_is() {
        let text = "a\n\x1b\u{202e}b";
        let shown = |mut listing: Listing| {
            let mut texts = vec![render_list(&listing)];
            for change in [Change::Repair, Change::Delete] {
                texts.extend([render_plan(&listing, change), render_question(&listing, change)]);
                texts.push(render_result(&listing, change));
            }
            listing.images[0].delete = Action::Done;
            texts.push(render_result(&listing, Change::Delete));
            texts
        };
        let (hostile, harmless) = (shown(listing(text)), shown(listing(&escape_line(text))));
        for (hostile, harmless) in hostile.iter().zip(harmless) {
            assert_eq!(escape(hostile), *hostile);
            assert_eq!(*hostile, harmless);
        }
    }

    #[test]
    fn thousand_orphans_are_listed_in_four_lines_each() {
        let ids: Vec<String> = (0..1200).map(|number| format!("image-{number}")).collect();
        let amis = ids.iter().map(|id| ami(&format!("ami-{id}"), &arn(id, "3.1.3", ACCOUNT), DONE));
        // Only every second image still has its directory.
        let directories = ids.iter().step_by(2).map(|id| directory(id, 'a', "2022-10-26T22:00:00Z"));
        let inventory = Inventory { directories: directories.collect(), ..inventory(amis.collect()) };
        let listing = Listing { images: examine(&inventory, &Selection::default()), ..Listing::default() };
        let text = fold(&render_list(&listing), "", 80);
        assert_eq!(listing.images.len(), 1200);
        let end = text.lines().rev().take(8).collect::<Vec<_>>().join("\n");
        assert!(text.lines().count() < 5000, "{}\n{end}", text.lines().count());
        assert!(text.contains("600 can be repaired, 600 cannot (no artifacts found: 600)"), "{end}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{end}");
    }
}
