//! Which calls are guarded, and which pass through to the real program. In a pass-through, the shim's process
//! becomes the real program. Arguments, environment, streams, status and signals are those of a direct call,
//! and the shim leaves nothing behind.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::support::machine::on_this_machine;
use crate::support::sandbox::{Sandbox, not_utf8};

/// Calls other than build-image and preflight, in every form.
#[test]
fn every_other_call_goes_to_the_real_program_at_once() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    environment.really(r#"for a in "$@"; do printf '<%s>' "$a"; done; echo"#);
    for (arguments, seen) in [
        (vec![], ""),
        (vec!["version"], "<version>"),
        (vec!["-h"], "<-h>"),
        (vec!["--help"], "<--help>"),
        (vec!["--version"], "<--version>"),
        (vec![""], "<>"),
        (vec!["list-images", "--image-status", "AVAILABLE"], "<list-images><--image-status><AVAILABLE>"),
        (vec!["create-cluster", "-n", "build-image"], "<create-cluster><-n><build-image>"),
        (vec!["build-imag", "-c", "x"], "<build-imag><-c><x>"),
        (vec!["BUILD-IMAGE"], "<BUILD-IMAGE>"),
        (vec!["-h", "preflight"], "<-h><preflight>"),
        (vec!["preflights"], "<preflights>"),
        (vec!["a b", "*", "$HOME", "\\", "\n"], "<a b><*><$HOME><\\><\n>"),
    ] {
        let call = arguments.iter().fold(sandbox.pcluster([]), |call, argument| call.argument(*argument));
        call.run().exits(0).prints(&format!("{seen}\n")).is_silent();
    }
    assert!(sandbox.log().iter().all(|line| line.starts_with("real") || line.is_empty()));
}

#[test]
fn build_image_is_guarded_wherever_the_real_parser_finds_it() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    for arguments in [
        ["build-image", "--image-configuration", "image.yaml", "--image-id", "my-image"],
        ["build-image", "--image-configuration=image.yaml", "--debug", "--image-id", "my-image"],
        ["build-image", "-c", "image.yaml", "-i", "my-image"],
        ["build-image", "-cimage.yaml", "-imy-image", "--dryrun", "true"],
        ["--debug", "build-image", "-cimage.yaml", "-i", "my-image"],
    ] {
        sandbox.build_image();
        sandbox.pcluster(arguments).run().exits(1).prefixed();
    }
    assert!(!sandbox.log().iter().any(|line| line.starts_with("real")), "{:?}", sandbox.log());
}

/// The shim is called as `pcluster`, as `pcluster-preflight` and by another name.
#[test]
fn only_the_name_pcluster_preflight_is_a_command_of_its_own() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.link("shim/pcluster-preflight", "pcluster");
    sandbox.link("shim/other", "pcluster");
    for name in ["pcluster", "other"] {
        let call = sandbox.call(sandbox.path("shim").join(name), ["version"]);
        call.run().exits(0).prints("the real pcluster: version\n");
    }
    let sh =
        || sandbox.call(sandbox.path("tools/sh"), ["-c", "pcluster version; pcluster-preflight --version"]);
    sh().run().exits(0).prints(concat!(
        "the real pcluster: version\npcluster-preflight ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    ));
    let run = sandbox.call(sandbox.path("shim/pcluster-preflight"), ["advisories"]).run();
    let same = sandbox.pcluster(["preflight", "advisories"]).run();
    run.exits(0).prints(&same.stdout()).is_silent();
    // The commands that `pcluster-preflight` prints begin with `pcluster-preflight`, so they also work if
    // `pcluster` is the real pcluster.
    let called = |name: &str, line: &str| {
        let line = format!("{name} {line}");
        sandbox.call(sandbox.path("tools/sh"), ["-c", &line]).run()
    };
    for line in ["--help", "typo", "typo --format json", "fix no-such-finding"] {
        let (run, same) = (called("pcluster-preflight", line), called("pcluster preflight", line));
        let as_called = |text: String| text.replace("pcluster preflight", "pcluster-preflight");
        run.prints(&as_called(same.stdout()));
        run.holds(run.stderr() == as_called(same.stderr()), "the name by which it was called");
        run.holds((run.stdout() + &run.stderr()).contains("pcluster-preflight"), "a name");
    }
    for line in ["completions bash", "man"] {
        called("pcluster-preflight", line).prints(&called("pcluster preflight", line).stdout());
    }
}

#[test]
fn trap_11_and_15_exit_statuses_and_both_streams_are_the_real_ones() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    for status in [0, 1, 2, 127, 255] {
        environment.really(&format!("printf 'out\\377'; printf 'err\\376' >&2; exit {status}"));
        for call in [sandbox.pcluster(["version"]), sandbox.build_image()] {
            let run = call.run();
            run.exits(status);
            run.holds(run.stdout == b"out\xff" && run.stderr == b"err\xfe", "the streams, byte by byte");
        }
    }
}

