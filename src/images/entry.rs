//! One AMI, or one interrupted deletion, in a few lines of text. Pure.
//!
//! In a list, an AMI has at most four lines. With `-v`, there are also lines for tags, addresses and reasons.
//! If the user has named AMIs or image ids, reasons are shown without `-v` too.

use jiff::tz::TimeZone;

use crate::images::class::Class;
use crate::images::commands::finish;
use crate::images::image::{Image, format_place};
use crate::images::inventory::{Deletion, Tags, Unfinished};
use crate::images::listing::{Change, Listing};
use crate::images::origin::Source;
use crate::text::printable::{count, escape_line};

const INDENT: &str = "    ";

pub fn describe_orphan(listing: &Listing, image: &Image) -> String {
    let mut text = headline("orphan", image) + &describe_origin(listing, image);
    let cost = image.monthly_cost_at_most.usd;
    text +=
        &line(&format!("{}, at most ${cost:.2} a month; {}", format_size(image), source_name(image.source)));
    if listing.is_verbose || listing.is_named {
        return text
            + &describe_reasons(image)
            + &describe_addresses(listing, image)
            + &describe_tags(listing, "would get", &image.tags);
    }
    let refused = [("not repairable", image.repair_refused), ("not deletable", image.delete_refused)];
    let parts: Vec<String> =
        refused.iter().filter_map(|(what, kind)| Some(format!("{what}: {}", (*kind)?))).collect();
    match (image.repair_refused, image.delete_refused) {
        (None, None) => text,
        (one, other) if one == other => {
            text + &line(&format!("neither repairable nor deletable: {}", one.unwrap_or_default()))
        }
        _ => text + &line(&parts.join("; ")),
    }
}

/// A build that failed or is running, or an AMI that pcluster finds.
pub fn describe_other(listing: &Listing, image: &Image) -> String {
    let word = match image.class {
        Class::InProgress => "in progress",
        Class::FailedBuild => "failed build",
        _ => "healthy",
    };
    let reasons =
        if listing.is_verbose || listing.is_named { describe_reasons(image) } else { String::new() };
    headline(word, image) + &describe_origin(listing, image) + &reasons
}

pub fn describe_planned(listing: &Listing, image: &Image, change: Change) -> String {
    let word = if change == Change::Delete { "delete" } else { "repair" };
    let text = headline(word, image) + &describe_origin(listing, image);
    if change == Change::Repair {
        let tags = format!("{}; {}", count(image.tags.len(), "tag"), source_name(image.source));
        return text
            + &line(&tags)
            + &describe_sharing(image)
            + &describe_details(listing, image, "gets", &image.tags);
    }
    let left: String = image.stays.iter().map(|what| line(&format!("leaves behind {what}"))).collect();
    text + &line(&format_contents(image)) + &left + &describe_details(listing, image, "has", &image.had_tags)
}

pub fn describe_refused(listing: &Listing, image: &Image, change: Change) -> String {
    let reasons =
        if listing.is_verbose || listing.is_named { describe_reasons(image) } else { String::new() };
    let head = headline("refused", image);
    if reasons.is_empty() {
        return format!("{}: {}\n", head.trim_end(), image.refused(change).unwrap_or("failed"));
    }
    head + &reasons
}

pub fn describe_done(listing: &Listing, image: &Image, change: Change) -> String {
    let notes = listing.outcomes.notes.iter().filter(|(ami, _)| *ami == image.ami);
    let notes: String = notes.map(|(_, note)| line(note)).collect();
    if change == Change::Repair {
        let tags = line(&count(image.tags.len(), "tag"));
        return headline("repaired", image)
            + &tags
            + &notes
            + &describe_sharing(image)
            + &describe_tags(listing, "got", &image.tags);
    }
    let left: String = image.left.iter().map(|what| line(&format!("left behind: {what}"))).collect();
    let addresses = describe_addresses(listing, image) + &describe_tags(listing, "had", &image.had_tags);
    headline("deleted", image) + &line(&format_contents(image)) + &notes + &left + &addresses
}

/// The reasons, the tags, and what belongs to the AMI (snapshots, S3 directory, log group); empty without
/// `-v`.
fn describe_details(listing: &Listing, image: &Image, verb: &str, tags: &Tags) -> String {
    if !listing.is_verbose {
        return String::new();
    }
    describe_reasons(image) + &describe_addresses(listing, image) + &describe_tags(listing, verb, tags)
}

/// Release, region, age.
fn describe_origin(listing: &Listing, image: &Image) -> String {
    let version = image.version.as_deref().unwrap_or("of unknown release");
    let date = TimeZone::UTC.to_datetime(image.creation_date).date();
    let age = match image.age_in_days(listing.today) {
        // The age is negative, so a clock is wrong.
        ..=-1 => String::new(),
        1 => " (1 day ago)".into(),
        days => format!(" ({days} days ago)"),
    };
    line(&format!("pcluster {version}, {}, {date}{age}", image.region))
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Stack => "its build's stack was found",
        Source::DeletedStack => "its build's deleted stack was found",
        Source::S3 => "its build's S3 files were found",
        Source::None => "nothing else from its build was found",
    }
}

