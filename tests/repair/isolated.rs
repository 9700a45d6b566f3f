//! Repairs that are kept outside the environment.

use serde_json::json;

use crate::support::broken_environment::Unwritable;
use crate::support::fakes::REAL_OUTPUT;
use crate::support::sandbox::Sandbox;

#[test]
fn beside_the_environment() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.really("echo \"the real pcluster: $*\"; echo \"$PYTHONPATH\" >&2");
    let before = environment.site();
    let run = environment.preflight(["fix", "--isolated"]).run();
    run.exits(0).is_silent().stdout_matches("fix-isolated.txt");
    assert_eq!(environment.site(), before);
    let kept = environment.kept();
    assert!(kept.len() == 2 && kept.iter().all(|name| name.starts_with("isolated-")), "{kept:?}");
    environment.left_nothing_elsewhere("by an isolated repair");

    let overlay = environment.repairs().join(&kept[0]);
    let run = environment.build_image().run();
    run.exits(0).prints(REAL_OUTPUT);
    run.holds(run.stderr() == format!("{}\n", overlay.display()), "the overlay is in front");
    let run = environment.build_image().var("PYTHONPATH", "/mine").run();
    run.holds(run.stderr() == format!("{}:/mine\n", overlay.display()), "and the user's behind it");
    let run = environment.preflight([]).run();
    run.exits(0).is_silent();
    run.holds(run.stdout().contains("for build-image only"), "the report has a row about it");
    let where_ = || environment.preflight(["where"]).run();
    let where_json = || environment.preflight(["where", "--format", "json"]).run();
    where_().exits(0).is_silent().stdout_matches("where-overlay.txt");
    where_json().exits(0).is_silent().stdout_matches("where-overlay.json");
    // Other commands of pcluster do not use the overlay.
    let run = sandbox.pcluster(["version"]).var("XDG_STATE_HOME", &environment.state).run();
    run.holds(run.stderr() == "\n", "no overlay for version");

    // After a package of the environment was upgraded, the overlay is no longer used.
    environment.installs("attrs", "22.1.0", "");
    let run = environment.build_image().run();
    run.exits(1).prefixed().stderr_matches("isolated-stale.txt");
    let run = environment.preflight([]).run();
    run.exits(1);
    run.holds(run.stdout().contains("out of date"), "preflight says so too");
    where_().exits(0).is_silent().stdout_matches("where-stale-overlay.txt");
    where_json().exits(0).is_silent().stdout_matches("where-stale-overlay.json");

    // A new overlay replaces the stale one, and undo removes the new one.
    let changed = environment.site();
    let run = environment.preflight(["fix", "--isolated"]).run();
    run.exits(0).stderr_matches("fix-isolated-again.txt");
    environment.build_image().run().exits(0).prints(REAL_OUTPUT);
    environment.preflight(["undo"]).run().exits(0).is_silent().stdout_matches("undo-isolated.txt");
    where_().exits(0).is_silent().stdout_matches("where-undone.txt");
    assert_eq!(environment.site(), changed);
    environment.left_nothing("by an undo");
    environment.build_image().run().exits(1);
}

/// The second overlay is used instead of the first one, so it must also contain the packages of the
/// first one.
#[test]
fn a_second_one_keeps_what_the_first_one_moved() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix", "--isolated"]).run().exits(0);
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [attrs.yaml]\n");
    sandbox.write("config/pcluster-shim/attrs.yaml", ATTRS);
    let newer = sandbox.path("installer/attrs");
    environment.wheel(&newer, "attrs", "22.1.0", "", &[("attr/__init__.py", "attrs 22.1.0".into(), 0o644)]);
    environment.installs_by(
        "case $(cat \"$requirements\") in\n\
         *aws-cdk*) cp -Rp \"$here/1.204.0/.\" \"$target\"; rm -r \"$target\"/attr* ;;\n\
         esac\n\
         cp -Rp \"$here/attrs/.\" \"$target\"\n",
    );
    let run = environment.preflight(["fix", "--isolated"]).run();
    run.exits(0).stdout_matches("fix-isolated-second.txt");
    environment.build_image().run().exits(0).prints(REAL_OUTPUT);
}

const ATTRS: &str = "
- id: attrs-21
  title: attrs 21 loses the tags
  level: ERROR
  pcluster: \">=3.0.0\"
  package: attrs
  affected: \"<22\"
  shows: later
  effect: loses the tags
  cost: An hour of EC2.
  fix: {packages: attrs, upgrade: \">=22\", downgrade: \">=22\"}
  references: [https://example.org]
";

#[test]
fn mode_fix_keeps_the_repair_beside_what_it_cannot_write() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let locked = Unwritable::new(&[environment.path("site")]);
    let run = environment.build_image().var("PCLUSTER_SHIM_MODE", "fix").run();
    run.exits(0).prints(REAL_OUTPUT).prefixed().stderr_matches("mode-fix-isolated.txt");
    let installs = sandbox.log().iter().filter(|line| *line == "uv install").count();
    assert_eq!(installs, 2, "staged once: with all held, and with jsii free");
    environment.build_image().var("PCLUSTER_SHIM_MODE", "fix").run().exits(0).prints(REAL_OUTPUT).is_silent();
    drop(locked);
    assert_eq!(environment.site(), before);
}

#[test]
fn not_beside_a_python_that_ignores_the_path() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.is(&[("flags", json!(["-E"]))]);
    environment
        .preflight(["fix", "--isolated"])
        .run()
        .exits(1)
        .prefixed()
        .stderr_matches("fix-no-overlay.txt");
    environment.left_nothing("where an overlay cannot work");
}

/// A colon separates the directories of PYTHONPATH, so an overlay cannot be in a directory with a colon.
#[test]
fn not_beside_an_environment_in_a_directory_with_a_colon() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let run = environment.preflight(["fix", "--isolated"]).var("XDG_STATE_HOME", sandbox.path("a:b")).run();
    run.exits(1).prefixed().stderr_matches("fix-colon.txt");
    environment.left_nothing_elsewhere("where an overlay cannot work");
}
