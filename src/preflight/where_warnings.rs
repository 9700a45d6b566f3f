//! What `preflight where` warns about: a shim that is bypassed, files that are ignored, and PATH entries that
//! depend on the current directory.

use std::env;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::environment::locate::{
    Candidate, CandidateStatus, NAME, REPLACED_LAUNCHER, Search, is_environment,
};
use crate::error::advise_to_take;
use crate::preflight::where_calls::{Calls, activate_line, install_command, installed_prefix};
use crate::repair::overlay;
use crate::system::trust;
use crate::text::printable::{capitalize, lossy, quote_for_shell};

#[derive(Debug, Serialize)]
pub struct Warning {
    pub(crate) id: &'static str,
    pub(crate) message: String,
    /// The next step for the user.
    pub(crate) hint: String,
}

/// Warns about the shim's files and directories that are ignored because another user could have
/// written them.
pub(crate) fn warn_of_passed_over(paths: impl IntoIterator<Item = PathBuf>) -> impl Iterator<Item = Warning> {
    trust::passed_over(paths).into_iter().map(|refused| Warning {
        id: "passed-over",
        message: format!("{} {}; it was ignored.", refused.path.display(), refused.why),
        hint: advise_to_take(&refused.place),
    })
}

pub(crate) fn warn_of_stale_overlay() -> Warning {
    Warning {
        id: "stale-overlay",
        message: format!("The repair that is kept outside the environment is {}.", overlay::STALE),
        hint: format!("{}.", capitalize(overlay::RENEW)),
    }
}

/// Warns that a wheel has installed `pcluster-preflight`, and that there is no guard on PATH: a guard was
/// installed only after this shell was started, or not at all. `real` is the pcluster of the environment that
/// could be guarded.
pub(crate) fn warn_of_no_guard(search: &Search, real: Option<&Path>) -> Warning {
    if let Some(line) = installed_prefix(search).and_then(|prefix| activate_line(&prefix)) {
        let message = "The guard is installed, but this shell was started before that.".into();
        return Warning { id: "not-on-path", message, hint: format!("Open a new shell, or run `{line}`.") };
    }
    let install = install_command();
    let environment = real.and_then(Path::parent).filter(|programs| is_environment(programs));
    let environment = environment.and_then(Path::parent).map(|path| quote_for_shell(&lossy(path)));
    Warning {
        id: "not-installed",
        message: "The guard is not installed: only the command pcluster-preflight is.".into(),
        hint: format!(
            "Run `{install}` to guard your shells, or `{install} --venv {}` to guard one environment.",
            environment.as_deref().unwrap_or("DIR")
        ),
    }
}

pub(crate) fn warn_of_bypass(calls: &Calls, shim: Option<&Path>) -> Warning {
    let what = if calls.is_function {
        "scripts that run pcluster from here are not guarded. This interactive shell is guarded."
    } else {
        "build-image is not guarded."
    };
    let Some(first) = calls.first.as_deref().and_then(Path::parent) else {
        let message = format!("The shim is not on PATH, so {what}");
        return Warning { id: "not-on-path", message, hint: advise_to_put_first(shim) };
    };
    let is_activated = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(env::var_os)
        .any(|directory| Path::new(&directory).join("bin") == first);
    if is_activated {
        let environment = first.parent().unwrap_or(first).display();
        let shell = if calls.is_function { "This" } else { "An" };
        let message = format!(
            "The environment {environment} is active and comes before the shim: scripts that run \
             pcluster from here are not guarded. {shell} interactive shell that has install.sh's function is guarded."
        );
        let hint = format!(
            "To guard the environment itself, run `pcluster-preflight install --venv {environment}`."
        );
        return Warning { id: "shadowed-by-environment", message, hint };
    }
    let message = format!("{} comes before the shim on PATH, so {what}", first.join(NAME).display());
    Warning { id: "shadowed", message, hint: advise_to_put_first(shim) }
}

