//! The AMIs of broken builds for people: the list, the plan with its question, and the result. Pure.
//!
//! What is true of all AMIs is in the summary, and not repeated for each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::images::class::Class;
use crate::images::entry::{
    count, describe_done, describe_left, describe_orphan, describe_other, describe_planned, describe_refused,
    describe_tags, describe_unfinished, headline, indent, indent_by, line,
};
use crate::images::image::{Action, Image};
use crate::images::inventory::Skipped;
use crate::images::listing::{Change, Listing};
use crate::text::printable::escape_line;

/// Every orphan with its cost, and what prevents a change.
pub fn render_list(listing: &Listing, command: impl Fn(&str) -> String) -> String {
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
    if listing.has_orphans() {
        text += "\n";
        if listing.select(Class::Orphan).next().is_some() {
            let _ = writeln!(text, "To restore their tags:  {}", escape_line(&command("--repair")));
        }
        let _ = writeln!(text, "To delete them:         {}", escape_line(&command("--delete")));
    }
    text
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
    head(listing) + &separate(&entries) + &sum_up(listing, change, Action::Possible) + &describe_rest(listing)
}

/// What was done.
pub fn render_result(listing: &Listing, change: Change) -> String {
    let mut text = String::new();
    for image in &listing.images {
        let failure = listing.outcomes.failed.iter().find(|(ami, _)| *ami == image.ami);
        match (image.action(change), failure) {
            (Action::Done, _) => text += &describe_done(listing, image, change),
            (_, Some((_, why))) => text += &(headline("failed", image) + &indent(why)),
            _ if image.class == Class::Orphan => text += &describe_refused(listing, image, change),
            _ => {}
        }
    }
    for left in &listing.ended {
        let _ = writeln!(text, "finished the deletion of {}", escape_line(&left.deletion.ami));
        text += &left.list().iter().map(|what| line(what)).collect::<String>();
        text += &describe_left(listing, &left.deletion.ami);
        text += &describe_tags(listing, "had", &left.deletion.tags);
    }
    let is_unlisted = |ami: &String| listing.images.iter().all(|image| image.ami != *ami);
    for (ami, why) in listing.outcomes.failed.iter().filter(|(ami, _)| is_unlisted(ami)) {
        let _ = writeln!(text, "failed {}", escape_line(ami));
        text += &indent(why);
    }
    let mut text = separate(&text) + &sum_up(listing, change, Action::Done);
    if !listing.outcomes.failed.is_empty() {
        text += "To finish what failed, fix the cause and run the same command again.\n";
    } else if change == Change::Repair && !listing.outcomes.done.is_empty() {
        text += "`pcluster list-images`, `describe-image` and `delete-image` find them now.\n";
    }
    text
}

/// The question of a plan: `Delete 12 AMIs and 14 snapshots in account 111122223333 (eu-west-1)?`
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

/// The sums of a list.
fn summarize(listing: &Listing) -> String {
    let summary = listing.summarize();
    let regions = format_regions(listing);
    if summary.orphans == 0 {
        let found = count(summary.healthy, "AMI");
        let text = if listing.is_named {
            format!("No orphan of these names in {regions}.")
        } else {
            format!("No orphans in {regions}; pcluster finds {found}.")
        };
        return indent_by("", &text);
    }
    // Not every AMI of the region is known if some are named.
    let found = if listing.is_named {
        String::new()
    } else {
        format!("; pcluster finds {}", count(summary.healthy, "other AMI"))
    };
    let usd = summary.monthly_cost_at_most.usd;
    let orphans = count(summary.orphans, "orphan");
    let what = format!("{orphans} in {regions} that no pcluster command finds");
    let text = format!("{what}: {:.0} GiB, at most ${usd:.2} a month{found}.", summary.size_gib);
    let other = |number: usize, done: &str, kinds: &BTreeMap<&str, usize>| {
        let refused = kinds.values().sum::<usize>();
        let refused =
            if refused == 0 { String::new() } else { format!(", {refused} cannot ({})", list_kinds(kinds)) };
        indent(&format!("{number} can be {done}{refused}"))
    };
    indent_by("", &text)
        + &other(summary.repairable, "repaired", &summary.not_repaired)
        + &other(summary.deletable, "deleted", &summary.not_deleted)
}

