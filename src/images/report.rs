//! The AMIs of broken builds, for people and as JSON. Pure.

use std::fmt::Write as _;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::images::class::Class;
use crate::images::image::{Action, Image};
use crate::images::inventory::{Deletion, Skipped, Unfinished};
use crate::images::origin::{Sharing, Source};
use crate::text::printable::{escape_line, wrap};

const WIDTH: usize = 80;

/// Indent of what is said of one AMI.
const INDENT: &str = "    ";

/// What was found, and what has become of it.
#[derive(Debug)]
pub struct Listing {
    pub images: Vec<Image>,
    pub unfinished: Vec<Unfinished>,
    pub account: String,
    pub regions: Vec<String>,
    pub skipped: Vec<Skipped>,
    /// Deletions that were cut off, and have been ended now.
    pub ended: Vec<Unfinished>,
    pub kept: Vec<Kept>,
    pub today: Date,
    /// An AMI or an image id was named, so nothing goes without saying.
    pub is_named: bool,
}

/// A snapshot that a deletion has left, because something else needs it.
#[derive(Debug)]
pub struct Kept {
    /// The AMI that was deleted.
    pub ami: String,
    pub snapshot: String,
    pub why: String,
}

/// What is said of a refusal begins with it.
const REFUSALS: [&str; 2] = ["not repaired", "not deleted"];

impl Listing {
    pub fn has_orphans(&self) -> bool {
        !self.unfinished.is_empty() || self.select(Class::Orphan).next().is_some()
    }

    /// Whether something was named that is not there.
    pub fn names_nothing(&self) -> bool {
        self.is_named && self.images.is_empty() && self.unfinished.is_empty()
    }

    /// Notes what a deletion has left.
    pub fn note_kept(&mut self, kept: Vec<Kept>) {
        for Kept { ami, snapshot, why } in &kept {
            for image in self.images.iter_mut().filter(|image| image.ami == *ami) {
                image.snapshots.retain(|own| own.id != *snapshot);
                image.reasons.push(why.clone());
            }
            for left in self.unfinished.iter_mut().filter(|left| left.deletion.ami == *ami) {
                left.snapshots.retain(|own| own != snapshot);
            }
        }
        self.kept = kept;
    }

    fn select(&self, class: Class) -> impl Iterator<Item = &Image> {
        self.images.iter().filter(move |image| image.class == class)
    }

    pub fn to_json(&self) -> Value {
        let unfinished = self.unfinished.iter().map(|left| {
            let deletion = &left.deletion;
            json!({"ami": deletion.ami, "region": deletion.region, "snapshots": left.snapshots})
        });
        json!({
            "schemaVersion": 1,
            "account": self.account,
            "images": self.images,
            "unfinished": unfinished.collect::<Vec<_>>(),
            "ended": self.ended.iter().map(|left| &left.deletion).collect::<Vec<_>>(),
            "skipped": self.skipped,
        })
    }

    /// Every orphan with its cost, and what stands in the way.
    pub fn render_list(&self) -> String {
        let mut text = String::new();
        for class in [Class::Orphan, Class::InProgress, Class::FailedBuild] {
            for image in self.select(class) {
                text += &self.describe(image, &[]);
                text += "\n";
            }
        }
        text += &self.describe_unfinished();
        text += &self.summarize();
        text += &self.describe_skipped();
        if self.has_orphans() {
            text += "\nGive them back to pcluster:        pcluster preflight images --repair\n";
            text += "Delete them with their snapshots:  pcluster preflight images --delete\n";
        }
        text
    }

    /// What a change would do.
    pub fn render_plan(&self, deletes: bool) -> String {
        let mut text = String::new();
        let other = [REFUSALS[usize::from(!deletes)]];
        for image in &self.images {
            let action = if deletes { image.delete } else { image.repair };
            if action == Action::Possible {
                text += &self.describe(image, &other);
                text += &if deletes { describe_deletion(image) } else { describe_repair(image) };
                text += "\n";
            } else if image.class == Class::Orphan
                || self.is_named && (deletes || image.class != Class::Healthy)
            {
                text += &self.describe(image, &other);
                text += "\n";
            }
        }
        if deletes {
            text += &self.describe_unfinished();
        }
        if text.is_empty() {
            let healthy = self.select(Class::Healthy).next().is_some();
            let what = if healthy { "there is nothing to do: pcluster finds every AMI" } else { NOT_FOUND };
            text = format!("{what}\n");
        }
        text.trim_end().to_owned() + "\n" + &self.describe_skipped()
    }

