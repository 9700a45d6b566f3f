//! The shim as install.sh installs it, in front of real installations of pcluster: rows 6, 20, 22 and 27 of
//! the table in tests/traps.rs. The module `launchers` checks rows 9 and 21 for every launcher.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::environment_copy::{BY_PIP, EnvironmentCopy, ROOT, With, copy_tree, uv};
use crate::environments::{BROKEN, Environment, GOOD, RealSandbox};
use crate::launchers::LONG;
use crate::support::machine::{on_this_machine, write_script};
use crate::support::run::Run;

const SHIM: &str = env!("CARGO_BIN_EXE_pcluster");
const IMAGE: &str = "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n";

/// An advisory that blocks every CDK, even without a synthesis. A block shows that the call was guarded.
const ADVISORY: &str = "\
- id: no-cdk-at-all
  title: No CDK is to be used here
  level: ERROR
  pcluster: '>=3.0'
  package: aws-cdk.core
  affected: '<3'
  effect: is not allowed here
  cost: It would cost a test.
  fix: {packages: aws-cdk.*, upgrade: '>=3', downgrade: '<1'}
  references: ['https://example.com/']
";

/// Sets PATH as at a login: `first`, Node and the system's directories, but not the shim's directory.
fn at_login(sandbox: &mut RealSandbox, first: &[&Path]) {
    let rest = [sandbox.path("node"), "/usr/local/bin".into(), "/usr/bin".into(), "/bin".into()];
    let path: Vec<PathBuf> = first.iter().map(|entry| entry.to_path_buf()).chain(rest).collect();
    sandbox.set("PATH", std::env::join_paths(path).unwrap());
}

#[track_caller]
fn install(sandbox: &RealSandbox, more: &[&str]) -> Run {
    let script = Path::new(ROOT).join("install.sh");
    let all: Vec<&str> = [script.to_str().unwrap(), "--binary", SHIM].iter().chain(more).copied().collect();
    let ran = sandbox.call(&on_this_machine("sh"), &all).run();
    ran.exits(0);
    ran
}

