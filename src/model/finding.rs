//! A finding, its level, and the fix for it. Pure.

use std::fmt;

use pep440_rs::VersionSpecifiers;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::fields::{read_package, read_specifiers, write_text};
use crate::model::options::Strategy;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    Info,
    Warning,
    Error,
}

/// The id of the advisory about builds whose AMIs no pcluster command finds.
pub const LOSES_TAGS: &str = "cdk-imagebuilder-1.153.0";

pub const FIND_LOST: &str = "To find AMIs that earlier builds left behind, run `pcluster preflight images`.";

/// The kind of rule that a finding comes from. In JSON, the key is `type`. The errors of pcluster itself have
/// this key too: there, the value is the name of a validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    PackageAdvisory,
    ImageBuilderTemplate,
    PclusterStartup,
    ImageLimit,
    LambdaRuntime,
    KnownIssue,
    BuildComponent,
    ParentImage,
    BuildNetwork,
    CheckNotRun,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub id: String,
    pub level: Level,
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The problem: one sentence without the full stop.
    pub message: String,
    /// The cost of building anyway: a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    pub evidence: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Fix>,
    pub references: Vec<String>,
    /// The finding is only a warning, but the build is expected to fail because of the problem. The guard
    /// prints such a warning, and a repair fixes the problem if it can.
    #[serde(skip)]
    pub fails_build: bool,
    /// The user's config ignores the finding.
    #[serde(rename = "ignored", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_ignored: bool,
    /// Where the fault becomes visible; `None` if the finding is not from an advisory about packages.
    #[serde(skip)]
    pub shows: Option<Shows>,
}

/// Where an environment would show the fault that an advisory describes. If the fault does not show there,
/// the advisory is refuted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shows {
    /// pcluster does not start.
    Start,
    /// The template is incomplete.
    Template,
    /// The fault shows only during a build or later, so nothing can refute the advisory.
    Later,
}

impl Finding {
    /// A finding whose other fields are empty.
    pub fn new(id: &str, level: Level, kind: Kind, message: String) -> Self {
        Self {
            id: id.to_owned(),
            level,
            kind,
            message,
            cost: None,
            evidence: Value::Null,
            fix: None,
            references: Vec::new(),
            fails_build: false,
            is_ignored: false,
            shows: None,
        }
    }

    /// The message, and the path in the template if there is one.
    pub fn describe_with_path(&self) -> String {
        match self.path() {
            Some(path) => format!("{} (at {path})", self.message),
            None => self.message.clone(),
        }
    }

    /// What to do about the finding: its fix, or else the command that shows details.
    pub fn describe_fix(&self) -> &str {
        self.fix.as_ref().map_or("run `pcluster preflight` for details", |fix| &fix.command)
    }

    /// Whether an id from the user is the finding's own, or that of its advisory.
    pub fn is_named(&self, id: &str) -> bool {
        self.id == id || self.evidence["advisory"] == id
    }

    pub fn blocks(&self) -> bool {
        self.level == Level::Error
    }

    /// Whether another finding, one from an advisory, explains this one.
    pub fn is_explained(&self) -> bool {
        self.evidence.get("explainedBy").is_some()
    }

    /// Whether `preflight fix` fixes the problem.
    pub fn has_repair(&self) -> bool {
        self.fix.as_ref().is_some_and(|fix| fix.remedy.is_some())
    }

    pub fn has_remedy(&self, remedy: &Remedy) -> bool {
        self.fix.as_ref().is_some_and(|fix| fix.remedy.as_ref() == Some(remedy))
    }

    /// The path of the problem in the template.
    pub fn path(&self) -> Option<&str> {
        self.evidence.get("path").and_then(Value::as_str)
    }
}

/// How to fix the problem that a finding reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    pub command: String,
    /// What the command changes, if the command is `pcluster preflight fix`.
    #[serde(skip)]
    pub remedy: Option<Remedy>,
}

/// A change to the environment that fixes the problem of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remedy {
    /// Packages are moved to releases that are known to work.
    Move(PackageMove),
    /// Files of aws-parallelcluster are edited, as defined by the source edits with this id.
    Edit(String),
    /// This bytecode file is removed. Python then compiles its module again.
    Bytecode(String),
    /// Packages are moved to the versions that were current when the installed release of aws-parallelcluster
    /// came out.
    Release,
}

const FIX: &str = "pcluster preflight fix";

impl Fix {
    /// A fix that `preflight fix` makes.
    pub fn by_command(remedy: Remedy) -> Self {
        Self { command: FIX.into(), remedy: Some(remedy) }
    }

    /// A move of packages for a finding that does not block. `preflight fix` makes the move only if the
    /// finding's id is given.
    pub fn moving_by_id(package_move: PackageMove, id: &str) -> Self {
        Self { command: format!("{FIX} {id}"), remedy: Some(Remedy::Move(package_move)) }
    }

    /// A fix that the user has to make.
    pub fn by_hand(command: String) -> Self {
        Self { command, remedy: None }
    }

    pub fn package_move(&self) -> Option<&PackageMove> {
        match &self.remedy {
            Some(Remedy::Move(package_move)) => Some(package_move),
            _ => None,
        }
    }

    /// The bytecode file that the fix removes.
    pub fn bytecode(&self) -> Option<&str> {
        match &self.remedy {
            Some(Remedy::Bytecode(file)) => Some(file),
            _ => None,
        }
    }
}

/// The affected packages, and the releases to move them to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a mapping with the keys `packages`, `upgrade` and `downgrade`")]
pub struct PackageMove {
    #[serde(deserialize_with = "read_package")]
    pub packages: String,
    #[serde(deserialize_with = "read_specifiers", serialize_with = "write_text")]
    pub upgrade: VersionSpecifiers,
    #[serde(deserialize_with = "read_specifiers", serialize_with = "write_text")]
    pub downgrade: VersionSpecifiers,
}

impl PackageMove {
    pub fn range(&self, strategy: Strategy) -> &VersionSpecifiers {
        match strategy {
            Strategy::Upgrade | Strategy::Release => &self.upgrade,
            Strategy::Downgrade => &self.downgrade,
        }
    }
}

/// The packages and the two ranges; if the ranges are equal, only one is written.
impl fmt::Display for PackageMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packages, upgrade, downgrade } = self;
        write!(f, "{packages} {upgrade}")?;
        if upgrade == downgrade { Ok(()) } else { write!(f, ", or {downgrade}") }
    }
}
