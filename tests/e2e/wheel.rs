//! The wheel `pcluster-preflight`, served by an index on the loopback. pip, uv, uvx and pipx install, upgrade
//! and uninstall it. In between, its program checks and guards an environment. The real pcluster is the same
//! after every step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::environment_copy::{
    BY_PIP, BY_UV, EnvironmentCopy, Index, ROOT, With, ask_the_index_of_the_caller, copy_tree, uv,
};
use crate::environments::{Environment, GOOD, RealSandbox};
use crate::support::run::Run;

const MATURIN: &str = "maturin==1.12.0";
const PIPX: &str = "pipx==1.11.1";
const NAME: &str = "pcluster-preflight";
const IMAGE: &str = "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n";

/// Makes a wheel of a later release, with the same program.
const RENUMBER: &str = r#"
import pathlib, re, sys, zipfile
[old] = pathlib.Path(sys.argv[1]).glob("*.whl")
version = old.name.split("-")[1]
newer = lambda text: text.replace("pcluster_preflight-" + version, "pcluster_preflight-99.0")
with zipfile.ZipFile(old) as one, zipfile.ZipFile(old.with_name(newer(old.name)), "w", zipfile.ZIP_STORED) as other:
    for entry in one.infolist():
        content = one.read(entry)
        entry.filename = newer(entry.filename)
        if entry.filename.endswith("METADATA"):
            content = re.sub(rb"(?m)^Version: .*", b"Version: 99.0", content, count=1)
        if entry.filename.endswith("RECORD"):
            lines = newer(content.decode()).splitlines()
            content = "".join(line.split(",")[0] + ",,\n" for line in lines).encode()
        other.writestr(entry, content)
"#;

/// The directory with the wheel of this checkout, and with a wheel of a later release.
fn wheels() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = Path::new(ROOT).join("target/wheels-of-tests");
        let _ = fs::remove_dir_all(&directory);
        // The program in this wheel is not optimised. scripts/release builds the wheel for users.
        let mut maturin = Command::new(uv());
        maturin.args(["tool", "run", "--quiet", MATURIN, "build", "--compatibility", "linux", "--out"]);
        run(maturin.arg(&directory).current_dir(ROOT));
        let python = Environment::named(GOOD).bin("python");
        run(Command::new(python).args(["-c", RENUMBER]).arg(&directory));
        directory
    })
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{stderr}");
}

pub(crate) fn index() -> Index {
    Index::start(&[format!("own={NAME},{}", wheels().display())])
}

/// Runs `install` or `uninstall` in the environment.
type Installer = fn(&EnvironmentCopy, &[&str]) -> Run;

fn pip(copy: &EnvironmentCopy, arguments: &[&str]) -> Run {
    let more: &[&str] = if arguments[0] == "uninstall" { &["--yes"] } else { &["--no-deps"] };
    copy.call(&copy.environment.bin("python"), &[&["-m", "pip"], arguments, more].concat()).run()
}

fn uv_pip(copy: &EnvironmentCopy, arguments: &[&str]) -> Run {
    let python = copy.environment.bin("python");
    let more: &[&str] = if arguments[0] == "uninstall" { &[] } else { &["--no-deps"] };
    copy.call(&uv(), &[&["pip"], arguments, more, &["--python", python.to_str().unwrap()]].concat()).run()
}

fn is_of_the_shim(program: &Path) -> bool {
    let preflight = program.with_file_name(NAME);
    fs::read(program).is_ok_and(|one| fs::read(preflight).is_ok_and(|other| one == other))
}