    /// What was done, so that it can be traced.
    pub fn render_done(&self, deletes: bool, failures: &[(String, String)]) -> String {
        let mut text = String::new();
        let other = [REFUSALS[usize::from(!deletes)]];
        for image in &self.images {
            let action = if deletes { image.delete } else { image.repair };
            let failed = failures.iter().any(|(ami, _)| *ami == image.ami);
            match action {
                Action::Done if deletes => {
                    text += &headline("deleted", image);
                    text += &describe_deletion(image);
                    text += &describe_tags("had", &image.had_tags);
                    text += &describe_reasons(image, &other);
                }
                Action::Done => {
                    text += &headline("repaired", image);
                    text += &describe_repair(image);
                    text += &describe_reasons(image, &other);
                }
                _ if failed => {
                    text += &(headline("not done", image) + &describe_reasons(image, &other));
                }
                _ if image.class == Class::Orphan => text += &self.describe(image, &other),
                _ => {}
            }
        }
        for Unfinished { deletion, snapshots } in &self.ended {
            let _ = writeln!(text, "deleted the rest of {}", escape_line(&deletion.ami));
            text += &list_rest(deletion, snapshots);
            for kept in self.kept.iter().filter(|kept| kept.ami == deletion.ami) {
                text += &indent(&escape_line(&kept.why));
            }
            text += &describe_tags("had", &deletion.tags);
        }
        for (ami, why) in failures.iter().filter(|(ami, _)| self.images.iter().all(|image| image.ami != *ami))
        {
            let _ = writeln!(text, "not done {}", escape_line(ami));
            text += &indent(&format!("failed: {why}"));
        }
        if !deletes && failures.is_empty() {
            text += "`pcluster list-images`, `describe-image` and `delete-image` find them now.\n";
        }
        if !failures.is_empty() {
            text += "Run it again when the cause is gone: it goes on from where it stopped.\n";
        }
        text
    }

    /// An AMI in a few lines.
    fn describe(&self, image: &Image, left_out: &[&str]) -> String {
        let mut text = headline(class_name(image.class), image);
        let date = TimeZone::UTC.to_datetime(image.creation_date).date();
        let age = format_age(date, self.today);
        let version = image.version.as_deref().unwrap_or("of unknown release");
        text += &indent(&format!("pcluster {version}, {}, {}{age}", image.region, date));
        if image.class == Class::Orphan {
            text += &indent(&format!(
                "{}, at most ${:.2} a month",
                format_size(image),
                image.monthly_cost_at_most.usd
            ));
            text += &indent(source_name(image.source));
        }
        text + &describe_reasons(image, left_out)
    }

    fn describe_unfinished(&self) -> String {
        let line = |left: &Unfinished| {
            let snapshots = match left.snapshots.as_slice() {
                [] => "its artifacts are still there".to_owned(),
                snapshots => format!("{} still there, and billed", join_are(snapshots)),
            };
            let deletion = &left.deletion;
            let ends = "`pcluster preflight images --delete` ends it";
            format!("deletion of {} was cut off\n", escape_line(&deletion.ami))
                + &indent(&format!("{snapshots}; {ends}"))
                + &list_rest(deletion, &left.snapshots)
                + "\n"
        };
        self.unfinished.iter().map(line).collect()
    }

    fn summarize(&self) -> String {
        let (orphans, healthy) = (self.select(Class::Orphan).count(), self.select(Class::Healthy).count());
        let regions = match self.regions.as_slice() {
            [region] => escape_line(region),
            regions => format!("{} regions", regions.len()),
        };
        let found = match healthy {
            0 => String::new(),
            count => format!("; pcluster finds {count} other{}", if count == 1 { "" } else { "s" }),
        };
        if self.names_nothing() {
            return format!("{NOT_FOUND} in {regions}\n");
        }
        if orphans == 0 {
            let healthy = if found.is_empty() { NO_IMAGES } else { &found[2..] };
            return format!("No AMI of a broken build in {regions}: {healthy}.\n");
        }
        let total: f64 = self.select(Class::Orphan).map(|image| image.monthly_cost_at_most.usd).sum();
        let count = if orphans == 1 { "1 AMI that".into() } else { format!("{orphans} AMIs that") };
        let text =
            format!("{count} no pcluster command finds in {regions}, at most ${total:.2} a month{found}.");
        wrap(&text, WIDTH).join("\n") + "\n"
    }

    fn describe_skipped(&self) -> String {
        let line = |skipped: &Skipped| {
            let text = format!("not asked: {}: {}", skipped.source, escape_line(&skipped.why));
            wrap(&text, WIDTH).join("\n    ") + "\n"
        };
        let lines: String = self.skipped.iter().map(line).collect();
        if lines.is_empty() { lines } else { format!("\n{lines}") }
    }
}

