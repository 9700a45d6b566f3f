//! The releases of aws-parallelcluster: when each was uploaded, which Python it requires, and whether the
//! rules were tested with it. Pure.

use std::str::FromStr as _;

use pep440_rs::{Version, VersionSpecifiers};
use serde_json::json;

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::text::package_name::PCLUSTER;

/// The upload times of releases. They are compiled in, because indexes other than `PyPI` do not always
/// report them.
const RELEASE_DATES: &str = include_str!("release_dates.txt");

/// Releases that upstream has announced, but that are not on `PyPI`, so we have not tested them.
const UNMEASURED: [&str; 2] = ["3.16.2", "3.16.3"];

/// The oldest Python that each release supports, according to the metadata of the releases. The first
/// row whose release is not later than a given release applies to the given release.
const REQUIRED_PYTHON: [([u64; 2], &str); 3] = [([3, 12], "3.9"), ([3, 2], "3.7"), ([3, 0], "3.6")];

/// Every release with the time of its upload (RFC 3339).
pub fn read_dates() -> impl Iterator<Item = (&'static str, &'static str)> {
    RELEASE_DATES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
}

/// What this version of the shim knows about a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    Measured,
    Unmeasured,
    /// A release that is later than every known one.
    Newer,
    /// Any other version: for example, a pre-release, or a version that was never published.
    Unpublished,
}

/// Looks up a release. A local version (`3.13.2+ours`) counts as the release that it was made from.
pub fn look_up(version: &Version) -> Knowledge {
    let version = version.clone().without_local();
    let is = |release: &str| Version::from_str(release).is_ok_and(|release| release == version);
    let is_later = |release: &str| Version::from_str(release).is_ok_and(|release| release < version);
    let mut measured = read_dates().map(|(release, _)| release);
    if measured.any(is) {
        Knowledge::Measured
    } else if UNMEASURED.into_iter().any(is) {
        Knowledge::Unmeasured
    } else if UNMEASURED.into_iter().chain([newest()]).all(is_later) {
        Knowledge::Newer
    } else {
        Knowledge::Unpublished
    }
}

/// The newest release with which the rules were tested.
pub fn newest() -> &'static str {
    read_dates()
        .map(|(release, _)| release)
        .max_by_key(|release| Version::from_str(release).ok())
        .unwrap_or_default()
}

/// The first Python that a release supports.
pub fn required_python(version: &Version) -> &'static str {
    let row = REQUIRED_PYTHON.iter().find(|(from, _)| *version >= Version::new(from));
    row.map_or("3.6", |(_, python)| python)
}

/// Whether a release supports a version of Python.
pub fn takes_python(version: &Version, python: &str) -> bool {
    let range = VersionSpecifiers::from_str(&format!(">={}", required_python(version)));
    match (range, Version::from_str(python)) {
        (Ok(range), Ok(python)) => range.contains(&python),
        _ => true,
    }
}

/// Reports an installed release with which the rules were not tested.
pub fn check(pcluster: &str) -> Option<Finding> {
    let knowledge = look_up(&Version::from_str(pcluster).ok()?);
    let message = match knowledge {
        Knowledge::Measured | Knowledge::Unpublished => return None,
        Knowledge::Unmeasured => {
            format!("{PCLUSTER} {pcluster} has not been tested with this version of pcluster-shim")
        }
        Knowledge::Newer => format!(
            "{PCLUSTER} {pcluster} is newer than this version of pcluster-shim, which knows releases up to {}",
            newest()
        ),
    };
    Some(Finding {
        cost: Some(
            "The shim checks whether this release starts, and checks its template. Other faults that are new in this \
             release are not detected."
                .into(),
        ),
        evidence: json!({"package": PCLUSTER, "pcluster": pcluster, "newestKnown": newest()}),
        fix: Some(Fix::by_hand("update pcluster-shim, if there is a newer version".into())),
        references: vec!["https://github.com/aws/aws-parallelcluster/releases".into()],
        ..Finding::new("release-not-measured", Level::Info, Kind::PackageAdvisory, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_has_its_moment() {
        let dates: Vec<_> = read_dates().collect();
        assert_eq!(dates.len(), 42);
        for (release, moment) in dates {
            assert!(release.starts_with("3."), "{release}");
            assert!(moment.parse::<jiff::Timestamp>().is_ok(), "{moment}");
        }
        assert_eq!(read_dates().find(|(release, _)| *release == "3.13.2").unwrap().1, "2025-06-24T21:27:57Z");
        assert_eq!(newest(), "3.16.1");
    }

    #[test]
    fn a_release_is_looked_up() {
        use Knowledge::{Measured, Newer, Unmeasured, Unpublished};
        for (version, knowledge) in [
            ("3.16.1", Measured),
            ("3.16.1+ours", Measured),
            ("3.16.2", Unmeasured),
            ("3.17.0", Newer),
            ("4.0.0b1", Newer),
            ("3.1.0", Unpublished),
            ("3.2.0b1", Unpublished),
            ("3.17.0.dev1", Newer),
        ] {
            assert_eq!(look_up(&Version::from_str(version).unwrap()), knowledge, "{version}");
        }
    }

    #[test]
    fn only_a_release_that_was_not_measured_is_reported() {
        let message = |version| check(version).map(|finding| finding.message);
        assert!(message("3.17.0").unwrap().contains("newer than this version"));
        assert!(message("3.16.2").unwrap().contains("not been tested"));
        assert_eq!((message("3.16.1"), message("3.1.0"), message("a local build")), (None, None, None));
    }

    #[test]
    fn a_release_takes_the_pythons_of_its_metadata() {
        let takes = |version: &str, python| takes_python(&Version::from_str(version).unwrap(), python);
        assert!(takes("3.1.5", "3.6") && !takes("3.2.0", "3.6.9") && takes("3.11.1", "3.7"));
        assert!(!takes("3.12.0", "3.8.20") && takes("3.12.0", "3.9") && takes("3.16.1", "3.14"));
    }
}
