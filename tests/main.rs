//! The fast suite: the built binary on fake launchers. Each module tests one subject.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by them")]

#[expect(dead_code, reason = "the end-to-end tests use more of it")]
mod support; // sandboxes, fake environments, snapshots

mod all; // `check --all`: every pcluster that can be found, one line each
mod dispatch; // what is guarded, what passes through, and that a pass-through leaves no trace
mod failpoints; // repairs that are killed, that fail, or that run at the same time as others
mod failures; // checks that cannot run: one warning line, then the real pcluster; with strict, a stop
mod hostile; // files that hang, flood, or could have been written by others
mod images; // preflight images, as people and scripts see it
mod install; // install.sh: installation and uninstallation
mod launchers; // every form of launcher leads to its interpreter
mod locate; // the real pcluster among shims, wrappers and debris
mod parent; // what AWS, or a file, says about the parent image
mod preflight; // the shim's own commands
mod repair; // fix and undo: what they do, refuse and say
mod repair_history; // the stack of repairs, and what is undone first
mod settings; // config.yaml and variables, for the guard and for preflight
mod signals; // ^C, SIGTERM, SIGHUP, nohup
mod source_rules; // the rules that the source has to follow
mod startup_table; // the advisories, compared with measured starts of pcluster
mod synthesis; // synthesis.py in a real Python, with stubs of the functions that it imports
mod templates; // preflight template, on templates that real pclusters made
mod traps; // known failures of PATH shims in other projects
mod verdicts; // verdict × mode × strict, as scripts and people see it
