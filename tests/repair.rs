//! `preflight fix`, `preflight undo`, mode `fix`: what they do, what they refuse, what they say.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::{Value, json};

use crate::support::broken_environment::{BrokenEnvironment, INSTALL, TOKEN, Unwritable, set_mode};
use crate::support::fakes::{BAD, REAL, REAL_OUTPUT};
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

#[track_caller]
fn versions(environment: &BrokenEnvironment) -> Vec<String> {
    let packages = environment.path("site").read_dir().unwrap().flatten();
    let names = packages.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".dist-info").map(str::to_owned)).collect();
    names.sort();
    names
}

const REPAIRED: [&str; 6] = [
    "attrs-21.4.0",
    "aws-parallelcluster-3.1.3",
    "aws_cdk.aws-imagebuilder-1.204.0",
    "aws_cdk.core-1.204.0",
    "jsii-1.132.0",
    "setuptools-80.9.0",
];

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
        // The mark of a package that the user asked for by name is kept.
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
fn what_the_installer_is_asked() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let asked = |file: &str| fs::read_to_string(sandbox.path("installer").join(file)).unwrap();
    assert_eq!(asked("requirements"), "aws-cdk-aws-imagebuilder>=1.153.1\naws-cdk-core~=1.137,>=1.153.1\n");
    // jsii was pinned in the first attempt, which had no solution.
    assert_eq!(asked("constraints"), "aws-parallelcluster==3.1.3\nsetuptools==80.9.0\n");
    let mut log = sandbox.log();
    assert_eq!(log[0], "identity");
    // The rest runs in parallel in part.
    log[1..].sort();
    assert_eq!(
        log[1..],
        [
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

/// Variables that turn pip into something else, and settings that are the user's to make.
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

/// The packages come compiled where the environment's are, whichever installer brings them.
#[test]
fn bytecode_is_as_before() {
    for (has_uv, is_compiled) in [(true, true), (true, false), (false, true), (false, false)] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        if !has_uv {
            environment.has_pip_only();
        }
        if !is_compiled {
            environment.is_not_compiled();
        }
        environment.preflight(["fix"]).run().exits(0);
        let site = environment.site();
        let compiled = site.keys().any(|path| path.extension().is_some_and(|ending| ending == "pyc"));
        assert_eq!(compiled, is_compiled, "uv: {has_uv}");
    }
    // A failing compilation does not fail the repair.
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    sandbox.write(environment.path("fake/compile"), "echo no >&2; exit 1");
    environment.preflight(["fix"]).run().exits(0).is_silent().stdout_matches("fix.txt");
}

#[test]
fn the_disk_is_full_while_it_compiles() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let answer =
        r#"printf '\n%s\n{"full": "[Errno 28] No space left on device"}\n%s\n' "$sentinel" "$sentinel""#;
    sandbox.write(environment.path("fake/compile"), answer);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-full-disk.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("on a full disk");
}

/// Compiles with a real Python: what compileall writes, and no part of a file where files cannot grow.
#[test]
fn bytecode_is_whole_or_absent() {
    let sandbox = Sandbox::new();
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/repair/compile.py");
    let python = crate::support::machine::real_python();
    let packages = sandbox.path("packages");
    let long = (0..400).map(|number| format!("x{number} = 'y{number}'")).collect::<Vec<_>>().join("\n");
    for (name, source) in [("long", &*long), ("short", "x = 'é'"), ("wrong", "x = (")] {
        sandbox.write(packages.join(format!("p/{name}.py")), source);
    }
    let run = |limit: &str, arguments: &str| {
        let sh = format!(
            "ulimit -f {limit}; '{}' {arguments} '{}' 2>/dev/null || :",
            python.display(),
            packages.display()
        );
        crate::support::machine::output("/bin/sh".as_ref(), &["-c".as_ref(), sh.as_ref()])
    };
    let take_bytecode = || {
        let cache = packages.join("p/__pycache__");
        let files = cache.read_dir().unwrap().flatten().map(|entry| entry.path());
        let files: std::collections::BTreeMap<_, _> =
            files.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        fs::remove_dir_all(cache).unwrap();
        files
    };
    let compile = format!("'{}' SENTINEL", script.display());
    let framed = |answer: &str| format!("\nSENTINEL\n{answer}\nSENTINEL\n");
    assert_eq!(run("unlimited", &compile), framed(r#"{"full": null}"#));
    let own = take_bytecode();
    assert_eq!(own.len(), 2);
    run("unlimited", "-m compileall -qq");
    assert!(own == take_bytecode(), "compileall writes something else");
    assert_eq!(run("4", &compile), framed(r#"{"full": "[Errno 27] File too large"}"#));
    assert!(take_bytecode().keys().all(|path| path.to_string_lossy().contains("short")));
}

/// The check imports them at the same time.
#[test]
fn what_pcluster_requires_is_compiled_first() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let asked = sandbox.path("compiled");
    sandbox.write(
        environment.path("fake/compile"),
        format!("for path; do echo \"${{path#*/overlay-*/}}\"; done >'{}'", asked.display()),
    );
    environment.preflight(["fix"]).run().exits(0);
    let asked = fs::read_to_string(asked).unwrap();
    let largest_first = "aws_cdk/core/__init__.py\naws_cdk/aws_imagebuilder/__init__.py\naws_cdk/aws_imagebuilder/only_in_1.204.0/a, b.py\n";
    let rest = asked.strip_prefix(largest_first).expect(&asked);
    assert!(rest.contains("/overlay-") && rest.lines().count() == 1, "{asked}");
}

/// Bytecode of the repaired packages is removed with them: a file of equal size and time would
/// be run in the place of the old one.
#[test]
fn undo_after_python_wrote_bytecode() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.is_not_compiled();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    environment.compile("aws_cdk/core/__init__.py", false);
    environment.compile("aws_cdk/aws_imagebuilder/only_in_1.204.0/a, b.py", false);
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
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

/// The pip that the environment's Python brings along runs from its wheel.
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

/// Asks a real Python: with a wheel, and as Debian has it, without ensurepip.
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
    // A Python that cannot say is one that has none.
    sandbox.write(environment.path("fake/bundled_pip"), "exit 3");
    environment.preflight(["fix"]).run().exits(1).stderr_matches("fix-no-installer.txt");
    environment.left_nothing("where there is no installer");
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
    // The repair was proven by syntheses nevertheless: before, beside the environment, in place.
    assert_eq!(sandbox.log().iter().filter(|line| *line == "synth").count(), 3);
    assert_eq!(versions(&environment), REPAIRED);
    // Nothing to repair: nothing said.
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

#[test]
fn undo_without_a_repair() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-nothing.txt");
    environment.left_nothing("by an undo of nothing");
}

#[test]
fn undo_after_the_environment_has_changed() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    environment.installs("jsii", "1.133.0", "");
    let changed = environment.site();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-changed.txt");
    assert_eq!(environment.site(), changed);
}

#[test]
fn what_conda_installed_is_left_alone() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    // Packages as conda leaves them, some without a RECORD.
    for package in ["aws_cdk.core", "aws_cdk.aws-imagebuilder"] {
        let dist_info = environment.path("site").join(format!("{package}-1.153.0.dist-info"));
        sandbox.write(dist_info.join("INSTALLER"), "conda\n");
    }
    fs::remove_file(environment.path("site/aws_cdk.core-1.153.0.dist-info/RECORD")).unwrap();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-conda.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where conda installed it");
}

