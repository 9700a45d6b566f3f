//! `pcluster preflight`: the shim's own subcommands, from their arguments to an [`Outcome`].

pub mod manual;
pub mod r#where;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};
use std::time::Instant;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde_json::{Value, json};

use crate::cache::Memory;
use crate::checker::{self, Examined, Request};
use crate::cli::args::{Check, Command, Common, Fix, Format, Preflight, asks_for_json};
use crate::cli::settings::Settings;
use crate::environment::image_configuration::is_read_once;
use crate::environment::interpreter::Unidentified;
use crate::environment::locate::{FoundBy, Search};
use crate::environment::synthesis::{Call, Expectation, IMAGE_ID};
use crate::environment::target;
use crate::error::{self, Abort, Error, on_stderr};
use crate::outcome::Outcome;
use crate::preflight::r#where::Where;
use crate::printable::{escape, escape_line, flatten};
use crate::progress::Progress;
use crate::repair::plan::Change;
use crate::repair::{self, Fixed, Ground, Overlay, Undone, find_overlay};
use crate::report::{self, Report, Status, Verdict, wrapped};
use crate::rules;
use crate::rules::advisory::Advisory;
use crate::rules::template;
use crate::system::child::ChildError;
use crate::system::files;
use crate::system::scratch::Scratch;

/// Does what `preflight` is asked for.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> Outcome {
    let json = asks_for_json(&arguments);
    let command_line = [OsString::from("pcluster preflight")].into_iter().chain(arguments);
    let preflight = match Preflight::read(command_line) {
        Ok(preflight) => preflight,
        Err(message) => return usage(&suggest_option(message), json),
    };
    let common = preflight.common;
    let reads_settings = !matches!(
        preflight.command,
        Some(Command::Template { .. } | Command::Completions { .. } | Command::Man | Command::Where)
    );
    let done = match preflight.command.unwrap_or(Command::Check(preflight.check)) {
        Command::Check(check) => run_check(&check, &common),
        Command::Fix(fix) => run_fix(&fix, &common),
        Command::Undo => run_undo(&common),
        Command::Template { file } => run_template(&file, &common),
        Command::Where => run_where(&common),
        Command::Advisories { id } => run_advisories(id.as_deref(), &common),
        Command::Completions { shell } => Ok(says(manual::completions(shell))),
        Command::Version => Ok(says(Preflight::command().render_version())),
        Command::Man => Ok(says(String::from_utf8_lossy(&manual::page().unwrap_or_default()).into_owned())),
    };
    match done {
        Ok(outcome) if reads_settings => say_untrusted(outcome),
        Ok(outcome) => outcome,
        Err(Abort::Error(error)) if common.format == Format::Json => {
            failed_in_json(error.exit_status(), &error.json(), &error.in_one_line())
        }
        Err(Abort::Error(error)) if reads_settings => say_untrusted(Outcome::failed(&error)),
        Err(Abort::Error(error)) => Outcome::failed(&error),
        Err(Abort::Interrupted(signal)) => Outcome::Die(signal),
    }
}

fn says(stdout: String) -> Outcome {
    Outcome::Exit { status: 0, stdout, stderr: String::new() }
}

/// stdout is for the program that asked, and holds nothing but the JSON. stderr has the message in
/// one line all the same: of `report=$(pcluster preflight --format json)` under `set -e`, a log
/// would show nothing at all. cargo, uv and gh tell their errors on stderr in every format.
fn failed_in_json(status: u8, json: &Value, message: &str) -> Outcome {
    Outcome::Exit { status, stdout: report::pretty(json), stderr: on_stderr(message) }
}

/// Where a file stands for a command or an argument, the configuration is what was meant.
fn suggest_option(mut message: clap::Error) -> clap::Error {
    let word = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg].into_iter();
    let word = word.filter_map(|kind| message.get(kind)).find_map(|value| match value {
        ContextValue::String(word) if Path::new(word).is_file() => Some(word.clone()),
        _ => None,
    });
    if let Some(file) = word {
        let tip = format!("to check an image configuration, use '-c {file}'").into();
        message.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    message
}

/// Help and the version are answers; the rest is an error of usage.
fn usage(message: &clap::Error, json: bool) -> Outcome {
    let text = message.to_string();
    match message.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => says(text),
        _ if json => {
            let (message, hint) = usage_in_short(&text);
            failed_in_json(2, &error::json(&message, &hint), &message)
        }
        _ => Outcome::Exit { status: 2, stdout: String::new(), stderr: escape(&text).into_owned() },
    }
}

