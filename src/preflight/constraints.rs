//! `preflight constraints`: no Python is started, and no network asked.

use std::path::Path;
use std::str::FromStr as _;

use pep440_rs::Version;
use serde_json::json;

use crate::cli::args::{Common, Format};
use crate::environment::launcher::Launcher;
use crate::environment::packages::find_distribution;
use crate::error::{Abort, Error};
use crate::outcome::Outcome;
use crate::preflight::context::{read_all_advisories, read_settings, start_search};
use crate::report;
use crate::rules::advisories::constraints;
use crate::text::package_name::PCLUSTER;
use crate::text::printable::escape;

/// Prints the constraints for a release, or for the one that is found.
pub fn run(version: Option<&str>, python: Option<&str>, common: &Common) -> Result<Outcome, Abort> {
    let settings = read_settings()?;
    let advisories = read_all_advisories(&settings)?;
    let version = match version {
        Some(version) => version.to_owned(),
        None => find_installed(&start_search(common, &settings).real()?.path)?,
    };
    let version =
        read_version(&version, "VERSION", "a release of aws-parallelcluster from 3.0.0 on, such as 3.13.2")?;
    let python = python
        .map(|python| read_version(python, "--python", "a release of Python 3, such as 3.12"))
        .transpose()?;
    if python.as_ref().is_some_and(|python| !python.starts_with("3.")) {
        let (name, accepted) = ("--python", "a release of Python 3, such as 3.12");
        return Err(Error::BadVariable { name, value: python.unwrap_or_default(), accepted }.into());
    }
    let python = python.as_deref();
    let lines = constraints::derive(&advisories, &version, python);
    let stdout = match common.format {
        Format::Json => report::format_json(&json!({
            "schemaVersion": 1, "pcluster": version, "python": python, "constraints": lines,
        })),
        _ => format_file(&version, python, &lines),
    };
    Ok(Outcome::success(stdout))
}

fn format_file(version: &str, python: Option<&str>, lines: &[String]) -> String {
    let python = python.map(|python| format!(" on Python {python}")).unwrap_or_default();
    let shim = env!("CARGO_PKG_VERSION");
    let head = format!("# Constraints for {PCLUSTER}=={version}{python}, by pcluster-shim {shim}\n");
    escape(&(head + &lines.iter().map(|line| line.clone() + "\n").collect::<String>())).into_owned()
}

/// Reads a version of PEP 440's from 3 on, and normalises it.
fn read_version(value: &str, name: &'static str, accepted: &'static str) -> Result<String, Error> {
    let version = Version::from_str(value).ok().filter(|version| *version >= Version::new([3]));
    version.map(|version| version.to_string()).ok_or_else(|| Error::BadVariable {
        name,
        value: value.to_owned(),
        accepted,
    })
}

/// The release in the environment of a console script, by the files beside its interpreter.
fn find_installed(path: &Path) -> Result<String, Error> {
    let unknown = || Error::BadVariable {
        name: "VERSION",
        value: String::new(),
        accepted: "a release such as 3.13.2; it is not known without starting the pcluster that is found",
    };
    let Ok(Launcher::ConsoleScript(script)) = Launcher::read(path) else { return Err(unknown()) };
    let interpreter = script.interpreter(path.parent().unwrap_or(Path::new("/")));
    let prefix = interpreter.and_then(|(program, _)| Some(program.parent()?.parent()?.to_owned()));
    let libraries = prefix.map(|prefix| prefix.join("lib")).ok_or_else(unknown)?;
    let mut sites: Vec<_> = libraries.read_dir().into_iter().flatten().flatten().collect();
    sites.retain(|entry| entry.file_name().as_encoded_bytes().starts_with(b"python3"));
    let sites: Vec<_> = sites.iter().map(|entry| entry.path().join("site-packages")).collect();
    find_distribution(&sites, PCLUSTER).map(|found| found.version).ok_or_else(unknown)
}
