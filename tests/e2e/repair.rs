//! `preflight fix`, `preflight undo` and mode `fix` on an environment with the broken CDK, made by pip or by
//! uv. The repair is made in place, or next to the environment if a repair in place is impossible.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::environment_copy::{BY_PIP, BY_UV, EnvironmentCopy, Index, With, failed_cleanly, uv};
use crate::environments::{Aws, Environment, TAGS, write_wrapper};
use crate::support::machine::{on_this_machine, wait_for};
use crate::support::run::Run;

/// Asserts that exactly the packages that the plan names have moved.
#[track_caller]
fn moved_as_planned(copy: &EnvironmentCopy, ran: &Run) {
    let plan = ran.json();
    let key = |name: &str| name.to_lowercase().replace(['.', '_'], "-");
    let planned: Vec<(String, String)> = plan["changes"]
        .as_array()
        .unwrap()
        .iter()
        // A source edit moves no package.
        .filter(|change| change.get("edits").is_none())
        .map(|change| {
            (change["package"].as_str().unwrap().to_owned(), change["to"].as_str().unwrap().to_owned())
        })
        .collect();
    let (before, after) = (copy.versions_before(), copy.versions());
    let mut moved: Vec<(String, String)> = after
        .iter()
        .filter(|(name, version)| before.get(*name) != Some(version))
        .map(|(name, version)| (key(name), version.clone()))
        .collect();
    moved.sort();
    assert_eq!(moved, planned, "{ran}");
    assert!(before.keys().all(|name| after.contains_key(name)), "a package is gone\n{ran}");
}

#[track_caller]
fn no_broken_requirements(copy: &EnvironmentCopy) {
    let python = copy.environment.bin("python");
    let ran = if copy.site().join("pip").is_dir() {
        copy.call(&python, &["-m", "pip", "check"]).run()
    } else {
        copy.call(&uv(), &["pip", "check", "--python", python.to_str().unwrap()]).run()
    };
    ran.exits(0);
}

const STRATEGIES: [(&str, &str); 2] = [("upgrade", "1.204.0"), ("downgrade", "1.152.0")];

fn fix_and_undo(name: &str, with: With, strategies: &[(&str, &str)]) {
    let copy = EnvironmentCopy::of(name, with);
    for &(strategy, version) in strategies {
        let ran = copy.fix(&["--strategy", strategy, "--format", "json"]);
        ran.exits(0).is_silent();
        assert_eq!(copy.cdk(), version, "{ran}");
        moved_as_planned(&copy, &ran);
        no_broken_requirements(&copy);
        copy.pcluster_works(strategy);
        let (ran, report) = copy.preflight(&[]);
        ran.exits(0);
        assert_eq!(report["verdict"], "ready", "{ran}");
        // An undo restores the old packages from the snapshot, so it needs no network.
        let undone = copy.run_offline(&["preflight", "undo"]);
        undone.exits(0).is_silent();
        copy.is_as_before(strategy);
        copy.left_nothing(strategy);
    }
    copy.pcluster_works("undone");
    let (ran, _) = copy.preflight(&["--no-synth"]);
    ran.exits(1);
}

impl EnvironmentCopy {
    /// Runs the shim in an empty network namespace.
    #[track_caller]
    fn run_offline(&self, arguments: &[&str]) -> Run {
        let shim = self.path("shim/pcluster");
        let all: Vec<&str> = ["--map-root-user", "--net", "--", shim.to_str().unwrap()]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        self.call(&on_this_machine("unshare"), &all).run()
    }
}

#[test]
fn made_by_pip_and_repaired_by_pip() {
    fix_and_undo(BY_PIP, With::Pip, &STRATEGIES);
}

#[test]
#[ignore = "long"]
fn made_by_pip_and_repaired_by_uv() {
    fix_and_undo(BY_PIP, With::Uv, &STRATEGIES);
}

#[test]
fn made_by_uv_and_repaired_by_uv() {
    assert!(!Environment::named(BY_UV).site_packages().join("pip").exists(), "it has no pip");
    fix_and_undo(BY_UV, With::Uv, &STRATEGIES);
}

/// uv made the environment without pip, and is not available now. The repair uses the pip that is part of
/// `ensurepip` in the environment's Python.
#[test]
#[ignore = "long"]
fn made_by_uv_and_repaired_by_the_pip_of_ensurepip() {
    fix_and_undo(BY_UV, With::Pip, &STRATEGIES[..1]);
}

