//! The walk of one check, in order: launcher → interpreter → packages → advisories → node → memory
//! → template → report.
//!
//! The guard, `preflight check` and the proof of a repair all walk the same way. The guard stops at
//! the first reason to stop; the others go to the end, because a person wants to know everything.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Instant;

use pep440_rs::{Version, VersionSpecifiers};
use serde_json::json;

use crate::cache::{Fingerprint, Memory};
use crate::cli::args::PlainBuildImage;
use crate::cli::settings::Settings;
use crate::environment::image_configuration::file_names;
use crate::environment::interpreter::Unidentified;
use crate::environment::launcher::Launcher;
use crate::environment::locate::Real;
use crate::environment::node::{self, NoNode, Node};
use crate::environment::packages::Packages;
use crate::environment::synthesis::{self, Answer, Call, NoAnswer};
use crate::environment::target::{self, Target};
use crate::error::{Abort, Error};
use crate::package_name::{IMAGEBUILDER, PCLUSTER};
use crate::progress::Progress;
use crate::report::{Check, Report, Shim, Status, Subject};
use crate::rules::advisory::{self, Advisory};
use crate::rules::template;
use crate::rules::{AdvisedFix, Finding, Fix, Level};
use crate::system::child::ChildError;
use crate::system::{executables, files, trust};
use crate::yaml;

/// The advisories that are shipped and the config's, and the files that could not be read.
#[must_use]
pub fn read_advisories(settings: &Settings) -> (Vec<Advisory>, Vec<Error>) {
    let mut advisories = advisory::built_in();
    let mut faults = Vec::new();
    for file in &settings.advisories {
        let bad = |message| Error::BadFile { file: file.clone(), message };
        let text = trust::read_to_string(file).map_err(|error| trust::unreadable(file, &error));
        match text.and_then(|text| advisory::read(&text).map_err(bad)) {
            Ok(more) => advisories.extend(more),
            Err(fault) => faults.push(fault),
        }
    }
    (advisories, faults)
}

/// What is to be examined, and how far.
#[derive(Debug, Clone)]
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

/// Who will run, with the packages of `overlay` in front as PYTHONPATH puts them there. The inner error
/// is the report of an environment that stays unknown.
///
/// # Errors
/// We were interrupted.
pub fn identify(request: &Request, overlay: Option<&Path>) -> Result<Result<Target, Box<Report>>, Abort> {
    let since = Instant::now();
    let _step = request.progress.step("looking for pcluster's Python");
    match target::identify(request.real, overlay, request.settings.timeout, &request.memory) {
        Ok(target) => Ok(Ok(target)),
        Err(Unidentified::Child(ChildError::Interrupted(signal))) => Err(Abort::Interrupted(signal)),
        Err(Unidentified::Loop { tried }) => Err(Error::Loop { tried }.into()),
        Err(reason) => {
            let mut walk = Walk::new(request, None);
            let path = request.real.path.display();
            walk.unknown("environment", since, format!("the environment of {path} is unknown: {reason}"));
            Ok(Err(Box::new(walk.judged())))
        }
    }
}

