//! A failed start of pcluster → a finding. Pure: the caller looks up which distributions own the files.

use serde_json::json;

use crate::model::distribution::Distribution;
use crate::model::expectation::{StartupFailure, StartupStage};
use crate::model::finding::{Finding, Fix, Kind, Level, Remedy};

/// The distributions that own the files of a failure, as far as they are known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Owners<'a> {
    /// The owner of the file whose code raised the exception.
    pub file: Option<&'a Distribution>,
    /// The owner of the module that the exception names, if that module exists but is incomplete.
    pub module: Option<&'a Distribution>,
}

pub fn describe(failure: &StartupFailure, owners: Owners) -> Finding {
    let (problem, cost) = match failure.stage {
        StartupStage::Import => {
            ("pcluster does not start", "No pcluster command starts, and nothing is built.")
        }
        StartupStage::Template => {
            ("pcluster cannot build a template", "build-image fails with this error, and nothing is built.")
        }
    };
    let StartupFailure { exception, message, module, module_file, file, bytecode, cause, .. } = failure;
    let place = match (bytecode, file) {
        (Some(bytecode), _) => format!(": the bytecode {bytecode} is damaged"),
        (None, Some(file)) => describe_place(file, owners.file),
        (None, None) => String::new(),
    };
    let source = match (module, owners.module) {
        (Some(module), Some(owner)) => format!("; {module} is from {} {}", owner.name, owner.version),
        _ => String::new(),
    };
    let name_of =
        |owner: Option<&Distribution>| owner.map(|owner| format!("{} {}", owner.name, owner.version));
    let what = format!("{problem}: {}{place}{source}", failure.describe());
    Finding {
        cost: Some(cost.into()),
        evidence: json!({
            "exception": exception, "message": message,
            "module": module, "moduleFile": module_file, "moduleDistribution": name_of(owners.module),
            "file": file, "distribution": name_of(owners.file), "bytecode": bytecode, "cause": cause,
        }),
        fix: Some(match (bytecode, cause) {
            // A full disk, for example, leaves damaged bytecode: no package is at fault.
            (Some(bytecode), _) => Fix::by_command(Remedy::Bytecode(bytecode.clone())),
            (None, Some(cause)) => Fix::by_hand(describe_setting(cause)),
            (None, None) => Fix::by_command(Remedy::Release),
        }),
        ..Finding::new("startup", Level::Error, Kind::PclusterStartup, what)
    }
}

/// What to do about the setting that caused the exception.
fn describe_setting(cause: &str) -> String {
    match cause {
        "TMPDIR" => {
            "set TMPDIR to the absolute path of an existing directory: jsii fails with any other".into()
        }
        "JSII_RUNTIME" => "unset JSII_RUNTIME, which replaces the program that CDK runs in".into(),
        "PYTHONWARNINGS" => "unset PYTHONWARNINGS, which turns this warning into an error".into(),
        _ => "remove what turns this warning into an error: a -W flag of the launcher, or a filter in a \
              sitecustomize"
            .into(),
    }
}

/// Describes where the exception was raised: the path of `file` below its package directory, and the
/// distribution that owns `file`. If no owner is known, only the absolute path of `file`.
fn describe_place(file: &str, owner: Option<&Distribution>) -> String {
    let Some(owner) = owner else { return format!(" (in {file})") };
    let site = owner.metadata.parent().and_then(|site| site.to_str()).unwrap_or_default();
    let name = file.strip_prefix(site).unwrap_or(file).trim_start_matches('/');
    format!(" (in {name} of {} {})", owner.name, owner.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(name: &str, version: &str) -> Distribution {
        let metadata = format!("/env/site-packages/{name}-{version}.dist-info").into();
        Distribution { name: name.into(), version: version.into(), metadata, requires: Vec::new() }
    }

    fn failure(exception: &str, message: &str, file: Option<&str>) -> StartupFailure {
        StartupFailure {
            stage: StartupStage::Import,
            exception: exception.into(),
            message: message.into(),
            module: None,
            module_file: None,
            file: file.map(str::to_owned),
            bytecode: None,
            cause: None,
        }
    }

    #[test]
    fn the_file_is_named_as_its_distribution_names_it() {
        let pcluster = distribution("aws-parallelcluster", "3.13.2");
        let missing = "No module named 'pkg_resources'";
        let failure = failure("ModuleNotFoundError", missing, Some("/env/site-packages/pcluster/utils.py"));
        let owners = Owners { file: Some(&pcluster), module: None };
        assert_eq!(
            describe(&failure, owners).message,
            "pcluster does not start: ModuleNotFoundError: No module named 'pkg_resources' \
             (in pcluster/utils.py of aws-parallelcluster 3.13.2)"
        );
        assert_eq!(
            describe(&failure, Owners::default()).message,
            "pcluster does not start: ModuleNotFoundError: No module named 'pkg_resources' \
             (in /env/site-packages/pcluster/utils.py)"
        );
    }

    #[test]
    fn the_distribution_of_an_incomplete_module_is_named() {
        let (pcluster, flask) =
            (distribution("aws-parallelcluster", "3.0.3"), distribution("Flask", "2.3.3"));
        let incomplete = "module 'flask.json' has no attribute 'JSONEncoder'";
        let mut failure =
            failure("AttributeError", incomplete, Some("/env/site-packages/pcluster/encoder.py"));
        failure.stage = StartupStage::Template;
        failure.module = Some("flask.json".into());
        let finding = describe(&failure, Owners { file: Some(&pcluster), module: Some(&flask) });
        assert_eq!(
            finding.message,
            "pcluster cannot build a template: AttributeError: module 'flask.json' has no attribute \
             'JSONEncoder' (in pcluster/encoder.py of aws-parallelcluster 3.0.3); flask.json is from Flask 2.3.3"
        );
        assert_eq!(finding.evidence["moduleDistribution"], "Flask 2.3.3");
    }

    #[test]
    fn damaged_bytecode_is_named_and_no_package() {
        let mut failure = failure("EOFError", "marshal data too short", Some("/env/site-packages/a.py"));
        failure.bytecode = Some("/env/site-packages/__pycache__/b.cpython-39.pyc".into());
        let finding = describe(&failure, Owners::default());
        assert_eq!(
            finding.message,
            "pcluster does not start: EOFError: marshal data too short: \
             the bytecode /env/site-packages/__pycache__/b.cpython-39.pyc is damaged"
        );
        let file = finding.fix.as_ref().and_then(Fix::bytecode);
        assert_eq!(file, Some("/env/site-packages/__pycache__/b.cpython-39.pyc"));
    }

    #[test]
    fn an_exception_without_a_file_is_described() {
        let finding = describe(&failure("SystemExit", "1", None), Owners::default());
        assert_eq!(finding.message, "pcluster does not start: SystemExit: 1");
    }
}
