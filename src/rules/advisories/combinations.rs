//! Reads the list of combinations: releases of aws-parallelcluster, and the parent images with which these
//! releases are known to fail. If the parent image is not looked up, each combination that has
//! `by_release: true` is reported for the release alone, as INFO. Pure.
//!
//! | key | meaning |
//! | --- | --- |
//! | `id`, `title` | the name of the combination, and a description in one line |
//! | `level` | the level of the finding; ERROR becomes WARNING if the operating system of the image is not certain, or if the build uses another cookbook than pcluster's |
//! | `pcluster` | the affected releases of aws-parallelcluster (PEP 440) |
//! | `os` | the operating systems of the parent image, by pcluster's names; without the key, all of them |
//! | `os_version` | the affected versions of these systems (`8.10`), compared as in PEP 440; without the key, all of them |
//! | `architecture` | `x86_64` or `arm64`; without the key, both |
//! | `update_os_packages` | true: only builds with `Build.UpdateOsPackages` |
//! | `lustre_client` | true: only builds that install the Lustre client; a build does not install it if `Build.Installation.LustreClient.Enabled` is false |
//! | `by_release` | true: if the parent is not known, the release alone gives an INFO |
//! | `effect` | completes "aws-parallelcluster VERSION …" |
//! | `cost`, `fix` | `cost`: what it costs to build anyway, as a sentence. `fix`: what to do instead |
//! | `references` | https URLs of the sources |

use std::collections::BTreeSet;

use pep440_rs::VersionSpecifiers;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::model::fields::{
    read_identifier, read_references, read_some_specifiers, read_specifiers, read_text, write_some_text,
    write_text,
};
use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::rules::advisories::contains;
use crate::text::package_name::PCLUSTER;
use crate::text::yaml;

/// combinations.yaml, converted to JSON by build.rs.
const BUILT_IN: &str = include_str!(concat!(env!("OUT_DIR"), "/combinations.json"));

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    #[serde(rename = "x86_64")]
    X86,
    Arm64,
}

impl Architecture {
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Combination {
    #[serde(deserialize_with = "read_identifier")]
    pub id: String,
    #[serde(deserialize_with = "read_text")]
    pub title: String,
    pub level: Level,
    #[serde(deserialize_with = "read_specifiers", serialize_with = "write_text")]
    pub pcluster: VersionSpecifiers,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub os: Vec<String>,
    #[serde(default, deserialize_with = "read_some_specifiers", serialize_with = "write_some_text")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_version: Option<VersionSpecifiers>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    #[serde(default)]
    pub update_os_packages: bool,
    #[serde(default)]
    pub lustre_client: bool,
    #[serde(default)]
    pub by_release: bool,
    #[serde(deserialize_with = "read_text")]
    pub effect: String,
    #[serde(deserialize_with = "read_text")]
    pub cost: String,
    #[serde(deserialize_with = "read_text")]
    pub fix: String,
    #[serde(deserialize_with = "read_references")]
    pub references: Vec<String>,
}

pub fn read(text: &str) -> Result<Vec<Combination>, String> {
    let combinations: Vec<Combination> = yaml::parse(text)?;
    let mut ids = BTreeSet::new();
    match combinations.iter().find(|combination| !ids.insert(combination.id.as_str())) {
        Some(twice) => Err(format!("duplicate id {:?}", twice.id)),
        None => Ok(combinations),
    }
}

/// The combinations that are compiled into the program. A test compares them with combinations.yaml.
pub fn built_in() -> Vec<Combination> {
    serde_json::from_str(BUILT_IN).unwrap_or_default()
}

/// Reports each combination that affects a release and has `by_release: true`. The findings have the level
/// INFO, because this function does not know the parent image.
pub fn check_release(pcluster: &str) -> Vec<Finding> {
    let built_in = built_in();
    let affected = built_in.iter().filter(|one| one.by_release && contains(&one.pcluster, pcluster));
    affected.map(|one| one.describe(pcluster, Level::Info, "", Kind::PackageAdvisory)).collect()
}

impl Combination {
    /// The finding for a release. Its level is the lower of `level` and the combination's own.
    pub fn describe(&self, pcluster: &str, level: Level, parent: &str, kind: Kind) -> Finding {
        let level = level.min(self.level);
        let message = format!("{PCLUSTER} {pcluster} {}{parent}", self.effect);
        Finding {
            cost: Some(self.cost.clone()),
            evidence: json!({"package": PCLUSTER, "pcluster": pcluster, "affected": self.pcluster.to_string()}),
            fix: Some(Fix::by_hand(self.fix.clone())),
            references: self.references.clone(),
            fails_build: level == Level::Warning,
            ..Finding::new(&self.id, level, kind, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = include_str!("combinations.yaml");

    #[test]
    fn the_build_holds_the_written_combinations() {
        let as_json = |combinations| serde_json::to_value(combinations).unwrap();
        assert_eq!(as_json(built_in()), as_json(read(WRITTEN).unwrap()));
        assert!(!built_in().is_empty());
    }

    #[test]
    fn an_invalid_file_is_refused_with_the_reason() {
        for (from, to, why) in [
            ("level: WARNING", "level: LOUD", "LOUD"),
            ("\"==3.13.1\"", "\"3.13.1 or so\"", "3.13.1 or so"),
            ("id: rocky-9-kernel", "id: ubuntu-20.04-mysql", "duplicate"),
            ("architecture: x86_64", "architecture: sparc", "sparc"),
            ("by_release: true", "by_relese: true", "by_relese"),
            ("https://github", "http://github", "https"),
            ("title: pcluster 3.3.0", "heading: pcluster 3.3.0", "heading"),
        ] {
            let invalid = WRITTEN.replacen(from, to, 1);
            assert_ne!(invalid, WRITTEN);
            let error = read(&invalid).unwrap_err();
            assert!(error.contains(why), "{to}: {error}");
        }
    }

    #[test]
    fn the_release_alone_tells_what_is_marked_so() {
        let ids =
            |pcluster| check_release(pcluster).into_iter().map(|finding| finding.id).collect::<Vec<_>>();
        assert_eq!(ids("3.3.0"), ["ubuntu-20.04-mysql"]);
        assert_eq!(ids("3.13.1"), ["rocky-9-kernel"]);
        assert!(ids("3.5.0").is_empty() && ids("3.9.3").is_empty() && ids("a local build").is_empty());
        assert!(
            check_release("3.3.0").iter().all(|finding| finding.level == Level::Info && !finding.fails_build)
        );
    }
}
