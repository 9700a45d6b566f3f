//! From fixes and installed metadata to requirements, and from what was staged to changes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use pep440_rs::Version;
use serde::{Deserialize, Serialize};

use crate::cli::settings::Strategy;
use crate::environment::packages::Distribution;
use crate::package_name::{PCLUSTER, matches, normalised};
use crate::report::Report;
use crate::rules::PackageMove;

/// Installed distributions by normalised name.
pub type Installed = BTreeMap<String, Distribution>;

/// What an installer is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The packages at fault, within what aws-parallelcluster allows and the fix asks for.
    pub requirements: Vec<String>,
    /// Everything else stays where it is.
    pub constraints: Vec<String>,
}

/// How the packages that are not at fault are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// At the installed version.
    All,
    /// What the packages at fault depend on may move as far as the others allow: a release of CDK
    /// may need another jsii.
    Neighbours,
}

/// A package that moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub package: String,
    /// `None`: it was not installed.
    pub from: Option<String>,
    pub to: String,
    pub why: String,
}

/// A reason to move packages, and whereto.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub id: String,
    pub fix: PackageMove,
}

/// Why packages have to move, as far as findings say whereto.
#[must_use]
pub fn reasons(report: &Report) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = Vec::new();
    for finding in &report.findings {
        let advised = finding.fix.as_ref().and_then(|fix| fix.package_move.clone());
        if let Some(fix) = advised.filter(|fix| reasons.iter().all(|reason| reason.fix != *fix)) {
            reasons.push(Reason { id: finding.id.clone(), fix });
        }
    }
    reasons
}

/// The requirements of a repair; `None` where no installed package is meant by the fixes.
#[must_use]
pub fn wanted(installed: &Installed, reasons: &[Reason], strategy: Strategy, hold: Hold) -> Option<Wanted> {
    let moving = moving(installed, reasons);
    let requirements: Vec<String> = moving
        .iter()
        .map(|name| {
            let fixes = reasons.iter().filter(|reason| matches(&reason.fix.packages, name));
            let ranges = fixes.map(|reason| reason.fix.range(strategy).to_string());
            let ranges = demanded(installed, name, &moving).into_iter().chain(ranges);
            requirement(name, ranges)
        })
        .collect();
    if requirements.is_empty() {
        return None;
    }
    let at_fault = |name: &str| reasons.iter().any(|reason| matches(&reason.fix.packages, name));
    let loose = match hold {
        Hold::All => BTreeSet::new(),
        Hold::Neighbours => neighbours(installed, &moving),
    };
    let constraints = installed
        .iter()
        .filter(|(name, _)| !at_fault(name))
        .filter_map(|(name, distribution)| {
            if loose.contains(name) {
                let ranges = demanded(installed, name, &moving);
                (!ranges.is_empty()).then(|| requirement(name, ranges.into_iter()))
            } else {
                // A version that PEP 440 does not know cannot be asked for.
                let version = Version::from_str(&distribution.version).ok()?;
                Some(format!("{name}=={version}"))
            }
        })
        .collect();
    Some(Wanted { requirements, constraints })
}

/// What aws-parallelcluster itself requires of the packages at fault; where it requires none of
/// them, those that are installed. What they bring along follows them.
fn moving(installed: &Installed, reasons: &[Reason]) -> BTreeSet<String> {
    let at_fault = |name: &String| reasons.iter().any(|reason| matches(&reason.fix.packages, name));
    let required = installed.get(PCLUSTER).map(|pcluster| pcluster.requires.as_slice()).unwrap_or_default();
    let direct: BTreeSet<String> = required
        .iter()
        .map(|line| Requirement::read(line))
        .filter(|requirement| !requirement.optional || installed.contains_key(&requirement.name))
        .map(|requirement| requirement.name)
        .filter(at_fault)
        .collect();
    if direct.is_empty() { installed.keys().filter(|name| at_fault(name)).cloned().collect() } else { direct }
}

