//! Signals during a check: the shim dies by the signal, and its children and its scratch directory are gone.
//! The real program is never started. Ignored signals stay ignored. A trap's number is its row in the table
//! of tests/traps.rs.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::support::fakes::REAL;
use crate::support::machine::{on_this_machine, output, real_python};
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

/// A FIFO that every child of a check holds open, so a reader gets the end of file when the last child
/// has ended.
struct ChildrenFifo(File);

impl ChildrenFifo {
    fn new(sandbox: &Sandbox) -> Self {
        let fifo = sandbox.path("children");
        output(&on_this_machine("mkfifo"), &[fifo.as_os_str()]);
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        Self(OpenOptions::new().read(true).custom_flags(nonblocking).open(fifo).unwrap())
    }

    /// Asserts that all children end within 20 seconds. A child that was killed may not be gone at once.
    #[track_caller]
    fn all_are_gone(mut self) {
        let mut buffer = [0; 64];
        let started = Instant::now();
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(started.elapsed() < Duration::from_secs(20), "a child of the check is left");
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The sh code of a child of a check. The child opens the FIFO, starts a child of its own, runs `then`,
/// and hangs.
fn hangs(sandbox: &Sandbox, then: &str) -> String {
    let children = sandbox.path("children");
    format!("exec 9>'{}'; sleep 1000 & {then}; sleep 1000", children.display())
}

/// Starts a call with no signal ignored, even if the suite itself was started with ignored signals, as by
/// nohup or as a job in the background.
pub(crate) fn ignoring_nothing(call: Call) -> Call {
    call.under(real_python(), &["-c", IGNORE_NOTHING])
}

const IGNORE_NOTHING: &str = "
import os, signal, sys
for number in (1, 2, 3, 13, 15):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
";

/// Checks run in parallel. Children of three of the checks send a signal to the shim, and the children of all
/// checks are ended.
#[test]
fn a_signal_ends_checks_side_by_side() {
    let sandbox = Sandbox::new();
    let children = ChildrenFifo::new(&sandbox);
    sandbox.environment().synthesizes(&hangs(&sandbox, ":"));
    for number in 0..3 {
        let environment = sandbox.environment_in(&format!("home/.virtualenvs/{number}"));
        environment.synthesizes(&hangs(&sandbox, "kill -TERM $PPID"));
    }
    let run = ignoring_nothing(sandbox.pcluster(["preflight", "check", "--all"])).run();
    run.dies_by(15).is_silent();
    children.all_are_gone();
    sandbox.has_no_scratch();
}

/// A child of the check sends the signal, so the signal comes during the check and at no other time.
#[test]
fn a_signal_ends_the_check_and_the_shim() {
    for signal in ["TERM", "HUP", "INT", "QUIT"] {
        for step in ["identity", "node", "template"] {
            let sandbox = Sandbox::new();
            let environment = sandbox.environment();
            let children = ChildrenFifo::new(&sandbox);
            let sh = hangs(&sandbox, &format!("kill -{signal} $PPID"));
            match step {
                "identity" => environment.identifies(&sh),
                // jsii unpacks files into TMPDIR, and if jsii is killed, the files stay there.
                "template" => environment.synthesizes(&format!(": >\"$TMPDIR/unpacked\"; {sh}")),
                _ => drop(sandbox.script("node/node", format!("#!/bin/sh\n{sh}\n"))),
            }
            let run = ignoring_nothing(sandbox.build_image()).run();
            run.dies_by(number(signal)).prints("").is_silent();
            run.holds(!sandbox.log().contains(&REAL.to_owned()), "the real program was started");
            children.all_are_gone();
            sandbox.has_no_scratch();
        }
    }
}

fn number(signal: &str) -> i32 {
    match signal {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "TERM" => 15,
        other => panic!("{other}"),
    }
}

/// If a child answers and ends at the moment of the signal, the signal counts, not the answer.
#[test]
fn a_signal_with_the_answer_still_ends_the_shim() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let answer = fs::read_to_string(environment.path("fake/synth")).unwrap();
    environment.synthesizes(&format!("{answer}; kill -TERM $PPID"));
    ignoring_nothing(sandbox.build_image()).run().dies_by(15).prints("").is_silent();
    assert!(!sandbox.log().contains(&REAL.to_owned()));
}

#[test]
fn preflight_dies_by_the_signal_too() {
    for arguments in [["preflight", "check"], ["preflight", "where"]] {
        let sandbox = Sandbox::new();
        let environment = sandbox.environment();
        let children = ChildrenFifo::new(&sandbox);
        environment.identifies(&hangs(&sandbox, "kill -TERM $PPID"));
        ignoring_nothing(sandbox.pcluster(arguments)).run().dies_by(15).prints("").is_silent();
        children.all_are_gone();
        sandbox.has_no_scratch();
    }
}

/// A signal between the last child and exec: strace sends the signal when the shim removes the directory of
/// the last child. The shim removes no directory after that one.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_after_the_last_child_still_ends_the_shim() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let traced = |more: &[&str]| {
        let trace = sandbox.path("trace");
        let first = [&["-e", "trace=rmdir,unlinkat", "-o", trace.to_str().unwrap()], more].concat();
        let run = sandbox.build_image().under(on_this_machine("strace"), &first).run();
        (run, fs::read_to_string(trace).unwrap())
    };
    let (run, trace) = traced(&[]);
    run.exits(0);
    let (name, count) = ["rmdir", "unlinkat"]
        .map(|name| (name, trace.lines().filter(|line| line.starts_with(name)).count()))
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .unwrap();
    sandbox.clear_log();
    let inject = format!("inject={name}:signal=TERM:when={count}");
    let (run, _) = traced(&["-e", &inject]);
    run.dies_by(15).prints("").is_silent();
    assert_eq!(sandbox.log(), ["identity", "node", "synth"]);
}

