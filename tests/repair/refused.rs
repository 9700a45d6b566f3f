//! Environments that are not repaired in place, because of who manages or owns them.

use std::fs;

use serde_json::json;

use crate::support::broken_environment::Unwritable;
use crate::support::sandbox::Sandbox;

#[test]
fn what_conda_installed_is_left_alone() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    // Packages as conda leaves them, some without a RECORD.
    for package in ["aws_cdk.core", "aws_cdk.aws-imagebuilder"] {
        let dist_info = environment.path("site").join(format!("{package}-1.153.0.dist-info"));
        sandbox.write(dist_info.join("INSTALLER"), "conda\n");
    }
    fs::remove_file(environment.path("site/aws_cdk.core-1.153.0.dist-info/RECORD")).unwrap();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-conda.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where conda installed it");
}

/// Makes a standard library. With `marker`, the library has the file EXTERNALLY-MANAGED, which says that the
/// system manages the packages of this Python.
fn managed_library(sandbox: &Sandbox, marker: bool) -> std::path::PathBuf {
    let library = sandbox.path("usr/lib/python3.9");
    sandbox.write(library.join("os.py"), "");
    if marker {
        sandbox.write(library.join("EXTERNALLY-MANAGED"), "[externally-managed]\n");
    }
    library
}

/// HOME does not exist, so there is no directory in which a repair could keep its journal.
#[test]
fn without_a_home_nothing_is_changed() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let call = environment.preflight(["fix"]).without("XDG_STATE_HOME").var("HOME", sandbox.path("absent"));
    call.run().exits(1).prefixed().stderr_matches("fix-no-home.txt");
    assert_eq!(environment.site(), before);
}

#[test]
fn a_python_of_the_system_is_left_alone() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let library = managed_library(&sandbox, true);
    environment.is(&[("sysPath", json!([environment.path("bin"), library, environment.path("site")]))]);
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-externally-managed.txt");
    assert!(!sandbox.log().contains(&"uv install".to_owned()), "refused before anything is fetched");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where the system installed it");
    // A dry run and a repair outside the environment are still possible.
    environment.preflight(["fix", "--dry-run"]).run().exits(0);
    environment.preflight(["fix", "--isolated"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// EXTERNALLY-MANAGED applies to the directories of the system's Python, even if a virtual environment uses
/// them. It does not apply to the virtual environment's own directories.
#[test]
fn a_virtual_environment_with_packages_of_the_system() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let library = managed_library(&sandbox, true);
    let system = sandbox.path("usr/lib/python3/dist-packages");
    sandbox.write(environment.path("pyvenv.cfg"), "include-system-site-packages = true\n");
    environment
        .is(&[("sysPath", json!([environment.path("bin"), library, environment.path("site"), system]))]);
    environment.preflight(["fix"]).run().exits(0).is_silent();
    environment.preflight(["undo"]).run().exits(0);

    // aws-cdk.core, which the repair has to upgrade, is now in the system's directory.
    fs::create_dir_all(system.join("aws_cdk")).unwrap();
    for name in ["aws_cdk/core", "aws_cdk.core-1.153.0.dist-info"] {
        fs::rename(environment.path("site").join(name), system.join(name)).unwrap();
    }
    let before = (environment.site(), sandbox.tree("usr"));
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed().stderr_matches("fix-system-site.txt");
    assert!((environment.site(), sandbox.tree("usr")) == before, "something was changed");
    environment.left_nothing("where the system installed a part");
}

#[test]
fn what_spack_installed_is_left_alone() {
    for in_view in [false, true] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        // A Spack view keeps the spec of each package in a directory with the package's name.
        let spec = if in_view { "venv/.spack/py-aws-cdk-core/spec.json" } else { "venv/.spack/spec.json" };
        sandbox.write(spec, "{}");
        let before = environment.site();
        let run = environment.preflight(["fix"]).run();
        run.exits(1).prefixed().stderr_matches("fix-spack.txt");
        assert_eq!(environment.site(), before);
        environment.left_nothing("where Spack installed it");
        // `.spack` can also be Spack's configuration, as in HOME. That is not a sign of an installation.
        fs::rename(environment.path(".spack"), environment.path("other")).unwrap();
        sandbox.write("venv/.spack/packages.yaml", "packages: {}\n");
        environment.preflight(["fix"]).run().exits(0);
    }
}

