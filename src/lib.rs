//! A drop-in `pcluster` that checks `build-image` before it costs an hour of EC2.
//!
//! # Modules
//!
//! A guarded call and all imports run down this map only; `tests/source_rules.rs` reads it.
//!
//! | module | owns |
//! | --- | --- |
//! | [`preflight`] | the shim's own commands, from their arguments to an outcome |
//! | [`preflight::all`] | `preflight check --all` |
//! | [`preflight::check`] | `preflight check` |
//! | [`preflight::images`] | `preflight images` |
//! | [`preflight::iam_policy`] | the IAM policies that `preflight images` needs |
//! | [`preflight::stack`] | `preflight stack` |
//! | [`preflight::fix`] | `preflight fix` and `preflight undo` |
//! | [`preflight::template`] | `preflight template` |
//! | [`preflight::where`](preflight) | `preflight where`: which pcluster is guarded, and how it was found |
//! | [`preflight::where_warnings`] | what `preflight where` warns of |
//! | [`preflight::advisories`] | `preflight advisories` |
//! | [`preflight::constraints`] | `preflight constraints` |
//! | [`preflight::config`] | `preflight config` |
//! | [`preflight::install`] | `preflight install`: install.sh, with this program |
//! | [`preflight::manual`] | completion scripts and the manual page |
//! | [`preflight::context`] | settings, request and report of the commands |
//! | [`guard`] | one guarded `build-image`, in order |
//! | [`repair`] | fix and undo, step by step |
//! | [`repair::commit`] | the exchange under locks, or its rollback |
//! | [`repair::undo`] | the undo of a repair |
//! | [`repair::verify`] | the check of the repaired environment |
//! | [`repair::runtime`] | another Lambda runtime in the installed pcluster |
//! | [`repair::release`] | the packages of the day of a release, as few as it takes |
//! | [`repair::culprit`] | the smallest set that passes a test (pure) |
//! | [`repair::prove`] | the check with the staged packages in front |
//! | [`repair::bytecode`] | bytecode: compiled for staged packages, removed where it is damaged |
//! | [`repair::stage`] | the packages that a repair would install, in a directory of their own |
//! | [`repair::refusals`] | the directories and packages that a repair in place refuses |
//! | [`repair::context`] | the values that the steps of one repair share |
//! | [`repair::installer`] | uv and pip, which resolve and fetch |
//! | [`repair::pip_settings`] | the settings of installers: handed to uv, or overridden |
//! | [`repair::locked_environment`] | the environment of a check, locked against repairs |
//! | [`repair::overlay`] | a repair beside its environment |
//! | [`repair::state`] | the state directory of an environment's repairs, and the locks |
//! | [`repair::rollback`] | the rollback of an exchange, from its snapshot |
//! | [`repair::transaction`] | snapshot, journal, exchange |
//! | [`repair::file_operations`] | to remove, write and link files |
//! | [`repair::file_access`] | owner, group and mode of what a repair places |
//! | [`repair::file_plan`] | the files that an exchange removes and adds |
//! | [`repair::journal`] | the record of an exchange, written before its first change |
//! | [`repair::token`] | the file that binds journals to their environment |
//! | [`repair::file_digest`] | size and SHA-256 of a file |
//! | [`repair::ownership`] | the owner of a directory of packages |
//! | [`repair::change`] | staged packages × installed ones → changes (pure) |
//! | [`repair::plan`] | findings and metadata → requirements (pure) |
//! | [`repair::requirement`] | lines of Requires-Dist (pure) |
//! | [`repair::lock`] | locks of flock(2), uv's among them |
//! | [`repair::hints`] | advice that several steps give |
//! | [`repair::failpoint`] | failures that tests inject at named steps |
//! | [`checker`] | one check, in order |
//! | [`checker::observation`] | what a target does: its start, its template |
//! | [`checker::request`] | what is to be checked |
//! | [`report::builder`] | a report while its checks are made (pure) |
//! | [`report::pcluster`] | a stop in the form in which pcluster rejects a configuration (pure) |
//! | [`report::list`] | a line for each of several reports (pure) |
//! | [`report::junit`] | reports as `JUnit` XML (pure) |
//! | [`report::github`] | reports as workflow commands of GitHub Actions (pure) |
//! | [`report::human`] | the report for people, and its lines on stderr (pure) |
//! | [`report`] | findings → verdict → decision (pure) |
//! | [`images`] | everything of `preflight images` |
//! | [`images::client`] | what is asked of AWS, through the target's own boto3 |
//! | [`images::deletions`] | deletions that have begun, so that the next run ends them |
//! | [`images::report`] | the AMIs of broken builds, for people and as JSON (pure) |
//! | [`images::plan`] | the steps of a repair or a deletion (pure) |
//! | [`images::rules`] | what may be done with each AMI of an inventory, and why not (pure) |
//! | [`images::image`] | an AMI as it is shown: what it is, what it costs, what may be done with it (pure) |
//! | [`images::class`] | what an AMI is, and which directory belongs to it (pure) |
//! | [`images::origin`] | the build of an AMI, from what is left of it (pure) |
//! | [`images::inventory`] | what AWS has of images and builds, in the JSON of client.py (pure) |
//! | [`rules::template_rules`] | all rules on one template (pure) |
//! | [`rules::startup`] | an import that fails → a finding (pure) |
//! | [`rules::runtimes`] | Lambda runtimes of the template → findings (pure) |
//! | [`rules::limits`] | limits of EC2 and Image Builder → findings (pure) |
//! | [`rules::known_issues`] | known issues that the template shows → findings (pure) |
//! | [`rules::constraints`] | advisories → constraints for an installer (pure) |
//! | [`rules::advisory_file`] | the text of advisories, and those of this build (pure) |
//! | [`rules::advisory`] | packages × advisories → findings (pure) |
//! | [`rules::template`] | template × expectation → findings (pure) |
//! | [`rules::template::grouping`](rules::template) | findings of one cause as one finding (pure) |
//! | [`rules::releases`] | the releases of aws-parallelcluster and their dates (pure) |
//! | [`rules::cloudformation`] | bytes → a template of `CloudFormation` (pure) |
//! | [`rules`] | finding, level and fix, the vocabulary of the rules (pure) |
//! | [`rules::fields`] | the fields of an advisory, read from YAML (pure) |
//! | [`environment`] | the environment in which pcluster will run |
//! | [`environment::synthesis`] | the template that the real pcluster would submit |
//! | [`environment::node`] | the Node.js that CDK will run |
//! | [`environment::target`] | a launcher → its interpreter, `sys.path`, environment |
//! | [`environment::question`] | a launcher that is no console script, asked by starting it |
//! | [`environment::discover`] | every real pcluster that this user can reach |
//! | [`environment::places`] | where installers keep environments (pure) |
//! | [`environment::locate`] | PATH → the real pcluster |
//! | [`environment::launcher`] | a console script → the Python that it names |
//! | [`environment::console_script_text`] | the texts of console scripts |
//! | [`environment::loop_guard`] | recognises a pcluster that starts this shim again |
//! | [`environment::record`] | RECORD, the files of an installed distribution |
//! | [`environment::packages`] | `sys.path` → installed distributions |
//! | [`environment::interpreter`] | the answer of interpreter.py: the Python that runs pcluster |
//! | [`environment::image_configuration`] | the files that a call names, and which of them a check may read |
//! | [`cli`] | argv → what was asked |
//! | [`cli::args`] | the command line of `preflight` |
//! | [`cli::settings`] | config.yaml, variables, and their precedence |
//! | [`cli::env_vars`] | the names of environment variables |
//! | [`progress`] | the step that is being done, on stderr |
//! | [`system`] | the operating system |
//! | [`system::child`] | the one way to run a child process |
//! | [`system::signals`] | signals that end a check |
//! | [`system::scratch`] | private directories for temporary files |
//! | [`system::concurrently`] | functions at the same time |
//! | [`system::trust`] | files that no other user could have written |
//! | [`system::disk`] | atomic writes, and their sync to the disk |
//! | [`system::dirs`] | the base directories of the XDG specification |
//! | [`system::executables`] | programs by path and by name |
//! | [`system::files`] | regular files, read up to a limit |
//! | [`outcome`] | the last step of the process |
//! | [`error`] | errors, their hints and exit statuses |
//! | [`yaml`] | YAML text → a value, at a cost that its length bounds (pure) |
//! | [`yaml::size`] | the size of a document with its aliases replaced (pure) |
//! | [`printable`] | text from elsewhere, safe for a terminal (pure) |
//! | [`package_name`] | the names of distributions (pure) |
//!
//! # Glossary
//!
//! | term | meaning |
//! | --- | --- |
//! | real pcluster | the command of aws-parallelcluster, which the shim stands in for |
//! | launcher | the file on PATH that starts the real pcluster |
//! | console script | a launcher that an installer wrote for an entry point, and that names its interpreter |
//! | target | a real pcluster with its launcher, its interpreter, `sys.path` and environment |
//! | distribution | an installed Python package with its metadata; *package* in reports |
//! | advisory | releases of a package that are known to break `build-image`, with the way to fix that |
//! | synthesis | the real pcluster's own code, run offline to make the template that it would submit |
//! | expectation | what that code asks of the AMI for the configuration: name, tags, regions, permissions |
//! | check | one question about the target, with a status; all of them together are a check of the target |
//! | finding | what a rule has found: a message, a level, a cost and a fix |
//! | report | the checks and findings of one call, and their verdict |
//! | verdict | ready, blocked (a finding of level ERROR) or unknown (a check could not run) |
//! | decision | what the guard does about a verdict: exec, stop or repair |
//! | orphan | an AMI that pcluster has built and that none of its commands finds |
//! | inventory | what AWS has of the images and builds of an account |
//! | staged packages | the packages that a repair would install, in a directory of their own |
//! | proof | the check of the target with the staged packages in front of its own |
//! | commit | the exchange of the old packages for the staged ones, under a lock |
//! | journal | the changes of a commit, written to the disk before the first one |
//! | snapshot | the copies of the old packages, from which a rollback or an undo restores them |
//! | rollback | the return to the old packages after a repair that failed or was killed |
//! | undo | the return to the old packages after a repair that succeeded |
//! | overlay | a proven repair that is kept beside the environment, and put in front by PYTHONPATH |
//! | failpoint | a named step of a repair at which a test lets it fail or be killed |

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
        // Started by a launcher that is being asked for its Python: a check here would ask it again.
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
