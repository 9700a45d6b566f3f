//! `preflight where`: the search for the real pcluster as a person wants to read it. Every
//! candidate on PATH, why it was or was not taken, and what is dangerous about the way there.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::checker::shim;
use crate::cli::args::{Common, Format};
use crate::cli::settings::{Mode, Origin, Settings, Shown, config_path};
use crate::environment::interpreter::IdentifyError;
use crate::environment::locate::{
    Candidate, CandidateStatus, FoundBy, NAME, REPLACED_LAUNCHER, Real, Search,
};
use crate::environment::packages::Packages;
use crate::environment::target::{self, Target};
use crate::error::{Abort, Error};
use crate::outcome::Outcome;
use crate::package_name::{IMAGEBUILDER, PCLUSTER, normalised};
use crate::preflight::context::{search, settings};
use crate::printable::{escape, lossy};
use crate::repair::overlay::{self, Overlay, find_overlay};
use crate::report::{self, Shim, wrapped};
use crate::system::child::ChildError;
use crate::system::{executables, trust};

/// Says which pcluster is guarded.
///
/// # Errors
/// Returns an error if settings are at fault, or a signal came.
pub fn run(common: &Common) -> Result<Outcome, Abort> {
    let settings = settings()?;
    let mut found = Where::find(&search(common, &settings), &settings);
    if let Ok(real) = found.real() {
        let cache = Cache::from_environment(false);
        let identify = |overlay| target::identify(real, overlay, settings.timeout, &cache);
        let target = identify(None);
        let overlay = target.as_ref().map_or(Overlay::None, find_overlay);
        // The launcher decides what becomes of PYTHONPATH.
        let target = match &overlay {
            Overlay::Bound(directory) => identify(Some(directory)),
            Overlay::None | Overlay::Stale => target,
        };
        match target {
            Err(IdentifyError::Child(ChildError::Interrupted(interrupted))) => {
                return Err(interrupted.into());
            }
            target => found.lead_to(target, overlay),
        }
    }
    let stdout = match common.format {
        _ if common.quiet => String::new(),
        Format::Json => report::pretty(&where_in_json(&found)),
        Format::Human => escape(&found.human()).into_owned(),
    };
    let stderr = found.real().err().map(Error::on_stderr).unwrap_or_default();
    Ok(Outcome::Exit { status: found.exit_status(), stdout, stderr })
}

/// Without a real pcluster there is something to report all the same, and it says why.
fn where_in_json(found: &Where) -> Value {
    let mut report = found.json(&shim());
    if let Err(error) = found.real() {
        report["error"] = error.json()["error"].take();
    }
    report
}

/// What was found on PATH.
#[derive(Debug)]
pub struct Where {
    own: Option<PathBuf>,
    real: Result<Real, Error>,
    /// What the real one runs in; `None` until that is known.
    target: Option<Result<Target, IdentifyError>>,
    overlay: Overlay,
    rows: Vec<Row>,
    warnings: Vec<Warning>,
    bypassed: bool,
    mode: Mode,
    strict: bool,
    settings: Vec<Shown>,
}

/// A `pcluster` on PATH.
#[derive(Debug)]
struct Row {
    path: PathBuf,
    standing: &'static str,
}

#[derive(Debug, Serialize)]
struct Warning {
    id: &'static str,
    message: String,
    /// What to do.
    hint: String,
}

/// What lies in the program's places and is not read.
fn passed_over() -> impl Iterator<Item = Warning> {
    trust::passed_over(config_path()).into_iter().map(|(path, why)| Warning {
        id: "passed-over",
        message: format!("{} {why}; it is not read", path.display()),
        hint: format!("make it your own, and run `chmod go-w {}`", path.display()),
    })
}

impl Where {
    #[must_use]
    pub fn find(search: &Search, settings: &Settings) -> Self {
        let real = search.real();
        let candidates: Vec<Candidate> = search.candidates().collect();
        let first = candidates.iter().find(|candidate| candidate.status != CandidateStatus::NotAbsolute);
        let bypassed = first.is_none_or(|first| first.status != CandidateStatus::Shim);
        let own = executables::own_executable();
        let mut warnings = Vec::new();
        let overwritten = overwritten(search, &candidates, own.as_deref());
        if bypassed && overwritten.is_empty() {
            let shim = candidates.iter().find(|candidate| candidate.status == CandidateStatus::Shim);
            let shim = shim.map(|shim| shim.path.as_path()).or(own.as_deref());
            warnings.push(bypass(first, shim));
        }
        warnings.extend(overwritten);
        warnings.extend(
            candidates
                .iter()
                .filter(|candidate| candidate.status == CandidateStatus::Tried)
                .map(|candidate| looped(&candidate.path)),
        );
        warnings.extend(stale_hash(search, first, own.as_deref()));
        warnings.extend(entries(search, real.as_ref().ok()));
        warnings.extend(passed_over());
        let rows = candidates.into_iter().map(|candidate| Row::new(candidate, search, &real)).collect();
        Self {
            own,
            real,
            target: None,
            overlay: Overlay::None,
            rows,
            warnings,
            bypassed,
            mode: settings.mode,
            strict: settings.strict,
            settings: settings.shown(find_named(search)),
        }
    }

