//! The advisories, compared with a table of measurements: which versions of which packages keep which release
//! of pcluster from starting. CONTRIBUTING.md says how a row of the table is measured.

use std::collections::BTreeMap;

use pcluster_shim::model::finding::Level;
use pcluster_shim::rules::advisories;
use pcluster_shim::rules::advisories::file;

const TABLE: &str = include_str!("fixtures/startup-table.tsv");

/// The packages of an environment: this release of aws-parallelcluster, and a setuptools that no advisory
/// matches. The caller then adds, replaces or removes the package that a row of the table names.
fn environment(release: &str, python: &str) -> BTreeMap<String, String> {
    let setuptools = if python == "3.12" { "75.8.0" } else { "69.5.1" };
    [("aws-parallelcluster", release), ("setuptools", setuptools)]
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .into()
}

/// Every measured version with which pcluster does not start is matched by an advisory. No other version is.
#[test]
fn every_version_that_breaks_is_advised_and_no_other() {
    let advisories = file::built_in();
    let mut differing = Vec::new();
    let mut counts = [0, 0];
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [release, python, package, version, outcome, ..] = fields[..] else { panic!("{line:?}") };
        let breaks = outcome == "breaks";
        counts[usize::from(breaks)] += 1;
        let mut packages = environment(release, python);
        match version {
            "absent" => packages.remove(package),
            "-" => None,
            _ => packages.insert(package.to_owned(), version.to_owned()),
        };
        let findings = advisories::check(&packages, &format!("{python}.1"), &advisories);
        // The advisory on a missing package is only a warning, because the failed start itself blocks.
        let least = if version == "absent" { Level::Warning } else { Level::Error };
        if findings.iter().any(|finding| finding.level >= least) != breaks {
            differing.push(line);
        }
    }
    assert!(counts[0] > 300 && counts[1] > 300, "the table is there: {counts:?}");
    assert!(differing.is_empty(), "{} lines differ:\n{}", differing.len(), differing.join("\n"));
}

#[test]
fn every_release_is_in_the_table() {
    let dates = include_str!("../src/rules/advisories/release_dates.txt");
    let releases =
        dates.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next());
    let missing: Vec<&str> = releases
        .filter(|release| !TABLE.lines().any(|line| line.starts_with(&format!("{release}\t3.9\t"))))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
