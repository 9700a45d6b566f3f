//! All calls to AWS. The target's interpreter runs client.py, which uses the boto3 of the target. So the
//! user's credentials, profiles, proxies and endpoints apply as they do for pcluster. No other module opens
//! a connection.

use std::ffi::OsString;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::environment::interpreter::to_latin1;
use crate::environment::target::Target;
use crate::error::{Abort, AwsFailure, Error};
use crate::images::inventory::Inventory;
use crate::images::plan::Step;
use crate::rules::parent::facts::{Facts, Questions};
use crate::system::child::{Child, ChildError, MAX_OUTPUT, framed, sentinel};
use crate::system::scratch::Scratch;

/// client.py, and what it imports.
const CLIENT_PY: [(&str, &str); 6] = [
    ("client.py", include_str!("client.py")),
    ("client_account.py", include_str!("client_account.py")),
    ("client_builds.py", include_str!("client_builds.py")),
    ("client_inventory.py", include_str!("client_inventory.py")),
    ("client_parent.py", include_str!("client_parent.py")),
    ("client_apply.py", include_str!("client_apply.py")),
];

/// The time limit of a request that is not part of a check is [`Client::timeout`] times this number, because
/// client.py may have to read thousands of AMIs.
const MAX_TIMEOUTS: u32 = 10;

/// A connection to AWS through the target's boto3.
#[derive(Debug)]
pub struct Client<'a> {
    pub target: &'a Target,
    /// The time limit for a child of a check.
    pub timeout: Duration,
}

/// The answer of client.py.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Answer {
    Inventory(Box<Inventory>),
    Stack(StackTemplate),
    Parent(Box<Facts>),
    NoStack {
        region: String,
    },
    /// The results of the steps that were tried, in order.
    Applied {
        results: Vec<StepResult>,
    },
    Failed {
        code: String,
        message: String,
        #[serde(deserialize_with = "Option::deserialize")]
        call: Option<String>,
    },
}

/// A stack and its template.
#[derive(Debug, Deserialize)]
pub struct StackTemplate {
    pub name: String,
    pub region: String,
    pub status: String,
    pub template: String,
}

/// The result of one step of a plan.
#[derive(Debug, Clone, Deserialize)]
pub struct StepResult {
    pub ok: bool,
    /// Why the step failed. For a completed step: what it left behind or left out.
    #[serde(deserialize_with = "Option::deserialize")]
    pub message: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub permission: Option<String>,
}

impl Client<'_> {
    /// Takes the inventory that a request describes.
    pub fn take_inventory(&self, request: Value) -> Result<Inventory, Abort> {
        match self.ask("inventory", request)? {
            Answer::Inventory(inventory) => Ok(*inventory),
            other => Err(refuse(other)),
        }
    }

    /// Gets the template of a stack, live or deleted.
    pub fn get_stack(&self, name: &str, region: Option<&str>) -> Result<StackTemplate, Abort> {
        match self.ask("stack", json!({"name": name, "region": region}))? {
            Answer::Stack(stack) => Ok(stack),
            Answer::NoStack { region } => Err(Error::NoStack { name: name.to_owned(), region }.into()),
            other => Err(refuse(other)),
        }
    }

    /// Asks AWS about everything that a build would use. The result names what could not be asked.
    pub fn get_facts(&self, questions: &Questions, region: Option<&str>) -> Result<Facts, Abort> {
        let mut request = serde_json::to_value(questions).unwrap_or_default();
        request["region"] = json!(region);
        match self.ask("parent", request)? {
            Answer::Parent(facts) => Ok(*facts),
            other => Err(refuse(other)),
        }
    }

    /// Carries out steps until one fails. After each step except the deletion of a log group, client.py asks
    /// AWS whether the step is done.
    pub fn apply(&self, region: Option<&str>, steps: &[Step]) -> Result<Vec<StepResult>, Abort> {
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
        let answer = self.run(&request).map_err(|error| match error {
            ChildError::Interrupted(interrupted) => Abort::Interrupted(interrupted),
            other => fail(other.to_string()),
        })?;
        serde_json::from_value(answer)
            .map_err(|error| fail(format!("incomplete answer from the shim's AWS client: {error}")))
    }

    fn run(&self, request: &Value) -> Result<Value, ChildError> {
        let interpreter = &self.target.interpreter;
        // A request of the kind `parent` is part of a check, so it gets no more time than any other child of
        // the check.
        let limit = if request["kind"] == "parent" { self.timeout } else { self.timeout * MAX_TIMEOUTS };
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
        let finished =
            Child { program, arguments, environment, limit, max_output: MAX_OUTPUT }.run_tied(&scratch)?;
        framed(&finished, &sentinel, program)
    }
}

fn fail(message: String) -> Abort {
    Error::Aws(AwsFailure::of_client(message)).into()
}

/// The error if client.py reports a failure, or if its answer is not of the requested kind.
fn refuse(answer: Answer) -> Abort {
    match answer {
        Answer::Failed { code, message, call } => Error::Aws(AwsFailure { code, message, call }).into(),
        _ => fail("unexpected kind of answer from the shim's AWS client".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_answers_are_errors_that_name_the_key() {
        for (answer, key) in [
            (json!({"kind": "inventory", "account": "1"}), "caller"),
            (json!({"kind": "applied", "results": [{"ok": true, "message": null}]}), "permission"),
            (json!({"kind": "applied", "results": [{"message": null, "permission": null}]}), "ok"),
            (json!({"kind": "failed", "code": "denied", "message": "no"}), "call"),
            (json!({"kind": "stack", "name": "x", "region": "r", "status": "s"}), "template"),
            (json!({"account": "1"}), "kind"),
        ] {
            let error = serde_json::from_value::<Answer>(answer).unwrap_err().to_string();
            assert_eq!(error, format!("missing field `{key}`"));
        }
    }
}
