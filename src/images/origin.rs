//! What is left of the build of an AMI: a stack, and an S3 directory with the template. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::images::inventory::{Ami, BUILDER_ARN, BucketFrom, BuildArn, Directory, Inventory, Stack, Tags};
use crate::rules::template::cloudformation;
use crate::rules::template::cloudformation::select_resources;
use crate::text::yaml;

/// The prefix of the keys of pcluster's own tags.
pub const PREFIX: &str = "parallelcluster:";

/// A directory's name has at most this many characters of the image id, then a hyphen and 16
/// random characters.
pub const MAX_SLUG: usize = 46;

const ARTIFACTS: &str = "/custom_resources/artifacts.zip";

/// How the build of an AMI was found: by its stack, by its deleted stack, by its files in S3, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Stack,
    DeletedStack,
    S3,
    None,
}

/// What the template of a build says about the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub image_id: String,
    pub image_name: String,
    pub parent_image: Option<String>,
    pub bucket: String,
    pub directory: String,
}

/// The build that an AMI comes from.
#[derive(Debug, Clone)]
pub struct Origin<'a> {
    pub stack: Option<&'a Stack>,
    /// The directory of the build's artifacts, and what the template in this directory says. The template
    /// names the same directory and the AMI's image id.
    pub artifacts: Option<(&'a Directory, Recipe)>,
}

/// Launch permissions as a configuration requests them, in the terms of `CloudFormation`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all(serialize = "camelCase", deserialize = "PascalCase"))]
pub struct Sharing {
    pub user_ids: Vec<String>,
    pub user_groups: Vec<String>,
    pub organization_arns: Vec<String>,
    pub organizational_unit_arns: Vec<String>,
}

impl Sharing {
    /// Accounts, organizations and organizational units, each with EC2's name for its kind. Groups are not
    /// included: EC2's only group is `all`, and the shim suggests no command that makes an AMI public.
    pub fn list(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let kinds = [
            ("UserId", &self.user_ids),
            ("OrganizationArn", &self.organization_arns),
            ("OrganizationalUnitArn", &self.organizational_unit_arns),
        ];
        kinds.into_iter().flat_map(|(kind, ids)| ids.iter().map(move |id| (kind, id.as_str())))
    }
}

impl Recipe {
    /// Reads a template of `build-image`.
    pub fn read(template: &Value) -> Option<Self> {
        let (_, recipe) = *select_resources(template, "AWS::ImageBuilder::ImageRecipe").first()?;
        let recipe = &recipe["Properties"];
        let tag = |name: &str| recipe["Tags"][format!("{PREFIX}{name}")].as_str().map(str::to_owned);
        let functions = select_resources(template, "AWS::Lambda::Function");
        let code = functions.iter().map(|(_, function)| &function["Properties"]["Code"]);
        let (bucket, directory) = code
            .filter_map(|code| Some((code["S3Bucket"].as_str()?, code["S3Key"].as_str()?)))
            .find_map(|(bucket, key)| Some((bucket.to_owned(), key.strip_suffix(ARTIFACTS)?.to_owned())))?;
        Some(Self {
            image_id: tag("image_id")?,
            image_name: tag("image_name")?,
            parent_image: recipe["ParentImage"].as_str().map(str::to_owned),
            bucket,
            directory,
        })
    }

    fn read_text(text: &str) -> Option<Self> {
        Self::read(&cloudformation::parse(text.as_bytes()).ok()?)
    }
}

/// Whether a stack's name is the image id of a build, apart from the case.
pub fn is_named(stack: &Stack, arn: &BuildArn) -> bool {
    stack.region == arn.region && stack.name.to_lowercase() == arn.slug
}

/// Whether a stack has built an AMI. A second build with the same image id can have the same ARN as the
/// first, so the times have to match too.
fn has_built(stack: &Stack, ami: &Ami, arn: &BuildArn) -> bool {
    let is_image = stack.image_arn.as_deref().is_none_or(|image| Some(image) == image_arn(ami));
    let was_there = stack.deletion_time.is_none_or(|end| ami.creation_date <= end);
    is_named(stack, arn)
        && is_image
        && stack.creation_time <= ami.creation_date
        && was_there
        && has_tags_of_build(stack, arn)
}