    /// What the real one was found to run in, with the repair that is kept beside that in front. One
    /// that only starts this shim again is none.
    pub fn lead_to(&mut self, target: Result<Target, IdentifyError>, overlay: Overlay) {
        let Err(IdentifyError::Loop { tried }) = target else {
            self.target = Some(target);
            self.warnings.extend((overlay == Overlay::Stale).then(stale_overlay));
            self.overlay = overlay;
            return;
        };
        for row in self.rows.iter_mut().filter(|row| tried.contains(&row.path)) {
            row.standing = LOOPED;
        }
        self.warnings.extend(tried.iter().map(|path| looped(path)));
        self.real = Err(Error::Loop { tried });
    }

    /// # Errors
    /// There is none.
    pub fn real(&self) -> Result<&Real, &Error> {
        self.real.as_ref()
    }

    /// 1: a `build-image` from here would not be guarded: it would not come to the shim, or come to
    /// it again and again, or the guard is switched off. 127: there is nothing that it could go on to.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match &self.real {
            Err(Error::Loop { .. }) => 1,
            Err(error) => error.exit_status(),
            Ok(_) => u8::from(self.bypassed || self.mode == Mode::Off),
        }
    }

    /// What a `build-image` from here would do; in strict mode with a second line.
    fn consequences(&self) -> Vec<&'static str> {
        const STRICT: &str = "build-image is stopped where a check cannot run (strict)";
        let is_unknown = matches!(self.target, Some(Err(_)));
        let consequence = match self.mode {
            _ if self.real.is_err() => "build-image ends in an error: there is no real pcluster",
            _ if self.bypassed => "build-image is not guarded: the shim is not first on PATH",
            Mode::Off => "build-image is not checked (mode off)",
            Mode::Block | Mode::Fix if is_unknown && self.strict => return vec![STRICT],
            _ if is_unknown => "build-image goes on unchecked, with a warning",
            Mode::Warn => "build-image only warns where its image would be lost (mode warn)",
            Mode::Block => "build-image is stopped where its image would be lost (mode block)",
            Mode::Fix => "an environment that would lose the image is repaired first (mode fix)",
        };
        let is_strict =
            self.strict && matches!(self.mode, Mode::Block | Mode::Fix) && self.exit_status() == 0;
        [Some(consequence), is_strict.then_some(STRICT)].into_iter().flatten().collect()
    }

    #[must_use]
    pub fn json(&self, shim: &Shim) -> Value {
        let real = self.real.as_ref().ok();
        let target = self.target.as_ref().and_then(|target| target.as_ref().ok());
        let packages = target.map(|target| {
            let versions = installed(target).into_iter();
            versions.map(|(name, version)| (normalised(name), version)).collect::<BTreeMap<_, _>>()
        });
        let candidates: Vec<_> =
            self.rows.iter().map(|row| json!({"path": lossy(&row.path), "standing": row.standing})).collect();
        json!({
            "schemaVersion": 1,
            "bypassed": self.bypassed,
            "shim": shim,
            "real": real.map(|real| json!({"path": lossy(&real.path), "foundBy": real.found_by})),
            "interpreter": target.map(|target| lossy(&target.interpreter.executable)),
            "pythonVersion": target.map(|target| &target.interpreter.version),
            "packages": packages,
            "overlay": match &self.overlay {
                Overlay::None => Value::Null,
                Overlay::Bound(directory) => json!({"path": lossy(directory), "stale": false}),
                Overlay::Stale => json!({"path": null, "stale": true}),
            },
            "config": config_path().as_deref().map(lossy),
            "guarded": self.exit_status() == 0,
            "consequence": self.consequences().join("; "),
            "settings": self.settings.iter().map(|shown| (shown.name, shown)).collect::<BTreeMap<_, _>>(),
            "candidates": candidates,
            "warnings": self.warnings,
        })
    }

    #[must_use]
    pub fn human(&self) -> String {
        let own = self.own.as_deref().map_or_else(|| "?".into(), |path| path.display().to_string());
        let mut text = format!("shim     {own} ({})\n", env!("CARGO_PKG_VERSION"));
        match &self.real {
            Ok(real) => {
                let _ = writeln!(text, "real     {} (by {})", real.path.display(), real.found_by.words());
            }
            Err(_) => text += "real     none\n",
        }
        match &self.target {
            Some(Ok(target)) => text += &what_it_runs_in(target),
            Some(Err(reason)) => {
                let _ = writeln!(text, "python   unknown: {reason}");
            }
            None => {}
        }
        if let Overlay::Bound(directory) = &self.overlay {
            let what = "a repair kept beside the environment, in front of its packages";
            let _ = writeln!(text, "overlay  {}\n         {what}", directory.display());
        }
        let _ = writeln!(text, "guard    {}", self.consequences().join("\n         "));
        for row in &self.rows {
            let _ = writeln!(text, "on PATH  {}: {}", row.path.display(), row.standing);
        }
        text += "settings\n";
        self.settings.iter().for_each(|shown| text += &setting_rows(shown));
        for warning in &self.warnings {
            text.push('\n');
            for line in wrapped(&warning.message, 80).into_iter().chain(wrapped(&warning.hint, 80)) {
                text += &line;
                text.push('\n');
            }
        }
        text
    }
}