/// The ranges that packages which stay demand of one that may move.
fn demanded(installed: &Installed, name: &str, moving: &BTreeSet<String>) -> Vec<String> {
    let staying =
        installed.iter().filter(|(other, _)| !moving.contains(*other) && !shares_stem(other, moving));
    let lines = staying.flat_map(|(_, distribution)| &distribution.requires);
    let ranges = lines.map(|line| Requirement::read(line)).filter(|requirement| {
        requirement.name == name && !requirement.range.is_empty() && !requirement.optional
    });
    ranges.map(|requirement| requirement.range).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The many packages of CDK pin one another; those pins move with them.
fn shares_stem(name: &str, moving: &BTreeSet<String>) -> bool {
    name.starts_with("aws-cdk-") && moving.iter().any(|other| other.starts_with("aws-cdk-"))
}

/// Everything that the moving packages depend on, as installed, themselves left out.
fn neighbours(installed: &Installed, moving: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = moving.iter().cloned().collect();
    while let Some(name) = next.pop() {
        let Some(distribution) = installed.get(&name) else { continue };
        for line in &distribution.requires {
            let requirement = Requirement::read(line);
            if !requirement.optional && found.insert(requirement.name.clone()) {
                next.push(requirement.name);
            }
        }
    }
    found.retain(|name| !moving.contains(name));
    found
}

fn requirement(name: &str, ranges: impl Iterator<Item = String>) -> String {
    format!("{name}{}", ranges.collect::<Vec<_>>().join(","))
}

/// The parts of a Requires-Dist line that count here. `pep508_rs` would read it too, and bring a
/// regex engine and a URL parser with it.
struct Requirement {
    name: String,
    range: String,
    /// For an extra, or for another platform or Python: not known to be demanded here.
    optional: bool,
}

impl Requirement {
    fn read(line: &str) -> Self {
        let (requirement, marker) = line.split_once(';').unwrap_or((line, ""));
        let end = requirement
            .find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter))
            .unwrap_or(requirement.len());
        let (name, rest) = requirement.split_at(end);
        let rest = rest.trim();
        // An extra of a package does not change which versions are allowed.
        let rest =
            if rest.starts_with('[') { rest.split_once(']').map_or("", |(_, rest)| rest) } else { rest };
        let range = rest.trim().trim_start_matches('(').trim_end_matches(')').replace(' ', "");
        Self { name: normalised(name.trim()), range, optional: !marker.trim().is_empty() }
    }
}

/// What differs between the installed packages and the staged ones, with the reason.
#[must_use]
pub fn changes(installed: &Installed, staged: &Installed, reasons: &[Reason]) -> Vec<Change> {
    staged
        .iter()
        .filter(|(name, distribution)| {
            installed.get(*name).is_none_or(|installed| installed.version != distribution.version)
        })
        .map(|(name, distribution)| Change {
            package: name.clone(),
            from: installed.get(name).map(|installed| installed.version.clone()),
            to: distribution.version.clone(),
            why: why(name, staged, reasons),
        })
        .collect()
}

fn why(name: &str, staged: &Installed, reasons: &[Reason]) -> String {
    if let Some(reason) = reasons.iter().find(|reason| matches(&reason.fix.packages, name)) {
        return reason.id.clone();
    }
    let requires = |distribution: &&Distribution| {
        distribution.requires.iter().any(|line| Requirement::read(line).name == name)
    };
    match staged.values().find(requires) {
        Some(distribution) => format!("required by {} {}", distribution.name, distribution.version),
        None => "required by the others".into(),
    }
}

/// A requirements file that does the same by hand: exact versions.
#[must_use]
pub fn requirements_file(changes: &[Change]) -> String {
    changes.iter().fold(String::new(), |text, change| text + &format!("{}=={}\n", change.package, change.to))
}

