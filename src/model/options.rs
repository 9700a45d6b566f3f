//! What a call asks for, and how its real pcluster was found. Pure.

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::env_vars;
use crate::text::yaml::{self, Scalar};

/// How the guard reacts to a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Block,
    Fix,
    Warn,
    Off,
}

impl Mode {
    pub const ACCEPTED: &'static str = "block, fix, warn, off";

    pub fn parse(text: &str) -> Option<Self> {
        Self::from_str(text, false).ok()
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        yaml::read_scalar(from, "one of `block`, `fix`, `warn`, `off`", |scalar| match scalar {
            Scalar::Text(text) => Self::parse(text).ok_or(None),
            // In YAML 1.1, `off` means false, and a tool that rewrites the file could write false instead.
            Scalar::Bool(false) => Ok(Self::Off),
            _ => Err(None),
        })
    }
}

/// How a repair changes packages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// To the newest version allowed
    #[default]
    Upgrade,
    /// To the newest version below the affected one
    Downgrade,
    /// To the versions available when pcluster was released
    Release,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum InstallerChoice {
    /// uv if it is installed, else the environment's pip
    #[default]
    Auto,
    Uv,
    Pip,
}

/// How the real pcluster was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundBy {
    Flag,
    Variable,
    Config,
    /// Next to the shim, which `install --venv` put in place of the real pcluster.
    #[serde(rename = "kept")]
    Replaced,
    Path,
    /// Next to `pcluster-preflight`, which was called by its path.
    Beside,
    /// `preflight check --all` found the real pcluster in a place where environments are kept.
    Search,
}

impl FoundBy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "--real",
            Self::Variable => env_vars::REAL,
            Self::Config => "config.yaml's real",
            Self::Replaced => "install.sh --venv",
            Self::Path => "PATH",
            Self::Beside => "the path of pcluster-preflight",
            Self::Search => "--all",
        }
    }
}
