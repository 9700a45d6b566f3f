//! A sandbox with one launcher, for one row of the launcher table. The tests compare three things: what the
//! launcher really runs, what the shim reports, and what the shim does with a call.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::environments::{BROKEN, Environment, GOOD, RealSandbox};
use crate::support::run::{Call, Run};

/// The package whose version decides whether the AMI gets its tags.
const IMAGEBUILDER: &str = "aws-cdk-aws-imagebuilder";

/// Records which Python imports pcluster's entry point, and with which CDK. Then ends that Python, because
/// the rest of the run would take two seconds and does not depend on the launcher. A Python that runs a
/// script of the shim, as in a check, is neither recorded nor ended.
const SPY: &str = r#"import os
import sys

ENTRY_POINT = "pcluster.cli.entrypoint"


def note():
    if "pcluster-shim" in getattr(sys.modules["__main__"], "__file__", ""):
        return
    import json
    from importlib.metadata import version

    seen = {
        "executable": sys.executable,
        "arguments": sys.argv,
        "cdk": version("aws-cdk.aws-imagebuilder"),
        "pcluster": version("aws-parallelcluster"),
    }
    with open(os.environ["SPY"], "w") as file:
        json.dump(seen, file)
    os._exit(0)


class Spy:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == ENTRY_POINT:
            note()


if "SPY" in os.environ:
    if ENTRY_POINT in sys.modules:
        note()
    sys.meta_path.insert(0, Spy)
"#;

/// An environment from which a launcher gets its packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packages {
    Good,
    Broken,
}

impl Packages {
    #[track_caller]
    pub(crate) fn environment(self) -> Environment {
        Environment::named(match self {
            Self::Good => GOOD,
            Self::Broken => BROKEN,
        })
    }

    fn cdk(self) -> &'static str {
        match self {
            Self::Good => "1.204.0",
            Self::Broken => "1.153.0",
        }
    }
}

/// Whether the shim can find out, without running pcluster, which packages a launcher uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Known,
    /// The shim cannot find out. It reports this in one line, and the call continues.
    Said,
}

#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) sandbox: RealSandbox,
    launcher: PathBuf,
}

