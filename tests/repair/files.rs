//! The files that a repair places (scripts, data, links), and files that are in its way.

use std::fs;

use crate::support::broken_environment::{BrokenEnvironment, INSTALL, set_mode};
use crate::support::sandbox::Sandbox;

#[test]
fn files_outside_and_in_the_way() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let record = environment.path("site/aws_cdk.core-1.153.0.dist-info/RECORD");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, format!("{text}../../bin/cdk,,\n")).unwrap();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-outside.txt");
    fs::write(&record, text).unwrap();
    sandbox.write(environment.path("site/aws_cdk/aws_imagebuilder/only_in_1.204.0/a, b.py"), "mine");
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-in-the-way.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("where a file is in the way");
}

/// Adds a script and data files to the installed and the staged aws-cdk.core. In the staged RECORD, each of
/// their paths begins with `lead`.
pub(super) fn add_files_of_prefix(environment: &BrokenEnvironment, lead: &str) {
    let installed = environment.path("site/aws_cdk.core-1.153.0.dist-info");
    let files = [
        ("bin/cdk.py", "1.153.0", 0o755),
        ("bin/__pycache__/cdk.cpython-39.pyc", "compiled 1.153.0", 0o644),
        ("share/man/man1/cdk-1.153.0.1", "manual", 0o640),
        ("odd/cdk", "1.153.0", 0o644),
    ];
    environment.add_files(&installed, &environment.path(""), "../", &files);
    set_mode(&environment.path("share/man/man1"), 0o750);
    let wheels = environment.sandbox.path("installer/1.204.0");
    let staged = wheels.join("aws_cdk.core-1.204.0.dist-info");
    let staged_by = if lead.is_empty() { "uv\n" } else { "pip\n" };
    environment.sandbox.write(staged.join("INSTALLER"), staged_by);
    let files = [
        ("bin/cdk.py", "1.204.0", 0o755),
        ("bin/cdk-new", "1.204.0", 0o755),
        ("etc/cdk/settings", "1.204.0", 0o644),
        ("odd/cdk", "1.204.0", 0o644),
    ];
    environment.add_files(&staged, &wheels, lead, &files);
}

/// For an installation with `--target`, uv and pip write different paths of scripts and data files
/// into RECORD.
#[test]
fn scripts_and_data_files_move() {
    for lead in ["", "../../"] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        add_files_of_prefix(&environment, lead);
        let before = environment.prefix();
        environment.preflight(["fix"]).run().exits(0).is_silent();
        let now = environment.prefix();
        let is = |path: &str| now.get(std::path::Path::new(path)).map(String::as_str).unwrap_or_default();
        for (path, mode) in [
            ("bin/cdk.py", "755 "),
            ("bin/cdk-new", "755 "),
            ("etc/cdk/settings", "644 "),
            ("odd/cdk", "644 "),
        ] {
            assert!(is(path).starts_with(mode) && is(path).ends_with("\"1.204.0\""), "{path}: {}", is(path));
        }
        for gone in ["bin/__pycache__", "share/man", "site/bin", "site/etc"] {
            assert_eq!(is(gone), "", "{gone}");
        }
        assert_ne!(is("share"), "", "share is every package's");
        let record = is("site/aws_cdk.core-1.204.0.dist-info/RECORD");
        for line in ["../bin/cdk.py,sha256=x,1", "../etc/cdk/settings,", "../odd/cdk,"] {
            assert!(record.contains(&format!("\\n{line}")), "{line}: {record}");
        }
        environment.preflight(["undo"]).run().exits(0);
        assert_eq!(environment.prefix(), before);
        environment.left_nothing("by an undo");
    }
}

/// A package can have the name `bin`.
#[test]
fn a_package_with_the_name_of_a_directory_of_the_prefix_stays_a_package() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let wheels = sandbox.path("installer/1.204.0");
    let staged = wheels.join("aws_cdk.core-1.204.0.dist-info");
    environment.add_files(&staged, &wheels, "", &[("bin/__init__.py", "", 0o644), ("bin/x.py", "", 0o644)]);
    environment.preflight(["fix"]).run().exits(0);
    assert!(environment.path("site/bin/x.py").exists() && !environment.path("bin/x.py").exists());
}

#[test]
fn a_directory_that_was_empty_is_there_after_an_undo() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    add_files_of_prefix(&environment, "");
    fs::create_dir_all(environment.path("etc/cdk")).unwrap();
    let before = environment.prefix();
    environment.preflight(["fix"]).run().exits(0);
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.prefix(), before);
}

#[test]
fn a_script_of_another_package_is_in_the_way() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    add_files_of_prefix(&environment, "");
    sandbox.write(environment.path("bin/cdk-new"), "of another package");
    let before = environment.prefix();
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("venv/bin/cdk-new is in the way"), "the file is named");
    assert_eq!(environment.prefix(), before);
    environment.left_nothing("where a file is in the way");
}

#[test]
fn a_directory_of_the_prefix_that_is_a_link_to_elsewhere_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    add_files_of_prefix(&environment, "");
    fs::rename(environment.path("share"), sandbox.path("elsewhere")).unwrap();
    sandbox.link(environment.path("share"), sandbox.path("elsewhere"));
    let run = environment.preflight(["fix"]).run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("through a symbolic link"), "it says so");
    assert!(sandbox.path("elsewhere/man/man1/cdk-1.153.0.1").exists());
    environment.left_nothing("where a link leads out");
}

/// The directory of a package is a link to a directory outside the environment, so the repair is refused.
#[test]
fn a_package_behind_a_link() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let (package, elsewhere) = (environment.path("site/aws_cdk/aws_imagebuilder"), sandbox.path("elsewhere"));
    fs::rename(&package, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &package).unwrap();
    let names =
        || fs::read_dir(&elsewhere).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = names();
    environment.preflight(["fix"]).run().exits(1).prefixed().stderr_matches("fix-behind-a-link.txt");
    assert_eq!(names(), before);
    assert!(package.is_symlink());
}

/// Two packages contain a file with the same path, so the repair places that file twice. The second time, the
/// file at the path is already a hard link to the installer's cache, and writing into that link would change
/// the cache.
#[test]
fn a_file_that_two_packages_bring() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let cache = sandbox.path("installer/cached");
    sandbox.write(&cache, "of the first");
    sandbox.link("tools/ln", crate::support::machine::on_this_machine("ln"));
    // Like uv, the installer makes `shared.py` a hard link to its cache. Both packages have `shared.py` in
    // their RECORDs.
    let more = format!(
        "{INSTALL}\nln '{}' \"$target/shared.py\"\n\
         for package in aws_cdk.aws-imagebuilder aws_cdk.core; do\n\
         record=$target/$package-$version.dist-info/RECORD; echo shared.py,, >>\"$record\"; done\n",
        cache.display()
    );
    environment.installs_by(&more);
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    assert_eq!(fs::read_to_string(environment.path("site/shared.py")).unwrap(), "of the first");
    assert_eq!(fs::read_to_string(&cache).unwrap(), "of the first");
    assert!(!environment.path("site/.shared.py.pcluster-shim").exists(), "a temporary file is left");
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}