fn lives_beside_the_real_one(original: &str, with: With, installer: Installer) {
    let index = index();
    let mut copy = EnvironmentCopy::of(original, with);
    copy.set("PIP_INDEX_URL", &index.url);
    copy.set("UV_DEFAULT_INDEX", &index.url);
    for directory in ["/usr/bin", "/bin"] {
        copy.put_on_path(directory);
    }
    copy.take_off_path("shim");
    copy.write("work/image.yaml", IMAGE);
    let bin = |name: &str| copy.environment.bin(name);
    let venv = copy.environment.directory.to_str().unwrap().to_owned();
    let launcher = fs::read(bin("pcluster")).unwrap();
    let is_real = |name: &str, when: &str| {
        assert!(fs::read(bin(name)).unwrap() == launcher, "{when}: the real pcluster is another file");
        copy.pcluster_works(when);
    };
    let preflight = |arguments: &[&str]| copy.call(&bin(NAME), arguments).run();
    let is_blocked = || {
        // Here the program is called by its path, and the environment is not on PATH. The program then checks
        // the pcluster in its own directory.
        let call = copy.call(&bin(NAME), &["check", "--no-synth", "--format", "json"]);
        let ran = call.var("PATH", copy.path("node")).run();
        ran.exits(1).is_silent();
        let command = format!("{} fix", bin(NAME).display());
        assert_eq!(ran.json()["findings"][0]["fix"]["command"], command, "{ran}");
    };
    let is_guarded = || {
        assert!(is_of_the_shim(&bin("pcluster")), "bin/pcluster is not the shim");
        is_real("pcluster.real", "guarded");
        copy.real(&["build-image", "-c", "image.yaml", "-i", "my-image"]).run().stop();
    };
    let done = |arguments: &[&str]| {
        installer(&copy, arguments).exits(0);
    };

    let versions = wheels().read_dir().unwrap().flatten().map(|file| file.file_name().into_string().unwrap());
    let mut versions: Vec<String> = versions.map(|name| name.split('-').nth(1).unwrap().to_owned()).collect();
    versions.sort();
    assert_eq!(versions, [env!("CARGO_PKG_VERSION"), "99.0"]);

    done(&["install", &format!("{NAME}=={}", versions[0])]);
    is_real("pcluster", "the wheel is installed");
    is_blocked();
    preflight(&["install", "--venv", &venv]).exits(0);
    is_guarded();
    done(&["install", "--upgrade", NAME]);
    assert_eq!(copy.versions()["pcluster_preflight"], "99.0");
    is_guarded();

    // An installer that writes the real launcher again removes the guard without noticing.
    let wheel = Environment::named("launchers/tools").directory.join("wheels");
    let wheel = wheel.read_dir().unwrap().flatten().map(|file| file.path()).next().unwrap();
    let again = if with == With::Pip { "--force-reinstall" } else { "--reinstall" };
    done(&["install", again, wheel.to_str().unwrap()]);
    is_real("pcluster", "the real one is installed anew");
    is_blocked();
    let ran = preflight(&["where"]);
    ran.exits(1);
    let script = bin(".pcluster-shim/install.sh");
    let advice = format!("To guard it again, run `sh {} --venv {venv}`.", script.display());
    assert!(ran.stdout().split_whitespace().collect::<Vec<_>>().join(" ").contains(&advice), "{ran}");
    copy.call(&script, &["--venv", &venv]).run().exits(0);
    is_guarded();
    preflight(&["install", "--venv", &venv, "--uninstall"]).exits(0);
    is_real("pcluster", "the guard is gone");
    is_blocked();

    preflight(&["install", "--venv", &venv]).exits(0);
    done(&["uninstall", NAME]);
    assert!(!bin(NAME).exists());
    is_real("pcluster.real", "the wheel is gone, the guard is not");
    copy.real(&["build-image", "-c", "image.yaml", "-i", "my-image"]).run().stop();
    copy.call(&script, &["--uninstall", "--venv", &venv]).run().exits(0);
    is_real("pcluster", "all of it is gone");
    assert!(!bin(".pcluster-shim").exists() && !bin("pcluster.real").exists());
}

#[test]
#[ignore = "long"]
fn beside_an_environment_of_pip() {
    lives_beside_the_real_one(BY_PIP, With::Pip, pip);
}

#[test]
fn beside_an_environment_of_uv() {
    lives_beside_the_real_one(BY_UV, With::Uv, uv_pip);
}

