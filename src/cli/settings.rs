//! config.yaml and the variables → [`Settings`]; a flag takes precedence over a variable, and a variable
//! over the file.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::error::Error;
use crate::model::env_vars;
use crate::model::options::{InstallerChoice, Mode, Strategy};
use crate::system::{dirs, trust};
use crate::text::printable::{lossy, name_of};
use crate::text::yaml::{self, Scalar};

/// The value of the setting `timeout`.
#[derive(Debug)]
struct Seconds(Duration);

impl Seconds {
    const ACCEPTED: &str = "a whole number of seconds, 1 to 86400";

    /// One day: no check needs more, and adding a day to a point in time does not overflow.
    const MAX: u64 = 24 * 60 * 60;

    fn new(seconds: u64) -> Option<Self> {
        (1..=Self::MAX).contains(&seconds).then(|| Self(Duration::from_secs(seconds)))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        yaml::read_scalar(from, Self::ACCEPTED, |scalar| match scalar {
            Scalar::Number(seconds) => Self::new(seconds).ok_or(None),
            _ => Err(None),
        })
    }
}

/// The contents of config.yaml.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of settings such as `mode: block`")]
struct ConfigFile {
    mode: Option<Mode>,
    real: Option<PathBuf>,
    strict: Option<bool>,
    timeout: Option<Seconds>,
    installer: Option<InstallerChoice>,
    strategy: Option<Strategy>,
    aws: Option<bool>,
    ignore: Option<Vec<String>>,
    advisories: Option<Vec<PathBuf>>,
}

/// The source of a setting's value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    #[default]
    Default,
    File,
    Variable,
    Flag,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Origins {
    mode: Origin,
    strict: Origin,
    timeout: Origin,
    installer: Origin,
    strategy: Origin,
    aws: Origin,
    ignore: Origin,
    advisories: Origin,
}

/// A setting as `preflight where` lists it.
#[derive(Debug, Serialize)]
pub struct ListedSetting {
    #[serde(skip)]
    pub name: &'static str,
    /// The value, in the form that it has in config.yaml.
    pub value: Value,
    pub origin: Origin,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    pub mode: Mode,
    /// The real pcluster that config.yaml names. The variable `PCLUSTER_SHIM_REAL` does not change this
    /// field: [`crate::environment::locate::Search`] reads the variable.
    pub real: Option<PathBuf>,
    pub strict: bool,
    /// The time limit for one child process of a check.
    pub timeout: Duration,
    pub installer: InstallerChoice,
    pub strategy: Strategy,
    /// Whether a check asks AWS about the parent image, components and subnet of the configuration.
    pub aws: bool,
    /// The ids of warnings and infos that are counted but not reported.
    pub ignore: Vec<String>,
    /// Extra advisory files.
    pub advisories: Vec<PathBuf>,
    origins: Origins,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            real: None,
            strict: false,
            timeout: Duration::from_secs(120),
            installer: InstallerChoice::default(),
            strategy: Strategy::default(),
            aws: false,
            ignore: Vec::new(),
            advisories: Vec::new(),
            origins: Origins::default(),
        }
    }
}

/// Sets a value and its origin, if there is a value.
fn take<T>(value: Option<T>, origin: Origin, setting: &mut T, its_origin: &mut Origin) {
    if let Some(value) = value {
        (*setting, *its_origin) = (value, origin);
    }
}

impl Settings {
    /// Reads the settings from config.yaml and the variables. An invalid file sets nothing, and an invalid
    /// variable is ignored. The errors are returned too.
    pub fn read() -> (Self, Vec<Error>) {
        let mut errors = Vec::new();
        let mut settings = Self::default();
        match read_file() {
            Ok(file) => settings.take_file(file),
            Err(error) => errors.push(error),
        }
        settings.take_variables(&mut errors);
        (settings, errors)
    }

    /// The value that is used instead of an invalid variable, with its source: `warn, from config.yaml`.
    pub fn describe_value_of(&self, variable: &str) -> String {
        let (value, origin) = match variable {
            env_vars::MODE => (name_of(self.mode), self.origins.mode),
            env_vars::STRICT => (u8::from(self.strict).to_string(), self.origins.strict),
            _ => (self.timeout.as_secs().to_string(), self.origins.timeout),
        };
        let origin = if origin == Origin::File { "from config.yaml" } else { "the default" };
        format!("{value}, {origin}")
    }

    /// Reads the settings from config.yaml, but not from the variables. An invalid file sets nothing.
    pub fn read_file_alone() -> Self {
        let mut settings = Self::default();
        settings.take_file(read_file().unwrap_or_default());
        settings
    }

