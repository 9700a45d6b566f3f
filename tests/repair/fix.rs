//! A repair from its start to its undo, the ways to ask for one, and mode `fix`.

use serde_json::{Value, json};

use super::{REPAIRED, versions};
use crate::support::fakes::{BAD, REAL, REAL_OUTPUT};
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

#[test]
fn fix_and_undo() {
    let sandbox = Sandbox::new();
    for environment in [sandbox.broken_environment(), Sandbox::new().broken_environment_across_file_systems()]
    {
        let before = environment.site();
        let run = environment.preflight(["fix"]).run();
        run.exits(0).is_silent().stdout_matches("fix.txt");
        assert_eq!(versions(&environment), REPAIRED);
        environment.keeps_the_last_one();
        environment.left_nothing_elsewhere("by a fix");
        let site = environment.site();
        let is_there = |path: &str| site.keys().any(|key| key.to_str() == Some(path));
        assert!(is_there("aws_cdk/aws_imagebuilder/only_in_1.204.0/a, b.py"));
        assert!(!is_there("aws_cdk/aws_imagebuilder/only_in_1.153.0"), "the old directory is gone");
        let bytecode: Vec<_> =
            site.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "pyc")).collect();
        assert!(
            matches!(bytecode.as_slice(), [(_, of)] if of.contains("compiled 1.204.0")),
            "the old bytecode is gone, the new is there: {bytecode:?}"
        );
        // REQUESTED marks a package that the user asked for by name. A repair keeps this mark.
        assert!(is_there("aws_cdk.aws-imagebuilder-1.204.0.dist-info/REQUESTED"));
        assert!(!is_there("aws_cdk.core-1.204.0.dist-info/REQUESTED"));
        assert_eq!(
            site[std::path::Path::new("aws_cdk/core/_jsii/bin/run")].split(' ').next(),
            Some("755"),
            "modes come along"
        );
        environment.preflight([]).run().exits(0).is_silent();
        environment.preflight(["fix"]).run().exits(0).is_silent().stdout_matches("fix-nothing.txt");

        let run = environment.preflight(["undo"]).run();
        run.exits(0).is_silent().stdout_matches("undo.txt");
        assert_eq!(environment.site(), before);
        environment.left_nothing("by an undo");
        environment.preflight(["--no-synth"]).run().exits(1);
    }
}

#[test]
fn the_ways_to_ask() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix", "--dry-run"]).run().exits(0).is_silent().stdout_matches("fix-dry-run.txt");
    let run = environment.preflight(["fix", "--dry-run", "--format", "json"]).run();
    run.exits(0).is_silent().stdout_matches("fix-dry-run.json");
    let run = environment.preflight(["fix", "--print-requirements"]).run();
    run.exits(0).is_silent();
    run.prints("aws-cdk-aws-imagebuilder==1.204.0\naws-cdk-core==1.204.0\njsii==1.132.0\n");
    environment.preflight(["fix", "--dry-run", "-q"]).run().exits(0).is_silent().prints("");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by dry runs");

    let run = environment.preflight(["fix", "--strategy", "downgrade", "--format", "json"]).run();
    run.exits(0).is_silent().stdout_matches("fix-downgrade.json");
    assert!(versions(&environment).contains(&"aws_cdk.core-1.152.0".to_owned()));
    assert!(versions(&environment).contains(&"jsii-1.57.0".to_owned()), "what need not move does not");
    let run = environment.preflight(["fix", "--format", "json"]).run();
    assert_eq!(serde_json::from_slice::<Value>(&run.stdout).unwrap()["status"], "ready");
    let run = environment.preflight(["undo", "--format", "json"]).run();
    assert_eq!(serde_json::from_slice::<Value>(&run.stdout).unwrap()["status"], "undone");
    assert_eq!(environment.site(), before);
}

