//! Runs of install.sh that are killed, a script that is truncated, and calls while the shim is replaced.

use std::fs;
use std::path::PathBuf;

use super::{Home, SHELLS, script};
use crate::support::machine::on_this_machine;

/// The directory of a fake `tool`, such as `mv`. The call with the number `at` kills the whole run (the
/// process group).
fn killing(home: &Home, tool: &str, at: usize) -> PathBuf {
    let directory = home.path("killing");
    let _ = fs::remove_dir_all(&directory);
    let (real, count) = (on_this_machine(tool), directory.join("count"));
    let text = format!(
        "#!/bin/sh\necho >>'{count}'\nif [ \"$(wc -l <'{count}')\" -ge {at} ]; then kill -KILL 0; fi\nexec {real} \"$@\"\n",
        count = count.display(),
        real = real.display()
    );
    home.sandbox.script(directory.join(tool), text);
    directory
}

/// Kills installations at every `nth` step. pcluster still works, and the next run completes or removes
/// the installation.
fn a_killed_run_is_completed_by_the_next(nth: usize) {
    let home = Home::new();
    for tool in ["mv", "chmod", "mkdir"] {
        for at in (1..30).step_by(nth) {
            let path = [killing(&home, tool, at), home.path("venv/bin"), home.path("tools")];
            let run = home.installs_in("dash", ["--binary", &home.built]).path(&path).run();
            if run.status.success() {
                assert!(at > 1, "{tool} is never called");
                home.is_as_before(&home.uninstall());
                break;
            }
            run.dies_by(9);
            let version = home.call("bash", ["-l", "-i", "-c", "pcluster version"]).run();
            version.exits(0).prints("the real pcluster: version\n");
            if at % 4 < 2 {
                home.install();
                home.call("bash", ["-i", "-c", "pcluster preflight where -q"]).run().exits(0);
            }
            uninstall_after_kill(&home);
        }
    }
}

#[test]
fn a_run_that_is_killed_half_way_is_completed_by_the_next() {
    a_killed_run_is_completed_by_the_next(8);
}

#[test]
#[ignore = "long"]
fn a_run_that_is_killed_at_any_step_is_completed_by_the_next() {
    a_killed_run_is_completed_by_the_next(1);
}

/// Kills uninstalls at every `nth` step. The next uninstall completes each of them.
fn a_killed_uninstall_is_completed_by_the_next(nth: usize) {
    let home = Home::new();
    for tool in ["mv", "rm", "rmdir"] {
        // `rm` is called often, so fewer of its calls are tried.
        for at in (1..80).step_by(if tool == "rm" { 5 * nth } else { nth }) {
            home.install();
            let path = [killing(&home, tool, at), home.path("venv/bin"), home.path("tools")];
            let run = home.installs_in("dash", ["--uninstall"]).path(&path).run();
            if run.status.success() {
                assert!(at > 1, "{tool} is never called");
                break;
            }
            run.dies_by(9);
            let version = home.call("bash", ["-l", "-i", "-c", "pcluster version"]).run();
            version.exits(0).prints("the real pcluster: version\n");
            uninstall_after_kill(&home);
        }
    }
}

#[test]
fn an_uninstall_that_is_killed_half_way_is_completed_by_the_next() {
    a_killed_uninstall_is_completed_by_the_next(11);
}

#[test]
#[ignore = "long"]
fn an_uninstall_that_is_killed_at_any_step_is_completed_by_the_next() {
    a_killed_uninstall_is_completed_by_the_next(1);
}

/// Uninstalls after a kill. Two empty directories remain if the killed run had not yet noted that it made
/// them, or had already removed that note.
fn uninstall_after_kill(home: &Home) {
    let run = home.uninstall();
    for made in ["home/.local/share", "home/.local"] {
        let _ = fs::remove_dir(home.path(made));
    }
    home.is_as_before(&run);
}