/// On a login node, `pcluster-preflight` is a uv tool with its own environment. Its command `install`
/// installs the guard.
#[test]
fn a_login_node_is_guarded_from_the_wheel() {
    let index = index();
    let mut copy = EnvironmentCopy::of(BY_UV, With::Uv);
    copy.set("UV_DEFAULT_INDEX", &index.url);
    for directory in ["/usr/bin", "/bin"] {
        copy.put_on_path(directory);
    }
    copy.set("SHELL", "/bin/bash");
    copy.write("work/image.yaml", IMAGE);
    fs::write(copy.path("home/.bashrc"), "# the user's\n").unwrap();
    let (tools, programs) = (copy.beside("tools"), copy.beside("uv"));
    copy.set("UV_TOOL_DIR", tools);
    copy.set("UV_TOOL_BIN_DIR", programs);
    copy.take_off_path("shim");
    copy.call(&uv(), &["tool", "install", "--quiet", NAME]).run().exits(0);
    let preflight = copy.beside("uv").join(NAME);
    copy.call(&preflight, &["install"]).run().exits(0);
    let session = |line: &str| copy.call(Path::new("/bin/bash"), &["-i", "-c", line]).run();
    session("pcluster preflight where -q").exits(0);
    session("pcluster build-image -c image.yaml -i my-image").stop();
    // The guard still works without the tool, because the guard is a separate copy.
    copy.call(&uv(), &["tool", "uninstall", "--quiet", NAME]).run().exits(0);
    session("pcluster build-image -c image.yaml -i my-image").stop();
    session("pcluster version").exits(0);
    session("~/.local/share/pcluster-shim/install.sh --uninstall").exits(0);
    assert_eq!(fs::read_to_string(copy.path("home/.bashrc")).unwrap(), "# the user's\n");
    copy.pcluster_works("uninstalled");
    copy.is_as_before("uninstalled");
}

/// A sandbox in which uv and pipx install tools from the index.
fn with_tools(index: &Index) -> RealSandbox {
    let mut sandbox = RealSandbox::of(GOOD);
    for directory in ["/usr/bin", "/bin"] {
        sandbox.put_on_path(directory);
    }
    ask_the_index_of_the_caller(&mut sandbox);
    for (name, value) in [
        ("UV_DEFAULT_INDEX", index.url.clone().into()),
        ("PIP_INDEX_URL", index.url.clone().into()),
        ("UV_TOOL_DIR", sandbox.path("work/tools")),
        ("UV_TOOL_BIN_DIR", sandbox.path("work/bin")),
        ("UV_PYTHON_DOWNLOADS", "never".into()),
        ("UV_LINK_MODE", "copy".into()),
    ] {
        sandbox.set(name, value);
    }
    sandbox
}

fn base() -> PathBuf {
    Environment::named(GOOD).bin("python").canonicalize().unwrap()
}

/// Requirements that pin the packages of the good environment.
fn as_good(sandbox: &RealSandbox) -> PathBuf {
    let site = Environment::named(GOOD).site_packages();
    let names = site.read_dir().unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let lines = names.filter_map(|name| {
        let (name, version) = name.strip_suffix(".dist-info")?.rsplit_once('-')?;
        Some(format!("{name}=={version}\n"))
    });
    sandbox.write("work/good.txt", lines.collect::<String>())
}

#[test]
fn uvx_judges_what_would_be_installed() {
    let index = index();
    let sandbox = with_tools(&index);
    let (good, base) = (as_good(&sandbox), base());
    let uvx = |release: &str, command: &str| {
        let with = format!("aws-parallelcluster=={release}");
        let mut all = vec!["tool", "run", "--quiet", "--python", base.to_str().unwrap(), "--with", &with];
        if release == "3.1.3" {
            all.extend(["--overrides", good.to_str().unwrap()]);
        }
        all.extend([NAME, command, "--format", "json"]);
        sandbox.call(&uv(), &all).run()
    };
    let ran = uvx("3.1.3", "check");
    ran.exits(0).is_silent();
    let report = ran.json();
    assert_eq!(
        (&report["verdict"], &report["target"]["pclusterVersion"]),
        (&"ready".into(), &"3.1.3".into())
    );
    // The overrides only pin versions. The code of release 3.1.3 is as published, so the Lambda runtime in
    // that code is still reported.
    let mut findings = report["findings"].as_array().unwrap().iter();
    let runtime = findings.find(|finding| finding["id"] == "lambda-runtime").unwrap();
    let fix = runtime["fix"]["command"].as_str().unwrap();
    assert!(fix.starts_with("install aws-parallelcluster with `uv tool install`"), "{ran}");
    // Without overrides, uvx installs the newest versions that release 3.6.1 permits. With these versions,
    // pcluster does not start.
    let ran = uvx("3.6.1", "check");
    ran.exits(1);
    assert!(
        ran.json()["findings"].as_array().unwrap().iter().any(|finding| finding["id"] == "startup"),
        "{ran}"
    );
    assert!(ran.stdout().contains("pcluster-preflight constraints 3.6.1"), "{ran}");
    // The environment is in uv's cache, which all uvx calls share, so `fix` refuses to change
    // the environment.
    let ran = uvx("3.6.1", "fix");
    ran.exits(1);
    assert!(ran.stderr().contains("is in uv's cache"), "{ran}");
    assert!(ran.stdout().contains("pcluster-preflight constraints 3.6.1"), "{ran}");
    uvx("3.6.1", "check").exits(1);
    assert!(!sandbox.path("work/tools").join(NAME).exists());
}