/// A standard library whose distributor manages packages, and what its Python has on `sys.path`.
fn managed_library(sandbox: &Sandbox, marker: bool) -> std::path::PathBuf {
    let library = sandbox.path("usr/lib/python3.9");
    sandbox.write(library.join("os.py"), "");
    if marker {
        sandbox.write(library.join("EXTERNALLY-MANAGED"), "[externally-managed]\n");
    }
    library
}

#[test]
fn a_python_of_the_system_is_left_alone() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let library = managed_library(&sandbox, true);
    environment.is(&[("sysPath", json!([environment.path("bin"), library, environment.path("site")]))]);
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-externally-managed.txt");
    assert!(!sandbox.log().contains(&"uv install".to_owned()), "refused before anything is fetched");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where the system installed it");
    // A plan can be made nevertheless, and kept beside it.
    environment.preflight(["fix", "--dry-run"]).run().exits(0);
    environment.preflight(["fix", "--isolated"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// The marker is about the Python's own directories: a virtual environment's are its owner's, those
/// that it has from the system are not.
#[test]
fn a_virtual_environment_with_packages_of_the_system() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let library = managed_library(&sandbox, true);
    let system = sandbox.path("usr/lib/python3/dist-packages");
    sandbox.write(environment.path("pyvenv.cfg"), "include-system-site-packages = true\n");
    environment
        .is(&[("sysPath", json!([environment.path("bin"), library, environment.path("site"), system]))]);
    environment.preflight(["fix"]).run().exits(0).is_silent();
    environment.preflight(["undo"]).run().exits(0);

    // One of the packages that have to move lies in the system's directory.
    fs::create_dir_all(system.join("aws_cdk")).unwrap();
    for name in ["aws_cdk/core", "aws_cdk.core-1.153.0.dist-info"] {
        fs::rename(environment.path("site").join(name), system.join(name)).unwrap();
    }
    let before = (environment.site(), sandbox.tree("usr"));
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed().stderr_matches("fix-system-site.txt");
    assert!((environment.site(), sandbox.tree("usr")) == before, "something was changed");
    environment.left_nothing("where the system installed a part");
}

#[test]
fn what_spack_installed_is_left_alone() {
    for in_view in [false, true] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        // A view keeps the specs of its packages in directories by name.
        let spec = if in_view { "venv/.spack/py-aws-cdk-core/spec.json" } else { "venv/.spack/spec.json" };
        sandbox.write(spec, "{}");
        let before = environment.site();
        let run = environment.preflight(["fix"]).run();
        run.exits(1).prefixed().stderr_matches("fix-spack.txt");
        assert_eq!(environment.site(), before);
        environment.left_nothing("where Spack installed it");
        // Spack's configuration in HOME is no sign of an installation.
        fs::rename(environment.path(".spack"), environment.path("other")).unwrap();
        sandbox.write("venv/.spack/packages.yaml", "packages: {}\n");
        environment.preflight(["fix"]).run().exits(0);
    }
}

/// A view that holds links into the package's own prefix.
#[test]
fn a_view_of_spacks_with_links() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let store = sandbox.path("spack/py-aws-cdk-core");
    sandbox.write(store.join(".spack/spec.json"), "{}");
    for entry in environment.path("site").read_dir().unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("aws_cdk.") {
            fs::rename(entry.path(), store.join(entry.file_name())).unwrap();
            sandbox.link(entry.path(), store.join(entry.file_name()));
        }
    }
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("was installed by Spack"), "the links are followed");
}

