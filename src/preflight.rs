//! `pcluster preflight`: the shim's own subcommands, from their arguments to an [`Outcome`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Instant;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use serde_json::json;

use crate::Outcome;
use crate::advisory::Advisory;
use crate::cli::{Check, Command, Common, Format, Preflight};
use crate::config::{self, Settings};
use crate::error::Error;
use crate::guard::{self, Examined, Interrupted, Request};
use crate::locate::{FoundBy, Real, Search, Standing, own_executable};
use crate::progress::Progress;
use crate::remember::Memory;
use crate::report::{self, Report, Status, wrapped};
use crate::synth::Call;
use crate::target;
use crate::template::{self, Expectation};

/// Does what `preflight` is asked for.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> Outcome {
    let command_line = [OsString::from("pcluster preflight")].into_iter().chain(arguments);
    let preflight = match Preflight::try_parse_from(command_line) {
        Ok(preflight) => preflight,
        Err(message) => return usage(&message),
    };
    if preflight.command.is_some() && preflight.check != Check::default() {
        let message = "the options of a check stand behind `check`; the other commands do not take them\n";
        return usage(&Preflight::command().error(ErrorKind::ArgumentConflict, message));
    }
    let common = preflight.common;
    let done = match preflight.command.unwrap_or(Command::Check(preflight.check)) {
        Command::Check(check) => run_check(&check, &common),
        Command::Template { file } => run_template(&file, &common),
        Command::Where => run_where(&common),
        Command::Advisories { id } => run_advisories(id.as_deref(), &common),
    };
    match done {
        Ok(outcome) => outcome,
        Err(Stop::Error(error)) => Outcome::failed(&error),
        Err(Stop::Interrupted(Interrupted(signal))) => Outcome::Die { signal },
    }
}

/// Help and the version are answers; the rest is an error of usage.
fn usage(message: &clap::Error) -> Outcome {
    let text = message.to_string();
    match message.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            Outcome::Exit { status: 0, stdout: text, stderr: String::new() }
        }
        _ => Outcome::Exit { status: 2, stdout: String::new(), stderr: text },
    }
}