fn list_kinds(kinds: &BTreeMap<&str, usize>) -> String {
    kinds.iter().map(|(kind, number)| format!("{kind}: {number}")).collect::<Vec<_>>().join(", ")
}

/// The sums of a plan or of its result.
fn sum_up(listing: &Listing, change: Change, action: Action) -> String {
    let is_done = action == Action::Done;
    let images: Vec<&Image> = listing.images.iter().filter(|image| image.action(change) == action).collect();
    let mut parts = Vec::new();
    if !images.is_empty() {
        let verb = match (change, is_done) {
            (Change::Delete, true) => "deleted",
            (Change::Delete, false) => "to delete:",
            (Change::Repair, true) => "repaired",
            (Change::Repair, false) => "to repair:",
        };
        parts.push(format!("{verb} {}", count(images.len(), "AMI")));
        if change == Change::Delete {
            parts.extend(sum_up_snapshots(&images));
        }
    }
    let deletions = if is_done { &listing.ended } else { &listing.unfinished };
    if change == Change::Delete && !deletions.is_empty() {
        let verb = if is_done { "finished" } else { "to finish:" };
        parts.push(format!("{verb} {}", count(deletions.len(), "interrupted deletion")));
    }
    if parts.is_empty() {
        parts.push(if is_done { "nothing done" } else { "nothing to do" }.into());
    }
    let mut refused = BTreeMap::new();
    for image in listing.images.iter().filter(|image| listing.is_refused(image, change)) {
        if let Some(kind) = image.refused(change) {
            *refused.entry(kind).or_insert(0) += 1;
        }
    }
    if !refused.is_empty() {
        parts.push(format!("{} refused ({})", refused.values().sum::<usize>(), list_kinds(&refused)));
    }
    let leaving = images.iter().filter(|image| !image.left.is_empty()).count();
    let others = [(listing.outcomes.failed.len(), "failed"), (leaving, "left something")];
    parts.extend(
        others.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")),
    );
    indent_by("", &capitalize(&(parts.join(", ") + ".")))
}

fn sum_up_snapshots(images: &[&Image]) -> [String; 3] {
    let snapshots: usize = images.iter().map(|image| image.snapshots.len()).sum();
    let size: f64 = images.iter().map(|image| image.size_gib().1).sum();
    let usd: f64 = images.iter().map(|image| image.monthly_cost_at_most.usd).sum();
    [count(snapshots, "snapshot"), format!("{size:.0} GiB"), format!("at most ${usd:.2} a month")]
}

fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Entries, and an empty line.
fn separate(entries: &str) -> String {
    if entries.is_empty() { String::new() } else { format!("{entries}\n") }
}

/// What was not found, and what could not be asked.
fn describe_rest(listing: &Listing) -> String {
    let mut text = String::new();
    if !listing.missing.is_empty() {
        let names = listing.missing.join(", ");
        let regions = format_regions(listing);
        text +=
            &indent_by("", &format!("Not found among the AMIs that pcluster built in {regions}: {names}"));
    }
    let line = |skipped: &Skipped| indent_by("", &format!("not asked: {}: {}", skipped.source, skipped.why));
    text += &listing.skipped.iter().map(line).collect::<String>();
    if listing.skipped.iter().any(|skipped| skipped.source.starts_with("ec2:DescribeImageReferences")) {
        text += "So older versions of launch templates, SSM parameters and recipes may use an AMI.\n";
    }
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
    use crate::text::printable::escape;

    /// A listing whose AMI, region and interrupted deletion have a text of AWS in them.
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
            let mut texts = vec![render_list(&listing, |_| "command".into())];
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
        // Of every other one the files are there.
        let directories = ids.iter().step_by(2).map(|id| directory(id, 'a', "2022-10-26T22:00:00Z"));
        let inventory = Inventory { directories: directories.collect(), ..inventory(amis.collect()) };
        let listing = Listing { images: examine(&inventory, &Selection::default()), ..Listing::default() };
        let text = render_list(&listing, |_| "command".into());
        assert_eq!(listing.images.len(), 1200);
        let end = text.lines().rev().take(8).collect::<Vec<_>>().join("\n");
        assert!(text.lines().count() < 5000, "{}\n{end}", text.lines().count());
        assert!(text.contains("600 can be repaired, 600 cannot (no artifacts found: 600)"), "{end}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{end}");
    }
}
