//! The plan of a repair: from findings and installed metadata to the requirements for an installer. Pure.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use pep440_rs::{Version, VersionSpecifiers};

use crate::model::finding::{Finding, Kind, PackageMove, Remedy};
use crate::model::options::Strategy;
use crate::repair::requirement::{Installed, Requirement, is_requirement};
use crate::report::{Report, Verdict};
use crate::rules::advisories::Affected;
use crate::text::package_name::{PCLUSTER, is_pattern, matches, normalised};

/// The input of an installer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallRequest {
    /// The packages to install, limited to the versions that the fixes and the other packages allow.
    pub requirements: Vec<String>,
    /// The installed packages that are not affected: pinned to their versions or, if they may move, limited
    /// to the versions that other packages allow.
    pub constraints: Vec<String>,
    /// The installer considers only packages that were uploaded before this moment (RFC 3339).
    pub uploaded_before: Option<String>,
}

/// Which packages are pinned to their installed versions. The affected packages have to move, so they are
/// never pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    All,
    /// The dependencies of the affected packages may move within the ranges that the other packages require.
    /// For example, another release of CDK may need another release of jsii.
    AllButDependencies,
    /// The dependencies of the affected packages may move, as under [`Self::AllButDependencies`]. In
    /// addition, the plan ignores the version ranges that these dependencies require now, because other
    /// versions of the dependencies may require other ranges. The plan names the dependencies as
    /// requirements, so that the installer chooses versions that fit together.
    AllButDependenciesAndTheirs,
}

/// Why packages have to move, and to which versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The id of a finding. Under strategy `release`, a text for the user takes the place of the id.
    pub id: String,
    pub fix: PackageMove,
}

/// What a repair has to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Goal {
    /// The moves that findings ask for.
    pub reasons: Vec<Reason>,
    pub edits: Vec<WantedEdit>,
    /// Whether a finding says that packages have to move, but not which packages.
    pub restores_release: bool,
}

/// Source edits to make: all those with this id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedEdit {
    pub id: String,
    /// Whether the repair fails if these edits cannot be made: true if their finding blocks the build, or if
    /// the user has named their finding.
    pub is_required: bool,
}

/// Why a repair is refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal<'a> {
    /// No finding, advisory or source edit has this id.
    Unknown(&'a str),
    /// No repair is known for these findings.
    Unrepairable(Vec<&'a Finding>),
    /// This bytecode file is damaged. It has to be removed; moving packages would not help.
    Bytecode(&'a str),
    /// The goal moves no packages, and the build is blocked by another finding, which the user has not named.
    OtherBlocks,
    /// The environment is not ready, and no finding says what to change.
    NotReady,
}

/// Chooses what to repair: the findings with these ids or, without ids, every finding that blocks, or that
/// predicts a failed build. `None` if there is nothing to do.
///
/// # Errors
/// Returns an error if one of these findings cannot be repaired. A warning that was not requested and cannot
/// be repaired is skipped.
pub fn choose_goal<'a>(
    report: &'a Report,
    ids: &'a [String],
    is_known: impl Fn(&str) -> bool,
) -> Result<Option<Goal>, Refusal<'a>> {
    let findings = &report.findings;
    let is_found = |id: &str| findings.iter().any(|finding| finding.is_named(id));
    if let Some(unknown) = ids.iter().find(|id| !is_found(id) && !is_known(id)) {
        return Err(Refusal::Unknown(unknown));
    }
    let needs_hints = ids.is_empty() && findings.iter().any(|finding| finding.has_remedy(&Remedy::Release));
    let is_hint = |finding: &Finding| needs_hints && is_of_absent_package(finding);
    let chosen: Vec<&Finding> =
        findings.iter().filter(|finding| is_chosen(finding, ids) || is_hint(finding)).collect();
    let unrepairable: Vec<&Finding> =
        chosen.iter().filter(|finding| !finding.has_repair()).copied().collect();
    if !unrepairable.is_empty() {
        return Err(Refusal::Unrepairable(unrepairable));
    }
    if let Some(file) = chosen.iter().find_map(|finding| finding.fix.as_ref()?.bytecode()) {
        return Err(Refusal::Bytecode(file));
    }
    let goal = Goal {
        reasons: collect_reasons(&chosen),
        restores_release: chosen.iter().any(|finding| finding.has_remedy(&Remedy::Release)),
        edits: find_edits(report, ids),
    };
    let blocks_apart =
        |finding: &Finding| finding.blocks() && !finding.is_explained() && !is_chosen(finding, ids);
    match report.verdict {
        Verdict::Ready if chosen.is_empty() => Ok(None),
        Verdict::Blocked if !goal.moves_packages() && findings.iter().any(blocks_apart) => {
            Err(Refusal::OtherBlocks)
        }
        _ if chosen.is_empty() => Err(Refusal::NotReady),
        _ => Ok(Some(goal)),
    }
}

