//! What a repair places: files in and outside of `site-packages`, with the right group and mode, and never a
//! link into the installer's cache. Settings that would make an installer do something else have no effect.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use crate::environment_copy::{ANOTHER, BY_PIP, BY_UV, EnvironmentCopy, With, failed_cleanly, uv};
use crate::support::machine::on_this_machine;
use crate::support::run::Run;

/// Two advisories. The first moves a package with a script (bin/jp.py), the second a package with a
/// console script.
const ADVISORIES: &str = "\
- id: own-jmespath
  title: This release of jmespath is not to be used here
  level: ERROR
  pcluster: '>=3.0'
  package: jmespath
  affected: '==1.0.1'
  effect: is not allowed in this company
  cost: It would cost a talk with the platform team.
  fix: {packages: jmespath, upgrade: '==0.10.0', downgrade: '==0.10.0'}
  references: ['https://example.com/own']
- id: own-tabulate
  title: This release of tabulate is not to be used here
  level: ERROR
  pcluster: '>=3.0'
  package: tabulate
  affected: '==0.9.0'
  effect: is not allowed in this company
  cost: It would cost a talk with the platform team.
  fix: {packages: tabulate, upgrade: '==0.8.10', downgrade: '==0.8.10'}
  references: ['https://example.com/own']
";

/// Mode, group and content of everything below a directory.
fn everything(directory: &Path) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
    let (mut found, mut next) = (BTreeMap::new(), vec![directory.to_owned()]);
    while let Some(current) = next.pop() {
        for path in current.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            let metadata = path.symlink_metadata().unwrap();
            let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if metadata.is_dir() {
                next.push(path.clone());
            }
            found.insert(path, (metadata.mode() & 0o7777, metadata.gid(), content));
        }
    }
    found
}

/// Compares the files of distributions with their RECORDs.
const CHECK_RECORDS: &str = "
import base64, hashlib, importlib.metadata, sys
for name in sys.argv[1:]:
    for file in importlib.metadata.distribution(name).files:
        if file.hash:
            digest = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
            assert base64.urlsafe_b64encode(digest).decode().rstrip('=') == file.hash.value, file
    assert any(str(file).startswith('../../../bin/') for file in importlib.metadata.distribution(name).files), name
";

fn scripts_move(name: &str, with: With) {
    let copy = EnvironmentCopy::of(name, with);
    let python = copy.environment.bin("python");
    let python = python.to_str().unwrap();
    let jmespath = ["pip", "install", "-q", "--no-deps", "--python", python, "jmespath==1.0.1"];
    copy.call(&uv(), &jmespath).run().exits(0);
    let config = copy.path("home/.config/pcluster-shim");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.yaml"), "advisories: [own.yaml]\n").unwrap();
    fs::write(config.join("own.yaml"), ADVISORIES).unwrap();
    let before = everything(&copy.environment.directory);
    copy.fix(&["cdk-imagebuilder-1.153.0", "own-jmespath", "own-tabulate"]).exits(0);
    assert_eq!(copy.versions()["jmespath"], "0.10.0");
    assert_eq!(copy.versions()["tabulate"], "0.8.10");
    for script in ["jp.py", "tabulate"] {
        let text = fs::read_to_string(copy.environment.bin(script)).unwrap();
        assert_eq!(text.lines().next(), Some(&*format!("#!{python}")), "{script}");
        copy.call(&copy.environment.bin(script), &["--help"]).run().exits(0);
    }
    copy.call(Path::new(python), &["-c", CHECK_RECORDS, "jmespath", "tabulate"]).run().exits(0);
    copy.pcluster_works("with other scripts");
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    // Bytecode is not compared, because the runs above have written some.
    let is_source = |path: &&PathBuf| !path.to_string_lossy().contains("__pycache__");
    let now = everything(&copy.environment.directory);
    assert!(now.keys().filter(is_source).eq(before.keys().filter(is_source)), "not the same files");
    for path in before.keys().filter(is_source) {
        assert!(before[path] == now[path], "{} is not as it was", path.display());
    }
    copy.left_nothing("by an undo");
}

#[test]
fn scripts_move_with_packages_that_uv_installs() {
    scripts_move(BY_UV, With::Uv);
}

#[test]
#[ignore = "long"]
fn scripts_move_with_packages_that_pip_installs() {
    scripts_move(BY_PIP, With::Pip);
}

fn a_repair_does_not_need_the_cache_of_uv(by_variable: bool) {
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    let cache = copy.beside("cache");
    copy.set("UV_CACHE_DIR", &cache);
    if by_variable {
        copy.set("UV_LINK_MODE", "symlink");
        copy.set("UV_COMPILE_BYTECODE", "1");
    } else {
        fs::create_dir_all(copy.path("home/.config/uv")).unwrap();
        let settings = "link-mode = \"symlink\"\ncompile-bytecode = true\n";
        fs::write(copy.path("home/.config/uv/uv.toml"), settings).unwrap();
    }
    copy.fix(&[]).exits(0);
    let placed = everything(&copy.site());
    assert!(!placed.keys().any(|path| path.is_symlink()), "by variable: {by_variable}");
    let is_bytecode = |path: &Path| path.ends_with("aws_cdk/core/__pycache__");
    assert!(!placed.keys().any(|path| is_bytecode(path)), "it had none, by variable: {by_variable}");
    fs::remove_dir_all(cache).unwrap();
    let (ran, report) = copy.preflight(&[]);
    ran.exits(0);
    assert_eq!(report["verdict"], "ready", "{ran}");
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    copy.is_as_before("without uv's cache");
}

