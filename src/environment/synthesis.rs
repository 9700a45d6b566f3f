//! Runs synthesis.py in the target's interpreter. The answer of synthesis.py is the template that
//! `build-image` is about to submit, with what the real pcluster asks of the AMI; or it is the reason why
//! there is no template. The answer contains no verdict on the environment.

use std::env;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::environment::interpreter::to_latin1;
use crate::environment::target::Target;
use crate::model::expectation::{Expectation, StartupFailure, StartupStage};
use crate::system::child::{Child, ChildError, MAX_OUTPUT, Variable, framed, sentinel, set};
use crate::system::scratch::Scratch;

/// The script, and what it imports.
const SYNTHESIS_PY: &str = include_str!("synthesis.py");
const SYNTHESIS_AWS_PY: &str = include_str!("synthesis_aws.py");

/// A configuration that every release of pcluster accepts. Its parent image need not exist, because AWS is
/// not asked.
const MINIMAL: &str = "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n";

/// The image id for a call that has none.
pub const IMAGE_ID: &str = "preflight-check";

/// The call of `build-image` whose template is built.
#[derive(Debug, Clone)]
pub enum Call {
    /// The arguments of a command line, `build-image` first.
    Given(Vec<OsString>),
    /// The minimal configuration, with these options.
    Minimal(Vec<OsString>),
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
    /// pcluster starts, and nothing else was asked for.
    Started,
}

/// An answer, and how long pcluster took to start, if it started.
#[derive(Debug)]
pub struct Answer {
    pub synthesis: Synthesis,
    pub startup: Option<Duration>,
}

/// Builds the template of a call.
///
/// If the real pcluster's code fails on the user's configuration, the minimal configuration is tried. If the
/// minimal configuration succeeds, the environment works, and the real pcluster will fail on the user's
/// configuration in the same way. The second attempt is a separate process, because the first failure can end
/// Node.js (for example, if jsii sends a `NaN` as JSON). The environment is blamed for the failure only if
/// both configurations fail in the same way.
///
/// `images` are descriptions of images in the form of `ec2:DescribeImages`. For any other image, synthesis.py
/// invents a description.
pub fn synthesize(
    target: &Target,
    call: &Call,
    images: &[Value],
    limit: Duration,
) -> Result<Answer, ChildError> {
    let answer = run(target, Some(call), images, limit)?;
    let Some(message) = answer.synthesis.describe_failure().filter(|_| matches!(call, Call::Given(_))) else {
        return Ok(answer);
    };
    let synthesis = match run(target, Some(&Call::minimal()), &[], limit).map(|minimal| minimal.synthesis) {
        Err(interrupted @ ChildError::Interrupted(_)) => return Err(interrupted),
        Ok(Synthesis::Template { .. }) => Synthesis::Rejected { stage: "configuration".into(), message },
        Ok(minimal) if minimal.fails_like(&answer.synthesis) => answer.synthesis,
        _ => Synthesis::Failed { stage: "template".into(), message },
    };
    Ok(Answer { synthesis, ..answer })
}

impl Synthesis {
    /// The message of a failure whose cause could be the configuration.
    fn describe_failure(&self) -> Option<String> {
        match self {
            Self::Failed { stage, message }
                if ["region", "configuration", "template"].contains(&stage.as_str()) =>
            {
                Some(message.clone())
            }
            Self::Unstartable(failure) if failure.stage == StartupStage::Template => Some(failure.describe()),
            _ => None,
        }
    }

    /// Whether both fail in the same way. Messages are not compared, because they may differ from run to run.
    fn fails_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unstartable(one), Self::Unstartable(other)) => {
                (one.stage, &one.exception, &one.file) == (other.stage, &other.exception, &other.file)
            }
            (Self::Failed { stage: one, .. }, Self::Failed { stage: other, .. }) => one == other,
            _ => false,
        }
    }
}

/// Starts pcluster in the target's interpreter. No template is built, because that would take three times
/// as long.
pub fn start(target: &Target, limit: Duration) -> Result<Answer, ChildError> {
    run(target, None, &[], limit)
}

/// Runs synthesis.py, which builds the template of the call; without a call, it only starts pcluster.
fn run(
    target: &Target,
    call: Option<&Call>,
    images: &[Value],
    limit: Duration,
) -> Result<Answer, ChildError> {
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let sentinel = sentinel();
    scratch.write("synthesis_aws.py", SYNTHESIS_AWS_PY).map_err(ChildError::Scratch)?;
    let script = scratch.write("synthesis.py", SYNTHESIS_PY).map_err(ChildError::Scratch)?;
    let sys_path: Vec<_> =
        target.interpreter.sys_path.iter().map(|entry| to_latin1(entry.as_os_str())).collect();
    let request = json!({"sysPath": sys_path, "images": images}).to_string();
    let request = scratch.write("request.json", &request).map_err(ChildError::Scratch)?;
    let mut arguments = target.interpreter.run_flags();
    arguments.extend([script.into(), OsString::from(&sentinel), request.into()]);
    if let Some(call) = call {
        arguments.extend(call.arguments(&scratch).map_err(ChildError::Scratch)?);
    }
    let environment = list_variables(target, call, &scratch).map_err(ChildError::Scratch)?;
    let program = &target.interpreter.executable;
    let child = Child { program, arguments, environment, limit, max_output: MAX_OUTPUT };
    let answer = framed(&child.run(&scratch)?, &sentinel, program)?;
    let stdout = answer.to_string().into_bytes();
    let malformed = |_| ChildError::Malformed { program: program.clone(), stdout };
    let startup = answer["startupMs"].as_u64().map(Duration::from_millis);
    serde_json::from_value(answer).map(|synthesis| Answer { synthesis, startup }).map_err(malformed)
}

/// The variables that the launcher changes, and those that we set for jsii's package cache, temporary
/// files and the region. Temporary files are written into `scratch`, because jsii leaves them behind when
/// it is killed.
fn list_variables(target: &Target, call: Option<&Call>, scratch: &Scratch) -> io::Result<Vec<Variable>> {
    let mut variables = target.environment.clone();
    let (name, directory) = scratch.temporary_files()?;
    variables.push(set(name, directory));
    match &target.jsii_cache {
        Some(directory) => {
            variables.push(set("JSII_RUNTIME_PACKAGE_CACHE", "enabled"));
            variables.push(set("JSII_RUNTIME_PACKAGE_CACHE_ROOT", directory));
        }
        None => variables.push(set("JSII_RUNTIME_PACKAGE_CACHE", "disabled")),
    }
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let region_is_set = ["AWS_DEFAULT_REGION", "AWS_REGION"].into_iter().any(is_set);
    if matches!(call, Some(Call::Minimal(_))) && !region_is_set {
        // pcluster needs a region. Any region will do, because AWS is not asked.
        variables.push(set("AWS_DEFAULT_REGION", "us-east-1"));
    }
    Ok(variables)
}

impl Call {
    /// The arguments of the command line, if there is one.
    pub fn given(&self) -> &[OsString] {
        match self {
            Self::Given(arguments) => arguments,
            Self::Minimal(_) => &[],
        }
    }

    /// The minimal configuration, with our own image id.
    pub fn minimal() -> Self {
        Self::Minimal(vec!["--image-id".into(), IMAGE_ID.into()])
    }

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
