//! `preflight where`.

use crate::support::machine::on_this_machine;
use crate::support::sandbox::Sandbox;

#[test]
fn where_reports_what_is_guarded_and_how_it_was_found() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.script("other/pcluster", "#!/bin/sh\n");
    let path = ["shim", "venv/bin", "other", "tools"].map(|name| sandbox.path(name));
    let call = |more: &[&str]| {
        let call = sandbox.pcluster(["preflight", "where"]).path(&path);
        more.iter().fold(call, |call, argument| call.argument(*argument)).run()
    };
    call(&[]).exits(0).is_silent().stdout_matches("where.txt");
    call(&["--format", "json"]).exits(0).is_silent().stdout_matches("where.json");
}

/// An activated venv is first on PATH.
#[test]
fn where_exits_1_where_the_shim_is_bypassed() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let path = ["venv/bin", "shim", "tools"].map(|name| sandbox.path(name));
    let call = || sandbox.pcluster(["preflight", "where"]).path(&path);
    call().run().exits(1).is_silent().stdout_matches("where-bypassed.txt");
    call().argument("--format").argument("json").run().exits(1).stdout_matches("where-bypassed.json");
    let absent = [sandbox.path("venv/bin"), sandbox.path("tools")];
    sandbox.pcluster(["preflight", "where"]).path(&absent).run().exits(1);
}

/// A shell keeps running the program that it once found, even if another one now precedes it on PATH.
#[test]
fn where_reports_a_stale_hash() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let call = |order: [&str; 3], script: &str| {
        let path = order.map(|name| sandbox.path(name));
        let call = sandbox.call(on_this_machine("bash"), ["--norc", "-c", script]);
        call.var("SHIM", sandbox.path("shim/pcluster")).path(&path).run()
    };
    let run = call(["venv/bin", "shim", "tools"], "hash -p \"$SHIM\" pcluster; pcluster preflight where");
    run.exits(1).is_silent().stdout_matches("where-stale-hash.txt");
    let json = "pcluster preflight where --format json";
    let run = call(["venv/bin", "shim", "tools"], &format!("hash -p \"$SHIM\" pcluster; {json}"));
    run.exits(1).is_silent().holds(run.stdout().contains("\"stale-hash\""), "the warning's id");
    let run = call(["shim", "venv/bin", "tools"], json);
    run.exits(0).is_silent().holds(!run.stdout().contains("\"stale-hash\""), "found anew");
}

/// A wheel installs only `pcluster-preflight`, so the real pcluster is first on PATH.
#[test]
fn where_tells_the_user_of_a_wheel_to_install_the_guard() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    std::fs::hard_link(sandbox.binary(), sandbox.path("venv/bin/pcluster-preflight")).unwrap();
    let path = ["venv/bin", "tools"].map(|name| sandbox.path(name));
    let by_name = |arguments: &str| {
        let line = format!("pcluster-preflight where {arguments}");
        sandbox.call(sandbox.path("tools/sh"), ["-c", &line]).path(&path).run()
    };
    // Without pyvenv.cfg, `venv/bin` is only a directory of programs, such as that of pipx or `uv tool`.
    by_name("").exits(1).is_silent().stdout_matches("where-wheel.txt");
    sandbox.write("venv/pyvenv.cfg", "home = /usr/bin\n");
    by_name("").exits(1).stdout_matches("where-wheel-in-venv.txt");
    by_name("--format json").exits(1).stdout_matches("where-wheel.json");
    let by_path = sandbox.call(sandbox.path("venv/bin/pcluster-preflight"), ["where"]).run();
    let install = format!("{}/venv/bin/pcluster-preflight install", sandbox.root.display());
    let guarded = by_path.stdout();
    by_path
        .holds(guarded.contains("call     ") && guarded.contains("/venv/bin/pcluster: not guarded"), "which");
    let tools = [sandbox.path("tools")];
    let by_path = sandbox.call(sandbox.path("venv/bin/pcluster-preflight"), ["where"]).path(&tools).run();
    by_path.exits(1).holds(by_path.stdout().contains(&format!("`{install}`")), "the command can be pasted");
    // After `pcluster-preflight install`, a shell that was already running does not have the shim on PATH.
    std::fs::create_dir_all(sandbox.path("home/.local/share/pcluster-shim/bin")).unwrap();
    let installed = sandbox.path("home/.local/share/pcluster-shim");
    std::fs::hard_link(sandbox.binary(), installed.join("bin/pcluster")).unwrap();
    sandbox.write(installed.join("env"), "");
    by_name("").exits(1).stdout_matches("where-wheel-installed.txt");
}

#[test]
fn where_names_a_dead_interpreter_and_an_unknown_environment() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    std::fs::remove_file(environment.path("bin/python")).unwrap();
    sandbox.pcluster(["preflight", "where"]).run().exits(0).is_silent().stdout_matches("where-dead.txt");
}