impl Place {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let sandbox = RealSandbox::of(GOOD);
        sandbox.write(
            "work/image.yaml",
            "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n",
        );
        fs::create_dir(sandbox.path("bin")).unwrap();
        let launcher = sandbox.path("bin/pcluster");
        let mut place = Self { sandbox, launcher };
        place.launcher_is(place.launcher.clone());
        place
    }

    /// The path `name` in the sandbox, for example `bin/pcluster`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.sandbox.path(name)
    }

    /// Puts the launcher's directory on PATH, behind the shim.
    pub(crate) fn launcher_is(&mut self, launcher: PathBuf) {
        let directory = launcher.parent().unwrap().to_owned();
        let path = [self.path("shim"), directory, self.path("node"), "/usr/bin".into(), "/bin".into()];
        self.sandbox.set("PATH", std::env::join_paths(path).unwrap());
        self.launcher = launcher;
    }

    /// Sets PYTHONPATH to the directories `behind`, followed by the spy's directory. This is for a launcher
    /// whose packages are in `behind`, because Python runs no `.pth` file in a directory of PYTHONPATH.
    pub(crate) fn spy_by_python_path(&mut self, behind: &[PathBuf]) {
        write(&self.path("spy/sitecustomize.py"), SPY);
        let entries = behind.iter().cloned().chain([self.path("spy")]);
        self.sandbox.set("PYTHONPATH", std::env::join_paths(entries).unwrap());
    }

    // --- tools ------------------------------------------------------------------------

    /// Runs a tool as the user of the sandbox would, but without a package index.
    #[track_caller]
    pub(crate) fn tool<S: AsRef<OsStr>>(&self, program: &Path, arguments: &[S], variables: &[(&str, &Path)]) {
        let call = self.sandbox.call(program, arguments);
        let call = call.path(&[tools().join("bin"), "/usr/bin".into(), "/bin".into()]);
        let call = call.var("PIP_NO_INDEX", "1").var("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        let call = call.var("PIP_NO_COMPILE", "1").var("UV_OFFLINE", "1").var("UV_LINK_MODE", "copy");
        let call = call.var("UV_PYTHON_DOWNLOADS", "never");
        variables.iter().fold(call, |call, (name, value)| call.var(name, *value)).run().exits(0);
    }

    /// Runs `pip install --no-deps ARGUMENTS` for `python`, with the pip of [`tools`].
    #[track_caller]
    pub(crate) fn pip(&self, python: &Path, arguments: &[&OsStr], variables: &[(&str, &Path)]) {
        let words = ["-m", "pip", "--python"].map(OsStr::new);
        let install = ["install", "--no-deps", "--no-compile"].map(OsStr::new);
        let all = [&words[..], &[python.as_os_str()], &install, arguments].concat();
        self.tool(&tools().join("bin/python"), &all, variables);
    }

    /// Makes a virtual environment without pip. `arguments` are more arguments for venv.
    #[track_caller]
    pub(crate) fn venv(&self, name: &str, python: &Path, arguments: &[&str]) -> Venv {
        let venv = Venv(self.path(name));
        let mut all: Vec<&OsStr> = ["-m", "venv", "--without-pip"].map(OsStr::new).into();
        all.extend(arguments.iter().map(OsStr::new));
        all.push(venv.0.as_os_str());
        self.tool(python, &all, &[]);
        venv
    }

    /// A virtual environment with pcluster as pip installs it.
    #[track_caller]
    pub(crate) fn venv_by_pip(&self, name: &str, packages: Packages) -> Venv {
        let venv = self.venv(name, &base(), &[]);
        self.pip(&venv.python(), &[wheel().as_os_str()], &[]);
        link_packages(packages, &venv.site());
        venv
    }

    // --- what really runs -------------------------------------------------------------

    fn note(&self) -> Option<Value> {
        let text = fs::read_to_string(self.path("noted")).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    #[track_caller]
    fn noting(&self, call: Call) -> (Run, Option<Value>) {
        let _ = fs::remove_file(self.path("noted"));
        let ran = call.var("SPY", self.path("noted")).run();
        let note = self.note();
        (ran, note)
    }

    /// Runs the launcher, asserts that it leads to `packages`, and returns what the spy recorded.
    #[track_caller]
    pub(crate) fn truth(&self, packages: Packages) -> Value {
        let (ran, note) = self.noting(self.sandbox.call(&self.launcher, &["version"]));
        let note = note.unwrap_or_else(|| panic!("the launcher ran no pcluster\n{ran}"));
        ran.exits(0);
        assert_eq!(note["cdk"], packages.cdk(), "the fixture leads to other packages\n{ran}");
        assert_eq!(note["pcluster"], "3.1.3", "{ran}");
        note
    }

    /// Asserts that `where` and `check` report the Python and the packages that the launcher really uses, or
    /// report that these are unknown.
    #[track_caller]
    pub(crate) fn is_reported(&self, packages: Packages, answer: Answer) {
        let truth = self.truth(packages);
        let (ran_where, described) = self.sandbox.preflight(&["where"]);
        assert_eq!(described["real"]["path"], serde_json::json!(self.launcher), "{ran_where}");
        let (ran, report) = self.sandbox.preflight(&["check", "--no-synth"]);
        if answer == Answer::Said {
            ran.exits(3);
            assert_eq!(report["verdict"], "unknown", "{ran}");
            assert_eq!(described["packages"], Value::Null, "{ran_where}");
            return;
        }
        ran_where.exits(0);
        assert_eq!(described["interpreter"], truth["executable"], "{ran_where}");
        assert_eq!(described["packages"][IMAGEBUILDER], packages.cdk(), "{ran_where}");
        ran.exits(i32::from(packages != Packages::Good));
        let verdict = if packages == Packages::Good { "ready" } else { "blocked" };
        assert_eq!(report["verdict"], verdict, "{ran}");
        assert_eq!(report["target"]["interpreter"], truth["executable"], "{ran}");
        assert_eq!(report["packages"][IMAGEBUILDER], packages.cdk(), "{ran}");
    }

    #[track_caller]
    fn build_image(&self) -> (Run, Option<Value>) {
        let arguments = ["build-image", "-c", "image.yaml", "-i", "of-the-table"];
        self.noting(self.sandbox.pcluster(&arguments))
    }

    /// Runs a guarded `build-image`. With good packages, pcluster runs and the shim prints nothing. With
    /// broken packages, the shim stops the call before pcluster runs. If the packages are unknown, the shim
    /// reports this in one line, and pcluster runs.
    #[track_caller]
    pub(crate) fn is_guarded(&self, packages: Packages, answer: Answer) {
        if (packages, answer) == (Packages::Broken, Answer::Known) {
            let (ran, note) = self.build_image();
            assert!(!ran.stop().is_empty(), "{ran}");
            assert_eq!(note, None, "pcluster ran\n{ran}");
            return;
        }
        let said = self.goes_on(packages, 1);
        assert_eq!(said, usize::from(answer == Answer::Said), "lines of the shim's");
    }

    /// Asserts that a guarded `build-image` runs the real pcluster, and that the shim prints at most `lines`
    /// lines. Returns the number of lines that it printed.
    #[track_caller]
    pub(crate) fn goes_on(&self, packages: Packages, lines: usize) -> usize {
        let (ran, note) = self.build_image();
        let note = note.unwrap_or_else(|| panic!("pcluster did not run\n{ran}"));
        assert_eq!(note["cdk"], packages.cdk(), "{ran}");
        assert_eq!(note["arguments"][1], "build-image", "{ran}");
        let said = ran.stderr().lines().filter(|line| line.starts_with("pcluster-shim: ")).count();
        assert!(said <= lines, "{ran}");
        said
    }

    /// Asserts that a guarded `build-image` fails without running pcluster, and that a check does not
    /// report `ready`.
    #[track_caller]
    pub(crate) fn cannot_start(&self) {
        let (ran, note) = self.build_image();
        assert!(!ran.status.success() && note.is_none(), "{ran}");
        assert!(ran.stderr().starts_with("pcluster-shim: "), "{ran}");
        let (ran, report) = self.sandbox.preflight(&["check", "--no-synth"]);
        assert!(matches!(ran.status.code(), Some(1 | 3)), "{ran}");
        assert_ne!(report["verdict"], "ready", "{ran}");
    }
}

/// The prefix of a Python: a virtual environment, or a Python with its own library.
#[derive(Debug, Clone)]
pub(crate) struct Venv(pub(crate) PathBuf);

impl Venv {
    pub(crate) fn python(&self) -> PathBuf {
        self.0.join("bin/python")
    }

    pub(crate) fn pcluster(&self) -> PathBuf {
        self.0.join("bin/pcluster")
    }

    pub(crate) fn site(&self) -> PathBuf {
        self.0.join(library()).join("site-packages")
    }
}

/// Makes a prefix like that of conda or of an operating system, with its own Python and its own, empty
/// `site-packages`. The executable is copied, and the library is linked.
pub(crate) fn prefix_of(python: &Path, library: &Path, at: &Path) -> Venv {
    let version = library.file_name().unwrap();
    let (bin, own) = (at.join("bin"), at.join("lib").join(version));
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(own.join("site-packages")).unwrap();
    fs::copy(python, bin.join(version)).unwrap();
    symlink(version, bin.join("python")).unwrap();
    symlink(version, bin.join("python3")).unwrap();
    for entry in fs::read_dir(library).unwrap().flatten() {
        if entry.file_name() != "site-packages" && entry.file_name() != "dist-packages" {
            symlink(entry.path(), own.join(entry.file_name())).unwrap();
        }
    }
    Venv(at.to_owned())
}

/// The Python that `scripts/environments` made the environments with.
pub(crate) fn base() -> PathBuf {
    Packages::Good.environment().bin("python").canonicalize().unwrap()
}

/// The directory of Python's library in a prefix: `lib/python3.9`.
pub(crate) fn library() -> PathBuf {
    let good = Packages::Good.environment();
    let site = good.site_packages();
    site.parent().unwrap().strip_prefix(&good.directory).unwrap().to_owned()
}

#[track_caller]
pub(crate) fn tools() -> PathBuf {
    Environment::named("launchers/tools").directory
}

/// The published wheel of aws-parallelcluster.
#[track_caller]
pub(crate) fn wheel() -> PathBuf {
    let mut found = fs::read_dir(tools().join("wheels")).unwrap().flatten().map(|entry| entry.path());
    found.find(|path| path.extension().is_some_and(|ending| ending == "whl")).unwrap()
}

/// Links the requirements of pcluster into a site directory, in place of those that an earlier call has
/// linked. Adds a spy, and a `.pth` file that starts it.
pub(crate) fn link_packages(packages: Packages, site: &Path) {
    fs::create_dir_all(site).unwrap();
    unlink_packages(site);
    for entry in fs::read_dir(packages.environment().site_packages()).unwrap().flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let own = ["pcluster", "aws_parallelcluster-", "_virtualenv", "__pycache__"];
        if !own.iter().any(|prefix| text.starts_with(prefix)) && !site.join(&name).exists() {
            symlink(entry.path(), site.join(&name)).unwrap();
        }
    }
    spy_in(site);
}

