//! What the real pcluster requires of a template, and why pcluster failed to start. synthesis.py reports
//! both. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What pcluster's own code requires of the AMI. synthesis.py reads this from the configuration, after
/// pcluster's own schema has loaded it. A value that is absent is not compared with the template.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expectation {
    /// The AMI's name, with the placeholder for the build date.
    pub name: Option<String>,
    /// The AMI's tags. The value is null if the tag is required but its value cannot be predicted.
    pub tags: Map<String, Value>,
    /// The regions to distribute the AMI to; empty if the AMI stays in the stack's own region.
    pub regions: Vec<String>,
    /// Null if the configuration requests no launch permission.
    pub launch_permission: Value,
}

/// The exception with which pcluster's own code failed in a synthesis. The real pcluster would fail
/// in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartupFailure {
    pub stage: StartupStage,
    pub exception: String,
    pub message: String,
    /// The module that is missing or incomplete, if the exception names it.
    pub module: Option<String>,
    /// The file of `module`, if it has one.
    pub module_file: Option<String>,
    /// The file whose code raised the exception.
    pub file: Option<String>,
    /// The damaged bytecode file, if one caused the exception.
    pub bytecode: Option<String>,
    /// The setting that caused the exception, if one did: the name of an environment variable, or `-W`.
    pub cause: Option<String>,
}

/// The stage that failed: the imports that every command needs, or the building of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartupStage {
    Import,
    Template,
}

impl StartupFailure {
    /// The exception and its message, like the last line of a traceback.
    pub fn describe(&self) -> String {
        let Self { exception, message, .. } = self;
        if message.is_empty() { exception.clone() } else { format!("{exception}: {message}") }
    }
}