/// clap's message and its tips, without the usage line.
fn usage_in_short(text: &str) -> (String, String) {
    let mut paragraphs = text.split("\n\n");
    let message = flatten(paragraphs.next().unwrap_or_default().trim_start_matches("error: ")).into_owned();
    let tips = paragraphs.flat_map(str::lines).filter_map(|line| line.trim().strip_prefix("tip: "));
    let help = "`pcluster preflight help` lists the commands and their options.";
    (message, tips.map(|tip| format!("{tip}. ")).chain([help.into()]).collect())
}

/// Unlike the guard, `preflight` refuses settings that are at fault. What others could have written
/// is passed over, as the guard does; [`say_untrusted`] says so.
fn settings() -> Result<Settings, Error> {
    let (settings, faults) = Settings::read();
    faults.into_iter().find(|fault| !is_untrusted(fault)).map_or(Ok(settings), Err)
}

fn advisories(settings: &Settings) -> Result<Vec<Advisory>, Error> {
    let (advisories, faults) = checker::read_advisories(settings);
    faults.into_iter().find(|fault| !is_untrusted(fault)).map_or(Ok(advisories), Err)
}

fn is_untrusted(fault: &Error) -> bool {
    matches!(fault, Error::Untrusted { .. })
}

/// A line for each config or advisories file that is passed over, before all else on stderr.
fn say_untrusted(outcome: Outcome) -> Outcome {
    let Outcome::Exit { status, stdout, stderr } = outcome else { return outcome };
    let (settings, faults) = Settings::read();
    let faults = faults.into_iter().chain(checker::read_advisories(&settings).1);
    let lines = faults.filter(is_untrusted).map(|fault| on_stderr(&format!("{fault}; it is not read")));
    let stderr = lines.collect::<String>() + &stderr;
    Outcome::Exit { status, stdout, stderr }
}

fn search(common: &Common, settings: &Settings) -> Search {
    // A flag is meant from the current directory. Links stay: a launcher looks at its own name.
    let absolute = |path: &PathBuf| path::absolute(path).unwrap_or_else(|_| path.clone());
    let flag = common.real.as_ref().map(|path| (absolute(path), FoundBy::Flag));
    Search::from_environment(flag.or_else(|| settings.real.clone().map(|path| (path, FoundBy::Config))))
}

fn progress(common: &Common) -> Progress {
    match (common.quiet, common.verbose) {
        (true, _) => Progress::Silent,
        (false, true) => Progress::Lines,
        (false, false) => Progress::Terminal,
    }
}

/// What every subcommand that looks at the environment begins with.
fn with_request<T>(
    check: &Check,
    thorough: bool,
    common: &Common,
    then: impl FnOnce(&Request) -> Result<T, Abort>,
) -> Result<T, Abort> {
    let settings = settings()?;
    let advisories = advisories(&settings)?;
    let real = search(common, &settings).real()?;
    then(&Request {
        real: &real,
        settings: &settings,
        advisories: &advisories,
        memory: Memory::from_environment(check.fresh),
        call: call(check),
        thorough,
        synthesize: !check.no_synth,
        progress: progress(common),
    })
}

fn run_check(check: &Check, common: &Common) -> Result<Outcome, Abort> {
    let given = check.image_configuration.as_deref();
    if let Some(file) = given {
        can_be_read(file)?;
    }
    let copy = given.filter(|file| is_read_once(file)).map(copy_stream).transpose()?;
    let file = copy.as_ref().map(|copy| copy.path(COPY)).or(check.image_configuration.clone());
    let look = |request: &Request| look(request, given);
    let check = &Check { image_configuration: file, ..check.clone() };
    with_request(check, true, common, |request| {
        let mut report = look(request)?;
        if check.fix && report.verdict == Verdict::Blocked {
            let fixed = repair::fix(request, options(&Fix::default(), request.settings, common))?;
            request.progress.tell(&in_words(&fixed));
            report = look(request)?;
        }
        Ok(printed(&report, common))
    })
}

const COPY: &str = "image-configuration.yaml";

/// What can be read once, kept for every child that reads it: here no real pcluster comes after.
fn copy_stream(file: &Path) -> Result<Scratch, Error> {
    let read = || {
        let scratch = Scratch::new()?;
        fs::write(scratch.path(COPY), files::read_stream(fs::File::open(file)?, files::MAX_BYTES)?)?;
        Ok(scratch)
    };
    read().map_err(|error: io::Error| Error::BadFile { file: file.to_owned(), message: error.to_string() })
}

/// Whether the real pcluster could read the configuration. Of a file that it cannot read it says no
/// more than a traceback or a usage text does.
fn can_be_read(file: &Path) -> Result<(), Error> {
    let message = match file.metadata() {
        Err(error) => Some(error.to_string()),
        Ok(metadata) if metadata.is_dir() => Some("it is a directory".into()),
        Ok(_) if is_read_once(file) => None,
        Ok(_) => match fs::read_to_string(file) {
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Some("it is no UTF-8 text".into()),
            Err(error) => Some(error.to_string()),
        },
    };
    message.map_or(Ok(()), |message| Err(Error::BadFile { file: file.to_owned(), message }))
}

