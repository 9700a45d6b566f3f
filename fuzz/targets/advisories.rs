//! Advisory files that users write: how they are read and listed, and their findings and constraints.

#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pcluster_shim::preflight::advisories::{format_advisory, format_title};
use pcluster_shim::rules::advisories;
use pcluster_shim::rules::advisories::constraints::derive;
use pcluster_shim::rules::advisories::file;
use pcluster_shim_fuzz::{assert_line, assert_safe, input};

static PACKAGES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let packages = [
        ("aws-parallelcluster", "3.1.3"),
        ("aws-cdk-core", "1.153.0"),
        ("aws-cdk-aws-imagebuilder", "1.153.0"),
        ("aws-cdk-aws-ec2", "1.204.0"),
        ("setuptools", "82.0.1"),
        ("flask", "local build"),
    ];
    packages.map(|(name, version)| (name.to_owned(), version.to_owned())).into()
});

fuzz_target!(|bytes: &[u8]| {
    let bytes = input(bytes);
    let Ok(text) = std::str::from_utf8(&bytes) else { return };
    let Ok(advisories) = file::read(text) else { return };
    for advisory in &advisories {
        // One line with the level and the id, and at least one line with the title.
        assert!(format_title(advisory, 80).lines().count() >= 2);
        assert_safe(&format_title(advisory, 80));
        assert_safe(&format_advisory(advisory, 80));
    }
    for python in ["3.9.1", "3.13.1+", "odd"] {
        for finding in advisories::check(&PACKAGES, python, &advisories) {
            assert_line(&finding.id);
            assert!(advisories.iter().any(|advisory| advisory.id == finding.id));
        }
        for constraint in derive(&advisories, "3.1.3", Some(python)) {
            assert_line(&constraint);
        }
    }
    for constraint in derive(&advisories, "3.13.2", None) {
        assert_line(&constraint);
    }
    // The entries that `preflight advisories --format json` prints are valid in an advisory file.
    let json = serde_json::to_string(&advisories).expect("advisories are JSON");
    let again = file::read(&json).expect("the JSON of advisories is read");
    assert_eq!(serde_json::to_string(&again).expect("advisories are JSON"), json);
});
