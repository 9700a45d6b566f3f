//! `preflight where`: which pcluster is guarded, how it was found, what a `build-image` would do, and every
//! other `pcluster` on PATH.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::checker::shim;
use crate::cli::args::{Common, Format};
use crate::cli::settings::{ListedSetting, Settings, config_path};
use crate::environment::interpreter::IdentifyError;
use crate::environment::locate::{Candidate, CandidateStatus, Real, Search};
use crate::environment::packages::find_distribution;
use crate::environment::target::{self, Target};
use crate::error::{Abort, Error};
use crate::model::options::Mode;
use crate::outcome::Outcome;
use crate::preflight::context::{find_named, read_settings, start_search};
use crate::preflight::where_warnings::{
    Warning, warn_of_bypass, warn_of_entries, warn_of_loop, warn_of_overwritten, warn_of_passed_over,
    warn_of_stale_hash, warn_of_stale_overlay,
};
use crate::repair::overlay::{Overlay, find_overlay};
use crate::repair::state::RepairState;
use crate::report::{self, Shim};
use crate::system::child::ChildError;
use crate::system::{dirs, executables};
use crate::text::package_name::{IMAGEBUILDER, PCLUSTER, normalised};
use crate::text::printable::{escape, lossy, wrap};

/// Reports which pcluster is guarded.
pub fn run(common: &Common) -> Result<Outcome, Abort> {
    let settings = read_settings()?;
    let mut found = Where::find(&start_search(common, &settings), &settings);
    if let Ok(real) = found.real() {
        let identify = |overlay| target::identify(real, &[], overlay, settings.timeout);
        let target = identify(None);
        let overlay = target.as_ref().map_or(Overlay::None, find_overlay);
        // The launcher may change PYTHONPATH, by which the overlay is added: it is asked again.
        let target = match &overlay {
            Overlay::Bound(directory) => identify(Some(directory)),
            Overlay::None | Overlay::Stale => target,
        };
        match target {
            Err(IdentifyError::Child(ChildError::Interrupted(interrupted))) => {
                return Err(interrupted.into());
            }
            target => found.set_target(target, overlay),
        }
    }
    let stdout = match common.format {
        _ if common.quiet => String::new(),
        Format::Json => report::format_json(&format_where(&found)),
        _ => escape(&found.render_human()).into_owned(),
    };
    let stderr = found.real().err().map(Error::render_for_stderr).unwrap_or_default();
    Ok(Outcome::Exit { status: found.exit_status(), stdout, stderr })
}

/// Formats the report as JSON; without a real pcluster it has the error too.
fn format_where(found: &Where) -> Value {
    let mut report = found.to_json(&shim());
    if let Err(error) = found.real() {
        report["error"] = error.to_json()["error"].take();
    }
    report
}

/// The result of the search on PATH, and its consequences.
#[derive(Debug)]
pub struct Where {
    own: Option<PathBuf>,
    real: Result<Real, Error>,
    /// `None` until the real pcluster was asked.
    target: Option<Result<Target, IdentifyError>>,
    overlay: Overlay,
    rows: Vec<Row>,
    warnings: Vec<Warning>,
    bypassed: bool,
    mode: Mode,
    strict: bool,
    settings: Vec<ListedSetting>,
}

/// A `pcluster` on PATH.
#[derive(Debug)]
struct Row {
    path: PathBuf,
    standing: &'static str,
}

