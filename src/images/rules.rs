//! What may be done with each AMI of an inventory, and why not. Pure.

use std::collections::BTreeMap;

use crate::images::class::{Class, IMAGE_ID, Known, Owners, find_owners, live_stacks};
use crate::images::image::{Action, Artifacts, Cost, Image, measure};
use crate::images::inventory::{Ami, BuildArn, Inventory, Stack, Tags};
use crate::images::origin::{MAX_SLUG, Origin, PREFIX, Source, image_arn, is_named};

/// EC2's limit of the tags of a resource.
const MAX_TAGS: usize = 50;

/// What the user has named.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub image_id: Option<String>,
    pub ami: Option<String>,
}

impl Selection {
    fn names(&self, ami: &Ami) -> bool {
        self.ami.as_ref() == Some(&ami.id)
    }

    fn selects(&self, known: &Known) -> bool {
        let is_id = |id: &String| match known.image_id() {
            Some(own) => own == id,
            None => known.slug() == id.to_lowercase(),
        };
        self.ami.is_none() && self.image_id.as_ref().is_none_or(is_id)
            || self.names(known.ami)
                && self.image_id.as_ref().is_none_or(|id| known.slug() == id.to_lowercase())
    }
}

/// Classes every AMI that is not foreign and is selected, and decides what may be done with it.
pub fn examine(inventory: &Inventory, selection: &Selection) -> Vec<Image> {
    let known: Vec<Known> = inventory.images.iter().map(|ami| Known::new(inventory, ami)).collect();
    let mut by_slug: BTreeMap<(&str, &str), Vec<&Known>> = BTreeMap::new();
    for known in known.iter().filter(|known| known.class != Class::Foreign) {
        by_slug.entry((&known.ami.region, known.slug())).or_default().push(known);
    }
    let owners = find_owners(&known);
    let shown = known.iter().filter(|known| known.class != Class::Foreign && selection.selects(known));
    shown
        .map(|known| {
            let same_slug = &by_slug[&(known.ami.region.as_str(), known.slug())];
            Examined { inventory, selection, known, same_slug, owners: &owners }.image()
        })
        .collect()
}

/// What one AMI is judged by.
struct Examined<'a> {
    inventory: &'a Inventory,
    selection: &'a Selection,
    known: &'a Known<'a>,
    /// The AMIs of this region whose image ids are alike but for their case.
    same_slug: &'a [&'a Known<'a>],
    owners: &'a Owners<'a>,
}

