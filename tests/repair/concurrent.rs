//! A uv or a pip at work at the same time as a repair.

use std::fs;

use super::versions;
use crate::support::broken_environment::BrokenEnvironment;
use crate::support::sandbox::Sandbox;

/// While uv changes a virtual environment, uv holds a lock on the environment's file `.lock`.
#[test]
#[cfg(target_os = "linux")]
fn a_repair_waits_for_uv() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    sandbox.write(environment.path("pyvenv.cfg"), "");
    let lock = sandbox.write(environment.path(".lock"), "");
    let before = environment.site();
    let held = fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let fix = scope.spawn(|| environment.preflight(["fix", "-v"]).run());
        crate::failpoints::wait_for_holders(&lock, 2);
        assert!(environment.site() == before, "touched while uv is at work");
        drop(held);
        let fix = fix.join().unwrap();
        fix.exits(0).holds(fix.stderr().contains("waiting for uv"), "it says whom it waits for");
    });
}

/// pip, which takes no lock, changes the environment between the plan and the exchange.
#[test]
fn another_installer_before_the_exchange() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let pips = pips_release(&environment);
    sandbox.write(environment.path("fake/on-proof"), &pips);
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed().stderr_matches("fix-changed-meanwhile.txt");
    assert!(versions(&environment).contains(&"aws_cdk.core-1.152.0".to_owned()));
    environment.left_nothing("where another installer was at work");
}

/// The sh code of a pip that replaces the old release of aws-cdk.core with 1.152.0.
fn pips_release(environment: &BrokenEnvironment) -> String {
    let (site, wheels) = (environment.path("site"), environment.sandbox.path("installer/1.152.0"));
    format!(
        "cd '{}' && rm -rf aws_cdk/core aws_cdk.core-1.153.0.dist-info && cp -Rp '{1}/aws_cdk/core' aws_cdk/ && \
         cp -Rp '{1}/aws_cdk.core-1.152.0.dist-info' .\n",
        site.display(),
        wheels.display()
    )
}

/// pip has read the environment before the exchange, and writes aws-cdk.core 1.152.0 after the exchange. The
/// shim leaves pip's files as they are, and restores all other packages.
#[test]
fn another_installer_after_the_exchange() {
    for then in ["over it", "in its place", "at work"] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        let before = environment.site();
        let site = environment.path("site");
        let first = match then {
            "in its place" => "rm -rf aws_cdk/core aws_cdk.core-1.204.0.dist-info; ",
            _ => "",
        };
        let last = if then == "at work" { "; rm aws_cdk.core-1.152.0.dist-info/RECORD" } else { "" };
        let wheels = sandbox.path("installer/1.152.0");
        // The repair runs the installer's check before the exchange and after it. This script writes pip's
        // files only after the exchange, when 1.204.0 is in `site`.
        let check = format!(
            "[ -d '{0}/aws_cdk.core-1.204.0.dist-info' ] && cd '{0}' && {{ {first}cp -Rp '{1}/aws_cdk/core' aws_cdk/; \
             cp -Rp '{1}/aws_cdk.core-1.152.0.dist-info' .{last}; }}; exit 0",
            site.display(),
            wheels.display()
        );
        sandbox.write("installer/check", check);
        let run = environment.preflight(["fix"]).run();
        run.exits(1).prefixed().stderr_matches("fix-changed-after.txt");
        let names = versions(&environment);
        assert!(
            names.contains(&"aws_cdk.core-1.152.0".to_owned()),
            "{then}: what pip wrote is gone: {names:?}"
        );
        assert!(!names.contains(&"aws_cdk.core-1.153.0".to_owned()), "{then}: {names:?}");
        assert!(names.contains(&"jsii-1.57.0".to_owned()), "{then}: the others are as they were: {names:?}");
        let core = fs::read_to_string(site.join("aws_cdk/core/__init__.py")).unwrap();
        assert_eq!(core, "1.152.0", "{then}");
        if then != "at work" {
            assert!(!names.contains(&"aws_cdk.core-1.204.0".to_owned()), "{then}: {names:?}");
            assert!(
                !site.join("aws_cdk/core/_jsii/core@1.204.0.jsii.tgz").exists(),
                "{then}: the repair's own file"
            );
            assert!(site.join("aws_cdk/core/_jsii/core@1.152.0.jsii.tgz").exists(), "{then}");
        }
        let is_cores = |path: &std::path::Path| {
            path.starts_with("aws_cdk/core") || path.to_string_lossy().contains("aws_cdk.core")
        };
        let others = |tree: crate::support::broken_environment::Tree| -> Vec<_> {
            tree.into_iter().filter(|(path, _)| !is_cores(path)).collect()
        };
        assert_eq!(others(environment.site()), others(before), "{then}");
        environment.left_nothing("where another installer was at work");
    }
}