/// `word`, the id of the AMI, and its image id. The image id is in lower case if its original spelling is not
/// known. If the image id is not known at all, the name of the AMI appears instead.
pub fn headline(word: &str, image: &Image) -> String {
    let name =
        image.image_id.as_ref().unwrap_or(if image.slug.is_empty() { &image.name } else { &image.slug });
    format!("{word} {} {}\n", escape_line(&image.ami), escape_line(name))
}

fn format_size(image: &Image) -> String {
    let snapshots = count(image.snapshots.len(), "snapshot");
    match image.size_gib() {
        (true, size) => format!("{snapshots} of {size:.0} GiB"),
        _ => format!("{snapshots} of unknown size"),
    }
}

/// What a deletion removes with the AMI: `snap-0 of 35 GiB, files in S3, log group`.
fn format_contents(image: &Image) -> String {
    let snapshots = match image.snapshots.as_slice() {
        [one] => format_size(image).replacen("1 snapshot", &one.id, 1),
        _ => format_size(image),
    };
    let is_left = |place: &str| image.left.iter().any(|left| left.starts_with(place));
    let directory =
        image.artifacts.directory.as_ref().map(|(bucket, directory)| format_place(bucket, directory));
    let directory = directory.filter(|place| !is_left(place)).map(|_| "files in S3".to_owned());
    let logs = image.artifacts.log_group.as_ref().map(|_| "log group".to_owned());
    [Some(snapshots), directory, logs].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn describe_reasons(image: &Image) -> String {
    image.reasons.iter().map(|reason| line(reason)).collect()
}

/// The addresses of what belongs to an AMI; empty without `-v`.
fn describe_addresses(listing: &Listing, image: &Image) -> String {
    if !listing.is_verbose {
        return String::new();
    }
    let snapshots = image.snapshots.iter().map(|snapshot| format!("snapshot {}", snapshot.id));
    let directory = image.artifacts.directory.iter();
    let directory = directory.map(|(bucket, directory)| format_place(bucket, directory));
    let logs = image.artifacts.log_group.iter().map(|name| format!("log group {name}"));
    snapshots.chain(directory).chain(logs).map(|what| line(&format!("with {what}"))).collect()
}

/// The tags; empty without `-v`.
fn describe_tags(listing: &Listing, verb: &str, tags: &Tags) -> String {
    let tags = tags.iter().filter(|_| listing.is_verbose);
    tags.map(|(key, value)| line(&format!("{verb} {key} = {value}"))).collect()
}

fn describe_sharing(image: &Image) -> String {
    let Some(sharing) = &image.sharing else { return String::new() };
    let with: Vec<&str> = sharing.list().map(|(_, id)| id).collect();
    let mut text = match &image.commands.share {
        Some(command) => line(&format!("its build was to share it; to do that now, run `{command}`")),
        None if with.is_empty() => String::new(),
        None => line(&format!("was to be shared with {}", with.join(", "))),
    };
    if !sharing.user_groups.is_empty() {
        text += &line("was to be public; make it public yourself if that is still wanted");
    }
    text
}

pub fn describe_unfinished(left: &Unfinished) -> String {
    format!("interrupted deletion of {}\n", escape_line(&left.deletion.ami))
        + &left.list().iter().map(|what| line(&format!("still there: {what}"))).collect::<String>()
        + &line(&format!("to finish it, run `{}`", finish(&left.deletion)))
}

pub fn describe_ended(listing: &Listing, ended: &Unfinished) -> String {
    let Deletion { ami, tags, .. } = &ended.deletion;
    let left = listing.outcomes.left.iter().filter(|(own, _)| own == ami);
    format!("finished the deletion of {}\n", escape_line(ami))
        + &listing.removed(ended).iter().map(|what| line(what)).collect::<String>()
        + &left.map(|(_, what)| line(&format!("left behind: {what}"))).collect::<String>()
        + &describe_tags(listing, "had", tags)
}

pub fn line(text: &str) -> String {
    format!("{INDENT}{}\n", escape_line(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::fixtures::{ACCOUNT, DONE, ami, arn, inventory};
    use crate::images::origin::Sharing;
    use crate::images::rules::examine;
    use crate::images::selection::Selection;

    fn image() -> Image {
        let inventory = inventory(vec![ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE)]);
        examine(&inventory, &Selection::default()).remove(0)
    }

    #[test]
    fn age_is_counted_in_days() {
        let line = |today: &str| {
            describe_origin(&Listing { today: today.parse().unwrap(), ..Listing::default() }, &image())
        };
        assert_eq!(line("2022-10-26"), "    pcluster 3.1.3, us-east-1, 2022-10-26 (0 days ago)\n");
        assert!(line("2022-10-27").ends_with("(1 day ago)\n"));
        assert!(line("2023-10-26").ends_with("(365 days ago)\n"));
        assert!(line("2022-10-25").ends_with("2022-10-26\n"));
    }

    #[test]
    fn launch_permissions_that_a_shell_would_misread_are_shown_without_a_command() {
        let mut image = image();
        image.sharing = Some(Sharing { user_ids: vec!["1' ; rm x".into()], ..Sharing::default() });
        assert_eq!(describe_sharing(&image), "    was to be shared with 1' ; rm x\n");
    }
}