/// Root would leave files that the owner of the environment cannot change.
#[test]
fn root_does_not_repair_what_another_user_owns() {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chown");
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let is_owned_by = |path: &str, uid: u32| {
        std::os::unix::fs::chown(environment.path("site").join(path), Some(uid), Some(uid)).unwrap();
    };
    let before = environment.site();
    is_owned_by("", 4711);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-another-user.txt");
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-another-user.txt");
    assert!(!environment.state.join("pcluster-shim").exists(), "no state is made for it");
    // The guard does not go on beside it: that would be root's too.
    let run = environment.build_image().var("PCLUSTER_SHIM_MODE", "fix").run();
    run.exits(1).prefixed().stdout_matches("verdicts/blocked-by-advisory.json");
    run.holds(run.stderr().contains("belongs to the user with the ID 4711"), "it says whose it is");
    assert!(!sandbox.log().contains(&"uv install".to_owned()), "refused before anything is fetched");
    is_owned_by("", 0);
    // A directory further down, which only the plan shows.
    is_owned_by("aws_cdk/core/_jsii", 4711);
    let run = environment.preflight(["fix"]).run();
    run.exits(1).holds(run.stderr().contains("_jsii belongs to the user"), "the directory is named");
    is_owned_by("aws_cdk/core/_jsii", 0);
    assert_eq!(environment.site(), before);
    environment.left_nothing("where another user owns it");
    environment.preflight(["fix"]).run().exits(0);
}

#[test]
fn a_directory_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let locked = Unwritable::new(&[environment.path("site")]);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-unwritable.txt");
    assert!(!sandbox.log().contains(&"uv install".to_owned()), "refused before anything is fetched");
    drop(locked);
    // One further down, which only the plan shows.
    let locked = Unwritable::new(&[environment.path("site/aws_cdk/core/_jsii")]);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-unwritable-below.txt");
    drop(locked);
    assert_eq!(environment.site(), before);
    environment.left_nothing("where nothing can be written");
}

/// A directory that turns read-only while the repair is proven.
#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_turns_read_only_on_the_way() {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chattr");
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let site = environment.path("site");
    sandbox.write(environment.path("fake/on-proof"), format!("chattr +i '{}'", site.display()));
    let run = environment.preflight(["fix"]).run();
    crate::support::machine::output(
        &crate::support::machine::on_this_machine("chattr"),
        &["-i".as_ref(), site.as_os_str()],
    );
    run.exits(1).prefixed().stderr_matches("fix-unwritable.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where nothing can be written");
}

/// An undo that would stop half-way changes nothing.
#[test]
#[cfg(target_os = "linux")]
fn undo_in_a_read_only_directory_changes_nothing() {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chattr");
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.site();
    let directory = environment.path("site/aws_cdk/core");
    let change = |flag: &str| {
        let chattr = crate::support::machine::on_this_machine("chattr");
        crate::support::machine::output(&chattr, &[flag.as_ref(), directory.as_os_str()]);
    };
    change("+i");
    let run = environment.preflight(["undo"]).run();
    change("-i");
    run.exits(1).prefixed().stderr_matches("undo-unwritable.txt");
    assert_eq!(environment.site(), repaired);
    environment.preflight(["undo"]).run().exits(0);
}

#[test]
fn a_package_without_record() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    fs::remove_file(environment.path("site/aws_cdk.core-1.153.0.dist-info/RECORD")).unwrap();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-no-record.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where files are unknown");
}

/// Packages as an interrupted pip leaves them: which files belong to which is not known.
#[test]
fn a_package_that_is_installed_twice() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let site = environment.path("site");
    let metadata = "Metadata-Version: 2.1\nName: aws-cdk.core\nVersion: 1.100.0\n";
    sandbox.write(site.join("aws_cdk_core-1.100.0.dist-info/METADATA"), metadata);
    let before = environment.site();
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("aws-cdk-core is installed twice: "), "it says which");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where a package is there twice");
}

#[test]
fn files_outside_and_in_the_way() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let record = environment.path("site/aws_cdk.core-1.153.0.dist-info/RECORD");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, format!("{text}../../bin/cdk,,\n")).unwrap();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-outside.txt");
    fs::write(&record, text).unwrap();
    sandbox.write(environment.path("site/aws_cdk/aws_imagebuilder/only_in_1.204.0/a, b.py"), "mine");
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-in-the-way.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where a file is in the way");
}

/// The installed and the staged aws-cdk.core have a script and data files: `lead` is how the staged RECORD names
/// the prefix.
fn add_files_of_prefix(environment: &BrokenEnvironment, lead: &str) {
    let installed = environment.path("site/aws_cdk.core-1.153.0.dist-info");
    let files = [
        ("bin/cdk.py", "1.153.0", 0o755),
        ("bin/__pycache__/cdk.cpython-39.pyc", "compiled 1.153.0", 0o644),
        ("share/man/man1/cdk-1.153.0.1", "manual", 0o640),
        ("odd/cdk", "1.153.0", 0o644),
    ];
    environment.add_files(&installed, &environment.path(""), "../", &files);
    set_mode(&environment.path("share/man/man1"), 0o750);
    let wheels = environment.sandbox.path("installer/1.204.0");
    let staged = wheels.join("aws_cdk.core-1.204.0.dist-info");
    let staged_by = if lead.is_empty() { "uv\n" } else { "pip\n" };
    environment.sandbox.write(staged.join("INSTALLER"), staged_by);
    let files = [
        ("bin/cdk.py", "1.204.0", 0o755),
        ("bin/cdk-new", "1.204.0", 0o755),
        ("etc/cdk/settings", "1.204.0", 0o644),
        ("odd/cdk", "1.204.0", 0o644),
    ];
    environment.add_files(&staged, &wheels, lead, &files);
}

