//! The run of synthesis.py in the target's interpreter: the template that `build-image` is about to submit
//! and what the real code asks of the AMI, or why there is none. No verdicts.

use std::env;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cache::Cache;
use crate::environment::interpreter::to_latin1;
use crate::environment::jsii_cache::{self, JsiiCache};
use crate::environment::target::Target;
use crate::system::child::{Child, ChildError, framed, sentinel, set};
use crate::system::scratch::Scratch;

pub const SYNTHESIS_PY: &str = include_str!("synthesis.py");

/// A configuration that every release accepts: the parent image need not exist, because AWS is not asked.
const MINIMAL: &str = "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n";

/// The image id of a call that names none.
pub const IMAGE_ID: &str = "preflight-check";

/// The call of `build-image` whose template is built.
#[derive(Debug, Clone)]
pub enum Call {
    /// The arguments of a command line, `build-image` first.
    Given(Vec<OsString>),
    /// A minimal configuration, followed by these options.
    Minimal(Vec<OsString>),
}

/// What the real code asks of the AMI, as synthesis.py reads it from the configuration that the real
/// schema has loaded. A value that is absent is not compared.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expectation {
    /// The AMI's name, with the placeholder of its build date.
    pub name: Option<String>,
    /// The AMI's tags. Null where there is such a tag but its value cannot be predicted.
    pub tags: Map<String, Value>,
    /// The regions to distribute to; empty where that is the stack's own.
    pub regions: Vec<String>,
    /// Null where none is asked for.
    pub launch_permission: Value,
}

/// The answer of synthesis.py.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Synthesis {
    Template {
        template: Value,
        #[serde(rename = "asked")]
        expectation: Box<Expectation>,
    },
    /// The real pcluster refuses this call with a message, or fails on it with an exception.
    Rejected {
        stage: String,
        message: String,
    },
    Failed {
        stage: String,
        message: String,
    },
    Unexpected {
        call: String,
    },
    Unstartable(StartupFailure),
    /// pcluster starts, and no more was asked for.
    Started,
}

/// The exception with which an import ends that the real pcluster makes too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartupFailure {
    pub stage: StartupStage,
    pub exception: String,
    pub message: String,
    /// The module that is missing or incomplete, where the exception names it.
    pub module: Option<String>,
    /// The file of that module, where it has one.
    pub module_file: Option<String>,
    /// The file whose code ended in the exception.
    pub file: Option<String>,
    /// The file of bytecode that is damaged, where that is the reason.
    pub bytecode: Option<String>,
}

/// What the real pcluster imports: for every command, or to build a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartupStage {
    Import,
    Template,
}

/// An answer, and how long pcluster's start took, if it started.
#[derive(Debug)]
pub struct Answer {
    pub synthesis: Synthesis,
    pub startup: Option<Duration>,
}

/// Builds the template.
///
/// Where the real code fails on the user's configuration, the minimal one is built. If that succeeds, the
/// environment works, and the real pcluster fails on that configuration in the same way. It is built in
/// another process, because the first failure can end Node.js (a `NaN` that jsii sends as JSON).
///
/// # Errors
/// Returns an error if the child gives no answer or a signal interrupted it.
pub fn synthesize(
    target: &Target,
    call: &Call,
    limit: Duration,
    cache: &Cache,
) -> Result<Answer, ChildError> {
    let run = Run { target, call: Some(call), limit, cache };
    let answer = run.synthesize()?;
    let (Call::Given(_), Synthesis::Failed { stage, message }) = (call, &answer.synthesis) else {
        return Ok(answer);
    };
    if !["region", "configuration", "template"].contains(&stage.as_str()) {
        return Ok(answer);
    }
    let minimal = Call::Minimal(vec!["--image-id".into(), IMAGE_ID.into()]);
    match (Run { call: Some(&minimal), ..run }).synthesize() {
        Ok(Answer { synthesis: Synthesis::Template { .. }, startup }) => {
            let (stage, message) = ("configuration".into(), message.clone());
            Ok(Answer { synthesis: Synthesis::Rejected { stage, message }, startup })
        }
        Err(interrupted @ ChildError::Interrupted(_)) => Err(interrupted),
        _ => Ok(answer),
    }
}

/// Builds the template without jsii's cache.
///
/// # Errors
/// Returns an error if the child gives no answer or a signal interrupted it.
pub fn synthesize_without_cache(
    target: &Target,
    call: &Call,
    limit: Duration,
    cache: &Cache,
) -> Result<Answer, ChildError> {
    Run { target, call: Some(call), limit, cache }.run(None)
}

/// Starts pcluster in the interpreter, and builds no template. Takes a third of the time.
///
/// # Errors
/// Returns an error if the child gives no answer or a signal interrupted it.
pub fn start(target: &Target, limit: Duration, cache: &Cache) -> Result<Answer, ChildError> {
    Run { target, call: None, limit, cache }.run(None)
}

/// One run of the script.
#[derive(Clone, Copy)]
struct Run<'a> {
    target: &'a Target,
    /// The call whose template is built, if one is.
    call: Option<&'a Call>,
    limit: Duration,
    cache: &'a Cache,
}

