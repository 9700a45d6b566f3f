//! Packages × advisories → findings. Pure.
//!
//! An advisory is compared with the installed distributions, never with requirements: an environment can
//! contain a release although a requirement excludes that release.
//!
//! - `file`: reads advisories, and has those that are compiled into the program
//! - `combinations`: parent images with which a release of aws-parallelcluster is known to fail
//! - `constraints`: advisories as constraints for an installer
//! - `releases`: the releases of aws-parallelcluster, their dates and their Pythons

pub mod combinations;
pub mod constraints;
pub mod file;
pub mod releases;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr as _;

use jiff::civil::Date;
use pep440_rs::{Version, VersionSpecifiers};
use serde::Serialize;
use serde_json::json;

use crate::model::fields::{write_some_text, write_text};
use crate::model::finding::{Finding, Fix, Kind, Level, PackageMove, Remedy, Shows};
use crate::text::package_name::{PCLUSTER, matcher, matches};

#[derive(Debug, Clone, Serialize)]
pub struct Advisory {
    pub id: String,
    pub title: String,
    pub level: Level,
    #[serde(serialize_with = "write_text")]
    pub pcluster: VersionSpecifiers,
    #[serde(serialize_with = "write_some_text", skip_serializing_if = "Option::is_none")]
    pub python: Option<VersionSpecifiers>,
    #[serde(flatten)]
    pub subject: Subject,
    pub shows: Shows,
    pub effect: String,
    pub cost: String,
    pub fix: AdvisedFix,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub only_constraints: bool,
    pub references: Vec<String>,
}

/// What an advisory is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Subject {
    Package { package: String, affected: Affected },
    Runtime { runtime: String, refused_from: Date },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AdvisedFix {
    Move(PackageMove),
    Advice { advice: String },
}

impl AdvisedFix {
    pub fn package_move(&self) -> Option<&PackageMove> {
        match self {
            Self::Move(package_move) => Some(package_move),
            Self::Advice { .. } => None,
        }
    }
}

impl fmt::Display for AdvisedFix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Move(package_move) => package_move.fmt(f),
            Self::Advice { advice } => f.write_str(advice),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affected {
    Releases(VersionSpecifiers),
    Mixed,
    Absent,
}

/// Compares the installed packages with every advisory that applies to this version of Python.
pub fn check(packages: &BTreeMap<String, String>, python: &str, advisories: &[Advisory]) -> Vec<Finding> {
    let Some(pcluster) = packages.get(PCLUSTER) else { return Vec::new() };
    advisories
        .iter()
        .filter(|advisory| !advisory.only_constraints && contains(&advisory.pcluster, pcluster))
        .filter(|advisory| {
            // A Python that was built from its repository has a version that ends with a plus sign.
            let python = python.trim_end_matches('+');
            advisory.python.as_ref().is_none_or(|affected| contains(affected, python))
        })
        .filter_map(|advisory| advisory.check(pcluster, packages))
        .collect()
}

/// What was observed in an environment. An observation can refute an advisory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence {
    /// pcluster starts.
    pub starts: bool,
    /// A template that pcluster built has everything that was asked for.
    pub has_right_template: bool,
}

/// Lowers each finding to INFO if the evidence refutes its advisory.
pub fn refute(findings: Vec<Finding>, evidence: Evidence) -> Vec<Finding> {
    findings.into_iter().map(|finding| refute_one(finding, evidence)).collect()
}

fn refute_one(finding: Finding, evidence: Evidence) -> Finding {
    let refuted_by = match finding.shows {
        Some(Shows::Start) if evidence.starts => "pcluster starts",
        Some(Shows::Template) if evidence.has_right_template => "the template is complete",
        _ => return finding,
    };
    let mut evidence = finding.evidence;
    evidence["refutedBy"] = refuted_by.into();
    let message = format!("{} (no problem in this environment: {refuted_by})", finding.message);
    let package_move = finding.fix.as_ref().and_then(Fix::package_move).cloned();
    let fix = package_move.map(|package_move| Fix::moving_by_id(package_move, &finding.id));
    Finding { level: Level::Info, message, cost: None, fix, evidence, ..finding }
}