/// The real pcluster that is named, and by what.
fn find_named(search: &Search) -> (Option<&Path>, Origin) {
    let Some((path, by)) = search.named() else { return (None, Origin::Default) };
    let origin = match by {
        FoundBy::Flag => Origin::Flag,
        FoundBy::Variable => Origin::Variable,
        FoundBy::Config => Origin::File,
        FoundBy::Replaced | FoundBy::Path => Origin::Default,
    };
    (Some(path), origin)
}

/// The name, the origin and the value; a line for each of several values.
fn setting_rows(shown: &Shown) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let values: Vec<String> = match &shown.value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().map(word).collect(),
        value => vec![word(value)],
    };
    let absent = shown.name == "config" && values.iter().any(|path| !Path::new(path).exists());
    let values = if values.is_empty() { "-".into() } else { values.join(&format!("\n{:23}", "")) };
    let absent = if absent { " (absent)" } else { "" };
    format!("  {:<12}{:<9}{values}{absent}\n", shown.name, shown.origin.word())
}

fn stale_overlay() -> Warning {
    Warning {
        id: "stale-overlay",
        message: format!("The repair kept beside the environment is {}.", overlay::STALE),
        hint: format!("{}.", overlay::RENEW),
    }
}

fn what_it_runs_in(target: &Target) -> String {
    let interpreter = &target.interpreter;
    let mut text = format!(
        "python   {} ({}, {})\n",
        interpreter.executable.display(),
        interpreter.version,
        target.launcher
    );
    let installed: Vec<_> =
        installed(target).into_iter().map(|(name, version)| format!("{name} {version}")).collect();
    if !installed.is_empty() {
        let _ = writeln!(text, "packages {}", installed.join(", "));
    }
    text
}

/// The distributions that a person asks for first, and their versions.
fn installed(target: &Target) -> Vec<(&'static str, String)> {
    let version = |name| Packages::find(&target.interpreter.sys_path, name).map(|found| found.version);
    [PCLUSTER, IMAGEBUILDER].into_iter().filter_map(|name| Some((name, version(name)?))).collect()
}

const LOOPED: &str = "starts this shim again";

impl Row {
    fn new(candidate: Candidate, search: &Search, real: &Result<Real, Error>) -> Self {
        let real = real.as_ref().ok().map(|real| real.path.as_path());
        let standing = match candidate.status {
            CandidateStatus::Usable if real == Some(&candidate.path) => "the real pcluster",
            CandidateStatus::Usable => "not used: it comes later",
            CandidateStatus::Shim => match search.replaced_launcher_beside(&candidate.path) {
                Some(kept) if real == Some(&kept) => "a shim in place; its launcher is the real pcluster",
                Some(_) => "a shim in place; its launcher is not used",
                None if search.is_self(&candidate.path) => "this shim",
                None => "another copy of the shim",
            },
            CandidateStatus::Tried => LOOPED,
            CandidateStatus::NotAbsolute => "not used: the entry of PATH is not absolute",
        };
        Self { path: candidate.path, standing }
    }
}

fn bypass(first: Option<&Candidate>, shim: Option<&Path>) -> Warning {
    let Some(first) = first.and_then(|first| first.path.parent()) else {
        let message = "The shim is not on PATH, so build-image is not guarded.".into();
        return Warning { id: "not-on-path", message, hint: put_first(shim) };
    };
    let activated = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(env::var_os)
        .any(|directory| Path::new(&directory).join("bin") == first);
    if activated {
        let environment = first.parent().unwrap_or(first).display();
        let message = format!(
            "The environment {environment} is active and comes before the shim: scripts that run \
             pcluster from here are not guarded. An interactive shell with install.sh's function is."
        );
        let hint = format!("`install.sh --venv {environment}` guards the environment itself.");
        return Warning { id: "shadowed-by-environment", message, hint };
    }
    let message = format!(
        "{} comes before the shim on PATH, so build-image is not guarded.",
        first.join(NAME).display()
    );
    Warning { id: "shadowed", message, hint: put_first(shim) }
}

