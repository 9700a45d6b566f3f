//! The end-to-end tests: the contract on the real pcluster, release by release.
//!
//! `cargo test --test e2e` needs what scripts/test makes and checks first: the environments, node, strace. If
//! one is missing, tests fail and name it. Most tests that resemble another one are ignored, with the reason
//! "long": `scripts/test --long` runs them too.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by them")]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the fast suite uses more of it")]
mod support; // sandboxes, runs, programs of this machine

mod advisories; // each advisory with an environment that it stops, and a near miss
mod all; // `preflight check --all` over several environments
mod arguments; // command lines, read and refused as by the real parser
mod blocked; // the broken CDK: what is stopped, what is named, the modes
mod configurations; // the corpus: every key of the schema, its extremes, YAML's odd corners
mod constrained; // releases that can be installed today only with `preflight constraints`
mod corpus; // each configuration of the corpus, with and without the shim
mod environment_copy; // a copy of an environment to repair, an index, comparison byte for byte
mod environments; // what every test uses
mod errors; // the errors of rules, each with the real pcluster
mod evidence; // the verdict follows what the real code does, and nothing is written
mod fleet; // scripts/fleet.yml on hosts that differ
mod fresh; // environments as they are installed today, in which pcluster does not start
mod images; // what broken builds have left in AWS: listed, repaired, deleted
mod installed; // install.sh over real installations
mod launcher_table; // launchers by kind × good and broken packages, and what changes after the first check
mod launchers; // the ways in which pcluster is installed
mod pass_through; // every command but build-image
mod pipeline_formats; // junit, read by junitparser, and workflow commands of GitHub
mod pipelines; // docs/ci.md and docs/pipelines, run line by line
mod read_once; // a configuration from a pipe, a FIFO, standard input
mod readme; // the README's example of a block and a fix, with the real pcluster
mod ready; // a good environment: the same result as without the shim
mod releases; // `preflight check` on release after release
mod repair; // fix and undo in copies of the broken environments, made by either installer
mod repair_failing; // what can go wrong in the steps of a repair, each time with nothing changed
mod repair_killed; // SIGKILL at every step and at any moment
mod repair_placed; // scripts and data files, groups and modes, and settings of installers
mod signals; // Ctrl-C and similar signals during a synthesis
mod source_edits; // source edits of an installed pcluster, with and without changed packages
mod stored_template; // `preflight template` on a stack's template as AWS returns it
mod unknown; // a check that cannot run
mod wheel; // the wheel, installed by pip, uv, uvx and pipx