const NO_IMAGES: &str = "there is none of pcluster's";
const NOT_FOUND: &str = "there is no such AMI of pcluster's";

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Healthy => "healthy",
        Class::Orphan => "orphan",
        Class::InProgress => "in progress",
        Class::FailedBuild => "failed build",
        Class::Foreign => "foreign",
    }
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Stack => "known from its stack",
        Source::DeletedStack => "known from its deleted stack",
        Source::S3 => "known from its artifacts in S3",
        Source::None => "nothing is left of its build",
    }
}

/// Empty where the date is to come, because a clock is wrong.
fn format_age(date: Date, today: Date) -> String {
    let days = today.duration_since(date).as_hours() / 24;
    if days < 0 { String::new() } else { format!(" ({days} days ago)") }
}

/// A word, the id of the AMI, and its image id or name.
fn headline(word: &str, image: &Image) -> String {
    let name = image.image_id.as_deref().unwrap_or(&image.name);
    format!("{word} {} {}\n", escape_line(&image.ami), escape_line(name))
}

fn format_size(image: &Image) -> String {
    let sizes: Option<Vec<f64>> = image.snapshots.iter().map(|snapshot| snapshot.size_gib).collect();
    let count = match image.snapshots.len() {
        1 => "1 snapshot".into(),
        count => format!("{count} snapshots"),
    };
    match sizes {
        Some(sizes) => format!("{count} of {:.0} GiB", sizes.iter().sum::<f64>()),
        None => format!("{count} of unknown size"),
    }
}

fn describe_reasons(image: &Image, left_out: &[&str]) -> String {
    let is_shown = |reason: &&String| !left_out.iter().any(|start| reason.starts_with(start));
    image.reasons.iter().filter(is_shown).map(|reason| indent(&escape_line(reason))).collect()
}

fn describe_repair(image: &Image) -> String {
    let mut text = describe_tags("gets", &image.tags);
    let Some(sharing) = &image.sharing else { return text };
    let with: Vec<&str> = sharing.list().map(|(_, id)| id).collect();
    if !with.is_empty() {
        let command = format_sharing(image, sharing);
        let how = if command.is_some() { "; to share it again:" } else { "" };
        text += &indent(&escape_line(&format!("was to be shared with {}{how}", with.join(", "))));
        // One line, so that it can be pasted.
        text += &command.map(|command| format!("{INDENT}{command}\n")).unwrap_or_default();
    }
    if !sharing.user_groups.is_empty() {
        text += &indent("was to be public; make it public yourself if that is still wanted");
    }
    text
}

/// The command that shares an AMI again; `None` if a shell could read anything else into it, because the configuration
/// in S3 can hold any text.
fn format_sharing(image: &Image, sharing: &Sharing) -> Option<String> {
    let is_plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/".contains(c))
    };
    let Image { region, ami, .. } = image;
    let all = sharing.list().map(|(_, id)| id).chain([region.as_str(), ami.as_str()]);
    let added: Vec<String> = sharing.list().map(|(key, id)| format!("{{{key}={id}}}")).collect();
    let command = format!(
        "aws ec2 modify-image-attribute --region {region} --image-id {ami} --launch-permission 'Add=[{}]'",
        added.join(",")
    );
    all.into_iter().all(is_plain).then_some(command)
}

fn describe_tags(verb: &str, tags: &std::collections::BTreeMap<String, String>) -> String {
    let line = |(key, value): (&String, &String)| {
        let mut line = String::new();
        let _ = writeln!(line, "{INDENT}{verb} {} = {}", escape_line(key), escape_line(value));
        line
    };
    tags.iter().map(line).collect()
}

fn describe_deletion(image: &Image) -> String {
    let snapshots = image.snapshots.iter().map(|snapshot| format!("snapshot {}", snapshot.id));
    let directory = image.artifacts.directory.iter();
    let directory = directory.map(|(bucket, directory)| format!("s3://{bucket}/{directory}/"));
    let logs = image.artifacts.log_group.iter().map(|name| format!("log group {name}"));
    let all = snapshots.chain(directory).chain(logs);
    all.fold(String::new(), |text, what| text + INDENT + "with " + &escape_line(&what) + "\n")
}

/// What is deleted of an AMI that is gone.
fn list_rest(deletion: &Deletion, snapshots: &[String]) -> String {
    let snapshots = snapshots.iter().map(|snapshot| format!("snapshot {snapshot}"));
    let directory = deletion.bucket.iter().zip(&deletion.directory);
    let directory = directory.map(|(bucket, directory)| format!("s3://{bucket}/{directory}/"));
    let lines = snapshots.chain(directory).map(|what| format!("{INDENT}with {}\n", escape_line(&what)));
    lines.collect()
}