#[test]
fn death_by_a_signal_is_the_real_one() {
    let sandbox = Sandbox::new();
    sandbox.environment().really("kill -9 $$");
    sandbox.pcluster(["version"]).run().dies_by(9);
    sandbox.build_image().run().dies_by(9);
}

#[test]
fn the_process_is_the_same_one() {
    let sandbox = Sandbox::new();
    sandbox.environment().really("echo $$");
    for call in [sandbox.pcluster(["version"]), sandbox.build_image()] {
        let run = call.run();
        run.exits(0).prints(&format!("{}\n", run.pid));
    }
}

#[test]
fn trap_16_a_console_script_gets_exactly_the_callers_environment() {
    let sandbox = Sandbox::new();
    sandbox.environment().really("env -0");
    for call in [sandbox.pcluster(["version"]), sandbox.build_image()] {
        let call = call.var("PYTHONSTARTUP", "x").var("EMPTY", "").var(not_utf8("NAME"), not_utf8("value"));
        let direct = sandbox.call(sandbox.path("venv/bin/pcluster"), ["version"]);
        let direct =
            direct.var("PYTHONSTARTUP", "x").var("EMPTY", "").var(not_utf8("NAME"), not_utf8("value"));
        let (through, direct) = (call.run(), direct.run());
        through.exits(0).holds(variables(&through.stdout) == variables(&direct.stdout), "env -0 differs");
    }
}

/// A wrapper could exec the shim again. To notice that, the shim sets a variable with the launchers that it
/// has tried. The wrapper gets no other new variable.
#[test]
fn a_wrapper_gets_one_variable_more() {
    let sandbox = Sandbox::new();
    sandbox.script("venv/bin/pcluster", "#!/bin/sh\nexec env -0\n");
    let run = sandbox.pcluster(["version"]).run();
    let direct = sandbox.call(sandbox.path("venv/bin/pcluster"), ["version"]).run();
    let mut more = variables(&run.stdout);
    more.retain(|variable| !variables(&direct.stdout).contains(variable));
    let tried = format!("PCLUSTER_SHIM_TRIED={}/1/{}", run.pid, sandbox.path("venv/bin/pcluster").display());
    run.exits(0).holds(more == [tried.as_bytes()], "exactly PCLUSTER_SHIM_TRIED more");
}

/// The variables, sorted, without `_`, which shells set.
fn variables(environment: &[u8]) -> Vec<&[u8]> {
    let mut variables: Vec<&[u8]> =
        environment.split(|byte| *byte == 0).filter(|variable| !variable.starts_with(b"_=")).collect();
    variables.retain(|variable| !variable.is_empty());
    variables.sort_unstable();
    variables
}

#[test]
fn trap_10_bytes_that_are_no_text_pass_in_arguments_variables_and_path() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("x").join(not_utf8("bin"));
    let script = "#!/bin/sh\nprintf '%s\\n' \"$1\" \"$VALUE\" \"$0\"\n";
    sandbox.script(directory.join("pcluster"), script);
    let path = [sandbox.path("shim"), directory.clone(), sandbox.path("tools")];
    let call =
        sandbox.pcluster([]).path(&path).argument(not_utf8("argument")).var("VALUE", not_utf8("value"));
    let run = call.run();
    let program = directory.join("pcluster");
    let expected = [b"argument\xff\nvalue\xff\n", program.as_os_str().as_bytes(), b"\n"].concat();
    run.exits(0).is_silent().holds(run.stdout == expected, "the bytes");
}

