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
//! | `runtime`, `refused_from` | in the place of `package` and `affected`: a runtime of Lambda that the template asks for, and the day from which AWS refuses new functions with it |
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
use serde_json::json;

use crate::package_name::{PCLUSTER, matcher};
use crate::rules::fields::{
    parse_specifiers, read_checked_mapping, read_identifier, read_parsed, read_references, read_some_date,
    read_some_package, read_some_specifiers, read_some_text, read_specifiers, read_text, write_some_text,
    write_text,
};
use crate::rules::{Finding, Fix, Kind, Level, PackageMove};
use crate::sorted::{sorted_map, sorted_set};
use crate::yaml;

/// advisories.yaml, as build.rs writes it.
static BUILT_IN: &[BuiltIn] = include!(concat!(env!("OUT_DIR"), "/advisories.rs"));

/// The keys of an advisory of this build.
struct BuiltIn {
    id: Option<&'static str>,
    title: Option<&'static str>,
    level: Level,
    pcluster: Option<&'static str>,
    python: Option<&'static str>,
    package: Option<&'static str>,
    affected: Option<&'static str>,
    runtime: Option<&'static str>,
    refused_from: Option<&'static str>,
    effect: Option<&'static str>,
    cost: Option<&'static str>,
    fix: BuiltInFix,
    only_constraints: bool,
    references: &'static [&'static str],
}

struct BuiltInFix {
    packages: Option<&'static str>,
    upgrade: Option<&'static str>,
    downgrade: Option<&'static str>,
    advice: Option<&'static str>,
}

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
    Runtime { runtime: String, refused_from: String },
}

/// The keys of an advisory.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAdvisory {
    #[serde(deserialize_with = "read_identifier")]
    id: String,
    #[serde(deserialize_with = "read_text")]
    title: String,
    level: Level,
    #[serde(deserialize_with = "read_specifiers")]
    pcluster: VersionSpecifiers,
    #[serde(default, deserialize_with = "read_some_specifiers")]
    python: Option<VersionSpecifiers>,
    #[serde(default, deserialize_with = "read_some_package")]
    package: Option<String>,
    #[serde(default)]
    affected: Option<Affected>,
    #[serde(default, deserialize_with = "read_some_text")]
    runtime: Option<String>,
    #[serde(default, deserialize_with = "read_some_date")]
    refused_from: Option<String>,
    #[serde(deserialize_with = "read_text")]
    effect: String,
    #[serde(deserialize_with = "read_text")]
    cost: String,
    fix: AdvisedFix,
    #[serde(default)]
    only_constraints: bool,
    #[serde(deserialize_with = "read_references")]
    references: Vec<String>,
}

impl BuiltIn {
    fn read(&self) -> Option<Advisory> {
        let text = |key: Option<&str>| key.unwrap_or_default().to_owned();
        let some_text = |key: Option<&str>| key.map(str::to_owned);
        let range = |key: Option<&str>| key.and_then(|range| parse_specifiers(range).ok());
        let BuiltInFix { packages, upgrade, downgrade, advice } = self.fix;
        let fix = WrittenFix {
            packages: some_text(packages),
            upgrade: range(upgrade),
            downgrade: range(downgrade),
            advice: some_text(advice),
        };
        let written = WrittenAdvisory {
            id: text(self.id),
            title: text(self.title),
            level: self.level,
            pcluster: range(self.pcluster)?,
            python: range(self.python),
            package: some_text(self.package),
            affected: self.affected.and_then(|affected| Affected::read(affected).ok()),
            runtime: some_text(self.runtime),
            refused_from: some_text(self.refused_from),
            effect: text(self.effect),
            cost: text(self.cost),
            fix: fix.try_into().ok()?,
            only_constraints: self.only_constraints,
            references: self.references.iter().map(ToString::to_string).collect(),
        };
        written.try_into().ok()
    }
}

impl TryFrom<WrittenAdvisory> for Advisory {
    type Error = String;

    fn try_from(written: WrittenAdvisory) -> Result<Self, Self::Error> {
        let WrittenAdvisory {
            id, title, level, pcluster, python, effect, cost, fix, only_constraints, ..
        } = written;
        let subject = match (written.package, written.affected, written.runtime, written.refused_from) {
            (Some(package), Some(affected), None, None) => Subject::Package { package, affected },
            (None, None, Some(runtime), Some(refused_from)) if level != Level::Error => {
                Subject::Runtime { runtime, refused_from }
            }
            (None, None, Some(_), Some(_)) => {
                return Err(format!("{id}: a runtime blocks nothing: its level is WARNING or INFO"));
            }
            _ => return Err(format!("{id}: it needs package and affected, or runtime and refused_from")),
        };
        let references = written.references;
        Ok(Self {
            id,
            title,
            level,
            pcluster,
            python,
            subject,
            effect,
            cost,
            fix,
            only_constraints,
            references,
        })
    }
}

/// The way out that an advisory names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AdvisedFix {
    Move(PackageMove),
    Advice { advice: String },
}

impl<'de> Deserialize<'de> for Advisory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read_checked_mapping::<WrittenAdvisory, _, _>(
            from,
            "an advisory: a mapping of id, title, level and the rest",
        )
    }
}