impl Where {
    pub fn find(search: &Search, settings: &Settings) -> Self {
        let real = search.real();
        let candidates: Vec<Candidate> = search.candidates().collect();
        let first = candidates.iter().find(|candidate| candidate.status != CandidateStatus::NotAbsolute);
        let bypassed = first.is_none_or(|first| first.status != CandidateStatus::Shim);
        let own = executables::own_executable();
        let mut warnings = Vec::new();
        let overwritten = warn_of_overwritten(search, &candidates, own.as_deref());
        if bypassed && overwritten.is_empty() {
            let shim = candidates.iter().find(|candidate| candidate.status == CandidateStatus::Shim);
            let shim = shim.map(|shim| shim.path.as_path()).or(own.as_deref());
            warnings.push(warn_of_bypass(first, shim));
        }
        warnings.extend(overwritten);
        warnings.extend(
            candidates
                .iter()
                .filter(|candidate| candidate.status == CandidateStatus::Tried)
                .map(|candidate| warn_of_loop(&candidate.path)),
        );
        warnings.extend(warn_of_stale_hash(search, first, own.as_deref()));
        warnings.extend(warn_of_entries(search));
        warnings.extend(warn_of_passed_over(config_path().into_iter().chain(dirs::all())));
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
            settings: settings.list(find_named(search)),
        }
    }

    /// Adds the target of the real pcluster, with its overlay. A real pcluster that only starts this shim
    /// again is none.
    pub fn set_target(&mut self, target: Result<Target, IdentifyError>, overlay: Overlay) {
        let Err(IdentifyError::Loop { tried }) = target else {
            let state = target.as_ref().ok().and_then(RepairState::find);
            let journals = state.map(|state| state.transactions().journals()).unwrap_or_default();
            self.warnings.extend(warn_of_passed_over(journals));
            self.target = Some(target);
            self.warnings.extend((overlay == Overlay::Stale).then(warn_of_stale_overlay));
            self.overlay = overlay;
            return;
        };
        for row in self.rows.iter_mut().filter(|row| tried.contains(&row.path)) {
            row.standing = LOOPED;
        }
        self.warnings.extend(tried.iter().map(|path| warn_of_loop(path)));
        self.real = Err(Error::Loop { tried });
    }

    /// The real pcluster.
    pub fn real(&self) -> Result<&Real, &Error> {
        self.real.as_ref()
    }

    /// Status 1: a `build-image` from here would not be guarded, because it does not start the shim, because the
    /// shim is started again and again, or because the mode is off. 127: there is no real pcluster.
    pub fn exit_status(&self) -> u8 {
        match &self.real {
            Err(Error::Loop { .. }) => 1,
            Err(error) => error.exit_status(),
            Ok(_) => u8::from(self.bypassed || self.mode == Mode::Off),
        }
    }

    /// Describes what a `build-image` from here would do, with a second line where strict adds to it.
    fn describe_consequences(&self) -> Vec<&'static str> {
        const STRICT: &str = "build-image is stopped if a check cannot run (strict)";
        let is_unknown = matches!(self.target, Some(Err(_)));
        let consequence = match self.mode {
            _ if self.real.is_err() => "build-image fails: there is no real pcluster",
            _ if self.bypassed => "build-image is not guarded: the shim is not first on PATH",
            Mode::Off => "build-image is not checked (mode off)",
            Mode::Block | Mode::Fix if is_unknown && self.strict => return vec![STRICT],
            _ if is_unknown => "build-image continues unchecked, with a warning",
            Mode::Warn => "build-image only warns if its image would be lost (mode warn)",
            Mode::Block => "build-image is stopped if its image would be lost (mode block)",
            Mode::Fix => "an environment that would lose the image is repaired first (mode fix)",
        };
        let is_strict =
            self.strict && matches!(self.mode, Mode::Block | Mode::Fix) && self.exit_status() == 0;
        [Some(consequence), is_strict.then_some(STRICT)].into_iter().flatten().collect()
    }

    pub fn to_json(&self, shim: &Shim) -> Value {
        let real = self.real.as_ref().ok();
        let target = self.target.as_ref().and_then(|target| target.as_ref().ok());
        let packages = target.map(|target| {
            let versions = find_installed(target).into_iter();
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
            "consequence": self.describe_consequences().join("; "),
            "settings": self.settings.iter().map(|setting| (setting.name, setting)).collect::<BTreeMap<_, _>>(),
            "candidates": candidates,
            "warnings": self.warnings,
        })
    }

    pub fn render_human(&self) -> String {
        let own = self.own.as_deref().map_or_else(|| "?".into(), |path| path.display().to_string());
        let mut text = format!("shim     {own} ({})\n", env!("CARGO_PKG_VERSION"));
        match &self.real {
            Ok(real) => {
                let _ = writeln!(text, "real     {} (from {})", real.path.display(), real.found_by.name());
            }
            Err(_) => text += "real     none\n",
        }
        match &self.target {
            Some(Ok(target)) => text += &format_target(target),
            Some(Err(reason)) => {
                let _ = writeln!(text, "python   unknown: {reason}");
            }
            None => {}
        }
        if let Overlay::Bound(directory) = &self.overlay {
            let what = "a repair kept outside the environment; its packages come first";
            let _ = writeln!(text, "overlay  {}\n         {what}", directory.display());
        }
        let _ = writeln!(text, "guard    {}", self.describe_consequences().join("\n         "));
        for row in &self.rows {
            let _ = writeln!(text, "on PATH  {}: {}", row.path.display(), row.standing);
        }
        text += "settings\n";
        self.settings.iter().for_each(|setting| text += &format_setting(setting));
        for warning in &self.warnings {
            text.push('\n');
            for line in wrap(&warning.message, 80).into_iter().chain(wrap(&warning.hint, 80)) {
                text += &line;
                text.push('\n');
            }
        }
        text
    }
}

