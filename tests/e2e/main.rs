//! The end-to-end tests: the shim in front of the real pcluster, release by release.
//!
//! `cargo test --test e2e` needs real environments, node and strace. scripts/test makes the environments and
//! checks for the programs. If something is missing, the tests that need it fail and name it. Most tests that
//! resemble another test are ignored, with the reason "long": `scripts/test --long` runs them too.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by them")]

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the fast suite uses more of it")]
mod support; // sandboxes, runs, programs of this machine

mod advisories; // each advisory, with an environment that it blocks and a similar one that it does not block
mod all; // `preflight check --all` over several environments
mod arguments; // command lines, read and refused as by the real parser
mod blocked; // the broken CDK: calls that are stopped, what findings name, the modes
mod configurations; // the corpus of image configurations: every key, extreme values, odd corners of YAML
mod constrained; // releases that can be installed today only with `preflight constraints`
mod corpus; // each configuration of the corpus, built with and without the shim
mod environment_copy; // copies of environments to repair, a package index, byte-for-byte comparison
mod environments; // what every test uses
mod errors; // each error that a rule can report, with the real pcluster
mod evidence; // the verdict follows what the real code does; a check writes nothing
mod fleet; // scripts/fleet.yml on hosts that differ
mod fresh; // environments as they are installed today, in which pcluster does not start
mod images; // what broken builds have left in AWS: listed, repaired, deleted
mod installed; // the shim in front of real installations, installed by install.sh
mod launcher_table; // every kind of launcher, first with good and then with broken packages
mod launchers; // the ways in which pcluster is installed
mod pass_through; // every command except build-image
mod pipeline_formats; // `--format junit`, read by junitparser, and `--format github`
mod pipelines; // docs/ci.md and docs/pipelines, run line by line
mod read_once; // a configuration from a pipe, a FIFO, standard input
mod readme; // the README's recording and its console example, with the real pcluster
mod ready; // a good environment: the same result as without the shim
mod releases; // `preflight check` on release after release
mod repair; // fix and undo in copies of the broken environments, made by either installer
mod repair_failing; // failures in the steps of a repair, after which nothing is changed
mod repair_killed; // SIGKILL at every failpoint and at random moments of a repair
mod repair_placed; // scripts and data files with their groups and modes, and settings of installers
mod signals; // Ctrl-C and similar signals during a synthesis
mod source_edits; // source edits of an installed pcluster, with and without changed packages
mod stored_template; // `preflight template` on a stack's template as AWS returns it
mod unknown; // a check that cannot run
mod wheel; // the wheel, installed by pip, uv, uvx and pipx