fn join_are(snapshots: &[String]) -> String {
    let verb = if snapshots.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", snapshots.join(", "))
}

fn indent(text: &str) -> String {
    let lines = wrap(text, WIDTH - INDENT.len());
    lines.into_iter().fold(String::new(), |all, line| all + INDENT + &line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::inventory::{Ami, Inventory};
    use crate::images::rules::{Selection, examine};
    use crate::text::printable::escape;

    /// A listing whose AMI, region and cut-off deletion have a text of AWS in them.
    fn listing(text: &str) -> Listing {
        let arn = "arn:aws:imagebuilder:us-east-1:1:image/parallelclusterimage-x/3.1.3/1";
        let tags = [("Ec2ImageBuilderArn", arn), ("parallelcluster:build_status", "available")];
        let ami = Ami {
            id: text.into(),
            region: text.into(),
            name: text.into(),
            owner_id: "1".into(),
            state: "available".into(),
            description: Some("AWS ParallelCluster AMI for x".into()),
            tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Ami::default()
        };
        let inventory = Inventory { account: "1".into(), images: vec![ami], ..Inventory::default() };
        let left = || {
            let deletion = Deletion {
                account: "1".into(),
                region: text.into(),
                ami: text.into(),
                snapshots: vec![text.into()],
                build_region: text.into(),
                ..Deletion::default()
            };
            vec![Unfinished { snapshots: deletion.snapshots.clone(), deletion }]
        };
        Listing {
            images: examine(&inventory, &Selection::default()),
            unfinished: left(),
            account: "1".into(),
            regions: vec![text.into()],
            skipped: Vec::new(),
            ended: left(),
            kept: vec![Kept { ami: text.into(), snapshot: text.into(), why: text.into() }],
            today: jiff::civil::date(2026, 11, 26),
            is_named: true,
        }
    }

    #[test]
    fn age_is_counted_in_days() {
        let age = |today: &str| format_age("2024-02-28".parse().unwrap(), today.parse().unwrap());
        assert_eq!(age("2024-02-28"), " (0 days ago)");
        assert_eq!(age("2024-03-01"), " (2 days ago)");
        assert_eq!(age("2024-02-27"), "");
    }

    #[test]
    fn lost_launch_permissions_are_given_back_by_a_command_only_if_a_shell_takes_them_as_they_are() {
        let mut image = listing("ami-1").images.remove(0);
        let command = |image: &Image| format_sharing(image, image.sharing.as_ref().unwrap());
        image.sharing = Some(Sharing {
            user_ids: vec!["111122223333".into()],
            organizational_unit_arns: vec!["arn:aws:organizations::1:ou/o-1/ou-1".into()],
            ..Sharing::default()
        });
        assert_eq!(
            command(&image).unwrap(),
            "aws ec2 modify-image-attribute --region ami-1 --image-id ami-1 --launch-permission \
             'Add=[{UserId=111122223333},{OrganizationalUnitArn=arn:aws:organizations::1:ou/o-1/ou-1}]'"
        );
        image.sharing = Some(Sharing { user_ids: vec!["1' ; rm x".into()], ..Sharing::default() });
        assert_eq!(command(&image), None);
        assert!(describe_repair(&image).contains("was to be shared with 1' ; rm x\n"));
    }

    #[test]
    fn no_text_of_aws_reaches_a_terminal_as_it_is() {
        let text = "a\n\x1b\u{202e}b";
        let (listing, harmless) = (listing(text), listing(&escape_line(text)));
        assert_eq!(listing.images.len(), 1);
        for (hostile, harmless) in [(&listing, &harmless), (&empty(&listing), &empty(&harmless))] {
            let failures = [("c\n\x1b".to_owned(), "denied".to_owned())];
            let shown = |listing: &Listing| {
                let done = [true, false].map(|deletes| listing.render_done(deletes, &failures));
                let plan = [true, false].map(|deletes| listing.render_plan(deletes));
                [vec![listing.render_list()], done.into(), plan.into()].concat()
            };
            for (hostile, harmless) in shown(hostile).iter().zip(shown(harmless)) {
                assert_eq!(escape(hostile), *hostile);
                assert_eq!(*hostile, harmless);
            }
        }
    }

    fn empty(listing: &Listing) -> Listing {
        Listing {
            images: Vec::new(),
            unfinished: Vec::new(),
            account: listing.account.clone(),
            regions: listing.regions.clone(),
            skipped: Vec::new(),
            ended: Vec::new(),
            kept: Vec::new(),
            today: listing.today,
            is_named: false,
        }
    }
}