/// Installs from a checkout and uninstalls, as the README says. The program is linked statically if the
/// machine can do that, because a static program keeps a pass-through quick. It is not optimised here,
/// because optimising takes minutes.
#[test]
fn the_checkout_is_built_and_installed() {
    let mut sandbox = RealSandbox::of(GOOD);
    let (cargo, python) = (on_this_machine("cargo"), sandbox.environment.directory.join("bin"));
    at_login(&mut sandbox, &[&python, cargo.parent().unwrap()]);
    for (name, below) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        let default = || Path::new(&std::env::var_os("HOME").unwrap()).join(below).into_os_string();
        sandbox.set(name, std::env::var_os(name).unwrap_or_else(default));
    }
    for (name, value) in [("LTO", "off"), ("OPT_LEVEL", "0"), ("CODEGEN_UNITS", "16")] {
        sandbox.set(&format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    fs::write(sandbox.path("home/.bashrc"), "# the user's\n").unwrap();
    let script = Path::new(ROOT).join("install.sh");
    sandbox.call(&script, &[] as &[&str]).run().exits(0);
    let installed = sandbox.path("home/.local/share/pcluster-shim/bin/pcluster");
    let program_file = fs::read(&installed).unwrap();
    let linker = sandbox.call(&on_this_machine("cc"), &["-print-file-name=libc.a"]).run().stdout();
    if cfg!(target_env = "gnu") && Path::new(linker.trim()).is_file() {
        assert!(!program_file.windows(9).any(|bytes| bytes == b"/ld-linux"), "it is linked dynamically");
    }
    asks_no_name_service(&sandbox, &installed);
    answers_in_a_root_with_nothing_else(&sandbox, &installed);
    let session = |script: &str| sandbox.call(&on_this_machine("bash"), &["-i", "-c", script]).run();
    let ran = session("pcluster preflight");
    ran.exits(0);
    assert!(ran.stdout().starts_with("ready"), "{ran}");
    session("pcluster preflight where -q").exits(0);
    sandbox.call(&script, &["--uninstall"]).run().exits(0);
    assert!(!installed.exists());
    assert_eq!(fs::read_to_string(sandbox.path("home/.bashrc")).unwrap(), "# the user's\n");
}

/// Runs the installed program as in a container with `--user 12345`: with no HOME, no passwd entry, and a
/// PATH with an entry below `~`. The program must not look up this user's home: a static glibc would load the
/// machine's name service modules for that, and crash.
#[expect(clippy::print_stdout, reason = "a test that does not run says so")]
fn asks_no_name_service(sandbox: &RealSandbox, installed: &Path) {
    if !rustix::process::geteuid().is_root() {
        println!("not tested: only root can be a user without a passwd entry");
        return;
    }
    // User 12345 cannot enter the home in which the shim is installed.
    let directory = tempfile::Builder::new().prefix("pcs-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (shim, real) = (directory.path().join("pcluster-preflight"), directory.path().join("pcluster"));
    fs::copy(installed, &shim).unwrap();
    // A console script whose Python is found on PATH.
    let script = "#!/usr/bin/env python3\nimport sys\nfrom pcluster.cli.entrypoint import main\n\
                  if __name__ == '__main__':\n    sys.exit(main())\n";
    write_script(&real, script);
    let path = format!("PATH=~/bin:{}:/usr/bin:/bin", directory.path().display());
    for command in ["where", "check", "fix"] {
        let user = ["--reuid", "12345", "--regid", "12345", "--clear-groups", "env", "-i", &path];
        let call = [&user[..], &[shim.to_str().unwrap(), command]].concat();
        let ran = sandbox.call(&on_this_machine("setpriv"), &call).run();
        assert!(matches!(ran.status.code(), Some(0..=3 | 127)), "{ran}");
    }
}

/// In a root directory that contains nothing else, the program gives the same answers as outside. It still
/// does after busybox and an nsswitch.conf have been added. The nsswitch.conf names a service that does not
/// exist. With busybox, the program can also be installed in that root directory.
#[expect(clippy::print_stdout, reason = "a test that does not run says so")]
fn answers_in_a_root_with_nothing_else(sandbox: &RealSandbox, installed: &Path) {
    if !rustix::process::geteuid().is_root() || cfg!(not(target_os = "linux")) {
        println!("not tested: only root can enter another root directory");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let inside = |path: &str| root.path().join(path);
    fs::copy(installed, inside("pcluster-preflight")).unwrap();
    let fixture = Path::new(ROOT).join("tests/fixtures/template-bad.json");
    fs::copy(&fixture, inside("template.json")).unwrap();
    let outside = |arguments: &[&str]| {
        let all: Vec<&str> = ["preflight"].iter().chain(arguments).copied().collect();
        sandbox.call(installed, &all).run()
    };
    let chroot = |arguments: &[&str]| {
        let directory = root.path().to_str().unwrap();
        let chroot = on_this_machine("chroot");
        let call = ["-i", "PATH=~/bin:/bin", chroot.to_str().unwrap(), "--userspec=12345:12345", directory];
        sandbox.call(Path::new("/usr/bin/env"), &[&call[..], arguments].concat()).run()
    };
    let is_the_same = || {
        for arguments in [&["advisories"][..], &["constraints", "3.13.2"]] {
            let ran = chroot(&[&["/pcluster-preflight"], arguments].concat());
            ran.exits(0).is_silent();
            let other = outside(arguments).stdout().replace("pcluster preflight", "/pcluster-preflight");
            assert_eq!(ran.stdout(), other, "{ran}");
        }
        let ran = chroot(&["/pcluster-preflight", "template", "/template.json", "--format", "json"]);
        ran.exits(1).is_silent();
        let other = outside(&["template", fixture.to_str().unwrap(), "--format", "json"]);
        let findings = |ran: &Run| ran.json()["findings"].to_string();
        assert_eq!(
            findings(&ran),
            findings(&other).replace("pcluster preflight", "/pcluster-preflight"),
            "{ran}"
        );
        for command in ["where", "check", "fix"] {
            let ran = chroot(&["/pcluster-preflight", command]);
            ran.exits(127);
            assert!(ran.stderr().starts_with("pcluster-shim: error: no real pcluster was found"), "{ran}");
        }
    };
    is_the_same();

    fs::create_dir(inside("etc")).unwrap();
    fs::write(inside("etc/nsswitch.conf"), "passwd: nosuch ldap sss\nhosts: nosuch\n").unwrap();
    let busybox = on_this_machine("busybox");
    let ldd = sandbox.call(&on_this_machine("ldd"), &[&busybox]).run().stdout();
    let libraries = ldd.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for file in libraries.chain([busybox.clone()]) {
        let to = inside(file.strip_prefix("/").unwrap().to_str().unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    fs::create_dir_all(inside("bin")).unwrap();
    for directory in ["tmp", "opt"] {
        fs::create_dir(inside(directory)).unwrap();
        fs::set_permissions(inside(directory), fs::Permissions::from_mode(0o777)).unwrap();
    }
    // For a shell, a regular file in place of the device `/dev/null` is enough.
    fs::create_dir(inside("dev")).unwrap();
    fs::write(inside("dev/null"), "").unwrap();
    fs::set_permissions(inside("dev/null"), fs::Permissions::from_mode(0o666)).unwrap();
    let own = busybox.to_str().unwrap();
    let directory = root.path().to_str().unwrap();
    sandbox.call(&on_this_machine("chroot"), &[directory, own, "--install", "-s", "/bin"]).run().exits(0);
    is_the_same();
    let install = ["/pcluster-preflight", "install", "--prefix", "/opt/shim", "--no-modify-path"];
    chroot(&install).exits(0);
    let ran = chroot(&["/bin/sh", "-c", ". /opt/shim/env && pcluster preflight constraints 3.13.2"]);
    assert_eq!(ran.stdout(), outside(&["constraints", "3.13.2"]).stdout(), "{ran}");
    chroot(&["/opt/shim/install.sh", "--uninstall"]).exits(0);
    assert!(!inside("opt/shim").exists());
    assert_eq!(fs::read_dir(inside("tmp")).unwrap().count(), 0);
}

/// In every kind of environment that can be activated, the call is guarded and that environment's pcluster
/// answers. `where` reports that calls from scripts are not guarded while the environment is active.
#[test]
fn trap_06_an_activated_environment_is_guarded_and_used() {
    let launchers =
        ["pip", "pip with spaces", "uv with spaces", &format!("pip-{LONG}"), &format!("uv-{LONG}")]
            .map(|name| Environment::named(&format!("launchers/{name}")));
    let mut sandbox = RealSandbox::of(GOOD);
    at_login(&mut sandbox, &[]);
    fs::write(sandbox.path("home/.bashrc"), "# the user's\n").unwrap();
    install(&sandbox, &[]);
    let advisories = sandbox.write("work/advisories.yaml", ADVISORY);
    sandbox.write("work/image.yaml", IMAGE);
    fs::create_dir_all(sandbox.path("home/.config/pcluster-shim")).unwrap();
    let config = format!("advisories: [{}]\n", json!(advisories));
    fs::write(sandbox.path("home/.config/pcluster-shim/config.yaml"), config).unwrap();
    let venvs = [BROKEN, BY_PIP, GOOD].map(Environment::named);
    for environment in venvs.iter().chain(&launchers) {
        let activate = environment.directory.join("bin/activate");
        let session = |commands: &str| {
            let script = format!(". \"$1\"; {commands}");
            let arguments = ["-i", "-c", &script, "bash", activate.to_str().unwrap()];
            sandbox.call(&on_this_machine("bash"), &arguments).run()
        };
        let ran = session("pcluster version");
        ran.exits(0);
        assert_eq!(ran.json(), json!({"version": "3.1.3"}), "{ran}");
        let real = environment.bin("pcluster");
        // install.sh has defined a function `pcluster` for interactive shells. So a call in this shell is
        // guarded, and a call in a script is not.
        let ran = session("pcluster preflight where --format json");
        ran.exits(0);
        let report = ran.json();
        assert_eq!(report["real"]["path"], json!(real), "{ran}");
        let guarded = [0, 1].map(|call| &report["calls"][call]["guarded"]);
        assert_eq!(guarded, [&json!(true), &json!(false)], "{ran}");
        assert_eq!(report["warnings"][0]["id"], "shadowed-by-environment", "{ran}");
        let ran = session("pcluster build-image -c image.yaml -i my-image");
        let stop = ran.stop();
        assert!(
            stop.iter()
                .any(|message| message.contains("aws-cdk.core") && message.contains("is not allowed here")),
            "{ran}"
        );
        // A script does not have the shell function. On its PATH, the environment's own directory
        // comes first.
        let shim = sandbox.path("home/.local/share/pcluster-shim/bin/pcluster");
        let script = format!(". \"$1\"; {} preflight where --format json", shim.display());
        let ran = sandbox
            .call(&on_this_machine("bash"), &["-c", &script, "bash", activate.to_str().unwrap()])
            .run();
        ran.exits(1);
        assert_eq!(ran.json()["warnings"][0]["id"], "shadowed-by-environment", "{ran}");
    }
}

/// The base Python of an environment is gone, so the environment's own Python is a broken link.
#[test]
fn trap_20_a_base_python_that_is_gone_is_named() {
    let long = [format!("pip-{LONG}"), format!("uv-{LONG}")];
    let names = ["pip", "user", "uv-tool", "pipx", "pip with spaces", "uv with spaces", &long[0], &long[1]];
    let environments = names.map(|name| Environment::named(&format!("launchers/{name}")));
    for original in environments.iter().chain([&Environment::named(GOOD)]) {
        let mut sandbox = RealSandbox::of(GOOD);
        let launcher = original.bin("pcluster").canonicalize().unwrap();
        let text = fs::read_to_string(&launcher).unwrap();
        let old = launcher.parent().unwrap().parent().unwrap();
        // The launcher of a user installation names the base Python directly.
        let base = original.bin("python").canonicalize().unwrap();
        let directory = sandbox.path("work").join(original.directory.file_name().unwrap());
        let bin = directory.join("bin");
        fs::create_dir_all(&bin).unwrap();
        let gone = bin.join("python");
        let moved = text.replace(old.to_str().unwrap(), directory.to_str().unwrap());
        let moved = moved.replace(base.to_str().unwrap(), gone.to_str().unwrap());
        assert_ne!(moved, text, "{} names its place", launcher.display());
        fs::write(bin.join("pcluster"), moved).unwrap();
        fs::set_permissions(bin.join("pcluster"), launcher.metadata().unwrap().permissions()).unwrap();
        for name in ["python", "python3", "python3.9"] {
            symlink("/no/such/base/bin/python3.9", bin.join(name)).unwrap();
        }
        let shim = sandbox.path("shim");
        at_login(&mut sandbox, &[&shim, &bin]);
        let ran = sandbox.pcluster(&["preflight", "where"]).run();
        ran.exits(0).is_silent();
        let reported = format!("python   unknown: pcluster's interpreter {}/python", bin.display());
        assert!(
            ran.stdout().contains(&reported) && ran.stdout().contains("does not exist; reinstall"),
            "{ran}"
        );
        sandbox.write("work/image.yaml", IMAGE);
        for arguments in [&["version"][..], &["build-image", "-c", "image.yaml", "-i", "my-image"]] {
            let ran = sandbox.pcluster(arguments).run();
            assert!(matches!(ran.status.code(), Some(126 | 127)), "{ran}");
            assert!(ran.stdout().is_empty() && ran.stderr().contains(bin.to_str().unwrap()), "{ran}");
        }
    }
}

/// A check reads the packages of the launcher's Python, even if a `sitecustomize` prints text. Packages on
/// PYTHONPATH and in the user's site directory have the same effect on a check as on the real pcluster.
#[test]
#[ignore = "long"]
fn trap_22_noise_and_other_directories_change_nothing() {
    for name in ["pip", "user", "uv-tool", "pipx"] {
        let mut sandbox = RealSandbox::in_environment(Environment::named(&format!("launchers/{name}")));
        sandbox.set("PYTHONUSERBASE", sandbox.environment.directory.clone());
        let noisy = sandbox.path("work/noisy");
        fs::create_dir(&noisy).unwrap();
        let code = "import sys\nprint('{\"noise\": [')\nprint('\\n\\nnoise', file=sys.stderr)\n";
        fs::write(noisy.join("sitecustomize.py"), code).unwrap();
        sandbox.set("PYTHONPATH", noisy.clone());
        let (ran, report) = sandbox.preflight(&[]);
        ran.exits(0).is_silent();
        assert_eq!(report["verdict"], "ready", "{ran}");
        assert_eq!(report["packages"]["aws-cdk-aws-imagebuilder"], "1.204.0", "{ran}");
        // pcluster would use the broken CDK on PYTHONPATH, so the check reports that CDK.
        let bad = Environment::named(BROKEN).site_packages();
        sandbox.set("PYTHONPATH", std::env::join_paths([&noisy, &bad]).unwrap());
        let (ran, report) = sandbox.preflight(&["--no-synth"]);
        ran.exits(1);
        assert_eq!(report["packages"]["aws-cdk-aws-imagebuilder"], "1.153.0", "{ran}");
    }
}

/// A forced installation of aws-parallelcluster puts its launcher into ~/.local/bin. The shim has its own
/// directory, which stays first on PATH.
#[test]
fn trap_27_a_forced_installation_leaves_the_shim_first() {
    let copy = EnvironmentCopy::of(BY_PIP, With::Uv);
    let mut sandbox = copy.sandbox;
    let bin = sandbox.path("home/.local/bin");
    fs::create_dir_all(&bin).unwrap();
    at_login(&mut sandbox, &[]);
    fs::write(sandbox.path("home/.bashrc"), "PATH=$HOME/.local/bin:$PATH\n").unwrap();
    install(&sandbox, &[]);
    let good = Environment::named(GOOD);
    let frozen =
        sandbox.call(&uv(), &["pip", "freeze", "--python", good.bin("python").to_str().unwrap()]).run();
    let pins: Vec<&str> =
        std::str::from_utf8(&frozen.stdout).unwrap().lines().filter(|line| line.contains("==")).collect();
    let pins = sandbox.write("work/pins.txt", pins.join("\n") + "\n");
    let pins = pins.to_str().unwrap();
    let python = good.bin("python").canonicalize().unwrap();
    let arguments = [
        "tool",
        "install",
        "--force",
        "--python",
        python.to_str().unwrap(),
        "--overrides",
        pins,
        "--with-requirements",
        pins,
        "aws-parallelcluster==3.1.3",
    ];
    sandbox.call(&uv(), &arguments).run().exits(0);
    let session = |script: &str| sandbox.call(&on_this_machine("bash"), &["-i", "-c", script]).run();
    let ran = session("type -P pcluster");
    let first = sandbox.path("home/.local/share/pcluster-shim/bin/pcluster");
    assert_eq!(ran.stdout().trim(), first.to_str().unwrap(), "{ran}");
    let ran = session("pcluster preflight where --format json");
    ran.exits(0);
    assert_eq!(ran.json()["real"]["path"], json!(bin.join("pcluster")), "{ran}");
    let ran = session("pcluster version");
    ran.exits(0);
    assert_eq!(ran.json(), json!({"version": "3.1.3"}), "{ran}");
}

/// pip and uv replace the launcher of an environment that is guarded in place. `where` reports this, and how
/// to guard the environment again. pcluster works all the time.
#[test]
fn trap_27_an_environment_guarded_in_place_and_installed_anew_is_reported() {
    let mut copy = EnvironmentCopy::of(BY_PIP, With::Uv);
    let directory = copy.environment.directory.clone();
    let venv = directory.to_str().unwrap().to_owned();
    let launcher = copy.environment.bin("pcluster");
    let as_installed = fs::read(&launcher).unwrap();
    copy_tree(&directory.join("bin"), &copy.beside("bin"));
    at_login(&mut copy, &[&directory.join("bin")]);
    let python = copy.environment.bin("python");
    let python = python.to_str().unwrap();
    let anew: [(&Path, Vec<&str>); 2] = [
        (Path::new(python), vec!["-m", "pip", "install", "--no-deps", "--force-reinstall"]),
        (&uv(), vec!["pip", "install", "--python", python, "--no-deps", "--reinstall"]),
    ];
    for (installer, mut arguments) in anew {
        install(&copy, &["--venv", &venv]);
        let guarded = copy.call(&launcher, &["preflight", "where", "--format", "json"]).run();
        guarded.exits(0);
        assert_eq!(guarded.json()["real"]["foundBy"], "kept", "{guarded}");
        copy.write("work/image.yaml", IMAGE);
        copy.call(&launcher, &["build-image", "-c", "image.yaml", "-i", "my-image"]).run().stop();

        arguments.push("aws-parallelcluster==3.1.3");
        copy.call(installer, &arguments).run().exits(0);
        let ran = copy.call(&directory.join("bin/pcluster-preflight"), &["where", "--format", "json"]).run();
        ran.exits(1);
        assert_eq!(ran.json()["warnings"][0]["id"], "overwritten", "{ran}");
        let version = copy.call(&launcher, &["version"]).run();
        version.exits(0);
        assert_eq!(version.json(), json!({"version": "3.1.3"}), "{version}");
    }
    install(&copy, &["--venv", &venv]);
    let script = Path::new(ROOT).join("install.sh");
    let arguments = [script.to_str().unwrap(), "--venv", &venv, "--uninstall"];
    copy.call(&on_this_machine("sh"), &arguments).run().exits(0);
    let now = fs::read(&launcher).unwrap();
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned();
    assert_eq!(lines(&now), lines(&as_installed), "the launcher is the environment's own again");
    assert!(!directory.join("bin/.pcluster-shim").exists() && !directory.join("bin/pcluster.real").exists());
}
