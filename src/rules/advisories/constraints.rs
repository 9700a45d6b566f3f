//! Advisories → constraints for an installer. The installer then creates an environment in which
//! `build-image` works. Pure.

use std::collections::BTreeMap;

use pep440_rs::{Operator, VersionSpecifier, VersionSpecifiers};

use crate::model::finding::Level;
use crate::rules::advisories::{Advisory, Affected, contains};
use crate::text::package_name::{is_pattern, normalised};

/// The constraints for a release of aws-parallelcluster, one per line. If no Python version is given, lines
/// that apply only to some Pythons have a marker.
pub fn derive(advisories: &[Advisory], pcluster: &str, python: Option<&str>) -> Vec<String> {
    let mut lines: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for advisory in advisories {
        let constrains = advisory.level == Level::Error || advisory.only_constraints;
        let marker = match (&advisory.python, python) {
            (Some(affected), Some(python)) if !contains(affected, python) => continue,
            (Some(affected), None) => write_marker(affected),
            (None, _) | (Some(_), Some(_)) => String::new(),
        };
        if !constrains || !contains(&advisory.pcluster, pcluster) {
            continue;
        }
        for (package, specifier) in exclude(advisory) {
            let specifiers = lines.entry((package, marker.clone())).or_default();
            if !specifiers.contains(&specifier) {
                specifiers.push(specifier);
            }
        }
    }
    let of_every_python = lines.clone();
    lines.retain(|(package, marker), specifiers| {
        let others = of_every_python.get(&(package.clone(), String::new())).filter(|_| !marker.is_empty());
        specifiers.retain(|specifier| others.is_none_or(|others| !others.contains(specifier)));
        !specifiers.is_empty()
    });
    lines.into_iter().map(|((package, marker), range)| package + &range.join(",") + &marker).collect()
}

/// Returns specifiers that exclude the affected releases. If the affected range is a single specifier that
/// has an opposite, returns the opposite, such as `<82` for `>=82`. In all other cases, returns the
/// specifiers of the fix's `upgrade`. If the fix is only advice, returns only an opposite that is `!=`; if
/// its `packages` are a pattern (`aws-cdk.*`), no `upgrade`.
fn exclude(advisory: &Advisory) -> Vec<(String, String)> {
    let Some((package, affected)) = advisory.package() else { return Vec::new() };
    if let Affected::Releases(affected) = affected
        && let [only] = affected.iter().collect::<Vec<_>>()[..]
        && let Some(operator) = negate(*only.operator())
        // If the fix is only advice, `<` and `>=` are not used: the releases that they accept are not
        // necessarily better.
        && (operator == "!=" || advisory.fix.package_move().is_some())
    {
        return vec![(normalised(package), format!("{operator}{}", version_of(only)))];
    }
    let Some(fix) = advisory.fix.package_move().filter(|fix| !is_pattern(&fix.packages)) else {
        return Vec::new();
    };
    fix.upgrade.iter().map(|specifier| (normalised(&fix.packages), specifier.to_string())).collect()
}

/// The operator that accepts exactly the releases that `operator` does not: `<` for `>=`.
fn negate(operator: Operator) -> Option<&'static str> {
    match operator {
        Operator::Equal | Operator::EqualStar => Some("!="),
        Operator::GreaterThanEqual => Some("<"),
        Operator::LessThan => Some(">="),
        _ => None,
    }
}

/// The version in a specifier, as it is written there: `70.*` keeps its `.*`.
fn version_of(specifier: &VersionSpecifier) -> String {
    let written = specifier.to_string();
    written.trim_start_matches(|letter: char| "=!<>~".contains(letter)).to_owned()
}