#[test]
fn config_names_installer_and_strategy_and_a_flag_beats_it() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.has_pip();
    let config = "installer: pip\nstrategy: downgrade\n";
    sandbox.write("config/pcluster-shim/config.yaml", config);
    let plan = |arguments: &[&str]| {
        sandbox.clear_log();
        let call = environment.preflight(["fix", "--dry-run", "--format", "json"]);
        let run = arguments.iter().fold(call, Call::argument).run();
        run.exits(0);
        let to = serde_json::from_slice::<Value>(&run.stdout).unwrap()["changes"][0]["to"].clone();
        (to, sandbox.log().contains(&"pip install".to_owned()))
    };
    assert_eq!(plan(&[]), (json!("1.152.0"), true));
    assert_eq!(plan(&["--strategy", "upgrade", "--installer", "uv"]), (json!("1.204.0"), false));
    assert_eq!(plan(&["--installer", "auto"]), (json!("1.152.0"), false));
}

#[test]
fn verbose_shows_each_step_and_what_the_installer_says() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let run = environment.preflight(["fix", "-v"]).run();
    run.exits(0).stderr_matches("fix-verbose.txt");
}

#[test]
fn check_fix_repairs_and_checks_again() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let run = environment.preflight(["check", "--fix", "--no-synth"]).run();
    run.exits(0).prefixed().stderr_matches("check-fix.txt");
    // `--no-synth` does not apply to the repair. The repair runs three syntheses: with the old packages, with
    // the staged packages, and with the new packages after the exchange.
    assert_eq!(sandbox.log().iter().filter(|line| *line == "synth").count(), 3);
    assert_eq!(versions(&environment), REPAIRED);
    // The second time, there is nothing to repair, and stderr stays empty.
    environment.preflight(["check", "--fix"]).run().exits(0).is_silent();
}

#[test]
fn mode_fix_repairs_and_goes_on() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let run = environment.build_image().var("PCLUSTER_SHIM_MODE", "fix").run();
    run.exits(0).prints(REAL_OUTPUT).prefixed().stderr_matches("mode-fix.txt");
    assert_eq!(versions(&environment), REPAIRED);
    environment.build_image().var("PCLUSTER_SHIM_MODE", "fix").run().exits(0).prints(REAL_OUTPUT).is_silent();
}

#[test]
fn mode_fix_that_cannot_repair_stops() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.installs_by("echo 'no such index' >&2; exit 7");
    let run = environment.build_image().var("PCLUSTER_SHIM_MODE", "fix").run();
    run.exits(1)
        .prefixed()
        .stdout_matches("verdicts/blocked-by-advisory.json")
        .stderr_matches("mode-fix-fails.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by a repair that failed");
    assert!(!sandbox.log().contains(&REAL.to_owned()));
}

/// The newest release is broken too. The proof with the staged packages shows this, so nothing is changed.
#[test]
fn a_repair_that_does_not_help() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.builds_with("1.204.0", BAD);
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-not-proven.txt");
    environment.preflight(["fix", "--isolated"]).run().exits(1).stderr_matches("fix-not-proven.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by a repair that was not proven");
    environment.preflight(["fix", "--strategy", "downgrade"]).run().exits(0);
}

/// A repair that breaks a requirement is rolled back, though the template is right.
#[test]
fn a_repair_that_breaks_a_requirement_is_rolled_back() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let check = "[ -d '@SITE@/jsii-1.132.0.dist-info' ] && echo 'other 1 has requirement jsii<1.100, but you have jsii 1.132.0.'\n\
                 echo 'old 1 requires gone, which is not installed.'; exit 1\n";
    let check = check.replace("@SITE@", environment.path("site").to_str().unwrap());
    sandbox.write("installer/check", check);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-breaks.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by a repair that was rolled back");
}

#[test]
fn no_place_for_state() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let file = sandbox.write("home/a-file", "");
    let run = environment.preflight(["fix"]).var("XDG_STATE_HOME", &file).run();
    run.exits(1).prefixed().stderr_matches("fix-no-state.txt");
    // A check does not need a state directory.
    environment.preflight(["--no-synth"]).var("XDG_STATE_HOME", &file).run().exits(1).is_silent();
    assert_eq!(environment.site(), before);
}
