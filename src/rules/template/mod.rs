//! The rules about a template → findings. Pure.
//!
//! - `cloudformation`: bytes to a template
//! - `asked`: whether the template has what the real pcluster asks of it; `grouping` merges findings with the
//!   same cause
//! - `limits`: limits of EC2 and Image Builder
//! - `runtimes`: Lambda runtimes that AWS refuses
//! - `known_issues`: known upstream issues that the template shows
//! - `component`: the component of pcluster; `minitar`: a gem that the component installs
//! - `recipe`: components of another region, and the size of the root volume
//! - `sharing`: an encrypted AMI that is shared in a way that EC2 refuses

pub mod asked;
pub mod cloudformation;
pub mod component;
pub mod grouping;
pub mod known_issues;
pub mod limits;
pub mod minitar;
pub mod recipe;
pub mod runtimes;
pub mod sharing;

use std::str::FromStr as _;

use jiff::civil::Date;
use pep440_rs::VersionSpecifiers;
use serde_json::Value;

use crate::model::distribution::Packages;
use crate::model::expectation::Expectation;
use crate::model::finding::{Finding, Fix, PackageMove, Remedy};
use crate::rules::advisories::Advisory;
use crate::text::package_name::{IMAGEBUILDER, PCLUSTER};

/// What the rules need in addition to the template.
#[derive(Debug)]
pub struct TemplateRules<'a> {
    pub packages: &'a Packages,
    pub advisories: &'a [Advisory],
    pub today: Date,
}

impl TemplateRules<'_> {
    /// Whether the template lacks anything that was asked for.
    pub fn falls_short(&self, template: &Value, expectation: &Expectation) -> bool {
        !asked::check(template, expectation, &other_cdk(self.packages)).is_empty()
    }

    /// Checks a template with all rules.
    pub fn check(&self, template: &Value, expectation: &Expectation) -> Vec<Finding> {
        let pcluster = self.packages.get(PCLUSTER).map(|pcluster| pcluster.version.as_str());
        let mut findings = asked::check(template, expectation, &other_cdk(self.packages));
        findings.extend(check_everywhere(template, pcluster, self.advisories, self.today));
        findings
    }
}

/// Checks a template with the rules that need no expectation.
pub fn check_everywhere(
    template: &Value,
    pcluster: Option<&str>,
    advisories: &[Advisory],
    today: Date,
) -> Vec<Finding> {
    let mut findings = limits::check(template);
    findings.extend(sharing::check(template));
    findings.extend(minitar::check(template));
    findings.extend(recipe::check(template, pcluster));
    findings.extend(runtimes::check(template, pcluster, advisories, today));
    findings.extend(known_issues::check(template, pcluster));
    findings
}

/// The fix for an incomplete template that no advisory explains: another release of CDK. The repair tests
/// whether that release helps.
fn other_cdk(packages: &Packages) -> Fix {
    let installed = packages.get(IMAGEBUILDER).map(|cdk| cdk.version.as_str());
    let range = |operator: &str| VersionSpecifiers::from_str(&format!("{operator}{}", installed?)).ok();
    match (range("!="), range("<")) {
        (Some(upgrade), Some(downgrade)) => {
            Fix::by_command(Remedy::Move(PackageMove { packages: "aws-cdk.*".into(), upgrade, downgrade }))
        }
        _ => Fix::by_hand("reinstall aws-parallelcluster".into()),
    }
}
