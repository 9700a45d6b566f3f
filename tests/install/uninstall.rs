//! Only the shim's own files are removed, including those of older versions and of repairs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use super::{Home, collect};

/// An uninstall removes neither the user's own files nor directories that are not the shim's, even if
/// `--prefix` or a variable has an odd or empty value.
#[test]
fn trap_28_only_the_shims_own_files_are_removed_and_only_by_their_names() {
    let home = Home::new();
    let prefix = home.prefix();
    home.install();
    let theirs = ["bin/other", "completions/_other", "notes", "share/man/man1/other.1"];
    for name in theirs {
        home.sandbox.write(prefix.join(name), "theirs");
    }
    let run = home.uninstall();
    run.stderr_matches("uninstall-theirs.txt");
    let mut left = BTreeMap::new();
    collect(&prefix, &mut left);
    let left: Vec<_> = left.into_iter().filter(|(path, _)| path.is_file()).map(|(path, _)| path).collect();
    let mut expected = theirs.map(|name| prefix.join(name));
    expected.sort();
    assert_eq!(left, expected);
    fs::remove_dir_all(home.path("home/.local")).unwrap();
    home.is_as_before(&run);

    // Files that are named like the shim's files, but have the user's content.
    let project = home.path("home/project");
    for name in ["env", "env.fish", "install.sh", "made", "completions/_pcluster"] {
        home.sandbox.write(project.join(name), "their own\n");
    }
    let project = project.to_str().unwrap().to_owned();
    let home = Home { before: home.files(), ..home };
    let arguments = ["--binary", &home.built, "--prefix"];
    let uninstall = |prefix: &str| home.installs_in("dash", ["--uninstall", "--prefix", prefix]).run();
    let install = |prefix: &str| home.installs_in("dash", arguments).argument(prefix).run();
    home.is_as_before(&uninstall(&project));
    for (prefix, status, snapshot) in [
        ("", 2, "install-empty-value.txt"),
        ("/", 2, "install-root.txt"),
        ("///", 2, "install-root.txt"),
        ("/a:b", 2, "install-colon.txt"),
    ] {
        for run in [uninstall(prefix), install(prefix)] {
            run.exits(status).prints("").stderr_matches(snapshot);
            home.is_as_before(&run);
        }
    }
    let venv = home.path("venv").display().to_string();
    for run in [install(&venv), uninstall(&venv)] {
        run.exits(1).holds(run.stderr().contains("not"), "it is refused");
        home.is_as_before(&run);
    }
    uninstall("/nonexistent/x").exits(0).is_silent();
    for (name, value) in [("XDG_DATA_HOME", ""), ("XDG_DATA_HOME", "relative"), ("CDPATH", "/"), ("IFS", "/")]
    {
        let run = home.installs_in("dash", ["--uninstall"]).var(name, value).run();
        run.exits(0);
        home.is_as_before(&run);
    }
}

#[test]
fn an_upgrade_removes_the_cache_that_an_older_version_has_left() {
    let home = Home::new();
    home.sandbox.write("cache/pcluster-shim/verdicts/one", "{}");
    home.install();
    assert!(!home.path("cache/pcluster-shim").exists());
}

/// The cache that an older version left is removed with the shim; what an undo needs stays, and is reported.
#[test]
fn what_the_shim_has_written_goes_unless_an_undo_needs_it() {
    let home = Home::new();
    home.install();
    home.sandbox.write("cache/pcluster-shim/verdicts/one", "{}");
    home.sandbox.write("state/pcluster-shim/environments/one/lock", "");
    home.uninstall().stdout_matches("uninstall.txt");
    assert!(!home.path("cache/pcluster-shim").exists() && !home.path("state/pcluster-shim").exists());

    home.install();
    home.sandbox.write("state/pcluster-shim/environments/one/lock", "");
    let last = home.sandbox.write("state/pcluster-shim/environments/two/last.json", "{}");
    fs::create_dir(home.path("elsewhere")).unwrap();
    symlink(home.path("elsewhere"), home.path("cache/pcluster-shim")).unwrap();
    home.sandbox.write("config/pcluster-shim/config.yaml", "mode: warn\n");
    home.uninstall().stdout_matches("uninstall-keeps.txt");
    assert!(last.is_file() && !home.path("state/pcluster-shim/environments/one").exists());
    assert!(home.path("elsewhere").is_dir() && home.path("cache/pcluster-shim").is_symlink());
}