/// The file name of the configuration and the value of a variable are not UTF-8.
#[test]
fn bytes_that_are_no_text_pass_through_a_guarded_call() {
    let sandbox = Sandbox::new();
    sandbox.environment().really(r#"printf '%s' "$3""#);
    let configuration = sandbox.path("work").join(not_utf8("image"));
    sandbox.write(&configuration, "Build: {}\n");
    let call = sandbox.pcluster(["build-image", "-c"]).argument(configuration.file_name().unwrap());
    let run = call.argument("-i").argument("my-image").var("AWS_PROFILE", not_utf8("profile")).run();
    run.exits(0).is_silent().holds(run.stdout == b"image\xff", "the bytes");
    assert_eq!(sandbox.log()[..3], ["identity", "node", "synth"]);
}

#[test]
fn stdin_is_left_to_the_real_program() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.identifies(&format!(
        "cat >/dev/null; {}",
        r#"printf '\n%s\n' "$sentinel"; cat "$fake/identity.json"; printf '\n%s\n' "$sentinel""#
    ));
    environment.really("cat");
    sandbox.pcluster(["version"]).stdin("given\n").run().exits(0).prints("given\n");
    sandbox.build_image().stdin("given\n").run().exits(0).prints("given\n");
}

#[test]
fn a_loop_that_reads_a_list_reads_all_of_it() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.really("echo built $5");
    sandbox.build_image();
    let each = "while read -r id; do pcluster build-image -c image.yaml -i \"$id\"; done";
    let run = sandbox.call(sandbox.path("tools/sh"), ["-c", each]).stdin("one\ntwo\nthree\n").run();
    run.exits(0).prints("built one\nbuilt two\nbuilt three\n").is_silent();
}

#[test]
fn a_pass_through_writes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let before = sandbox.tree("");
    sandbox.pcluster(["version"]).run().exits(0);
    let log =
        |tree: &str| tree.lines().filter(|line| !line.starts_with("log ")).collect::<Vec<_>>().join("\n");
    assert_eq!(log(&before), log(&sandbox.tree("")));
}

/// A pass-through makes one execve after the one that started the shim. It starts no child, opens no file for
/// writing, and does not read the config.
#[test]
fn trap_23_a_pass_through_does_nothing_but_find_and_exec() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write("config/pcluster-shim/config.yaml", "mode: warn\n");
    sandbox.link("venv/bin/strace", on_this_machine("strace"));
    let trace = sandbox.path("trace");
    let calls =
        "trace=execve,execveat,openat,open,creat,clone,clone3,fork,vfork,mkdir,unlink,rename,socket,connect";
    let first = ["-f", "-e", calls, "-o", trace.to_str().unwrap()];
    let run = sandbox.pcluster(["version"]).under(on_this_machine("strace"), &first).run();
    run.exits(0).prints("the real pcluster: version\n");
    let trace = std::fs::read_to_string(trace).expect("strace is needed, and the right to trace");
    let real = format!("execve(\"{}\"", sandbox.path("venv/bin/pcluster").display());
    let before: Vec<&str> = trace.lines().take_while(|line| !line.contains(&real)).collect();
    run.holds(
        before.len() < trace.lines().count(),
        &format!("the exec of the real program is seen:\n{trace}"),
    );
    let named = |name: &str| before.iter().filter(|line| line.contains(&format!(" {name}("))).count();
    run.holds(named("execve") == 1, &format!("one execve, which is the shim's own start:\n{trace}"));
    for other in ["clone", "clone3", "fork", "vfork", "mkdir", "unlink", "rename", "creat", "socket"] {
        run.holds(named(other) == 0, &format!("no {other}:\n{trace}"));
    }
    for line in &before {
        run.holds(
            !line.contains("O_WRONLY") && !line.contains("O_RDWR"),
            &format!("no open for writing: {line}"),
        );
        run.holds(!line.contains("config.yaml"), "no config is read");
        // The shim recognizes its own file by device and inode, so it does not have to search the file for
        // `MARKER` (src/environment/locate.rs). That search would take longer than the rest of the call.
        let own = format!("{}\"", sandbox.path("shim/pcluster").display());
        run.holds(!line.contains("open") || !line.contains(&own), "the shim itself is not read");
    }
}