/// As uv names them in RECORD of `--target`, and as pip does.
#[test]
fn scripts_and_data_files_move() {
    for lead in ["", "../../"] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        add_files_of_prefix(&environment, lead);
        let before = environment.prefix();
        environment.preflight(["fix"]).run().exits(0).is_silent();
        let now = environment.prefix();
        let is = |path: &str| now.get(std::path::Path::new(path)).map(String::as_str).unwrap_or_default();
        for (path, mode) in [
            ("bin/cdk.py", "755 "),
            ("bin/cdk-new", "755 "),
            ("etc/cdk/settings", "644 "),
            ("odd/cdk", "644 "),
        ] {
            assert!(is(path).starts_with(mode) && is(path).ends_with("\"1.204.0\""), "{path}: {}", is(path));
        }
        for gone in ["bin/__pycache__", "share/man", "site/bin", "site/etc"] {
            assert_eq!(is(gone), "", "{gone}");
        }
        assert_ne!(is("share"), "", "share is every package's");
        let record = is("site/aws_cdk.core-1.204.0.dist-info/RECORD");
        for line in ["../bin/cdk.py,sha256=x,1", "../etc/cdk/settings,", "../odd/cdk,"] {
            assert!(record.contains(&format!("\\n{line}")), "{line}: {record}");
        }
        environment.preflight(["undo"]).run().exits(0);
        assert_eq!(environment.prefix(), before);
        environment.left_nothing("by an undo");
    }
}

/// A package may have the name `bin`.
#[test]
fn a_package_with_the_name_of_a_directory_of_the_prefix_stays_a_package() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let wheels = sandbox.path("installer/1.204.0");
    let staged = wheels.join("aws_cdk.core-1.204.0.dist-info");
    environment.add_files(&staged, &wheels, "", &[("bin/__init__.py", "", 0o644), ("bin/x.py", "", 0o644)]);
    environment.preflight(["fix"]).run().exits(0);
    assert!(environment.path("site/bin/x.py").exists() && !environment.path("bin/x.py").exists());
}

#[test]
fn a_directory_that_was_empty_is_there_after_an_undo() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    add_files_of_prefix(&environment, "");
    fs::create_dir_all(environment.path("etc/cdk")).unwrap();
    let before = environment.prefix();
    environment.preflight(["fix"]).run().exits(0);
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.prefix(), before);
}

#[test]
fn a_script_of_another_package_is_in_the_way() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    add_files_of_prefix(&environment, "");
    sandbox.write(environment.path("bin/cdk-new"), "of another package");
    let before = environment.prefix();
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("venv/bin/cdk-new is in the way"), "the file is named");
    assert_eq!(environment.prefix(), before);
    environment.left_nothing("where a file is in the way");
}

#[test]
fn a_directory_of_the_prefix_that_is_a_link_to_elsewhere_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    add_files_of_prefix(&environment, "");
    fs::rename(environment.path("share"), sandbox.path("elsewhere")).unwrap();
    sandbox.link(environment.path("share"), sandbox.path("elsewhere"));
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("a link leads from "), "it says so");
    assert!(sandbox.path("elsewhere/man/man1/cdk-1.153.0.1").exists());
    environment.left_nothing("where a link leads out");
}

/// A group that shares the environment, and a member with a strict umask.
fn share_with_group(environment: &BrokenEnvironment) {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chown");
    let below = environment.prefix().into_keys().map(|path| environment.root.join(path));
    for path in below.chain([environment.root.clone()]) {
        let mode = path.metadata().unwrap().permissions().mode();
        std::os::unix::fs::chown(&path, None, Some(GROUP)).unwrap();
        set_mode(&path, if path.is_dir() { 0o770 } else { mode & 0o770 | 0o060 });
    }
}

const GROUP: u32 = 4711;

fn fix_with_strict_umask<'a>(environment: &'a BrokenEnvironment) -> Call<'a> {
    let sh = crate::support::machine::on_this_machine("sh");
    environment.preflight(["fix"]).under(sh, &["-c", "umask 077; exec \"$@\"", "sh"])
}

#[test]
fn what_a_repair_places_is_of_the_group_that_shares_the_environment() {
    for environment in
        [Sandbox::new().broken_environment(), Sandbox::new().broken_environment_across_file_systems()]
    {
        add_files_of_prefix(&environment, "");
        share_with_group(&environment);
        let before = environment.prefix();
        fix_with_strict_umask(&environment).run().exits(0).is_silent();
        let now = environment.prefix();
        for (path, what) in now.iter().filter(|(path, what)| before.get(*path) != Some(what)) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let expected = match name {
                _ if what.starts_with("directory") => format!("directory 770 {GROUP}"),
                "run" | "cdk.py" | "cdk-new" => format!("770 {GROUP} "),
                _ => format!("660 {GROUP} "),
            };
            assert!(what.starts_with(&expected), "{}: {what}", path.display());
        }
        environment.preflight(["undo"]).run().exits(0);
        assert_eq!(environment.prefix(), before);
    }
}

#[test]
fn a_file_keeps_the_mode_of_the_one_that_it_replaces() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    for (file, mode) in [("core/__init__.py", 0o640), ("aws_imagebuilder/__init__.py", 0o444)] {
        set_mode(&environment.path("site/aws_cdk").join(file), mode);
    }
    environment.preflight(["fix"]).run().exits(0);
    let site = environment.site();
    assert!(site[std::path::Path::new("aws_cdk/core/__init__.py")].starts_with("640 "));
    assert!(site[std::path::Path::new("aws_cdk/aws_imagebuilder/__init__.py")].starts_with("444 "));
}