impl Examined<'_> {
    fn image(&self) -> Image {
        let Known { ami, class, origin, .. } = self.known;
        let snapshots = measure(self.inventory, ami);
        let conflicts = self.find_conflicts();
        let (mut reasons, mut tags) = (Vec::new(), Tags::new());
        let repair = match self.plan_repair(&conflicts) {
            Ok(planned) => {
                tags = planned;
                Action::Possible
            }
            Err(reason) => self.refuse("not repaired", &reason, &mut reasons),
        };
        let delete = match self.refuse_delete(&conflicts) {
            None => Action::Possible,
            Some(reason) => self.refuse("not deleted", &reason, &mut reasons),
        };
        if *class == Class::Orphan {
            reasons.extend(self.describe_stack());
            if delete == Action::Possible {
                reasons.extend(self.describe_delete());
            }
            if repair == Action::Possible {
                reasons.extend(self.describe_repaired(&conflicts));
            }
        }
        Image {
            ami: ami.id.clone(),
            region: ami.region.clone(),
            name: ami.name.clone(),
            creation_date: ami.creation_date,
            class: *class,
            image_id: self.known.image_id().map(str::to_owned),
            version: self.version(),
            source: origin.as_ref().map_or(Source::None, Origin::source),
            stack_id: origin.as_ref().and_then(|origin| Some(origin.stack?.id.clone())),
            tags,
            monthly_cost_at_most: Cost::of(&snapshots),
            snapshots,
            in_use_by: self.find_uses(),
            shared_with: self.find_shares(),
            conflicts_with: conflicts,
            repair,
            delete,
            reasons,
            artifacts: self.artifacts(),
            had_tags: ami.tags.clone(),
            sharing: origin.as_ref().and_then(Origin::lost_sharing),
        }
    }

    /// Adds the reason of a refusal. Those of a healthy AMI go without saying, unless it is named.
    fn refuse(&self, what: &str, reason: &str, reasons: &mut Vec<String>) -> Action {
        let is_named = self.selection.ami.is_some() || self.selection.image_id.is_some();
        if self.known.class != Class::Healthy || is_named {
            reasons.push(format!("{what}: {reason}"));
        }
        Action::Refused
    }

    fn version(&self) -> Option<String> {
        let origin = self.known.origin.as_ref().and_then(|origin| origin.artifacts.as_ref());
        let full = origin.map(|(directory, _)| &directory.version);
        full.or(self.known.arn.as_ref().map(|arn| &arn.version)).cloned()
    }

    /// The AMIs with the image id of this one, of which the commands of pcluster take the first.
    fn find_conflicts(&self) -> Vec<String> {
        let own = self.known.ami;
        let orphans = self.same_slug.iter().filter(|other| other.class == Class::Orphan);
        let orphans = orphans.filter(|other| self.known.has_same_id(other)).map(|other| other.ami);
        let is_same = |id: &String| match self.known.image_id() {
            Some(own) => own == id,
            None => self.known.slug() == id.to_lowercase(),
        };
        let tagged = self
            .inventory
            .images
            .iter()
            .filter(|other| other.region == own.region && other.tags.get(IMAGE_ID).is_some_and(is_same));
        orphans.chain(tagged).filter(|other| other.id != own.id).map(|other| other.id.clone()).collect()
    }

    fn refuse_class(&self) -> Option<String> {
        let reason = match self.known.class {
            Class::Orphan => return None,
            Class::Healthy => "pcluster finds it; use `pcluster delete-image`",
            Class::InProgress => "its build has not ended",
            Class::FailedBuild => "its build failed, so it is not complete",
            Class::Foreign => "nothing shows that pcluster has built it",
        };
        Some(reason.into())
    }

    fn refuse_conflicts(&self, conflicts: &[String]) -> Option<String> {
        let is_ambiguous = !conflicts.is_empty() && !self.selection.names(self.known.ami);
        is_ambiguous
            .then(|| format!("{} has the same image id; name one of them with --image", conflicts.join(", ")))
    }

    /// The tags to write.
    fn plan_repair(&self, conflicts: &[String]) -> Result<Tags, String> {
        let Known { ami, arn: Some(arn), origin: Some(origin), .. } = self.known else {
            return Err(self.refuse_class().unwrap_or_default());
        };
        if let Some(reason) = self.refuse_class().or_else(|| self.refuse_conflicts(conflicts)) {
            return Err(reason);
        }
        if ami.state == "disabled" {
            return Err("it is disabled, so no pcluster command finds it: enable it first".into());
        }
        // What could not be read is not taken for what is not there.
        if let Some(skipped) = self.inventory.find_skipped("s3:", &arn.region) {
            return Err(format!("the artifacts of its build could not all be read ({})", skipped.source));
        }
        let tags = if self.owns_directory() {
            origin.lost_tags(self.inventory, ami, arn).ok_or_else(|| self.describe_nothing_left())?
        } else {
            self.adopt(arn)?
        };
        let added = tags.keys().filter(|key| !ami.tags.contains_key(*key)).count();
        if ami.tags.len() + added > MAX_TAGS {
            return Err(format!("it would have more than {MAX_TAGS} tags, which EC2 refuses"));
        }
        Ok(tags)
    }

    fn owns_directory(&self) -> bool {
        let owner = self.known.directory().and_then(|directory| self.owners.get(&directory));
        owner.is_some_and(|owner| *owner == Some(self.known.ami.id.as_str()))
    }

    /// Tags for an AMI of which no directory is left, or whose directory is another's: the commands of pcluster need
    /// the name of one, which need not exist. Only for an AMI and an image id that the user names.
    fn adopt(&self, arn: &BuildArn) -> Result<Tags, String> {
        let named = self.selection.image_id.as_ref().filter(|_| self.selection.names(self.known.ami));
        let Some(id) = named else { return Err(self.describe_nothing_left()) };
        let Some(bucket) = self.inventory.buckets.iter().find(|bucket| bucket.region == arn.region) else {
            return Err("the tags name a bucket, and none is found: give one with --bucket".into());
        };
        let short: String = arn.slug.chars().take(MAX_SLUG).collect();
        let suffix: String =
            self.known.ami.id.chars().rev().filter(char::is_ascii_alphanumeric).take(16).collect();
        let directory = format!("parallelcluster/{}/images/{short}-{suffix:0>16}", arn.version);
        if self.inventory.directories.iter().any(|other| other.directory == directory) {
            return Err(format!("there is a directory {directory} already"));
        }
        let own = [
            ("image_id", id.clone()),
            ("image_name", id.clone()),
            ("version", arn.version.clone()),
            ("s3_bucket", bucket.name.clone()),
            ("s3_image_dir", directory),
        ];
        Ok(own.map(|(name, value)| (format!("{PREFIX}{name}"), value)).into())
    }

    fn describe_nothing_left(&self) -> String {
        let ami = &self.known.ami.id;
        let id = self.known.image_id().unwrap_or("ID");
        let how = format!("`preflight images --repair -i {id} --image {ami}` gives it tags all the same");
        if self.known.directory().is_some() {
            return format!("the directory of its artifacts belongs to another AMI; {how}");
        }
        format!("no artifacts of its build are found; {how}, and --bucket names another bucket")
    }

    /// The reason not to delete it.
    fn refuse_delete(&self, conflicts: &[String]) -> Option<String> {
        let ami = self.known.ami;
        self.refuse_class()
            .or_else(|| self.refuse_conflicts(conflicts))
            .or_else(|| {
                let uses = self.find_uses();
                (!uses.is_empty()).then(|| format!("it is in use by {}", uses.join(", ")))
            })
            .or_else(|| {
                let sources = ["ec2:DescribeInstances", "ec2:DescribeLaunchTemplateVersions"];
                let skipped =
                    sources.iter().find_map(|name| self.inventory.find_skipped(name, &ami.region))?;
                Some(format!("whether it is in use is not known ({}: {})", skipped.source, skipped.why))
            })
            .or_else(|| self.describe_unlisted_stacks())
            .or_else(|| self.describe_shared_snapshot())
            .or_else(|| {
                let shares = self.find_shares();
                (!shares.is_empty()).then(|| format!("it is shared with {}", shares.join(", ")))
            })
            .or_else(|| ami.launch_permission.is_none().then(|| "whether it is shared is not known".into()))
            .or_else(|| {
                let protection =
                    ami.deregistration_protection.as_deref().filter(|value| *value != "disabled")?;
                Some(format!("it is protected from deregistration ({protection})"))
            })
    }

    /// What a deletion leaves, and what is not known of a use.
    fn describe_delete(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let origin = self.known.origin.as_ref();
        if let Some((bucket, directory)) = self.known.directory()
            && origin.is_some_and(|origin| !origin.is_of_account())
        {
            notes.push(format!(
                "a deletion leaves s3://{bucket}/{directory}/: another account may have made it"
            ));
        }
        if self.inventory.find_skipped("ec2:DescribeImageReferences", &self.known.ami.region).is_some() {
            notes.push(
                "older versions of launch templates, SSM parameters and recipes may use it: they were not looked at"
                    .into(),
            );
        }
        notes
    }

    /// Why it is not known whether a build of this image id is running: names of stacks have their case, and
    /// without a list they are guessed.
    fn describe_unlisted_stacks(&self) -> Option<String> {
        let region = self.known.arn.as_ref().map_or("", |arn| &arn.region);
        let skipped = self.inventory.find_skipped("cloudformation:ListStacks", region)?;
        let is_guessed = skipped.permission.is_some() && self.known.image_id() == Some(self.known.slug());
        let is_known =
            is_guessed && self.inventory.find_skipped("cloudformation:DescribeStacks", region).is_none();
        let why =
            format!("whether a build of it is running is not known ({}: {})", skipped.source, skipped.why);
        (!is_known).then_some(why)
    }

    /// What a repair does not give back, and what it does not change.
    fn describe_repaired(&self, conflicts: &[String]) -> Vec<String> {
        let mut notes = Vec::new();
        if !conflicts.is_empty() {
            let others = conflicts.join(", ");
            notes.push(format!(
                "{others} has the same image id: describe-image and delete-image take the first"
            ));
        }
        if self.known.origin.as_ref().is_some_and(|origin| !origin.has_configuration()) {
            let lost =
                "the configuration of its build is not there: tags and permissions of your own stay lost";
            notes.push(lost.into());
        }
        notes
    }

    /// Another AMI that needs a snapshot of this one.
    fn describe_shared_snapshot(&self) -> Option<String> {
        let ami = self.known.ami;
        let others = self.inventory.images.iter();
        let others = others.filter(|other| other.id != ami.id && other.region == ami.region);
        let pairs =
            others.flat_map(|other| other.snapshots.iter().map(move |device| (&other.id, &device.id)));
        let mut shared = pairs.filter(|(_, id)| ami.snapshots.iter().any(|own| own.id == **id));
        shared.next().map(|(other, id)| format!("{other} needs its snapshot {id}"))
    }

    /// A live stack, which nothing here removes.
    fn describe_stack(&self) -> Option<String> {
        let arn = self.known.arn.as_ref()?;
        let stack = live_stacks(self.inventory, arn).next()?;
        let is_of_pcluster = stack.tags.as_ref().is_some_and(|tags| tags.contains_key(IMAGE_ID));
        let (name, status) = (&stack.name, &stack.status);
        Some(if is_of_pcluster {
            format!("its stack {name} is still there ({status})")
        } else {
            format!(
                "a stack {name} that is not pcluster's has its name: `pcluster delete-image` would delete it"
            )
        })
    }

    fn find_uses(&self) -> Vec<String> {
        let ami = self.known.ami;
        let uses =
            self.inventory.uses.iter().filter(|used| used.region == ami.region && used.image == ami.id);
        uses.map(|used| used.by.clone()).collect()
    }

    fn find_shares(&self) -> Vec<String> {
        let ami = self.known.ami;
        let public = ami.public.then(|| "all".to_owned());
        let permission = ami.launch_permission.iter();
        let named = permission.flat_map(|given| [&given.users, &given.groups, &given.organizations]);
        let mut shares: Vec<String> = public.into_iter().chain(named.flatten().cloned()).collect();
        shares.dedup();
        shares
    }

    fn artifacts(&self) -> Artifacts {
        let Some(arn) = self.known.arn.as_ref().filter(|_| self.known.class == Class::Orphan) else {
            return Artifacts::default();
        };
        let is_of_account = self.known.origin.as_ref().is_some_and(Origin::is_of_account);
        let directory = self.known.directory().filter(|_| self.owns_directory() && is_of_account);
        let group = self.known.image_id().map(|id| format!("/aws/imagebuilder/ParallelClusterImage-{id}"));
        let is_there = |group: &String| {
            self.inventory.log_groups.iter().any(|own| own.name == *group && own.region == arn.region)
        };
        // It has the streams of every build of the image id.
        let is_of_id =
            |other: &&Ami| image_arn(other).and_then(BuildArn::read).is_some_and(|own| own.slug == arn.slug);
        let images = self.inventory.images.iter().filter(is_of_id).count();
        let own = self.known.origin.as_ref().and_then(|origin| origin.stack).map(|stack| &stack.id);
        let is_other = |stack: &Stack| is_named(stack, arn) && Some(&stack.id) != own;
        let has_others = self.inventory.stacks.iter().any(is_other);
        let is_listed = self.inventory.find_skipped("cloudformation:ListStacks", &arn.region).is_none();
        let is_alone = images == 1 && !has_others && is_listed && arn.region == self.known.ami.region;
        Artifacts {
            region: arn.region.clone(),
            directory: directory.map(|(bucket, directory)| (bucket.to_owned(), directory.to_owned())),
            log_group: group.filter(is_there).filter(|_| is_alone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::class::BUILD_STATUS;
    use crate::images::inventory::{BucketFrom, Device, Directory};
    use jiff::Timestamp;
    use proptest::prelude::*;

    const ACCOUNT: &str = "123456789012";

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn arn(slug: &str, version: &str, account: &str) -> String {
        format!("arn:aws:imagebuilder:us-east-1:{account}:image/parallelclusterimage-{slug}/{version}/1")
    }

    fn ami(id: &str, arn: &str, tags: &[(&str, &str)]) -> Ami {
        let tags = tags.iter().copied().chain([("Ec2ImageBuilderArn", arn)]);
        Ami {
            region: "us-east-1".into(),
            id: id.into(),
            creation_date: moment("2022-10-26T23:00:00.000Z"),
            state: "available".into(),
            tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            owner_id: ACCOUNT.into(),
            snapshots: vec![Device { id: format!("snap-{id}"), volume_gib: Some(40) }],
            launch_permission: Some(crate::images::inventory::LaunchPermission::default()),
            ..Ami::default()
        }
    }

    const DONE: &[(&str, &str)] = &[(BUILD_STATUS, "available"), ("parallelcluster:os", "alinux2")];

    fn template(id: &str, bucket: &str, directory: &str) -> String {
        serde_json::json!({"Resources": {
            "ImageRecipe": {"Type": "AWS::ImageBuilder::ImageRecipe", "Properties": {
                "ParentImage": "ami-0", "Tags": {IMAGE_ID: id, "parallelcluster:image_name": id}}},
            "DeleteStackFunction": {"Type": "AWS::Lambda::Function", "Properties": {"Code": {
                "S3Bucket": bucket, "S3Key": format!("{directory}/custom_resources/artifacts.zip")}}},
        }})
        .to_string()
    }

    fn directory(id: &str, letter: char, modified: &str) -> Directory {
        let slug = id.to_lowercase();
        let path = format!("parallelcluster/3.1.3/images/{slug}-{}", String::from(letter).repeat(16));
        Directory {
            bucket: "b".into(),
            bucket_from: BucketFrom::Default,
            region: "us-east-1".into(),
            version: "3.1.3".into(),
            template: Some(template(id, "b", &path)),
            directory: path,
            template_modified: Some(moment(modified)),
            configuration: None,
        }
    }

    fn inventory(images: Vec<Ami>) -> Inventory {
        Inventory {
            account: ACCOUNT.into(),
            partition: "aws".into(),
            region: "us-east-1".into(),
            images,
            buckets: vec![crate::images::inventory::Bucket { region: "us-east-1".into(), name: "b".into() }],
            ..Inventory::default()
        }
    }

    fn class_of(ami: Ami) -> Class {
        let inventory = inventory(vec![ami]);
        Known::new(&inventory, &inventory.images[0]).class
    }

    #[test]
    fn what_is_in_doubt_is_foreign() {
        let own = arn("x", "3.1.3", ACCOUNT);
        let (status, mark) = (DONE[0], DONE[1]);
        assert_eq!(class_of(ami("a", &own, DONE)), Class::Orphan);
        assert_eq!(class_of(ami("a", &own, &[status])), Class::Foreign, "no mark");
        assert_eq!(class_of(ami("a", &own, &[mark])), Class::FailedBuild);
        assert_eq!(class_of(ami("a", &own, &[])), Class::Foreign);
        assert_eq!(class_of(ami("a", &arn("x", "9.9.9", ACCOUNT), DONE)), Class::Foreign);
        assert_eq!(class_of(ami("a", &arn("x", "3.1.3", "999999999999"), DONE)), Class::Foreign);
        assert_eq!(class_of(Ami { owner_id: "9".into(), ..ami("a", &own, DONE) }), Class::Foreign);
        assert_eq!(class_of(Ami { state: "pending".into(), ..ami("a", &own, DONE) }), Class::InProgress);
        assert_eq!(class_of(Ami { state: "failed".into(), ..ami("a", &own, DONE) }), Class::FailedBuild);
        let described = Some("AWS ParallelCluster AMI for alinux2".to_owned());
        assert_eq!(class_of(Ami { description: described, ..ami("a", &own, &[status]) }), Class::Orphan);
    }

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
            let selection = Selection { ami: Some(ami.into()), image_id: None };
            let images = examine(&inventory, &selection);
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].repair, Action::Possible, "{:?}", images[0].reasons);
            assert!(images[0].tags["parallelcluster:s3_image_dir"].ends_with(letters));
        }
    }

    /// A bucket of a name of its own can have builds of several regions and accounts.
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
        // Named by a stack that is not the build's.
        assert_eq!(in_bucket(BucketFrom::Stack, Some("us-east-1")), (refused, false));
    }

    /// To read the templates of all directories for each AMI took minutes where there are hundreds of both.
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
        let select = |image_id: Option<&str>, ami: Option<&str>| Selection {
            image_id: image_id.map(str::to_owned),
            ami: ami.map(str::to_owned),
        };
        for selection in [select(None, None), select(Some("X"), None), select(None, Some("ami-0abc"))] {
            let images = examine(&inventory, &selection);
            assert_eq!(images[0].repair, Action::Refused, "{selection:?}");
        }
        assert!(examine(&inventory, &select(Some("y"), Some("ami-0abc"))).is_empty());
        let images = examine(&inventory, &select(Some("X"), Some("ami-0abc")));
        assert_eq!(images[0].repair, Action::Possible, "{:?}", images[0].reasons);
        assert_eq!(images[0].tags["parallelcluster:image_id"], "X");
        assert_eq!(
            images[0].tags["parallelcluster:s3_image_dir"],
            "parallelcluster/3.1.3/images/x-000000000cba0ima"
        );
    }

    #[test]
    fn what_is_used_shared_or_protected_is_not_deleted() {
        let own = arn("x", "3.1.3", ACCOUNT);
        let refused = |ami: Ami, change: fn(&mut Inventory)| {
            let mut inventory = inventory(vec![ami]);
            change(&mut inventory);
            let images = examine(&inventory, &Selection::default());
            assert_eq!(images[0].delete, Action::Refused);
            images[0].reasons.iter().find(|reason| reason.starts_with("not deleted")).unwrap().clone()
        };
        let orphan = || ami("ami-1", &own, DONE);
        let used = refused(orphan(), |inventory| {
            let (region, image, by) = ("us-east-1".into(), "ami-1".into(), "i-1".into());
            inventory.uses.push(crate::images::inventory::Use { region, image, by });
        });
        assert!(used.contains("in use by i-1"), "{used}");
        let unknown = refused(orphan(), |inventory| {
            let source = "ec2:DescribeInstances in us-east-1".into();
            let skipped =
                crate::images::inventory::Skipped { source, why: "denied".into(), permission: None };
            inventory.skipped.push(skipped);
        });
        assert!(unknown.contains("is not known"), "{unknown}");
        assert!(refused(Ami { public: true, ..orphan() }, |_| {}).contains("shared with all"));
        assert!(refused(Ami { launch_permission: None, ..orphan() }, |_| {}).contains("shared is not known"));
        let protection = Some("enabled-with-cooldown".to_owned());
        let protected = refused(Ami { deregistration_protection: protection, ..orphan() }, |_| {});
        assert!(protected.contains("protected"), "{protected}");
    }

    /// As a rescue by `CopyImage` and `CreateTags` makes it, without the tags of Image Builder.
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
        let selection = Selection { ami: Some("ami-1".into()), image_id: None };
        let images = examine(&inventory, &selection);
        assert_eq!((images[0].repair, images[0].delete), (Action::Refused, Action::Possible));
        assert_eq!(images[0].artifacts.directory, None);
    }

    #[test]
    fn what_could_not_be_read_is_not_taken_for_what_is_not_there() {
        let skip = |source: &str| crate::images::inventory::Skipped {
            source: format!("{source} in us-east-1"),
            why: "throttled".into(),
            permission: None,
        };
        let orphan = ami("ami-1", &arn("x", "3.1.3", ACCOUNT), DONE);
        let directories = vec![directory("x", 'a', "2022-10-26T22:00:00Z")];
        let all = Inventory { directories, ..inventory(vec![orphan]) };
        let selection = Selection { ami: Some("ami-1".into()), image_id: Some("x".into()) };
        let with = |source: &str| {
            let inventory = Inventory { skipped: vec![skip(source)], ..all.clone() };
            let images = examine(&inventory, &selection);
            (images[0].repair, images[0].delete)
        };
        assert_eq!(with("logs:DescribeLogGroups"), (Action::Possible, Action::Possible));
        assert_eq!(with("s3:GetObject of b"), (Action::Refused, Action::Possible));
        assert_eq!(with("cloudformation:ListStacks"), (Action::Possible, Action::Refused));
    }

    #[test]
    fn a_snapshot_of_another_ami_and_the_logs_of_another_build_stay() {
        let own = arn("x", "3.1.3", ACCOUNT);
        let mut other = ami("ami-2", &arn("y", "3.1.3", ACCOUNT), DONE);
        other.snapshots[0].id = "snap-ami-1".into();
        let images = examine(&inventory(vec![ami("ami-1", &own, DONE), other]), &Selection::default());
        assert!(images.iter().all(|image| image.delete == Action::Refused), "{images:?}");

        let group = crate::images::inventory::LogGroup {
            region: "us-east-1".into(),
            name: "/aws/imagebuilder/ParallelClusterImage-x".into(),
        };
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

    fn any_ami() -> impl Strategy<Value = Ami> {
        let arns = prop_oneof![
            Just(arn("x", "3.1.3", ACCOUNT)),
            Just(arn("y", "3.1.3", ACCOUNT)),
            Just(arn("x", "9.9.9", ACCOUNT)),
            Just(arn("x", "3.1.3", "999999999999")),
            Just("arn:aws:imagebuilder:us-east-1:123456789012:image/other/1.0.0/1".to_owned()),
        ];
        let tags = proptest::sample::subsequence(
            vec![
                (BUILD_STATUS, "available"),
                (BUILD_STATUS, "failed"),
                ("parallelcluster:os", "alinux2"),
                (IMAGE_ID, "x"),
                ("parallelcluster:s3_bucket", "b"),
                ("parallelcluster:s3_image_dir", "parallelcluster/3.1.3/images/x-aaaaaaaaaaaaaaaa"),
            ],
            0..=6,
        );
        let rest = (
            "[1-4]",
            1..5u8,
            proptest::sample::select(vec!["us-east-1", "eu-west-1"]),
            "(available|pending|failed)",
        );
        (arns, tags, rest).prop_map(|(arn, tags, (id, day, region, state))| Ami {
            creation_date: moment(&format!("2022-10-0{day}T10:00:00Z")),
            region: region.into(),
            state,
            ..ami(&format!("ami-{id}"), &arn, &tags)
        })
    }

    fn any_directory() -> impl Strategy<Value = Directory> {
        ("[xy]", proptest::sample::select(vec!['a', 'b']), 1..5u8, any::<bool>()).prop_map(
            |(id, letter, day, is_own)| {
                let mut found = directory(&id, letter, &format!("2022-10-0{day}T09:00:00Z"));
                if !is_own {
                    found.template = Some(template("z", "b", &found.directory));
                }
                found
            },
        )
    }

    fn any_stack() -> impl Strategy<Value = Stack> {
        let status =
            proptest::sample::select(vec!["CREATE_COMPLETE", "DELETE_COMPLETE", "CREATE_IN_PROGRESS"]);
        ("[xy]", 1..5u8, status, any::<bool>()).prop_map(|(name, day, status, is_own)| Stack {
            region: "us-east-1".into(),
            id: format!("stack/{name}"),
            status: status.into(),
            creation_time: moment(&format!("2022-10-0{day}T09:00:00Z")),
            tags: is_own.then(|| {
                let directory = format!("parallelcluster/3.1.3/images/{name}-aaaaaaaaaaaaaaaa");
                [(IMAGE_ID.to_owned(), name.clone()), ("parallelcluster:s3_image_dir".to_owned(), directory)]
                    .into()
            }),
            name,
            ..Stack::default()
        })
    }

    proptest! {
        #[test]
        fn nothing_is_taken_that_is_not_proven(
            images in proptest::collection::vec(any_ami(), 0..6),
            directories in proptest::collection::vec(any_directory(), 0..4),
            stacks in proptest::collection::vec(any_stack(), 0..3),
            named in proptest::option::of("ami-[1-4]"),
            image_id in proptest::option::of("[xyX]"),
        ) {
            let mut images = images;
            images.sort_by(|one, other| (&one.region, &one.id).cmp(&(&other.region, &other.id)));
            images.dedup_by(|one, other| (&one.region, &one.id) == (&other.region, &other.id));
            let inventory = Inventory { stacks, directories, ..inventory(images) };
            let found = examine(&inventory, &Selection { ami: named, image_id });
            let mut written = Vec::new();
            for image in &found {
                let ami = inventory.images.iter().find(|ami| ami.id == image.ami && ami.region == image.region).unwrap();
                let arn = BuildArn::read(&ami.tags["Ec2ImageBuilderArn"]).unwrap();
                prop_assert_eq!(&arn.account, ACCOUNT);
                prop_assert_eq!(&arn.version, "3.1.3");
                if image.repair == Action::Possible || image.delete == Action::Possible {
                    prop_assert_eq!(image.class, Class::Orphan);
                    prop_assert_eq!(&ami.tags[BUILD_STATUS], "available");
                    prop_assert!(!ami.tags.contains_key(IMAGE_ID));
                    prop_assert_eq!(&ami.state, "available");
                }
                let Some(directory) = image.tags.get("parallelcluster:s3_image_dir") else { continue };
                written.push(directory.clone());
                let seen = inventory.directories.iter().filter(|seen| seen.directory == *directory);
                let templates: Vec<&str> = seen.filter_map(|seen| seen.template.as_deref()).collect();
                let id = format!("\"{IMAGE_ID}\":\"{}\"", image.tags[IMAGE_ID]);
                // A new one, for an AMI that was named, or one whose own template has this id.
                prop_assert!(templates.is_empty() || templates.iter().any(|text| text.contains(&id)));
            }
            let count = written.len();
            written.sort();
            written.dedup();
            prop_assert_eq!(written.len(), count, "one directory for two AMIs");
        }
    }
}
