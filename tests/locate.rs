//! How the real pcluster is found among other files with the name `pcluster`. A trap's number is its row in
//! the table of tests/traps.rs.

use std::fs;
use std::path::PathBuf;

use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

const REAL: &str = "#!/bin/sh\necho real \"$@\"\n";

/// The first lines of a script that starts itself again through the shim. They end the loop after 200 levels,
/// in case the shim has not ended the loop before.
const COUNTED: &str = "#!/bin/sh\nexport LEVEL=$((LEVEL + 1))\n[ $LEVEL -le 200 ] || exit 99\n";
/// A script that runs the first pcluster on PATH, which is the shim.
const LOOP: &str =
    "#!/bin/sh\nexport LEVEL=$((LEVEL + 1))\n[ $LEVEL -le 200 ] || exit 99\nexec pcluster \"$@\"\n";

/// A call with the shim, these directories and the tools on PATH.
fn call(sandbox: &Sandbox, directories: &[&str]) -> Call {
    sandbox.pcluster(["version"]).path(&path(sandbox, directories))
}

fn path(sandbox: &Sandbox, directories: &[&str]) -> Vec<PathBuf> {
    ["shim"].iter().chain(directories).chain(&["tools"]).map(|name| sandbox.path(name)).collect()
}

/// Every name, copy and build of the shim is recognized as the shim.
#[test]
fn trap_01_and_02_no_copy_or_name_of_the_shim_is_taken_for_the_real_one() {
    let sandbox = Sandbox::new();
    sandbox.script("real/pcluster", REAL);
    sandbox.link("linked", sandbox.path("shim"));
    sandbox.link("named/pcluster", sandbox.binary());
    fs::create_dir(sandbox.path("copied")).unwrap();
    fs::copy(sandbox.binary(), sandbox.path("copied/pcluster")).unwrap();
    fs::create_dir(sandbox.path("hard")).unwrap();
    fs::hard_link(sandbox.path("copied/pcluster"), sandbox.path("hard/pcluster")).unwrap();
    let mut other = fs::read(sandbox.binary()).unwrap();
    other.push(b'\n');
    sandbox.script("other/pcluster", other);
    for before in ["shim/", "linked", "named", "copied", "hard", "other", "shim/../shim"] {
        call(&sandbox, &[before, "real"]).run().exits(0).prints("real version\n").is_silent();
        call(&sandbox, &[before]).run().exits(127).prints("").stderr_matches("locate-none.txt");
    }
    // Here the copy is started. The first shim on PATH is not the same file as the copy, but the copy
    // recognizes and skips that shim.
    let all = path(&sandbox, &["copied", "hard", "other", "real"]);
    let copied = sandbox.call(sandbox.path("copied/pcluster"), ["version"]).path(&all);
    copied.run().exits(0).prints("real version\n").is_silent();
}

/// The launcher execs the first pcluster on PATH, which is the shim.
#[test]
fn trap_03_an_exec_loop_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.script("loop/pcluster", LOOP);
    call(&sandbox, &["loop"]).run().exits(127).prints("").prefixed().stderr_matches("locate-loop.txt");
    sandbox.script("loop2/pcluster", LOOP);
    call(&sandbox, &["loop", "loop2"]).run().exits(127).prefixed().stderr_matches("locate-loop-of-two.txt");
    call(&sandbox, &["loop", "loop2", "loop"]).run().exits(127).prefixed();
    // A check and `where` do not take such a launcher for the real pcluster either.
    let path = path(&sandbox, &["loop", "loop2"]);
    sandbox.build_image().path(&path).run().exits(127).prints("").stderr_matches("locate-loop-of-two.txt");
    sandbox.pcluster(["preflight"]).path(&path).run().exits(127).prints("").prefixed();
    let run = sandbox.pcluster(["preflight", "where"]).path(&path).run();
    run.exits(1).stdout_matches("where-loop.txt").stderr_matches("locate-loop-of-two.txt");
}

/// The shim is not on PATH; the launcher starts it by path.
#[test]
fn a_replaced_launcher_that_starts_the_shim_again_is_named() {
    let sandbox = Sandbox::new();
    let shim = sandbox.path("guarded/pcluster");
    sandbox
        .script("guarded/.pcluster-shim/pcluster", format!("#!/bin/sh\nexec '{}' \"$@\"\n", shim.display()));
    fs::copy(sandbox.binary(), &shim).unwrap();
    let run = sandbox.call(shim, ["version"]).path(&[sandbox.path("tools")]).run();
    run.exits(127).prints("").prefixed().stderr_matches("locate-loop-of-replaced.txt");
}

