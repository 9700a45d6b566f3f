//! Which installer a repair uses, what it asks of the installer, and how the installer fails.

use std::fs;

use serde_json::Value;

use crate::support::sandbox::Sandbox;

#[test]
fn what_the_installer_is_asked() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let asked = |file: &str| fs::read_to_string(sandbox.path("installer").join(file)).unwrap();
    assert_eq!(asked("requirements"), "aws-cdk-aws-imagebuilder>=1.153.1\naws-cdk-core~=1.137,>=1.153.1\n");
    // These are the constraints of the second attempt. In the first attempt, jsii was pinned too, and the
    // installer found no solution.
    assert_eq!(asked("constraints"), "aws-parallelcluster==3.1.3\nsetuptools==80.9.0\n");
    let mut log = sandbox.log();
    assert_eq!(log[0], "identity");
    // Some of the other steps run in parallel.
    log[1..].sort();
    assert_eq!(
        log[1..],
        [
            "compile",
            "compile",
            "node",
            "node",
            "node",
            "synth",
            "synth",
            "synth",
            "uv check",
            "uv check",
            "uv install",
            "uv install"
        ]
    );
}

/// Variables that would keep pip from installing are overridden; the user's own choices are kept.
#[test]
fn what_would_keep_pip_from_installing_does_not_count() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.has_pip_only();
    let call = environment.preflight(["fix"]).var("PIP_DRY_RUN", "1").var("PIP_PREFIX", "/elsewhere");
    let call = call.var("PIP_QUIET", "3").var("PIP_NO_DEPS", "1").var("PIP_PLATFORM", "win32");
    call.var("PIP_INDEX_URL", "https://index/").var("PIP_REQUIRE_HASHES", "1").run().exits(0);
    let seen = fs::read_to_string(sandbox.path("installer/environment")).unwrap();
    let value = |name: &str| seen.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    for name in ["PIP_DRY_RUN", "PIP_NO_DEPS", "PIP_QUIET", "PIP_USER"] {
        assert_eq!(value(name), Some("0"), "{name}");
    }
    assert_eq!((value("PIP_PREFIX"), value("PIP_PLATFORM")), (None, None));
    assert_eq!(value("PIP_INDEX_URL"), Some("https://index/"));
    assert_eq!(value("PIP_REQUIRE_HASHES"), Some("1"));
}

#[test]
fn uv_is_asked_for_hard_links_without_bytecode() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).var("UV_COMPILE_BYTECODE", "1").run().exits(0);
    let asked = fs::read_to_string(sandbox.path("installer/arguments")).unwrap();
    let asked: Vec<&str> = asked.split_whitespace().collect();
    for option in ["--link-mode=hardlink", "--no-compile-bytecode", "--deps"] {
        assert!(asked.contains(&option), "{option}: {asked:?}");
    }
    let seen = fs::read_to_string(sandbox.path("installer/environment")).unwrap();
    assert!(!seen.contains("UV_COMPILE_BYTECODE"), "uv refuses it together with the option");
}

#[test]
fn pip_repairs_where_there_is_no_uv() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.has_pip_only();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0).is_silent().stdout_matches("fix.txt");
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
    environment.preflight(["fix", "--installer", "uv"]).run().exits(1).stderr_matches("fix-no-uv.txt");
}

/// pip is run from the wheel that the environment's Python bundles.
#[test]
fn the_pip_of_ensurepip_repairs_where_there_is_no_other() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.has_bundled_pip_only();
    let before = environment.site();
    for arguments in [&["fix"][..], &["fix", "--installer", "pip"]] {
        sandbox.clear_log();
        let call =
            arguments.iter().fold(environment.preflight([]), |call, argument| call.argument(*argument));
        call.run().exits(0).is_silent().stdout_matches("fix.txt");
        let log = sandbox.log();
        assert!(
            log.contains(&"wheel install".to_owned()) && log.contains(&"wheel check".to_owned()),
            "{log:?}"
        );
        environment.preflight(["undo"]).run().exits(0);
        assert_eq!(environment.site(), before);
        environment.left_nothing("by an undo");
    }
    // The environment's own pip is preferred.
    environment.has_pip();
    sandbox.clear_log();
    environment.preflight(["fix", "--dry-run"]).run().exits(0);
    assert!(sandbox.log().contains(&"pip install".to_owned()), "{:?}", sandbox.log());
}

