//! The verdict follows what the real code does: a change is noticed even if no version number shows it, and
//! an advisory stops nothing if the environment refutes it. A check writes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::environment_copy::{BY_UV, EnvironmentCopy, With};
use crate::environments::{Environment, GOOD, RealSandbox};
use crate::support::machine::write_script;
use crate::support::run::Run;

/// A good environment, with an empty directory on PYTHONPATH for code that Python runs when it starts.
fn with_hooks() -> RealSandbox {
    let mut sandbox = RealSandbox::of(GOOD);
    fs::create_dir(sandbox.path("hooks")).unwrap();
    sandbox.set("PYTHONPATH", sandbox.path("hooks"));
    sandbox
}

fn broken_packages() -> PathBuf {
    Environment::named(BY_UV).site_packages()
}

/// Python code that puts the broken packages in front of the good ones.
fn putting_broken_packages_in_front() -> String {
    format!("import sys\nsys.path.insert(1, {:?})\n", broken_packages().display().to_string())
}

#[track_caller]
fn is_ready(sandbox: &RealSandbox) {
    sandbox.pcluster(&["preflight"]).run().exits(0);
}

#[track_caller]
fn is_blocked(sandbox: &RealSandbox) {
    let (ran, report) = sandbox.preflight(&[]);
    ran.exits(1);
    assert!(report["findings"].to_string().contains("template-ami-configuration-empty"), "{ran}");
}

/// For example, PDM's hook for PEP 582 looks for packages in the working directory.
#[test]
fn a_hook_that_looks_at_the_working_directory_is_seen() {
    let sandbox = with_hooks();
    let hook = "import os, sys\nplace = os.path.join(os.getcwd(), '__pypackages__')\n\
                if os.path.isdir(place): sys.path.insert(1, place)\n";
    fs::write(sandbox.path("hooks/sitecustomize.py"), hook).unwrap();
    is_ready(&sandbox);
    symlink(broken_packages(), sandbox.path("work/__pypackages__")).unwrap();
    is_blocked(&sandbox);
}

#[test]
fn a_hook_of_another_module_that_is_edited_later_is_seen() {
    let sandbox = with_hooks();
    fs::write(sandbox.path("hooks/sitecustomize.py"), "import company\n").unwrap();
    fs::write(sandbox.path("hooks/company.py"), "").unwrap();
    is_ready(&sandbox);
    fs::write(sandbox.path("hooks/company.py"), putting_broken_packages_in_front()).unwrap();
    is_blocked(&sandbox);
}

#[test]
fn a_zip_file_on_the_path_whose_content_changes_is_seen() {
    let mut sandbox = with_hooks();
    let zip = sandbox.path("hooks/packages.zip");
    sandbox.set("PYTHONPATH", &zip);
    let pack = |code: &str| {
        let script = "import sys, zipfile\nzipfile.ZipFile(sys.argv[1], 'w').writestr('sitecustomize.py', sys.argv[2])";
        sandbox
            .call(&sandbox.environment.bin("python"), &["-c", script, zip.to_str().unwrap(), code])
            .run()
            .exits(0);
    };
    pack("");
    is_ready(&sandbox);
    pack(&putting_broken_packages_in_front());
    is_blocked(&sandbox);
}

/// Python runs bytecode of the kind `UNCHECKED_HASH` without comparing the bytecode with the source.
#[test]
fn bytecode_of_another_release_next_to_good_sources_is_seen() {
    let copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    is_ready(&copy);
    is_blocked_by_broken_bytecode(&copy, &[]);
}

/// A flag in the launcher's `#!` line sets the directory of the bytecode.
#[test]
fn bytecode_below_a_prefix_that_a_flag_names_is_seen() {
    let copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    let flag = format!("-Xpycache_prefix={}", copy.path("bytecode").display());
    copy.environment.set_shebang(format_args!("{} {flag}", copy.environment.bin("python").display()));
    is_ready(&copy);
    is_blocked_by_broken_bytecode(&copy, &[&flag]);
}

