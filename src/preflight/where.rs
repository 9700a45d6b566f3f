//! `preflight where`: which pcluster is guarded, how it was found, what a `build-image` would do, and every
//! other `pcluster` on PATH.

use std::collections::BTreeMap;
use std::io;
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
use crate::preflight::where_calls::Calls;
use crate::preflight::where_warnings::{
    Warning, warn_of_bypass, warn_of_entries, warn_of_loop, warn_of_no_guard, warn_of_overwritten,
    warn_of_passed_over, warn_of_stale_hash, warn_of_stale_overlay,
};
use crate::repair::overlay::{Overlay, find_overlay};
use crate::repair::transaction::Transactions;
use crate::report;
use crate::system::child::ChildError;
use crate::system::terminal::{WIDTH, width_of};
use crate::system::{dirs, executables};
use crate::text::package_name::{IMAGEBUILDER, PCLUSTER, normalised};
use crate::text::printable::{escape, fill, lossy, name_of, wrap_behind};

/// Reports which pcluster is guarded.
pub fn run(common: &Common) -> Result<Outcome, Abort> {
    let settings = read_settings()?;
    let mut found = Where::find(&start_search(common, &settings), &settings);
    if let Ok(real) = &found.real {
        let identify = |overlay| target::identify(real, &[], overlay, settings.timeout);
        let target = identify(None);
        let overlay = target.as_ref().map_or(Overlay::None, find_overlay);
        // The shim adds the overlay with PYTHONPATH. The launcher may change that variable, so the target is
        // identified again.
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
        Format::Json => report::format_json(&found.to_json()),
        _ => escape(&found.render_human()).into_owned(),
    };
    let stderr = found.real.as_ref().err().map(Error::render_for_stderr).unwrap_or_default();
    Ok(Outcome::Exit { status: found.exit_status(), stdout, stderr })
}