/// Asks a real Python for its bundled wheel of pip: first with ensurepip, and then without ensurepip, which
/// Debian has in a separate package.
#[test]
fn where_a_real_python_keeps_its_pip() {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/repair/bundled_pip.py");
    let ask = |first: &str| {
        let code = format!(
            "import sys, runpy; {first}; sys.argv = ['x', 'SENTINEL']; runpy.run_path({:?})",
            script.display().to_string()
        );
        let said = crate::support::machine::output(
            crate::support::machine::real_python(),
            &["-c".as_ref(), code.as_ref()],
        );
        let answer = said.split("\nSENTINEL\n").nth(1).unwrap().to_owned();
        serde_json::from_str::<Value>(&answer).unwrap()["wheel"].clone()
    };
    let wheel = ask("pass");
    let wheel = std::path::Path::new(wheel.as_str().expect("this machine's Python has ensurepip"));
    assert!(
        wheel.is_file() && wheel.extension().is_some_and(|ending| ending == "whl"),
        "{}",
        wheel.display()
    );
    assert_eq!(ask("sys.modules['ensurepip'] = None"), Value::Null);
}

#[test]
fn no_installer_at_all() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    fs::remove_file(sandbox.path("tools/uv")).unwrap();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-no-installer.txt");
    environment.preflight(["fix", "--installer", "pip"]).run().exits(1).stderr_matches("fix-no-pip.txt");
    // A Python that cannot answer counts as one without a pip.
    sandbox.write(environment.path("fake/bundled_pip"), "exit 3");
    environment.preflight(["fix"]).run().exits(1).stderr_matches("fix-no-installer.txt");
    environment.left_nothing("where there is no installer");
}

#[test]
fn an_installer_that_fails_in_every_way() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let ways = [
        ("exits", "echo line one; echo 'error: no network' >&2; exit 2"),
        ("dies", "kill -9 $$"),
        ("writes-nothing", "exit 0"),
        ("writes-garbage", "echo '{{{' >\"$target/garbage\"; mkdir \"$target/x-1.dist-info\"; exit 0"),
        ("half", "cp -Rp \"$here/1.204.0/aws_cdk.core-1.204.0.dist-info\" \"$target\"; exit 0"),
    ];
    for (name, sh) in ways {
        environment.installs_by(sh);
        let run = environment.preflight(["fix"]).run();
        run.exits(1).prefixed().stderr_matches(&format!("fix-installer-{name}.txt"));
        assert_eq!(environment.site(), before, "{name}");
        environment.left_nothing(name);
    }
    sandbox.script("tools/uv", "#!/no/such/interpreter\n");
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-installer-cannot-run.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by an installer that cannot be run");
}

#[test]
fn an_installer_that_hangs() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.installs_by("exec sleep 1000");
    let run = environment.preflight(["fix"]).var("PCLUSTER_SHIM_TIMEOUT", "1").run();
    run.exits(1).prefixed().stderr_matches("fix-installer-hangs.txt");
    environment.left_nothing("by an installer that hangs");
    assert_eq!(environment.site(), before);
}

/// If the installer's check gives no answer, that does not count as "nothing is broken".
#[test]
fn an_installer_that_does_not_say_what_is_broken() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    for (name, sh) in [("dies", "kill -9 $$"), ("hangs", "exec sleep 1000")] {
        sandbox.write("installer/check", sh);
        let run = environment.preflight(["fix"]).var("PCLUSTER_SHIM_TIMEOUT", "2").run();
        run.exits(1).prefixed().stderr_matches(&format!("fix-broken-{name}.txt"));
        assert_eq!(environment.site(), before, "{name}");
        environment.left_nothing(name);
    }
}

/// The installer's check gives no answer after the exchange. The hint says that the environment was restored,
/// not that nothing was changed.
#[test]
fn an_installer_that_does_not_say_what_a_repair_has_broken() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let site = environment.path("site");
    let check = format!("case $(echo '{}'/*) in *1.204.0*) kill -9 $$ ;; esac\n", site.display());
    sandbox.write("installer/check", check);
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed().stderr_matches("fix-broken-after.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by a repair that cannot be verified");
}