/// Compiles the broken CDK with these Python flags, and puts the bytecode where Python looks for the bytecode
/// of the good CDK. Asserts that the check blocks.
#[track_caller]
fn is_blocked_by_broken_bytecode(copy: &EnvironmentCopy, flags: &[&str]) {
    let package = "aws_cdk/aws_imagebuilder";
    let (bad, good) = (broken_packages().join(package), copy.site().join(package));
    let compile = ["-c", COMPILE_UNCHECKED, bad.to_str().unwrap(), good.to_str().unwrap()];
    copy.call(&copy.environment.bin("python"), &[flags, &compile].concat()).run().exits(0);
    let assembly = "_jsii/aws-imagebuilder@1.153.0.jsii.tgz";
    fs::copy(bad.join(assembly), good.join(assembly)).unwrap();
    is_blocked(copy);
}

const COMPILE_UNCHECKED: &str = "
import os, py_compile, sys
from importlib.util import cache_from_source
bad, good = sys.argv[1:]
for name in ('__init__.py', '_jsii/__init__.py'):
    py_compile.compile(os.path.join(bad, name), cache_from_source(os.path.join(good, name)),
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
";

/// If TMPDIR is relative, the real call fails too: jsii unpacks its Node.js program into TMPDIR, and Node.js
/// does not load a module by a relative path.
#[test]
fn a_relative_tmpdir_fails_as_it_will() {
    let mut sandbox = RealSandbox::of(GOOD);
    sandbox.set("TMPDIR", ".");
    sandbox.write("work/image.yaml", MINIMAL);
    let ran = sandbox.pcluster(&["build-image", "-c", "image.yaml", "-i", "my-image"]).run();
    let [error] = &ran.stop()[..] else { panic!("{ran}") };
    assert!(
        error.ends_with(
            "Fix: set TMPDIR to the absolute path of an existing directory: jsii fails with any other"
        ),
        "{ran}"
    );
    let left: Vec<_> = fs::read_dir(sandbox.path("work")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

const MINIMAL: &str = "Build: {ParentImage: ami-0123456789abcdef0, InstanceType: t3.micro}\n";

/// Asserts that the finding of an advisory is only an INFO, and that `fix` would move no package.
#[track_caller]
fn is_refuted(sandbox: &RealSandbox, id: &str, by: &str) {
    let (ran, report) = sandbox.preflight(&[]);
    ran.exits(0);
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("{ran}"));
    assert_eq!((&finding["level"], &finding["evidence"]["refutedBy"]), (&"INFO".into(), &by.into()), "{ran}");
    // The plan may contain the repair of the Lambda runtime, which moves no package.
    let planned = sandbox.pcluster(&["preflight", "fix", "--dry-run", "--format", "json"]).run();
    let changes = planned.exits(0).json()["changes"].as_array().unwrap().clone();
    assert!(changes.iter().all(|change| change["why"] == "lambda-runtime"), "no package moves\n{planned}");
}

/// Writes another version into a distribution's metadata. `--system-site-packages` and some installers can
/// lead to environments in which metadata and code differ in this way.
fn renumber(site: &Path, dist_info: &str, from: &str, to: &str) {
    let file = site.join(dist_info).join("METADATA");
    let metadata = fs::read_to_string(&file).unwrap();
    let line = |version: &str| format!("\nVersion: {version}\n");
    assert!(metadata.contains(&line(from)), "{}", file.display());
    fs::write(&file, metadata.replacen(&line(from), &line(to), 1)).unwrap();
}

#[test]
fn setuptools_82_with_pkg_resources_from_elsewhere_starts() {
    let mut copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    let site = copy.site();
    let dist_info = find(&site, "setuptools-");
    let version = dist_info.trim_start_matches("setuptools-").trim_end_matches(".dist-info").to_owned();
    renumber(&site, &dist_info, &version, "82.0.1");
    fs::create_dir(copy.path("system")).unwrap();
    fs::rename(site.join("pkg_resources"), copy.path("system/pkg_resources")).unwrap();
    let system = copy.path("system");
    copy.set("PYTHONPATH", system);
    is_refuted(&copy, "setuptools-82", "pcluster starts");
    copy.unset("PYTHONPATH");
    let (ran, report) = copy.preflight(&[]);
    ran.exits(1);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(
        (&findings[0]["id"], &findings[0]["level"]),
        (&"setuptools-82".into(), &"ERROR".into()),
        "{ran}"
    );
    assert_eq!(findings[1]["evidence"]["explainedBy"], "setuptools-82", "{ran}");
}

fn find(site: &Path, prefix: &str) -> String {
    let mut names =
        fs::read_dir(site).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    names.find(|name| name.starts_with(prefix) && name.ends_with(".dist-info")).unwrap()
}

/// Imitates a fix by hand: somebody has read the advisory, and edits pcluster's code instead of installing
/// another CDK.
#[test]
fn a_patched_pcluster_that_writes_a_complete_template_builds() {
    let copy = EnvironmentCopy::with_bytecode(BY_UV, With::Uv);
    let file = copy.site().join("pcluster/templates/imagebuilder_stack.py");
    let code = fs::read_to_string(&file).unwrap();
    let before = "        if not self.custom_cleanup_lambda_role:\n            self._add_resource_delete_policy(\n                \
                  lambda_cleanup_policy_statements,\n                [\"imagebuilder:DeleteDistributionConfiguration\"],";
    assert_eq!(code.matches(before).count(), 1);
    let patch = "        for number in range(len(distributions)):\n            \
                 distribution_configuration_resource.add_property_override(\n                \
                 'Distributions.%d.AmiDistributionConfiguration' % number,\n                \
                 {k: v for k, v in ami_distribution_configuration.items() if v is not None})\n";
    fs::write(&file, code.replace(before, &(patch.to_owned() + before))).unwrap();
    is_refuted(&copy, "cdk-imagebuilder-1.153.0", "the template is complete");
}

/// Two `.dist-info` directories, as `pip install --target --upgrade` leaves them.
#[test]
fn a_second_dist_info_of_the_affected_release_stops_nothing() {
    let copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    let site = copy.site();
    let name = find(&site, "aws_cdk.aws_imagebuilder-");
    let other = name.replace("1.204.0", "1.153.0");
    // Python uses whichever of the two comes first in the directory, so both get the affected version.
    let metadata = fs::read_to_string(site.join(&name).join("METADATA")).unwrap();
    for dist_info in [name.as_str(), other.as_str()] {
        fs::create_dir_all(site.join(dist_info)).unwrap();
        let metadata = metadata.replacen("\nVersion: 1.204.0\n", "\nVersion: 1.153.0\n", 1);
        fs::write(site.join(dist_info).join("METADATA"), metadata).unwrap();
    }
    is_refuted(&copy, "cdk-imagebuilder-1.153.0", "the template is complete");
}

/// With PYTHONWARNINGS=error, pcluster really fails. The finding names this variable as the cause, and `fix`
/// moves no package.
#[test]
fn warnings_that_are_errors_are_not_blamed_on_packages() {
    let mut copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    copy.set("PYTHONWARNINGS", "error");
    assert!(!copy.real(&["version"]).run().status.success());
    let (ran, report) = copy.preflight(&[]);
    ran.exits(1);
    assert_eq!(report["findings"][0]["evidence"]["cause"], "PYTHONWARNINGS", "{ran}");
    let fixed = copy.fix(&[]);
    fixed.exits(1);
    assert!(fixed.stderr().contains("unset PYTHONWARNINGS"), "{fixed}");
    copy.is_as_before("after a fix that cannot help");
}

#[test]
fn a_number_that_yaml_reads_as_text_is_not_lost() {
    let sandbox = RealSandbox::of(GOOD);
    let permission = "DevSettings:\n  DistributionConfiguration:\n    Regions: us-east-1\n    \
                      LaunchPermission: '{\"UserIds\": [1e22, \"123456789012\"]}'\n";
    sandbox.write(
        "work/image.yaml",
        "Build:\n  ParentImage: ami-0123456789abcdef0\n  InstanceType: t3.micro\n".to_owned() + permission,
    );
    sandbox.pcluster(&["preflight", "-c", "image.yaml"]).run().exits(0);
}

/// `-I` and `-E` make Python ignore PYTHONDONTWRITEBYTECODE. Without another safeguard, root's check of
/// another user's environment would leave root's bytecode there.
#[test]
fn a_check_by_root_writes_no_bytecode_whatever_the_flags() {
    let copy = EnvironmentCopy::of(GOOD, With::Uv);
    let python = copy.environment.bin("python");
    for flag in ["-I", "-E", "-s"] {
        copy.environment.set_shebang(format_args!("{} {flag}", python.display()));
        is_ready(&copy);
        assert_eq!(bytecode_below(&copy.environment.directory), [] as [PathBuf; 0], "{flag}");
    }
}

fn bytecode_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in directory.read_dir().unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(bytecode_below(&entry.path()));
        } else if entry.path().extension().is_some_and(|ending| ending == "pyc") {
            found.push(entry.path());
        }
    }
    found
}

