//! Failures in the steps of a real repair. After each failure, one error gives the reason, the exit status is
//! 1, the environment is byte for byte as before, and nothing is left over.

use std::fs;
use std::path::Path;

use crate::environment_copy::{BY_PIP, BY_UV, EnvironmentCopy, Index, With, failed_cleanly, uv};
use crate::environments::Environment;
use crate::support::machine::{on_this_machine, write_script};
use crate::support::run::Run;

/// A port that nothing listens on.
const CLOSED: &str = "http://127.0.0.1:9/simple";

#[track_caller]
fn nothing_happened(copy: &EnvironmentCopy, ran: &Run, says: &str) {
    failed_cleanly(ran);
    assert!(ran.stderr().contains(says), "it does not say {says:?}\n{ran}");
    copy.is_as_before(says);
    copy.left_nothing(says);
}

/// Makes `url` the only package index, and turns caches off.
fn only_index(copy: &mut EnvironmentCopy, url: &str) {
    for name in [
        "PIP_FIND_LINKS",
        "UV_FIND_LINKS",
        "PIP_EXTRA_INDEX_URL",
        "UV_INDEX",
        "UV_EXTRA_INDEX_URL",
        "UV_OFFLINE",
    ] {
        copy.unset(name);
    }
    copy.set("UV_DEFAULT_INDEX", url);
    copy.set("PIP_INDEX_URL", url);
    copy.set("UV_NO_CACHE", "1");
    copy.set("PIP_NO_CACHE_DIR", "1");
    copy.set("PIP_RETRIES", "0");
    copy.set("UV_HTTP_RETRIES", "0");
}

#[test]
fn the_index_cannot_be_reached() {
    for (name, with) in [(BY_UV, With::Uv), (BY_PIP, With::Pip)] {
        let mut copy = EnvironmentCopy::of(name, with);
        only_index(&mut copy, CLOSED);
        let ran = copy.fix(&[]);
        nothing_happened(&copy, &ran, if with == With::Uv { "127.0.0.1" } else { "aws-cdk" });
    }
}

#[test]
#[ignore = "long"]
fn the_index_lacks_a_package() {
    // aws-parallelcluster requires sqs itself, but only other CDK packages require kms. If kms were missing,
    // pip would try every release of those packages for hours, so for pip it is sqs that is missing.
    for (name, with, missing) in [(BY_UV, With::Uv, "kms"), (BY_PIP, With::Pip, "sqs")] {
        let index = Index::start(&[format!("missing=aws-cdk.aws-{missing}")]);
        let mut copy = EnvironmentCopy::of(name, with);
        only_index(&mut copy, &index.url);
        let ran = copy.fix(&[]);
        nothing_happened(&copy, &ran, missing);
    }
}

#[test]
fn the_index_serves_a_broken_wheel() {
    let index = Index::start(&["broken=aws-cdk.aws-imagebuilder".to_owned()]);
    for (name, with) in [(BY_UV, With::Uv), (BY_PIP, With::Pip)] {
        let mut copy = EnvironmentCopy::of(name, with);
        only_index(&mut copy, &index.url);
        let ran = copy.fix(&[]);
        nothing_happened(&copy, &ran, "imagebuilder");
    }
}

/// The newest release on the index can be installed, but has the code of 1.153.0 under a newer number.
#[test]
fn the_newest_cdk_is_broken_too() {
    let bad = Environment::named(BY_UV).site_packages();
    let index = Index::start(&[format!("worse=aws-cdk.aws-imagebuilder,{}", bad.display())]);
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    only_index(&mut copy, &index.url);
    let ran = copy.fix(&[]);
    nothing_happened(&copy, &ran, "1.999.0");
}

/// Imitates the index on the day when 1.153.0 was the newest CDK, so there is no upgrade. The repair falls
/// back to the versions available when pcluster's release was published. It also moves the packages that
/// those versions require.
#[test]
#[ignore = "long"]
fn there_is_no_newer_cdk_yet() {
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    copy.unset("PIP_FIND_LINKS");
    copy.set("UV_EXCLUDE_NEWER", "2022-04-22T00:00:00Z");
    let ran = copy.fix(&[]);
    ran.exits(0);
    assert!(ran.stdout().contains("aws-cdk.*") && ran.stdout().contains("1.153.0 -> 1.15"), "{ran}");
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    copy.is_as_before("no newer CDK");
    copy.left_nothing("no newer CDK");
}

