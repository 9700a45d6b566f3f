//! The story of one guarded `build-image`, and of `preflight check`, in order.
//!
//! Both walk the same way. The guard stops at the first reason to stop; `preflight check` goes to
//! the end, because a person wants to know everything.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::Outcome;
use crate::advisory::{self, AdvisedFix, Advisory};
use crate::child::ChildError;
use crate::cli::PlainBuildImage;
use crate::config::{Mode, Settings};
use crate::error::{Error, on_stderr};
use crate::locate::{FoundBy, Real, Search, own_executable};
use crate::packages::{PCLUSTER, Packages};
use crate::progress::Progress;
use crate::remember::{Fingerprint, Memory};
use crate::report::{self, Check, Decision, Finding, Report, Shim, Status, Subject};
use crate::synth::{self, Answer, Call, NoAnswer};
use crate::target::{self, NoNode, Node, Target, Unidentified};
use crate::template::{self, Expectation};

/// Guards one `pcluster build-image`.
#[must_use]
pub fn build_image(arguments: Vec<OsString>) -> Outcome {
    let (settings, faults) = Settings::read();
    let named = settings.real.clone().map(|path| (path, FoundBy::Config));
    let real = match Search::from_environment(named).real() {
        Ok(real) => real,
        Err(error) => return Outcome::failed(&error),
    };
    if settings.mode == Mode::Off || is_refused_at_once(&arguments) {
        return real.become_it(arguments, String::new());
    }
    let (advisories, more_faults) = read_advisories(&settings);
    let warnings: String = faults.iter().chain(&more_faults).map(warning).collect();
    let request = Request {
        real: &real,
        settings: &settings,
        advisories: &advisories,
        memory: Memory::from_environment(false),
        call: Call::Given(arguments.clone()),
        thorough: false,
        synthesize: true,
        progress: Progress::Terminal,
    };
    match examine(&request) {
        Err(Interrupted(signal)) => Outcome::Die { signal },
        // The real pcluster says why in its own words; nothing is to be added.
        Ok(Examined::Rejected { .. }) => real.become_it(arguments, String::new()),
        Ok(Examined::Judged(report)) => act(&report, &settings, real, arguments, warnings),
    }
}

fn act(
    report: &Report,
    settings: &Settings,
    real: Real,
    arguments: Vec<OsString>,
    warnings: String,
) -> Outcome {
    let decision = report::decide(settings.mode, settings.strict, report.verdict);
    let stderr = warnings + &on_stderr(&report::for_stderr(report, decision));
    match decision {
        Decision::Exec => real.become_it(arguments, stderr),
        Decision::Stop => Outcome::Exit { status: 1, stdout: report::pcluster_shaped(report), stderr },
    }
}

fn warning(fault: &Error) -> String {
    on_stderr(&format!("{fault}; ignored, the default is used"))
}

/// `-h` and `--help`, wherever they stand, end in help or in a usage error; a file that cannot be
/// read ends in an error. Neither is worth a Python.
fn is_refused_at_once(arguments: &[OsString]) -> bool {
    let asks_for_help = arguments.iter().any(|argument| argument == "-h" || argument == "--help");
    let plain = PlainBuildImage::read(arguments, true);
    asks_for_help || plain.is_some_and(|plain| fs::read_to_string(plain.configuration).is_err())
}

/// The advisories that are shipped and the config's, and the files that could not be read.
#[must_use]
pub fn read_advisories(settings: &Settings) -> (Vec<Advisory>, Vec<Error>) {
    let mut advisories = advisory::built_in();
    let mut faults = Vec::new();
    for file in &settings.advisories {
        let read = fs::read_to_string(file)
            .map_err(|error| error.to_string())
            .and_then(|text| advisory::read(&text));
        match read {
            Ok(more) => advisories.extend(more),
            Err(message) => faults.push(Error::BadFile { file: file.clone(), message }),
        }
    }
    (advisories, faults)
}

