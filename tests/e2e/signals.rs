//! Ctrl-C and similar signals during a synthesis: all processes of the check end, and none of the check's
//! files remains.

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::environments::{Aws, GOOD, RealSandbox, alive};
use crate::support::machine::{on_this_machine, wait_for, write_script};

/// Kills what a failed test leaves running.
struct KillsMarked<'a>(&'a str);

impl Drop for KillsMarked<'_> {
    fn drop(&mut self) {
        for (pid, _) in alive(self.0) {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}

#[derive(Clone, Copy)]
enum To {
    /// The signal is sent to the shim alone, as `kill` sends a signal.
    Process,
    /// The signal is sent to the shim's process group, as a terminal sends SIGINT at Ctrl-C.
    Group,
}

/// The Node that runs when the synthesis is interrupted.
#[derive(Clone, Copy)]
enum Node {
    Real,
    /// A Node that never answers. This Node and the Python that waits for it never end by themselves, so they
    /// are gone only if they were killed.
    Silent,
}

impl Node {
    fn program(self) -> &'static str {
        match self {
            Self::Real => "node",
            Self::Silent => "sleep",
        }
    }

    fn put_into(self, sandbox: &RealSandbox) {
        if let Self::Silent = self {
            let (file, node, sleep) =
                (sandbox.path("node/node"), on_this_machine("node"), on_this_machine("sleep"));
            let code = format!(
                "#!/bin/sh\ncase $1 in --version) exec '{}' \"$@\" ;; esac\ntrap '' HUP\nexec '{}' 100000\n",
                node.display(),
                sleep.display()
            );
            write_script(&file, code);
        }
    }
}

fn ends_everything(signal: Signal, to: To, node: Node) {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(GOOD);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    // No other test has this temporary directory, so the mark is unique.
    let mark = format!("REAL_TEST_MARK={}", sandbox.path("tmp").display());
    sandbox.set("REAL_TEST_MARK", sandbox.path("tmp"));
    node.put_into(&sandbox);

    let call = sandbox.pcluster(&["build-image", "-c", "image.yaml", "-i", "my-image"]);
    let mut command = call.command();
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shim = command.spawn().unwrap();
    let pid = Pid::from_child(&shim);
    let _guard = KillsMarked(&mark);
    // The synthesis is running when a Python and its Node are alive. A Node without a Python does not count:
    // it could be a `node --version`, not the Node that jsii starts.
    wait_for("the synthesis", || {
        let alive = alive(&mark);
        let of = |name: &str| {
            alive.iter().any(|(_, program)| {
                program.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
            })
        };
        (of("python") && of(node.program())).then_some(())
    });
    match to {
        To::Process => kill_process(pid, signal),
        To::Group => kill_process_group(pid, signal),
    }
    .unwrap();

    let output = shim.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(signal.as_raw()), "{output:?}");
    assert_eq!(output.stdout, b"", "{output:?}");
    // A killed process can take a moment to be gone.
    wait_for("the end of every child", || alive(&mark).is_empty().then_some(()));
    let left: Vec<_> = fs::read_dir(sandbox.path("tmp")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?} is left");
    // The real pcluster opens its log before anything else.
    assert!(!sandbox.path("home/.parallelcluster").exists(), "the real pcluster ran");
    aws.was_not_asked();
}

#[test]
fn ctrl_c() {
    ends_everything(Signal::INT, To::Group, Node::Real);
}

#[test]
fn sigterm() {
    ends_everything(Signal::TERM, To::Process, Node::Real);
}

#[test]
fn sigterm_while_nothing_answers() {
    ends_everything(Signal::TERM, To::Process, Node::Silent);
}

#[test]
fn sighup_while_nothing_answers() {
    ends_everything(Signal::HUP, To::Process, Node::Silent);
}