/// The walk through an environment.
///
/// # Errors
/// We were interrupted.
pub fn examine(request: &Request, target: &Target) -> Result<Examined, Abort> {
    let is_other_call = matches!(request.call, Call::Given(_)) && !target.hands_on;
    let minimal = || Call::Minimal(vec!["--image-id".into(), synthesis::IMAGE_ID.into()]);
    let call = if is_other_call { minimal() } else { request.call.clone() };
    let request = &Request { call, ..request.clone() };
    let mut walk = Walk::new(request, Some(target));
    let judged = |walk: Walk| Ok(Examined::Judged(Box::new(walk.judged())));
    let Some(packages) = walk.packages(target) else { return judged(walk) };
    if let Some(refusal) = has_no_build_image(target, &packages) {
        return Ok(refusal);
    }
    if is_other_call {
        walk.unknown("configuration", Instant::now(), OTHER_CALL.into());
    }
    let blocked = walk.advisories();
    if blocked && !request.thorough && is_plain(&request.call, &packages) {
        walk.skipped("template", "an advisory blocks already");
        return judged(walk);
    }
    if !request.synthesize {
        walk.skipped("template", "--no-synth");
        return judged(walk);
    }
    let node = walk.node(target)?;
    let key = node.as_ref().map(|node| fingerprint(request, target, &packages, node).key());
    if let Some(key) = &key
        && request.memory.recall(VERDICTS, key).is_some()
    {
        walk.done("template", Status::Passed, Instant::now(), true, None);
        return judged(walk);
    }
    if let Some((stage, message)) = walk.template(target, &packages, node.is_some())? {
        return Ok(Examined::Rejected { stage, message });
    }
    if let (Some(key), Some(node)) = (&key, &node)
        && walk.template_passed()
    {
        // What has changed meanwhile was perhaps not what was checked.
        let packages = Packages::installed(&target.interpreter.sys_path);
        if fingerprint(request, target, &packages, node).key() == *key {
            request.memory.keep(VERDICTS, key, &json!("ready"));
        }
    }
    judged(walk)
}

const OTHER_CALL: &str = "the launcher runs pcluster in another directory, with other arguments or as \
                          another user; the environment was checked with a minimal configuration";

/// `build-image` came with 3.0.0; before it, the real parser does not know the word. A console script
/// that is known is one of 3.0.0 or later, whatever is left of another release.
fn has_no_build_image(target: &Target, packages: &Packages) -> Option<Examined> {
    if target.launcher != Launcher::Other.name() {
        return None;
    }
    let version = &packages.get(PCLUSTER)?.version;
    let first = Version::new([3]);
    let before = Version::from_str(version).is_ok_and(|version| version < first);
    let message = format!("{PCLUSTER} {version} has no build-image");
    before.then(|| Examined::Rejected { stage: "arguments".into(), message })
}

const VERDICTS: &str = "verdicts";

/// Whether the call is surely one that the real pcluster takes, as far as can be told at once.
fn is_plain(call: &Call, packages: &Packages) -> bool {
    let Call::Given(arguments) = call else { return true };
    let short_options = packages.get(PCLUSTER).is_some_and(|pcluster| !pcluster.version.starts_with("3.0."));
    let Some(plain) = PlainBuildImage::read(arguments, short_options) else { return false };
    let configuration = files::read_to_string(&plain.configuration).unwrap_or_default();
    yaml::parse::<serde_yaml::Value>(&configuration).is_ok_and(|yaml| yaml.is_mapping())
}

