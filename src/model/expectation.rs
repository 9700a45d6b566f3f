//! What the real pcluster asks of a template, and how pcluster fails to start, as a synthesis reports
//! both. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What the real code asks of the AMI, as synthesis.py reads it from the configuration that the real schema has
/// loaded. A value that is absent is not compared.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expectation {
    /// The AMI's name, with the placeholder of its build date.
    pub name: Option<String>,
    /// The AMI's tags. The value is null if the tag exists but its value cannot be predicted.
    pub tags: Map<String, Value>,
    /// The regions to distribute to; empty if there is only the stack's own.
    pub regions: Vec<String>,
    /// Null if none is requested.
    pub launch_permission: Value,
}

/// The exception that ends an import. The real pcluster makes the same import.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartupFailure {
    pub stage: StartupStage,
    pub exception: String,
    pub message: String,
    /// The module that is missing or incomplete, if the exception names it.
    pub module: Option<String>,
    /// The file of that module, if it has one.
    pub module_file: Option<String>,
    /// The file whose code raised the exception.
    pub file: Option<String>,
    /// The damaged bytecode file, if that is the reason.
    pub bytecode: Option<String>,
    /// The setting that caused it, if one did: a variable of the call, or `-W`.
    pub cause: Option<String>,
}

/// What the real pcluster imports: for every command, or to build a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartupStage {
    Import,
    Template,
}

impl StartupFailure {
    /// The last line of a traceback.
    pub fn describe(&self) -> String {
        let Self { exception, message, .. } = self;
        if message.is_empty() { exception.clone() } else { format!("{exception}: {message}") }
    }
}