/// PATH contains the shim, a launcher of another shim manager (such as pyenv), and the real pcluster.
/// If that launcher starts the shim again, the shim skips the launcher and runs the real pcluster. The real
/// pcluster also runs if the launcher is first on PATH.
#[test]
fn trap_04_two_shim_managers_hand_on_to_the_real_one() {
    let sandbox = Sandbox::new();
    sandbox.script("real/pcluster", REAL);
    // What pyenv does: it takes its own directory off PATH, and runs the first pcluster on the rest of PATH.
    let takes_itself_off = format!(
        "#!/bin/bash\nown={}:\nPATH=${{PATH//\"$own\"/}}\nexec pcluster \"$@\"\n",
        sandbox.path("manager").display()
    );
    // `LOOP` does what a careless manager does: it runs the first pcluster on PATH.
    for script in [takes_itself_off.as_str(), LOOP] {
        sandbox.script("manager/pcluster", script);
        call(&sandbox, &["manager", "real"]).run().exits(0).prints("real version\n").is_silent();
    }
    sandbox.script("manager/pcluster", takes_itself_off);
    let manager_first =
        [sandbox.path("manager"), sandbox.path("shim"), sandbox.path("real"), sandbox.path("tools")];
    let first = sandbox.call(sandbox.path("manager/pcluster"), ["version"]).path(&manager_first);
    first.run().exits(0).prints("real version\n").is_silent();
}

/// A call that the real program makes is guarded. The shim ignores the paths in an inherited
/// `PCLUSTER_SHIM_TRIED`, because the PID in the variable is that of another process.
#[test]
fn trap_05_a_nested_call_is_guarded_like_any_other() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    environment.really(
        "case $1 in version) pcluster build-image -c image.yaml -i my-image ;; *) echo unguarded ;; esac",
    );
    sandbox.build_image();
    let run = sandbox.pcluster(["version"]).run();
    run.exits(1)
        .prefixed()
        .holds(run.stdout().contains("configurationValidationErrors"), "it was not stopped");
    assert_eq!(sandbox.log(), ["real version", "identity", "node", "synth"]);
    // For a launcher that is not a console script, the shim sets `PCLUSTER_SHIM_TRIED`, and calls that the
    // real program makes inherit the variable. These calls are guarded too.
    let run = sandbox.build_image().var("PCLUSTER_SHIM_TRIED", "1/7//usr/bin/pcluster").run();
    run.exits(1).prefixed().prints(&run.stdout());
}

#[test]
fn twenty_five_levels_of_pcluster_work() {
    let sandbox = Sandbox::new();
    let script = "#!/bin/sh\nif [ \"$1\" -gt 0 ]; then pcluster $(($1 - 1)); exit; fi\necho bottom\n";
    sandbox.script("real/pcluster", script);
    let run = sandbox.pcluster(["25"]).path(&path(&sandbox, &["real"])).run();
    run.exits(0).prints("bottom\n").is_silent();
}

/// Every level is a new process, so the shim recognizes the loop only by the number of levels.
#[test]
fn a_spawn_loop_without_end_is_ended() {
    let sandbox = Sandbox::new();
    sandbox.script("loop/pcluster", format!("{COUNTED}echo level >>\"$LEVELS\"\npcluster \"$@\"\n"));
    let run = call(&sandbox, &["loop"]).var("LEVELS", sandbox.path("levels")).run();
    run.exits(127).prefixed().stderr_matches("locate-loop.txt");
    let levels = fs::read_to_string(sandbox.path("levels")).unwrap().lines().count();
    assert!((25..=100).contains(&levels), "{levels} levels");
}

/// An empty or relative entry of PATH depends on the current directory, which could contain any program.
#[test]
fn trap_17_a_planted_program_in_the_current_directory_is_not_run() {
    let sandbox = Sandbox::new();
    sandbox.script("work/pcluster", "#!/bin/sh\necho planted\n");
    sandbox.script("work/bin/pcluster", "#!/bin/sh\necho planted\n");
    sandbox.script("real/pcluster", REAL);
    let [shim, real, tools] = ["shim", "real", "tools"].map(|name| sandbox.path(name).display().to_string());
    for planted in ["", ".", "bin", "./bin", "../work"] {
        let with_real = sandbox.pcluster(["version"]).var("PATH", format!("{planted}:{shim}:{real}:{tools}"));
        with_real.run().exits(0).prints("real version\n");
        let alone = sandbox.pcluster(["version"]).var("PATH", format!("{shim}:{planted}:{tools}"));
        alone.run().exits(127).prints("");
    }
    let run =
        sandbox.pcluster(["preflight", "where"]).var("PATH", format!("{shim}::bin:{real}:{tools}")).run();
    run.holds(run.stdout().contains("this PATH entry is not absolute"), "where warns of it");
}

