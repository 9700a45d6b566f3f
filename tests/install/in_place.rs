//! The shim in the place of an environment's launcher (`--venv`).

use std::fs;

use super::{Home, SHELLS, in_place, small_binary};
use crate::support::machine::{on_this_machine, real_python};

/// An installation renames the launcher, and the shim starts the launcher through a link with the old name.
/// So usage texts show the old name. The first entry of `sys.path` is still the old directory, and a launcher
/// that searches its own directory for its Python still finds that Python.
#[test]
fn in_place_the_launcher_works_as_before_and_comes_back_byte_for_byte() {
    let python = real_python().display().to_string();
    let beside = r#"#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"#;
    let trampoline = format!("#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n");
    let shebang = format!("#!{python}\n");
    let shows = "import os, sys\nprint(os.path.basename(sys.argv[0]), sys.path[0], *sys.argv[1:])\n";
    for (installer, head) in SHELLS.into_iter().zip([beside, &trampoline, &shebang]) {
        let home = Home::new();
        fs::remove_file(home.path("venv/bin/python")).unwrap();
        home.sandbox.link("venv/bin/python", &python);
        let launcher = format!("{head}# from pcluster.cli.entrypoint import main\n{shows}");
        home.sandbox.script("venv/bin/pcluster", launcher);
        let home = Home { before: home.files(), ..home };
        let call = |program: &str| {
            home.sandbox.call(home.path(program), ["version"]).path(&home.sandbox.search_path()[1..])
        };
        let direct = call("venv/bin/pcluster").run();
        direct.exits(0).holds(direct.stdout().starts_with("pcluster /"), "its name");
        let directory = home.path("venv").display().to_string();
        let install = ["--venv", &directory, "--binary", &home.built];
        for _ in 0..2 {
            let run = home.installs_in(installer, install).run();
            run.exits(0).is_silent().stdout_matches("venv-install.txt");
        }
        // Called by its path, by its name, and by a link to it.
        call("venv/bin/pcluster").run().exits(0).prints(&direct.stdout()).is_silent();
        home.call("bash", ["-c", "cd / && pcluster version"]).run().exits(0).prints(&direct.stdout());
        home.sandbox.link("home/linked", home.path("venv/bin/pcluster"));
        call("home/linked").run().exits(0).prints(&direct.stdout());
        fs::remove_file(home.path("home/linked")).unwrap();
        let uninstall = ["--uninstall", "--venv", &directory];
        let run = home.installs_in(installer, uninstall).run();
        run.exits(0).is_silent().stdout_matches("venv-uninstall.txt");
        home.is_as_before(&run);
        let run = home.installs_in(installer, uninstall).run();
        run.exits(0).is_silent().stdout_matches("venv-uninstall-again.txt");
        home.is_as_before(&run);
    }
}

/// An uninstall from one environment also removes what repairs have left, except for what an undo needs.
#[test]
fn in_place_an_uninstall_keeps_only_what_an_undo_needs() {
    let home = Home::new();
    let directory = home.path("venv").display().to_string();
    in_place(&home, &["--binary", &home.built]);
    home.sandbox.write("state/pcluster-shim/environments/one/lock", "");
    let last = home.sandbox.write("state/pcluster-shim/environments/two/last.json", "{}");
    let uninstall = ["--uninstall", "--venv", &directory];
    let run = home.installs_in("dash", uninstall).run();
    run.exits(0).is_silent().stdout_matches("venv-uninstall-keeps.txt");
    assert!(last.is_file() && !home.path("state/pcluster-shim/environments/one").exists());
}

/// build-image is guarded, and `where` reports that.
#[test]
fn in_place_the_environment_is_guarded() {
    let home = Home::new();
    in_place(&home, &["--binary", &home.built]);
    let build = "pcluster build-image --image-configuration image.yaml --image-id my-image";
    let run = home.call("dash", ["-c", build]).run();
    run.exits(1).holds(run.stdout().contains("pcluster-shim stopped build-image"), "it is stopped");
    let run = home.call("dash", ["-c", "pcluster preflight where"]).run();
    run.exits(0).is_silent().stdout_matches("where-in-place.txt");
    let run = home.call("dash", ["-c", "pcluster preflight where --format json"]).run();
    run.exits(0).is_silent().stdout_matches("where-in-place.json");
    // A call by path is guarded, whatever is on PATH.
    for (name, snapshot) in [
        ("pcluster preflight", "where-in-place-by-path.txt"),
        ("pcluster-preflight", "where-in-place-preflight-by-path.txt"),
    ] {
        let line = format!("{}/{name} where", home.path("venv/bin").display());
        let tools = [home.path("tools")];
        let run = home.call("dash", ["-c", &line]).path(&tools).run();
        run.exits(0).is_silent().stdout_matches(snapshot);
    }
    // If another environment is first on PATH, its pcluster runs.
    home.sandbox.environment_in("other").really("echo \"the other pcluster: $*\"");
    let both = ["other/bin", "venv/bin", "tools"].map(|name| home.path(name));
    home.call("dash", ["-c", "pcluster version"]).path(&both).run().prints("the other pcluster: version\n");
    // Without `--venv`, install.sh puts a shim into a directory of its own. If that shim precedes the
    // environment's shim on PATH, the environment's launcher still runs.
    home.install();
    let run = home.call("bash", ["-i", "-c", "pcluster version && pcluster preflight where"]).run();
    run.exits(0).stdout_matches("where-both.txt");
    let named = home.sandbox.call(home.prefix().join("bin/pcluster"), ["version"]).path(&both);
    let named = named.var("PCLUSTER_SHIM_REAL", home.path("venv/bin/pcluster"));
    named.run().exits(0).prints("the real pcluster: version\n");
    home.uninstall();
    in_place(&home, &["--uninstall"]);
}

