//! Packages × advisories → findings. Pure: the caller reads the files.
//!
//! An advisory matches the installed distributions, never a requirement: a requirement that excludes a
//! release does not keep that release out of an environment.
//!
//! | key | meaning |
//! | --- | --- |
//! | `id`, `title` | its name, and a description in one line |
//! | `level` | ERROR blocks; WARNING and INFO are only reported |
//! | `pcluster` | the releases of aws-parallelcluster that it affects (PEP 440) |
//! | `python` | the releases of Python that it affects (PEP 440); every one where the key is absent |
//! | `package` | the affected package; `aws-cdk.*` means every package whose name begins with `aws-cdk.` |
//! | `affected` | its affected releases (PEP 440); `mixed`: more than one version among them; `absent`: it is not installed |
//! | `effect` | completes "PACKAGE VERSION …", or "PACKAGE is not installed, …" |
//! | `cost` | what it costs to build in spite of it, a sentence |
//! | `fix` | `packages` to move, and the ranges to move them to: `upgrade`, `downgrade` (PEP 440). Or `advice`: what to do where no move of packages helps |
//! | `only_constraints` | true: it bears on what `preflight constraints` prints, and on no environment, because the affected release cannot be installed |
//! | `references` | https URLs of the sources |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr as _;

use pep440_rs::{Version, VersionSpecifiers};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::package_name::{PCLUSTER, matches};
use crate::rules::fields::{
    parse_specifiers, read_identifier, read_package, read_parsed, read_references, read_some_package,
    read_some_specifiers, read_some_text, read_specifiers, read_text, write_some_text, write_text,
};
use crate::rules::{Finding, Fix, Kind, Level, PackageMove};
use crate::yaml;

const BUILT_IN: &str = include_str!("advisories.yaml");

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "an advisory: a mapping of id, title, level and the rest")]
pub struct Advisory {
    #[serde(deserialize_with = "read_identifier")]
    pub id: String,
    #[serde(deserialize_with = "read_text")]
    pub title: String,
    pub level: Level,
    #[serde(deserialize_with = "read_specifiers", serialize_with = "write_text")]
    pub pcluster: VersionSpecifiers,
    #[serde(default, deserialize_with = "read_some_specifiers", serialize_with = "write_some_text")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<VersionSpecifiers>,
    #[serde(deserialize_with = "read_package")]
    pub package: String,
    pub affected: Affected,
    #[serde(deserialize_with = "read_text")]
    pub effect: String,
    #[serde(deserialize_with = "read_text")]
    pub cost: String,
    pub fix: AdvisedFix,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_constraints: bool,
    #[serde(deserialize_with = "read_references")]
    pub references: Vec<String>,
}

/// The way out that an advisory names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "WrittenFix")]
pub enum AdvisedFix {
    Move(PackageMove),
    Advice { advice: String },
}

/// The keys of a fix. An untagged enum would be refused without the line and the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of packages, upgrade and downgrade, or of advice")]
struct WrittenFix {
    #[serde(default, deserialize_with = "read_some_package")]
    packages: Option<String>,
    #[serde(default, deserialize_with = "read_some_specifiers")]
    upgrade: Option<VersionSpecifiers>,
    #[serde(default, deserialize_with = "read_some_specifiers")]
    downgrade: Option<VersionSpecifiers>,
    #[serde(default, deserialize_with = "read_some_text")]
    advice: Option<String>,
}

impl TryFrom<WrittenFix> for AdvisedFix {
    type Error = &'static str;

    fn try_from(written: WrittenFix) -> Result<Self, Self::Error> {
        match written {
            WrittenFix { packages: None, upgrade: None, downgrade: None, advice: Some(advice) } => {
                Ok(Self::Advice { advice })
            }
            WrittenFix {
                packages: Some(packages),
                upgrade: Some(upgrade),
                downgrade: Some(downgrade),
                advice: None,
            } => Ok(Self::Move(PackageMove { packages, upgrade, downgrade })),
            _ => Err("a fix has packages, upgrade and downgrade, or advice alone"),
        }
    }
}