/// The staged file and the installer's cached one are the same file.
#[test]
fn the_mode_of_a_file_in_the_cache_of_uv_does_not_change() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    share_with_group(&environment);
    sandbox.link("tools/ln", crate::support::machine::on_this_machine("ln"));
    let cached = sandbox.write("installer/cached", "1.204.0");
    let links = format!("{INSTALL}\nln -f '{}' \"$target/aws_cdk/core/__init__.py\"\n", cached.display());
    environment.installs_by(&links);
    environment.preflight(["fix"]).run().exits(0);
    let placed = environment.path("site/aws_cdk/core/__init__.py").metadata().unwrap();
    assert_eq!((placed.mode() & 0o777, placed.gid()), (0o660, GROUP));
    let cached = cached.metadata().unwrap();
    assert_eq!((cached.mode() & 0o777, cached.gid()), (0o644, 0));
}

/// A package whose directory is a link: its files are another place's.
#[test]
fn a_package_behind_a_link() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let (package, elsewhere) = (environment.path("site/aws_cdk/aws_imagebuilder"), sandbox.path("elsewhere"));
    fs::rename(&package, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &package).unwrap();
    let names =
        || fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = names();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-behind-a-link.txt");
    assert_eq!(names(), before);
    assert!(package.is_symlink());
}

/// Two packages that bring one file: the second is not written into the first one's, which
/// has another name in the installer's cache.
#[test]
fn a_file_that_two_packages_bring() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let cache = sandbox.path("installer/cached");
    sandbox.write(&cache, "of the first");
    sandbox.link("tools/ln", crate::support::machine::on_this_machine("ln"));
    // uv links from its cache; the RECORDs of both list the file.
    let more = format!(
        "{INSTALL}\nln '{}' \"$target/shared.py\"\n\
         for package in aws_cdk.aws-imagebuilder aws_cdk.core; do\n\
         record=$target/$package-$version.dist-info/RECORD; echo shared.py,, >>\"$record\"; done\n",
        cache.display()
    );
    environment.installs_by(&more);
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    assert_eq!(fs::read_to_string(environment.path("site/shared.py")).unwrap(), "of the first");
    assert_eq!(fs::read_to_string(&cache).unwrap(), "of the first");
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

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
    // Other commands of pcluster do not use it.
    let run = sandbox.pcluster(["version"]).var("XDG_STATE_HOME", &environment.state).run();
    run.holds(run.stderr() == "\n", "no overlay for version");

    // After an upgrade it does not count any more.
    environment.installs("attrs", "22.1.0", "");
    let run = environment.build_image().run();
    run.exits(1).prefixed().stderr_matches("isolated-stale.txt");
    let run = environment.preflight([]).run();
    run.exits(1);
    run.holds(run.stdout().contains("stale"), "preflight says so too");
    where_().exits(0).is_silent().stdout_matches("where-stale-overlay.txt");
    where_json().exits(0).is_silent().stdout_matches("where-stale-overlay.json");

    // A new one takes its place, and undo removes it.
    let changed = environment.site();
    environment.preflight(["fix", "--isolated"]).run().exits(0);
    environment.build_image().run().exits(0).prints(REAL_OUTPUT);
    environment.preflight(["undo"]).run().exits(0).is_silent().stdout_matches("undo-isolated.txt");
    where_().exits(0).is_silent().stdout_matches("where-undone.txt");
    assert_eq!(environment.site(), changed);
    environment.left_nothing("by an undo");
    environment.build_image().run().exits(1);
}

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

/// A colon separates the directories of PYTHONPATH.
#[test]
fn not_beside_an_environment_in_a_directory_with_a_colon() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let run = environment.preflight(["fix", "--isolated"]).var("XDG_STATE_HOME", sandbox.path("a:b")).run();
    run.exits(1).prefixed().stderr_matches("fix-colon.txt");
    environment.left_nothing_elsewhere("where an overlay cannot work");
}

/// The newest release is broken too: proven beside the environment, so nothing is changed.
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
    let check = "case $(echo */*) in *1.204.0*) ;; esac\n\
                 [ -d '@SITE@/jsii-1.132.0.dist-info' ] && echo 'other 1 has requirement jsii<1.100, but you have jsii 1.132.0.'\n\
                 echo 'old 1 requires gone, which is not installed.'; exit 1\n";
    let check = check.replace("@SITE@", environment.path("site").to_str().unwrap());
    sandbox.write("installer/check", check);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-breaks.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by a repair that was rolled back");
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
    environment.installs_by("exec sleep 1000");
    let run = environment.preflight(["fix"]).var("PCLUSTER_SHIM_TIMEOUT", "1").run();
    run.exits(1).prefixed().stderr_matches("fix-installer-hangs.txt");
    environment.left_nothing("by an installer that hangs");
    sandbox.script("tools/uv", "#!/no/such/interpreter\n");
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-installer-cannot-run.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by an installer that cannot be run");
}

/// A question that was not answered is not answered with "nothing is broken".
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

#[test]
fn no_place_for_state() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let file = sandbox.write("home/a-file", "");
    let run = environment.preflight(["fix"]).var("XDG_STATE_HOME", &file).run();
    run.exits(1).prefixed().stderr_matches("fix-no-state.txt");
    // A check does not need any.
    environment.preflight(["--no-synth"]).var("XDG_STATE_HOME", &file).run().exits(1).is_silent();
    assert_eq!(environment.site(), before);
}

/// A journal of a later version, or damaged: the state of the repair is not known.
#[test]
fn a_journal_that_cannot_be_read_is_reported() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix", "--dry-run"]).run().exits(0);
    let journal = environment.repairs().join("journal.json");
    fs::write(&journal, "{\"id\": 3").unwrap();
    set_mode(&journal, 0o644);
    for arguments in [["fix"], ["undo"]] {
        environment.preflight(arguments).run().exits(1).prefixed().stderr_matches("journal-damaged.txt");
    }
}