/// Whether a stack has pcluster's tags: a stack of another program can have the same name.
fn has_tags_of_build(stack: &Stack, arn: &BuildArn) -> bool {
    let id = stack.tags.as_ref().and_then(|tags| tags.get(&format!("{PREFIX}image_id")));
    id.is_some_and(|id| *id == stack.name && id.to_lowercase() == arn.slug)
}

/// The ARN of the build, from a tag of the AMI.
pub fn image_arn(ami: &Ami) -> Option<&str> {
    ami.tags.get(BUILDER_ARN).map(String::as_str)
}

impl<'a> Origin<'a> {
    /// Finds what is left of the build of an AMI. Builds with the same id do not overlap in time,
    /// because their stacks have the same name. So the right build is the last one that began
    /// before the AMI was created.
    pub fn find(inventory: &'a Inventory, ami: &Ami, arn: &BuildArn) -> Self {
        let built = inventory.stacks.iter().filter(|stack| has_built(stack, ami, arn));
        let stack = built.max_by_key(|stack| stack.creation_time);
        let tag = |name: &str| stack.and_then(|stack| stack.tags.as_ref()?.get(&format!("{PREFIX}{name}")));
        let expected = tag("s3_bucket").zip(tag("s3_image_dir"));
        let is_expected = |directory: &Directory| match expected {
            Some((bucket, place)) => *bucket == directory.bucket && *place == directory.directory,
            // Here, no stack of this build names a directory. A directory is left out if its bucket is known
            // only from the tags of other stacks, because those tags can name any bucket.
            None => directory.bucket_from != BucketFrom::Stack,
        };
        let candidates = inventory
            .directories
            .iter()
            .filter(|directory| is_expected(directory) && belongs(directory, ami, arn, expected.is_some()));
        let proven: Vec<_> =
            candidates.filter_map(|directory| Some((directory, prove(directory, arn)?))).collect();
        // If there are directories in two buckets, nothing shows which of them belongs to the build.
        let bucket = proven.first().map(|(directory, _)| &directory.bucket);
        let is_alone = proven.iter().all(|(directory, _)| Some(&directory.bucket) == bucket);
        let last = proven.into_iter().max_by_key(|(directory, _)| directory.template_modified);
        Self { stack, artifacts: last.filter(|_| is_alone) }
    }

    /// Whether the directory certainly belongs to this account: the build's stack was found in this account,
    /// or the bucket is this account's default bucket. Any other bucket can contain builds of several
    /// accounts and regions.
    pub fn is_of_account(&self) -> bool {
        let is_default = |(directory, _): &(&Directory, Recipe)| directory.bucket_from == BucketFrom::Default;
        self.artifacts.as_ref().is_some_and(|artifacts| self.stack.is_some() || is_default(artifacts))
    }

    pub fn source(&self) -> Source {
        match (self.stack, &self.artifacts) {
            (Some(stack), _) if stack.status == "DELETE_COMPLETE" => Source::DeletedStack,
            (Some(_), _) => Source::Stack,
            (None, Some(_)) => Source::S3,
            (None, None) => Source::None,
        }
    }

    /// The image id in its original case.
    pub fn image_id(&self) -> Option<&str> {
        let recipe = self.artifacts.as_ref().map(|(_, recipe)| recipe.image_id.as_str());
        recipe.or_else(|| self.stack.map(|stack| stack.name.as_str()))
    }

    /// The tags that the build would have given its AMI, without the user's tags that the AMI already has.
    /// `None` if no directory is proven to belong to the build: the tags name a directory, and `delete-image`
    /// deletes everything in that directory.
    pub fn lost_tags(&self, inventory: &Inventory, ami: &Ami, arn: &BuildArn) -> Option<Tags> {
        let (directory, recipe) = self.artifacts.as_ref()?;
        let id = &recipe.image_id;
        let log = format!("log-group:/aws/imagebuilder/ParallelClusterImage-{id}");
        let mut tags: Tags = asked_tags(directory);
        if let Some(parent) = recipe.parent_image.as_ref() {
            tags.insert(format!("{PREFIX}parent_image"), parent.clone());
        }
        tags.retain(|key, _| !ami.tags.contains_key(key));
        let own = [
            ("image_id", id.clone()),
            ("image_name", recipe.image_name.clone()),
            ("version", directory.version.clone()),
            ("s3_bucket", recipe.bucket.clone()),
            ("s3_image_dir", recipe.directory.clone()),
            (
                "build_config",
                format!("s3://{}/{}/configs/image-config.yaml", recipe.bucket, recipe.directory),
            ),
            ("build_log", format!("arn:{}:logs:{}:{}:{log}", inventory.partition, arn.region, arn.account)),
        ];
        tags.extend(own.map(|(name, value)| (format!("{PREFIX}{name}"), value)));
        Some(tags)
    }