#[test]
fn uv_tool_installs_it_beside_the_real_one() {
    let index = index();
    let sandbox = with_tools(&index);
    let (good, base) = (as_good(&sandbox), base());
    let words =
        ["tool", "install", "--quiet", "--python", base.to_str().unwrap(), "aws-parallelcluster==3.1.3"];
    let words =
        [&words[..], &["--overrides", good.to_str().unwrap(), "--with-executables-from", NAME]].concat();
    sandbox.call(&uv(), &words).run().exits(0);
    judges_the_one_beside_it(&sandbox, &sandbox.path("work/bin"));
    sandbox.call(&uv(), &["tool", "uninstall", "--quiet", "aws-parallelcluster"]).run().exits(0);
    assert_eq!(sandbox.path("work/bin").read_dir().unwrap().count(), 0);
}

#[test]
fn pipx_injects_it_beside_the_real_one() {
    let index = index();
    let mut sandbox = with_tools(&index);
    // scripts/environments has already installed aws-parallelcluster with pipx. The test copies the result,
    // so that pipx does not have to install all requirements again.
    let (made, home) =
        (Environment::named("launchers/pipx").directory.join("pipx"), sandbox.path("work/pipx"));
    copy_tree(&made, &home);
    let script = home.join("venvs/aws-parallelcluster/bin/pcluster");
    let text = fs::read_to_string(&script).unwrap().replace(made.to_str().unwrap(), home.to_str().unwrap());
    fs::write(&script, text).unwrap();
    let bin = sandbox.path("work/bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(&script, bin.join("pcluster")).unwrap();
    sandbox.set("PIPX_HOME", home);
    sandbox.set("PIPX_BIN_DIR", bin.clone());
    let real = fs::read(bin.join("pcluster")).unwrap();
    let pipx = ["tool", "run", "--quiet", PIPX];
    let inject = [&pipx[..], &["inject", "--include-apps", "aws-parallelcluster", NAME]].concat();
    sandbox.call(&uv(), &inject).run().exits(0);
    judges_the_one_beside_it(&sandbox, &bin);
    sandbox.call(&uv(), &[&pipx[..], &["uninject", "aws-parallelcluster", NAME]].concat()).run().exits(0);
    assert!(!bin.join(NAME).exists());
    assert!(fs::read(bin.join("pcluster")).unwrap() == real, "the real pcluster is another file");
}

/// Asserts that pcluster-preflight, called by its path in `bin`, checks the pcluster in `bin`, although `bin`
/// is not on PATH. Asserts that this pcluster works.
#[track_caller]
fn judges_the_one_beside_it(sandbox: &RealSandbox, bin: &Path) {
    let call = sandbox.call(&bin.join(NAME), &["check", "--no-synth", "--format", "json"]);
    let ran = call.var("PATH", sandbox.path("node")).run();
    ran.exits(0).is_silent();
    let report: Value = ran.json();
    assert_eq!(report["target"]["path"], bin.join("pcluster").to_str().unwrap(), "{ran}");
    assert_eq!(report["target"]["foundBy"], "beside", "{ran}");
    let version = sandbox.call(&bin.join("pcluster"), &["version"]).run();
    assert_eq!(version.json()["version"], "3.1.3", "{version}");
}