/// A file of the repair's state as JSON, changed.
fn edit(file: &std::path::Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    change(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

/// A copy that is gone, shorter, or of equal size with other content: nothing is removed.
#[test]
fn an_undo_with_a_damaged_copy_changes_nothing() {
    let sandbox = Sandbox::new();
    for environment in [sandbox.broken_environment(), Sandbox::new().broken_environment_across_file_systems()]
    {
        let before = environment.site();
        environment.preflight(["fix"]).run().exits(0);
        let repaired = environment.site();
        // The cores of both releases are five letters long.
        let core = "venv/site/aws_cdk/core/__init__.py";
        let journal = fs::read_to_string(environment.closed_journal()).unwrap();
        let journal: Value = serde_json::from_str(&journal).unwrap();
        let saved = journal["removed"].as_array().unwrap().iter();
        let saved = saved.into_iter().find(|saved| saved["path"].as_str().unwrap().ends_with(core)).unwrap();
        let copy = environment.snapshot().join(saved["copy"].as_str().unwrap());
        let content = fs::read(&copy).unwrap();
        let kept = environment.kept();
        for (damage, name) in [(None, "gone"), (Some("1.1"), "shorter"), (Some("1.999.9"), "other")] {
            fs::remove_file(&copy).unwrap();
            if let Some(text) = damage {
                fs::write(&copy, text).unwrap();
            }
            let run = environment.preflight(["undo"]).run();
            run.exits(1).prefixed();
            run.holds(run.stderr().contains(copy.to_str().unwrap()), "the copy is named");
            if environment.state == sandbox.path("state") {
                run.stderr_matches(&format!("undo-copy-{name}.txt"));
            }
            assert!(environment.site() == repaired, "{name}: something was changed");
            assert_eq!(environment.kept(), kept, "{name}");
            environment.preflight([]).run().exits(0).is_silent();
            fs::write(&copy, &content).unwrap();
        }
        environment.preflight(["undo"]).run().exits(0);
        assert_eq!(environment.content(), without_times(&before));
    }
}

fn without_times(
    tree: &crate::support::broken_environment::Tree,
) -> crate::support::broken_environment::Tree {
    let without = |what: &String| match (what.find('('), what.find(')')) {
        (Some(from), Some(to)) if !what.starts_with("directory") => {
            format!("{}(0, 0){}", &what[..from], &what[to + 1..])
        }
        _ => what.clone(),
    };
    tree.iter().map(|(path, what)| (path.clone(), without(what))).collect()
}

fn without_token(
    mut tree: crate::support::broken_environment::Tree,
) -> crate::support::broken_environment::Tree {
    tree.remove(std::path::Path::new(TOKEN)).expect("there is a token");
    tree
}

/// The record of the last repair is damaged or empty: reported, and nothing is deleted.
#[test]
fn a_last_journal_that_cannot_be_read_deletes_nothing() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.site();
    let last = environment.closed_journal();
    let content = fs::read(&last).unwrap();
    // The lock holds the PID of its last holder.
    let without_lock = |tree: String| {
        tree.lines().filter(|line| !line.contains("/lock ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let state = without_lock(sandbox.tree("state"));
    for (damage, name) in [("{}", "empty-object"), ("", "empty"), ("{\"id\": 3", "half")] {
        fs::write(&last, damage).unwrap();
        environment
            .preflight(["undo"])
            .run()
            .exits(1)
            .prefixed()
            .stderr_matches(&format!("undo-last-{name}.txt"));
        environment.preflight([]).run().exits(0).is_silent();
        let run = environment.preflight(["fix"]).run();
        run.exits(0).stdout_matches("fix-nothing.txt");
        run.warns_once("/repair-");
        assert!(environment.site() == repaired, "{name}: something was changed");
        fs::write(&last, &content).unwrap();
        assert_eq!(without_lock(sandbox.tree("state")), state, "{name}");
    }
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// A journal is data from disk: what it names outside of the environment's packages is not touched.
#[test]
fn a_journal_that_names_files_outside_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.site();
    let mine = sandbox.write("home/mine", "mine");
    let last = environment.closed_journal();
    let content = fs::read(&last).unwrap();
    let site = environment.path("site");
    sandbox.link(site.join("elsewhere"), sandbox.path("home"));
    let outside = [
        json!(mine),
        json!(site.join("../../home/mine")),
        json!(site.join("elsewhere/mine")),
        json!("relative/mine"),
    ];
    for (number, path) in outside.iter().enumerate() {
        for list in ["created", "removed"] {
            edit(&last, |journal| match list {
                "created" => journal["created"][0] = path.clone(),
                _ => journal["removed"][0]["path"] = path.clone(),
            });
            let run = environment.preflight(["undo"]).run();
            run.exits(1).prefixed();
            if list == "created" && number == 0 {
                run.stderr_matches("undo-outside.txt");
            }
            run.holds(run.stderr().contains("is refused"), &format!("{list} {path}"));
            assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
            fs::write(&last, &content).unwrap();
        }
    }
    edit(&last, |journal| journal["removed"][0]["copy"] = json!("../../mine"));
    environment.preflight(["undo"]).run().exits(1).prefixed();
    fs::write(&last, &content).unwrap();
    edit(&last, |journal| journal["site"] = json!("/"));
    environment.preflight(["undo"]).run().exits(1).prefixed();
    // An open journal is one that every command would roll back.
    edit(&last, |journal| journal["created"][0] = json!(mine));
    fs::rename(&last, last.with_file_name("journal.json")).unwrap();
    environment.preflight([]).run();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("journal-outside.txt");
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
    fs::write(&last, &content).unwrap();
    fs::remove_file(last.with_file_name("journal.json")).unwrap();
    fs::remove_file(site.join("elsewhere")).unwrap();
    assert!(environment.site() == repaired, "something was changed");
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// An empty one would be found in any file that has an empty line.
#[test]
fn a_journal_with_an_impossible_token_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.site();
    edit(&environment.closed_journal(), |journal| journal["token"] = json!(""));
    let run = environment.preflight(["undo"]).run();
    run.exits(1).prefixed().holds(run.stderr().contains("is refused"), "it says so");
    assert!(environment.site() == repaired, "something was changed");
}

/// A journal as version 0.1.0 wrote it: without sizes, digests and packages.
#[test]
fn a_journal_of_before_is_undone() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    fs::remove_file(environment.path("site").join(TOKEN)).unwrap();
    let repaired = environment.site();
    let last = environment.closed_journal();
    edit(&last, |journal| {
        for field in ["sites", "parts", "created_digests", "token"] {
            journal.as_object_mut().unwrap().remove(field).unwrap();
        }
        for saved in journal["removed"].as_array_mut().unwrap() {
            *saved = json!({"path": saved["path"], "copy": saved["copy"]});
        }
        for saved in journal["directories"].as_array_mut().unwrap() {
            *saved = json!([saved["path"], saved["mode"]]);
        }
    });
    fs::rename(&last, last.with_file_name("last.json")).unwrap();
    let copy = environment.snapshot().join("0");
    let aside = sandbox.path("aside");
    fs::rename(&copy, &aside).unwrap();
    let run = environment.preflight(["undo"]).run();
    run.exits(1).holds(run.stderr().contains("snapshot-"), "the copy that is gone is named");
    assert!(environment.site() == repaired, "something was changed");
    fs::rename(&aside, &copy).unwrap();
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// uv locks `.lock` of a virtual environment while it changes it.
#[test]
#[cfg(target_os = "linux")]
fn a_repair_waits_for_uv() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    sandbox.write(environment.path("pyvenv.cfg"), "");
    let lock = sandbox.write(environment.path(".lock"), "");
    let before = environment.site();
    let held = fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let fix = scope.spawn(|| environment.preflight(["fix", "-v"]).run());
        crate::failpoints::wait_for_holders(&lock, 2);
        assert!(environment.site() == before, "touched while uv is at work");
        drop(held);
        let fix = fix.join().unwrap();
        fix.exits(0).holds(fix.stderr().contains("waiting for uv"), "it says whom it waits for");
    });
}

/// pip, which takes no lock, between the plan and the exchange.
#[test]
fn another_installer_before_the_exchange() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let pips = pips_release(&environment);
    sandbox.write(environment.path("fake/on-proof"), &pips);
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed().stderr_matches("fix-changed-meanwhile.txt");
    assert!(versions(&environment).contains(&"aws_cdk.core-1.152.0".to_owned()));
    environment.left_nothing("where another installer was at work");
}

