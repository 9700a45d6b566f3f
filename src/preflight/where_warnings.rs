//! What `preflight where` warns of.

use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::settings::config_path;
use crate::environment::locate::{Candidate, NAME, REPLACED_LAUNCHER, Real, Search, Standing};
use crate::repair::overlay;
use crate::system::trust;

#[derive(Debug, Serialize)]
pub struct Warning {
    pub(crate) id: &'static str,
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: String,
}

/// What lies in the program's places and is not read.
pub(crate) fn passed_over() -> impl Iterator<Item = Warning> {
    trust::passed_over(config_path()).into_iter().map(|(path, why)| Warning {
        id: "passed-over",
        message: format!("{} {why}; it is not read", path.display()),
        hint: format!("make it your own, and run `chmod go-w {}`", path.display()),
    })
}

pub(crate) fn stale_overlay() -> Warning {
    Warning {
        id: "stale-overlay",
        message: format!("The repair kept beside the environment is {}.", overlay::STALE),
        hint: format!("{}.", overlay::RENEW),
    }
}

pub(crate) fn bypass(first: Option<&Candidate>, shim: Option<&Path>) -> Warning {
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
pub(crate) fn stale_hash(search: &Search, first: Option<&Candidate>, own: Option<&Path>) -> Option<Warning> {
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
pub(crate) fn overwritten(search: &Search, candidates: &[Candidate], own: Option<&Path>) -> Vec<Warning> {
    let mut places: Vec<PathBuf> = Vec::new();
    let beside_us = own.map(|own| own.with_file_name(NAME));
    for place in candidates.iter().map(|candidate| candidate.path.clone()).chain(beside_us) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let stale = |place: &PathBuf| {
        place.with_file_name(REPLACED_LAUNCHER).symlink_metadata().is_ok()
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

pub(crate) fn looped(path: &Path) -> Warning {
    Warning {
        id: "looped",
        message: format!("{} starts the shim again, and is passed over.", path.display()),
        hint: "Take it off PATH, or name the real pcluster in PCLUSTER_SHIM_REAL.".into(),
    }
}

/// The entries of PATH up to the real pcluster where others than the user could put a program.
pub(crate) fn entries(search: &Search, real: Option<&Real>) -> Vec<Warning> {
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
