//! What AWS says about the parent image, the components and the network of a build. A file can take the place
//! of AWS for the parent image.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::checker::request::{CheckRequest, ParentSource};
use crate::environment::target::Target;
use crate::error::Abort;
use crate::images::client::Client;
use crate::model::finding::Finding;
use crate::report::builder::{CheckResult, ReportBuilder};
use crate::rules::advisories::combinations;
use crate::rules::parent::facts::{Facts, ParentImage, Questions};
use crate::rules::parent::image::Build;
use crate::rules::parent::{build, image};
use crate::rules::template::minitar;
use crate::rules::template::recipe::find_region;
use crate::text::package_name::PCLUSTER;

/// Adds the checks of the parent image, the components and the network.
pub fn check(
    request: &CheckRequest,
    target: &Target,
    template: Option<&Value>,
    report: &mut ReportBuilder,
) -> Result<(), Abort> {
    let Some(template) = template else {
        report.add("parent", Duration::ZERO, CheckResult::Skipped("no template was built".into()));
        return Ok(());
    };
    let questions = questions_of(request, template);
    let since = Instant::now();
    let facts = match get_facts(request, target, &questions, template) {
        Ok(facts) => facts,
        Err(Abort::Error(error)) => {
            // The checks of components and network are left out: the check `parent` reports the error for
            // all three.
            report.add("parent", since.elapsed(), CheckResult::Unknown(error.to_line()));
            return Ok(());
        }
        Err(interrupted) => return Err(interrupted),
    };
    // AWS was asked once, for all three checks, so each of them is reported with the whole time.
    let took = since.elapsed();
    if facts.image.as_ref().is_some_and(image::is_of_pcluster) {
        report.soften(
            minitar::ID,
            "; a parent image made by ParallelCluster, such as this one, may already have an older minitar",
        );
    }
    let pcluster = report.packages.get(PCLUSTER).cloned().unwrap_or_default();
    let combinations = combinations::built_in();
    let build = Build { pcluster: &pcluster, template, combinations: &combinations };
    let findings = facts.image.as_ref().map(|one| image::check(one, &build)).unwrap_or_default();
    report.add("parent", took, take_result(&facts, "parent", findings));
    if !questions.scripts.is_empty() || !questions.components.is_empty() {
        report.add("components", took, take_result(&facts, "components", build::check_components(&facts)));
    }
    if questions.subnet.is_some() {
        let findings = Vec::from_iter(build::check_network(&facts, questions.subnet.as_deref()));
        report.add("network", took, take_result(&facts, "network", findings));
    }
    Ok(())
}

/// What to find out about a build. If a file is used instead of AWS, only the parent image is looked up,
/// because the file contains only images.
fn questions_of(request: &CheckRequest, template: &Value) -> Questions {
    let questions = Questions::of(template);
    match request.parent {
        ParentSource::File(_) => Questions { parent: questions.parent, ..Questions::default() },
        ParentSource::Aws | ParentSource::NotAsked => questions,
    }
}

/// A check is unknown if something could not be queried, unless the check found something anyway.
fn take_result(facts: &Facts, check: &str, findings: Vec<Finding>) -> CheckResult {
    match facts.skipped.get(check) {
        Some(reason) if findings.is_empty() => CheckResult::Unknown(reason.clone()),
        _ => CheckResult::Findings(findings),
    }
}

fn get_facts(
    request: &CheckRequest,
    target: &Target,
    questions: &Questions,
    template: &Value,
) -> Result<Facts, Abort> {
    if let ParentSource::File(images) = &request.parent {
        return Ok(find_image(images, questions.parent.as_deref().unwrap_or_default()));
    }
    let _step = request.progress.step("asking AWS about the parent image");
    let client = Client { target, timeout: request.settings.timeout };
    client.get_facts(questions, find_region(template).as_deref())
}

/// Finds the parent among the images of a file. The ARN of an Image Builder image names no AMI. If the parent
/// is such an ARN and the file contains a single image, that image is assumed to be the parent. The image's
/// owner is then dropped, because the assumption may be wrong and the real parent may have another owner.
fn find_image(images: &[Value], parent: &str) -> Facts {
    let named = images.iter().find(|image| image["ImageId"] == parent);
    let only = images.first().filter(|_| images.len() == 1 && parent.starts_with("arn:"));
    let reason = match named.or(only).map(|image| serde_json::from_value::<ParentImage>(image.clone())) {
        Some(Ok(mut image)) => {
            if named.is_none() {
                (image.owner_id, image.owner_alias) = (None, None);
            }
            return Facts { image: Some(image), ..Facts::default() };
        }
        Some(Err(error)) => format!("the file's description of image {parent} is invalid: {error}"),
        None => format!(
            "the file does not describe image {parent}; pass the output of \
             `aws ec2 describe-images --image-ids {parent}`"
        ),
    };
    Facts { skipped: BTreeMap::from([("parent".to_owned(), reason)]), ..Facts::default() }
}