/// A launcher that pip or uv writes over the shim is newer than the one that the shim replaced. The newer
/// launcher is used and reported, and the next installation guards it.
#[test]
fn trap_27_what_overwrites_the_shim_in_place_is_reported_and_renewed() {
    let home = Home::new();
    in_place(&home, &["--binary", &home.built]);
    let newer = "#!/bin/sh\n# from pcluster.cli.entrypoint import main\necho newer \"$@\"\n";
    fs::remove_file(home.path("venv/bin/pcluster")).unwrap();
    home.sandbox.script("venv/bin/pcluster", newer);
    let asked = || home.call("dash", ["-c", "pcluster-preflight where"]).run();
    asked().exits(1).stdout_matches("where-overwritten.txt");
    home.call("dash", ["-c", "pcluster version"]).run().exits(0).prints("newer version\n");
    // The command that `where` prints needs only files in the environment.
    let (own, venv) = (home.path("venv/bin/.pcluster-shim/install.sh"), home.path("venv"));
    let renew = [own.to_str().unwrap(), "--venv", venv.to_str().unwrap()];
    home.call("dash", renew).run().exits(0).is_silent();
    asked().exits(0);
    home.call("dash", ["-c", "pcluster version"]).run().exits(0).prints("newer version\n");
    // pip removes `pcluster`, and then the shim is uninstalled: no old launcher comes back.
    fs::remove_file(home.path("venv/bin/pcluster")).unwrap();
    asked().exits(127).stdout_matches("where-removed.txt");
    in_place(&home, &["--uninstall"]);
    for left in ["pcluster", "pcluster.real", "pcluster-preflight", ".pcluster-shim"] {
        assert!(home.path("venv/bin").join(left).symlink_metadata().is_err(), "{left}");
    }
    // Without `--venv`, install.sh puts the shim into a directory of its own. A new launcher in the
    // environment does not overwrite that shim.
    home.install();
    home.sandbox.script("venv/bin/pcluster", newer);
    home.call("bash", ["-i", "-c", "pcluster preflight where -q"]).run().exits(0);
}

/// The launcher that an uninstall would restore is gone, or a file of the user's is in the way.
#[test]
fn in_place_nothing_is_lost_where_files_are_not_as_expected() {
    let home = Home::new();
    let venv = home.path("venv").display().to_string();
    in_place(&home, &["--binary", &home.built]);
    fs::remove_file(home.path("venv/bin/pcluster.real")).unwrap();
    let run = home.installs_in("dash", ["--uninstall", "--venv", &venv]).run();
    run.exits(1).prints("").stderr_matches("venv-no-launcher-uninstall.txt");
    let run = home.installs_in("dash", ["--binary", &home.built, "--venv", &venv]).run();
    run.exits(1).prints("").stderr_matches("venv-no-launcher.txt");
    let home = Home::new();
    let venv = home.path("venv").display().to_string();
    home.sandbox.write("venv/bin/pcluster.real", "theirs");
    let home = Home { before: home.files(), ..home };
    let run = home.installs_in("dash", ["--binary", &home.built, "--venv", &venv]).run();
    run.exits(1).prints("").stderr_matches("venv-in-the-way.txt");
    home.is_as_before(&run);
}