fn look(request: &Request, configuration: Option<&Path>) -> Result<Report, Abort> {
    let ground = match Ground::find(request)? {
        Ok(ground) => ground,
        Err(report) => return Ok(*report),
    };
    let mut report = match ground.examine(request)? {
        Examined::Judged(report) => *report,
        Examined::Rejected { stage, message } => {
            let file = configuration.filter(|_| stage == "configuration");
            let stage = file.map_or(stage.clone(), |file| format!("{stage} {}", file.display()));
            return Err(Error::Rejected { stage, message }.into());
        }
    };
    if let Some(check) = isolated_row(&ground.overlay) {
        report.add(check);
    }
    Ok(report)
}

fn isolated_row(overlay: &Overlay) -> Option<report::Check> {
    let (status, reason) = match overlay {
        Overlay::None => return None,
        Overlay::Bound(directory) => {
            (Status::Passed, format!("repaired beside the environment, in {}", directory.display()))
        }
        Overlay::Stale => {
            let todo =
                "`pcluster preflight fix --isolated` makes it anew, `pcluster preflight undo` removes it";
            (Status::Skipped, format!("stale, and not used: the environment has changed; {todo}"))
        }
    };
    Some(report::Check { id: "isolated", status, duration_ms: 0, cached: false, reason: Some(reason) })
}

fn options(fix: &Fix, settings: &Settings, common: &Common) -> repair::Options {
    repair::Options {
        dry_run: fix.dry_run || fix.print_requirements,
        strategy: fix.strategy.unwrap_or(settings.strategy),
        isolated: fix.isolated,
        installer: fix.installer.unwrap_or(settings.installer),
        verbose: common.verbose,
    }
}

fn run_fix(fix: &Fix, common: &Common) -> Result<Outcome, Abort> {
    with_request(&Check::default(), false, common, |request| {
        let fixed = repair::fix(request, options(fix, request.settings, common))?;
        let stdout = match (&fixed, common.format) {
            (Fixed::Planned(changes), _) if fix.print_requirements => {
                escape(&repair::plan::requirements_file(changes)).into_owned()
            }
            _ if common.quiet => String::new(),
            (_, Format::Human) => in_words(&fixed),
            (Fixed::Nothing, Format::Json) => report::pretty(&repair::as_json(&[], "ready", false)),
            (Fixed::Planned(changes), Format::Json) => {
                report::pretty(&repair::as_json(changes, "planned", fix.isolated))
            }
            (Fixed::Done { changes, isolated }, Format::Json) => {
                report::pretty(&repair::as_json(changes, "repaired", *isolated))
            }
        };
        Ok(Outcome::Exit { status: 0, stdout, stderr: String::new() })
    })
}

fn in_words(fixed: &Fixed) -> String {
    match fixed {
        Fixed::Nothing => "ready: there is nothing to repair\n".into(),
        Fixed::Planned(changes) => {
            format!(
                "proven; `pcluster preflight fix` would move {} packages:\n{}",
                changes.len(),
                moves(changes)
            )
        }
        Fixed::Done { changes, isolated } => {
            let place = if *isolated { ", beside the environment, for build-image" } else { "" };
            let undo = "`pcluster preflight undo` takes it back.\n";
            format!("repaired{place}: {} packages moved\n{}{undo}", changes.len(), moves(changes))
        }
    }
}

fn moves(changes: &[Change]) -> String {
    repair::plan::summary(changes).into_iter().fold(String::new(), |text, (name, step, why)| {
        text + &escape(&format!("  {name:<18} {step:<24} {why}\n"))
    })
}

fn run_undo(common: &Common) -> Result<Outcome, Abort> {
    with_request(&Check::default(), false, common, |request| {
        let (changes, isolated) = match repair::undo(request)? {
            Undone::InPlace(changes) => (changes, false),
            Undone::Isolated(changes) => (changes, true),
        };
        let stdout = match common.format {
            _ if common.quiet => String::new(),
            Format::Json => report::pretty(&repair::as_json(&changes, "undone", isolated)),
            Format::Human if isolated => "undone: the repair beside the environment is removed\n".into(),
            Format::Human => format!("undone: {} packages are as they were\n", changes.len()),
        };
        Ok(Outcome::Exit { status: 0, stdout, stderr: String::new() })
    })
}