/// ^C in a real terminal goes to the foreground process group. That is the shim's group, and not that of the
/// check's children.
#[test]
fn trap_13_ctrl_c_in_a_terminal() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let children = ChildrenFifo::new(&sandbox);
    // A child of a check has no terminal to print to, so it writes to a FIFO.
    let hanging = sandbox.path("hanging");
    output(&on_this_machine("mkfifo"), &[hanging.as_os_str()]);
    environment.synthesizes(&hangs(&sandbox, &format!("echo >'{}'", hanging.display())));
    let helper = sandbox.write("terminal.py", TERMINAL);
    let first = [helper.to_str().unwrap(), hanging.to_str().unwrap()];
    let run = sandbox.build_image().under(real_python(), &first).run();
    run.exits(0);
    let ended = run.stdout().lines().last().map(str::to_owned);
    run.holds(ended.as_deref() == Some("killed by 2"), "death by SIGINT");
    run.holds(!run.stdout().contains("the real pcluster"), "the real program was started");
    children.all_are_gone();
    sandbox.has_no_scratch();
    assert!(!sandbox.log().contains(&REAL.to_owned()));
}

/// If the caller's streams are a terminal, the real program's are too, even after a check.
#[test]
fn trap_14_the_terminal_is_left_to_the_real_program() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.really("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal hanging; read -r line; exit 7");
    let helper = sandbox.write("terminal.py", TERMINAL);
    let run = sandbox.build_image().under(real_python(), &[helper.to_str().unwrap(), "hanging"]).run();
    run.holds(run.stdout().contains("terminal hanging"), "0, 1 and 2 are the terminal");
    // The real program is in the foreground: ^C reaches it.
    run.holds(run.stdout().ends_with("killed by 2\n"), "^C is the real program's");
}

/// Runs a program in a separate terminal, and sends ^C when the program has printed a word or written to
/// a FIFO.
const TERMINAL: &str = r#"
import os, pty, signal, sys

word, command = sys.argv[1].encode(), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    for number in (1, 2, 3, 13, 15):
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)
seen, sent = b"", False
if os.path.exists(word):
    open(word, "rb").read()
    sent = True
    os.write(terminal, b"\x03")
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:
        break
    if not data:
        break
    seen += data
    if word in seen and not sent:
        sent = True
        os.write(terminal, b"\x03")
_, status = os.waitpid(pid, 0)
sys.stdout.write(seen.decode(errors="replace") + "\n")
if os.WIFSIGNALED(status):
    print("killed by", os.WTERMSIG(status))
else:
    print("exited with", os.WEXITSTATUS(status))
"#;

/// Under nohup a hang-up ends neither the check nor the build.
#[test]
fn what_is_ignored_ends_nothing() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let answer = fs::read_to_string(environment.path("fake/synth")).unwrap();
    environment.synthesizes(&format!("kill -HUP $PPID; {answer}"));
    environment.really("kill -HUP $$; echo survived");
    let run = sandbox.build_image().under(sandbox.path("tools/nohup"), &[]).run();
    run.exits(0).prints("survived\n");
}