/// The repair is suspended at a step, and the real pip, which takes no lock, changes a package meanwhile.
/// What pip writes stays, and everything else is as it was.
fn pip_at_the_same_time(step: &str) {
    let copy = EnvironmentCopy::of(BY_PIP, With::Uv);
    let python = copy.environment.bin("python");
    let wheels = copy.beside("wheels").display().to_string();
    let other = "aws-cdk.core==1.152.0";
    copy.call(&python, &["-m", "pip", "download", "-q", "--no-deps", "-d", &wheels, other]).run().exits(0);
    // A dry run fills the installer's cache.
    copy.fix(&["--dry-run"]).exits(0);
    let fixed = std::thread::scope(|scope| {
        let suspended =
            copy.pcluster(&["preflight", "fix"]).var("PCLUSTER_SHIM_FAULT", format!("stop:{step}"));
        let fix = scope.spawn(|| suspended.run());
        let process = wait_for("the repair to be suspended", || copy.suspended_repair());
        let arguments = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "-f", &wheels, other];
        let installed = copy.call(&python, &arguments).run();
        kill_process(process, Signal::CONT).unwrap();
        installed.exits(0);
        fix.join().unwrap()
    });
    failed_cleanly(&fixed);
    assert!(fixed.stderr().contains("another installer changed "), "{fixed}");
    let (before, mut after) = (copy.versions_before(), copy.versions());
    assert_eq!(after.get("aws_cdk.core").map(String::as_str), Some("1.152.0"), "{fixed}");
    after.insert("aws_cdk.core".into(), "1.153.0".into());
    assert_eq!(after, before, "one distribution each, the others as they were\n{fixed}");
    copy.left_nothing("where pip was at work");
}

/// The repair notices pip's changes before it exchanges its first file.
#[test]
#[ignore = "long"]
fn pip_before_the_exchange() {
    pip_at_the_same_time("token");
}

/// The repair notices pip's changes after it has removed and added files.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn pip_during_the_exchange() {
    pip_at_the_same_time("remove");
}

impl EnvironmentCopy {
    /// The process of the repair that has the lock, if that process is suspended.
    fn suspended_repair(&self) -> Option<Pid> {
        let environments = self.path("home/.local/state/pcluster-shim/environments");
        let environment = environments.read_dir().ok()?.flatten().next()?;
        let process = fs::read_to_string(environment.path().join("lock")).ok()?;
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.contains(") T ").then(|| Pid::from_raw(process.parse().unwrap()).unwrap())
    }
}

#[test]
fn mode_fix_builds() {
    let aws = Aws::start();
    let mut copy = EnvironmentCopy::of(BY_PIP, With::Uv);
    copy.use_aws(&aws);
    copy.write("work/image.yaml", aws.configuration());
    copy.set("PCLUSTER_SHIM_MODE", "fix");
    let ran = copy.pcluster(&["build-image", "-c", "image.yaml", "-i", "repaired"]).run();
    ran.exits(0);
    // Stdout is exactly one JSON document, the real pcluster's.
    assert_eq!(ran.json()["image"]["imageId"], "repaired", "{ran}");
    assert!(ran.stderr().lines().all(|line| line.starts_with("pcluster-shim: ")), "{ran}");
    assert!(ran.stderr().contains("1.153.0 -> 1.204.0"), "{ran}");
    let template: Value = serde_json::from_str(&aws.submitted("repaired")).unwrap();
    let properties = &template["Resources"]["DistributionConfiguration"]["Properties"];
    let tags = properties["Distributions"][0]["AmiDistributionConfiguration"]["AmiTags"].as_object().unwrap();
    for tag in TAGS {
        assert!(tags.contains_key(&format!("parallelcluster:{tag}")), "{tag} is missing: {tags:?}");
    }
    assert_eq!(copy.cdk(), "1.204.0");
    copy.left_nothing("by mode fix");
}