impl AdvisedFix {
    #[must_use]
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

/// Reads a list of advisories.
///
/// # Errors
/// Returns an error if the text is no list of advisories, with the line and the key, or an id stands in
/// it twice.
pub fn read(text: &str) -> Result<Vec<Advisory>, String> {
    let advisories: Vec<Advisory> = yaml::parse(text)?;
    let mut ids = BTreeSet::new();
    match advisories.iter().find(|advisory| !ids.insert(advisory.id.as_str())) {
        Some(twice) => Err(format!("the id {:?} stands twice", twice.id)),
        None => Ok(advisories),
    }
}

/// Reads the advisories that are part of this build.
#[must_use]
pub fn built_in() -> Vec<Advisory> {
    // The file is part of the build, and a test reads it.
    read(BUILT_IN).unwrap_or_default()
}

/// Compares the installed packages with every advisory, for a version of Python.
#[must_use]
pub fn check(packages: &BTreeMap<String, String>, python: &str, advisories: &[Advisory]) -> Vec<Finding> {
    let Some(pcluster) = packages.get(PCLUSTER) else { return Vec::new() };
    advisories
        .iter()
        .filter(|advisory| !advisory.only_constraints && contains(&advisory.pcluster, pcluster))
        .filter(|advisory| {
            // A Python that is built from its repository ends its version with a plus sign.
            let python = python.trim_end_matches('+');
            advisory.python.as_ref().is_none_or(|affected| contains(affected, python))
        })
        .filter_map(|advisory| {
            let installed = advisory.find_affected(packages)?;
            Some(advisory.to_finding(pcluster, &installed))
        })
        .collect()
}

impl Advisory {
    /// The affected packages with their versions.
    fn find_affected<'a>(&self, packages: &'a BTreeMap<String, String>) -> Option<Vec<(&'a str, &'a str)>> {
        let mut named = packages
            .iter()
            .map(|(name, version)| (name.as_str(), version.as_str()))
            .filter(|(name, _)| matches(&self.package, name));
        match &self.affected {
            Affected::Releases(releases) => {
                let affected: Vec<_> = named.filter(|(_, version)| contains(releases, version)).collect();
                (!affected.is_empty()).then_some(affected)
            }
            Affected::Mixed => {
                let all: Vec<_> = named.collect();
                let versions: BTreeSet<&str> = all.iter().map(|(_, version)| *version).collect();
                (versions.len() > 1).then_some(all)
            }
            Affected::Absent => named.next().is_none().then(Vec::new),
        }
    }

    fn to_finding(&self, pcluster: &str, installed: &[(&str, &str)]) -> Finding {
        let versions: BTreeSet<&str> = installed.iter().map(|(_, version)| *version).collect();
        let versions = Vec::from_iter(versions).join(", ");
        let message = match &self.affected {
            Affected::Releases(_) => format!("{} {versions} {}", self.package, self.effect),
            Affected::Mixed => {
                format!("{} is installed in versions {versions}, {}", self.package, self.effect)
            }
            Affected::Absent => format!("{} is not installed, {}", self.package, self.effect),
        };
        let installed: serde_json::Map<String, Value> =
            installed.iter().map(|(name, version)| ((*name).to_owned(), json!(version))).collect();
        Finding {
            id: self.id.clone(),
            level: self.level,
            kind: Kind::PackageAdvisory,
            message,
            cost: Some(self.cost.clone()),
            evidence: json!({"installed": installed, "pcluster": pcluster, "affected": self.affected.to_string()}),
            fix: Some(match &self.fix {
                AdvisedFix::Move(package_move) => Fix::moving(package_move.clone()),
                AdvisedFix::Advice { advice } => Fix::by_hand(advice.clone()),
            }),
            references: self.references.clone(),
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

/// Whether a release is in a range; a version that is not PEP 440's is in none.
#[must_use]
pub fn contains(releases: &VersionSpecifiers, version: &str) -> bool {
    Version::from_str(version).is_ok_and(|version| releases.contains(&version))
}

impl<'de> Deserialize<'de> for Affected {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read_parsed(from, |written| match written {
            "mixed" => Ok(Self::Mixed),
            "absent" => Ok(Self::Absent),
            _ => parse_specifiers(written).map(Self::Releases),
        })
    }
}

impl Serialize for Affected {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(versions: &[(&str, &str)]) -> BTreeMap<String, String> {
        versions.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    fn found(versions: &[(&str, &str)]) -> Vec<String> {
        let findings = check(&packages(versions), "3.11.4", &read(BUILT_IN).unwrap());
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
    fn equal_ranges_are_written_once() {
        let fix = |upgrade: &str, downgrade: &str| {
            let range = |text| VersionSpecifiers::from_str(text).unwrap();
            let (upgrade, downgrade) = (range(upgrade), range(downgrade));
            PackageMove { packages: "aws-cdk.*".into(), upgrade, downgrade }.to_string()
        };
        assert_eq!(fix(">=1.153.1", "<1.153.0"), "aws-cdk.* >=1.153.1, or <1.153.0");
        assert_eq!(fix("!=1.153.0", "!=1.153.0"), "aws-cdk.* !=1.153.0");
    }

    #[test]
    fn an_invalid_file_is_refused_with_the_reason() {
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
            let invalid = BUILT_IN.replacen(from, to, 1);
            assert_ne!(invalid, BUILT_IN);
            let error = read(&invalid).unwrap_err();
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
            let hit = !check(&packages, "3.9.1", &built_in()).is_empty();
            proptest::prop_assert_eq!(hit, (minor, patch) == (153, 0));
        }
    }
}
