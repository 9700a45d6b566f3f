//! Whether an AMI can be deleted, what is deleted with it, and what stays. Pure.

use crate::images::class::{Class, IMAGE_ID, live_stacks};
use crate::images::image::{Artifacts, Refusal, format_place};
use crate::images::inventory::{BuildArn, Inventory, Skipped, Stack};
use crate::images::origin::{MAX_SLUG, Origin, PREFIX, image_arn, is_named, is_named_after};
use crate::images::rules::Examined;
use crate::images::selection::is_id;

/// If an AMI has this tag, with any value, it is protected from deletion.
pub const KEEP: &str = "pcluster-preflight:keep";

/// The calls that show whether an AMI is in use.
const USES: [&str; 3] = [
    "ec2:DescribeInstances",
    "ec2:DescribeLaunchTemplateVersions",
    "autoscaling:DescribeLaunchConfigurations",
];

const LOG_GROUP: &str = "/aws/imagebuilder/ParallelClusterImage-";

impl Examined<'_> {
    /// The reason why the AMI must not be deleted, if there is one.
    pub fn refuse_delete(&self, conflicts: &[String]) -> Option<Refusal> {
        self.refuse_class()
            .or_else(|| self.refuse_conflicts(conflicts))
            .or_else(|| self.refuse_kept())
            .or_else(|| self.refuse_used())
            .or_else(|| self.refuse_unlisted_stacks())
            .or_else(|| self.refuse_shared_snapshot())
            .or_else(|| self.refuse_shared())
            .or_else(|| self.refuse_protected())
            .or_else(|| self.refuse_unknown_release())
    }

    fn refuse_kept(&self) -> Option<Refusal> {
        let is_kept = self.known.ami.tags.contains_key(KEEP);
        is_kept.then(|| Refusal::new("tagged to be kept", format!("its tag {KEEP} protects it")))
    }

    fn refuse_used(&self) -> Option<Refusal> {
        let uses = self.find_uses();
        if !uses.is_empty() {
            return Some(Refusal::new("in use", format!("it is in use by {}", uses.join(", "))));
        }
        let region = &self.known.ami.region;
        let skipped = USES.iter().find_map(|name| self.inventory.find_skipped(name, region))?;
        let reason = format!("cannot find out whether it is in use ({}: {})", skipped.source, skipped.why);
        Some(Refusal::new("use unknown", reason))
    }

    /// Refuses if the stacks could not be listed, because a build with the AMI's image id could be
    /// running. If AWS denied only the list, client.py looked up the stack that is named like the image
    /// id in lower case. That is enough if the image id is known to be in lower case, because stack names
    /// are case-sensitive.
    fn refuse_unlisted_stacks(&self) -> Option<Refusal> {
        let region = self.known.arn.as_ref().map_or("", |arn| &arn.region);
        let skipped = self.inventory.find_skipped("cloudformation:ListStacks", region)?;
        let is_guessed = skipped.permission.is_some() && self.known.image_id() == Some(self.known.slug());
        let is_known =
            is_guessed && self.inventory.find_skipped("cloudformation:DescribeStacks", region).is_none();
        let (source, why) = (&skipped.source, &skipped.why);
        let reason = format!("cannot find out whether a build of it is running ({source}: {why})");
        (!is_known).then(|| Refusal::new("running builds unknown", reason))
    }

    /// Refuses if another AMI needs a snapshot of this AMI.
    fn refuse_shared_snapshot(&self) -> Option<Refusal> {
        let ami = self.known.ami;
        let others = self.inventory.images.iter();
        let others = others.filter(|other| other.id != ami.id && other.region == ami.region);
        let pairs =
            others.flat_map(|other| other.snapshots.iter().map(move |device| (&other.id, &device.id)));
        let mut shared = pairs.filter(|(_, id)| ami.snapshots.iter().any(|own| own.id == **id));
        let (other, id) = shared.next()?;
        Some(Refusal::new("snapshot in use", format!("{other} needs its snapshot {id}")))
    }

    fn refuse_shared(&self) -> Option<Refusal> {
        let shares = self.find_shares();
        if !shares.is_empty() {
            return Some(Refusal::new("shared", format!("it is shared with {}", shares.join(", "))));
        }
        let is_unknown = self.known.ami.launch_permission.is_none();
        is_unknown.then(|| Refusal::new("sharing unknown", "cannot find out whether it is shared"))
    }

    fn refuse_protected(&self) -> Option<Refusal> {
        let protection = self.known.ami.deregistration_protection.as_deref();
        let protection = protection.filter(|value| *value != "disabled")?;
        Some(Refusal::new("protected", format!("it is protected from deregistration ({protection})")))
    }

    fn refuse_unknown_release(&self) -> Option<Refusal> {
        let is_asked = self.is_of_known_release() || self.selection.names(&self.known.ami.id);
        let reason =
            "it was built by an unknown release of pcluster; to delete it anyway, pass it with --image";
        (!is_asked).then(|| Refusal::new("unknown release", reason))
    }

    /// A note if a live stack is named after the image. A deletion does not remove that stack.
    pub fn describe_stack(&self) -> Option<String> {
        let arn = self.known.arn.as_ref()?;
        let stack = live_stacks(self.inventory, arn).next()?;
        let is_of_pcluster = stack.tags.as_ref().is_some_and(|tags| tags.contains_key(IMAGE_ID));
        let (name, status) = (&stack.name, &stack.status);
        Some(if is_of_pcluster {
            format!("its stack {name} still exists ({status}) and is not deleted")
        } else {
            format!(
                "a stack {name} that pcluster did not create has the same name; `pcluster delete-image` would delete \
                 that stack"
            )
        })
    }

    /// The directory and the log group that are deleted with the AMI, because they belong only to this AMI.
    pub fn artifacts(&self) -> Artifacts {
        let Some(arn) = self.known.arn.as_ref().filter(|_| self.known.class == Class::Orphan) else {
            return Artifacts::default();
        };
        let directory =
            self.known.directory().filter(|_| self.owns_directory() && self.is_directory_of_account());
        let is_listed = self.inventory.find_skipped("cloudformation:ListStacks", &arn.region).is_none();
        let is_alone = is_listed && self.has_logs_alone(arn);
        let group = self.find_log_group(arn).filter(|_| self.known.image_id().is_some());
        Artifacts {
            region: arn.region.clone(),
            directory: directory.map(|(bucket, directory)| (bucket.to_owned(), directory.to_owned())),
            log_group: group.filter(|_| is_alone).map(str::to_owned),
        }
    }

    fn is_directory_of_account(&self) -> bool {
        self.known.origin.as_ref().is_some_and(Origin::is_of_account)
    }

    fn has_logs_alone(&self, arn: &BuildArn) -> bool {
        let own = self.known.origin.as_ref().and_then(|origin| origin.stack).map(|stack| stack.id.as_str());
        arn.region == self.known.ami.region && has_logs_alone(self.inventory, arn, own, 1)
    }

    /// The artifacts that a deletion leaves behind, although they may belong only to this AMI: the address of
    /// each, and the reason.
    pub fn find_stays(&self) -> Vec<(String, String)> {
        let Some(arn) = self.known.arn.as_ref().filter(|arn| arn.region == self.known.ami.region) else {
            return Vec::new();
        };
        let mut stays = self.find_unproven_directories(arn);
        stays.extend(self.find_kept_logs(arn));
        stays
    }

    /// A log group that is not deleted, although perhaps no other AMI uses it; with the reason.
    fn find_kept_logs(&self, arn: &BuildArn) -> Option<(String, String)> {
        if !self.has_logs_alone(arn) {
            return None;
        }
        let explain = |skipped: &Skipped| format!("{}: {}", skipped.source, skipped.why);
        if let Some(skipped) = self.inventory.find_skipped("logs:DescribeLogGroups", &arn.region) {
            let name = self.known.image_id().unwrap_or(self.known.slug());
            return Some((format!("log group {LOG_GROUP}{name}"), explain(skipped)));
        }
        let group = self.find_log_group(arn)?;
        let why = match self.known.image_id() {
            None => "nothing else from its build was found".into(),
            Some(_) => explain(self.inventory.find_skipped("cloudformation:ListStacks", &arn.region)?),
        };
        Some((format!("log group {group}"), why))
    }

    /// The log group that is named after the AMI's image id.
    fn find_log_group(&self, arn: &BuildArn) -> Option<&str> {
        let id = |name: &str| name.strip_prefix(LOG_GROUP).map(str::to_owned);
        let is_own =
            |name: &str| id(name).is_some_and(|id| is_id(&id, self.known.image_id(), self.known.slug()));
        let mut groups = self.inventory.log_groups.iter().filter(|group| group.region == arn.region);
        groups.find(|group| is_own(&group.name)).map(|group| group.name.as_str())
    }

    fn find_unproven_directories(&self, arn: &BuildArn) -> Vec<(String, String)> {
        if let Some((bucket, directory)) = self.known.directory() {
            let is_unproven = self.owns_directory() && !self.is_directory_of_account();
            let why = "another account may have made it";
            return is_unproven
                .then(|| (format_place(bucket, directory), why.to_owned()))
                .into_iter()
                .collect();
        }
        let buckets =
            self.inventory.skipped.iter().filter_map(|skipped| Some((skipped.bucket.as_ref()?, skipped)));
        let in_region = buckets.filter(|(_, skipped)| skipped.source.ends_with(&arn.region));
        in_region
            .map(|(bucket, skipped)| {
                let why = format!("{}: {}", skipped.source, skipped.why);
                (self.guess_place(bucket, arn), why)
            })
            .collect()
    }

    /// The address of the AMI's directory in a bucket that could not be read completely. The name of the
    /// directory comes from the stack's tags, or else from the directories that were listed. If the name
    /// is in neither, the address has a pattern instead, because the name ends with random characters.
    fn guess_place(&self, bucket: &str, arn: &BuildArn) -> String {
        let stack = self.known.origin.as_ref().and_then(|origin| origin.stack);
        let tag = |name: &str| stack?.tags.as_ref()?.get(&format!("{PREFIX}{name}")).map(String::as_str);
        let tagged = tag("s3_image_dir").filter(|_| tag("s3_bucket") == Some(bucket));
        let mut listed = self.inventory.directories.iter();
        let listed =
            listed.find(|own| own.bucket == bucket && own.region == arn.region && is_named_after(own, arn));
        if let Some(directory) = tagged.or(listed.map(|listed| listed.directory.as_str())) {
            return format_place(bucket, directory);
        }
        let slug = arn.slug.get(..MAX_SLUG).unwrap_or(&arn.slug);
        format!("s3://{bucket}/parallelcluster/{}/images/{slug}-*/", arn.version)
    }
}

