//! `preflight constraints`. The command starts no Python and makes no network requests.

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
use crate::rules::advisories::releases::{self, Knowledge};
use crate::text::package_name::PCLUSTER;
use crate::text::printable::escape;

/// Prints the constraints for the given release, or for the installed one.
pub fn run(
    version: Option<&str>,
    python: Option<&str>,
    pin: bool,
    common: &Common,
) -> Result<Outcome, Abort> {
    let settings = read_settings()?;
    let advisories = read_all_advisories(&settings)?;
    let is_named = version.is_some();
    let version = match version {
        Some(version) => version.to_owned(),
        None => find_installed(&start_search(common, &settings).real()?.path)?,
    };
    let version =
        read_version(&version, "VERSION", "a release of aws-parallelcluster from 3.0.0 on, such as 3.13.2")?;
    let python = python
        .map(|python| read_version(python, "--python", "a release of Python 3, such as 3.12"))
        .transpose()?
        .map(|python| python.to_string());
    if python.as_ref().is_some_and(|python| !python.starts_with("3.")) {
        let (name, accepted) = ("--python", "a release of Python 3, such as 3.12");
        return Err(Error::BadVariable { name, value: python.unwrap_or_default(), accepted }.into());
    }
    let python = python.as_deref();
    refuse_impossible(&version, python, is_named)?;
    let mut lines = constraints::derive(&advisories, &version.to_string(), python);
    lines.extend(pin.then(|| format!("{PCLUSTER}=={version}")));
    let stdout = match common.format {
        Format::Json => report::format_json(&json!({
            "schemaVersion": 1, "pcluster": version.to_string(), "python": python, "constraints": lines,
        })),
        _ => format_file(&version, python, &lines),
    };
    Ok(Outcome::success(stdout))
}

fn format_file(version: &Version, python: Option<&str>, lines: &[String]) -> String {
    let python = python.map(|python| format!(" on Python {python}")).unwrap_or_default();
    let shim = env!("CARGO_PKG_VERSION");
    let head = format!("# Constraints for {PCLUSTER}=={version}{python}, by pcluster-shim {shim}\n");
    let note = match releases::look_up(version) {
        Knowledge::Newer => format!(
            "# This release is newer than this version of pcluster-shim, which knows releases up to {}.\n",
            releases::newest()
        ),
        Knowledge::Unmeasured => "# This release has not been tested.\n".into(),
        _ => String::new(),
    };
    escape(&(head + &note + &lines.iter().map(|line| line.clone() + "\n").collect::<String>())).into_owned()
}

/// Refuses a release that no constraints can make work: one that was never published, or one that does not
/// support this Python. An installed release may be somebody's own build, so it need not have been published.
fn refuse_impossible(release: &Version, python: Option<&str>, is_named: bool) -> Result<(), Error> {
    if is_named && !release.any_prerelease() && releases::look_up(release) == Knowledge::Unpublished {
        let message = format!("{PCLUSTER} {release} was never published");
        return Err(Error::Failed { message, next: name_neighbours(release) });
    }
    let Some(python) = python.filter(|python| !releases::takes_python(release, python)) else {
        return Ok(());
    };
    let required = releases::required_python(release);
    let message = format!("{PCLUSTER} {release} needs Python {required} or later, not {python}");
    let newest =
        releases::read_dates().map(|(release, _)| release).filter_map(|text| Version::from_str(text).ok());
    let newest = newest.filter(|release| releases::takes_python(release, python)).max();
    let other = newest.map(|newest| format!(", or {PCLUSTER} {newest} or earlier")).unwrap_or_default();
    Err(Error::Failed { message, next: format!("Use Python {required} or later{other}.") })
}

/// The releases before and after a version.
fn name_neighbours(version: &Version) -> String {
    let releases = || releases::read_dates().filter_map(|(release, _)| Version::from_str(release).ok());
    let before = releases().filter(|release| release < version).max();
    let after = releases().filter(|release| release > version).min();
    let names: Vec<_> = before.into_iter().chain(after).map(|release| release.to_string()).collect();
    format!("The nearest releases are {}.", names.join(" and "))
}

/// Reads a PEP 440 version. Versions before 3 are refused.
fn read_version(value: &str, name: &'static str, accepted: &'static str) -> Result<Version, Error> {
    let version = Version::from_str(value).ok().filter(|version| *version >= Version::new([3]));
    version.ok_or_else(|| Error::BadVariable { name, value: value.to_owned(), accepted })
}

/// The release of aws-parallelcluster in the environment of a console script, according to the package
/// metadata in that environment.
fn find_installed(path: &Path) -> Result<String, Error> {
    let unknown = || Error::NoVersion;
    let Ok(Launcher::ConsoleScript(script)) = Launcher::read(path) else { return Err(unknown()) };
    let interpreter = script.interpreter(path.parent().unwrap_or(Path::new("/")));
    let prefix = interpreter.and_then(|(program, _)| Some(program.parent()?.parent()?.to_owned()));
    let libraries = prefix.map(|prefix| prefix.join("lib")).ok_or_else(unknown)?;
    let mut sites: Vec<_> = libraries.read_dir().into_iter().flatten().flatten().collect();
    sites.retain(|entry| entry.file_name().as_encoded_bytes().starts_with(b"python3"));
    let sites: Vec<_> = sites.iter().map(|entry| entry.path().join("site-packages")).collect();
    find_distribution(&sites, PCLUSTER).map(|found| found.version).ok_or_else(unknown)
}
