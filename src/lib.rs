//! A drop-in `pcluster` that checks `build-image` before it costs an hour of EC2.
//!
//! # Map
//!
//! A call passes through this map from top to bottom, and imports point only downwards; each folder's
//! `mod.rs` explains its files. "Pure." in a file or in its folder's `mod.rs` means that the code touches no
//! file, child, clock or network. `tests/source_rules.rs` enforces all of this.
//!
//! | module | owns |
//! | --- | --- |
//! | [`guard`] | the steps of one guarded `build-image`, in order |
//! | [`preflight`] | the shim's own commands, a file each |
//! | [`repair`] | fix and undo: plan, stage, prove, exchange, verify; journals and their state |
//! | [`checker`] | one check of one environment, in order, from the interpreter to the report |
//! | [`report`] | findings, verdict and decision; as text, as JSON, in the form of pcluster's errors, for CI |
//! | [`images`] | the AMIs that broken builds left behind, and the AWS client |
//! | [`rules`] | what is known to break builds: advisories, templates, a start that fails, parent images |
//! | [`environment`] | the real pcluster, its launcher, interpreter, packages, Node.js and synthesis |
//! | [`cli`] | arguments and settings |
//! | [`progress`] | the step that is being done, on stderr |
//! | [`outcome`] | the last step of the process, which `main` takes |
//! | [`system`] | children, signals, files, the disk, trust |
//! | [`error`] | errors, their hints and exit statuses |
//! | [`model`] | the small types that everything uses |
//! | [`text`] | YAML, names of packages, and text that is safe for a terminal |
//!
//! # Glossary
//!
//! | term | meaning |
//! | --- | --- |
//! | real pcluster | the command of aws-parallelcluster, which the shim replaces on PATH |
//! | launcher | the file, usually on PATH, that starts the real pcluster |
//! | console script | a launcher that an installer wrote for an entry point, and that names its interpreter |
//! | target | a real pcluster with its launcher, interpreter, `sys.path` and environment variables |
//! | question | what a launcher is asked by starting it: which Python it runs, or whether pcluster starts |
//! | distribution | an installed Python package with its metadata; *package* in reports |
//! | advisory | a fault that is known to break builds, mostly in releases of a package, and its fix |
//! | synthesis | running the real pcluster's own code offline, to get the template that it would submit |
//! | expectation | what pcluster requires of the AMI for a configuration: name, tags, regions, permissions |
//! | check | all tests of a target in one run; also one of these tests, which has a status in the report |
//! | finding | what a rule has found: a message, a level, a cost and a fix |
//! | report | the checks and findings of one target or template, and the verdict |
//! | verdict | ready, blocked (a finding of level ERROR) or unknown (a check could not run) |
//! | decision | what the guard does about a verdict: exec, stop or repair |
//! | orphan | an AMI that pcluster built and that none of its commands can find |
//! | inventory | the images and builds of an account, as AWS lists them |
//! | package directory | where an environment's packages are: its `site-packages` or `dist-packages` |
//! | move | a change of a package to another version, newer or older |
//! | staged packages | the packages that a repair would install, in a directory of their own |
//! | proof | in a repair: the check of the target with the staged packages ahead of the installed ones |
//! | commit | exchanging the old packages for the staged ones, under locks |
//! | journal | the changes of a commit, written to the disk before the first of them is made |
//! | snapshot | in [`repair`]: the copies of the old packages; in [`images`]: an EBS snapshot of an AMI |
//! | rollback | restoring the old packages from the snapshot, after a failed or killed repair or in an undo |
//! | undo | reverting a repair that succeeded: a rollback, or the removal of the overlay |
//! | overlay | proven packages outside the environment; PYTHONPATH puts them ahead of the environment's |
//! | failpoint | a named step of a repair; a test can make the repair fail there, or kill it |

pub mod checker;
pub mod cli;
pub mod environment;
pub mod error;
pub mod guard;
pub mod images;
pub mod model;
pub mod outcome;
pub mod preflight;
pub mod progress;
pub mod repair;
pub mod report;
pub mod rules;
pub mod system;
pub mod text;

use std::ffi::OsString;

use cli::Invocation;
use error::Error;
use outcome::Outcome;

/// Runs a call, except for the last step, which `main` does.
pub fn run(command_line: Vec<OsString>) -> Outcome {
    match Invocation::read(command_line) {
        // A check started a launcher to find out which Python it runs, and this launcher started this
        // process. A check here would start the launcher again, endlessly.
        Invocation::BuildImage(arguments) if environment::question::pending().is_some() => {
            pass_through(arguments)
        }
        Invocation::PassThrough(arguments) => pass_through(arguments),
        Invocation::BuildImage(arguments) => guard::build_image(arguments),
        Invocation::Preflight(arguments) => preflight::run(arguments),
    }
}

fn pass_through(arguments: Vec<OsString>) -> Outcome {
    match environment::locate::Search::from_environment(None).real() {
        Ok(real) => Outcome::exec(real.into_exec(arguments)),
        Err(error) => {
            if let (Error::Loop { tried }, Some(question)) = (&error, environment::question::pending()) {
                environment::question::answer_with_loop(&question, tried);
            }
            Outcome::failed(&error)
        }
    }
}