impl Aws {
    /// The template that was submitted for a stack, converted to JSON.
    #[track_caller]
    fn submitted(&self, stack: &str) -> String {
        let code = "import boto3, json, sys, yaml\n\
                    body = boto3.client('cloudformation', endpoint_url=sys.argv[1], region_name=sys.argv[2])\
                    .get_template(StackName=sys.argv[3])['TemplateBody']\n\
                    print(json.dumps(yaml.safe_load(body) if isinstance(body, str) else body))";
        let python = Environment::named("moto").bin("python");
        let mut command = Command::new(python);
        command.args(["-c", code, self.fact("endpoint"), self.fact("region"), stack]);
        command.env_clear().env("AWS_ACCESS_KEY_ID", "testing").env("AWS_SECRET_ACCESS_KEY", "testing");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Asserts that a repair in place is refused, and that the refusal contains `why`. Then asserts that a build
/// uses a repair made with `--isolated`, until an upgrade of the environment makes that repair stale.
fn beside(copy: &EnvironmentCopy, run: impl Fn(&[&str]) -> Run, why: &str) {
    let ran = run(&["preflight", "fix"]);
    ran.exits(1);
    assert!(ran.stderr().contains("the environment cannot be repaired in place"), "{ran}");
    assert!(ran.stderr().contains(why) && ran.stderr().contains("--isolated"), "{ran}");
    copy.is_as_before("refused");

    let call = ["build-image", "-c", "image.yaml", "-i", "beside"];
    run(&["preflight", "fix", "--isolated"]).exits(0);
    copy.is_as_before("repaired beside it");
    let ran = run(&call);
    ran.exits(0);
    assert_eq!(ran.json()["image"]["imageId"], "beside", "{ran}");
    copy.is_as_before("used from beside it");

    // Imitates an upgrade of the environment: one of its packages gets another version.
    let site = copy.site();
    let attrs = fs::read_dir(&site).unwrap().flatten().map(|entry| entry.path());
    let attrs = attrs.into_iter().find(|path| path.to_string_lossy().contains("/attrs-")).unwrap();
    let metadata = fs::read_to_string(attrs.join("METADATA")).unwrap();
    let renamed = site.join("attrs-99.0.dist-info");
    fs::rename(&attrs, &renamed).unwrap();
    let (head, tail) = metadata.split_once("\nVersion: ").unwrap();
    let (_, tail) = tail.split_once('\n').unwrap();
    fs::write(renamed.join("METADATA"), format!("{head}\nVersion: 99.0\n{tail}")).unwrap();
    let ran = run(&call);
    ran.exits(1);
    assert!(ran.stderr().contains("out of date"), "{ran}");
    assert!(ran.stderr().contains("1.153.0"), "it is not used\n{ran}");
    let undone = run(&["preflight", "undo"]);
    undone.exits(0);
    let ran = run(&call);
    ran.exits(1);
    assert!(!ran.stderr().contains("out of date"), "{ran}");
}

/// An environment owned by root and run by another user, who may read everything and write nothing in it.
#[test]
fn an_environment_of_root_used_by_another() {
    let aws = Aws::start();
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    copy.use_aws(&aws);
    copy.write("work/image.yaml", aws.configuration());
    copy.is_used_by_another();
    beside(&copy, |arguments| copy.run_as_another(arguments), "is not writable");
}

/// A user installation (`pip install --user`) on a Python that the operating system manages.
#[test]
#[ignore = "long"]
fn a_python_of_the_system() {
    let aws = Aws::start();
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    copy.use_aws(&aws);
    copy.write("work/image.yaml", aws.configuration());
    let base = fs::canonicalize(copy.environment.bin("python")).unwrap();
    // The copy's directory becomes the user base, which has the same layout.
    copy.environment.set_shebang(base.display());
    fs::remove_file(copy.environment.directory.join("pyvenv.cfg")).unwrap();
    let base_directory = copy.environment.directory.clone();
    copy.set("PYTHONUSERBASE", base_directory);
    copy.pcluster_works("on the user's base directory");
    copy.is_right_as_it_is();
    // The marker file of PEP 668 must be in the library of the machine's own Python. To leave that library
    // unchanged, the file is added only in a mount namespace.
    let library = copy.call(&base, &["-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]).run();
    let library = PathBuf::from(library.stdout().trim());
    for name in ["upper", "over"] {
        fs::create_dir(copy.beside(name)).unwrap();
    }
    fs::write(copy.beside("upper/EXTERNALLY-MANAGED"), "[externally-managed]\nError=of the system\n")
        .unwrap();
    let mount = format!(
        "'{mount}' -t overlay -o 'lowerdir={0},upperdir={1}/upper,workdir={1}/over' overlay '{0}' && exec \"$@\"",
        library.display(),
        copy.beside("").display(),
        mount = on_this_machine("mount").display(),
    );
    let run = |arguments: &[&str]| {
        let shim = copy.path("shim/pcluster");
        let first = ["--mount", "--", "/bin/sh", "-c", &mount, "sh", shim.to_str().unwrap()];
        let all: Vec<&str> = first.into_iter().chain(arguments.iter().copied()).collect();
        copy.call(&on_this_machine("unshare"), &all).run()
    };
    beside(&copy, run, "EXTERNALLY-MANAGED");
}

/// Asserts that a repair by uv asks the index that pip.conf names. uv itself does not read that file.
fn uv_asks_the_index_of(pip_conf: impl Fn(&EnvironmentCopy) -> PathBuf) {
    let index = Index::start(&[]);
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    for name in ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_CONFIG_FILE"] {
        copy.unset(name);
    }
    copy.set("UV_NO_CACHE", "1");
    let file = pip_conf(&copy);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("[global]\nindex-url = {}\n", index.url)).unwrap();
    copy.fix(&["--dry-run"]).exits(0);
    let requests = index.requests();
    let asked = |name: &str| requests.contains(&format!("/simple/{name}/"));
    assert!(asked("aws-cdk-core") && asked("jsii"), "{requests:?}");
    copy.is_as_before("after a dry run");
    copy.left_nothing("by a dry run");
}

#[test]
fn uv_asks_the_index_of_the_users_pip_conf() {
    uv_asks_the_index_of(|copy| copy.path("home/.config/pip/pip.conf"));
}

#[test]
#[ignore = "long"]
fn uv_asks_the_index_of_the_environments_pip_conf() {
    uv_asks_the_index_of(|copy| copy.environment.directory.join("pip.conf"));
}

/// The second `fix` does not ask the index for what the first has already installed.
#[test]
fn a_second_fix_has_nothing_to_do_and_needs_no_network() {
    let copy = EnvironmentCopy::of(BY_UV, With::Uv);
    copy.fix(&[]).exits(0);
    let ran = copy.run_offline(&["preflight", "fix"]);
    ran.exits(0);
    assert_eq!(ran.stdout(), "ready: there is nothing to repair\n", "{ran}");
    assert!(Path::new(&copy.site()).is_dir());
}

/// The dry run of a repair works even if a `sitecustomize` prints in every Python that the repair starts.
fn noise_does_not_keep_from_a_repair(with: With) {
    let mut copy = EnvironmentCopy::of(BY_PIP, with);
    let code = "import sys\nprint('{\"noise\": [')\nprint('\\n\\nnoise', file=sys.stderr)\n";
    let noisy = copy.beside("noisy");
    fs::create_dir(&noisy).unwrap();
    fs::write(noisy.join("sitecustomize.py"), code).unwrap();
    copy.set("PYTHONPATH", noisy);
    copy.fix(&["--dry-run"]).exits(0);
    copy.is_as_before("after a dry run");
}

#[test]
#[ignore = "long"]
fn noise_does_not_keep_pip_from_a_repair() {
    noise_does_not_keep_from_a_repair(With::Pip);
}

#[test]
#[ignore = "long"]
fn noise_does_not_keep_uv_from_a_repair() {
    noise_does_not_keep_from_a_repair(With::Uv);
}

/// A launcher that puts directories in front of PYTHONPATH, or replaces PYTHONPATH, hides a repair that is
/// kept next to the environment.
#[test]
#[ignore = "long"]
fn beside_an_environment_whose_launcher_changes_the_path() {
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    let (real, site) = (copy.environment.bin("pcluster"), copy.site());
    let launcher = copy.beside("wrapped/pcluster");
    let wraps = |line: &str| write_wrapper(&launcher, line, &real);
    copy.set("PCLUSTER_SHIM_REAL", launcher.as_os_str());
    let prepends = format!("export PYTHONPATH={}${{PYTHONPATH:+:$PYTHONPATH}}", site.display());
    let call = ["build-image", "-c", "image.yaml", "-i", "beside"];
    copy.write("work/image.yaml", MINIMAL);
    wraps(&prepends);
    let refused = copy.fix(&["--isolated"]);
    refused.exits(1);
    assert!(refused.stderr().contains("the check still fails"), "{refused}");
    copy.left_nothing("by a repair that its launcher hides");
    wraps("export PYTHONPATH=/nonexistent");
    let refused = copy.fix(&["--isolated"]);
    refused.exits(1);
    assert!(refused.stderr().contains("which Python this launcher runs"), "{refused}");

    // This launcher does not change PYTHONPATH, so the repair is used.
    wraps("");
    copy.fix(&["--isolated"]).exits(0);
    let (ran, report) = copy.preflight(&[]);
    ran.exits(0);
    assert_eq!(report["packages"]["aws-cdk-aws-imagebuilder"], "1.204.0", "{ran}");
    wraps(&prepends);
    let ran = copy.pcluster(&call).run();
    assert!(ran.stop()[0].contains("1.153.0"), "{ran}");
    copy.is_as_before("never touched");
}

const MINIMAL: &str = "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n";
