//! `pcluster preflight`: the shim's own commands, from their arguments to an [`Outcome`].
//!
//! - `advisories`: `preflight advisories`
//! - `all`: `preflight check --all`
//! - `check`: `preflight check`
//! - `config`: `preflight config`
//! - `constraints`: `preflight constraints`
//! - `context`: settings, request and report of the commands
//! - `fix`: `preflight fix` and `preflight undo`
//! - `iam_policy`: the IAM policies that `preflight images` and `preflight check --aws` need
//! - `images`: `preflight images`
//! - `install`: `preflight install`: runs install.sh to install this program
//! - `manual`: completion scripts and the manual page
//! - `stack`: `preflight stack`
//! - `template`: `preflight template`
//! - `where`: `preflight where`: which pcluster is guarded, and how it was found
//! - `where_calls`: which calls of pcluster start the guard
//! - `where_warnings`: what `preflight where` warns about

pub mod advisories;
pub mod all;
pub mod check;
pub mod config;
pub mod constraints;
pub mod context;
pub mod fix;
pub mod iam_policy;
pub mod images;
pub mod install;
pub mod manual;
pub mod stack;
pub mod template;
pub mod r#where;
pub mod where_calls;
pub mod where_warnings;

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde_json::Value;

use crate::checker::request::read_advisories;
use crate::cli::args::{Command, Format, Preflight, asks_for_json};
use crate::cli::settings::Settings;
use crate::error::{self, Abort, Error, prefix_lines};
use crate::outcome::Outcome;
use crate::preflight::context::{is_untrusted, name_as_called, name_shortly};
use crate::report::{self, github, junit};
use crate::text::printable::{capitalize, escape, flatten};

/// Runs the command that the arguments of `preflight` name.
pub fn run(arguments: Vec<OsString>) -> Outcome {
    let is_json = asks_for_json(&arguments);
    let command_line = [OsString::from("pcluster preflight")].into_iter().chain(arguments);
    let preflight = match Preflight::read(command_line) {
        Ok(preflight) => preflight,
        Err(message) => return name_commands(stop_at_usage(&suggest_option(message), is_json), name_shortly),
    };
    let common = preflight.common;
    // `template`, `install` and `uninstall` read no settings; `where` reports ignored files itself.
    let reads_settings = !matches!(
        preflight.command,
        Some(Command::Template { .. } | Command::Install { .. } | Command::Uninstall { .. } | Command::Where)
    );
    let done = match preflight.command.unwrap_or(Command::Check(preflight.check)) {
        Command::Check(check) if check.all => all::run(&check, &common),
        Command::Check(check) => check::run(&check, &common),
        Command::Fix(fix) => fix::run(&fix, &common),
        Command::Undo { list } => fix::run_undo(list, &common),
        Command::Template { file, deny } => template::run(&file, deny, &common),
        Command::Stack { name, region, deny } => stack::run(&name, region.as_deref(), deny, &common),
        Command::Images(images) => images::run(&images, &common),
        Command::Where => r#where::run(&common),
        Command::Config => config::run(&common),
        Command::Constraints { version, python, pin } => {
            constraints::run(version.as_deref(), python.as_deref(), pin, &common)
        }
        Command::Advisories { id } => advisories::run(id.as_deref(), &common),
        Command::Install { arguments } => install::run(arguments),
        Command::Uninstall { arguments } => {
            install::run(["--uninstall".into()].into_iter().chain(arguments).collect())
        }
        // The completion scripts and the manual page contain both names of the program, so neither name
        // is replaced.
        Command::Completions { shell } => return Outcome::success(manual::render_completions(shell)),
        Command::Man => return Outcome::success(manual::render_page()),
        Command::Version => return Outcome::success(name_shortly(&Preflight::command().render_version())),
    };
    let outcome = match done {
        Ok(outcome) if reads_settings => warn_of_untrusted(outcome),
        Ok(outcome) => outcome,
        Err(Abort::Error(error)) if common.format != Format::Human => fail_in(common.format, &error),
        Err(Abort::Error(error)) if reads_settings => warn_of_untrusted(Outcome::failed(&error)),
        Err(Abort::Error(error)) => Outcome::failed(&error),
        Err(Abort::Interrupted(interrupted)) => Outcome::Die(interrupted),
    };
    name_commands(outcome, name_as_called)
}