/// One row for each move; packages of one stem that move alike share a row.
#[must_use]
pub fn summary(changes: &[Change]) -> Vec<(String, String, &str)> {
    let mut rows: Vec<(String, usize, String, &str)> = Vec::new();
    for change in changes {
        let name = if change.package.starts_with("aws-cdk-") { "aws-cdk.*" } else { &change.package };
        let step = format!("{} → {}", change.from.as_deref().unwrap_or("(new)"), change.to);
        match rows.iter_mut().find(|row| row.0 == name && row.2 == step) {
            Some(row) => row.1 += 1,
            None => rows.push((name.to_owned(), 1, step, &change.why)),
        }
    }
    let counted = |(name, count, step, why): (String, usize, String, _)| {
        (if count > 1 { format!("{name} ({count})") } else { name }, step, why)
    };
    rows.into_iter().map(counted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::advisory::built_in;

    fn distribution(name: &str, version: &str, requires: &[&str]) -> (String, Distribution) {
        let requires = requires.iter().map(|line| (*line).to_owned()).collect();
        let (name, version) = (name.to_owned(), version.to_owned());
        (normalised(&name), Distribution { name, version, metadata: "/x".into(), requires })
    }

    fn environment() -> Installed {
        let pcluster = [
            "boto3 (>=1.16.14)",
            "aws-cdk.core (~=1.137)",
            "aws-cdk.aws-imagebuilder~=1.137,!=1.153.0",
            "aws-cdk.extra ; extra == 'awslambda'",
        ];
        [
            distribution(PCLUSTER, "3.1.3", &pcluster),
            distribution("aws-cdk.core", "1.153.0", &["jsii <2.0.0,>=1.57.0", "publication>=0.0.3"]),
            distribution("aws-cdk.aws-imagebuilder", "1.153.0", &["aws-cdk.core ==1.153.0"]),
            distribution("aws-cdk.assets", "1.153.0", &["aws-cdk.core ==1.153.0"]),
            distribution("jsii", "1.57.0", &["attrs ~=21.2"]),
            distribution("attrs", "21.4.0", &[]),
            distribution("other", "1", &["attrs (>=20)", "attrs<22 ; python_version < '3'"]),
            distribution("boto3", "1.20.0", &[]),
            distribution("odd", "local build", &[]),
        ]
        .into()
    }

    fn reasons() -> Vec<Reason> {
        let advisory = &built_in()[0];
        vec![Reason { id: advisory.id.clone(), fix: advisory.fix.clone() }]
    }

    #[test]
    fn what_pcluster_requires_moves_and_all_else_is_held() {
        let wanted = wanted(&environment(), &reasons(), Strategy::Upgrade, Hold::All).unwrap();
        assert_eq!(
            wanted.requirements,
            ["aws-cdk-aws-imagebuilder~=1.137,!=1.153.0,>=1.153.1", "aws-cdk-core~=1.137,>=1.153.1"]
        );
        assert_eq!(
            wanted.constraints,
            ["attrs==21.4.0", "aws-parallelcluster==3.1.3", "boto3==1.20.0", "jsii==1.57.0", "other==1"]
        );
    }

    #[test]
    fn downgrade_asks_for_what_lies_below() {
        let wanted = wanted(&environment(), &reasons(), Strategy::Downgrade, Hold::All).unwrap();
        assert_eq!(wanted.requirements[1], "aws-cdk-core~=1.137,<1.153.0");
    }

    #[test]
    fn neighbours_move_as_far_as_the_others_allow() {
        let wanted = wanted(&environment(), &reasons(), Strategy::Upgrade, Hold::Neighbours).unwrap();
        assert_eq!(
            wanted.constraints,
            ["attrs>=20,~=21.2", "aws-parallelcluster==3.1.3", "boto3==1.20.0", "other==1"]
        );
    }

    #[test]
    fn a_fix_for_what_is_not_there_asks_for_nothing() {
        let mut environment = environment();
        environment.retain(|name, _| !name.starts_with("aws-cdk") && name != PCLUSTER);
        assert_eq!(wanted(&environment, &reasons(), Strategy::Upgrade, Hold::All), None);
    }

    #[test]
    fn changes_say_why() {
        let staged: Installed = [
            distribution("aws-cdk.core", "1.204.0", &["jsii<2.0.0,>=1.84.0"]),
            distribution("aws-cdk.assets", "1.204.0", &[]),
            distribution("jsii", "1.132.0", &[]),
            distribution("attrs", "21.4.0", &[]),
            distribution("importlib-resources", "6.0", &[]),
        ]
        .into();
        let changes = changes(&environment(), &staged, &reasons());
        let rows: Vec<_> =
            changes.iter().map(|change| (change.package.as_str(), change.why.as_str())).collect();
        assert_eq!(
            rows,
            [
                ("aws-cdk-assets", "cdk-imagebuilder-1.153.0"),
                ("aws-cdk-core", "cdk-imagebuilder-1.153.0"),
                ("importlib-resources", "required by the others"),
                ("jsii", "required by aws-cdk.core 1.204.0"),
            ]
        );
        assert_eq!(
            summary(&changes)[0],
            ("aws-cdk.* (2)".into(), "1.153.0 → 1.204.0".into(), "cdk-imagebuilder-1.153.0")
        );
        assert!(requirements_file(&changes).contains("jsii==1.132.0\n"));
    }

    proptest::proptest! {
        #[test]
        fn no_requirement_makes_it_panic(line in ".{0,80}") {
            let _ = Requirement::read(&line);
        }
    }
}