impl Goal {
    pub fn moves_packages(&self) -> bool {
        self.restores_release || !self.reasons.is_empty()
    }
}

/// The source edits that the findings of a report ask for. A finding counts only if a repair of these ids
/// includes it ([`is_chosen`]).
pub fn find_edits(report: &Report, ids: &[String]) -> Vec<WantedEdit> {
    let chosen = report.findings.iter().filter(|finding| is_chosen(finding, ids));
    let wanted = chosen.filter_map(|finding| {
        let Some(Remedy::Edit(id)) = &finding.fix.as_ref()?.remedy else { return None };
        Some(WantedEdit { id: id.clone(), is_required: finding.blocks() || !ids.is_empty() })
    });
    wanted.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether a repair of these ids includes this finding. A repair without ids includes the findings that
/// block, and those that predict a failed build.
pub fn is_chosen(finding: &Finding, ids: &[String]) -> bool {
    if !ids.is_empty() {
        return ids.iter().any(|id| finding.is_named(id));
    }
    if finding.blocks() {
        return !finding.is_explained();
    }
    finding.fails_build && finding.has_repair() && !finding.is_ignored
}

/// Whether a finding is about an absent package. Such a finding is only a warning, but if pcluster does not
/// start, the package has to be installed.
fn is_of_absent_package(finding: &Finding) -> bool {
    finding.kind == Kind::PackageAdvisory && finding.evidence["affected"] == Affected::Absent.to_string()
}

/// Collects the reasons to move packages: the findings whose fix is a move.
pub fn collect_reasons(findings: &[&Finding]) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = Vec::new();
    for finding in findings {
        let package_move = finding.fix.as_ref().and_then(|fix| fix.package_move().cloned());
        if let Some(fix) = package_move.filter(|fix| reasons.iter().all(|reason| reason.fix != *fix)) {
            reasons.push(Reason { id: finding.id.clone(), fix });
        }
    }
    reasons
}

/// A move of one package to one version; `None` if `version` is not a PEP 440 version.
pub fn move_to(package: &str, version: &str) -> Option<PackageMove> {
    let range = VersionSpecifiers::from_str(&format!("=={version}")).ok()?;
    Some(PackageMove { packages: package.to_owned(), upgrade: range.clone(), downgrade: range })
}

/// Whether there are any findings, and all of them can be fixed by moving packages.
pub fn are_of_packages<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> bool {
    let mut findings = findings.into_iter().peekable();
    findings.peek().is_some()
        && findings.all(|finding| {
            finding.has_remedy(&Remedy::Release)
                || finding.fix.as_ref().is_some_and(|fix| fix.package_move().is_some())
        })
}

/// Plans an installation; `None` if there is no package to install.
pub fn plan_install(
    installed: &Installed,
    reasons: &[Reason],
    strategy: Strategy,
    pinned: Pinned,
) -> Option<InstallRequest> {
    let moving = find_moving(installed, reasons);
    let unpinned = match pinned {
        Pinned::All => BTreeSet::new(),
        Pinned::AllButDependencies | Pinned::AllButDependenciesAndTheirs => {
            find_dependencies(installed, &moving)
        }
    };
    let mut uncounted = moving.clone();
    if pinned == Pinned::AllButDependenciesAndTheirs {
        uncounted.extend(unpinned.iter().filter(|name| installed.contains_key(*name)).cloned());
    }
    // The affected packages come first, because an installer's message names the first package that it
    // cannot install.
    let dependencies = uncounted.iter().filter(|name| !moving.contains(*name));
    let requirements: Vec<String> = moving
        .iter()
        .chain(dependencies)
        .map(|name| {
            let fixes = reasons.iter().filter(|reason| matches(&reason.fix.packages, name));
            let ranges = fixes.map(|reason| reason.fix.range(strategy).to_string());
            let ranges = collect_required_ranges(installed, name, &uncounted).into_iter().chain(ranges);
            write_requirement(name, ranges)
        })
        .filter(|line| is_requirement(line))
        .collect();
    if requirements.is_empty() {
        return None;
    }
    let is_affected = |name: &str| reasons.iter().any(|reason| matches(&reason.fix.packages, name));
    let constraints = installed
        .iter()
        .filter(|(name, _)| !is_affected(name))
        .filter_map(|(name, distribution)| {
            if unpinned.contains(name) {
                let ranges = collect_required_ranges(installed, name, &uncounted);
                (!ranges.is_empty()).then(|| write_requirement(name, ranges.into_iter()))
            } else {
                // A version that is not valid according to PEP 440 is left out, because installers would
                // reject the constraint.
                let version = Version::from_str(&distribution.version).ok()?;
                Some(format!("{name}=={version}"))
            }
        })
        .filter(|line| is_requirement(line))
        .collect();
    Some(InstallRequest { requirements, constraints, uploaded_before: None })
}