    /// Whether the build's configuration was found. Only the configuration contains the user's own tags and
    /// launch permissions.
    pub fn has_configuration(&self) -> bool {
        self.artifacts.as_ref().is_some_and(|(directory, _)| read_configuration(directory).is_some())
    }

    /// The launch permissions that were lost.
    pub fn lost_sharing(&self) -> Option<Sharing> {
        let (directory, _) = self.artifacts.as_ref()?;
        let configuration = read_configuration(directory)?;
        let text = configuration["DevSettings"]["DistributionConfiguration"]["LaunchPermission"].as_str()?;
        let sharing: Sharing = serde_json::from_str(text).ok()?;
        (sharing != Sharing::default()).then_some(sharing)
    }
}

/// Whether a directory can belong to the build, by its place, release and time. `is_named` is whether the
/// stack of the build names the directory.
fn belongs(directory: &Directory, ami: &Ami, arn: &BuildArn, is_named: bool) -> bool {
    // A bucket can contain builds of several regions, so the region in the build's configuration decides. If
    // that region is unknown, the directory has to be named by the stack, or to be in a default bucket, which
    // contains only builds of one account and region.
    let is_of_region = || {
        read_configuration(directory)
            .and_then(|configuration| Some(configuration["Region"].as_str()? == arn.region))
            .unwrap_or(is_named || directory.bucket_from == BucketFrom::Default)
    };
    // Each AMI is compared with all directories. To be quick, we compare the name first, which excludes most
    // directories, and the configuration last, because it has to be parsed.
    is_named_after(directory, arn)
        && directory.region == arn.region
        && strip_suffix(&directory.version) == arn.version
        && directory.template_modified.is_some_and(|start| start <= ami.creation_date)
        && is_of_region()
}

/// Whether a directory's name, up to the last hyphen, is the image id of the build, cut to [`MAX_SLUG`]
/// characters. Upper and lower case are the same.
pub fn is_named_after(directory: &Directory, arn: &BuildArn) -> bool {
    let name = directory.directory.rsplit('/').next().and_then(|name| name.rsplit_once('-'));
    let slug = arn.slug.get(..MAX_SLUG).unwrap_or(&arn.slug);
    name.is_some_and(|(start, _)| start.eq_ignore_ascii_case(slug))
}

/// The recipe of a directory, if its template names this directory and the image id of this build.
fn prove(directory: &Directory, arn: &BuildArn) -> Option<Recipe> {
    let recipe = Recipe::read_text(directory.template.as_deref()?)?;
    let is_own = recipe.directory == directory.directory && recipe.bucket == directory.bucket;
    (is_own && recipe.image_id.to_lowercase() == arn.slug).then_some(recipe)
}

/// A release without its suffix: the ARN of a build with `3.2.0b1` contains 3.2.0.
fn strip_suffix(version: &str) -> &str {
    let end = version.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    &version[..end.unwrap_or(version.len())]
}

fn read_configuration(directory: &Directory) -> Option<Value> {
    let cloudformation::Yaml(configuration) = yaml::parse(directory.configuration.as_deref()?).ok()?;
    Some(configuration)
}

/// The user's own tags: `Image.Tags` of the configuration. They are recorded nowhere else.
fn asked_tags(directory: &Directory) -> BTreeMap<String, String> {
    let configuration = read_configuration(directory).unwrap_or_default();
    let tags = configuration["Image"]["Tags"].as_array();
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    };
    let pairs = tags.into_iter().flatten().filter_map(|tag| Some((text(&tag["Key"])?, text(&tag["Value"])?)));
    pairs.filter(|(key, _)| !key.starts_with("aws:") && !key.starts_with(PREFIX)).collect::<BTreeMap<_, _>>()
}