#[test]
fn trap_19_what_is_no_executable_file_is_passed_over() {
    let sandbox = Sandbox::new();
    sandbox.script("real/pcluster", REAL);
    fs::create_dir_all(sandbox.path("directory/pcluster")).unwrap();
    sandbox.write("plain/pcluster", "not executable");
    sandbox.link("dangling/pcluster", "nowhere");
    sandbox.link("circle/pcluster", "pcluster");
    sandbox.write("file", "in the place of a directory");
    let debris = ["absent", "directory", "plain", "dangling", "circle", "file"];
    call(&sandbox, &[&debris[..], &["real"]].concat()).run().exits(0).prints("real version\n").is_silent();
    call(&sandbox, &debris).run().exits(127).stderr_matches("locate-none.txt");
}

/// Permission bits do not stop root, so this test shows something only if another user runs it.
#[test]
fn a_directory_that_may_not_be_entered_is_passed_over() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = Sandbox::new();
    sandbox.script("real/pcluster", REAL);
    fs::create_dir(sandbox.path("locked")).unwrap();
    fs::set_permissions(sandbox.path("locked"), fs::Permissions::from_mode(0o0)).unwrap();
    let run = call(&sandbox, &["locked", "real"]).run();
    fs::set_permissions(sandbox.path("locked"), fs::Permissions::from_mode(0o755)).unwrap();
    run.exits(0).prints("real version\n").is_silent();
}

/// Without a real pcluster, every command that needs one exits with 127, as a shell does if it does not
/// find a command.
#[test]
fn trap_24_without_a_real_pcluster_every_command_says_so() {
    let sandbox = Sandbox::new();
    for arguments in [["version", ""], ["--help", ""], ["build-image", "-h"], ["preflight", "check"]] {
        let run = sandbox.pcluster(arguments).path(&[sandbox.path("shim")]).run();
        run.exits(127).prints("").prefixed().stderr_matches("locate-none.txt");
    }
    let run = sandbox.pcluster(["preflight", "where"]).path(&[sandbox.path("shim")]).run();
    run.exits(127).stdout_matches("where-none.txt").stderr_matches("locate-none.txt");
    sandbox.pcluster(["version"]).without("PATH").run().exits(127).stderr_matches("locate-none.txt");
    sandbox.pcluster(["preflight", "--help"]).path(&[sandbox.path("shim")]).run().exits(0);
}

/// The message names the interpreter that is gone. The kernel would report that the script is missing.
#[test]
fn a_dead_interpreter_is_named_when_the_real_program_cannot_start() {
    let sandbox = Sandbox::new();
    sandbox.script("real/pcluster", "#!/nonexistent/bin/python\nfrom pcluster.cli.entrypoint import main\n");
    call(&sandbox, &["real"])
        .run()
        .exits(126)
        .prints("")
        .prefixed()
        .stderr_matches("locate-dead-interpreter.txt");
}

#[test]
fn the_variable_names_the_real_one() {
    let sandbox = Sandbox::new();
    sandbox.script("other/pcluster", "#!/bin/sh\necho other\n");
    sandbox.script("real/pcluster-3", REAL);
    let call = |real: PathBuf| call(&sandbox, &["other"]).var("PCLUSTER_SHIM_REAL", real);
    call(sandbox.path("real/pcluster-3")).run().exits(0).prints("real version\n").is_silent();
    call(PathBuf::new()).run().exits(0).prints("other\n").is_silent();
}

#[test]
fn a_variable_that_names_no_real_one_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.script("other/pcluster", REAL);
    sandbox.script("work/pcluster", REAL);
    sandbox.script("loop/pcluster", LOOP);
    for (real, snapshot) in [
        (PathBuf::from("pcluster"), "real-relative.txt"),
        (sandbox.path("absent"), "real-absent.txt"),
        (sandbox.path("other"), "real-directory.txt"),
        (sandbox.path("shim/pcluster"), "real-shim.txt"),
        (sandbox.path("loop/pcluster"), "real-loop.txt"),
    ] {
        let run = call(&sandbox, &["other"]).var("PCLUSTER_SHIM_REAL", &real).run();
        run.exits(127).prints("").prefixed().stderr_matches(snapshot);
    }
}

/// These values of `PCLUSTER_SHIM_TRIED` change nothing: three are malformed, and one has the PID of
/// another process.
#[test]
fn a_guard_variable_that_cannot_be_read_is_ignored() {
    let sandbox = Sandbox::new();
    sandbox.script("real/pcluster", REAL);
    let real = sandbox.path("real/pcluster");
    for value in
        ["nonsense".into(), "//".into(), format!("1/5/{}", real.display()), "99999999999999/1/x".into()]
    {
        let run = call(&sandbox, &["real"]).var("PCLUSTER_SHIM_TRIED", &value).run();
        run.exits(0).prints("real version\n").is_silent();
    }
}

