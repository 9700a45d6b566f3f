//! `preflight check --all` on real environments: each gets the same verdict as from a check of that
//! environment alone.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::environments::{BROKEN, Environment, GOOD, NEWEST, RealSandbox, write_wrapper};

#[test]
fn every_environment_has_the_verdict_that_it_has_by_itself() {
    let sandbox = RealSandbox::of(GOOD);
    let root = sandbox.path("home/.virtualenvs");
    fs::create_dir_all(&root).unwrap();
    for name in [BROKEN, NEWEST] {
        symlink(Environment::named(name).directory, root.join(name)).unwrap();
    }
    // This wrapper must not be listed: it starts the pcluster of an environment that is listed itself.
    let real = sandbox.environment.bin("pcluster");
    let wrapper = sandbox.path("home/bin/pcluster");
    write_wrapper(&wrapper, "", &real);

    let all = sandbox.pcluster(&["preflight", "check", "--all", "--format", "json"]).run();
    all.exits(1);
    let reports = all.json();
    let of = |report: &Value| {
        let path = report["target"]["path"].as_str().unwrap().to_owned();
        (path, report["verdict"].as_str().unwrap().to_owned())
    };
    let found: Vec<_> = reports.as_array().unwrap().iter().map(of).collect();
    let is_own = |path: &str| path == real.to_str().unwrap() || path.starts_with(root.to_str().unwrap());
    let verdicts: Vec<_> = found.iter().filter(|(path, _)| is_own(path)).map(|(_, is)| is.as_str()).collect();
    assert_eq!(verdicts, ["ready", "blocked", "ready"], "{all}");
    assert!(!all.stdout().contains("home/bin/pcluster"), "{all}");
    for (path, verdict) in found.iter().filter(|(path, _)| is_own(path)) {
        let (ran, report) = sandbox.preflight(&["--real", path]);
        assert_eq!(report["verdict"].as_str(), Some(verdict.as_str()), "{ran}");
    }
}