/// We were called by name, and PATH gives that name to another program: a shell remembers where it
/// once found us. The other way round, where it remembers the real pcluster, we are never called.
fn stale_hash(search: &Search, first: Option<&Candidate>, own: Option<&Path>) -> Option<Warning> {
    let by_name = env::args_os().next().is_some_and(|name| name == NAME);
    let first = first.filter(|first| by_name && !search.is_self(&first.path))?;
    let own = own.unwrap_or(Path::new("this shim")).display();
    Some(Warning {
        id: "stale-hash",
        message: format!(
            "This shell runs {own}, though PATH now has {} first: it remembers where it found pcluster.",
            first.path.display()
        ),
        hint: "Run `hash -r` (in zsh `rehash`), or open a new shell.".into(),
    })
}

fn put_first(shim: Option<&Path>) -> String {
    let directory = shim.and_then(Path::parent);
    let env = directory.and_then(Path::parent).map(|prefix| prefix.join("env")).filter(|env| env.is_file());
    match (env, directory) {
        (Some(env), _) => format!("Open a new shell, or run `. {}`.", env.display()),
        (None, Some(directory)) => format!("Put {} first on PATH.", directory.display()),
        (None, None) => "Put the shim's directory first on PATH.".into(),
    }
}

/// An environment that was guarded in place until pip or uv wrote its own launcher again.
fn overwritten(search: &Search, candidates: &[Candidate], own: Option<&Path>) -> Vec<Warning> {
    let mut places: Vec<PathBuf> = Vec::new();
    let beside_us = own.map(|own| own.with_file_name(NAME));
    for place in candidates.iter().map(|candidate| candidate.path.clone()).chain(beside_us) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let stale = |place: &PathBuf| {
        place.with_file_name(REPLACED_LAUNCHER).symlink_metadata().is_ok()
            && search.classify(place) != Some(CandidateStatus::Shim)
    };
    places
        .into_iter()
        .filter(stale)
        .map(|place| {
            let bin = place.parent().unwrap_or(Path::new("/"));
            let environment = bin.parent().unwrap_or(bin).display();
            let script = bin.join(".pcluster-shim/install.sh");
            let script =
                if script.is_file() { format!("sh {}", script.display()) } else { "install.sh".into() };
            Warning {
                id: "overwritten",
                message: format!(
                    "{} was guarded in place, and has been overwritten or removed since, as pip and uv \
                 do: build-image is not guarded there.",
                    place.display()
                ),
                hint: format!("`{script} --venv {environment}` guards it again."),
            }
        })
        .collect()
}

fn looped(path: &Path) -> Warning {
    Warning {
        id: "looped",
        message: format!("{} starts the shim again, and is passed over.", path.display()),
        hint: "Take it off PATH, or name the real pcluster in PCLUSTER_SHIM_REAL.".into(),
    }
}

/// The entries of PATH up to the real pcluster where others than the user could put a program.
fn entries(search: &Search, real: Option<&Real>) -> Vec<Warning> {
    let mut warnings: Vec<Warning> = Vec::new();
    for entry in search.entries() {
        let shown = entry.display();
        let last = entry.is_absolute() && real.is_some_and(|real| real.path.starts_with(&entry));
        let warning = if entry.as_os_str().is_empty() {
            Some(relative("PATH has an empty entry, which means the current directory".into()))
        } else if !entry.is_absolute() {
            Some(relative(format!("PATH has {shown}, which depends on the current directory")))
        } else if is_world_writable(&entry) {
            Some(Warning {
                id: "world-writable-entry",
                message: format!("Everybody may write into {shown}, which is on PATH."),
                hint: format!("Run `chmod o-w {shown}`, or take it out of PATH."),
            })
        } else {
            None
        };
        let new = |warning: &Warning| warnings.iter().all(|before| before.message != warning.message);
        warnings.extend(warning.filter(new).into_iter().collect::<Vec<_>>());
        if last {
            break;
        }
    }
    warnings
}

fn relative(what: String) -> Warning {
    let message = what + ": a shell runs whatever program lies there. The shim does not.";
    Warning { id: "relative-entry", message, hint: "Take it out of PATH.".into() }
}

fn is_world_writable(directory: &Path) -> bool {
    directory.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.permissions().mode() & 0o002 != 0)
}
