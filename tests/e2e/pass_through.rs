//! Every command except `build-image` runs the real pcluster as if there were no shim.

use crate::environments::{GOOD, NEWEST, RealSandbox};

fn is_passed_through(environment: &str) {
    let sandbox = RealSandbox::of(environment);
    for call in [
        "version",
        "--help",
        "list-images --help",
        "list-images --image-status NONSENSE",
        "no-such-command",
        "",
    ] {
        let words: Vec<&str> = call.split_whitespace().collect();
        let direct = sandbox.real(&words).run();
        sandbox.pcluster(&words).run().is_the_same_as(&direct);
    }
}

#[test]
fn the_first_release_is_passed_through() {
    is_passed_through(GOOD);
}

#[test]
fn the_newest_release_is_passed_through() {
    is_passed_through(NEWEST);
}

#[test]
fn one_exec_no_child_and_nothing_opened_for_writing() {
    let sandbox = RealSandbox::of(GOOD);
    let calls = "execve,execveat,fork,vfork,clone,clone3,open,openat,openat2,creat,mkdir,mkdirat,\
                 rename,renameat,renameat2,unlink,unlinkat,symlink,symlinkat,link,linkat,truncate";
    let (ran, trace) = sandbox.traced(&calls.replace("                 ", ""), &["version"]);
    ran.exits(0).is_silent();
    let real = sandbox.environment.bin("pcluster");
    assert_eq!(trace.executed()[..2], [sandbox.path("shim/pcluster"), real.clone()], "{trace}");
    let before = trace.before(&real);
    let (execs, opens): (Vec<&str>, Vec<&str>) =
        before.into_iter().partition(|line| line.contains("execve("));
    assert_eq!(execs.len(), 1, "{trace}");
    for line in opens {
        assert!(line.contains(" openat(") || line.contains(" open("), "{line}\n{trace}");
        for flag in ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"] {
            assert!(!line.contains(flag), "{line}\n{trace}");
        }
    }
}