/// Neither the shim nor pcluster opens a file for writing outside TMPDIR or creates anything in HOME. This is
/// tested with a console script, with a wrapper, and with a wrapper whose pcluster does not start.
#[test]
fn a_check_writes_nothing_outside_tmpdir() {
    let copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    writes_nothing(&copy, 0);
    copy.environment.wrap_launcher("");
    writes_nothing(&copy, 0);
    fs::remove_dir_all(copy.site().join("pkg_resources")).unwrap();
    writes_nothing(&copy, 1);
}

#[track_caller]
fn writes_nothing(sandbox: &RealSandbox, status: i32) {
    let (ran, trace) = sandbox.traced("file", &["preflight", "check"]);
    ran.exits(status);
    let tmp = sandbox.path("tmp").display().to_string();
    let changes =
        ["mkdir(", "mkdirat(", "rename(", "renameat(", "unlink(", "rmdir(", "O_WRONLY", "O_RDWR", "O_CREAT"];
    let written: Vec<&str> = trace
        .lines()
        .filter(|line| changes.iter().any(|change| line.contains(change)))
        // Paths in TMPDIR and /dev are allowed. `changes` lacks `unlinkat`: its path is relative to an open
        // directory, so the line does not show whether the file is in TMPDIR.
        .filter(|line| !line.contains(&tmp) && !line.contains("\"/dev/"))
        .collect();
    assert!(written.is_empty(), "{}\n{ran}", written.join("\n"));
    for directory in ["home", "tmp"] {
        assert_eq!(fs::read_dir(sandbox.path(directory)).unwrap().count(), 0, "{directory}\n{ran}");
    }
}

