//! The package cache of jsii: used by one synthesis at a time, apart from the user's own, and never
//! the reason for a verdict.

use std::fs;

use serde_json::json;

use crate::support::fakes::Environment;
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

/// Makes the synthesis log how jsii is to use a cache.
fn log_cache(environment: &Environment) {
    let synth = fs::read_to_string(environment.path("fake/synth")).unwrap();
    environment.synthesizes(&format!(
        "echo \"jsii $JSII_RUNTIME_PACKAGE_CACHE $JSII_RUNTIME_PACKAGE_CACHE_ROOT\" >>\"$log\"; {synth}"
    ));
}

#[track_caller]
fn used(sandbox: &Sandbox, call: Call) -> Vec<String> {
    sandbox.clear_log();
    call.run();
    sandbox.log().into_iter().filter(|line| line.starts_with("jsii ")).collect()
}

fn enabled(sandbox: &Sandbox) -> String {
    format!("jsii enabled {}", sandbox.path("cache/pcluster-shim/jsii/packages").display())
}

const DISABLED: &str = "jsii disabled ";

#[test]
fn a_check_uses_a_cache_of_its_own() {
    let sandbox = Sandbox::new();
    log_cache(&sandbox.environment());
    let call = sandbox
        .build_image()
        .var("JSII_RUNTIME_PACKAGE_CACHE", "disabled")
        .var("JSII_RUNTIME_PACKAGE_CACHE_ROOT", "/elsewhere");
    assert_eq!(used(&sandbox, call), [enabled(&sandbox)]);
}

#[test]
fn two_checks_never_use_it_together() {
    let sandbox = Sandbox::new();
    log_cache(&sandbox.environment());
    let directory = sandbox.path("cache/pcluster-shim/jsii");
    fs::create_dir_all(&directory).unwrap();
    let lock = fs::File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(used(&sandbox, sandbox.build_image()), [DISABLED]);
    drop(lock);
    assert_eq!(used(&sandbox, sandbox.pcluster(["preflight"])), [enabled(&sandbox)]);
}

#[test]
fn a_fresh_check_and_one_without_a_cache_unpack_for_themselves() {
    let sandbox = Sandbox::new();
    log_cache(&sandbox.environment());
    assert_eq!(used(&sandbox, sandbox.pcluster(["preflight", "--fresh"])), [DISABLED]);
    sandbox.write("file", "");
    let call = sandbox.build_image().var("XDG_CACHE_HOME", sandbox.path("file"));
    assert_eq!(used(&sandbox, call), [DISABLED]);
}

/// A damaged package makes CDK fail: the template is built once more without the cache.
#[test]
fn a_damaged_cache_is_no_reason_for_a_verdict() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let good = fs::read_to_string(environment.path("fake/synth")).unwrap();
    let failed = json!({"kind": "failed", "stage": "template", "message": "Error: Cannot find module"});
    environment.synthesizes(&format!(
        "if [ -d \"$JSII_RUNTIME_PACKAGE_CACHE_ROOT\" ]; then
            printf '\\n%s\\n%s\\n%s\\n' \"$sentinel\" '{failed}' \"$sentinel\"
            exit
        fi
        {good}"
    ));
    log_cache(&environment);
    let package = "cache/pcluster-shim/jsii/packages/@aws-cdk/core/1.204.0/00";
    sandbox.write(format!("{package}/.jsii-runtime-package-cache"), "");
    assert_eq!(used(&sandbox, sandbox.build_image()), [enabled(&sandbox), DISABLED.to_owned()]);
    assert!(!sandbox.path(package).exists(), "{}", sandbox.tree("cache"));
    sandbox.build_image().run().exits(0).is_silent();
}

/// Where the template cannot be built without the cache either, that is not to blame.
#[test]
fn a_failure_that_the_cache_has_no_part_in_leaves_it() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.answers(&json!({"kind": "failed", "stage": "template", "message": "JSIIError: x"}));
    log_cache(&environment);
    let package = "cache/pcluster-shim/jsii/packages/@aws-cdk/core/1.204.0/00";
    sandbox.write(format!("{package}/.jsii-runtime-package-cache"), "");
    // Once more each for the minimal configuration.
    let [with, without] = [enabled(&sandbox), DISABLED.to_owned()];
    let expected = [with.clone(), without.clone(), with, without];
    assert_eq!(used(&sandbox, sandbox.build_image()), expected);
    assert!(sandbox.path(package).exists(), "{}", sandbox.tree("cache"));
}

/// A failure that has nothing to do with it takes no second synthesis.
#[test]
fn an_environment_that_cannot_be_imported_is_asked_once() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.answers(&json!({"kind": "failed", "stage": "import", "message": "ImportError: flask"}));
    log_cache(&environment);
    assert_eq!(used(&sandbox, sandbox.build_image()), [enabled(&sandbox)]);
}