fn call(check: &Check) -> Call {
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

fn printed(report: &Report, common: &Common) -> Outcome {
    let stdout = match common.format {
        _ if common.quiet => String::new(),
        Format::Human => report::human(report, common.color.applies()),
        Format::Json => report::pretty(report),
    };
    Outcome::Exit { status: report.verdict.exit_status(), stdout, stderr: String::new() }
}

fn run_template(file: &Path, common: &Common) -> Result<Outcome, Abort> {
    let since = Instant::now();
    let (name, input) = read_input(file)?;
    let template = template::parse(&input).map_err(|message| Error::NotATemplate { file: name, message })?;
    let command = "build the image again in an environment that `pcluster preflight` finds ready".into();
    let fix = rules::Fix { command, advised: None };
    let findings = template::check(&template, &Expectation::default(), &fix);
    let status = if findings.is_empty() { Status::Passed } else { Status::Failed };
    let duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let check = report::Check { id: "template", status, duration_ms, cached: false, reason: None };
    let report = Report::new(checker::shim(), None, BTreeMap::new(), vec![check], findings);
    Ok(printed(&report, common))
}

fn read_input(file: &Path) -> Result<(String, Vec<u8>), Error> {
    if file == Path::new("-") {
        let read = files::read_stream(io::stdin(), files::MAX_BYTES);
        let bad = |error: io::Error| Error::NotATemplate {
            file: "standard input".into(),
            message: error.to_string(),
        };
        return read.map(|input| ("standard input".into(), input)).map_err(bad);
    }
    let bad = |error: io::Error| Error::BadFile { file: file.to_owned(), message: error.to_string() };
    files::read(file).map(|input| (file.display().to_string(), input)).map_err(bad)
}

fn run_where(common: &Common) -> Result<Outcome, Abort> {
    let settings = settings()?;
    let mut found = Where::look(&search(common, &settings), &settings);
    if let Ok(real) = found.real() {
        let memory = Memory::from_environment(false);
        let identify = |overlay| target::identify(real, overlay, settings.timeout, &memory);
        let target = identify(None);
        let overlay = target.as_ref().map_or(Overlay::None, find_overlay);
        // The launcher decides what becomes of PYTHONPATH.
        let target = match &overlay {
            Overlay::Bound(directory) => identify(Some(directory)),
            Overlay::None | Overlay::Stale => target,
        };
        match target {
            Err(Unidentified::Child(ChildError::Interrupted(signal))) => {
                return Err(Abort::Interrupted(signal));
            }
            target => found.lead_to(target, overlay),
        }
    }
    let stdout = match common.format {
        _ if common.quiet => String::new(),
        Format::Json => report::pretty(&where_in_json(&found)),
        Format::Human => escape(&found.human()).into_owned(),
    };
    let stderr = found.real().err().map(Error::on_stderr).unwrap_or_default();
    Ok(Outcome::Exit { status: found.exit_status(), stdout, stderr })
}

/// Without a real pcluster there is something to report all the same, and it says why.
fn where_in_json(found: &Where) -> Value {
    let mut report = found.json(&checker::shim());
    if let Err(error) = found.real() {
        report["error"] = error.json()["error"].take();
    }
    report
}

fn run_advisories(id: Option<&str>, common: &Common) -> Result<Outcome, Abort> {
    let advisories = advisories(&settings()?)?;
    let shown: Vec<&Advisory> =
        advisories.iter().filter(|advisory| id.is_none_or(|id| advisory.id == id)).collect();
    if let (Some(id), true) = (id, shown.is_empty()) {
        let known = advisories.iter().map(|advisory| advisory.id.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::UnknownAdvisory { id: id.to_owned(), known }.into());
    }
    let stdout = match (common.format, id) {
        _ if common.quiet => String::new(),
        (Format::Json, _) => report::pretty(&json!({"schemaVersion": 1, "advisories": shown})),
        (Format::Human, None) => shown.iter().map(|advisory| one_row(advisory)).collect(),
        (Format::Human, Some(_)) => shown.iter().map(|advisory| in_full(advisory)).collect(),
    };
    Ok(Outcome::Exit { status: 0, stdout, stderr: String::new() })
}

fn one_row(advisory: &Advisory) -> String {
    format!("{:<8} {}\n         {}\n", advisory.level.word(), advisory.id, escape_line(&advisory.title))
}

fn in_full(advisory: &Advisory) -> String {
    let mut text = one_row(advisory);
    let mut row = |label: &str, content: String| {
        let lines = wrapped(&content, 80 - 11);
        let _ = writeln!(text, "{label:<11}{}", lines.join("\n           "));
    };
    row("pcluster", advisory.pcluster.to_string());
    row("package", format!("{} {}", advisory.package, advisory.affected.words()));
    row("effect", advisory.effect.clone());
    row("cost", advisory.cost.clone());
    row("fix", advisory.fix.words());
    for reference in &advisory.references {
        row("see", reference.clone());
    }
    text
}