/// Replaces uv with a shell script, in which `$UV` is the real uv.
fn instead_of_uv(copy: &EnvironmentCopy, sh: &str) {
    let path = copy.beside("uv/uv");
    write_script(&path, format!("#!/bin/sh\nUV='{}'\n{sh}\n", uv().display()));
}

#[test]
#[ignore = "long"]
fn the_installer_fails_hangs_or_is_not_there() {
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    instead_of_uv(&copy, "echo 'error: it is broken' >&2; exit 1");
    let ran = copy.fix(&[]);
    nothing_happened(&copy, &ran, "it is broken");

    instead_of_uv(&copy, "exec \"$UV\" \"$@\" & kill -9 $$");
    let ran = copy.fix(&[]);
    nothing_happened(&copy, &ran, "killed by a signal");

    instead_of_uv(&copy, "exec /bin/sleep 1000");
    copy.set("PCLUSTER_SHIM_TIMEOUT", "1");
    let ran = copy.fix(&[]);
    nothing_happened(&copy, &ran, "did not answer within 10 s");
    copy.unset("PCLUSTER_SHIM_TIMEOUT");

    // Imitates Debian's Python, which has no ensurepip. Now uv is missing too.
    fs::remove_file(copy.beside("uv/uv")).unwrap();
    let debian = copy.beside("debian");
    fs::create_dir(&debian).unwrap();
    fs::write(debian.join("ensurepip.py"), "raise ImportError('not here')\n").unwrap();
    copy.set("PYTHONPATH", debian);
    let ran = copy.fix(&[]);
    nothing_happened(&copy, &ran, "neither the environment nor its Python has pip");
}

/// The real uv runs, then site-packages is made immutable, so that not even root can write to it.
#[test]
fn read_only_between_stage_and_commit() {
    assert!(rustix::process::getuid().is_root(), "only root can try this: chattr");
    let copy = EnvironmentCopy::of(BY_UV, With::Uv);
    let site = copy.site();
    let chattr = on_this_machine("chattr");
    let sh = format!("\"$UV\" \"$@\" && '{}' +i '{}'", chattr.display(), site.display());
    instead_of_uv(&copy, &sh);
    let ran = copy.fix(&[]);
    copy.call(&chattr, &["-i", site.to_str().unwrap()]).run().exits(0);
    ran.exits(1);
    assert!(ran.stderr().contains("is not writable") && ran.stderr().contains("--isolated"), "{ran}");
    copy.is_as_before("read-only");
    copy.left_nothing("read-only");

    // Now only one file, deep in site-packages, is immutable. The repair notices this only when it has to
    // replace the file.
    let below = site.join("aws_cdk/aws_imagebuilder/__init__.py");
    let sh = format!("\"$UV\" \"$@\" && '{}' +i '{}'", chattr.display(), below.display());
    instead_of_uv(&copy, &sh);
    let ran = copy.fix(&[]);
    copy.call(&chattr, &["-i", below.to_str().unwrap()]).run().exits(0);
    nothing_happened(&copy, &ran, "aws_imagebuilder");
}

/// Runs the fix with a small file system mounted at `at`, in its own mount namespace. The shell code `then`
/// runs before the fix, and the shell code `after` after the fix.
#[track_caller]
fn with_small_disk(copy: &EnvironmentCopy, at: &Path, size: &str, then: &str, after: &str) -> Run {
    let sh = format!(
        "mount -t tmpfs -o size={size} none '{}' || exit 99\n{then}\n\"$@\"\nstatus=$?\n{after}\nexit $status",
        at.display()
    );
    let shim = copy.path("shim/pcluster");
    copy.call(
        &on_this_machine("unshare"),
        &["--mount", "--", "/bin/sh", "-c", &sh, "sh", shim.to_str().unwrap(), "preflight", "fix"],
    )
    .run()
}