/// Uses the function `name` to rename the commands in the stdout and stderr of an outcome.
fn name_commands(outcome: Outcome, name: fn(&str) -> String) -> Outcome {
    match outcome {
        Outcome::Exit { status, stdout, stderr } => {
            Outcome::Exit { status, stdout: name(&stdout), stderr: name(&stderr) }
        }
        other => other,
    }
}

/// Ends with an error in a format for programs.
fn fail_in(format: Format, error: &Error) -> Outcome {
    let message = error.to_line();
    let stdout = match format {
        Format::Junit => junit::render_error(&message, &error.hint()),
        Format::Github => github::render_error(&message, &error.hint()),
        _ => return fail_in_json(error.exit_status(), &error.to_json(), &message),
    };
    let stderr = prefix_lines(&format!("error: {message}"));
    let stderr = if format == Format::Github { github::without_commands(&stderr) } else { stderr };
    Outcome::Exit { status: error.exit_status(), stdout, stderr }
}

/// Ends with an error under `--format json`. stdout contains only the JSON, for the program that requested
/// it. The message is also on stderr, in one line: otherwise the log of
/// `report=$(pcluster preflight --format json)` under `set -e` would show nothing. cargo, uv and gh write
/// their errors to stderr in every format.
fn fail_in_json(status: u8, json: &Value, message: &str) -> Outcome {
    Outcome::Exit {
        status,
        stdout: report::format_json(json),
        stderr: prefix_lines(&format!("error: {message}")),
    }
}

/// Suggests `-c` if the user passed the name of a file instead of a command.
fn suggest_option(mut message: clap::Error) -> clap::Error {
    let named = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg].into_iter();
    let named = named.filter_map(|kind| message.get(kind)).find_map(|value| match value {
        ContextValue::String(name) if is_named_as_configuration(name) => Some(name.clone()),
        _ => None,
    });
    if let Some(file) = named {
        let tip = format!("to check an image configuration, use '-c {file}'").into();
        message.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    message
}

fn is_named_as_configuration(name: &str) -> bool {
    let path = Path::new(name);
    path.is_file() || path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml")
}

/// Ends with the output of clap: the help, the version, or a usage error.
fn stop_at_usage(message: &clap::Error, is_json: bool) -> Outcome {
    let text = message.to_string();
    match message.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Outcome::success(text),
        _ if is_json => {
            let (message, hint) = shorten_usage(&text);
            fail_in_json(2, &error::describe_in_json(&message, &hint), &message)
        }
        _ => Outcome::Exit { status: 2, stdout: String::new(), stderr: escape(&text).into_owned() },
    }
}

/// Splits clap's text into its message and a hint. The hint contains clap's tips, but not the usage line.
fn shorten_usage(text: &str) -> (String, String) {
    let mut paragraphs = text.split("\n\n");
    let message = flatten(paragraphs.next().unwrap_or_default().trim_start_matches("error: ")).into_owned();
    let tips = paragraphs.flat_map(str::lines).filter_map(|line| line.trim().strip_prefix("tip: "));
    let help = "To list the commands and their options, run `pcluster preflight help`.";
    (message, tips.map(|tip| format!("{}. ", capitalize(tip))).chain([help.into()]).collect())
}

/// Warns about each config or advisories file that was ignored. These warnings come first on stderr.
fn warn_of_untrusted(outcome: Outcome) -> Outcome {
    let Outcome::Exit { status, stdout, stderr } = outcome else { return outcome };
    let (settings, errors) = Settings::read();
    let errors = errors.into_iter().chain(read_advisories(&settings).1);
    let lines = errors.filter(is_untrusted).map(|error| {
        prefix_lines(&format!("warning: {error}; the file was ignored\nhint: {}", error.hint()))
    });
    let stderr = lines.collect::<String>() + &stderr;
    Outcome::Exit { status, stdout, stderr }
}
