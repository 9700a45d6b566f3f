//! The list of advisories, and the user's own advisories.

use serde_json::Value;

use super::{ADVISORY, check};
use crate::support::sandbox::Sandbox;

#[test]
fn the_advisories_are_listed() {
    let sandbox = Sandbox::new();
    let call = |more: &[&str]| {
        more.iter()
            .fold(sandbox.pcluster(["preflight", "advisories"]), |call, word| call.argument(*word))
            .run()
    };
    call(&[]).exits(0).is_silent().stdout_matches("advisories.txt");
    call(&["cdk-imagebuilder-1.153.0"]).exits(0).is_silent().stdout_matches("advisories-one.txt");
    let run = call(&["cdk-imagebuilder-1.153.0", "--format", "json"]);
    let list: Value = serde_json::from_slice(&run.stdout).unwrap();
    run.exits(0).is_silent().holds(list["advisories"].as_array().unwrap().len() == 1, "the one");
    for key in
        ["id", "title", "level", "pcluster", "package", "affected", "effect", "cost", "fix", "references"]
    {
        run.holds(list["advisories"][0].get(key).is_some(), key);
    }
    call(&["setuptools"]).exits(0).is_silent().stdout_matches("advisories-part.txt");
    call(&["nonsense"]).exits(2).prints("").prefixed().stderr_matches("advisories-unknown.txt");
    let twice = ADVISORY.replace("'>=2'", "'!=1.5'").replace("'<1'", "'!=1.5'");
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [more.yaml]\n");
    sandbox.write("config/pcluster-shim/more.yaml", twice);
    let run = call(&["own-advisory"]);
    run.exits(0).holds(run.stdout().contains("fix        aws-cdk.* !=1.5\n"), "the range once");
}

#[test]
fn an_advisory_of_the_users_own_blocks() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [own/more.yaml]\n");
    sandbox.write("config/pcluster-shim/own/more.yaml", ADVISORY);
    check(&sandbox).exits(1).is_silent().stdout_matches("check-own-advisory.txt");
    sandbox
        .pcluster(["preflight", "advisories", "own-advisory"])
        .run()
        .exits(0)
        .stdout_matches("advisories-own.txt");
    sandbox.build_image().run().exits(1).prefixed().stderr_matches("blocked-own-advisory.txt");
}

/// `preflight` names the file, the line and the key. The guard warns, and uses all other advisories.
#[test]
fn a_faulty_file_of_advisories_is_reported() {
    for (snapshot, from, to, words) in [
        ("level", "level: ERROR", "level: LOUD", &["LOUD", "line 3"][..]),
        ("range", "'<2'", "'two'", &["two", "line 6"]),
        ("key", "affected:", "effected:", &["effected", "line 6"]),
        ("missing", "  package: aws-cdk.core\n", "", &["package", "line 1"]),
        ("yaml", "- id:", "- [id:", &["line"]),
    ] {
        let sandbox = Sandbox::new();
        let environment = sandbox.environment();
        sandbox.write("config/pcluster-shim/config.yaml", "advisories: [more.yaml]\n");
        let malformed = ADVISORY.replacen(from, to, 1);
        assert_ne!(malformed, ADVISORY);
        sandbox.write("config/pcluster-shim/more.yaml", malformed);
        let run = check(&sandbox);
        run.exits(2).prints("").prefixed().stderr_matches(&format!("malformed-advisory-{snapshot}.txt"));
        for word in words.iter().chain(&["more.yaml"]) {
            run.holds(run.stderr().contains(word), &format!("{word} is named"));
        }
        sandbox.build_image().run().exits(0).warns_once("more.yaml");
        environment.is_broken();
        sandbox.build_image().run().exits(1).prefixed();
    }
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [absent.yaml]\n");
    check(&sandbox).exits(2).prefixed().stderr_matches("malformed-advisory-absent.txt");
}