/// What is to be examined, and how far.
#[derive(Debug)]
pub struct Request<'a> {
    pub real: &'a Real,
    pub settings: &'a Settings,
    pub advisories: &'a [Advisory],
    pub memory: Memory,
    pub call: Call,
    /// Every check, whatever the others found.
    pub thorough: bool,
    pub synthesize: bool,
    pub progress: Progress,
}

#[derive(Debug)]
pub enum Examined {
    Judged(Box<Report>),
    /// The real pcluster refuses the call itself.
    Rejected {
        stage: String,
        message: String,
    },
}

/// A signal came: nothing is to be done but to die by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted(pub i32);

/// The walk: launcher → interpreter → packages → advisories → node → memory → template → report.
///
/// # Errors
/// We were interrupted.
pub fn examine(request: &Request) -> Result<Examined, Interrupted> {
    let mut walk = Walk::new(request);
    let Some(target) = walk.identify()? else { return Ok(walk.judged()) };
    let Some(packages) = walk.packages(&target) else { return Ok(walk.judged()) };
    let blocked = walk.advisories(&packages, &target);
    if blocked && !request.thorough && is_plain(&request.call, &packages) {
        walk.skipped("template", "an advisory blocks already");
        return Ok(walk.judged());
    }
    if !request.synthesize {
        walk.skipped("template", "--no-synth");
        return Ok(walk.judged());
    }
    let node = walk.node(&target)?;
    let key = node.as_ref().map(|node| fingerprint(request, &target, &packages, node).key());
    if let Some(key) = &key
        && request.memory.recall(VERDICTS, key).is_some()
    {
        walk.done("template", Status::Passed, Instant::now(), true, None);
        return Ok(walk.judged());
    }
    if let Some((stage, message)) = walk.template(&target, &packages, node.is_some())? {
        return Ok(Examined::Rejected { stage, message });
    }
    if let Some(key) = &key
        && walk.template_passed()
    {
        request.memory.keep(VERDICTS, key, &json!("ready"));
    }
    Ok(walk.judged())
}

const VERDICTS: &str = "verdicts";

/// Whether the call is surely one that the real pcluster takes, as far as can be told at once.
fn is_plain(call: &Call, packages: &Packages) -> bool {
    let Call::Given(arguments) = call else { return true };
    let short_options = packages.get(PCLUSTER).is_some_and(|pcluster| !pcluster.version.starts_with("3.0."));
    let Some(plain) = PlainBuildImage::read(arguments, short_options) else { return false };
    let configuration = fs::read_to_string(plain.configuration).unwrap_or_default();
    serde_yaml::from_str::<serde_yaml::Value>(&configuration).is_ok_and(|yaml| yaml.is_mapping())
}

/// Everything that the template depends on. Content counts for files that the arguments name,
/// in whatever form they name them; the rest is taken as `stat` tells it.
fn fingerprint(request: &Request, target: &Target, packages: &Packages, node: &Node) -> Fingerprint {
    let mut key = Fingerprint::new();
    key.field(synth::SYNTH_PY).field(&target.interpreter.version);
    key.file(&target.interpreter.executable);
    for entry in &target.interpreter.sys_path {
        key.field(entry.as_os_str().as_bytes());
    }
    packages.fingerprint(&target.interpreter.sys_path, &mut key);
    key.file(&node.path).field(node.version.to_string());
    for (name, value) in env::vars_os().filter(|(name, _)| counts(name)) {
        key.field(name.as_bytes()).field(value.as_bytes());
    }
    for (name, value) in &target.environment {
        key.field(name.as_bytes()).field(value.as_deref().unwrap_or_default().as_bytes());
    }
    if let Some(home) = env::var_os("HOME") {
        key.file(&Path::new(&home).join(".aws/config"));
    }
    let (form, arguments) = match &request.call {
        Call::Given(arguments) => ("given", arguments),
        Call::Minimal(options) => ("minimal", options),
    };
    key.field(form);
    for argument in arguments {
        key.field(argument.as_bytes());
        for name in file_names(argument.as_bytes()) {
            key.field(fs::read(OsStr::from_bytes(name)).unwrap_or_default());
        }
    }
    key
}

