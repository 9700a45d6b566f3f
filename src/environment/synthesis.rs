//! Runs synthesis.py in the target's interpreter → the template that `build-image` is about to submit
//! and what the real code asks of the AMI, or a typed reason why not. No verdicts.

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

/// Accepted by every release: the parent image is never looked at, because AWS is not asked.
const MINIMAL: &str = "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n";

/// The image id of a call that names none.
pub const IMAGE_ID: &str = "preflight-check";

/// Whose arguments the template is built with.
#[derive(Debug, Clone)]
pub enum Call {
    /// Those of a command line, `build-image` first.
    Given(Vec<OsString>),
    /// A minimal configuration, with these options behind it.
    Minimal(Vec<OsString>),
}

/// What the real code asks of the AMI, as synthesis.py reads it off the configuration that the real
/// schema has loaded; what is not known is not compared.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expectation {
    /// The AMI's name, build date and all.
    pub name: Option<String>,
    /// The AMI's tags. Null: there is such a tag, with a value that cannot be foretold.
    pub tags: Map<String, Value>,
    /// Regions to distribute to. None: the stack's own.
    pub regions: Vec<String>,
    /// Null where none is asked for.
    pub launch_permission: Value,
}

/// What synthesis.py found out.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Synthesis {
    Template {
        template: Value,
        asked: Box<Expectation>,
    },
    /// The real pcluster refuses this call in its own words, or its own code trips over it.
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
}

/// Builds the template.
///
/// Where the real code fails on the user's configuration, the minimal one tells whose fault that
/// is: if it builds, the environment is sound and the real pcluster fails on the same line. It is
/// built in a process of its own, because Node can end with the first failure (a `NaN` that jsii
/// sends as JSON).
///
/// # Errors
/// Returns an error if the child gives no answer or a signal interrupted it.
pub fn synthesize(
    target: &Target,
    call: &Call,
    limit: Duration,
    cache: &Cache,
) -> Result<Synthesis, ChildError> {
    let answer = synthesize_once(target, call, limit, cache)?;
    let (Call::Given(_), Synthesis::Failed { stage, message }) = (call, &answer) else { return Ok(answer) };
    if !["region", "configuration", "template"].contains(&stage.as_str()) {
        return Ok(answer);
    }
    let minimal = Call::Minimal(vec!["--image-id".into(), IMAGE_ID.into()]);
    match synthesize_once(target, &minimal, limit, cache) {
        Ok(Synthesis::Template { .. }) => {
            Ok(Synthesis::Rejected { stage: "configuration".into(), message: message.clone() })
        }
        Err(interrupted @ ChildError::Interrupted(_)) => Err(interrupted),
        _ => Ok(answer),
    }
}

/// With jsii's packages from the cache where it can be had. Where that fails while the template is
/// built, once more without it: a cache can be damaged in ways that no marker tells.
fn synthesize_once(
    target: &Target,
    call: &Call,
    limit: Duration,
    cache: &Cache,
) -> Result<Synthesis, ChildError> {
    if let Some(packages) = JsiiCache::lock(cache).filter(|_| !cache.is_fresh()) {
        let answer = run_script(target, call, limit, cache, Some(&packages));
        match &answer {
            Ok(Synthesis::Failed { stage, .. }) if stage == "template" => {}
            Err(ChildError::Failed { .. } | ChildError::Malformed { .. }) => {}
            _ => return answer,
        }
        packages.clear();
    }
    run_script(target, call, limit, cache, None)
}

fn run_script(
    target: &Target,
    call: &Call,
    limit: Duration,
    cache: &Cache,
    packages: Option<&JsiiCache>,
) -> Result<Synthesis, ChildError> {
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let sentinel = sentinel();
    let script = scratch.write("synthesis.py", SYNTHESIS_PY).map_err(ChildError::Scratch)?;
    let sys_path: Vec<_> =
        target.interpreter.sys_path.iter().map(|entry| to_latin1(entry.as_os_str())).collect();
    let request = json!({"sysPath": sys_path}).to_string();
    let request = scratch.write("request.json", &request).map_err(ChildError::Scratch)?;
    let mut arguments: Vec<OsString> = target.interpreter.flags.iter().map(OsString::from).collect();
    arguments.extend([script.into(), OsString::from(&sentinel), request.into()]);
    arguments.extend(call.arguments(&scratch).map_err(ChildError::Scratch)?);
    let child = Child {
        program: &target.interpreter.executable,
        arguments,
        environment: environment(target, call, &scratch, cache, packages).map_err(ChildError::Scratch)?,
        limit,
    };
    let program = child.program.to_owned();
    let finished = child.run(&scratch)?;
    let answer = framed(&finished, &sentinel, &program)?;
    let stdout = answer.to_string().into_bytes();
    let malformed = |_| ChildError::Malformed { program, stdout };
    serde_json::from_value(answer).map_err(malformed)
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

fn environment(
    target: &Target,
    call: &Call,
    scratch: &Scratch,
    cache: &Cache,
    packages: Option<&JsiiCache>,
) -> io::Result<Variables> {
    let mut variables = target.environment.clone();
    // jsii unpacks into it, and leaves it behind when it is killed.
    variables.push(set("TMPDIR", scratch.directory("tmp")?));
    variables.extend(jsii_cache::variables(packages));
    cache.sweep_bytecode();
    variables.extend(bytecode(target, cache));
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let region_is_set = ["AWS_DEFAULT_REGION", "AWS_REGION"].into_iter().any(is_set);
    if matches!(call, Call::Minimal(_)) && !region_is_set {
        // Any will do: nothing is asked of it.
        variables.push(set("AWS_DEFAULT_REGION", "us-east-1"));
    }
    Ok(variables)
}

/// Compiling CDK's modules takes some two seconds. The environment's own bytecode is used where it
/// has some; where it has none, ours is kept apart from it: a check writes nothing into it.
fn bytecode(target: &Target, cache: &Cache) -> Variables {
    // The variable exists from Python 3.8 on.
    let own = cache.bytecode().filter(|_| target.interpreter.is_at_least(8));
    match own {
        _ if env::var_os("PYTHONPYCACHEPREFIX").is_some() => Vec::new(),
        Some(directory) if !target.has_bytecode() => {
            vec![set("PYTHONPYCACHEPREFIX", directory), ("PYTHONDONTWRITEBYTECODE".into(), None)]
        }
        _ => vec![set("PYTHONDONTWRITEBYTECODE", "1")],
    }
}