/// Everything that the template depends on. Content counts for files that the arguments name,
/// in whatever form they name them, as far as a check reads files; the rest is taken as `stat`
/// tells it.
fn fingerprint(request: &Request, target: &Target, packages: &Packages, node: &Node) -> Fingerprint {
    let mut key = Fingerprint::new();
    key.field(synthesis::SYNTHESIS_PY).field(&target.interpreter.version);
    key.file(&target.interpreter.executable);
    for entry in &target.interpreter.sys_path {
        key.field(entry.as_os_str().as_bytes());
    }
    packages.fingerprint(&target.interpreter, &mut key);
    key.file(&node.path).field(node.version.to_string());
    for (name, value) in env::vars_os().filter(|(name, _)| counts(name)) {
        key.field(name.as_bytes()).field(value.as_bytes());
    }
    for (name, value) in &target.environment {
        key.field(name.as_bytes()).field(value.as_deref().unwrap_or_default().as_bytes());
    }
    // A profile's region stands in either.
    for (variable, below_home) in
        [("AWS_CONFIG_FILE", ".aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")]
    {
        let in_home = || env::var_os("HOME").map(|home| Path::new(&home).join(below_home));
        if let Some(file) = env::var_os(variable).map(PathBuf::from).or_else(in_home) {
            key.file(&file);
        }
    }
    let (form, arguments) = match &request.call {
        Call::Given(arguments) => ("given", arguments),
        Call::Minimal(options) => ("minimal", options),
    };
    key.field(form);
    for argument in arguments {
        key.field(argument.as_bytes());
        for name in file_names(argument).filter(|name| name.is_file()) {
            match files::read(name) {
                Ok(content) => key.field(content),
                Err(_) => key.file(name),
            };
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

/// What the walk has found so far.
struct Walk<'a> {
    request: &'a Request<'a>,
    subject: Subject,
    packages: BTreeMap<String, String>,
    checks: Vec<Check>,
    findings: Vec<Finding>,
}

impl<'a> Walk<'a> {
    fn new(request: &'a Request<'a>, target: Option<&Target>) -> Self {
        let interpreter = target.map(|target| &target.interpreter);
        let subject = Subject {
            path: request.real.path.clone(),
            found_by: request.real.found_by,
            launcher: target.map(|target| target.launcher),
            interpreter: interpreter.map(|interpreter| interpreter.executable.clone()),
            python_version: interpreter.map(|interpreter| interpreter.version.clone()),
            pcluster_version: None,
            node: None,
            node_version: None,
        };
        let (packages, checks, findings) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { request, subject, packages, checks, findings }
    }

    fn judged(self) -> Report {
        Report::new(shim(), Some(self.subject), self.packages, self.checks, self.findings)
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
    fn advisories(&mut self) -> bool {
        let since = Instant::now();
        self.findings = advisory::check(&self.packages, self.request.advisories);
        let blocked = self.findings.iter().any(|finding| finding.level == Level::Error);
        let status = if blocked { Status::Failed } else { Status::Passed };
        self.done("packages", status, since, false, None);
        blocked
    }

    fn node(&mut self, target: &Target) -> Result<Option<Node>, Abort> {
        let since = Instant::now();
        match node::of(target, self.request.settings.timeout, &self.request.memory) {
            Ok(node) => {
                self.subject.node = Some(node.path.clone());
                self.subject.node_version = Some(node.version.to_string());
                self.done("node", Status::Passed, since, false, None);
                Ok(Some(node))
            }
            Err(NoNode::Child(ChildError::Interrupted(signal))) => Err(Abort::Interrupted(signal)),
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
    ) -> Result<Option<(String, String)>, Abort> {
        let since = Instant::now();
        let step = self.request.progress.step("building the template that build-image would submit");
        let answer = synthesis::synthesize(
            target,
            &self.request.call,
            self.request.settings.timeout,
            &self.request.memory,
        );
        drop(step);
        match answer {
            Ok(Answer::Template { template, asked }) => {
                let findings = template::check(&template, &asked, &other_cdk(packages));
                let status = if findings.is_empty() { Status::Passed } else { Status::Failed };
                self.findings.extend(findings);
                self.done("template", status, since, false, None);
            }
            Ok(Answer::Rejected { stage, message }) => return Ok(Some((stage, message))),
            Err(NoAnswer::Child(ChildError::Interrupted(signal))) => return Err(Abort::Interrupted(signal)),
            // Why has been said: it is the node check's to say.
            Ok(Answer::Failed { .. }) | Err(_) if !has_node => {
                self.skipped("template", "there is no Node.js to build it with");
            }
            Ok(Answer::Failed { stage, message }) => {
                self.unknown("template", since, format!("it cannot be built ({stage}): {message}"));
            }
            Ok(Answer::Unexpected { call }) => {
                let reason = format!("building it asks AWS for {call}, which a check does not do");
                self.unknown("template", since, reason);
            }
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
    Shim { version: env!("CARGO_PKG_VERSION"), path: executables::own_executable() }
}

/// What can be done about a faulty template with no advisory to explain it: another release of CDK.
/// The repair proves whether it helps.
fn other_cdk(packages: &Packages) -> Fix {
    let installed = packages.get(IMAGEBUILDER).map(|cdk| cdk.version.as_str());
    let range = |operator: &str| VersionSpecifiers::from_str(&format!("{operator}{}", installed?)).ok();
    match (range("!="), range("<")) {
        (Some(upgrade), Some(downgrade)) => {
            Fix::moving(AdvisedFix { packages: "aws-cdk.*".into(), upgrade, downgrade })
        }
        _ => Fix { command: "install aws-parallelcluster anew".into(), advised: None },
    }
}