/// A shell script that reads install.sh in pieces: a piece is `L` and a line, or `C` and a character. The
/// script appends each piece to a text, and then runs the text in a subshell. If the subshell installs
/// something, the script prints how many characters of install.sh were read. If the piece ends a line and the
/// text is a complete command, the script runs the text in its own shell too, and starts a new text. A shell
/// that gets install.sh from a pipe runs each complete command in the same way.
const CUT_OFF: &str = r#"
line='
'
text=
taken=0
while IFS= read -r piece; do
    case $piece in
        L*) text=$text${piece#L}$line ;;
        C*) text=$text${piece#C} ;;
    esac
    (eval "$text") </dev/null >/dev/null 2>&1
    status=$?
    if [ -e "$4" ]; then
        echo "$((taken + ${#text}))"
        exit
    fi
    case $status$piece in
        0L*) eval "$text"; taken=$((taken + ${#text})); text= ;;
    esac
done
"#;

/// Gives install.sh to a shell piece by piece: line by line up to `bytes_from`, and byte by byte after that.
/// install.sh must do nothing until only its last newline is missing.
#[track_caller]
fn cut_off(shell: &str, text: &str, bytes_from: usize) {
    let home = Home::new();
    let prefix = home.path("cut");
    let (lines, bytes) = text.split_at(bytes_from);
    let mut pieces: Vec<String> = lines.lines().map(|line| format!("L{line}")).collect();
    let piece = |byte| if byte == '\n' { "L".into() } else { format!("C{byte}") };
    pieces.extend(bytes.chars().map(piece));
    let file = home.sandbox.write("cut-off.sh", CUT_OFF);
    let shell_and_file = if shell == "busybox" { vec!["sh"] } else { vec![] };
    let call = shell_and_file.iter().fold(home.call(shell, []), |call, word| call.argument(*word));
    let call = call.argument(file).argument("--binary").argument(&home.built);
    let call = call.argument("--prefix").argument(&prefix).argument("--no-modify-path");
    let run = call.stdin(pieces.join("\n") + "\n").run();
    run.exits(0).prints(&format!("{}\n", text.len() - 1));
    home.is_as_before(&run);
}

/// A script that is truncated does nothing, whether the script ends after any of its lines, or after any
/// byte of its last block, which calls `main`.
#[test]
fn trap_29_a_script_that_is_cut_off_does_nothing() {
    let text = fs::read_to_string(script()).unwrap();
    assert!(text.is_ascii(), "the bytes are its characters");
    for shell in SHELLS {
        cut_off(shell, &text, text.rfind("\n{").unwrap() + 1);
    }
}

#[test]
#[ignore = "long"]
fn trap_29_a_script_that_is_cut_off_at_any_byte_does_nothing() {
    let text = fs::read_to_string(script()).unwrap();
    cut_off("dash", &text, 0);
    for shell in SHELLS {
        cut_off(shell, &text, text.find("\nmain() {").unwrap() + 1);
    }
}

/// A script from a pipe installs with and without its last newline.
#[test]
fn a_script_from_a_pipe_installs() {
    let text = fs::read_to_string(script()).unwrap();
    let home = Home::new();
    for length in [text.len() - 1, text.len()] {
        for shell in SHELLS {
            let call = if shell == "busybox" {
                home.call(shell, ["sh", "-s", "--", "--binary"])
            } else {
                home.call(shell, ["-s", "--", "--binary"])
            };
            let run = call.argument(home.path("built")).stdin(&text[..length]).run();
            run.exits(0).is_silent();
            assert!(home.prefix().join("env").exists());
            home.is_as_before(&home.uninstall());
        }
    }
    // A script from a pipe has neither a checkout nor a program next to it.
    let run = home.call("dash", ["-s"]).stdin(text).run();
    run.exits(1).prints("").stderr_matches("install-no-program.txt");
}

/// A reader that closes the output early, as `head` does, does not stop an installation half-way.
#[test]
fn a_reader_that_goes_away_stops_nothing() {
    let home = Home::new();
    let line = format!("{} --binary {} | :", home.path("install.sh").display(), home.built);
    home.call("dash", ["-c", &line]).run().exits(0).is_silent();
    assert_eq!(home.lines_in("home/.bashrc"), 1);
    assert!(home.prefix().join("env").is_file());
}

/// The shim is replaced again and again during a hundred calls, and no call fails.
#[test]
fn trap_26_the_shim_is_replaced_while_it_runs() {
    let home = Home::new();
    home.install();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (home, done) = (&home, &done);
        let replacing = scope.spawn(move || {
            let mut times = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                home.installs_in("dash", ["--no-modify-path", "--binary", &home.built]).run().exits(0);
                times += 1;
            }
            times
        });
        let path = [home.prefix().join("bin"), home.path("venv/bin"), home.path("node"), home.path("tools")];
        let shim = home.prefix().join("bin/pcluster");
        let runs: Vec<_> =
            (0..100).map(|_| home.sandbox.call(&shim, ["version"]).path(&path).run()).collect();
        // This comes before the assertions: if an assertion failed first, the other thread would run forever.
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        for run in runs {
            run.exits(0).prints("the real pcluster: version\n").is_silent();
        }
        assert!(replacing.join().unwrap() > 1, "it was replaced meanwhile");
    });
}
