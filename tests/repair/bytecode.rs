//! Compiled packages before, during and after a repair.

use std::fs;

use serde_json::json;

use crate::support::sandbox::Sandbox;

/// New packages are compiled if the old ones were, whichever installer installs them.
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

/// Python fails on a damaged file of bytecode. If the file is missing, Python compiles the source again.
#[test]
fn a_damaged_file_is_removed_by_fix_and_only_named_by_a_dry_run() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let damaged = environment.path("site/pcluster/__pycache__/cli.cpython-39.pyc");
    sandbox.write(&damaged, "");
    let failure = json!({
        "kind": "unstartable", "stage": "import", "exception": "EOFError", "message": "marshal data too short",
        "module": null, "moduleFile": null, "file": null, "bytecode": damaged, "cause": null,
    });
    sandbox.write(environment.path("fake/damaged.json"), failure.to_string());
    environment.synthesizes(
        "answer=synth\n[ -f \"$fake/../site/pcluster/__pycache__/cli.cpython-39.pyc\" ] && answer=damaged\n\
         printf '\\n%s\\n' \"$sentinel\"; cat \"$fake/$answer.json\"; printf '\\n%s\\n' \"$sentinel\"\n",
    );
    for options in [&["--dry-run"][..], &["--isolated"]] {
        let call = sandbox.pcluster(["preflight", "fix"]);
        options.iter().fold(call, |call, option| call.argument(*option)).run();
        assert!(damaged.exists(), "{options:?} changes nothing");
    }
    let run = sandbox.pcluster(["preflight", "fix", "--dry-run"]).run();
    run.exits(0).stdout_matches("fix-damaged-planned.txt");
    let run = sandbox.pcluster(["preflight", "fix"]).run();
    run.exits(0).stdout_matches("fix-damaged.txt").stderr_matches("fix-damaged-removed.txt");
    assert!(!damaged.exists());
}

/// A damaged file outside the environment could belong to another environment.
#[test]
fn a_damaged_file_outside_the_environment_is_named_and_kept() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let damaged = sandbox.path("elsewhere/cli.cpython-39.pyc");
    sandbox.write(&damaged, "");
    environment.answers(&json!({
        "kind": "unstartable", "stage": "import", "exception": "EOFError", "message": "marshal data too short",
        "module": null, "moduleFile": null, "file": null, "bytecode": damaged, "cause": null,
    }));
    sandbox
        .pcluster(["preflight", "fix"])
        .run()
        .exits(1)
        .prefixed()
        .stderr_matches("fix-damaged-elsewhere.txt");
    assert!(damaged.exists());
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

/// With a real Python, compile.py writes the same files as compileall. If the size of files is limited,
/// compile.py leaves no partial file.
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

/// Before the proof starts, the repair compiles the packages that pcluster requires, because the proof
/// imports these packages first. While the proof runs, the repair compiles the other packages.
#[test]
fn what_pcluster_requires_is_compiled_first() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let asked = sandbox.path("compiled");
    sandbox.write(
        environment.path("fake/compile"),
        format!("for path; do echo \"${{path#*/overlay-*/}}\"; done >>'{}'", asked.display()),
    );
    environment.preflight(["fix"]).run().exits(0);
    let asked = fs::read_to_string(asked).unwrap();
    let largest_first = "aws_cdk/core/__init__.py\naws_cdk/aws_imagebuilder/__init__.py\naws_cdk/aws_imagebuilder/only_in_1.204.0/a, b.py\n";
    let rest = asked.strip_prefix(largest_first).expect(&asked);
    assert!(rest.contains("/overlay-") && rest.lines().count() == 1, "{asked}");
}

/// An undo also removes the bytecode of the new packages. Otherwise Python would run that bytecode instead of
/// an old source with the same size and time.
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