/// Formats the name, the origin and the value of a setting, with a line for each of several values.
fn format_setting(setting: &ListedSetting) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let values: Vec<String> = match &setting.value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().map(text).collect(),
        value => vec![text(value)],
    };
    let is_absent = setting.name == "config" && values.iter().any(|path| !Path::new(path).exists());
    let values = if values.is_empty() { "-".into() } else { values.join(&format!("\n{:23}", "")) };
    let absent = if is_absent { " (absent)" } else { "" };
    format!("  {:<12}{:<9}{values}{absent}\n", setting.name, setting.origin.name())
}

fn format_target(target: &Target) -> String {
    let interpreter = &target.interpreter;
    let mut text = format!(
        "python   {} ({}, {})\n",
        interpreter.executable.display(),
        interpreter.version,
        target.launcher
    );
    let installed: Vec<_> =
        find_installed(target).into_iter().map(|(name, version)| format!("{name} {version}")).collect();
    if !installed.is_empty() {
        let _ = writeln!(text, "packages {}", installed.join(", "));
    }
    text
}

/// The two distributions that an advisory is about most often, and their versions.
fn find_installed(target: &Target) -> Vec<(&'static str, String)> {
    let version = |name| find_distribution(&target.interpreter.sys_path, name).map(|found| found.version);
    [PCLUSTER, IMAGEBUILDER].into_iter().filter_map(|name| Some((name, version(name)?))).collect()
}

const LOOPED: &str = "starts this shim again";

impl Row {
    fn new(candidate: Candidate, search: &Search, real: &Result<Real, Error>) -> Self {
        let real = real.as_ref().ok().map(|real| real.path.as_path());
        let standing = match candidate.status {
            CandidateStatus::Usable if real == Some(&candidate.path) => "the real pcluster",
            CandidateStatus::Usable => "not used: it comes later on PATH",
            CandidateStatus::Shim => match search.replaced_launcher_beside(&candidate.path) {
                Some(kept) if real == Some(&kept) => {
                    "a shim installed in place; its launcher is the real pcluster"
                }
                Some(_) => "a shim installed in place; its launcher is not used",
                None if search.is_self(&candidate.path) => "this shim",
                None => "another copy of the shim",
            },
            CandidateStatus::Tried => LOOPED,
            CandidateStatus::NotAbsolute => "not used: this PATH entry is not absolute",
        };
        Self { path: candidate.path, standing }
    }
}
