//! Runs synth.py in the target's interpreter → the template that `build-image` is about to submit
//! and what it was asked for, or a typed reason why not. No verdicts.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::child::{Child, ChildError, Scratch, framed, sentinel, set};
use crate::interpreter::disguised;
use crate::remember::Memory;
use crate::target::Target;

pub const SYNTH_PY: &str = include_str!("synth.py");

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

/// What synth.py found out.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Answer {
    Template {
        template: Value,
        image_id: String,
        configuration: Value,
    },
    /// The real pcluster refuses this call in its own words.
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

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    Child(ChildError),
    Scratch(io::Error),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Child(error) => error.fmt(f),
            Self::Scratch(source) => write!(f, "no temporary directory: {source}"),
        }
    }
}

/// Builds the template.
///
/// # Errors
/// The child gives no answer, or we were interrupted.
pub fn synthesize(
    target: &Target,
    call: &Call,
    limit: Duration,
    memory: &Memory,
) -> Result<Answer, NoAnswer> {
    let scratch = Scratch::new().map_err(NoAnswer::Scratch)?;
    let sentinel = sentinel();
    let script = scratch.write("synth.py", SYNTH_PY).map_err(NoAnswer::Scratch)?;
    let sys_path: Vec<_> =
        target.interpreter.sys_path.iter().map(|entry| disguised(entry.as_os_str())).collect();
    let request = json!({"sysPath": sys_path}).to_string();
    let request = scratch.write("request.json", &request).map_err(NoAnswer::Scratch)?;
    let mut arguments: Vec<OsString> = target.interpreter.flags.iter().map(OsString::from).collect();
    arguments.extend([script.into(), OsString::from(&sentinel), request.into()]);
    arguments.extend(call.arguments(&scratch).map_err(NoAnswer::Scratch)?);
    let child = Child {
        program: &target.interpreter.executable,
        arguments,
        environment: environment(target, call, &scratch, memory).map_err(NoAnswer::Scratch)?,
        limit,
    };
    let program = child.program.to_owned();
    let finished = child.run(&scratch).map_err(NoAnswer::Child)?;
    let answer = framed(&finished, &sentinel, &program).map_err(NoAnswer::Child)?;
    let malformed = || ChildError::Malformed { program, stdout: finished.stdout };
    serde_json::from_value(answer).map_err(|_| NoAnswer::Child(malformed()))
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

fn environment(target: &Target, call: &Call, scratch: &Scratch, memory: &Memory) -> io::Result<Variables> {
    let mut variables = target.environment.clone();
    // jsii unpacks into it, and leaves it behind when it is killed.
    variables.push(set("TMPDIR", scratch.directory("tmp")?));
    // Newer ones keep what they unpack below the user's HOME: 50 MB that a check must not leave.
    variables.push(set("JSII_RUNTIME_PACKAGE_CACHE", "disabled"));
    variables.extend(bytecode(target, memory));
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
fn bytecode(target: &Target, memory: &Memory) -> Variables {
    let own = memory.bytecode().filter(|_| has_prefix(&target.interpreter.version));
    match own {
        _ if env::var_os("PYTHONPYCACHEPREFIX").is_some() => Vec::new(),
        Some(directory) if !target.has_bytecode() => {
            vec![set("PYTHONPYCACHEPREFIX", directory), ("PYTHONDONTWRITEBYTECODE".into(), None)]
        }
        _ => vec![set("PYTHONDONTWRITEBYTECODE", "1")],
    }
}

/// `PYTHONPYCACHEPREFIX` exists from Python 3.8 on.
fn has_prefix(version: &str) -> bool {
    !matches!(version.split('.').nth(1), Some("6" | "7"))
}