/// The launcher asks for an MFA code. In the check it has no terminal, so it fails immediately. In the real
/// call it can ask.
#[test]
fn a_launcher_that_asks_at_the_terminal_is_not_waited_for() {
    let copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    let asks = "printf 'MFA code: ' >/dev/tty && read -r code </dev/tty || exit 9";
    copy.environment.wrap_launcher(asks);
    copy.write("work/image.yaml", MINIMAL);
    let call = ["build-image", "-c", "image.yaml", "-i", "my-image", "--dryrun", "true"];
    let shim = copy.path("shim/pcluster").display().to_string();
    let arguments: Vec<&str> = ["-c", ANSWERING_AT_A_TERMINAL, &shim].into_iter().chain(call).collect();
    let ran = copy.call(&copy.environment.bin("python"), &arguments).run();
    assert!(ran.stdout().contains("not checked: ") && ran.stdout().contains("MFA code: "), "{ran}");
    assert_eq!(ran.stdout().matches("MFA code: ").count(), 1, "{ran}");
}

/// Runs a program in its own terminal, and answers the program's question.
const ANSWERING_AT_A_TERMINAL: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b''
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:
        break
    if not data:
        break
    seen += data
    if data.endswith(b'code: '):
        os.write(terminal, b'123456\\n')
os.waitpid(pid, 0)
sys.stdout.write(seen.decode(errors='replace'))
";

/// The shim ends a child that prints without end, before the output fills the disk.
#[test]
fn a_launcher_that_prints_without_end_is_stopped() {
    let mut copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    write_script(&copy.environment.bin("pcluster"), "#!/bin/sh\nexec yes\n");
    copy.put_on_path("/usr/bin");
    let (ran, report) = copy.preflight(&[]);
    ran.exits(3);
    assert!(report["checks"].to_string().contains("printed more than 32 MiB and was stopped"), "{ran}");
}