/// Adds a spy to a site directory, and a `.pth` file that starts it.
pub(crate) fn spy_in(site: &Path) {
    write(&site.join("table_spy.py"), SPY);
    write(&site.join("table_spy.pth"), "import table_spy\n");
}

/// Links the requirements of pcluster, and pcluster itself, for a test that runs no installer.
pub(crate) fn link_all(packages: Packages, site: &Path) {
    link_packages(packages, site);
    for entry in fs::read_dir(packages.environment().site_packages()).unwrap().flatten() {
        if !site.join(entry.file_name()).exists() && !entry.file_name().to_string_lossy().starts_with('_') {
            symlink(entry.path(), site.join(entry.file_name())).unwrap();
        }
    }
}

/// Links only the CDK into a directory, as if pip had installed only the CDK there.
pub(crate) fn link_cdk(packages: Packages, site: &Path) {
    fs::create_dir_all(site).unwrap();
    for entry in fs::read_dir(packages.environment().site_packages()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("aws_cdk") {
            symlink(entry.path(), site.join(entry.file_name())).unwrap();
        }
    }
}

fn unlink_packages(site: &Path) {
    for entry in fs::read_dir(site).unwrap().flatten() {
        let path = entry.path();
        if path.is_symlink() {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Adds the spy to a directory, as `sitecustomize`. In a directory of PYTHONPATH, Python runs a
/// `sitecustomize`, but no `.pth` file.
pub(crate) fn customize(site: &Path) {
    write(&site.join("sitecustomize.py"), SPY);
}

pub(crate) fn write(file: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    // The file is removed first: if it is a link, writing to it would change the original.
    let _ = fs::remove_file(file);
    fs::write(file, text).unwrap();
}
