//! `preflight where`: the search for the real pcluster as a person wants to read it. Every
//! candidate on PATH, why it was or was not taken, and what is dangerous about the way there.

use std::env;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use crate::config;
use crate::error::Error;
use crate::locate::{Candidate, KEPT, NAME, Real, Search, Standing, own_executable};
use crate::report::{Shim, wrapped};
use crate::target::Target;

/// One look at PATH.
#[derive(Debug)]
pub struct Where {
    own: Option<PathBuf>,
    real: Result<Real, Error>,
    rows: Vec<Row>,
    warnings: Vec<Warning>,
    bypassed: bool,
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

impl Where {
    #[must_use]
    pub fn look(search: &Search) -> Self {
        let real = search.real();
        let candidates: Vec<Candidate> = search.candidates().collect();
        let first = candidates.iter().find(|candidate| candidate.standing != Standing::NotAbsolute);
        let bypassed = first.is_none_or(|first| first.standing != Standing::Shim);
        let own = own_executable();
        let mut warnings = Vec::new();
        let overwritten = overwritten(search, &candidates, own.as_deref());
        if bypassed && overwritten.is_empty() {
            let shim = candidates.iter().find(|candidate| candidate.standing == Standing::Shim);
            let shim = shim.map(|shim| shim.path.as_path()).or(own.as_deref());
            warnings.push(bypass(first, shim));
        }
        warnings.extend(overwritten);
        warnings
            .extend(candidates.iter().filter(|candidate| candidate.standing == Standing::Tried).map(looped));
        warnings.extend(entries(search, real.as_ref().ok()));
        let rows = candidates.into_iter().map(|candidate| Row::new(candidate, search, &real)).collect();
        Self { own, real, rows, warnings, bypassed }
    }

    /// # Errors
    /// There is none.
    pub fn real(&self) -> Result<&Real, &Error> {
        self.real.as_ref()
    }

    /// 1: a call of `pcluster` would not come to the shim. 127: it could go no further.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match &self.real {
            Err(error) => error.exit_status(),
            Ok(_) => u8::from(self.bypassed),
        }
    }

    #[must_use]
    pub fn json(&self, shim: &Shim, target: Option<&Target>) -> Value {
        let real = self.real.as_ref().ok();
        let candidates: Vec<_> =
            self.rows.iter().map(|row| json!({"path": row.path, "standing": row.standing})).collect();
        json!({
            "schemaVersion": 1,
            "bypassed": self.bypassed,
            "shim": shim,
            "real": real.map(|real| json!({"path": real.path, "foundBy": real.found_by})),
            "interpreter": target.map(|target| &target.interpreter.executable),
            "config": config::path(),
            "candidates": candidates,
            "warnings": self.warnings,
        })
    }

    /// `python`: the interpreter, or why it is unknown.
    #[must_use]
    pub fn human(&self, python: Option<&str>) -> String {
        let own = self.own.as_deref().map_or_else(|| "?".into(), |path| path.display().to_string());
        let mut text = format!("shim     {own} ({})\n", env!("CARGO_PKG_VERSION"));
        match &self.real {
            Ok(real) => {
                let _ = writeln!(text, "real     {} (by {})", real.path.display(), real.found_by.words());
            }
            Err(_) => text += "real     none\n",
        }
        if let Some(python) = python {
            let _ = writeln!(text, "python   {python}");
        }
        if let Some(config) = config::path().filter(|path| path.exists()) {
            let _ = writeln!(text, "config   {}", config.display());
        }
        for row in &self.rows {
            let _ = writeln!(text, "on PATH  {}: {}", row.path.display(), row.standing);
        }
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

impl Row {
    fn new(candidate: Candidate, search: &Search, real: &Result<Real, Error>) -> Self {
        let real = real.as_ref().ok().map(|real| real.path.as_path());
        let standing = match candidate.standing {
            Standing::Usable if real == Some(&candidate.path) => "the real pcluster",
            Standing::Usable => "not used: it comes later",
            Standing::Shim => match search.kept_beside(&candidate.path) {
                Some(kept) if real == Some(&kept) => "a shim in place; its launcher is the real pcluster",
                Some(_) => "a shim in place; its launcher is not used",
                None if search.is_self(&candidate.path) => "this shim",
                None => "another copy of the shim",
            },
            Standing::Tried => "starts this shim again",
            Standing::NotAbsolute => "not used: the entry of PATH is not absolute",
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
        place.with_file_name(KEPT).symlink_metadata().is_ok()
            && search.standing(place) != Some(Standing::Shim)
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

fn looped(candidate: &Candidate) -> Warning {
    Warning {
        id: "looped",
        message: format!("{} starts the shim again, and is passed over.", candidate.path.display()),
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