/// If a wheel's `pcluster-preflight` is called by path, it uses the `pcluster` in the same directory,
/// whatever is on PATH. If it is called by its bare name, it uses the `pcluster` on PATH.
/// `PCLUSTER_SHIM_REAL` has precedence over both.
#[test]
fn a_preflight_called_by_its_path_means_the_pcluster_beside_it() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.script("elsewhere/pcluster", REAL);
    sandbox.link("elsewhere/pcluster-preflight", sandbox.binary());
    sandbox.link("shim/pcluster-preflight", "pcluster");
    let found = |call: Call| {
        let run = call.argument("where").argument("--format").argument("json").run();
        let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        (report["real"]["path"].clone(), report["real"]["foundBy"].clone())
    };
    let beside = |from: &str, name: &str| {
        let sh = format!("cd '{}' && exec {name} \"$@\"", sandbox.path(from).display());
        let call = sandbox.call(sandbox.path("tools/sh"), ["-c", &sh, "sh"]);
        found(call)
    };
    let elsewhere = serde_json::json!(sandbox.path("elsewhere/pcluster"));
    let environment = serde_json::json!(sandbox.path("venv/bin/pcluster"));
    let at = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    assert_eq!(beside("work", &at("elsewhere/pcluster-preflight")), (elsewhere.clone(), "beside".into()));
    assert_eq!(beside("elsewhere", "./pcluster-preflight"), (elsewhere.clone(), "beside".into()));
    assert_eq!(beside("work", "pcluster-preflight"), (environment.clone(), "path".into()));
    // The only `pcluster` in this directory is the shim, so PATH is searched.
    assert_eq!(beside("work", &at("shim/pcluster-preflight")), (environment.clone(), "path".into()));
    let call = sandbox.call(sandbox.path("elsewhere/pcluster-preflight"), []);
    let named = call.var("PCLUSTER_SHIM_REAL", sandbox.path("venv/bin/pcluster"));
    assert_eq!(found(named), (environment.clone(), "variable".into()));
    // The path of `pcluster-preflight` has precedence over the config: the path means one environment, and
    // the config applies to all.
    sandbox.write("config/pcluster-shim/config.yaml", format!("real: {}\n", at("venv/bin/pcluster")));
    assert_eq!(beside("work", &at("elsewhere/pcluster-preflight")), (elsewhere, "beside".into()));
    assert_eq!(beside("work", &at("shim/pcluster-preflight")), (environment, "config".into()));
}

/// The printed commands name `pcluster-preflight` as the user typed it, with its path. Without the path, the
/// commands might not work, because the directory of `pcluster-preflight` need not be on PATH.
#[test]
fn the_commands_that_a_preflight_prints_are_called_as_it_was() {
    let sandbox = Sandbox::new();
    let _environment = sandbox.broken_environment();
    sandbox.link("venv/bin/pcluster-preflight", sandbox.binary());
    let last_line = |typed: &str| {
        let sh = format!("cd '{}' && exec {typed} check --no-synth", sandbox.path("venv").display());
        let run = sandbox.call(sandbox.path("tools/sh"), ["-c", &sh]).run();
        run.exits(1).stdout().lines().last().unwrap().to_owned()
    };
    assert!(last_line("bin/pcluster-preflight").ends_with("Next: run `bin/pcluster-preflight fix`."));
    assert!(last_line("./bin/pcluster-preflight").ends_with("Next: run `./bin/pcluster-preflight fix`."));
}

/// If a pipeline's environment lacks pcluster, the pcluster of another environment is not checked instead.
#[test]
fn a_preflight_in_an_environment_without_pcluster_finds_none() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.link("empty/bin/pcluster-preflight", sandbox.binary());
    let call = || sandbox.call(sandbox.path("empty/bin/pcluster-preflight"), ["check", "--no-synth"]);
    // Without pyvenv.cfg, `empty` is not a virtual environment. `empty/bin` could be a directory of programs,
    // such as that of uv's tools, so PATH is searched.
    call().run().exits(0);
    sandbox.write("empty/pyvenv.cfg", "home = /usr/bin\n");
    call().run().exits(127).prints("").prefixed().stderr_matches("nothing-beside.txt");
    sandbox.write("empty/bin/pcluster", REAL);
    call().run().exits(127).prints("");
    call().argument("--real").argument(sandbox.path("venv/bin/pcluster")).run().exits(0);
}