/// Here, a bytecode directory is a link to a directory outside the environment. That directory could belong
/// to another environment.
#[test]
fn damaged_bytecode_outside_the_environment_is_named_and_kept() {
    let copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    let cache = copy.site().join("pcluster/cli/__pycache__");
    let elsewhere = copy.path("work/elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let _ = fs::remove_dir_all(&cache);
    symlink(&elsewhere, &cache).unwrap();
    let python = copy.environment.bin("python");
    copy.call(&python, &["-m", "compileall", "-qq", copy.site().join("pcluster/cli").to_str().unwrap()])
        .run();
    let file = elsewhere.join("entrypoint.cpython-39.pyc");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..2000]).unwrap();
    let fixed = copy.fix(&[]);
    fixed.exits(1);
    assert!(fixed.stderr().contains("entrypoint.cpython-39.pyc is damaged") && file.exists(), "{fixed}");
}

/// An exception can name a file that is not damaged.
#[test]
fn sound_bytecode_is_not_removed_on_the_word_of_an_exception() {
    let copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    let python = copy.environment.bin("python");
    copy.call(&python, &["-m", "compileall", "-qq", copy.site().join("pcluster/api").to_str().unwrap()])
        .run();
    let sound = copy.site().join("pcluster/api/__pycache__/errors.cpython-39.pyc");
    let module = copy.site().join("pcluster/cli/entrypoint.py");
    let code = fs::read_to_string(&module).unwrap();
    let raise =
        format!("raise ImportError('Non-code object in x', path={:?})\n", sound.display().to_string());
    fs::write(&module, raise + &code).unwrap();
    copy.fix(&["--installer", "uv"]).exits(1);
    assert!(sound.exists());
}

/// The user gets the real pcluster's message about the image id, although the environment's CDK is broken.
#[test]
fn an_image_id_that_is_too_long_is_left_to_the_real_pcluster() {
    let sandbox = RealSandbox::of(BY_UV);
    sandbox.write("work/image.yaml", MINIMAL);
    let id = "a".repeat(200);
    let call = ["build-image", "-c", "image.yaml", "-i", &id];
    let (guarded, direct) = (sandbox.pcluster(&call).run(), sandbox.real(&call).run());
    assert_eq!((guarded.stdout(), guarded.stderr()), (direct.stdout(), direct.stderr()), "{guarded}");
    assert!(direct.stdout().contains("failed to satisfy constraint"), "{direct}");
}

/// `fix` removes damaged bytecode, and here it edits two lines too. An undo restores the lines, but not
/// the bytecode.
#[test]
fn damaged_bytecode_is_removed_by_fix_and_is_no_repair_to_undo() {
    let copy = EnvironmentCopy::with_bytecode(GOOD, With::Uv);
    let python = copy.environment.bin("python");
    copy.call(&python, &["-m", "compileall", "-qq", copy.site().to_str().unwrap()]).run();
    let damaged = [
        "werkzeug/wrappers/__pycache__/request.cpython-39.pyc",
        "aws_cdk/aws_imagebuilder/__pycache__/__init__.cpython-39.pyc",
    ]
    .map(|module| copy.site().join(module));
    for file in &damaged {
        let whole = fs::read(file).unwrap();
        fs::write(file, &whole[..4096]).unwrap();
    }
    let planned = copy.fix(&["--dry-run"]);
    assert!(planned.exits(0).stdout().contains("would remove damaged bytecode"), "{planned}");
    assert!(damaged.iter().all(|file| file.exists()));
    let fixed = copy.fix(&[]);
    assert!(fixed.exits(0).stdout().starts_with("repaired: 2 lines\n"), "{fixed}");
    for file in &damaged {
        assert!(fixed.stderr().contains(&file.display().to_string()) && !file.exists(), "{fixed}");
    }
    is_ready(&copy);
    let undone: Run = copy.pcluster(&["preflight", "undo"]).run();
    assert_eq!(undone.exits(0).stdout(), "undone: 2 lines restored\n", "{undone}");
    assert!(damaged.iter().all(|file| !file.exists()), "{undone}");
}