/// The result of the search on PATH, and what it means for `build-image`.
#[derive(Debug)]
pub struct Where {
    own: Option<PathBuf>,
    real: Result<Real, Error>,
    /// `None` until we have tried to identify the real pcluster.
    target: Option<Result<Target, IdentifyError>>,
    overlay: Overlay,
    rows: Vec<Row>,
    warnings: Vec<Warning>,
    calls: Calls,
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
        let own = executables::own_executable();
        let mut calls = Calls::find(search, &candidates, own.as_deref());
        let mut warnings = Vec::new();
        let overwritten = warn_of_overwritten(search, &candidates, own.as_deref());
        calls.is_wheel_alone &= overwritten.is_empty();
        if !calls.is_first_guarded && !calls.is_path_guarded() && overwritten.is_empty() {
            let shim = candidates.iter().find(|candidate| candidate.status == CandidateStatus::Shim);
            let shim = shim.map(|shim| shim.path.as_path()).or(own.as_deref());
            let real = real.as_ref().ok().map(|real| real.path.as_path());
            warnings.push(if calls.is_wheel_alone {
                warn_of_no_guard(search, real)
            } else {
                warn_of_bypass(&calls, shim)
            });
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
            calls,
            mode: settings.mode,
            strict: settings.strict,
            settings: settings.list(find_named(search)),
        }
    }

    /// Adds the target of the real pcluster, with its overlay. If the real pcluster only starts this shim
    /// again, it does not count as real.
    pub fn set_target(&mut self, target: Result<Target, IdentifyError>, overlay: Overlay) {
        let Err(IdentifyError::Loop { tried }) = target else {
            let state = target.as_ref().ok().and_then(Transactions::find);
            let journals = state.map(|state| state.journals()).unwrap_or_default();
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

    /// 1 if a `build-image` from here would not be guarded: it does not start the shim, the real pcluster
    /// only starts the shim again, or the mode is off. 127 if there is no real pcluster.
    pub fn exit_status(&self) -> u8 {
        match &self.real {
            Err(Error::Loop { .. }) => 1,
            Err(error) => error.exit_status(),
            Ok(_) => u8::from(!self.calls.is_guarded() || self.mode == Mode::Off),
        }
    }

    /// Describes in one or two lines what a `build-image` from here would do. If `strict` changes that, the
    /// last line is `STRICT`. If, in addition, the target could not be identified, `STRICT` is the only line.
    fn describe_consequences(&self) -> Vec<&'static str> {
        const STRICT: &str = "build-image is stopped if a check cannot run (strict)";
        let is_unknown = matches!(self.target, Some(Err(_)));
        let consequence = match self.mode {
            _ if self.real.is_err() => "build-image fails: no real pcluster was found",
            _ if self.calls.is_wheel_alone && !self.calls.is_guarded() => "build-image is not guarded",
            _ if !self.calls.is_guarded()
                && self.warnings.iter().any(|warning| warning.id == "overwritten") =>
            {
                "build-image is not guarded: the shim was overwritten or removed"
            }
            _ if !self.calls.is_guarded() => "build-image is not guarded: the shim is not first on PATH",
            Mode::Off => "build-image is not checked (mode: off)",
            Mode::Block | Mode::Fix if is_unknown && self.strict => return vec![STRICT],
            _ if is_unknown => "build-image continues unchecked, with a warning",
            Mode::Warn => "build-image continues even if a check finds an error (mode: warn)",
            Mode::Block => "build-image is stopped if a check finds an error (mode: block)",
            Mode::Fix => "the environment is repaired first if a check finds an error (mode: fix)",
        };
        let is_strict =
            self.strict && matches!(self.mode, Mode::Block | Mode::Fix) && self.exit_status() == 0;
        [Some(consequence), is_strict.then_some(STRICT)].into_iter().flatten().collect()
    }

    pub fn to_json(&self) -> Value {
        let real = self.real.as_ref().ok();
        let target = self.target.as_ref().and_then(|target| target.as_ref().ok());
        let packages = target.map(|target| {
            let versions = find_installed(target).into_iter();
            versions.map(|(name, version)| (normalised(name), version)).collect::<BTreeMap<_, _>>()
        });
        let candidates: Vec<_> =
            self.rows.iter().map(|row| json!({"path": lossy(&row.path), "standing": row.standing})).collect();
        let mut report = json!({
            "schemaVersion": 1,
            "bypassed": !self.calls.is_first_guarded,
            "shim": shim(),
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
            "calls": self.calls.list(),
            "consequence": self.describe_consequences().join("; "),
            "settings": self.settings.iter().map(|setting| (setting.name, setting)).collect::<BTreeMap<_, _>>(),
            "candidates": candidates,
            "warnings": self.warnings,
        });
        if let Err(error) = &self.real {
            report["error"] = error.to_json()["error"].take();
        }
        report
    }

    pub fn render_human(&self) -> String {
        let terminal = width_of(io::stdout());
        // If the output is not a terminal, each row is a single line.
        let row_width = terminal.unwrap_or(usize::MAX).saturating_sub(9);
        let row = |label: &str, path: &Path, what: &str| {
            let path = path.display().to_string();
            let pieces = [path.as_str()].into_iter().chain(what.split_whitespace());
            let lines = fill(pieces, " ", row_width);
            format!("{label:<9}{}\n", lines.join("\n         "))
        };
        let own = self.own.as_deref().unwrap_or(Path::new("?"));
        let mut text = row("shim", own, concat!("(", env!("CARGO_PKG_VERSION"), ")"));
        text += &match &self.real {
            Ok(real) => row("real", &real.path, &format!("(from {})", real.found_by.name())),
            Err(_) => "real     none\n".into(),
        };
        match &self.target {
            Some(Ok(target)) => {
                let interpreter = &target.interpreter;
                let what = format!("({}, {})", interpreter.version, target.launcher);
                text += &row("python", &interpreter.executable, &what);
                let installed = find_installed(target);
                let installed: Vec<_> =
                    installed.iter().map(|(name, version)| format!("{name} {version}")).collect();
                if !installed.is_empty() {
                    let lines = fill(installed.iter().map(String::as_str), ", ", row_width);
                    text = text + "packages " + &lines.join(",\n         ") + "\n";
                }
            }
            Some(Err(reason)) => text += &row("python", Path::new("unknown:"), &reason.to_string()),
            None => {}
        }
        if let Overlay::Bound(directory) = &self.overlay {
            text += &row("isolated", directory, "");
            text += "         a repair kept outside the environment; its packages come first\n";
        }
        let width = terminal.unwrap_or(WIDTH);
        for (index, consequence) in self.describe_consequences().into_iter().enumerate() {
            text += &wrap_behind(if index == 0 { "guard    " } else { "         " }, consequence, width);
        }
        let calls = self.calls.list();
        // If all calls are guarded, or none is, the lines above show that already.
        if calls.iter().any(|call| call.guarded != calls[0].guarded) {
            for call in &calls {
                let guarded = if call.guarded { "guarded" } else { "not guarded" };
                text += &wrap_behind("call     ", &format!("{}: {guarded}{}", call.program, call.why), width);
            }
        }
        for candidate in &self.rows {
            let mut path = candidate.path.clone().into_os_string();
            path.push(":");
            text += &row("on PATH", Path::new(&path), candidate.standing);
        }
        text += "settings\n";
        self.settings.iter().for_each(|setting| text += &format_setting(setting));
        for warning in &self.warnings {
            text.push('\n');
            for part in [&warning.message, &warning.hint] {
                text += &wrap_behind("", part, width);
            }
        }
        text
    }
}

/// Formats the name, the origin and the value of a setting; several values have a line each.
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
    format!("  {:<12}{:<9}{values}{absent}\n", setting.name, name_of(setting.origin))
}

/// The two distributions that advisories are most often about, and their versions.
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
                    "a shim installed in place; the launcher that it replaced is the real pcluster"
                }
                Some(_) => "a shim installed in place; the launcher that it replaced is not used",
                None if search.is_self(&candidate.path) => "this shim",
                None => "another copy of the shim",
            },
            CandidateStatus::Tried => LOOPED,
            CandidateStatus::NotAbsolute => "not used: this PATH entry is not absolute",
        };
        Self { path: candidate.path, standing }
    }
}
