//! The start of pcluster by its own launcher: the second witness to a start that fails.
//!
//! synthesis.py imports pcluster with the launcher's interpreter and `sys.path`, but without what a launcher
//! may add of its own, such as finders of modules. A start that fails there counts only if it fails here too.

use std::env;
use std::ffi::OsString;
use std::time::Duration;

use crate::environment::interpreter::python_path;
use crate::environment::locate::Real;
use crate::environment::question::ARGUMENTS;
use crate::environment::synthesis::StartupFailure;
use crate::environment::target::Target;
use crate::system::child::{Child, ChildError, set};
use crate::system::scratch::Scratch;

/// What the launcher does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It prints pcluster's help.
    Starts,
    /// It ends in the exception that the check has met.
    FailsAlike,
    /// It fails in another way, which is no witness: a wrapper may refuse `--help`.
    FailsOtherwise,
}

/// Starts pcluster by its launcher, for its help.
///
/// # Errors
/// Returns an error if the launcher cannot be run or takes too long, or a signal came.
pub fn start(
    real: &Real,
    target: &Target,
    failure: &StartupFailure,
    limit: Duration,
) -> Result<Start, ChildError> {
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let mut environment = vec![set("PYTHONDONTWRITEBYTECODE", "1")];
    if let Some(overlay) = &target.overlay {
        environment.push(set("PYTHONPATH", python_path(overlay, env::var_os("PYTHONPATH"))));
    }
    let arguments = ARGUMENTS.map(OsString::from).into();
    let finished = Child { program: &real.path, arguments, environment, limit }.run(&scratch)?;
    if finished.status.success() {
        return Ok(Start::Starts);
    }
    let is_alike = finished.status.code().is_some() && shows(&finished.stderr, failure);
    Ok(if is_alike { Start::FailsAlike } else { Start::FailsOtherwise })
}

/// Whether the output of a Python has a traceback that ends in this exception. The text of `SystemExit` is
/// printed alone.
#[must_use]
pub fn shows(stderr: &[u8], failure: &StartupFailure) -> bool {
    let text = String::from_utf8_lossy(stderr);
    let beginning: String = failure.message.chars().take(40).collect();
    if failure.exception == "SystemExit" {
        return !beginning.is_empty() && text.contains(&beginning);
    }
    // The name is qualified by its module there: `pkg_resources.DistributionNotFound: …`.
    text.lines().any(|line| {
        let Some((name, message)) = line.split_once(':').or(Some((line, ""))) else { return false };
        name.trim().rsplit('.').next() == Some(failure.exception.as_str())
            && collapse(message).starts_with(beginning.trim_end())
    })
}

fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::synthesis::StartupStage;

    fn failure(exception: &str, message: &str) -> StartupFailure {
        StartupFailure {
            stage: StartupStage::Import,
            exception: exception.into(),
            message: message.into(),
            module: None,
            module_file: None,
            file: None,
            bytecode: None,
        }
    }

    #[test]
    fn a_witness_has_met_the_same_exception() {
        let missing = failure("ModuleNotFoundError", "No module named 'pkg_resources'");
        let traceback = "Traceback (most recent call last):\n  File \"x\"\n\
                         ModuleNotFoundError: No module named 'pkg_resources'\n";
        assert!(shows(traceback.as_bytes(), &missing));
        for other in [
            "ModuleNotFoundError: No module named 'flask'",
            "Expecting value: line 1 column 1 (char 0)",
            "ImportError: No module named 'pkg_resources'",
            "",
        ] {
            assert!(!shows(other.as_bytes(), &missing), "{other}");
        }
        assert!(shows(b"pkg_resources.VersionConflict: (x  1)\n", &failure("VersionConflict", "(x 1)")));
        assert!(shows(b"AttributeError\n", &failure("AttributeError", "")));
        assert!(shows(b"needs Python 3.9\n", &failure("SystemExit", "needs Python 3.9")));
        assert!(!shows(b"needs Python 3.9\n", &failure("SystemExit", "")));
    }
}
