//! The vocabulary of the rules: a finding, its level, and the fix that it asks for.

pub mod advisory;
pub mod cloudformation;
pub mod fields;
pub mod template;

use pep440_rs::VersionSpecifiers;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::settings::Strategy;
use crate::rules::fields::{as_text, package, specifiers};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// Where a finding comes from; pcluster's own results carry the validator's name in this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kind {
    PackageAdvisory,
    ImageBuilderTemplate,
    CheckNotRun,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub id: String,
    pub level: Level,
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What is wrong: one sentence without its full stop.
    pub message: String,
    /// What it costs: a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    pub evidence: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
    pub references: Vec<String>,
}

impl Finding {
    /// The message, and where in the template.
    #[must_use]
    pub fn located(&self) -> String {
        match self.path() {
            Some(path) => format!("{} (at {path})", self.message),
            None => self.message.clone(),
        }
    }

    /// Where in the template.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.evidence.get("path").and_then(Value::as_str)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    pub command: String,
    /// What the command does, where it is one of ours.
    #[serde(skip)]
    pub package_move: Option<PackageMove>,
}

impl Fix {
    #[must_use]
    pub fn moving(package_move: PackageMove) -> Self {
        Self { command: "pcluster preflight fix".into(), package_move: Some(package_move) }
    }
}

/// Where the packages at fault have to go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of packages, upgrade and downgrade")]
pub struct PackageMove {
    #[serde(deserialize_with = "package")]
    pub packages: String,
    #[serde(deserialize_with = "specifiers", serialize_with = "as_text")]
    pub upgrade: VersionSpecifiers,
    #[serde(deserialize_with = "specifiers", serialize_with = "as_text")]
    pub downgrade: VersionSpecifiers,
}

impl PackageMove {
    /// The ranges, once where both are the same.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { packages, upgrade, downgrade } = self;
        if upgrade == downgrade {
            format!("{packages} {upgrade}")
        } else {
            format!("{packages} {upgrade}, or {downgrade}")
        }
    }

    #[must_use]
    pub fn range(&self, strategy: Strategy) -> &VersionSpecifiers {
        match strategy {
            Strategy::Upgrade => &self.upgrade,
            Strategy::Downgrade => &self.downgrade,
        }
    }
}
