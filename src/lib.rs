//! The map of the house: a drop-in `pcluster` that checks `build-image` before it costs an hour.
//!
//! The walk of one guarded call runs down these rooms, and imports run down only:
//!
//! | room | owns |
//! | --- | --- |
//! | [`cli`] | argv and environment → what was asked |
//! | [`config`] | config.yaml and precedence → settings |
//! | [`preflight`] | the shim's own subcommands |
//! | [`guard`] | the story of one guarded `build-image` |
//! | [`repair`] | plan → stage → prove → commit → verify, and the undo |
//! | [`examine`] | the walk of one check, in order |
//! | [`locate`] | PATH → the real pcluster |
//! | [`locate_report`] | what `preflight where` says of it |
//! | [`target`] | the real pcluster → its interpreter, `sys.path`, environment |
//! | [`image_configuration`] | the files that a call names, and which of them a check may read |
//! | [`launcher`] | a console script → the Python that it starts |
//! | [`question`] | any other launcher, asked by starting it |
//! | [`interpreter`] | what a Python says of itself |
//! | [`node`] | the Node.js that CDK will run |
//! | [`packages`] | `sys.path` → installed distributions |
//! | [`advisory`] | packages × advisories → findings (pure) |
//! | [`synth`] | the template that the real pcluster would submit |
//! | [`template`] | template × expectation → findings (pure) |
//! | [`report`] | findings → verdict, decision, text (pure) |
//! | [`remember`] | what need not be found out twice |
//! | [`child`] | the one way to run a child process |
//! | [`manual`] | completion scripts and the manual page |
//! | [`progress`] | what is being done, on a terminal's stderr |
//! | [`printable`] | text from elsewhere, safe for a terminal (pure) |
//! | [`error`] | what can go wrong, what to do then, the exit status |
//! | [`yaml`] | YAML text → a value, at a cost that its length bounds (pure) |
//! | [`system`] | what is asked of the operating system |

pub mod advisory;
pub mod cli;
pub mod config;
pub mod env_vars;
pub mod error;
pub mod examine;
pub mod fields;
pub mod finding;
pub mod guard;
pub mod image_configuration;
pub mod interpreter;
pub mod launcher;
pub mod locate;
pub mod locate_report;
pub mod manual;
pub mod node;
pub mod outcome;
pub mod package_name;
pub mod packages;
pub mod preflight;
pub mod printable;
pub mod progress;
pub mod question;
pub mod remember;
pub mod repair;
pub mod report;
pub mod synth;
pub mod system;
pub mod target;
pub mod template;
pub mod yaml;

use std::ffi::OsString;

use cli::Call;
use error::Error;
use outcome::Outcome;

/// Does what the command line asks for, short of the last step, which is `main`'s.
#[must_use]
pub fn run(command_line: Vec<OsString>) -> Outcome {
    match Call::read(command_line) {
        // Started by a launcher that is being asked for its Python: no check in a check.
        Call::BuildImage(arguments) if question::pending().is_some() => pass_through(arguments),
        Call::PassThrough(arguments) => pass_through(arguments),
        Call::BuildImage(arguments) => guard::build_image(arguments),
        Call::Preflight(arguments) => preflight::run(arguments),
    }
}

fn pass_through(arguments: Vec<OsString>) -> Outcome {
    match locate::Search::from_environment(None).real() {
        Ok(real) => Outcome::Exec { exec: real.into_exec(arguments), stderr: String::new() },
        Err(error) => {
            if let (Error::Loop { tried }, Some(question)) = (&error, question::pending()) {
                question::answer_with_loop(&question, tried);
            }
            Outcome::failed(&error)
        }
    }
}
