//! Whether an AMI can be repaired, and with which tags. Pure.

use std::collections::BTreeSet;

use crate::images::class::Known;
use crate::images::commands;
use crate::images::image::Refusal;
use crate::images::inventory::{BuildArn, Tags};
use crate::images::origin::{MAX_SLUG, PREFIX};
use crate::images::rules::Examined;

/// EC2's limits: the number of tags of a resource, and the number of characters in a key and in a value.
const MAX_TAGS: usize = 50;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;

impl Examined<'_> {
    /// The tags that a repair writes.
    pub fn plan_repair(&self, conflicts: &[String]) -> Result<Tags, Refusal> {
        if let Some(refusal) = self.refuse_class().or_else(|| self.refuse_conflicts(conflicts)) {
            return Err(refusal);
        }
        let Known { ami, arn: Some(arn), origin: Some(origin), .. } = self.known else {
            return Err(self.refuse_nothing_left());
        };
        if ami.state == "disabled" {
            let reason = "it is disabled, so no pcluster command finds it: enable it first";
            return Err(Refusal::new("disabled", reason));
        }
        // Artifacts can exist even if they could not be read.
        if let Some(skipped) = self.inventory.find_skipped("s3:", &arn.region) {
            let reason = format!("not all artifacts of its build could be read ({})", skipped.source);
            return Err(Refusal::new("S3 could not be read", reason));
        }
        let mut tags = if self.owns_directory() {
            origin.lost_tags(self.inventory, ami, arn).ok_or_else(|| self.refuse_nothing_left())?
        } else {
            self.adopt(arn)?
        };
        tags.retain(|key, value| is_accepted(key, value));
        // AWS's own tags do not count towards the limit: EC2 user guide, "Tag your Amazon EC2 resources".
        let number =
            tags.keys().chain(ami.tags.keys()).filter(|key| !is_reserved(key)).collect::<BTreeSet<_>>().len();
        if number > MAX_TAGS {
            let reason = format!(
                "it would have {number} tags, and EC2 allows {MAX_TAGS}: remove some of its own first"
            );
            return Err(Refusal::new("too many tags", reason));
        }
        Ok(tags)
    }

    /// Tags for an AMI that has no directory, or whose directory belongs to another AMI. The tags name a
    /// directory that does not exist: pcluster's commands need only its name. The AMI gets these tags only if
    /// the user has named both the AMI and the image id.
    fn adopt(&self, arn: &BuildArn) -> Result<Tags, Refusal> {
        let Known { ami, origin, .. } = self.known;
        let named = self.selection.find_id(&arn.slug).filter(|_| self.selection.names(&ami.id));
        let Some(id) = named else { return Err(self.refuse_nothing_left()) };
        let Some(bucket) = self.inventory.buckets.iter().find(|bucket| bucket.region == arn.region) else {
            let reason = "its tags have to name a bucket, and none was found; pass one with --bucket";
            return Err(Refusal::new("no bucket found", reason));
        };
        let short: String = arn.slug.chars().take(MAX_SLUG).collect();
        let suffix: String = ami.id.chars().rev().filter(char::is_ascii_alphanumeric).take(16).collect();
        let directory = format!("parallelcluster/{}/images/{short}-{suffix:0>16}", arn.version);
        if self.inventory.directories.iter().any(|other| other.directory == directory) {
            return Err(Refusal::new("directory exists", format!("directory {directory} already exists")));
        }
        // The AMI may be a copy. If the directory of the original AMI's build was found, the copy gets the
        // tags that the build would have given the original AMI. The tags in `own` replace some of them.
        let original = origin.as_ref().and_then(|origin| origin.lost_tags(self.inventory, ami, arn));
        let mut tags = original.unwrap_or_default();
        let own = [
            ("image_id", id.clone()),
            ("image_name", id.clone()),
            ("version", arn.version.clone()),
            ("s3_bucket", bucket.name.clone()),
            ("s3_image_dir", directory),
        ];
        tags.extend(own.map(|(name, value)| (format!("{PREFIX}{name}"), value)));
        Ok(tags)
    }

    fn refuse_nothing_left(&self) -> Refusal {
        let ami = self.known.ami;
        let id = self.known.image_id().unwrap_or_else(|| self.guess_id());
        let command = commands::adopt(id, &ami.id, &ami.region);
        let (kind, why) = if self.known.directory().is_some() {
            ("artifacts belong to another AMI", "its build artifacts belong to another AMI;")
        } else {
            let why = "its build artifacts were not found; search another bucket with --bucket NAME, or,";
            ("no artifacts found", why)
        };
        let reason = format!("{why} to tag it anyway, run `{command}`");
        Refusal { command: Some(command), ..Refusal::new(kind, reason) }
    }

    /// Reads the image id from the name of the AMI, `ParallelClusterImage-ID DATE`. If the name has another
    /// form or contains another id, the result is the image id in lower case, as in the ARN of the build.
    fn guess_id(&self) -> &str {
        let Known { ami, .. } = self.known;
        let named = ami.name.strip_prefix("ParallelClusterImage-").and_then(|rest| rest.split(' ').next());
        named.filter(|id| id.to_lowercase() == self.known.slug()).unwrap_or(self.known.slug())
    }

    /// What the user should know about a repair: other AMIs with the same image id, and tags that it does
    /// not restore.
    pub fn describe_repaired(&self, conflicts: &[String]) -> Vec<String> {
        let mut notes = Vec::new();
        if !conflicts.is_empty() {
            let others = conflicts.join(", ");
            notes.push(format!(
                "same image id as {others}; describe-image and delete-image use only the first one that they find"
            ));
        }
        let Some(origin) = &self.known.origin else { return notes };
        if !origin.has_configuration() {
            notes.push(
                "the configuration of its build was not found, so your own tags cannot be restored".into(),
            );
        }
        let asked =
            self.known.arn.as_ref().and_then(|arn| origin.lost_tags(self.inventory, self.known.ami, arn));
        let refused: Vec<String> = asked
            .into_iter()
            .flatten()
            .filter(|(key, value)| !is_accepted(key, value))
            .map(|(key, _)| key)
            .collect();
        if !refused.is_empty() {
            notes.push(format!("EC2 refuses these tags, and they are left out: {}", refused.join(", ")));
        }
        notes
    }
}