/// Marks a finding about the start or the template as explained, if one of the findings in `advised` has the
/// same cause.
pub fn explain(finding: &mut Finding, advised: &[Finding]) {
    let explains = |advised: &&Finding| {
        advised.blocks()
            && match (finding.kind, advised.shows) {
                (Kind::PclusterStartup, Some(Shows::Start)) => is_about_failure(advised, finding),
                (Kind::ImageBuilderTemplate, Some(Shows::Template)) => true,
                _ => false,
            }
    };
    if let Some(advised) = advised.iter().find(explains) {
        finding.evidence["explainedBy"] = advised.id.as_str().into();
    }
}

/// Whether a start fails in the package of an advisory, or because a module of that package is missing
/// or incomplete.
fn is_about_failure(advised: &Finding, failure: &Finding) -> bool {
    let Some(package) = advised.evidence["package"].as_str() else { return false };
    if !failure.evidence["bytecode"].is_null() || !failure.evidence["cause"].is_null() {
        return false;
    }
    let is_package = |name: Option<&str>| name.is_some_and(|name| matches(package, name));
    let text = |key: &str| failure.evidence[key].as_str();
    // The evidence names a distribution with its version.
    let owner = |key: &str| text(key).and_then(|owner| owner.split(' ').next());
    let module = text("module").and_then(|module| module.split('.').next());
    // Of the modules that advisories are about, only pkg_resources has another name than its distribution.
    let brought_by = if module == Some("pkg_resources") { Some("setuptools") } else { module };
    is_package(owner("distribution")) || is_package(owner("moduleDistribution")) || is_package(brought_by)
}

impl Advisory {
    /// The package that the advisory is about, and which of its releases are affected.
    pub fn package(&self) -> Option<(&str, &Affected)> {
        match &self.subject {
            Subject::Package { package, affected } => Some((package, affected)),
            Subject::Runtime { .. } => None,
        }
    }

    /// Converts the advisory's [`AdvisedFix`] to the [`Fix`] that a finding contains.
    pub fn to_fix(&self) -> Fix {
        match &self.fix {
            AdvisedFix::Move(package_move) if self.level == Level::Error => {
                Fix::by_command(Remedy::Move(package_move.clone()))
            }
            AdvisedFix::Move(package_move) => Fix::moving_by_id(package_move.clone(), &self.id),
            AdvisedFix::Advice { advice } => Fix::by_hand(advice.clone()),
        }
    }

    /// Compares the advisory with the installed packages.
    fn check(&self, pcluster: &str, packages: &BTreeMap<String, String>) -> Option<Finding> {
        let (package, affected) = self.package()?;
        let is_named = matcher(package);
        let named = packages.iter().filter(|(name, _)| is_named(name));
        let named = named.into_iter().collect::<BTreeMap<_, _>>();
        let installed = affected.select(named)?;
        let versions = installed.values().map(|version| version.as_str()).collect::<BTreeSet<_>>();
        let versions = Vec::from_iter(versions).join(", ");
        let effect = &self.effect;
        let message = match affected {
            Affected::Releases(_) => format!("{package} {versions} {effect}"),
            Affected::Mixed => format!("{package} packages are at different versions ({versions}); {effect}"),
            Affected::Absent => format!("{package} is not installed, {effect}"),
        };
        Some(Finding {
            cost: Some(self.cost.clone()),
            evidence: json!({
                "package": package, "installed": installed, "pcluster": pcluster,
                "affected": affected.to_string(),
            }),
            fix: Some(self.to_fix()),
            references: self.references.clone(),
            shows: Some(self.shows),
            ..Finding::new(&self.id, self.level, Kind::PackageAdvisory, message)
        })
    }
}

impl Affected {
    /// The affected packages among those that the advisory is about; `None` if the advisory does not apply.
    fn select<'a>(
        &self,
        named: BTreeMap<&'a String, &'a String>,
    ) -> Option<BTreeMap<&'a String, &'a String>> {
        match self {
            Self::Releases(releases) => {
                let affected = named
                    .into_iter()
                    .filter(|(_, version)| contains(releases, version))
                    .collect::<BTreeMap<_, _>>();
                (!affected.is_empty()).then_some(affected)
            }
            Self::Mixed => {
                let versions = named.values().copied().collect::<BTreeSet<_>>();
                (versions.len() > 1).then_some(named)
            }
            Self::Absent => named.is_empty().then_some(named),
        }
    }
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Releases(releases) => write!(f, "{releases}"),
            Self::Mixed => f.write_str("mixed"),
            Self::Absent => f.write_str("absent"),
        }
    }
}

/// Whether a release is in a range. A version that is not valid according to PEP 440 is in no range.
pub fn contains(releases: &VersionSpecifiers, version: &str) -> bool {
    Version::from_str(version).is_ok_and(|version| releases.contains(&version))
}

