//! Packages × advisories → findings. Pure, but for nothing: even the files are read by the caller.
//!
//! An advisory matches by what is installed, never by what is required: a requirement that excludes
//! a release does not keep that release out of an environment.
//!
//! | key | meaning |
//! | --- | --- |
//! | `id`, `title` | how it is called, and in one line what it is |
//! | `level` | ERROR blocks; WARNING and INFO are told |
//! | `pcluster` | the releases of aws-parallelcluster that it affects (PEP 440) |
//! | `package` | the package at fault; `name.*` means every package of the name |
//! | `affected` | its bad releases (PEP 440), or `mixed`: more than one version among them |
//! | `effect` | completes "PACKAGE VERSION …" |
//! | `cost` | what it costs whoever goes on, a sentence |
//! | `fix` | `packages` to move, and whereto: `upgrade` and `downgrade` (PEP 440) |
//! | `references` | the sources |

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use pep440_rs::{Version, VersionSpecifiers};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::package_name::{PCLUSTER, matches};
use crate::rules::fields::{
    as_text, identifier, package, parse_specifiers, parsed, references, specifiers, text,
};
use crate::rules::{Finding, Fix, Kind, Level, PackageMove};
use crate::yaml;

const BUILT_IN: &str = include_str!("advisories.yaml");

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "an advisory: a mapping of id, title, level and the rest")]
pub struct Advisory {
    #[serde(deserialize_with = "identifier")]
    pub id: String,
    #[serde(deserialize_with = "text")]
    pub title: String,
    pub level: Level,
    #[serde(deserialize_with = "specifiers", serialize_with = "as_text")]
    pub pcluster: VersionSpecifiers,
    #[serde(deserialize_with = "package")]
    pub package: String,
    pub affected: Affected,
    #[serde(deserialize_with = "text")]
    pub effect: String,
    #[serde(deserialize_with = "text")]
    pub cost: String,
    pub fix: PackageMove,
    #[serde(deserialize_with = "references")]
    pub references: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affected {
    Releases(VersionSpecifiers),
    Mixed,
}

/// Reads a list of advisories.
///
/// # Errors
/// The line and the key of the first fault.
pub fn read(text: &str) -> Result<Vec<Advisory>, String> {
    let advisories: Vec<Advisory> = yaml::parse(text)?;
    let mut ids = BTreeSet::new();
    match advisories.iter().find(|advisory| !ids.insert(advisory.id.as_str())) {
        Some(twice) => Err(format!("the id {:?} stands twice", twice.id)),
        None => Ok(advisories),
    }
}

/// The advisories that this build ships with.
#[must_use]
pub fn built_in() -> Vec<Advisory> {
    // A test holds the file to its format.
    read(BUILT_IN).unwrap_or_default()
}

/// The findings of every advisory that matches.
#[must_use]
pub fn check(packages: &BTreeMap<String, String>, advisories: &[Advisory]) -> Vec<Finding> {
    let Some(pcluster) = packages.get(PCLUSTER) else { return Vec::new() };
    advisories
        .iter()
        .filter(|advisory| contains(&advisory.pcluster, pcluster))
        .filter_map(|advisory| {
            let installed = advisory.matched(packages)?;
            Some(advisory.finding(pcluster, &installed))
        })
        .collect()
}

impl Advisory {
    /// The packages at fault with their versions.
    fn matched<'a>(&self, packages: &'a BTreeMap<String, String>) -> Option<Vec<(&'a str, &'a str)>> {
        let named = packages
            .iter()
            .map(|(name, version)| (name.as_str(), version.as_str()))
            .filter(|(name, _)| matches(&self.package, name));
        match &self.affected {
            Affected::Releases(bad) => {
                let bad: Vec<_> = named.filter(|(_, version)| contains(bad, version)).collect();
                (!bad.is_empty()).then_some(bad)
            }
            Affected::Mixed => {
                let all: Vec<_> = named.collect();
                let versions: BTreeSet<&str> = all.iter().map(|(_, version)| *version).collect();
                (versions.len() > 1).then_some(all)
            }
        }
    }

    fn finding(&self, pcluster: &str, installed: &[(&str, &str)]) -> Finding {
        let versions: BTreeSet<&str> = installed.iter().map(|(_, version)| *version).collect();
        let versions = Vec::from_iter(versions).join(", ");
        let message = match &self.affected {
            Affected::Releases(_) => format!("{} {versions} {}", self.package, self.effect),
            Affected::Mixed => {
                format!("{} is installed in versions {versions}, {}", self.package, self.effect)
            }
        };
        let installed: serde_json::Map<String, Value> =
            installed.iter().map(|(name, version)| ((*name).to_owned(), json!(version))).collect();
        Finding {
            id: self.id.clone(),
            level: self.level,
            kind: Kind::PackageAdvisory,
            message,
            cost: Some(self.cost.clone()),
            evidence: json!({"installed": installed, "pcluster": pcluster, "affected": self.affected.words()}),
            fix: Some(Fix::moving(self.fix.clone())),
            references: self.references.clone(),
        }
    }
}