/// The shim execs the path that it found on PATH. It does not resolve links in this path, because multicall
/// programs depend on the name by which they are called.
#[test]
fn trap_09_the_path_is_handed_on_as_found() {
    let sandbox = Sandbox::new();
    sandbox.script("pipx/venvs/x/bin/pcluster", "#!/bin/sh\necho \"$0\"\n");
    sandbox.link("local/pcluster", sandbox.path("pipx/venvs/x/bin/pcluster"));
    sandbox.script("multi/many", "#!/bin/sh\nexec basename \"$0\"\n");
    sandbox.link("tools/basename", on_this_machine("basename"));
    sandbox.link("multi/pcluster", "many");
    for (directory, printed) in
        [("local", sandbox.path("local/pcluster").display().to_string()), ("multi", "pcluster".into())]
    {
        let path = [sandbox.path("shim"), sandbox.path(directory), sandbox.path("tools")];
        sandbox.pcluster(["version"]).path(&path).run().exits(0).prints(&format!("{printed}\n"));
    }
}

/// Of all commands of pcluster, only build-image is affected by invalid settings, by a damaged config file,
/// or by a file in the place of the state directory.
#[test]
fn no_damaged_file_of_the_shim_reaches_another_command() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write("config/pcluster-shim/config.yaml", b"\xff: [");
    sandbox.write("state/pcluster-shim", "a file in the place of the directory");
    let call =
        sandbox.pcluster(["version"]).var("PCLUSTER_SHIM_MODE", "loud").var("PCLUSTER_SHIM_TIMEOUT", "x");
    call.var("HOME", "/nonexistent").run().exits(0).prints("the real pcluster: version\n").is_silent();
    let nothing = sandbox.pcluster(["version"]).without("HOME").without("TMPDIR").without("XDG_STATE_HOME");
    nothing.run().exits(0).prints("the real pcluster: version\n").is_silent();
}

/// With and without a check, the real program ignores exactly the signals that the caller ignores.
#[test]
#[cfg(target_os = "linux")]
fn trap_12_signal_dispositions_are_those_of_a_direct_call() {
    let sandbox = Sandbox::new();
    sandbox.link("tools/grep", on_this_machine("grep"));
    // `exec` replaces the shell with grep, so `/proc/self` is grep's process. In a shell's process, SigCgt
    // would contain the signals that the shell itself catches.
    sandbox.environment().really("exec grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status");
    for ignored in ["", "trap '' HUP; ", "trap '' INT QUIT TERM; "] {
        let in_shell = format!("{ignored}exec \"$@\"");
        let under = |call: crate::support::run::Call| {
            call.under(sandbox.path("tools/sh"), &["-c", &in_shell, "sh"]).run().stdout()
        };
        let direct = under(sandbox.call(sandbox.path("venv/bin/pcluster"), ["version"]));
        assert!(direct.contains("SigIgn:"), "{direct}");
        assert_eq!(under(sandbox.pcluster(["version"])), direct, "pass-through, {ignored:?}");
        assert_eq!(under(sandbox.build_image()), direct, "after a check, {ignored:?}");
    }
}

/// An empty command line is left to the real program, and so is a command that is not UTF-8.
#[test]
fn without_arguments_the_real_program_says_what_it_says() {
    let sandbox = Sandbox::new();
    sandbox.environment().really("echo usage >&2; exit 1");
    let run = sandbox.pcluster([]).run();
    run.exits(1).prints("").holds(run.stderr() == "usage\n", "its own words");
    let run = sandbox.pcluster([]).argument(OsStr::from_bytes(b"build-image\xff")).run();
    run.exits(1).prints("").holds(run.stderr() == "usage\n", "its own words");
}