/// Finds the packages that the moves name. A pattern means the matching packages that
/// aws-parallelcluster directly requires or, if it requires none of them, for all matching packages that are
/// installed. The installer adds the dependencies of these packages.
fn find_moving(installed: &Installed, reasons: &[Reason]) -> BTreeSet<String> {
    let required = find_required(installed);
    let mut moving = BTreeSet::new();
    for Reason { fix, .. } in reasons {
        let is_affected = |name: &&String| matches(&fix.packages, name);
        let direct = required.iter().filter(is_affected).collect::<BTreeSet<_>>();
        if !is_pattern(&fix.packages) {
            moving.insert(normalised(&fix.packages));
        } else if direct.is_empty() {
            moving.extend(installed.keys().filter(is_affected).cloned());
        } else {
            moving.extend(direct.into_iter().cloned());
        }
    }
    moving
}

/// The packages that aws-parallelcluster directly requires. A requirement with a marker counts only if the
/// required package is installed.
pub fn find_required(installed: &Installed) -> BTreeSet<String> {
    let required = installed.get(PCLUSTER).map(|pcluster| pcluster.requires.as_slice()).unwrap_or_default();
    let required = required
        .iter()
        .map(|line| Requirement::read(line))
        .filter(|requirement| !requirement.is_optional || installed.contains_key(&requirement.name));
    required.map(|requirement| requirement.name).collect::<BTreeSet<_>>()
}

