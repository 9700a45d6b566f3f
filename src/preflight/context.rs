//! What the commands share: settings, the request of a check, the form of a report.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{self, Path, PathBuf};
use std::slice;

use clap::ColorChoice;
use serde_json::Value;

use crate::checker::request::{CheckRequest, ParentSource, read_advisories};
use crate::checker::{self, Identified};
use crate::cli::args::{CheckArgs, Common, Deny, FixArgs, Format};
use crate::cli::is_called_preflight;
use crate::cli::settings::{Origin, Settings};
use crate::environment::locate::{Real, Search};
use crate::environment::packages::is_in_cache_of_uv;
use crate::environment::synthesis::{Call, IMAGE_ID};
use crate::environment::target::Target;
use crate::error::{Abort, AwsFailure, Error, describe_io};
use crate::images::client::Client;
use crate::model::options::FoundBy;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::repair::context::Options;
use crate::report::human::{self, Paint};
use crate::report::{self, Report, github, junit};
use crate::rules::advisories::Advisory;
use crate::system::files;
use crate::system::terminal::width_of_stdout;
use crate::text::printable::{lossy, quote_for_shell};

/// Reads the settings. For `preflight`, an invalid file or variable is an error; for the guard, it is not.
/// Both ignore a file that another user could have written; [`crate::preflight`] warns about such a file.
pub fn read_settings() -> Result<Settings, Error> {
    let (settings, errors) = Settings::read();
    errors.into_iter().find(|error| !is_untrusted(error)).map_or(Ok(settings), Err)
}

/// Reads the built-in advisories and those in the files that config.yaml names.
pub fn read_all_advisories(settings: &Settings) -> Result<Vec<Advisory>, Error> {
    let (advisories, errors) = read_advisories(settings);
    errors.into_iter().find(|error| !is_untrusted(error)).map_or(Ok(advisories), Err)
}

/// Whether the error is that another user could have written a file.
pub fn is_untrusted(error: &Error) -> bool {
    matches!(error, Error::Untrusted { .. })
}

/// The search for the real pcluster.
pub fn start_search(common: &Common, settings: &Settings) -> Search {
    // A relative path in `--real` is relative to the current directory. Links are not resolved, because a
    // launcher may depend on the name by which it is started.
    let absolute = |path: &PathBuf| path::absolute(path).unwrap_or_else(|_| path.clone());
    let program = |path: PathBuf| if path.is_dir() { path.join("bin/pcluster") } else { path };
    let flag = common.real.as_ref().map(|path| (program(absolute(path)), FoundBy::Flag));
    Search::from_environment(flag.or_else(|| settings.real.clone().map(|path| (path, FoundBy::Config))))
}

/// The real pcluster that a flag, a variable or config.yaml names, and which of the three names it.
pub fn find_named(search: &Search) -> (Option<&Path>, Origin) {
    let Some((path, by)) = search.named() else { return (None, Origin::Default) };
    let origin = match by {
        FoundBy::Flag => Origin::Flag,
        FoundBy::Variable => Origin::Variable,
        FoundBy::Config => Origin::File,
        FoundBy::Replaced | FoundBy::Path | FoundBy::Beside | FoundBy::Search => Origin::Default,
    };
    (Some(path), origin)
}

/// Makes the commands in a text ready to be pasted: replaces the program's name in them with what the user
/// typed, which may be a path.
pub fn name_as_called(text: &str) -> String {
    let typed = env::args_os().next().unwrap_or_default();
    let name = quote_for_shell(&lossy(Path::new(&typed)));
    // The short name is used if uvx runs the program from its cache, or if the typed name would have to be
    // escaped in JSON.
    let is_cached = is_in_cache_of_uv(&path::absolute(&typed).unwrap_or_default());
    if is_cached || name.contains(['"', '\\']) { name_shortly(text) } else { rename(text, &name) }
}

/// Replaces the program's name in the commands of a text with its short name, for usage and help.
pub fn name_shortly(text: &str) -> String {
    rename(text, "pcluster-preflight")
}

/// If the program was called as `pcluster-preflight`, replaces `pcluster preflight` with `name`. A wheel may
/// have installed only `pcluster-preflight`; `pcluster` is then the real pcluster, which has no `preflight`.
/// Paths are not changed.
fn rename(text: &str, name: &str) -> String {
    const COMMAND: &str = "pcluster preflight";
    if !is_called_preflight() {
        return text.to_owned();
    }
    let mut renamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(COMMAND) {
        let is_in_path = before.ends_with('/') || after.starts_with('/');
        renamed.push_str(before);
        renamed.push_str(if is_in_path { COMMAND } else { name });
        rest = after;
    }
    renamed + rest
}

/// How progress is shown.
pub fn choose_progress(common: &Common) -> Progress {
    match (common.quiet, common.verbose) {
        (true, _) => Progress::Silent,
        (false, true) => Progress::Lines,
        (false, false) => Progress::Terminal,
    }
}

/// The colours and the width of a report on stdout.
pub fn choose_paint(common: &Common) -> Paint {
    let is_colored = match common.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && env::var_os("TERM").is_none_or(|value| value != "dumb")
                && io::stdout().is_terminal()
        }
    };
    Paint { is_colored, width: width_of_stdout() }
}