/// Whether EC2 accepts a tag, to the extent that this can be known in advance.
fn is_accepted(key: &str, value: &str) -> bool {
    let length = key.chars().count();
    length > 0 && length <= MAX_KEY && !is_reserved(key) && value.chars().count() <= MAX_VALUE
}

fn is_reserved(key: &str) -> bool {
    key.to_lowercase().starts_with("aws:")
}

#[cfg(test)]
mod tests {
    use crate::images::class::{BUILD_STATUS, IMAGE_ID};
    use crate::images::fixtures::{ACCOUNT, DONE, ami, arn, directory, inventory, moment, select, template};
    use crate::images::image::Action;
    use crate::images::inventory::{Ami, Inventory, Stack};
    use crate::images::origin::{PREFIX, Source};
    use crate::images::rules::examine;
    use crate::images::selection::Selection;

    #[test]
    fn a_repair_writes_all_that_was_lost_and_nothing_that_is_there() {
        let mut own = directory("My-Image", 'a', "2022-10-26T22:00:00Z");
        own.configuration = Some(
            "Image:\n  Tags:\n  - {Key: team, Value: hpc}\n  - {Key: os, Value: mine}\n  - {Key: 'aws:x', Value: y}\n\
             DevSettings:\n  DistributionConfiguration:\n    LaunchPermission: '{\"UserIds\": [\"111122223333\"]}'\n"
                .into(),
        );
        let mut orphan = ami("ami-1", &arn("my-image", "3.1.3", ACCOUNT), DONE);
        orphan.tags.insert("os".into(), "theirs".into());
        let inventory = Inventory { directories: vec![own], ..inventory(vec![orphan]) };
        let images = examine(&inventory, &Selection::default());
        let [image] = images.as_slice() else { panic!("{images:?}") };
        assert_eq!(
            (image.repair, image.delete, image.source),
            (Action::Possible, Action::Possible, Source::S3)
        );
        assert_eq!(image.image_id.as_deref(), Some("My-Image"));
        let keys: Vec<&str> = image.tags.keys().map(String::as_str).collect();
        let own = [
            "build_config",
            "build_log",
            "image_id",
            "image_name",
            "parent_image",
            "s3_bucket",
            "s3_image_dir",
            "version",
        ];
        let own: Vec<String> =
            own.iter().map(|name| format!("{PREFIX}{name}")).chain(["team".into()]).collect();
        assert_eq!(keys, own);
        let log =
            "arn:aws:logs:us-east-1:123456789012:log-group:/aws/imagebuilder/ParallelClusterImage-My-Image";
        assert_eq!(image.tags["parallelcluster:build_log"], log);
        assert_eq!(image.sharing.as_ref().unwrap().user_ids, ["111122223333"]);
        let json = serde_json::json!(image);
        assert_eq!(json["monthlyCostAtMost"]["usd"], 2.0);
        assert_eq!(json["snapshots"][0]["sizeGiB"], 40.0);
        assert_eq!(json["creationDate"], "2022-10-26T23:00:00.000Z");
    }