enum Stop {
    Error(Error),
    Interrupted(Interrupted),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Interrupted> for Stop {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

/// Unlike the guard, `preflight` refuses settings that are at fault.
fn settings() -> Result<Settings, Error> {
    let (settings, faults) = Settings::read();
    faults.into_iter().next().map_or(Ok(settings), Err)
}

fn advisories(settings: &Settings) -> Result<Vec<Advisory>, Error> {
    let (advisories, faults) = guard::read_advisories(settings);
    faults.into_iter().next().map_or(Ok(advisories), Err)
}

fn search(common: &Common, settings: &Settings) -> Search {
    let flag = common.real.clone().map(|path| (path, FoundBy::Flag));
    Search::from_environment(flag.or_else(|| settings.real.clone().map(|path| (path, FoundBy::Config))))
}

fn progress(common: &Common) -> Progress {
    match (common.quiet, common.verbose) {
        (true, _) => Progress::Silent,
        (false, true) => Progress::Lines,
        (false, false) => Progress::Terminal,
    }
}

fn run_check(check: &Check, common: &Common) -> Result<Outcome, Stop> {
    if check.fix {
        let instead = "Run the command that the finding names.";
        return Err(Error::NotYet { what: "--fix", instead }.into());
    }
    let settings = settings()?;
    let advisories = advisories(&settings)?;
    let real = search(common, &settings).real()?;
    let request = Request {
        real: &real,
        settings: &settings,
        advisories: &advisories,
        memory: Memory::from_environment(check.fresh),
        call: call(check),
        thorough: true,
        synthesize: !check.no_synth,
        progress: progress(common),
    };
    match guard::examine(&request)? {
        Examined::Judged(report) => Ok(printed(&report, common)),
        Examined::Rejected { stage, message } => Err(Error::Rejected { stage, message }.into()),
    }
}

fn call(check: &Check) -> Call {
    let mut options: Vec<OsString> = Vec::new();
    options.extend(["--image-id".into(), check.image_id.as_deref().unwrap_or("preflight-check").into()]);
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

fn run_template(file: &Path, common: &Common) -> Result<Outcome, Stop> {
    let since = Instant::now();
    let (name, input) = read_input(file)?;
    let template = template::parse(&input).map_err(|message| Error::NotATemplate { file: name, message })?;
    let fix = "build the image again in an environment that `pcluster preflight` finds ready";
    let findings = template::check(&template, &Expectation::default(), fix);
    let status = if findings.is_empty() { Status::Passed } else { Status::Failed };
    let duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let check = report::Check { id: "template", status, duration_ms, cached: false, reason: None };
    let report = Report::new(guard::shim(), None, BTreeMap::new(), vec![check], findings);
    Ok(printed(&report, common))
}

fn read_input(file: &Path) -> Result<(String, Vec<u8>), Error> {
    let mut input = Vec::new();
    if file == Path::new("-") {
        let read = io::stdin().read_to_end(&mut input);
        let bad = |error: io::Error| Error::NotATemplate {
            file: "standard input".into(),
            message: error.to_string(),
        };
        return read.map(|_| ("standard input".into(), input)).map_err(bad);
    }
    let bad = |error: io::Error| Error::BadFile { file: file.to_owned(), message: error.to_string() };
    fs::read(file).map(|input| (file.display().to_string(), input)).map_err(bad)
}

fn run_where(common: &Common) -> Result<Outcome, Stop> {
    let settings = settings()?;
    let search = search(common, &settings);
    let real = search.real()?;
    let own = own_executable();
    let candidates: Vec<_> = search.candidates().collect();
    let first = candidates.iter().find(|candidate| candidate.standing != Standing::NotAbsolute);
    let bypassed = first.is_none_or(|first| first.standing != Standing::Shim);
    let target = target::identify(&real, settings.timeout, &Memory::from_environment(false));
    let status = u8::from(bypassed);
    let stdout = match common.format {
        _ if common.quiet => String::new(),
        Format::Json => report::pretty(&json!({
            "schemaVersion": 1,
            "bypassed": bypassed,
            "shim": guard::shim(),
            "real": {"path": real.path, "foundBy": real.found_by},
            "interpreter": target.as_ref().ok().map(|target| &target.interpreter.executable),
            "config": config::path(),
            "candidates": candidates.iter()
                .map(|candidate| json!({"path": candidate.path, "standing": standing(candidate.standing, &real, &candidate.path)}))
                .collect::<Vec<_>>(),
        })),
        Format::Human => {
            let own = own.map_or_else(|| "?".into(), |path| path.display().to_string());
            let interpreter = match &target {
                Ok(target) => format!("{} ({})", target.interpreter.executable.display(), target.launcher),
                Err(reason) => format!("unknown: {reason}"),
            };
            let mut text = format!(
                "shim     {own} ({})\nreal     {} (by {})\npython   {interpreter}\n",
                env!("CARGO_PKG_VERSION"),
                real.path.display(),
                real.found_by.words()
            );
            for candidate in &candidates {
                let standing = standing(candidate.standing, &real, &candidate.path);
                let _ = writeln!(text, "on PATH  {}: {standing}", candidate.path.display());
            }
            if bypassed {
                text += "\nThe shim is not the first pcluster on PATH, so build-image is not guarded.\n\
                         Put the shim's directory first on PATH.\n";
            }
            text
        }
    };
    Ok(Outcome::Exit { status, stdout, stderr: String::new() })
}

fn standing(standing: Standing, real: &Real, path: &Path) -> &'static str {
    match standing {
        Standing::Usable if path == real.path => "the real pcluster",
        Standing::Usable => "not used",
        Standing::Shim => "this shim",
        Standing::Tried => "starts this shim again",
        Standing::NotAbsolute => "not used: the entry of PATH is not absolute",
    }
}

fn run_advisories(id: Option<&str>, common: &Common) -> Result<Outcome, Stop> {
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
    format!("{:<8} {}\n         {}\n", advisory.level.word(), advisory.id, advisory.title)
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
    row("fix", format!("{} {}, or {}", advisory.fix.packages, advisory.fix.upgrade, advisory.fix.downgrade));
    for reference in &advisory.references {
        row("see", reference.clone());
    }
    text
}