impl<'de> Deserialize<'de> for AdvisedFix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = "a mapping of packages, upgrade and downgrade, or of advice";
        read_checked_mapping::<WrittenFix, _, _>(from, expected)
    }
}

/// The keys of a fix. An untagged enum would be refused without the line and the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
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
    BUILT_IN.iter().filter_map(BuiltIn::read).collect()
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
        .filter_map(|advisory| advisory.check(pcluster, packages))
        .collect()
}

impl Advisory {
    /// The package that it is about, and its affected releases.
    #[must_use]
    pub fn package(&self) -> Option<(&str, &Affected)> {
        match &self.subject {
            Subject::Package { package, affected } => Some((package, affected)),
            Subject::Runtime { .. } => None,
        }
    }

    /// The way out, as findings name it.
    #[must_use]
    pub fn to_fix(&self) -> Fix {
        match (&self.fix, &self.subject) {
            (AdvisedFix::Move(package_move), _) if self.level == Level::Error => {
                Fix::moving(package_move.clone())
            }
            (AdvisedFix::Move(package_move), _) => Fix::moving_by_id(package_move.clone(), &self.id),
            (AdvisedFix::Advice { advice }, Subject::Runtime { runtime, .. }) => {
                Fix::changing_runtime(advice.clone(), runtime.clone())
            }
            (AdvisedFix::Advice { advice }, Subject::Package { .. }) => Fix::by_hand(advice.clone()),
        }
    }

    /// Compares it with the installed packages.
    fn check(&self, pcluster: &str, packages: &BTreeMap<String, String>) -> Option<Finding> {
        let (package, affected) = self.package()?;
        let is_named = matcher(package);
        let named = packages.iter().filter(|(name, _)| is_named(name));
        let named = sorted_map(named);
        let installed = affected.select(named)?;
        let versions = sorted_set(installed.values().map(|version| version.as_str()));
        let versions = Vec::from_iter(versions).join(", ");
        let effect = &self.effect;
        let message = match affected {
            Affected::Releases(_) => format!("{package} {versions} {effect}"),
            Affected::Mixed => format!("{package} is installed in versions {versions}, {effect}"),
            Affected::Absent => format!("{package} is not installed, {effect}"),
        };
        Some(Finding {
            id: self.id.clone(),
            level: self.level,
            kind: Kind::PackageAdvisory,
            message,
            cost: Some(self.cost.clone()),
            evidence: json!({"installed": installed, "pcluster": pcluster, "affected": affected.to_string()}),
            fix: Some(self.to_fix()),
            references: self.references.clone(),
            is_told_by_guard: false,
        })
    }
}

impl Affected {
    fn read(written: &str) -> Result<Self, String> {
        match written {
            "mixed" => Ok(Self::Mixed),
            "absent" => Ok(Self::Absent),
            _ => parse_specifiers(written).map(Self::Releases),
        }
    }

    /// The affected ones of the packages that an advisory is about; `None` where it does not apply.
    fn select<'a>(
        &self,
        named: BTreeMap<&'a String, &'a String>,
    ) -> Option<BTreeMap<&'a String, &'a String>> {
        match self {
            Self::Releases(releases) => {
                let affected =
                    sorted_map(named.into_iter().filter(|(_, version)| contains(releases, version)));
                (!affected.is_empty()).then_some(affected)
            }
            Self::Mixed => {
                let versions = sorted_set(named.values().copied());
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

/// Whether a release is in a range; a version that is not PEP 440's is in none.
#[must_use]
pub fn contains(releases: &VersionSpecifiers, version: &str) -> bool {
    Version::from_str(version).is_ok_and(|version| releases.contains(&version))
}

impl<'de> Deserialize<'de> for Affected {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read_parsed(from, Self::read)
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

    const WRITTEN: &str = include_str!("advisories.yaml");

    fn packages(versions: &[(&str, &str)]) -> BTreeMap<String, String> {
        let versions = [&[("setuptools", "80.9.0")], versions].concat();
        versions.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    fn found(versions: &[(&str, &str)]) -> Vec<String> {
        let findings = check(&packages(versions), "3.11.4", &built_in());
        findings.into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn the_build_holds_the_written_advisories() {
        let as_json = |advisories| serde_json::to_value(advisories).unwrap();
        assert_eq!(as_json(built_in()), as_json(read(WRITTEN).unwrap()));
        assert!(!built_in().is_empty());
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
            "setuptools is not installed, and pcluster imports pkg_resources of it at its start"
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
            ("upgrade: \">=1.153.1\"", "advice: Wait.", "advice alone"),
            ("package: PyYAML", "runtime: python3.9", "package and affected"),
            ("refused_from: \"2026-08-31\"", "refused_from: \"31.8.2026\"", "a day"),
            (
                "  level: WARNING\n  pcluster: \">=3.0.0\"\n  runtime",
                "  level: ERROR\n  pcluster: \">=3.0.0\"\n  runtime",
                "blocks nothing",
            ),
        ] {
            let invalid = WRITTEN.replacen(from, to, 1);
            assert_ne!(invalid, WRITTEN);
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
