//! The metadata of distributions: METADATA, RECORD, and the requirements that a repair derives from them.
//!
//! The input is the METADATA of two distributions, and a RECORD, with a record separator between the three.

#![no_main]

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pcluster_shim::environment::packages::parse_metadata;
use pcluster_shim::environment::record::{installed_path, record_path, recorded_names};
use pcluster_shim::model::distribution::Distribution;
use pcluster_shim::model::options::Strategy;
use pcluster_shim::repair::change::compare;
use pcluster_shim::repair::plan::{Pinned, collect_reasons, plan_install};
use pcluster_shim::repair::requirement::Installed;
use pcluster_shim::rules::advisories::file::built_in;
use pcluster_shim::rules::advisories::{Advisory, check};
use pcluster_shim::text::package_name::{is_pattern, matches, normalised};
use pcluster_shim_fuzz::{input, split};

static ADVISORIES: LazyLock<Vec<Advisory>> = LazyLock::new(built_in);

fn read(bytes: &[u8]) -> Option<Distribution> {
    let text = String::from_utf8_lossy(bytes);
    let distribution = parse_metadata(&text, "/v/site-packages/x-1.dist-info".into())?;
    let lines = distribution.requires.iter().chain([&distribution.name, &distribution.version]);
    for line in lines {
        assert!(!line.contains('\n') && line.trim() == line, "{line:?} is not one field");
    }
    let name = normalised(&distribution.name);
    assert_eq!(normalised(&name), name);
    assert!(is_pattern(&distribution.name) || matches(&distribution.name, &name));
    Some(distribution)
}

fn plan(distributions: Vec<Distribution>) {
    let mut installed: Installed =
        distributions.into_iter().map(|found| (normalised(&found.name), found)).collect();
    let versions: BTreeMap<String, String> =
        installed.iter().map(|(name, found)| (name.clone(), found.version.clone())).collect();
    let findings = check(&versions, "3.12.1", &ADVISORIES);
    let reasons = collect_reasons(&findings.iter().collect::<Vec<_>>());
    for pinned in [Pinned::All, Pinned::AllButDependencies, Pinned::AllButDependenciesAndTheirs] {
        let Some(request) = plan_install(&installed, &reasons, Strategy::Upgrade, pinned) else { continue };
        for line in request.requirements.iter().chain(&request.constraints) {
            assert!(line.starts_with(|first: char| first.is_ascii_alphanumeric()), "{line:?} is an option");
            let breaks = |letter: char| letter.is_control() || "\u{2028}\u{2029}".contains(letter);
            assert!(!line.contains(breaks), "{line:?} is more than one line to Python");
        }
    }
    let before = installed.clone();
    assert!(compare(&before, &installed, &reasons).is_empty());
    for found in installed.values_mut() {
        found.version.push('0');
    }
    assert_eq!(compare(&before, &installed, &reasons).len(), before.len());
}

fn check_record(text: &str) {
    let site = Path::new("/v/lib/python3.9/site-packages");
    for name in recorded_names(text) {
        let Some(path) = installed_path(site, &name) else { continue };
        let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        assert!(path.starts_with("/v") && path != Path::new("/v"), "{name:?} leads to {path:?}");
        assert!(path.components().all(is_plain), "{name:?} leads to {path:?}");
    }
    for line in text.lines() {
        let path = record_path(line);
        // The line as an installer writes it, with the path in quotes.
        let written = format!("\"{}\",sha256=x,1", path.replace('"', "\"\""));
        assert_eq!(record_path(&written), path);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let [pcluster, other, record] = split(&bytes);
    let mut found: Vec<Distribution> = [pcluster, other].into_iter().filter_map(read).collect();
    if let Some(first) = found.first_mut() {
        // Without aws-parallelcluster, no advisory applies.
        let mut pcluster = first.clone();
        pcluster.name = "aws-parallelcluster".into();
        pcluster.version = "3.1.3".into();
        found.push(pcluster);
        plan(found);
    }
    check_record(&String::from_utf8_lossy(record));
});