/// Reads the settings, builds the request to check one pcluster, and calls `then` with that request.
pub fn with_request<T>(
    check: &CheckArgs,
    common: &Common,
    then: impl FnOnce(&CheckRequest) -> Result<T, Abort>,
) -> Result<T, Abort> {
    let settings = read_settings()?;
    let advisories = read_all_advisories(&settings)?;
    let parent = read_parent(check, &settings)?;
    let real = start_search(common, &settings).real()?;
    then(&build_request(check, common, &real, &settings, &advisories, &parent))
}

/// The request to check one pcluster.
pub fn build_request<'a>(
    check: &CheckArgs,
    common: &Common,
    real: &'a Real,
    settings: &'a Settings,
    advisories: &'a [Advisory],
    parent: &ParentSource,
) -> CheckRequest<'a> {
    CheckRequest {
        real,
        settings,
        advisories,
        parent: parent.clone(),
        call: build_call(check),
        synthesizes: !check.no_synth,
        progress: choose_progress(common),
    }
}

/// Chooses the source of the facts about the parent image: a file, which is read here; AWS, if a flag or
/// config.yaml says so; or none.
pub fn read_parent(check: &CheckArgs, settings: &Settings) -> Result<ParentSource, Error> {
    match &check.parent {
        Some(file) => {
            let bad = |message: String| Error::BadFile { file: file.clone(), message };
            let text = files::read(file).map_err(|error| Error::of_file(file, &error))?;
            parse_images(&text).map(ParentSource::File).map_err(bad)
        }
        None if check.aws || settings.aws => Ok(ParentSource::Aws),
        None => Ok(ParentSource::NotAsked),
    }
}

/// The images in the output of `aws ec2 describe-images`.
fn parse_images(text: &[u8]) -> Result<Vec<Value>, String> {
    let expected = "expected the JSON output of `aws ec2 describe-images --image-ids ...`";
    let answer: Value = serde_json::from_slice(text).map_err(|error| format!("{expected}: {error}"))?;
    let images =
        answer["Images"].as_array().filter(|images| images.iter().all(|image| image["ImageId"].is_string()));
    images.cloned().ok_or_else(|| expected.into())
}

/// Turns the findings that `--deny` names into blocking ones.
pub fn deny(report: &mut Report, denied: Option<Deny>) {
    match denied {
        Some(Deny::Warnings) => report.deny_warnings(),
        None => {}
    }
}

/// The options of a repair.
pub fn repair_options(fix: &FixArgs, settings: &Settings, common: &Common) -> Options {
    Options {
        ids: fix.ids.clone(),
        dry_run: fix.dry_run || fix.print_requirements,
        strategy: fix.strategy.unwrap_or(settings.strategy),
        isolated: fix.isolated,
        installer: fix.installer.unwrap_or(settings.installer),
        verbose: common.verbose,
    }
}

fn build_call(check: &CheckArgs) -> Call {
    let mut options: Vec<OsString> = Vec::new();
    options.extend(["--image-id".into(), check.image_id.as_deref().unwrap_or(IMAGE_ID).into()]);
    if let Some(region) = &check.region {
        options.extend(["--region".into(), region.into()]);
    }
    match &check.image_configuration {
        None => Call::Minimal(options),
        Some(file) => {
            let mut arguments =
                vec!["build-image".into(), "--image-configuration".into(), file.clone().into()];
            arguments.append(&mut options);
            Call::Given(arguments)
        }
    }
}

/// Renders a report in the requested form.
pub fn render_report(report: &Report, common: &Common) -> Result<Outcome, Error> {
    let render = |format| match format {
        Format::Human => human::render(report, &choose_paint(common)),
        Format::Json => report::format_json(report),
        Format::Junit => junit::render(slice::from_ref(report)),
        Format::Github => github::render(slice::from_ref(report)),
    };
    // With `--output`, the file gets the requested format, and stdout shows the report as text for people.
    let printed = match &common.output {
        Some(file) => {
            let failed = |error| Error::CannotWrite { file: file.clone(), why: describe_io(&error) };
            fs::write(file, render(common.format)).map_err(failed)?;
            Format::Human
        }
        None => common.format,
    };
    let stdout = if common.quiet { String::new() } else { render(printed) };
    Ok(Outcome::Exit { status: report.verdict.exit_status(), stdout, stderr: String::new() })
}

/// Identifies the target. If that fails, `otherwise` turns the report into an error.
pub fn identify(
    request: &CheckRequest,
    otherwise: impl FnOnce(&Report) -> Error,
) -> Result<Box<Target>, Abort> {
    match checker::identify(request, None)? {
        Identified::Target(target) => Ok(target),
        Identified::Unknown(report) => Err(otherwise(&report).into()),
    }
}

/// Calls `then` with a client that reaches AWS through the real pcluster's boto3.
pub fn with_aws<T>(
    common: &Common,
    then: impl FnOnce(&Client, Progress) -> Result<T, Abort>,
) -> Result<T, Abort> {
    with_request(&CheckArgs::default(), common, |request| {
        let unknown = |report: &Report| Error::Aws(AwsFailure::of_client(report.reasons().join("; ")));
        let target = identify(request, unknown)?;
        then(&Client { target: &target, timeout: request.settings.timeout }, request.progress)
    })
}
