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
use crate::environment::target::Target;
use crate::system::child::{Child, ChildError, set};
use crate::system::scratch::Scratch;

/// Whether the launcher starts pcluster: it prints its help and ends with status 0.
///
/// # Errors
/// Returns an error if the launcher cannot be run or takes too long, or a signal came.
pub fn starts(real: &Real, target: &Target, limit: Duration) -> Result<bool, ChildError> {
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let mut environment = vec![set("PYTHONDONTWRITEBYTECODE", "1")];
    if let Some(overlay) = &target.overlay {
        environment.push(set("PYTHONPATH", python_path(overlay, env::var_os("PYTHONPATH"))));
    }
    let arguments = ARGUMENTS.map(OsString::from).into();
    let finished = Child { program: &real.path, arguments, environment, limit }.run(&scratch)?;
    Ok(finished.status.success())
}