/// The variables that botocore, Python and Node heed.
fn counts(name: &OsStr) -> bool {
    let name = name.as_bytes();
    ["AWS_", "PYTHON", "NODE_", "JSII_"].iter().any(|prefix| name.starts_with(prefix.as_bytes()))
        && !["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
            .iter()
            .any(|secret| name == secret.as_bytes())
}

/// What in `FILE`, `--option=FILE` or `-cFILE` could be a file's name.
fn file_names(argument: &[u8]) -> impl Iterator<Item = &[u8]> {
    let joined = argument.iter().position(|byte| *byte == b'=').map(|equals| &argument[equals + 1..]);
    let short = argument.strip_prefix(b"-c");
    [Some(argument), joined, short]
        .into_iter()
        .flatten()
        .filter(|name| Path::new(OsStr::from_bytes(name)).is_file())
}

/// What the walk has found so far.
struct Walk<'a> {
    request: &'a Request<'a>,
    subject: Subject,
    packages: BTreeMap<String, String>,
    checks: Vec<Check>,
    findings: Vec<Finding>,
    mend: String,
}

impl<'a> Walk<'a> {
    fn new(request: &'a Request<'a>) -> Self {
        let subject = Subject {
            path: request.real.path.clone(),
            found_by: request.real.found_by,
            launcher: None,
            interpreter: None,
            python_version: None,
            pcluster_version: None,
            node: None,
            node_version: None,
        };
        let (packages, checks, findings) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { request, subject, packages, checks, findings, mend: String::new() }
    }

    fn judged(self) -> Examined {
        Examined::Judged(Box::new(Report::new(
            shim(),
            Some(self.subject),
            self.packages,
            self.checks,
            self.findings,
        )))
    }

    fn done(
        &mut self,
        id: &'static str,
        status: Status,
        since: Instant,
        cached: bool,
        reason: Option<String>,
    ) {
        let duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.checks.push(Check { id, status, duration_ms, cached, reason });
    }

    fn skipped(&mut self, id: &'static str, reason: &str) {
        self.done(id, Status::Skipped, Instant::now(), false, Some(reason.to_owned()));
    }

    fn unknown(&mut self, id: &'static str, since: Instant, reason: String) {
        self.done(id, Status::Unknown, since, false, Some(reason));
    }

    fn identify(&mut self) -> Result<Option<Target>, Interrupted> {
        let since = Instant::now();
        let _step = self.request.progress.step("looking for pcluster's Python");
        match target::identify(self.request.real, self.request.settings.timeout, &self.request.memory) {
            Ok(target) => {
                self.subject.launcher = Some(target.launcher);
                self.subject.interpreter = Some(target.interpreter.executable.clone());
                self.subject.python_version = Some(target.interpreter.version.clone());
                Ok(Some(target))
            }
            Err(Unidentified::Child(ChildError::Interrupted(signal))) => Err(Interrupted(signal)),
            Err(reason) => {
                let path = self.request.real.path.display();
                self.unknown("environment", since, format!("the environment of {path} is unknown: {reason}"));
                Ok(None)
            }
        }
    }

    fn packages(&mut self, target: &Target) -> Option<Packages> {
        let since = Instant::now();
        let packages = Packages::installed(&target.interpreter.sys_path);
        self.packages = packages.versions();
        self.subject.pcluster_version = packages.get(PCLUSTER).map(|pcluster| pcluster.version.clone());
        if packages.get(PCLUSTER).is_none() {
            let (path, python) = (self.request.real.path.display(), target.interpreter.executable.display());
            let reason = format!("the environment of {path} is unknown: {python} has no {PCLUSTER}");
            self.unknown("environment", since, reason);
            return None;
        }
        Some(packages)
    }

