//! What each AMI of an inventory is, and what can be done with it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::images::class::{Class, IMAGE_ID, Known, Owners, find_owners, is_known_release};
use crate::images::commands::{Commands, share};
use crate::images::image::{Action, Cost, Image, Refusal, measure};
use crate::images::inventory::{Inventory, Tags};
use crate::images::origin::{Origin, Source};
use crate::images::selection::{Selection, is_id};

/// Classifies every selected AMI that is not foreign, and decides what can be done with it.
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

/// The facts by which an AMI is judged.
#[derive(Debug)]
pub struct Examined<'a> {
    pub inventory: &'a Inventory,
    pub selection: &'a Selection,
    pub known: &'a Known<'a>,
    /// The AMIs in the same region whose image id is the same as this AMI's, apart from the case.
    same_slug: &'a [&'a Known<'a>],
    owners: &'a Owners<'a>,
}

impl Examined<'_> {
    fn image(&self) -> Image {
        let Known { ami, class, origin, .. } = self.known;
        let snapshots = measure(self.inventory, ami);
        let conflicts = self.find_conflicts();
        let (repair, tags) = match self.plan_repair(&conflicts) {
            Ok(tags) => (None, tags),
            Err(refusal) => (Some(refusal), Tags::new()),
        };
        let delete = self.refuse_delete(&conflicts);
        let sharing = origin.as_ref().and_then(Origin::lost_sharing);
        let mut reasons = self.describe_refusals(repair.as_ref(), delete.as_ref());
        let stays = if delete.is_none() { self.find_stays() } else { Vec::new() };
        if *class == Class::Orphan {
            reasons.extend(self.describe_release());
            reasons.extend(self.describe_stack());
            reasons.extend(
                stays.iter().map(|(address, why)| format!("a deletion would leave behind {address}: {why}")),
            );
            if repair.is_none() {
                reasons.extend(self.describe_repaired(&conflicts));
            }
        }
        let act =
            |refusal: &Option<Refusal>| if refusal.is_none() { Action::Possible } else { Action::Refused };
        Image {
            ami: ami.id.clone(),
            region: ami.region.clone(),
            name: ami.name.clone(),
            creation_date: ami.creation_date,
            class: *class,
            image_id: self.known.image_id().map(str::to_owned),
            slug: self.known.slug().to_owned(),
            version: self.version(),
            source: origin.as_ref().map_or(Source::None, Origin::source),
            stack_id: origin.as_ref().and_then(|origin| Some(origin.stack?.id.clone())),
            tags,
            monthly_cost_at_most: Cost::of(&snapshots),
            snapshots,
            in_use_by: self.find_uses(),
            shared_with: self.find_shares(),
            conflicts_with: conflicts,
            repair: act(&repair),
            delete: act(&delete),
            reasons,
            left: Vec::new(),
            had_tags: ami.tags.clone(),
            artifacts: self.artifacts(),
            commands: Commands {
                share: sharing.as_ref().and_then(|sharing| share(&ami.id, &ami.region, sharing)),
                repair: repair.as_ref().and_then(|refusal| refusal.command.clone()),
                delete: None,
            },
            sharing,
            repair_refused: repair.map(|refusal| refusal.kind),
            delete_refused: delete.map(|refusal| refusal.kind),
            stays: stays.into_iter().map(|(address, _)| address).collect(),
        }
    }

    /// Why a repair and a deletion are refused. If the reason is the same, it appears once. The reasons for a
    /// healthy AMI are shown only if the user has named AMIs or image ids.
    fn describe_refusals(&self, repair: Option<&Refusal>, delete: Option<&Refusal>) -> Vec<String> {
        if self.known.class == Class::Healthy && self.selection.is_empty() {
            return Vec::new();
        }
        let say = |what: &str, refusal: &Refusal| format!("{what}: {}", refusal.reason);
        match (repair, delete) {
            (Some(one), Some(other)) if one == other => vec![say("neither repairable nor deletable", one)],
            _ => {
                let repair = repair.map(|refusal| say("not repairable", refusal));
                repair.into_iter().chain(delete.map(|refusal| say("not deletable", refusal))).collect()
            }
        }
    }

    fn version(&self) -> Option<String> {
        let origin = self.known.origin.as_ref().and_then(|origin| origin.artifacts.as_ref());
        let full = origin.map(|(directory, _)| &directory.version);
        full.or(self.known.arn.as_ref().map(|arn| &arn.version)).cloned()
    }

    pub fn is_of_known_release(&self) -> bool {
        self.known.arn.as_ref().is_some_and(|arn| is_known_release(&arn.version))
    }

    fn describe_release(&self) -> Option<String> {
        let arn = self.known.arn.as_ref().filter(|_| !self.is_of_known_release())?;
        Some(format!("this version of the shim does not know pcluster {}", arn.version))
    }

    /// The other AMIs with the same image id. pcluster's commands use only the first AMI that they find.
    fn find_conflicts(&self) -> Vec<String> {
        let own = self.known.ami;
        let orphans = self.same_slug.iter().filter(|other| other.class == Class::Orphan);
        let orphans = orphans.filter(|other| self.known.has_same_id(other)).map(|other| other.ami);
        let is_same = |id: &String| is_id(id, self.known.image_id(), self.known.slug());
        let tagged = self
            .inventory
            .images
            .iter()
            .filter(|other| other.region == own.region && other.tags.get(IMAGE_ID).is_some_and(is_same));
        orphans.chain(tagged).filter(|other| other.id != own.id).map(|other| other.id.clone()).collect()
    }

    pub fn refuse_class(&self) -> Option<Refusal> {
        let (kind, reason) = match self.known.class {
            Class::Orphan => return None,
            Class::Healthy => {
                ("pcluster finds it", "pcluster finds it; to delete it, use `pcluster delete-image`")
            }
            Class::InProgress => ("build in progress", "its build has not ended"),
            Class::FailedBuild => ("failed build", "its build failed, so it is not complete"),
            Class::Foreign => ("not built by pcluster", "nothing shows that pcluster built it"),
        };
        Some(Refusal::new(kind, reason))
    }

    pub fn refuse_conflicts(&self, conflicts: &[String]) -> Option<Refusal> {
        let is_ambiguous = !conflicts.is_empty() && !self.selection.names(&self.known.ami.id);
        let others = conflicts.join(", ");
        is_ambiguous.then(|| {
            let reason = format!("same image id as {others}; pass one of them with --image");
            Refusal::new("same image id as another AMI", reason)
        })
    }

    /// Whether the directory of the AMI's build belongs only to this AMI.
    pub fn owns_directory(&self) -> bool {
        let owner = self.known.directory().and_then(|directory| self.owners.get(&directory));
        owner.is_some_and(|owner| *owner == Some(self.known.ami.id.as_str()))
    }

    pub fn find_uses(&self) -> Vec<String> {
        let ami = self.known.ami;
        let uses =
            self.inventory.uses.iter().filter(|used| used.region == ami.region && used.image == ami.id);
        uses.map(|used| used.by.clone()).collect()
    }

    pub fn find_shares(&self) -> Vec<String> {
        let ami = self.known.ami;
        let public = ami.public.then(|| "all".to_owned());
        let permission = ami.launch_permission.iter();
        let named = permission.flat_map(|given| [&given.users, &given.groups, &given.organizations]);
        let mut shares: Vec<String> = public.into_iter().chain(named.flatten().cloned()).collect();
        let mut seen = BTreeSet::new();
        shares.retain(|share| seen.insert(share.clone()));
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::class::BUILD_STATUS;
    use crate::images::fixtures::{ACCOUNT, DONE, ami, arn, directory, inventory, moment, template};
    use crate::images::image::Action;
    use crate::images::inventory::{Ami, BuildArn, Directory, Stack};
    use proptest::prelude::*;

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
        assert_eq!(class_of(ami("a", &arn("x", "9.9.9", ACCOUNT), DONE)), Class::Orphan, "unknown release");
        assert_eq!(class_of(ami("a", &arn("x", "9.9.9", ACCOUNT), &[status])), Class::Foreign);
        assert_eq!(class_of(ami("a", &arn("x", "mine", ACCOUNT), DONE)), Class::Foreign);
        assert_eq!(class_of(ami("a", &arn("x", "3.1.3", "999999999999"), DONE)), Class::Foreign);
        assert_eq!(class_of(Ami { owner_id: "9".into(), ..ami("a", &own, DONE) }), Class::Foreign);
        assert_eq!(class_of(Ami { state: "pending".into(), ..ami("a", &own, DONE) }), Class::InProgress);
        assert_eq!(class_of(Ami { state: "failed".into(), ..ami("a", &own, DONE) }), Class::FailedBuild);
        let described = Some("AWS ParallelCluster AMI for alinux2".to_owned());
        assert_eq!(class_of(Ami { description: described, ..ami("a", &own, &[status]) }), Class::Orphan);
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
            named in proptest::collection::vec("ami-[1-4]", 0..3),
            ids in proptest::collection::vec("[xyX]", 0..3),
        ) {
            let mut images = images;
            images.sort_by(|one, other| (&one.region, &one.id).cmp(&(&other.region, &other.id)));
            images.dedup_by(|one, other| (&one.region, &one.id) == (&other.region, &other.id));
            let inventory = Inventory { stacks, directories, ..inventory(images) };
            let found = examine(&inventory, &Selection { image_ids: ids, amis: named.clone() });
            let mut written = Vec::new();
            for image in &found {
                let ami = inventory.images.iter().find(|ami| ami.id == image.ami && ami.region == image.region).unwrap();
                let arn = BuildArn::read(&ami.tags["Ec2ImageBuilderArn"]).unwrap();
                prop_assert_eq!(&arn.account, ACCOUNT);
                // An AMI of an unknown release is deleted only if the user has named it.
                let is_asked = arn.version == "3.1.3" || named.contains(&image.ami);
                prop_assert!(is_asked || image.delete == Action::Refused);
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
                // The tags name a new directory, or a directory whose own template has this image id.
                prop_assert!(templates.is_empty() || templates.iter().any(|text| text.contains(&id)));
            }
            let count = written.len();
            written.sort();
            written.dedup();
            prop_assert_eq!(written.len(), count, "one directory for two AMIs");
        }
    }
}