/// The marker of PEP 508 for a range of Python: `; python_version >= "3.12"`.
fn write_marker(python: &VersionSpecifiers) -> String {
    let conditions = python.iter().map(|specifier| {
        let version = version_of(specifier);
        let minor = version.trim_end_matches(".*");
        // `python_version` is only X.Y: on Python 3.12.1, `python_version > "3.12"` is false, although 3.12.1
        // is later than 3.12. For the operators below, this makes no difference, unless the specifier's
        // version has a third number.
        let is_of_minor = matches!(
            specifier.operator(),
            Operator::GreaterThanEqual | Operator::LessThan | Operator::EqualStar | Operator::NotEqualStar
        );
        let is_full = minor.matches('.').count() > 1 || !is_of_minor;
        let name = if is_full { "python_full_version" } else { "python_version" };
        let operator = match specifier.operator() {
            Operator::EqualStar => Operator::Equal,
            Operator::NotEqualStar => Operator::NotEqual,
            operator => *operator,
        };
        format!("{name} {operator} \"{minor}\"")
    });
    format!(" ; {}", conditions.collect::<Vec<_>>().join(" and "))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;
    use crate::rules::advisories::file::read;

    fn advisory(id: &str, package: &str, affected: &str, more: &str) -> String {
        let fix = if more.contains("fix:") {
            ""
        } else {
            "  fix: {packages: Set_Tools, upgrade: '<82,!=70.*', downgrade: <82}\n"
        };
        let level = if more.contains("level:") { "" } else { "  level: ERROR\n" };
        format!(
            "- id: {id}\n  title: A title\n  pcluster: <3.14\n  package: {package}\n  affected: '{affected}'\n  \
             effect: breaks\n  cost: An hour.\n  references: ['https://example.com']\n{level}{fix}{more}"
        )
    }

    fn lines(pcluster: &str, python: Option<&str>) -> Vec<String> {
        let old = "  python: '>=3.12'\n  fix: {packages: Set_Tools, upgrade: '>=66', downgrade: '>=66'}\n";
        let cdk = "  fix: {packages: cdk.*, upgrade: '>1.153', downgrade: '<1.153'}\n";
        let yaml = "  python: '==3.10.*'\n  level: WARNING\n  only_constraints: true\n";
        let advisories = [
            advisory("one", "Set_Tools", ">=82", ""),
            advisory("two", "Set_Tools", "==70.*", ""),
            advisory("old", "Set_Tools", "<66", old),
            advisory("cdk", "cdk.core", "==1.153.0", cdk),
            advisory("warning", "other", ">=1", "  level: WARNING\n"),
            advisory("yaml", "pyyaml", "==5.4.*", yaml),
            advisory("advice", "other", ">=1", "  fix: {advice: Do something.}\n"),
        ];
        derive(&read(&advisories.concat()).unwrap(), pcluster, python)
    }

    #[test]
    fn a_range_with_a_patch_release_needs_the_full_version() {
        let marker = |range: &str| write_marker(&VersionSpecifiers::from_str(range).unwrap());
        assert_eq!(marker("<3.9.2"), " ; python_full_version < \"3.9.2\"");
        assert_eq!(marker(">3.9"), " ; python_full_version > \"3.9\"");
        assert_eq!(marker(">=3.9,!=3.10.*"), " ; python_version >= \"3.9\" and python_version != \"3.10\"");
    }

    #[test]
    fn the_affected_releases_are_kept_out() {
        assert_eq!(
            lines("3.13.2", None),
            [
                "cdk-core!=1.153.0",
                "pyyaml!=5.4.* ; python_version == \"3.10\"",
                "set-tools<82,!=70.*",
                "set-tools>=66 ; python_version >= \"3.12\"",
            ]
        );
        assert_eq!(
            lines("3.13.2", Some("3.10")),
            ["cdk-core!=1.153.0", "pyyaml!=5.4.*", "set-tools<82,!=70.*"]
        );
        assert_eq!(lines("3.13.2", Some("3.13.1")), ["cdk-core!=1.153.0", "set-tools<82,!=70.*,>=66"]);
        assert!(lines("3.14.0", None).is_empty());
    }
}
