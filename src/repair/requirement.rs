//! Lines of Requires-Dist. Pure.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use pep440_rs::{Version, VersionSpecifiers};

use crate::model::distribution::Distribution;
use crate::text::package_name::normalised;

/// Installed distributions by normalised name.
pub type Installed = BTreeMap<String, Distribution>;

/// The parts of a Requires-Dist line that a plan needs. The line's marker is not evaluated, because
/// `pep508_rs` would need eleven facts about the platform for that. The installer evaluates the markers of
/// the packages that it installs. For the requirements of packages that stay, a plan assumes that a marker
/// applies if the requirement is met now and the marker names no extra.
#[derive(Debug)]
pub struct Requirement {
    pub name: String,
    pub range: String,
    /// The requirement has a marker (for an extra, a platform or a Python version), so perhaps it does not
    /// apply here.
    pub is_optional: bool,
    /// The marker names an extra.
    pub is_extra: bool,
}

impl Requirement {
    pub fn read(line: &str) -> Self {
        let (requirement, marker) = line.split_once(';').unwrap_or((line, ""));
        let end = requirement
            .find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter))
            .unwrap_or(requirement.len());
        let (name, rest) = requirement.split_at(end);
        let rest = rest.trim();
        // Extras, as in `name[extra]`, do not change the range.
        let rest =
            if rest.starts_with('[') { rest.split_once(']').map_or("", |(_, rest)| rest) } else { rest };
        let range = rest.trim().trim_start_matches('(').trim_end_matches(')').replace(' ', "");
        // A direct reference (`@ URL`) has no version range.
        let is_range =
            range.chars().all(|letter| letter.is_ascii_alphanumeric() || "<>=!~.,*+-_".contains(letter));
        let range = if is_range { range } else { String::new() };
        Self {
            name: normalised(name.trim()),
            range,
            is_optional: !marker.trim().is_empty(),
            is_extra: marker.contains("extra"),
        }
    }

    /// Whether the version of the installed package is in the range.
    pub fn is_met(&self, installed: &Installed) -> bool {
        let version = installed.get(&self.name).and_then(|found| Version::from_str(&found.version).ok());
        let range = VersionSpecifiers::from_str(&self.range).ok();
        version.zip(range).is_some_and(|(version, range)| range.contains(&version))
    }
}

/// Whether an installer would read a line of metadata as one requirement, not as an option or as several
/// lines. pip splits a requirements file into lines as Python's `str.splitlines` does.
pub fn is_requirement(line: &str) -> bool {
    let ends_line = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
    line.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !line.contains(ends_line)
        && !line.ends_with('\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_an_installer_would_read_otherwise_is_no_requirement() {
        assert!(is_requirement("attrs (>=20) ; python_version < '3'"));
        for line in ["-r x", "", " x", "x\r-r y", "x\u{85}-r y", "x\\"] {
            assert!(!is_requirement(line), "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_requirement_makes_it_panic(line in ".{0,80}") {
            let _ = Requirement::read(&line);
        }
    }
}
