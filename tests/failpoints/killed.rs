//! Repairs and undos that are killed at every step. The next call rolls back an unfinished repair, and
//! completes an unfinished undo.

use super::{FAILPOINT, MAX_COUNT, STEPS, assert_same, repair_and_undo};
use crate::support::broken_environment::BrokenEnvironment;
use crate::support::sandbox::Sandbox;

/// Kills a repair at every step, at every `nth` file of that step. After each kill, the next call is one of
/// four commands.
fn killed_at_every_step(environment: &BrokenEnvironment, nth: usize) {
    let before = environment.site();
    let repaired = repair_and_undo(environment);
    for step in STEPS {
        for count in (1..).step_by(nth) {
            assert!(count < MAX_COUNT, "{step} is reached without end");
            let failure = format!("kill:{step}@{count}");
            let run = environment.preflight(["fix"]).var(FAILPOINT, &failure).run();
            if run.status.code() == Some(0) {
                // The repair was not killed, because it reaches the step fewer than `count` times.
                let at_least = if ["snapshot", "remove", "place"].contains(&step) { 10 } else { 1 };
                assert!(count > at_least, "{step} was reached less than {count} times");
                environment.preflight(["undo"]).run().exits(0);
                break;
            }
            run.dies_by(9);
            environment.sandbox.wait_until_scratch_is_free();
            let kept = environment.kept();
            let interrupted = kept.contains(&"journal.json".to_owned());
            let closed = kept.iter().any(|name| name.starts_with("repair-"));
            let unchanged = kept.contains(&"unchanged.json".to_owned());
            assert_eq!(closed, step == "closed", "{failure}");
            assert!(
                interrupted || closed || unchanged || environment.site() == before,
                "{failure}: touched without a journal"
            );
            let what_next = count % 4;
            let next = match what_next {
                0 => environment.preflight(["fix"]).run(),
                1 => environment.preflight(["--no-synth"]).run(),
                2 => environment.build_image().run(),
                _ => environment.preflight(["undo"]).run(),
            };
            let reported = next.stderr().contains("rolled back an interrupted repair");
            next.holds(
                reported == interrupted,
                &format!("{failure}: a rollback is reported, and nothing else"),
            );
            let expected = match (what_next, closed) {
                (0, _) | (1 | 2, true) => 0,
                (3, closed) => i32::from(!closed && !interrupted),
                (_, false) => 1,
                _ => unreachable!(),
            };
            next.exits(expected);
            if what_next == 0 || (closed && what_next != 3) {
                assert_same(
                    &environment.content(),
                    &repaired,
                    &format!("{failure}: neither repaired nor as before"),
                );
                environment.keeps_the_last_one();
                environment.preflight(["undo"]).run().exits(0);
            }
            assert_same(&environment.site(), &before, &format!("{failure}: not as before"));
            environment.left_nothing(&failure);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn killed_at_every_step_with_links() {
    killed_at_every_step(&Sandbox::new().broken_environment(), 5);
}

#[test]
#[cfg(feature = "fault-injection")]
#[ignore = "long"]
fn killed_at_every_file_with_links() {
    killed_at_every_step(&Sandbox::new().broken_environment(), 1);
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn killed_at_every_step_with_copies() {
    killed_with_copies(5);
}

#[test]
#[cfg(feature = "fault-injection")]
#[ignore = "long"]
fn killed_at_every_file_with_copies() {
    killed_with_copies(1);
}

fn killed_with_copies(nth: usize) {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment_across_file_systems();
    environment.is_not_compiled();
    killed_at_every_step(&environment, nth);
}

/// Kills an undo at every `nth` file. The next two calls, which try to complete the undo, are killed too.
fn an_undo_killed_is_completed(environment: &BrokenEnvironment, nth: usize) {
    let before = environment.site();
    for step in ["undo", "restore"] {
        for count in (1..MAX_COUNT).step_by(nth) {
            let failure = format!("kill:{step}@{count}");
            environment.preflight(["fix"]).run().exits(0);
            let run = environment.preflight(["undo"]).var(FAILPOINT, &failure).run();
            if run.status.code() == Some(0) {
                break;
            }
            run.dies_by(9);
            environment.sandbox.wait_until_scratch_is_free();
            for more in [1, 2] {
                let again = environment.preflight([]).var(FAILPOINT, format!("kill:restore@{more}")).run();
                again.dies_by(9);
            }
            let next = environment.build_image().run();
            next.exits(1).holds(next.stderr().contains("rolled back"), &failure);
            assert_same(&environment.site(), &before, &failure);
            environment.left_nothing(&failure);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn an_undo_killed_at_some_files_is_completed_with_links() {
    an_undo_killed_is_completed(&Sandbox::new().broken_environment(), 5);
}

#[test]
#[cfg(feature = "fault-injection")]
#[ignore = "long"]
fn an_undo_killed_at_every_file_is_completed_with_links() {
    an_undo_killed_is_completed(&Sandbox::new().broken_environment(), 1);
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn an_undo_killed_at_some_files_is_completed_with_copies() {
    an_undo_killed_is_completed(&Sandbox::new().broken_environment_across_file_systems(), 5);
}

#[test]
#[cfg(feature = "fault-injection")]
#[ignore = "long"]
fn an_undo_killed_at_every_file_is_completed_with_copies() {
    an_undo_killed_is_completed(&Sandbox::new().broken_environment_across_file_systems(), 1);
}

/// The undo is killed after it has restored everything, while it removes the token (src/repair/token.rs),
/// the journal and the copies.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn an_undo_killed_at_its_end_is_completed() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    // The first undo is killed before it removes the token, the second undo after that.
    for failure in ["kill:remove-token", "kill:remove-token@2"] {
        environment.preflight(["fix"]).run().exits(0);
        environment.preflight(["undo"]).var(FAILPOINT, failure).run().dies_by(9);
        assert!(environment.kept().contains(&"unchanged.json".to_owned()), "{failure}");
        // The next call begins to complete the undo, and is killed too.
        environment.preflight(["--no-synth"]).var(FAILPOINT, "kill:remove-token").run().dies_by(9);
        environment.preflight(["--no-synth"]).run().exits(1).is_silent();
        assert_same(&environment.site(), &before, failure);
        environment.left_nothing(failure);
    }
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_token_that_cannot_be_removed_is_removed_by_the_next_call() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    environment.preflight(["undo"]).var(FAILPOINT, "fail:remove-token").run().exits(0);
    environment.preflight(["fix", "--dry-run"]).run().exits(0);
    assert_same(&environment.site(), &before, "");
    environment.left_nothing("by the next call");
}

/// An undo is not stopped by Ctrl-C: the undo takes less than a second, and an undo that stopped half-way
/// would leave the environment with some old and some new files.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn an_undo_is_finished_whatever_signal_comes() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let run = environment.preflight(["undo"]).var(FAILPOINT, "interrupt:restore@3").run();
    run.exits(0).is_silent();
    assert_eq!(environment.site(), before);
    environment.left_nothing("by an undo");
}
