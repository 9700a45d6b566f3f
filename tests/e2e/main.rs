//! The end-to-end tests: the contract on the real pcluster, release by release.
//!
//! `cargo test --test e2e` needs what scripts/test makes and checks first: the environments, node,
//! strace. What is missing fails, and says so. Of tests that are alike all but one or two are ignored as long:
//! `scripts/test --long` runs them too.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by them")]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the fast suite uses more of it")]
mod support; // sandboxes, runs, programs of this machine

mod advisories; // each of them with an environment that it stops, and a near miss
mod all; // `preflight check --all` over several of them
mod arguments; // the real parser's reading, and refusals in its own words
mod blocked; // the broken CDK: what is stopped, what is named, the modes
mod configurations; // the corpus: every key of the schema, its extremes, YAML's odd corners
mod constrained; // what cannot be installed today, installed by `preflight constraints`
mod corpus; // each of them with and without the shim
mod environment_copy; // a copy of an environment to repair, an index, comparison byte for byte
mod environments; // what every test uses
mod errors; // those of rules, each on the real pcluster
mod evidence; // what the real code does decides, and nothing is written
mod fleet; // scripts/fleet.yml on hosts that differ
mod fresh; // what does not start as it is installed today
mod images; // what broken builds have left in AWS: listed, given back, deleted
mod installed; // install.sh over real installations
mod launcher_table; // launchers by kind × good and broken packages, and what changes after the first check
mod launchers; // the ways in which pcluster is installed
mod pass_through; // all that is not build-image
mod pipeline_formats; // junit, read by junitparser, and workflow commands of GitHub
mod pipelines; // docs/ci.md and docs/pipelines, run line by line
mod read_once; // a configuration from a pipe, a FIFO, standard input
mod readme; // its example of a block and a fix, on the real pcluster
mod ready; // the call goes on and does what it does without the shim
mod releases; // `preflight check` on release after release
mod repair; // fix and undo in copies of the broken environments, made by either installer
mod repair_failing; // what can go wrong in its steps, each time with nothing changed
mod repair_killed; // SIGKILL at every step and at any moment
mod repair_placed; // scripts and data files, groups and modes, and settings of installers
mod signals; // Ctrl-C and its like during a synthesis
mod source_edits; // source edits of an installed pcluster, with and without packages that move
mod stored_template; // `preflight template` on what AWS gives back
mod unknown; // a check that cannot run
mod wheel; // what a wheel has installed, by pip, uv, uvx and pipx