/// Collects the version ranges to which other packages limit this package. The requirements of packages that
/// move do not count.
fn collect_required_ranges(installed: &Installed, name: &str, moving: &BTreeSet<String>) -> Vec<String> {
    let staying =
        installed.iter().filter(|(other, _)| !moving.contains(*other) && !moves_with_cdk(other, moving));
    let lines = staying.flat_map(|(_, distribution)| &distribution.requires);
    // We do not know here whether the marker of a requirement applies. A requirement with a marker counts
    // only if it is met now, so that it stays met, and only if the marker names no extra.
    let counts = |requirement: &Requirement| {
        !requirement.is_optional || !requirement.is_extra && requirement.is_met(installed)
    };
    let ranges = lines.map(|line| Requirement::read(line)).filter(|requirement| {
        requirement.name == name && !requirement.range.is_empty() && counts(requirement)
    });
    ranges.map(|requirement| requirement.range).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether this is a CDK package and other CDK packages move. CDK packages pin one another, so this one
/// moves too.
fn moves_with_cdk(name: &str, moving: &BTreeSet<String>) -> bool {
    name.starts_with("aws-cdk-") && moving.iter().any(|other| other.starts_with("aws-cdk-"))
}

/// Finds the direct and indirect dependencies of the moving packages, as the installed metadata names them.
fn find_dependencies(installed: &Installed, moving: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = moving.iter().cloned().collect();
    while let Some(name) = next.pop() {
        let Some(distribution) = installed.get(&name) else { continue };
        for line in &distribution.requires {
            let requirement = Requirement::read(line);
            let is_needed = !requirement.is_optional
                || !requirement.is_extra && installed.contains_key(&requirement.name);
            if is_needed && found.insert(requirement.name.clone()) {
                next.push(requirement.name);
            }
        }
    }
    found.retain(|name| !moving.contains(name));
    found
}

fn write_requirement(name: &str, ranges: impl Iterator<Item = String>) -> String {
    format!("{name}{}", ranges.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::model::distribution::Distribution;
    use crate::model::finding::{Fix, Level};
    use crate::report::Shim;
    use crate::rules::advisories::file::built_in;

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

    fn report(findings: Vec<Finding>) -> Report {
        Report::new(Shim { version: "0", path: None }, None, BTreeMap::new(), Vec::new(), findings)
    }

    fn finding(id: &str, fix: Fix) -> Finding {
        Finding {
            id: id.into(),
            level: Level::Error,
            kind: Kind::PackageAdvisory,
            message: id.into(),
            cost: None,
            evidence: json!({}),
            fix: Some(fix),
            references: Vec::new(),
            fails_build: true,
            is_ignored: false,
            shows: None,
        }
    }

    /// Chooses the goal for repairing one id in an environment that has these findings. Returns whether there
    /// is a goal.
    fn choose(findings: Vec<Finding>, id: &str) -> Result<bool, String> {
        let (report, ids) = (report(findings), [id.to_owned()]);
        let chosen = choose_goal(&report, &ids, |_| true);
        chosen.map(|goal| goal.is_some()).map_err(|refusal| format!("{refusal:?}"))
    }

    #[test]
    fn packages_are_moved_for_one_id_although_another_finding_blocks() {
        let moving = || Fix::by_command(Remedy::Move(built_in()[0].fix.package_move().unwrap().clone()));
        assert_eq!(choose(vec![finding("one", moving()), finding("two", moving())], "one"), Ok(true));
    }

    /// Only a template shows whether an edit helps, and the other finding could prevent a template from
    /// being built.
    #[test]
    fn an_edit_for_one_id_is_refused_if_another_finding_blocks() {
        let edit = || finding("one", Fix::by_command(Remedy::Edit("one".into())));
        assert_eq!(choose(vec![edit()], "one"), Ok(true));
        let other = finding("two", Fix::by_command(Remedy::Edit("two".into())));
        assert_eq!(choose(vec![edit(), other], "one"), Err("OtherBlocks".into()));
    }

    fn reasons() -> Vec<Reason> {
        let advisory = &built_in()[0];
        vec![Reason { id: advisory.id.clone(), fix: advisory.fix.package_move().unwrap().clone() }]
    }

    #[test]
    fn what_pcluster_requires_moves_and_all_others_are_pinned() {
        let request = plan_install(&environment(), &reasons(), Strategy::Upgrade, Pinned::All).unwrap();
        assert_eq!(
            request.requirements,
            ["aws-cdk-aws-imagebuilder~=1.137,!=1.153.0,>=1.153.1", "aws-cdk-core~=1.137,>=1.153.1"]
        );
        assert_eq!(
            request.constraints,
            ["attrs==21.4.0", "aws-parallelcluster==3.1.3", "boto3==1.20.0", "jsii==1.57.0", "other==1"]
        );
    }

    #[test]
    fn downgrade_asks_for_what_lies_below() {
        let request = plan_install(&environment(), &reasons(), Strategy::Downgrade, Pinned::All).unwrap();
        assert_eq!(request.requirements[1], "aws-cdk-core~=1.137,<1.153.0");
    }

    #[test]
    fn dependencies_move_within_what_the_others_require() {
        let request =
            plan_install(&environment(), &reasons(), Strategy::Upgrade, Pinned::AllButDependencies).unwrap();
        assert_eq!(
            request.constraints,
            ["attrs<22,>=20,~=21.2", "aws-parallelcluster==3.1.3", "boto3==1.20.0", "other==1"]
        );
    }

    /// A real case: openapi-spec-validator depends on openapi-schema-validator, and has to move to a version
    /// that needs an old jsonschema. The installed openapi-schema-validator requires a newer jsonschema, so
    /// openapi-schema-validator has to move too.
    #[test]
    fn dependencies_may_move_from_what_they_require_of_one_another() {
        let validator = [
            "schema-validator>=2",
            "jsonschema",
            "groups ; python_version < '3.11'",
            "docs ; extra == 'docs'",
        ];
        let installed: Installed = [
            distribution("validator", "2", &validator),
            distribution("schema-validator", "2", &["jsonschema>=4.19"]),
            distribution("jsonschema", "4.20", &[]),
            distribution("groups", "1", &["typing>=4.6 ; python_version < '3.13'"]),
            distribution("docs", "1", &[]),
            distribution(
                "other",
                "1",
                &["jsonschema<5", "groups<2 ; python_version < '3.10'", "groups>2 ; python_version > '3.9'"],
            ),
        ]
        .into();
        let reasons = ["validator", "jsonschema"]
            .map(|name| Reason { id: name.into(), fix: move_to(name, "1").unwrap() });
        let requirements =
            |pinned| plan_install(&installed, &reasons, Strategy::Upgrade, pinned).unwrap().requirements;
        assert_eq!(requirements(Pinned::AllButDependencies), ["jsonschema<5,>=4.19,==1", "validator==1"]);
        let named = ["jsonschema<5,==1", "validator==1", "groups<2", "schema-validator"];
        assert_eq!(requirements(Pinned::AllButDependenciesAndTheirs), named);
    }

    #[test]
    fn a_fix_for_what_is_not_there_asks_for_nothing() {
        let mut environment = environment();
        environment.retain(|name, _| !name.starts_with("aws-cdk") && name != PCLUSTER);
        assert_eq!(plan_install(&environment, &reasons(), Strategy::Upgrade, Pinned::All), None);
    }

    #[test]
    fn metadata_is_no_option_of_the_installer() {
        let mut installed = environment();
        installed.extend([
            distribution("--index-url", "1", &["attrs @ https://example.com/x", "attrs<22\u{2028}-r x"]),
            distribution("two\u{2028}lines", "1", &[]),
        ]);
        let plan =
            |installed: &Installed, pinned| plan_install(installed, &reasons(), Strategy::Upgrade, pinned);
        for pinned in [Pinned::All, Pinned::AllButDependencies] {
            assert_eq!(plan(&installed, pinned), plan(&environment(), pinned));
        }
    }
}