/// Whether no other build writes to the log group of an image id. That is so if no stack except `stack` is
/// named after the image, and if exactly `amis` AMIs have the image id: 1 while the build's own AMI exists, 0
/// after its deletion.
pub fn has_logs_alone(inventory: &Inventory, arn: &BuildArn, stack: Option<&str>, amis: usize) -> bool {
    let builds = inventory.images.iter().filter_map(image_arn).filter_map(BuildArn::read);
    let is_other = |other: &Stack| is_named(other, arn) && Some(other.id.as_str()) != stack;
    builds.filter(|build| build.slug == arn.slug).count() == amis && !inventory.stacks.iter().any(is_other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::fixtures::{ACCOUNT, DONE, ami, arn, directory, inventory, moment, select};
    use crate::images::image::Action;
    use crate::images::inventory::{Ami, BucketFrom, LaunchPermission, LogGroup, Skipped, Use};
    use crate::images::rules::examine;
    use crate::images::selection::Selection;

    /// A bucket with a custom name can contain builds of several regions and accounts.
    #[test]
    fn of_a_shared_bucket_only_what_names_its_region_is_given_back_and_nothing_is_deleted() {
        let orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let in_bucket = |from: BucketFrom, region: Option<&str>| {
            let mut found = directory("x", 'a', "2022-10-26T22:00:00Z");
            found.bucket_from = from;
            found.configuration = region.map(|region| format!("Region: {region}\n"));
            let inventory = Inventory { directories: vec![found], ..inventory(vec![orphan.clone()]) };
            let image = examine(&inventory, &Selection::default()).remove(0);
            (image.repair, image.artifacts.directory.is_some())
        };
        let (possible, refused) = (Action::Possible, Action::Refused);
        assert_eq!(in_bucket(BucketFrom::Default, None), (possible, true));
        assert_eq!(in_bucket(BucketFrom::Option, Some("us-east-1")), (possible, false));
        assert_eq!(in_bucket(BucketFrom::Option, Some("eu-west-1")), (refused, false));
        assert_eq!(in_bucket(BucketFrom::Option, None), (refused, false));
        // The bucket was named by a stack that does not belong to the build.
        assert_eq!(in_bucket(BucketFrom::Stack, Some("us-east-1")), (refused, false));
    }

    #[test]
    fn what_is_used_shared_or_protected_is_not_deleted() {
        let own = arn("x", "3.1.3", ACCOUNT);
        let refused = |ami: Ami, change: fn(&mut Inventory)| {
            let mut inventory = inventory(vec![ami]);
            change(&mut inventory);
            let images = examine(&inventory, &Selection::default());
            assert_eq!(images[0].delete, Action::Refused);
            images[0].reasons.iter().find(|reason| reason.starts_with("not deletable")).unwrap().clone()
        };
        let orphan = || ami("ami-1", &own, DONE);
        let used = refused(orphan(), |inventory| {
            let (region, image, by) = ("us-east-1".into(), "ami-1".into(), "i-1".into());
            inventory.uses.push(Use { region, image, by });
        });
        assert!(used.contains("in use by i-1"), "{used}");
        let unknown = refused(orphan(), |inventory| {
            let source = "ec2:DescribeInstances in us-east-1".into();
            let skipped = Skipped { source, why: "denied".into(), permission: None, bucket: None };
            inventory.skipped.push(skipped);
        });
        assert!(unknown.contains("cannot find out whether it is in use"), "{unknown}");
        let mut kept = orphan();
        kept.tags.insert(KEEP.into(), String::new());
        assert!(refused(kept, |_| {}).contains("pcluster-preflight:keep protects it"));
        assert!(refused(Ami { public: true, ..orphan() }, |_| {}).contains("shared with all"));
        let (users, groups) = (vec!["111122223333".into()], vec!["all".into()]);
        let launch_permission = Some(LaunchPermission { users, groups, organizations: Vec::new() });
        let shared = refused(Ami { public: true, launch_permission, ..orphan() }, |_| {});
        assert_eq!(shared.matches("all").count(), 1, "{shared}");
        assert!(
            refused(Ami { launch_permission: None, ..orphan() }, |_| {})
                .contains("cannot find out whether it is shared")
        );
        let protection = Some("enabled-with-cooldown".to_owned());
        let protected = refused(Ami { deregistration_protection: protection, ..orphan() }, |_| {});
        assert!(protected.contains("protected"), "{protected}");
    }

    #[test]
    fn what_could_not_be_read_is_not_taken_for_what_is_not_there() {
        let skip = |source: &str| Skipped {
            source: format!("{source} in us-east-1"),
            why: "throttled".into(),
            permission: None,
            bucket: source.starts_with("s3:").then(|| "b".to_owned()),
        };
        let orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let directories = vec![directory("x", 'a', "2022-10-26T22:00:00Z")];
        let all = Inventory { directories, ..inventory(vec![orphan]) };
        let selection = select(&["x"], &["ami-1"]);
        let with = |source: &str| {
            let inventory = Inventory { skipped: vec![skip(source)], ..all.clone() };
            let images = examine(&inventory, &selection);
            (images[0].repair, images[0].delete, images[0].stays.clone())
        };
        let logs = "log group /aws/imagebuilder/ParallelClusterImage-x".to_owned();
        assert_eq!(with("logs:DescribeLogGroups"), (Action::Possible, Action::Possible, vec![logs]));
        assert_eq!(with("s3:GetObject of b"), (Action::Refused, Action::Possible, vec![]));
        assert_eq!(with("cloudformation:ListStacks"), (Action::Possible, Action::Refused, vec![]));
    }

    #[test]
    fn a_snapshot_of_another_ami_and_the_logs_of_another_build_stay() {
        let own = arn("x", "3.1.3", ACCOUNT);
        let mut other = ami("ami-2", &arn("y", "3.1.3", ACCOUNT), DONE);
        other.snapshots[0].id = "snap-ami-1".into();
        let images = examine(&inventory(vec![ami("ami-1", &own, DONE), other]), &Selection::default());
        assert!(images.iter().all(|image| image.delete == Action::Refused), "{images:?}");

        let group =
            LogGroup { region: "us-east-1".into(), name: "/aws/imagebuilder/ParallelClusterImage-x".into() };
        let directories = vec![directory("x", 'a', "2022-10-26T22:00:00Z")];
        let mut one =
            Inventory { directories, log_groups: vec![group], ..inventory(vec![ami("ami-1", &own, DONE)]) };
        assert!(examine(&one, &Selection::default())[0].artifacts.log_group.is_some());
        one.stacks.push(Stack {
            region: "us-east-1".into(),
            name: "x".into(),
            status: "CREATE_FAILED".into(),
            creation_time: moment("2022-10-28T10:00:00Z"),
            ..Stack::default()
        });
        assert_eq!(examine(&one, &Selection::default())[0].artifacts.log_group, None);
    }

    #[test]
    fn what_a_deletion_cannot_find_is_named_as_what_stays() {
        let skipped = Skipped {
            source: "s3:ListObjectsV2 of b in us-east-1".into(),
            why: "denied".into(),
            permission: Some("s3:ListBucket".into()),
            bucket: Some("b".into()),
        };
        let stays = |stack: Vec<Stack>| {
            let inventory = Inventory {
                skipped: vec![skipped.clone()],
                stacks: stack,
                ..inventory(vec![ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE)])
            };
            examine(&inventory, &Selection::default()).remove(0).stays
        };
        assert_eq!(stays(Vec::new()), ["s3://b/parallelcluster/3.1.3/images/x-*/"]);
        let place = "parallelcluster/3.1.3/images/x-aaaaaaaaaaaaaaaa";
        let tag = |name: &str, value: &str| (format!("{PREFIX}{name}"), value.to_owned());
        let stack = Stack {
            region: "us-east-1".into(),
            name: "x".into(),
            status: "DELETE_FAILED".into(),
            creation_time: moment("2022-10-26T22:00:00Z"),
            tags: Some([tag("image_id", "x"), tag("s3_bucket", "b"), tag("s3_image_dir", place)].into()),
            ..Stack::default()
        };
        assert_eq!(stays(vec![stack]), [format!("s3://b/{place}/")]);
        // Another account could have created what is in a bucket that the user names.
        let mut found = directory("x", 'a', "2022-10-26T22:00:00Z");
        found.bucket_from = BucketFrom::Option;
        found.configuration = Some("Region: us-east-1\n".into());
        let orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let inventory = Inventory { directories: vec![found], ..inventory(vec![orphan]) };
        let image = examine(&inventory, &Selection::default()).remove(0);
        assert_eq!(image.stays, [format!("s3://b/{place}/")]);
        assert!(image.reasons[0].contains("another account may have made it"), "{:?}", image.reasons);
    }

    #[test]
    fn log_group_of_an_uncertain_image_id_stays_and_is_named() {
        let name = "/aws/imagebuilder/ParallelClusterImage-X";
        let group = LogGroup { region: "us-east-1".into(), name: name.into() };
        let orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let inventory = Inventory { log_groups: vec![group], ..inventory(vec![orphan]) };
        let image = examine(&inventory, &Selection::default()).remove(0);
        assert_eq!((image.delete, &image.artifacts.log_group), (Action::Possible, &None));
        assert_eq!(image.stays, [format!("log group {name}")]);
    }

    #[test]
    fn orphan_of_unknown_release_is_repaired_but_deleted_only_if_named() {
        let orphan = ami("ami-1", &arn("x", "9.9.9", ACCOUNT), DONE);
        let mut own = directory("x", 'a', "2022-10-26T22:00:00Z");
        own.version = "9.9.9".into();
        let inventory = Inventory { directories: vec![own], ..inventory(vec![orphan]) };
        let act = |selection: &Selection| {
            let image = examine(&inventory, selection).remove(0);
            (image.repair, image.delete)
        };
        assert_eq!(act(&Selection::default()), (Action::Possible, Action::Refused));
        assert_eq!(act(&select(&["x"], &[])), (Action::Possible, Action::Refused));
        assert_eq!(act(&select(&[], &["ami-1"])), (Action::Possible, Action::Possible));
    }
}