impl Affected {
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Releases(releases) => releases.to_string(),
            Self::Mixed => "mixed".into(),
        }
    }
}

/// A version that PEP 440 does not know is in no range.
fn contains(releases: &VersionSpecifiers, version: &str) -> bool {
    Version::from_str(version).is_ok_and(|version| releases.contains(&version))
}

impl<'de> Deserialize<'de> for Affected {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        parsed(from, |written| match written {
            "mixed" => Ok(Self::Mixed),
            _ => parse_specifiers(written).map(Self::Releases),
        })
    }
}

impl Serialize for Affected {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(versions: &[(&str, &str)]) -> BTreeMap<String, String> {
        versions.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    fn found(versions: &[(&str, &str)]) -> Vec<String> {
        let findings = check(&packages(versions), &read(BUILT_IN).unwrap());
        findings.into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn the_rule_is_on_both_installed_versions() {
        let imagebuilder = |version| ("aws-cdk-aws-imagebuilder", version);
        let pcluster = |version| (PCLUSTER, version);
        let bad = ["cdk-imagebuilder-1.153.0"];
        assert_eq!(found(&[pcluster("3.1.3"), imagebuilder("1.153.0")]), bad);
        assert_eq!(found(&[pcluster("3.16.1"), imagebuilder("1.153")]), bad);
        assert!(found(&[pcluster("3.1.3"), imagebuilder("1.152.0")]).is_empty());
        assert!(found(&[pcluster("3.1.3"), imagebuilder("1.153.1")]).is_empty());
        assert!(found(&[pcluster("2.11.9"), imagebuilder("1.153.0")]).is_empty());
        assert!(found(&[imagebuilder("1.153.0")]).is_empty());
        assert!(found(&[pcluster("3.1.3")]).is_empty());
        assert!(found(&[pcluster("local build"), imagebuilder("1.153.0")]).is_empty());
    }

    #[test]
    fn a_mixture_is_told() {
        let mixture = [(PCLUSTER, "3.1.3"), ("aws-cdk-core", "1.1.0"), ("aws-cdk-aws-ec2", "1.2.0")];
        assert_eq!(found(&mixture), ["cdk-mixed-versions"]);
        let asset = [(PCLUSTER, "3.1.3"), ("aws-cdk-core", "1.1.0"), ("aws-cdkother", "1.2.0")];
        assert!(found(&asset).is_empty());
    }

    #[test]
    fn the_same_range_is_told_once() {
        let fix = |upgrade: &str, downgrade: &str| {
            let range = |text| VersionSpecifiers::from_str(text).unwrap();
            let (upgrade, downgrade) = (range(upgrade), range(downgrade));
            PackageMove { packages: "aws-cdk.*".into(), upgrade, downgrade }.words()
        };
        assert_eq!(fix(">=1.153.1", "<1.153.0"), "aws-cdk.* >=1.153.1, or <1.153.0");
        assert_eq!(fix("!=1.153.0", "!=1.153.0"), "aws-cdk.* !=1.153.0");
    }

    #[test]
    fn a_faulty_file_is_refused_with_the_reason() {
        let good = BUILT_IN;
        for (from, to, why) in [
            ("level: ERROR", "level: LOUD", "LOUD"),
            ("\"==1.153.0\"", "\"1.153.0 or so\"", "no version range"),
            ("\">=3.0.0\"", "\"\"", "empty"),
            ("id: cdk-mixed-versions", "id: cdk-imagebuilder-1.153.0", "stands twice"),
            ("id: cdk-mixed-versions", "id: CDK mixed", "not an id"),
            ("package: aws-cdk.*", "package: '*'", "package's name"),
            ("affected: mixed", "effected: mixed", "effected"),
            ("references:\n", "references: []\n  other:\n", "references"),
            ("https://github", "http://github", "https"),
            ("title: The", "heading: The", "heading"),
        ] {
            let faulty = good.replacen(from, to, 1);
            assert_ne!(faulty, good);
            let error = read(&faulty).unwrap_err();
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_panic(text in ".{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn ranges_agree_with_pep_440_order(minor in 0u64..300, patch in 0u64..3) {
            let version = format!("1.{minor}.{patch}");
            let packages = packages(&[(PCLUSTER, "3.1.3"), ("aws-cdk-aws-imagebuilder", &version)]);
            let hit = !check(&packages, &built_in()).is_empty();
            proptest::prop_assert_eq!(hit, (minor, patch) == (153, 0));
        }
    }
}