/// The steps of a pip that found the old release and installs 1.152.0 of aws-cdk.core, in sh.
fn pips_release(environment: &BrokenEnvironment) -> String {
    let (site, wheels) = (environment.path("site"), environment.sandbox.path("installer/1.152.0"));
    format!(
        "cd '{}' && rm -rf aws_cdk/core aws_cdk.core-1.153.0.dist-info && cp -Rp '{1}/aws_cdk/core' aws_cdk/ && \
         cp -Rp '{1}/aws_cdk.core-1.152.0.dist-info' .\n",
        site.display(),
        wheels.display()
    )
}

/// pip, which has read the environment before the exchange and writes after it: two `.dist-info` of
/// one package. pip's files stay, all others are as they were.
#[test]
fn another_installer_after_the_exchange() {
    for then in ["over it", "in its place", "at work"] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        let before = environment.site();
        // The verification's check of requirements runs after the exchange, the proof's before.
        let site = environment.path("site");
        let first = match then {
            "in its place" => "rm -rf aws_cdk/core aws_cdk.core-1.204.0.dist-info; ",
            _ => "",
        };
        let last = if then == "at work" { "; rm aws_cdk.core-1.152.0.dist-info/RECORD" } else { "" };
        let wheels = sandbox.path("installer/1.152.0");
        let check = format!(
            "[ -d '{0}/aws_cdk.core-1.204.0.dist-info' ] && cd '{0}' && {{ {first}cp -Rp '{1}/aws_cdk/core' aws_cdk/; \
             cp -Rp '{1}/aws_cdk.core-1.152.0.dist-info' .{last}; }}; exit 0",
            site.display(),
            wheels.display()
        );
        sandbox.write("installer/check", check);
        let run = environment.preflight(["fix"]).run();
        run.exits(1).prefixed().stderr_matches("fix-changed-after.txt");
        let names = versions(&environment);
        assert!(
            names.contains(&"aws_cdk.core-1.152.0".to_owned()),
            "{then}: what pip wrote is gone: {names:?}"
        );
        assert!(!names.contains(&"aws_cdk.core-1.153.0".to_owned()), "{then}: {names:?}");
        assert!(names.contains(&"jsii-1.57.0".to_owned()), "{then}: the others are as they were: {names:?}");
        let core = fs::read_to_string(site.join("aws_cdk/core/__init__.py")).unwrap();
        assert_eq!(core, "1.152.0", "{then}");
        if then != "at work" {
            assert!(!names.contains(&"aws_cdk.core-1.204.0".to_owned()), "{then}: {names:?}");
            assert!(
                !site.join("aws_cdk/core/_jsii/core@1.204.0.jsii.tgz").exists(),
                "{then}: the repair's own file"
            );
            assert!(site.join("aws_cdk/core/_jsii/core@1.152.0.jsii.tgz").exists(), "{then}");
        }
        let is_cores = |path: &std::path::Path| {
            path.starts_with("aws_cdk/core") || path.to_string_lossy().contains("aws_cdk.core")
        };
        let others = |tree: crate::support::broken_environment::Tree| -> Vec<_> {
            tree.into_iter().filter(|(path, _)| !is_cores(path)).collect()
        };
        assert_eq!(others(environment.site()), others(before), "{then}");
        environment.left_nothing("where another installer was at work");
    }
}