/// Puts the system's programs on PATH, because the shell scripts of these tests use them.
fn with_tools(copy: &mut EnvironmentCopy) {
    for directory in ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        copy.put_on_path(directory);
    }
}

#[test]
fn the_disk_is_full_while_it_stages_and_while_it_takes_the_snapshot() {
    the_disk_is_full(EnvironmentCopy::of(BY_UV, With::Uv));
}

/// This environment has bytecode, so the repair compiles the staged packages. It must not leave a partly
/// written bytecode file behind, because Python would take the file for a complete one.
#[test]
#[ignore = "long"]
fn the_disk_is_full_while_it_compiles() {
    let told = the_disk_is_full(EnvironmentCopy::of(BY_PIP, With::Uv));
    assert!(told.contains("cannot write bytecode: "), "{told}");
}

/// Runs a repair on disks of growing size, until the snapshot fills one of them. Returns the errors.
fn the_disk_is_full(mut copy: EnvironmentCopy) -> String {
    assert!(rustix::process::getuid().is_root(), "only root can mount");
    with_tools(&mut copy);
    let state = copy.beside("state");
    fs::create_dir(&state).unwrap();
    copy.set("XDG_STATE_HOME", &state);
    copy.set("UV_LINK_MODE", "copy");
    // This command lists what a repair has left on the small disk.
    let left = "find \"$XDG_STATE_HOME\" -name 'overlay-*' -o -name 'snapshot-*' -o -name journal.json >&3";
    let left = format!("{{ {left}; }} 3>'{}'", copy.beside("left").display());
    let ran = with_small_disk(&copy, &state, "8m", "", &left);
    nothing_happened(&copy, &ran, "space");
    assert_eq!(fs::read_to_string(copy.beside("left")).unwrap(), "");

    // The disk grows until it has room for the staged packages and for a part of the snapshot.
    let overlay: u64 = 150;
    let mut told = String::new();
    for size in (30..overlay).step_by(8) {
        let ran = with_small_disk(&copy, &state, &format!("{size}m"), "", &left);
        assert_eq!(
            fs::read_to_string(copy.beside("left"))
                .unwrap_or_default()
                .replace(state.to_str().unwrap(), "")
                .lines()
                .filter(|line| !line.contains("snapshot-"))
                .count(),
            0,
            "{ran}"
        );
        if ran.status.success() {
            break;
        }
        told += &ran.stderr();
        nothing_happened(&copy, &ran, "space");
        if ran.stderr().contains("/snapshot-") || ran.stderr().contains("cannot keep a copy of") {
            return told;
        }
    }
    panic!("the snapshot never filled the disk:\n{told}");
}

/// The environment's own disk has no room for both old and new packages. The snapshot is on another disk.
#[test]
fn the_disk_is_full_while_it_commits() {
    assert!(rustix::process::getuid().is_root(), "only root can mount");
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    with_tools(&mut copy);
    let environment = copy.environment.directory.clone();
    let (aside, after) = (copy.beside("aside"), copy.beside("after"));
    // Puts the environment on a small disk, and fills the disk except for 200 KiB. The new packages do not
    // fit into these 200 KiB next to the old packages.
    let then = format!(
        "mkdir '{0}'; umount '{1}'; mount --bind '{1}' '{0}' && mount -t tmpfs -o size=400m none '{1}' && cp -a '{0}/.' '{1}/' || exit 98\n\
         dd if=/dev/zero of='{1}/filler' bs=1k count=$(($(df -k '{1}' | tail -n 1 | awk '{{print $4}}') - 200)) 2>/dev/null",
        aside.display(),
        environment.display(),
    );
    let copy_out = format!("cp -a '{}' '{}'", copy.site().display(), after.display());
    let ran = with_small_disk(&copy, &environment, "1m", &then, &copy_out);
    failed_cleanly(&ran);
    assert!(ran.stderr().contains("space"), "{ran}");
    copy.is_the_same_as(&after, "on the full disk");
    copy.left_nothing("on the full disk");
}