impl Serialize for Affected {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::advisories::file::built_in;

    fn packages(versions: &[(&str, &str)]) -> BTreeMap<String, String> {
        let versions = [&[("setuptools", "80.9.0")], versions].concat();
        versions.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    fn found(versions: &[(&str, &str)]) -> Vec<String> {
        let findings = check(&packages(versions), "3.11.4", &built_in());
        findings.into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn the_rule_is_on_both_installed_versions() {
        let imagebuilder = |version| ("aws-cdk-aws-imagebuilder", version);
        let pcluster = |version| (PCLUSTER, version);
        let affected = ["cdk-imagebuilder-1.153.0"];
        assert_eq!(found(&[pcluster("3.1.3"), imagebuilder("1.153.0")]), affected);
        assert_eq!(found(&[pcluster("3.16.1"), imagebuilder("1.153")]), affected);
        assert!(found(&[pcluster("3.1.3"), imagebuilder("1.152.0")]).is_empty());
        assert!(found(&[pcluster("3.1.3"), imagebuilder("1.153.1")]).is_empty());
        assert!(found(&[pcluster("2.11.9"), imagebuilder("1.153.0")]).is_empty());
        assert!(found(&[imagebuilder("1.153.0")]).is_empty());
        assert!(found(&[pcluster("3.1.3")]).is_empty());
        assert!(found(&[pcluster("local build"), imagebuilder("1.153.0")]).is_empty());
    }

    #[test]
    fn a_mixture_is_found() {
        let mixture = [(PCLUSTER, "3.1.3"), ("aws-cdk-core", "1.1.0"), ("aws-cdk-aws-ec2", "1.2.0")];
        assert_eq!(found(&mixture), ["cdk-mixed-versions"]);
        let asset = [(PCLUSTER, "3.1.3"), ("aws-cdk-core", "1.1.0"), ("aws-cdkother", "1.2.0")];
        assert!(found(&asset).is_empty());
    }

    #[test]
    fn the_version_of_python_counts() {
        let ids = |setuptools: &str, python| {
            let packages = packages(&[(PCLUSTER, "3.1.3"), ("setuptools", setuptools)]);
            let findings = check(&packages, python, &built_in());
            findings.into_iter().map(|finding| finding.id).collect::<Vec<_>>()
        };
        assert!(ids("65.5.1", "3.11.9").is_empty());
        for python in ["3.12.0", "3.13.1+"] {
            assert_eq!(ids("65.5.1", python), ["setuptools-66-python-3.12"]);
        }
    }

    #[test]
    fn an_absent_package_is_found() {
        let absent = [(PCLUSTER.to_owned(), "3.1.3".to_owned())].into();
        let findings = check(&absent, "3.9.1", &built_in());
        assert_eq!(findings[0].id, "setuptools-absent");
        assert_eq!(
            findings[0].message,
            "setuptools is not installed, and pcluster needs its pkg_resources module to start"
        );
        let newer = [(PCLUSTER.to_owned(), "3.14.0".to_owned())].into();
        assert!(check(&newer, "3.9.1", &built_in()).is_empty());
    }

    #[test]
    fn an_advisory_for_constraints_alone_is_no_finding() {
        let found = found(&[(PCLUSTER, "3.6.1"), ("pyyaml", "5.4.1")]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn equal_ranges_are_written_once() {
        let fix = |upgrade: &str, downgrade: &str| {
            let range = |text| VersionSpecifiers::from_str(text).unwrap();
            let (upgrade, downgrade) = (range(upgrade), range(downgrade));
            PackageMove { packages: "aws-cdk.*".into(), upgrade, downgrade }.to_string()
        };
        assert_eq!(fix(">=1.153.1", "<1.153.0"), "aws-cdk.* >=1.153.1, or <1.153.0");
        assert_eq!(fix("!=1.153.0", "!=1.153.0"), "aws-cdk.* !=1.153.0");
    }

    proptest::proptest! {
        #[test]
        fn ranges_agree_with_pep_440_order(minor in 0u64..300, patch in 0u64..3) {
            let version = format!("1.{minor}.{patch}");
            let packages = packages(&[(PCLUSTER, "3.1.3"), ("aws-cdk-aws-imagebuilder", &version)]);
            let hit = !check(&packages, "3.9.1", &built_in()).is_empty();
            proptest::prop_assert_eq!(hit, (minor, patch) == (153, 0));
        }
    }
}
