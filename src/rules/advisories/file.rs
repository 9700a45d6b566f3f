//! Reads advisories from text, and has those that are compiled into the program. Pure: the caller reads
//! the files.
//!
//! | key | meaning |
//! | --- | --- |
//! | `id`, `title` | the name of the advisory, and a description in one line |
//! | `level` | ERROR blocks; WARNING and INFO are only reported |
//! | `pcluster` | the affected releases of aws-parallelcluster (PEP 440) |
//! | `python` | the affected releases of Python (PEP 440); all if the key is absent |
//! | `package` | the affected package; `aws-cdk.*` means every package whose name begins with `aws-cdk.` |
//! | `affected` | the affected releases of the package (PEP 440); `mixed`: the packages that match are at different versions; `absent`: the package is not installed |
//! | `runtime`, `refused_from` | instead of `package` and `affected`: a Lambda runtime that the template asks for, and the day from which AWS refuses new functions with it |
//! | `shows` | where the fault shows: `start` (pcluster does not start), `template` (the template is incomplete) or `later` (during the build or after it; the default). An advisory with `start` is refuted if pcluster starts. An advisory with `template` is refuted if the template is complete. An advisory with `later` cannot be refuted |
//! | `effect` | completes "PACKAGE VERSION …"; for `mixed`, "PACKAGE packages are at different versions (…); …"; for `absent`, "PACKAGE is not installed, …"; for a runtime, "the template uses Lambda runtime RUNTIME, …" |
//! | `cost` | what it costs to build anyway, as a sentence |
//! | `fix` | `packages` to move, and the ranges to move them to: `upgrade`, `downgrade` (PEP 440). Or, instead of these three, `advice`: what the user has to do |
//! | `only_constraints` | true: only `preflight constraints` uses the advisory. It is not compared with environments, because the affected release cannot be installed |
//! | `references` | https URLs of the sources |

use std::collections::BTreeSet;

use jiff::civil::Date;
use pep440_rs::VersionSpecifiers;
use serde::{Deserialize, Deserializer};

use crate::model::fields::{
    parse_specifiers, read_checked_mapping, read_identifier, read_parsed, read_references, read_some_date,
    read_some_package, read_some_specifiers, read_some_text, read_specifiers, read_text,
};
use crate::model::finding::{Level, PackageMove, Shows};
use crate::rules::advisories::{AdvisedFix, Advisory, Affected, Subject};
use crate::text::yaml;

/// advisories.yaml, converted to JSON by build.rs.
const BUILT_IN: &str = include_str!(concat!(env!("OUT_DIR"), "/advisories.json"));

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
    refused_from: Option<Date>,
    #[serde(default = "later")]
    shows: Shows,
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

fn later() -> Shows {
    Shows::Later
}

impl TryFrom<WrittenAdvisory> for Advisory {
    type Error = String;

    fn try_from(written: WrittenAdvisory) -> Result<Self, Self::Error> {
        let WrittenAdvisory {
            id,
            title,
            level,
            pcluster,
            python,
            shows,
            effect,
            cost,
            fix,
            only_constraints,
            ..
        } = written;
        let subject = match (written.package, written.affected, written.runtime, written.refused_from) {
            (Some(package), Some(affected), None, None) => Subject::Package { package, affected },
            (None, None, Some(runtime), Some(refused_from)) if level != Level::Error => {
                Subject::Runtime { runtime, refused_from }
            }
            (None, None, Some(_), Some(_)) => {
                return Err(format!(
                    "{id}: an advisory about a runtime cannot block; its level must be WARNING or INFO"
                ));
            }
            _ => {
                return Err(format!(
                    "{id}: expected `package` and `affected`, or `runtime` and `refused_from`"
                ));
            }
        };
        let references = written.references;
        Ok(Self {
            id,
            title,
            level,
            pcluster,
            python,
            subject,
            shows,
            effect,
            cost,
            fix,
            only_constraints,
            references,
        })
    }
}

impl<'de> Deserialize<'de> for Advisory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read_checked_mapping::<WrittenAdvisory, _, _>(
            from,
            "an advisory: a mapping with keys such as `id`, `title` and `level`",
        )
    }
}

impl<'de> Deserialize<'de> for AdvisedFix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = "a mapping with the keys `packages`, `upgrade` and `downgrade`, or with `advice`";
        read_checked_mapping::<WrittenFix, _, _>(from, expected)
    }
}

/// The keys of a fix. This is a struct, because the errors of an untagged enum would lack the line and
/// the key.
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
            _ => Err("a fix has `packages`, `upgrade` and `downgrade`, or only `advice`"),
        }
    }
}

impl<'de> Deserialize<'de> for Affected {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        read_parsed(from, read_affected)
    }
}

fn read_affected(written: &str) -> Result<Affected, String> {
    match written {
        "mixed" => Ok(Affected::Mixed),
        "absent" => Ok(Affected::Absent),
        _ => parse_specifiers(written).map(Affected::Releases),
    }
}

pub fn read(text: &str) -> Result<Vec<Advisory>, String> {
    let advisories: Vec<Advisory> = yaml::parse(text)?;
    let mut ids = BTreeSet::new();
    match advisories.iter().find(|advisory| !ids.insert(advisory.id.as_str())) {
        Some(twice) => Err(format!("duplicate id {:?}", twice.id)),
        None => Ok(advisories),
    }
}

/// The advisories that are compiled into the program. A test compares them with advisories.yaml.
pub fn built_in() -> Vec<Advisory> {
    serde_json::from_str(BUILT_IN).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = include_str!("advisories.yaml");

    #[test]
    fn the_build_holds_the_written_advisories() {
        let as_json = |advisories| serde_json::to_value(advisories).unwrap();
        assert_eq!(as_json(built_in()), as_json(read(WRITTEN).unwrap()));
        assert!(!built_in().is_empty());
    }

    #[test]
    fn an_invalid_file_is_refused_with_the_reason() {
        for (from, to, why) in [
            ("level: ERROR", "level: LOUD", "LOUD"),
            ("\"==1.153.0\"", "\"1.153.0 or so\"", "not a version range"),
            ("\">=3.0.0\"", "\"\"", "empty"),
            ("id: cdk-mixed-versions", "id: cdk-imagebuilder-1.153.0", "duplicate id"),
            ("id: cdk-mixed-versions", "id: CDK mixed", "not an id"),
            ("package: aws-cdk.*", "package: '*'", "package name or"),
            ("affected: mixed", "effected: mixed", "effected"),
            ("references:\n", "references: []\n  other:\n", "references"),
            ("https://github", "http://github", "https"),
            ("title: The", "heading: The", "heading"),
            ("upgrade: \">=1.153.1\"", "advice: Wait.", "or only `advice`"),
            ("package: PyYAML", "runtime: python3.9", "`package` and `affected`"),
            ("refused_from: \"2026-08-31\"", "refused_from: \"31.8.2026\"", "a date"),
            (
                "  level: WARNING\n  pcluster: \">=3.0.0\"\n  runtime",
                "  level: ERROR\n  pcluster: \">=3.0.0\"\n  runtime",
                "cannot block",
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
    }
}