    /// Reads the settings from the text of a config.yaml. Variables do not count.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        settings.take_file(parse_file(text)?);
        Ok(settings)
    }

    fn take_file(&mut self, file: ConfigFile) {
        let (from, origins) = (Origin::File, &mut self.origins);
        self.real = file.real;
        take(file.mode, from, &mut self.mode, &mut origins.mode);
        take(file.strict, from, &mut self.strict, &mut origins.strict);
        let timeout = file.timeout.map(|seconds| seconds.0);
        take(timeout, from, &mut self.timeout, &mut origins.timeout);
        take(file.installer, from, &mut self.installer, &mut origins.installer);
        take(file.strategy, from, &mut self.strategy, &mut origins.strategy);
        take(file.aws, from, &mut self.aws, &mut origins.aws);
        take(file.ignore, from, &mut self.ignore, &mut origins.ignore);
        take(file.advisories, from, &mut self.advisories, &mut origins.advisories);
    }

    fn take_variables(&mut self, errors: &mut Vec<Error>) {
        let (from, origins) = (Origin::Variable, &mut self.origins);
        let mode =
            read_variable(env_vars::MODE, Mode::ACCEPTED, |text| Mode::parse(&text.to_lowercase()), errors);
        take(mode, from, &mut self.mode, &mut origins.mode);
        let flag = |text: &str| match text {
            "1" | "true" | "yes" => Some(true),
            "0" | "false" | "no" => Some(false),
            _ => None,
        };
        let strict = read_variable(env_vars::STRICT, "1, 0", flag, errors);
        take(strict, from, &mut self.strict, &mut origins.strict);
        let seconds = |text: &str| text.parse().ok().and_then(Seconds::new);
        let timeout =
            read_variable(env_vars::TIMEOUT, Seconds::ACCEPTED, seconds, errors).map(|seconds| seconds.0);
        take(timeout, from, &mut self.timeout, &mut origins.timeout);
    }

    /// Lists every setting with its effective value. `real` comes from the search for the real pcluster: only
    /// that search knows the flag and the variable.
    pub fn list(&self, real: (Option<&Path>, Origin)) -> Vec<ListedSetting> {
        let origins = &self.origins;
        let (file, is_named) = (config_path(), is_config_named());
        [
            ("mode", json!(self.mode), origins.mode),
            ("real", json!(real.0.map(lossy)), real.1),
            ("strict", json!(self.strict), origins.strict),
            ("timeout", json!(self.timeout.as_secs()), origins.timeout),
            ("installer", json!(self.installer), origins.installer),
            ("strategy", json!(self.strategy), origins.strategy),
            ("aws", json!(self.aws), origins.aws),
            ("ignore", json!(self.ignore), origins.ignore),
            (
                "advisories",
                json!(self.advisories.iter().map(|file| lossy(file)).collect::<Vec<_>>()),
                origins.advisories,
            ),
            (
                "config",
                json!(file.as_deref().map(lossy)),
                if is_named { Origin::Variable } else { Origin::Default },
            ),
        ]
        .map(|(name, value, origin)| ListedSetting { name, value, origin })
        .into()
    }
}

/// Reads a setting from a variable; an empty variable counts as not set.
fn read_variable<T>(
    name: &'static str,
    accepted: &'static str,
    parse: impl Fn(&str) -> Option<T>,
    errors: &mut Vec<Error>,
) -> Option<T> {
    let value = env::var_os(name).filter(|value| !value.is_empty())?;
    let parsed = value.to_str().and_then(parse);
    if parsed.is_none() {
        errors.push(Error::BadVariable { name, value: value.to_string_lossy().into_owned(), accepted });
    }
    parsed
}

/// The config file that is used, whether or not it exists.
pub fn config_path() -> Option<PathBuf> {
    match env::var_os(env_vars::CONFIG).filter(|value| !value.is_empty()) {
        Some(named) => Some(named.into()),
        None => dirs::config().map(|directory| directory.join("config.yaml")),
    }
}

/// Whether `PCLUSTER_SHIM_CONFIG` names the config file.
fn is_config_named() -> bool {
    env::var_os(env_vars::CONFIG).is_some_and(|value| value != OsStr::new(""))
}

fn read_file() -> Result<ConfigFile, Error> {
    // By convention, the path /dev/null means that no file is wanted.
    let Some(path) = config_path().filter(|path| path != Path::new("/dev/null")) else {
        return Ok(ConfigFile::default());
    };
    let is_named = is_config_named();
    let bad =
        |message: &dyn fmt::Display| Error::BadFile { file: path.clone(), message: message.to_string() };
    let text = match trust::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if is_absent(&error) && !is_named => return Ok(ConfigFile::default()),
        Err(error) => return Err(trust::unreadable(&path, &error)),
    };
    let mut file = parse_file(&text).map_err(|error| bad(&error))?;
    // A relative path in the list `advisories` is relative to the directory of the config file.
    let base = path.parent().map(PathBuf::from).unwrap_or_default();
    for advisories in file.advisories.iter_mut().flatten() {
        *advisories = base.join(&advisories);
    }
    Ok(file)
}

/// An empty text sets nothing.
fn parse_file(text: &str) -> Result<ConfigFile, String> {
    yaml::parse::<Option<ConfigFile>>(text).map(Option::unwrap_or_default)
}

/// Whether the error means that the file does not exist. The error is `NotADirectory` if HOME is a file,
/// such as /dev/null.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_line_and_key() {
        let error = |text: &str| serde_yaml::from_str::<ConfigFile>(text).unwrap_err().to_string();
        assert!(error("mode: warn\nstrikt: true\n").contains("`strikt`"), "{}", error("strikt: 1"));
        assert!(error("mode: warn\nstrikt: true\n").contains("line 2"));
        assert!(error("mode: loud\n").contains("loud"));
        assert!(error("timeout: -1\n").contains("timeout"));
    }

    #[test]
    fn off_is_a_mode_in_both_versions_of_yaml() {
        let mode = |text: &str| serde_yaml::from_str::<ConfigFile>(text).unwrap().mode;
        assert_eq!(mode("mode: off"), Some(Mode::Off));
        assert_eq!(mode("mode: false"), Some(Mode::Off));
        assert_eq!(mode("mode: 'off'"), Some(Mode::Off));
    }
}
