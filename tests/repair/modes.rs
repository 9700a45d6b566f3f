//! The group and the mode of what a repair places.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::files::add_files_of_prefix;
use crate::support::broken_environment::{BrokenEnvironment, INSTALL, set_mode};
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

/// Lets a group share the environment.
fn share_with_group(environment: &BrokenEnvironment) {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chown");
    let below = environment.prefix().into_keys().map(|path| environment.root.join(path));
    for path in below.chain([environment.root.clone()]) {
        let mode = path.metadata().unwrap().permissions().mode();
        std::os::unix::fs::chown(&path, None, Some(GROUP)).unwrap();
        set_mode(&path, if path.is_dir() { 0o770 } else { mode & 0o770 | 0o060 });
    }
}

const GROUP: u32 = 4711;

fn fix_with_strict_umask(environment: &BrokenEnvironment) -> Call {
    let sh = crate::support::machine::on_this_machine("sh");
    environment.preflight(["fix"]).under(sh, &["-c", "umask 077; exec \"$@\"", "sh"])
}

#[test]
fn what_a_repair_places_is_of_the_group_that_shares_the_environment() {
    for environment in
        [Sandbox::new().broken_environment(), Sandbox::new().broken_environment_across_file_systems()]
    {
        add_files_of_prefix(&environment, "");
        share_with_group(&environment);
        let before = environment.prefix();
        fix_with_strict_umask(&environment).run().exits(0).is_silent();
        let now = environment.prefix();
        for (path, what) in now.iter().filter(|(path, what)| before.get(*path) != Some(what)) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let expected = match name {
                _ if what.starts_with("directory") => format!("directory 770 {GROUP}"),
                "run" | "cdk.py" | "cdk-new" => format!("770 {GROUP} "),
                _ => format!("660 {GROUP} "),
            };
            assert!(what.starts_with(&expected), "{}: {what}", path.display());
        }
        environment.preflight(["undo"]).run().exits(0);
        assert_eq!(environment.prefix(), before);
    }
}

#[test]
fn a_file_keeps_the_mode_of_the_one_that_it_replaces() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    for (file, mode) in [("core/__init__.py", 0o640), ("aws_imagebuilder/__init__.py", 0o444)] {
        set_mode(&environment.path("site/aws_cdk").join(file), mode);
    }
    environment.preflight(["fix"]).run().exits(0);
    let site = environment.site();
    assert!(site[std::path::Path::new("aws_cdk/core/__init__.py")].starts_with("640 "));
    assert!(site[std::path::Path::new("aws_cdk/aws_imagebuilder/__init__.py")].starts_with("444 "));
}

/// The staged file is a hard link to the file in the installer's cache.
#[test]
fn the_mode_of_a_file_in_the_cache_of_uv_does_not_change() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    share_with_group(&environment);
    sandbox.link("tools/ln", crate::support::machine::on_this_machine("ln"));
    let cached = sandbox.write("installer/cached", "1.204.0");
    let links = format!("{INSTALL}\nln -f '{}' \"$target/aws_cdk/core/__init__.py\"\n", cached.display());
    environment.installs_by(&links);
    environment.preflight(["fix"]).run().exits(0);
    let placed = environment.path("site/aws_cdk/core/__init__.py").metadata().unwrap();
    assert_eq!((placed.mode() & 0o777, placed.gid()), (0o660, GROUP));
    let cached = cached.metadata().unwrap();
    assert_eq!((cached.mode() & 0o777, cached.gid()), (0o644, 0));
}