/// A Spack view that consists of links into the prefix of each package.
#[test]
fn a_view_of_spacks_with_links() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let store = sandbox.path("spack/py-aws-cdk-core");
    sandbox.write(store.join(".spack/spec.json"), "{}");
    for entry in environment.path("site").read_dir().unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("aws_cdk.") {
            fs::rename(entry.path(), store.join(entry.file_name())).unwrap();
            sandbox.link(entry.path(), store.join(entry.file_name()));
        }
    }
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("was installed by Spack"), "the links are followed");
}

/// Root would leave files that the owner of the environment cannot change.
#[test]
fn root_does_not_repair_what_another_user_owns() {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chown");
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let is_owned_by = |path: &str, uid: u32| {
        std::os::unix::fs::chown(environment.path("site").join(path), Some(uid), Some(uid)).unwrap();
    };
    let before = environment.site();
    is_owned_by("", 4711);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-another-user.txt");
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-another-user.txt");
    assert!(!environment.state.join("pcluster-shim").exists(), "no state is made for it");
    // In mode `fix`, the guard makes no overlay either: the files of the overlay would belong to root.
    let run = environment.build_image().var("PCLUSTER_SHIM_MODE", "fix").run();
    run.exits(1).prefixed().stdout_matches("verdicts/blocked-by-advisory.json");
    run.holds(run.stderr().contains("belongs to user 4711"), "it says whose it is");
    assert!(!sandbox.log().contains(&"uv install".to_owned()), "refused before anything is fetched");
    is_owned_by("", 0);
    // A directory further down. Only the plan shows that the repair would change this directory.
    is_owned_by("aws_cdk/core/_jsii", 4711);
    let run = environment.preflight(["fix"]).run();
    run.exits(1).holds(run.stderr().contains("_jsii belongs to user"), "the directory is named");
    is_owned_by("aws_cdk/core/_jsii", 0);
    assert_eq!(environment.site(), before);
    environment.left_nothing("where another user owns it");
    environment.preflight(["fix"]).run().exits(0);
}

#[test]
fn a_directory_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let locked = Unwritable::new(&[environment.path("site")]);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-unwritable.txt");
    assert!(!sandbox.log().contains(&"uv install".to_owned()), "refused before anything is fetched");
    drop(locked);
    // A directory further down. Only the plan shows that the repair would change this directory.
    let locked = Unwritable::new(&[environment.path("site/aws_cdk/core/_jsii")]);
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-unwritable-below.txt");
    drop(locked);
    assert_eq!(environment.site(), before);
    environment.left_nothing("where nothing can be written");
}

/// A directory that turns read-only while the repair is proven.
#[test]
#[cfg(target_os = "linux")]
fn a_directory_that_turns_read_only_on_the_way() {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chattr");
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let site = environment.path("site");
    sandbox.write(environment.path("fake/on-proof"), format!("chattr +i '{}'", site.display()));
    let run = environment.preflight(["fix"]).run();
    crate::support::machine::output(
        &crate::support::machine::on_this_machine("chattr"),
        &["-i".as_ref(), site.as_os_str()],
    );
    run.exits(1).prefixed().stderr_matches("fix-unwritable.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where nothing can be written");
}

/// An undo that would stop half-way changes nothing.
#[test]
#[cfg(target_os = "linux")]
fn undo_in_a_read_only_directory_changes_nothing() {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chattr");
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.site();
    let directory = environment.path("site/aws_cdk/core");
    let change = |flag: &str| {
        let chattr = crate::support::machine::on_this_machine("chattr");
        crate::support::machine::output(&chattr, &[flag.as_ref(), directory.as_os_str()]);
    };
    change("+i");
    let run = environment.preflight(["undo"]).run();
    change("-i");
    run.exits(1).prefixed().stderr_matches("undo-unwritable.txt");
    assert_eq!(environment.site(), repaired);
    environment.preflight(["undo"]).run().exits(0);
}

#[test]
fn a_package_without_record() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    fs::remove_file(environment.path("site/aws_cdk.core-1.153.0.dist-info/RECORD")).unwrap();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-no-record.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where files are unknown");
}

/// An interrupted pip can leave two versions of a package. Which files belong to which version is not known.
#[test]
fn a_package_that_is_installed_twice() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let site = environment.path("site");
    let metadata = "Metadata-Version: 2.1\nName: aws-cdk.core\nVersion: 1.100.0\n";
    sandbox.write(site.join("aws_cdk_core-1.100.0.dist-info/METADATA"), metadata);
    let before = environment.site();
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("aws-cdk-core is installed twice: "), "it says which");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where a package is there twice");
}