    #[test]
    fn more_tags_than_ec2_allows_are_refused_and_those_of_aws_do_not_count() {
        let repair = |more: usize| {
            let mut orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
            let own = (0..more).map(|number| (format!("own-{number}"), String::new()));
            orphan.tags.extend(own.chain([("aws:backup:source-resource".to_owned(), "x".to_owned())]));
            let directories = vec![directory("x", 'a', "2022-10-26T22:00:00Z")];
            examine(&Inventory { directories, ..inventory(vec![orphan]) }, &Selection::default()).remove(0)
        };
        let first = repair(0);
        let room = 50 - first.tags.len() - (first.had_tags.len() - 1);
        assert_eq!(repair(room).repair, Action::Possible);
        let refused = repair(room + 1);
        assert_eq!((refused.repair, refused.repair_refused), (Action::Refused, Some("too many tags")));
        assert!(
            refused.reasons[0].contains("it would have 51 tags, and EC2 allows 50"),
            "{:?}",
            refused.reasons
        );
    }

    #[test]
    fn of_two_builds_of_one_id_each_has_its_own_directory_and_only_a_named_one_is_repaired() {
        let arn = arn("x", "3.1.3", ACCOUNT);
        let first = Ami { creation_date: moment("2022-10-01T10:00:00Z"), ..ami("ami-1", &arn, DONE) };
        let second = Ami { creation_date: moment("2022-10-02T10:00:00Z"), ..ami("ami-2", &arn, DONE) };
        let directories =
            vec![directory("x", 'b', "2022-10-02T09:00:00Z"), directory("x", 'a', "2022-10-01T09:00:00Z")];
        let inventory = Inventory { directories, ..inventory(vec![first, second]) };
        for image in examine(&inventory, &Selection::default()) {
            assert_eq!((image.repair, image.delete), (Action::Refused, Action::Refused));
            assert_eq!(image.conflicts_with.len(), 1);
        }
        for (ami, letters) in [("ami-1", "aaaa"), ("ami-2", "bbbb")] {
            let selection = select(&[], &[ami]);
            let images = examine(&inventory, &selection);
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].repair, Action::Possible, "{:?}", images[0].reasons);
            assert!(images[0].tags["parallelcluster:s3_image_dir"].ends_with(letters));
        }
    }

    /// Reading the templates of all directories for each AMI took minutes when there were hundreds of
    /// directories and AMIs.
    #[test]
    fn only_a_directory_that_is_named_after_the_image_is_read() {
        let orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let is_found = |name: &str| {
            let mut found = directory("x", 'a', "2022-10-26T22:00:00Z");
            found.directory = format!("parallelcluster/3.1.3/images/{name}");
            found.template = Some(template("x", "b", &found.directory));
            let inventory = Inventory { directories: vec![found], ..inventory(vec![orphan.clone()]) };
            examine(&inventory, &Selection::default())[0].artifacts.directory.is_some()
        };
        assert!(is_found("x-aaaaaaaaaaaaaaaa") && is_found("X-aaaaaaaaaaaaaaaa"));
        assert!(!is_found("y-aaaaaaaaaaaaaaaa") && !is_found("xaaaaaaaaaaaaaaaa"));
    }

    #[test]
    fn of_directories_in_two_buckets_none_is_the_builds() {
        let orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let mut other = directory("x", 'b', "2022-10-26T22:30:00Z");
        other.bucket = "c".into();
        other.template = Some(template("x", "c", &other.directory));
        let own = directory("x", 'a', "2022-10-26T22:00:00Z");
        let all = Inventory { directories: vec![own, other], ..inventory(vec![orphan]) };
        let image = examine(&all, &Selection::default()).remove(0);
        assert_eq!((image.repair, image.artifacts.directory), (Action::Refused, None));

        let tag = |name: &str, value: &str| (format!("parallelcluster:{name}"), value.to_owned());
        let place = "parallelcluster/3.1.3/images/x-aaaaaaaaaaaaaaaa";
        let tags = [tag("image_id", "x"), tag("s3_bucket", "b"), tag("s3_image_dir", place)];
        let stack = Stack {
            region: "us-east-1".into(),
            id: "s".into(),
            name: "x".into(),
            status: "DELETE_COMPLETE".into(),
            creation_time: moment("2022-10-26T21:59:00Z"),
            deletion_time: Some(moment("2022-10-26T23:10:00Z")),
            tags: Some(tags.into()),
            image_arn: None,
        };
        let all = Inventory { stacks: vec![stack], ..all };
        let image = examine(&all, &Selection::default()).remove(0);
        assert_eq!(image.artifacts.directory, Some(("b".into(), place.into())), "{image:?}");
    }

    #[test]
    fn an_ami_of_which_nothing_is_left_gets_tags_only_where_it_and_its_id_are_named() {
        let inventory = inventory(vec![ami("ami-0abc", &arn("x", "3.1.3", ACCOUNT), DONE)]);
        for selection in [select(&[], &[]), select(&["X"], &[]), select(&[], &["ami-0abc"])] {
            let images = examine(&inventory, &selection);
            assert_eq!(images[0].repair, Action::Refused, "{selection:?}");
        }
        assert!(examine(&inventory, &select(&["y"], &["ami-0abc"])).is_empty());
        let images = examine(&inventory, &select(&["y", "X"], &["ami-0abc"]));
        assert_eq!(images[0].repair, Action::Possible, "{:?}", images[0].reasons);
        assert_eq!(images[0].tags["parallelcluster:image_id"], "X");
        assert_eq!(
            images[0].tags["parallelcluster:s3_image_dir"],
            "parallelcluster/3.1.3/images/x-000000000cba0ima"
        );
    }

    #[test]
    fn a_disabled_ami_is_not_said_to_be_found() {
        let orphan = Ami { state: "disabled".into(), ..ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE) };
        let images = examine(&inventory(vec![orphan]), &Selection::default());
        assert_eq!((images[0].repair, images[0].delete), (Action::Refused, Action::Possible));
        assert!(images[0].reasons[0].contains("enable it first"), "{:?}", images[0].reasons);
    }

    #[test]
    fn a_copy_in_another_region_does_not_get_the_directory_of_the_original() {
        let arn = arn("x", "3.1.3", ACCOUNT);
        let copy = Ami { region: "eu-west-1".into(), ..ami("ami-2", &arn, DONE) };
        let directories = vec![directory("x", 'a', "2022-10-26T22:00:00Z")];
        let inventory = Inventory { directories, ..inventory(vec![ami("ami-1", &arn, DONE), copy]) };
        let images = examine(&inventory, &Selection::default());
        assert_eq!((images[0].repair, images[1].repair), (Action::Possible, Action::Refused));
        assert_eq!(images[1].artifacts.directory, None);
    }

    /// A user has rescued an AMI with `CopyImage` and `CreateTags`; the copy lacks the tags of Image Builder.
    /// The copy's tags name the directory of the original, so the original no longer owns that directory.
    #[test]
    fn a_copy_that_was_tagged_by_hand_keeps_its_directory() {
        let path = "parallelcluster/3.1.3/images/x-aaaaaaaaaaaaaaaa";
        let mut copy = ami("ami-2", "", &[(IMAGE_ID, "x"), (BUILD_STATUS, "available")]);
        copy.tags.remove("Ec2ImageBuilderArn");
        copy.tags.insert("parallelcluster:s3_bucket".into(), "b".into());
        copy.tags.insert("parallelcluster:s3_image_dir".into(), path.into());
        let directories = vec![directory("x", 'a', "2022-10-26T22:00:00Z")];
        let original = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let inventory = Inventory { directories, ..inventory(vec![original, copy]) };
        let images = examine(&inventory, &Selection::default());
        assert_eq!(images.len(), 1);
        assert_eq!((images[0].repair, images[0].delete), (Action::Refused, Action::Refused));
        assert_eq!(images[0].conflicts_with, ["ami-2"]);
        let selection = select(&[], &["ami-1"]);
        let images = examine(&inventory, &selection);
        assert_eq!((images[0].repair, images[0].delete), (Action::Refused, Action::Possible));
        assert_eq!(images[0].artifacts.directory, None);
    }

    #[test]
    fn adopted_copy_gets_the_tags_of_the_originals_configuration() {
        let arn = arn("x", "3.1.3", ACCOUNT);
        let copy = Ami { region: "eu-west-1".into(), ..ami("ami-2", &arn, DONE) };
        let mut own = directory("x", 'a', "2022-10-26T22:00:00Z");
        own.configuration = Some("Image:\n  Tags:\n  - {Key: team, Value: hpc}\n".into());
        let inventory = Inventory { directories: vec![own], ..inventory(vec![copy]) };
        let image = examine(&inventory, &Selection::default()).remove(0);
        let command = "`pcluster preflight images --repair -i x --image ami-2 -r eu-west-1`";
        assert!(image.reasons[0].contains(command), "{:?}", image.reasons);
        let image = examine(&inventory, &select(&["x"], &["ami-2"])).remove(0);
        assert_eq!(image.tags["team"], "hpc");
        let place = &image.tags["parallelcluster:s3_image_dir"];
        assert_ne!(*place, inventory.directories[0].directory);
    }

    #[test]
    fn tags_that_ec2_refuses_are_left_out_and_named() {
        let mut own = directory("x", 'a', "2022-10-26T22:00:00Z");
        let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
        own.configuration = Some(format!(
            "Image:\n  Tags:\n  - {{Key: team, Value: {long_value}}}\n  - {{Key: {long_key}, Value: x}}\n  \
             - {{Key: 'AWS:x', Value: x}}\n  - {{Key: fine, Value: x}}\n"
        ));
        let orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let inventory = Inventory { directories: vec![own], ..inventory(vec![orphan]) };
        let image = examine(&inventory, &Selection::default()).remove(0);
        assert_eq!(image.repair, Action::Possible);
        let refused = ["team", &long_key, "AWS:x"];
        assert!(image.tags.contains_key("fine") && refused.iter().all(|key| !image.tags.contains_key(*key)));
        let said = |key: &&str| image.reasons.iter().any(|reason| reason.contains(*key));
        assert!(refused.iter().all(said), "{:?}", image.reasons);
    }
}