impl Run<'_> {
    /// Runs synthesis.py with jsii's packages in the cache where that can be locked.
    fn synthesize(self) -> Result<Answer, ChildError> {
        self.run(JsiiCache::lock(self.cache).filter(|_| !self.cache.is_fresh()))
    }

    /// Runs synthesis.py. A failure may come from a damaged entry of a cache, so it counts only where the
    /// script fails in the same way without it; the cache is cleared where it does not.
    fn run(self, packages: Option<JsiiCache>) -> Result<Answer, ChildError> {
        let answer = self.run_script(Caches { packages: packages.as_ref(), bytecode: Some(self.cache) });
        let Some(part) = find_failing_part(&answer) else { return answer };
        let packages = packages.filter(|_| part != FailingPart::Bytecode);
        let stored = Some(self.cache).filter(|_| stores_bytecode(self.target));
        if packages.is_none() && stored.is_none() {
            return answer;
        }
        let again = self.run_script(Caches::default());
        if find_failing_part(&again) != Some(part) {
            if let Some(packages) = packages {
                packages.clear();
            }
            if let Some(cache) = stored {
                cache.clear_bytecode();
            }
        }
        again
    }

    fn run_script(self, caches: Caches) -> Result<Answer, ChildError> {
        let target = self.target;
        let scratch = Scratch::new().map_err(ChildError::Scratch)?;
        let sentinel = sentinel();
        let script = scratch.write("synthesis.py", SYNTHESIS_PY).map_err(ChildError::Scratch)?;
        let sys_path: Vec<_> =
            target.interpreter.sys_path.iter().map(|entry| to_latin1(entry.as_os_str())).collect();
        let request = json!({"sysPath": sys_path}).to_string();
        let request = scratch.write("request.json", &request).map_err(ChildError::Scratch)?;
        let mut arguments: Vec<OsString> = target.interpreter.flags.iter().map(OsString::from).collect();
        arguments.extend([script.into(), OsString::from(&sentinel), request.into()]);
        if let Some(call) = self.call {
            arguments.extend(call.arguments(&scratch).map_err(ChildError::Scratch)?);
        }
        let child = Child {
            program: &target.interpreter.executable,
            arguments,
            environment: self.variables(&scratch, caches).map_err(ChildError::Scratch)?,
            limit: self.limit,
        };
        let program = child.program.to_owned();
        let finished = child.run(&scratch)?;
        let answer = framed(&finished, &sentinel, &program)?;
        let stdout = answer.to_string().into_bytes();
        let malformed = |_| ChildError::Malformed { program, stdout };
        let startup = answer["startupMs"].as_u64().map(Duration::from_millis);
        serde_json::from_value(answer).map(|synthesis| Answer { synthesis, startup }).map_err(malformed)
    }

    fn variables(self, scratch: &Scratch, caches: Caches) -> io::Result<Variables> {
        let mut variables = self.target.environment.clone();
        // jsii unpacks into TMPDIR, and leaves those files when it is killed.
        variables.push(set("TMPDIR", scratch.directory("tmp")?));
        variables.extend(jsii_cache::variables(caches.packages));
        self.cache.sweep_bytecode();
        variables.extend(bytecode_variables(self.target, caches.bytecode));
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let region_is_set = ["AWS_DEFAULT_REGION", "AWS_REGION"].into_iter().any(is_set);
        if matches!(self.call, Some(Call::Minimal(_))) && !region_is_set {
            // Which region it is does not matter, because AWS is not asked.
            variables.push(set("AWS_DEFAULT_REGION", "us-east-1"));
        }
        Ok(variables)
    }
}

/// The caches that one run of the script uses.
#[derive(Debug, Clone, Copy, Default)]
struct Caches<'a> {
    packages: Option<&'a JsiiCache>,
    bytecode: Option<&'a Cache>,
}

/// The part of a failing run that reads a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailingPart {
    /// The import of bytecode.
    Bytecode,
    /// The building of the template. What fails before it does not use jsii's packages.
    Template,
    /// The interpreter itself, which damaged bytecode may crash.
    Interpreter,
}

fn find_failing_part(answer: &Result<Answer, ChildError>) -> Option<FailingPart> {
    match answer.as_ref().map(|answer| &answer.synthesis) {
        Ok(Synthesis::Unstartable(failure)) if failure.bytecode.is_some() => Some(FailingPart::Bytecode),
        Ok(Synthesis::Failed { stage, .. }) if stage == "template" => Some(FailingPart::Template),
        Ok(Synthesis::Unstartable(failure)) if failure.stage == StartupStage::Template => {
            Some(FailingPart::Template)
        }
        Err(ChildError::Failed { .. } | ChildError::Malformed { .. }) => Some(FailingPart::Interpreter),
        _ => None,
    }
}

impl Call {
    fn arguments(&self, scratch: &Scratch) -> io::Result<Vec<OsString>> {
        match self {
            Self::Given(arguments) => Ok(arguments.clone()),
            Self::Minimal(options) => {
                let configuration = scratch.write("image-config.yaml", MINIMAL)?;
                let mut arguments = vec![
                    "build-image".into(),
                    "--image-configuration".into(),
                    configuration.into_os_string(),
                ];
                arguments.extend(options.iter().cloned());
                Ok(arguments)
            }
        }
    }
}

type Variables = Vec<(OsString, Option<OsString>)>;

/// Whether a check of an environment stores bytecode in the shim's cache: compiling CDK takes some two seconds,
/// and a check writes nothing into an environment that has none. The variable exists from Python 3.8 on.
fn stores_bytecode(target: &Target) -> bool {
    env::var_os("PYTHONPYCACHEPREFIX").is_none()
        && target.interpreter.is_at_least(8)
        && !target.has_bytecode()
}

/// The variables for Python's bytecode.
fn bytecode_variables(target: &Target, cache: Option<&Cache>) -> Variables {
    if env::var_os("PYTHONPYCACHEPREFIX").is_some() {
        return Vec::new();
    }
    match cache.filter(|_| stores_bytecode(target)).and_then(Cache::bytecode) {
        Some(directory) => {
            vec![set("PYTHONPYCACHEPREFIX", directory), ("PYTHONDONTWRITEBYTECODE".into(), None)]
        }
        None => vec![set("PYTHONDONTWRITEBYTECODE", "1")],
    }
}
