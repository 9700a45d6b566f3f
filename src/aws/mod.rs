//! What is asked of AWS: one script, run by the target's interpreter with its own boto3, and with it the user's
//! credentials, profiles, proxies and endpoints. No other module opens a connection.

pub mod deletions;

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};

use crate::environment::interpreter::to_latin1;
use crate::environment::target::Target;
use crate::error::{Abort, AwsFailure, Error};
use crate::rules::inventory::Inventory;
use crate::rules::inventory_json::{optional, read_inventory, text};
use crate::system::child::{Child, ChildError, MAX_OUTPUT, framed, sentinel};
use crate::system::scratch::Scratch;

/// The script, and what it imports.
const CLIENT_PY: [(&str, &str); 5] = [
    ("client.py", include_str!("client.py")),
    ("client_account.py", include_str!("client_account.py")),
    ("client_builds.py", include_str!("client_builds.py")),
    ("client_inventory.py", include_str!("client_inventory.py")),
    ("client_apply.py", include_str!("client_apply.py")),
];

/// An account with thousands of AMIs takes longer than a child of a check may.
const MAX_TIMEOUTS: u32 = 10;

/// AWS as the target's boto3 reaches it.
#[derive(Debug)]
pub struct Client<'a> {
    pub target: &'a Target,
    /// The time that a child of a check may take.
    pub timeout: Duration,
}

/// The answer of client.py.
#[derive(Debug)]
pub enum Answer {
    Inventory(Box<Inventory>),
    Stack(StackTemplate),
    NoStack { region: String },
    Applied { results: Vec<StepResult> },
    Failed(AwsFailure),
}

impl Answer {
    /// Reads the JSON of client.py; `None` where it is no answer.
    #[must_use]
    pub fn read(answer: &Value) -> Option<Self> {
        Some(match answer["kind"].as_str()? {
            "inventory" => Self::Inventory(Box::new(read_inventory(answer)?)),
            "stack" => Self::Stack(StackTemplate {
                name: optional(answer, "name")?,
                region: text(answer, "region"),
                status: text(answer, "status"),
                template: text(answer, "template"),
            }),
            "nostack" => Self::NoStack { region: text(answer, "region") },
            "applied" => Self::Applied {
                results: answer["results"].as_array()?.iter().filter_map(StepResult::read).collect(),
            },
            "failed" => Self::Failed(AwsFailure {
                code: optional(answer, "code")?,
                message: text(answer, "message"),
                call: optional(answer, "call"),
            }),
            _ => return None,
        })
    }
}

/// A stack and its template.
#[derive(Debug)]
pub struct StackTemplate {
    pub name: String,
    pub region: String,
    pub status: String,
    pub template: String,
}

/// The result of one step of a plan.
#[derive(Debug, Clone)]
pub struct StepResult {
    pub id: u64,
    pub ok: bool,
    /// Why it failed, or what a step that is done has left.
    pub message: Option<String>,
    pub permission: Option<String>,
}

impl StepResult {
    fn read(value: &Value) -> Option<Self> {
        let (id, ok) = (value["id"].as_u64()?, value["ok"].as_bool()?);
        Some(Self { id, ok, message: optional(value, "message"), permission: optional(value, "permission") })
    }
}

impl Client<'_> {
    /// Takes the inventory that a request describes.
    ///
    /// # Errors
    /// Returns an error if AWS cannot be asked, or a signal came.
    pub fn take_inventory(&self, request: Value) -> Result<Inventory, Abort> {
        match self.ask("inventory", request)? {
            Answer::Inventory(inventory) => Ok(*inventory),
            other => Err(refuse(other)),
        }
    }

    /// Gets the template of a stack, live or deleted.
    ///
    /// # Errors
    /// Returns an error if there is no such stack, AWS cannot be asked, or a signal came.
    pub fn get_stack(&self, name: &str, region: Option<&str>) -> Result<StackTemplate, Abort> {
        match self.ask("stack", json!({"name": name, "region": region}))? {
            Answer::Stack(stack) => Ok(stack),
            Answer::NoStack { region } => Err(Error::NoStack { name: name.to_owned(), region }.into()),
            other => Err(refuse(other)),
        }
    }

    /// Carries out steps, each verified by asking again. A step that fails ends those of its AMI.
    ///
    /// # Errors
    /// Returns an error if AWS cannot be asked, or a signal came.
    pub fn apply(&self, region: Option<&str>, steps: &[Value]) -> Result<Vec<StepResult>, Abort> {
        match self.ask("apply", json!({"region": region, "steps": steps}))? {
            Answer::Applied { results } => Ok(results),
            other => Err(refuse(other)),
        }
    }

    fn ask(&self, kind: &str, mut request: Value) -> Result<Answer, Abort> {
        let interpreter = &self.target.interpreter;
        let sys_path: Vec<_> =
            interpreter.sys_path.iter().map(|entry| to_latin1(entry.as_os_str())).collect();
        request["sysPath"] = json!(sys_path);
        request["kind"] = json!(kind);
        self.run(&request).map_err(|error| match error {
            ChildError::Interrupted(interrupted) => Abort::Interrupted(interrupted),
            other => Error::Aws(AwsFailure::of_client(other.to_string())).into(),
        })
    }

    fn run(&self, request: &Value) -> Result<Answer, ChildError> {
        let interpreter = &self.target.interpreter;
        let scratch = Scratch::new().map_err(ChildError::Scratch)?;
        let sentinel = sentinel();
        for (name, text) in CLIENT_PY {
            scratch.write(name, text).map_err(ChildError::Scratch)?;
        }
        let script = scratch.path(CLIENT_PY[0].0);
        let request = scratch.write("request.json", &request.to_string()).map_err(ChildError::Scratch)?;
        let mut arguments = interpreter.run_flags();
        arguments.extend([script.into(), OsString::from(&sentinel), request.into()]);
        let environment = self.target.environment.clone();
        let program = &interpreter.executable;
        let limit = self.timeout * MAX_TIMEOUTS;
        let finished =
            Child { program, arguments, environment, limit, max_output: MAX_OUTPUT }.run(&scratch)?;
        let answer = framed(&finished, &sentinel, program)?;
        let stdout = answer.to_string().into_bytes();
        Answer::read(&answer).ok_or_else(|| ChildError::Malformed { program: program.clone(), stdout })
    }
}

/// The error for an answer that is not the one to the question.
fn refuse(answer: Answer) -> Abort {
    let failure = match answer {
        Answer::Failed(failure) => failure,
        _ => AwsFailure::of_client("it answered another question".into()),
    };
    Error::Aws(failure).into()
}