/// Warns if the shell has cached the shim's path: the shim was started by its name, although another program
/// is now first on PATH. The opposite, a cached path of the real pcluster, cannot be detected, because the
/// shim is not started then.
pub(crate) fn warn_of_stale_hash(
    search: &Search,
    first: Option<&Candidate>,
    own: Option<&Path>,
) -> Option<Warning> {
    let by_name = env::args_os().next().is_some_and(|name| name == NAME);
    let first = first.filter(|first| by_name && !search.is_self(&first.path))?;
    let own = own.unwrap_or(Path::new("this shim")).display();
    Some(Warning {
        id: "stale-hash",
        message: format!(
            "This shell still starts the shim ({own}), because it has cached that path. A new shell would start {}.",
            first.path.display()
        ),
        hint: "Put the shim first on PATH, then run `hash -r` (in zsh `rehash`) or open a new shell.".into(),
    })
}

fn advise_to_put_first(shim: Option<&Path>) -> String {
    let directory = shim.and_then(Path::parent);
    match (directory.and_then(Path::parent).and_then(activate_line), directory) {
        (Some(line), _) => format!("Open a new shell, or run `{line}`."),
        (None, Some(directory)) => format!("Put {} first on PATH.", directory.display()),
        (None, None) => "Put the shim's directory first on PATH.".into(),
    }
}

/// Warns about environments that were guarded in place until another program, such as pip or uv, overwrote or
/// removed the shim.
pub(crate) fn warn_of_overwritten(
    search: &Search,
    candidates: &[Candidate],
    own: Option<&Path>,
) -> Vec<Warning> {
    let mut places: Vec<PathBuf> = Vec::new();
    let beside_own = own.map(|own| own.with_file_name(NAME));
    for place in candidates.iter().map(|candidate| candidate.path.clone()).chain(beside_own) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let is_overwritten = |place: &PathBuf| {
        place.with_file_name(REPLACED_LAUNCHER).symlink_metadata().is_ok()
            && search.classify(place) != Some(CandidateStatus::Shim)
    };
    places
        .into_iter()
        .filter(is_overwritten)
        .map(|place| {
            let bin = place.parent().unwrap_or(Path::new("/"));
            let environment = bin.parent().unwrap_or(bin).display();
            let script = bin.join(".pcluster-shim/install.sh");
            let script = if script.is_file() {
                format!("sh {}", script.display())
            } else {
                "pcluster-preflight install".into()
            };
            let (done, first) = if place.exists() {
                ("overwritten", "")
            } else {
                ("removed", "reinstall aws-parallelcluster there, then ")
            };
            Warning {
                id: "overwritten",
                message: format!(
                    "{} was guarded in place, but pip, uv or another program has {done} it since: build-image \
                     is not guarded there.",
                    place.display()
                ),
                hint: format!("To guard it again, {first}run `{script} --venv {environment}`."),
            }
        })
        .collect()
}

pub(crate) fn warn_of_loop(path: &Path) -> Warning {
    Warning {
        id: "looped",
        message: format!("{} starts the shim again, so it is skipped.", path.display()),
        hint: "Remove it from PATH, or set PCLUSTER_SHIM_REAL to the absolute path of the real pcluster."
            .into(),
    }
}

/// Warns about entries of PATH that depend on the current directory.
pub(crate) fn warn_of_entries(search: &Search) -> Vec<Warning> {
    let mut warnings: Vec<Warning> = Vec::new();
    for entry in search.entries().filter(|entry| !entry.is_absolute()) {
        let (name, means) = if entry.as_os_str().is_empty() {
            ("the empty entry".to_owned(), "means")
        } else {
            (format!("the relative entry `{}`", entry.display()), "depends on")
        };
        let message = format!(
            "PATH has {name}, which {means} the current directory: a shell runs any program that it finds there, \
             but the shim skips this entry."
        );
        if warnings.iter().all(|before| before.message != message) {
            let hint = format!("Remove {name} from PATH.");
            warnings.push(Warning { id: "relative-entry", message, hint });
        }
    }
    warnings
}