/// pip after the repair: an undo would remove its files.
#[test]
fn undo_after_a_reinstallation() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let record = environment.path("site/aws_cdk.core-1.204.0.dist-info/RECORD");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text + "aws_cdk/core/more.py,,\n").unwrap();
    let now = environment.site();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-reinstalled.txt");
    assert_eq!(environment.site(), now);
}

/// `rm -rf`, and a new environment at the same path.
#[test]
fn undo_in_a_recreated_environment_changes_nothing() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let packages = environment.keep_copy("packages");
    environment.preflight(["fix"]).run().exits(0);
    let recreated = environment.recreate(&packages);
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-recreated.txt");
    assert_eq!(environment.site(), recreated);
    let kept = environment.kept();
    let is_kept = matches!(kept.as_slice(), [journal, snapshot]
        if journal.starts_with("repair-") && snapshot.starts_with("snapshot-"));
    assert!(is_kept, "the old files are kept: {kept:?}");
    // The new one can be repaired like any other, and the old files are still kept.
    environment.preflight(["fix"]).run().exits(0).is_silent();
    environment.preflight(["undo"]).run().exits(0).is_silent();
    assert_eq!(environment.site(), recreated);
    assert_eq!(environment.kept(), kept);
}

/// Moved away and back: the repair of an environment is its own.
#[test]
fn undo_in_an_environment_that_is_back_at_its_path() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let packages = environment.keep_copy("packages");
    environment.preflight(["fix"]).run().exits(0);
    let aside = environment.keep_copy("aside");
    environment.recreate(&packages);
    environment.preflight(["undo"]).run().exits(1);
    environment.preflight(["fix"]).run().exits(0);
    environment.recreate(&aside);
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// As after `cp -a`, rsync or from a backup: other inodes, the same environment.
#[test]
fn undo_in_a_restored_environment() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    environment.recreate(&environment.keep_copy("backup"));
    environment.preflight(["undo"]).run().exits(0).is_silent();
    assert_eq!(environment.content(), without_times(&before));
    environment.left_nothing("by an undo");
}

#[test]
fn undo_after_new_files_are_gone() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let site = environment.path("site");
    for gone in ["aws_cdk/core", "aws_cdk.core-1.204.0.dist-info", "jsii"] {
        fs::remove_dir_all(site.join(gone)).unwrap();
    }
    fs::remove_file(site.join("aws_cdk.aws-imagebuilder-1.204.0.dist-info/RECORD")).unwrap();
    environment.preflight(["undo"]).run().exits(0).is_silent().stdout_matches("undo.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by an undo");
}

/// Another release is further behind on the path, where the repair has changed nothing.
#[test]
fn undo_after_new_files_are_gone_that_the_system_has_too() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let system = sandbox.path("usr/lib/python3/dist-packages");
    environment.is(&[("sysPath", json!([environment.path("site"), system]))]);
    environment.wheel(&system, "aws-cdk.core", "1.100.0", "", &[]);
    environment.preflight(["fix"]).run().exits(0);
    fs::remove_dir_all(environment.path("site/aws_cdk.core-1.204.0.dist-info")).unwrap();
    environment.preflight(["undo"]).run().exits(0).is_silent();
    assert_eq!(environment.site(), before);
}

/// An installer has linked the new files to its cache, which is gone then: `uv cache clean`.
#[test]
fn undo_after_links_to_the_new_files_are_dead() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.installs_by(&INSTALL.replace("cp -Rp", "cp -Rs"));
    environment.preflight(["fix"]).run().exits(0);
    fs::remove_dir_all(sandbox.path("installer/1.204.0")).unwrap();
    environment.preflight(["undo"]).run().exits(0).is_silent().stdout_matches("undo.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by an undo");
}

#[test]
fn undo_after_a_new_file_was_changed_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    fs::write(environment.path("site/aws_cdk/aws_imagebuilder/__init__.py"), "1.204.1").unwrap();
    let changed = environment.site();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-changed-file.txt");
    assert_eq!(environment.site(), changed);
    environment.keeps_the_last_one();
}

/// The path of an old file that has no successor is taken.
#[test]
fn undo_where_another_file_is_in_the_way_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let old = environment.path("site/aws_cdk/aws_imagebuilder/only_in_1.153.0/a, b.py");
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    fs::write(&old, "mine").unwrap();
    let run = environment.preflight(["undo"]).run();
    run.exits(1).prefixed().holds(run.stderr().contains("a, b.py was changed since"), "it is named");
    assert_eq!(fs::read_to_string(&old).unwrap(), "mine");
}

/// Each has a state directory of their own.
#[test]
fn users_who_share_an_environment_undo_their_own_repairs() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix", "--strategy", "downgrade"]).run().exits(0);
    let downgraded = environment.site();
    environment.has_an_advisory_on_1_152_0();
    let other = sandbox.path("state-of-another");
    environment.preflight(["fix"]).var("XDG_STATE_HOME", &other).run().exits(0);
    assert_eq!(versions(&environment), REPAIRED);
    environment.preflight(["undo"]).var("XDG_STATE_HOME", &other).run().exits(0);
    assert_eq!(environment.content(), without_times(&without_token(downgraded)));
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}