    /// Whether an advisory of level ERROR matches.
    fn advisories(&mut self, packages: &Packages, target: &Target) -> bool {
        let since = Instant::now();
        let mend = |fix: &AdvisedFix| command(fix, packages, &target.interpreter.executable);
        self.findings = advisory::check(&self.packages, self.request.advisories, mend);
        self.mend = self.request.advisories.first().map(|advisory| mend(&advisory.fix)).unwrap_or_default();
        let blocked = self.findings.iter().any(|finding| finding.level == report::Level::Error);
        let status = if blocked { Status::Failed } else { Status::Passed };
        self.done("packages", status, since, false, None);
        blocked
    }

    fn node(&mut self, target: &Target) -> Result<Option<Node>, Interrupted> {
        let since = Instant::now();
        match target::node(target, self.request.settings.timeout, &self.request.memory) {
            Ok(node) => {
                self.subject.node = Some(node.path.clone());
                self.subject.node_version = Some(node.version.to_string());
                self.done("node", Status::Passed, since, false, None);
                Ok(Some(node))
            }
            Err(NoNode::Child(ChildError::Interrupted(signal))) => Err(Interrupted(signal)),
            Err(reason) => {
                self.unknown("node", since, reason.to_string());
                Ok(None)
            }
        }
    }

    /// The stage and the message of a refusal, if the real pcluster refuses the call. It is asked
    /// without Node too: what it refuses, it refuses before CDK runs.
    fn template(
        &mut self,
        target: &Target,
        packages: &Packages,
        has_node: bool,
    ) -> Result<Option<(String, String)>, Interrupted> {
        let since = Instant::now();
        let step = self.request.progress.step("building the template that build-image would submit");
        let answer = synth::synthesize(
            target,
            &self.request.call,
            self.request.settings.timeout,
            &self.request.memory,
        );
        drop(step);
        match answer {
            Ok(Answer::Template { template, image_id, configuration }) => {
                let version = packages.get(PCLUSTER).map(|pcluster| pcluster.version.as_str());
                let expectation = Expectation::of(&image_id, version, &configuration);
                let findings = template::check(&template, &expectation, &self.mend);
                let status = if findings.is_empty() { Status::Passed } else { Status::Failed };
                self.findings.extend(findings);
                self.done("template", status, since, false, None);
            }
            Ok(Answer::Rejected { stage, message }) => return Ok(Some((stage, message))),
            // Why has been said: it is the node check's to say.
            Ok(Answer::Failed { .. }) if !has_node => {
                self.skipped("template", "CDK does not run without node");
            }
            Ok(Answer::Failed { stage, message }) => {
                self.unknown("template", since, format!("it cannot be built ({stage}): {message}"));
            }
            Ok(Answer::Unexpected { call }) => {
                let reason = format!("building it asks AWS for {call}, which a check does not do");
                self.unknown("template", since, reason);
            }
            Err(NoAnswer::Child(ChildError::Interrupted(signal))) => return Err(Interrupted(signal)),
            Err(reason) => self.unknown("template", since, reason.to_string()),
        }
        Ok(None)
    }

    fn template_passed(&self) -> bool {
        self.checks.iter().any(|check| check.id == "template" && check.status == Status::Passed)
    }
}

/// Ourselves, as reports name us.
#[must_use]
pub fn shim() -> Shim {
    Shim { version: env!("CARGO_PKG_VERSION"), path: own_executable() }
}

/// The command that moves the packages of a fix, all that aws-parallelcluster requires of them.
fn command(fix: &AdvisedFix, packages: &Packages, interpreter: &Path) -> String {
    let interpreter = interpreter.display();
    let installer = if packages.get("pip").is_some() {
        format!("{interpreter} -m pip install")
    } else {
        format!("uv pip install --python {interpreter}")
    };
    let required = packages.get(PCLUSTER).map(|pcluster| pcluster.requires.as_slice()).unwrap_or_default();
    let name_of = |requirement: &str| {
        let end = requirement.find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter));
        requirement[..end.unwrap_or(requirement.len())].to_owned()
    };
    required
        .iter()
        .map(|requirement| name_of(requirement))
        .filter(|name| advisory::names(&fix.packages, name))
        .fold(installer, |command, name| format!("{command} '{name}{}'", fix.upgrade))
}