#[test]
fn a_repair_does_not_need_the_cache_of_a_uv_that_a_variable_lets_link() {
    a_repair_does_not_need_the_cache_of_uv(true);
}

#[test]
#[ignore = "long"]
fn a_repair_does_not_need_the_cache_of_a_uv_that_its_file_lets_link() {
    a_repair_does_not_need_the_cache_of_uv(false);
}

const GROUP: u32 = 4711;

impl EnvironmentCopy {
    /// Gives the environment to a group, which may write to it.
    fn share_with_group(&self) {
        assert!(rustix::process::getuid().is_root(), "only root can give files to any group");
        let below = everything(&self.environment.directory).into_keys();
        for path in below.chain([self.environment.directory.clone()]).filter(|path| !path.is_symlink()) {
            let mode = path.metadata().unwrap().mode() & 0o770;
            chown(&path, None, Some(GROUP)).unwrap();
            let mode = if path.is_dir() { 0o2770 } else { mode | 0o060 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    #[track_caller]
    fn fix_with_strict_umask(&self) -> Run {
        let shim = self.path("shim/pcluster");
        let sh = ["-c", "umask 077; exec \"$@\"", "sh", shim.to_str().unwrap(), "preflight", "fix"];
        self.call(&on_this_machine("sh"), &sh).run()
    }
}

fn a_repair_keeps_an_environment_of_its_group(name: &str, with: With) {
    let copy = EnvironmentCopy::of(name, with);
    copy.share_with_group();
    // Bytecode outside of aws_cdk does not count: when Python starts, it compiles what .pth files import,
    // such as uv's `_virtualenv.py`.
    let is_placed = |path: &Path| {
        let path = path.to_string_lossy();
        !path.contains("__pycache__") || path.contains("/aws_cdk/")
    };
    let everything = || {
        let mut all = everything(&copy.environment.directory);
        all.retain(|path, _| is_placed(path) && !path.is_symlink());
        all
    };
    let before = everything();
    copy.fix_with_strict_umask().exits(0);
    assert_eq!(copy.cdk(), "1.204.0");
    for (path, (mode, group, _)) in everything() {
        let expected = if path.is_dir() { 0o2770 } else { mode & 0o110 | 0o660 };
        assert_eq!((mode, group), (expected, GROUP), "{name}: {}", path.display());
    }
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    assert!(everything() == before, "{name}: modes and groups are not as they were");
}

#[test]
fn a_repair_by_uv_keeps_an_environment_of_its_group() {
    a_repair_keeps_an_environment_of_its_group(BY_UV, With::Uv);
}

#[test]
#[ignore = "long"]
fn a_repair_by_pip_keeps_an_environment_of_its_group() {
    a_repair_keeps_an_environment_of_its_group(BY_PIP, With::Pip);
}

/// Only a member of a group can give files to that group, so here the new files belong to another group. The
/// repair fails if members of the old group could then no longer read a file.
#[test]
fn a_user_outside_of_the_group_repairs_only_what_everybody_may_read() {
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    copy.is_used_by_another();
    copy.give(&format!("{ANOTHER}:{GROUP}"), &copy.environment.directory);
    let fix = || copy.run_as_another(&["preflight", "fix"]);
    let file = copy.site().join("aws_cdk/core/__init__.py");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = fix();
    failed_cleanly(&refused);
    assert!(refused.stderr().contains(&format!("only a member of the group {GROUP} can")), "{refused}");
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
    assert_eq!(copy.cdk(), "1.153.0");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
    fix().exits(0);
    assert_eq!(copy.cdk(), "1.204.0");
    let placed = file.metadata().unwrap();
    assert_eq!((placed.gid(), placed.mode() & 0o777), (ANOTHER, 0o644), "no other group may write it");
}

fn pip_installs_whatever_its_settings_would_make_of_it(by_variable: bool) {
    let mut copy = EnvironmentCopy::of(BY_PIP, With::Pip);
    let elsewhere = copy.beside("elsewhere");
    if by_variable {
        for (name, value) in [("DRY_RUN", "1"), ("USER", "1"), ("QUIET", "2"), ("NO_DEPS", "1")] {
            copy.set(&format!("PIP_{name}"), value);
        }
        copy.set("PIP_ROOT", &elsewhere);
        copy.set("PIP_PREFIX", &elsewhere);
        copy.set("PIP_PLATFORM", "win_amd64");
    } else {
        let settings = format!(
            "[install]\ndry-run = true\nuser = true\nno-deps = true\nroot = {}\n[global]\nquiet = 2\n",
            elsewhere.display()
        );
        fs::write(copy.environment.directory.join("pip.conf"), settings).unwrap();
    }
    copy.fix(&[]).exits(0);
    assert_eq!(copy.cdk(), "1.204.0", "by variable: {by_variable}");
    assert!(!elsewhere.exists());
}

#[test]
#[ignore = "long"]
fn pip_installs_whatever_its_file_of_settings_would_make_of_it() {
    pip_installs_whatever_its_settings_would_make_of_it(false);
}

#[test]
#[ignore = "long"]
fn pip_installs_whatever_its_variables_would_make_of_it() {
    pip_installs_whatever_its_settings_would_make_of_it(true);
}