/// Another installation runs after this one has checked the launcher, and before this one copies it. The
/// launcher is not lost.
#[test]
fn in_place_another_installation_at_the_same_time_keeps_the_launcher() {
    let home = Home::new();
    let launcher = fs::read(home.path("venv/bin/pcluster")).unwrap();
    let venv = home.path("venv").display().to_string();
    let (real, script) = (on_this_machine("cp"), home.path("install.sh"));
    let tool = home.path("tools/cp");
    fs::remove_file(&tool).unwrap();
    let other = format!("{} --binary {} --venv {venv}", script.display(), home.built);
    let (cp, real, log) = (tool.display(), real.display(), home.path("other"));
    let text = format!(
        "#!/bin/sh\nrm {cp}\nln -s {real} {cp}\nsh {other} >{} 2>&1\nexec {real} \"$@\"\n",
        log.display()
    );
    home.sandbox.script("tools/cp", text);
    let run = home.installs_in("dash", ["--binary", &home.built, "--venv", &venv]).run();
    run.exits(0).is_silent();
    let said = fs::read_to_string(home.path("other")).unwrap();
    assert!(said.starts_with("guarded "), "{said}");
    assert_eq!(fs::read(home.path("venv/bin/pcluster.real")).unwrap(), launcher);
    in_place(&home, &["--uninstall"]);
    home.is_as_before(&run);
    // If the launcher is lost anyway, an uninstall reports that and changes nothing.
    in_place(&home, &["--binary", &home.built]);
    fs::copy(home.path("venv/bin/pcluster"), home.path("venv/bin/pcluster.real")).unwrap();
    let run = home.installs_in("dash", ["--uninstall", "--venv", &venv]).run();
    run.exits(1).prints("").stderr_matches("venv-no-launcher-uninstall.txt");
}

/// The leftovers of a killed run are removed, whether or not a complete installation is there too.
#[test]
fn in_place_what_a_killed_run_left_is_removed() {
    let home = Home::new();
    for finished in [false, true] {
        if finished {
            in_place(&home, &["--binary", &home.built]);
        } else {
            fs::create_dir(home.path("venv/bin/.pcluster-shim")).unwrap();
        }
        for name in ["pcluster", "pcluster.real", "pcluster-preflight", ".pcluster-shim/install.sh"] {
            home.sandbox.write(format!("venv/bin/{name}.pcluster-shim-new.12"), "half");
        }
        let venv = home.path("venv").display().to_string();
        let run = home.installs_in("dash", ["--uninstall", "--venv", &venv]).run();
        run.exits(0);
        home.is_as_before(&run);
    }
}

/// If the new shim does not find the launcher that it replaced, install.sh puts the launcher back. Otherwise
/// every pcluster call in the environment would fail.
#[test]
fn in_place_where_the_launcher_is_not_found_it_is_put_back() {
    let home = Home::new();
    let venv = home.path("venv").display().to_string();
    let launcher = fs::read(home.path("venv/bin/pcluster")).unwrap();
    let call = home.installs_in("dash", ["--binary", &home.built, "--venv", &venv]);
    let run = call.var("PCLUSTER_SHIM_REAL", "/absent/pcluster").run();
    run.exits(1).stderr_matches("in-place-put-back.txt");
    assert_eq!(fs::read(home.path("venv/bin/pcluster")).unwrap(), launcher);
    assert!(!home.path("venv/bin/pcluster.real").exists());
}

/// install.sh neither replaces nor removes a `pcluster-preflight` that a wheel has installed.
#[test]
fn a_preflight_that_a_wheel_has_installed_stays() {
    let home = Home::new();
    let venv = home.path("venv");
    let preflight = venv.join("bin/pcluster-preflight");
    fs::copy(small_binary(), &preflight).unwrap();
    let record = "lib/python3.9/site-packages/pcluster_preflight-0.1.0.dist-info/RECORD";
    home.sandbox.write(format!("venv/{record}"), "../../../bin/pcluster-preflight,sha256=x,1\n");
    let call = |arguments: &[&str]| {
        let call = home.sandbox.call(&preflight, []).path(&home.with_busybox());
        ["install", "--venv", venv.to_str().unwrap()]
            .iter()
            .chain(arguments)
            .fold(call, |call, argument| call.argument(*argument))
            .run()
    };
    for _ in 0..2 {
        call(&[]).exits(0).is_silent();
    }
    assert!(venv.join("bin/pcluster.real").is_file());
    call(&["--uninstall"]).exits(0).is_silent();
    assert_eq!(fs::read(&preflight).unwrap(), fs::read(small_binary()).unwrap());
    assert!(!venv.join("bin/pcluster.real").exists());
    // Without the wheel's RECORD, `pcluster-preflight` is a file in the way, and install.sh refuses.
    fs::remove_file(venv.join(record)).unwrap();
    let run = home.sandbox.call(home.path("tools/dash"), []).path(&home.with_busybox());
    let (script, built) = (home.path("install.sh"), home.path("built"));
    let all =
        [script.to_str().unwrap(), "--venv", venv.to_str().unwrap(), "--binary", built.to_str().unwrap()];
    all.iter().fold(run, |call, argument| call.argument(*argument)).run().exits(1);
}
