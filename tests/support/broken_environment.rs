//! A broken environment, on which tests run repairs. RECORDs list the files of CDK, jsii and attrs, as after
//! an installation by pip. A fake uv and a fake pip install releases of CDK.

use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::support::fakes::{BAD, Environment, GOOD, built};
use crate::support::machine::{copy_program, on_this_machine, output};
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

/// A broken environment in a sandbox.
#[derive(Debug)]
pub(crate) struct BrokenEnvironment<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) environment: Environment<'a>,
    /// The shim's state directory; on another file system in some tests.
    pub(crate) state: PathBuf,
    /// The temporary directory on that other file system; it is removed when this value is dropped.
    elsewhere: Option<tempfile::TempDir>,
}

impl<'a> Deref for BrokenEnvironment<'a> {
    type Target = Environment<'a>;

    fn deref(&self) -> &Environment<'a> {
        &self.environment
    }
}

/// Every file and directory by its path, with mode and group; files also with time and content.
pub(crate) type Tree = BTreeMap<PathBuf, String>;

/// The file that binds a repair to its environment. It is in `site` as long as the repair can be undone.
pub(crate) const TOKEN: &str = ".repaired-by-pcluster-shim";

/// One file of a fake wheel: path, content, mode.
type File<'a> = (&'a str, String, u32);

impl Sandbox {
    /// aws-parallelcluster 3.1.3 with CDK 1.153.0, in `venv`; with bytecode from pip and from an import.
    pub(crate) fn broken_environment(&self) -> BrokenEnvironment<'_> {
        for tool in ["chattr", "chmod", "cp", "kill", "mkdir", "rm"] {
            self.link(format!("tools/{tool}"), on_this_machine(tool));
        }
        let environment = self.environment();
        let site = environment.path("site");
        for entry in site.read_dir().unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("aws") {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        let new =
            BrokenEnvironment { sandbox: self, environment, state: self.path("state"), elsewhere: None };
        let requires = "Requires-Dist: aws-cdk.core (~=1.137)\nRequires-Dist: aws-cdk.aws-imagebuilder\n";
        new.wheel(&site, "aws-parallelcluster", "3.1.3", requires, &[]);
        new.wheel(&site, "attrs", "21.4.0", "", &[("attr/__init__.py", "attrs 21.4.0".into(), 0o644)]);
        new.cdk_release(&site, "1.153.0", "1.57.0");
        new.compile("aws_cdk/core/__init__.py", true);
        new.compile("aws_cdk/aws_imagebuilder/__init__.py", false);
        self.write(site.join("aws_cdk.aws-imagebuilder-1.153.0.dist-info/REQUESTED"), "");
        // Modes that no current installer would choose.
        set_mode(&site.join("aws_cdk.core-1.153.0.dist-info"), 0o2750);
        set_mode(&site.join("aws_cdk/aws_imagebuilder/only_in_1.153.0"), 0o700);
        for (version, jsii) in [("1.204.0", "1.132.0"), ("1.152.0", "1.57.0")] {
            let wheels = self.path("installer").join(version);
            new.cdk_release(&wheels, version, jsii);
            new.wheel(&wheels, "attrs", "21.4.0", "", &[("attr/__init__.py", "attrs 21.4.0".into(), 0o644)]);
        }
        for (release, template) in [("1.153.0", BAD), ("1.152.0", GOOD), ("1.204.0", GOOD)] {
            new.builds_with(release, template);
        }
        new.synthesizes(SYNTH);
        self.write("installer/run", INSTALLER.replace("@HERE@", self.path("installer").to_str().unwrap()));
        new.installs_by(INSTALL);
        self.write("installer/check", "");
        self.write(new.path("fake/compile"), COMPILE);
        let log = self.path("log");
        let run = self.path("installer/run");
        self.script(
            "tools/uv",
            format!("#!/bin/sh\nshift\necho \"uv $1\" >>'{}'\n. '{}'\n", log.display(), run.display()),
        );
        new
    }

    /// A broken environment. The shim's state is on another file system, so snapshots are copies instead of
    /// hard links.
    pub(crate) fn broken_environment_across_file_systems(&self) -> BrokenEnvironment<'_> {
        let mut new = self.broken_environment();
        let elsewhere = tempfile::Builder::new().prefix("pcs-").tempdir_in("/dev/shm");
        let elsewhere = elsewhere.expect("/dev/shm, a file system of its own, can be written");
        let device = |path: &Path| path.metadata().unwrap().dev();
        assert_ne!(device(elsewhere.path()), device(&self.root), "/dev/shm is no file system of its own");
        elsewhere.path().clone_into(&mut new.state);
        new.elsewhere = Some(elsewhere);
        new
    }
}

impl BrokenEnvironment<'_> {
    /// Sets the template that this release of CDK builds.
    pub(crate) fn builds_with(&self, release: &str, template: &str) {
        let answer = built(template);
        self.sandbox.write(self.path("fake").join(format!("synth-{release}.json")), answer.to_string());
    }

    /// Adds an advisory on CDK 1.152.0, so that an environment can be repaired again after a repair has
    /// downgraded it to that release.
    pub(crate) fn has_an_advisory_on_1_152_0(&self) {
        let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules/advisories/advisories.yaml");
        let built_in = fs::read_to_string(built_in).unwrap();
        let first = built_in.split("\n\n- id: ").next().unwrap();
        let other = first
            .replace("cdk-imagebuilder-1.153.0", "another")
            .replace("\"==1.153.0\"", "\"==1.152.0\"")
            .replace("shows: template", "shows: later");
        self.sandbox.write("config/pcluster-shim/config.yaml", "advisories: [other.yaml]\n");
        self.sandbox.write("config/pcluster-shim/other.yaml", other);
    }

    /// Sets the sh code that `uv pip install` and `pip install` run. It can use $target, $requirements,
    /// $constraints and $here.
    pub(crate) fn installs_by(&self, sh: &str) {
        self.sandbox.write("installer/install", sh);
    }

    /// Removes uv, and puts a pip into the environment.
    pub(crate) fn has_pip_only(&self) {
        fs::remove_file(self.sandbox.path("tools/uv")).unwrap();
        self.has_pip();
    }

    /// Removes uv. The only pip is then the wheel that the environment's Python bundles.
    pub(crate) fn has_bundled_pip_only(&self) {
        fs::remove_file(self.sandbox.path("tools/uv")).unwrap();
        self.has_bundled_pip(&json!(self.path("lib/pip-23.0.1-py3-none-any.whl")));
        copy_program(&self.sandbox.path("installer/run"), &self.path("fake/pip"));
    }

    /// The snapshot of the last repair, or of an interrupted repair.
    pub(crate) fn snapshot(&self) -> PathBuf {
        let name = self.kept().into_iter().find(|name| name.starts_with("snapshot-"));
        self.repairs().join(name.expect("there is a snapshot"))
    }

    /// The journal of the only repair that can be undone.
    pub(crate) fn closed_journal(&self) -> PathBuf {
        let name = self.kept().into_iter().find(|name| name.starts_with("repair-"));
        self.repairs().join(name.expect("there is a journal"))
    }

    pub(crate) fn has_pip(&self) {
        self.wheel(&self.path("site"), "pip", "21.2", "", &[]);
        copy_program(&self.sandbox.path("installer/run"), &self.path("fake/pip"));
    }

    /// Removes the bytecode, as if uv had installed the packages: uv does not write any.
    pub(crate) fn is_not_compiled(&self) {
        for package in ["core", "aws_imagebuilder"] {
            let directory = self.path("site/aws_cdk").join(package);
            fs::remove_dir_all(directory.join("__pycache__")).unwrap();
        }
        let record = self.path("site/aws_cdk.core-1.153.0.dist-info/RECORD");
        let text = fs::read_to_string(&record).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains(".pyc")).collect();
        fs::write(&record, lines.join("\n") + "\n").unwrap();
    }

    /// Adds the bytecode of a source file. With `by_pip`, RECORD lists the bytecode, as if pip had compiled
    /// the file. Otherwise RECORD does not list it, as if Python had written it on import.
    pub(crate) fn compile(&self, source: &str, by_pip: bool) {
        let source = Path::new(source);
        let name = format!("{}.cpython-39.pyc", source.file_stem().unwrap().display());
        let compiled = source.parent().unwrap().join("__pycache__").join(name);
        let content = fs::read(self.path("site").join(source)).unwrap();
        self.sandbox.write(self.path("site").join(&compiled), [b"compiled ", content.as_slice()].concat());
        if by_pip {
            let record = self.path("site/aws_cdk.core-1.153.0.dist-info/RECORD");
            let text = fs::read_to_string(&record).unwrap();
            fs::write(&record, format!("{}{},,\n", text, compiled.display())).unwrap();
        }
    }

    /// Adds files to an unpacked distribution. The RECORD of the distribution lists each file as `lead`,
    /// followed by the file's path below `base`.
    pub(crate) fn add_files(&self, dist_info: &Path, base: &Path, lead: &str, files: &[(&str, &str, u32)]) {
        let mut record = fs::read_to_string(dist_info.join("RECORD")).unwrap();
        for (path, content, mode) in files {
            set_mode(&self.sandbox.write(base.join(path), content), *mode);
            let _ = writeln!(record, "{lead}{path},sha256=x,1");
        }
        fs::write(dist_info.join("RECORD"), record).unwrap();
    }

    /// Writes the packages of one release of CDK, and the jsii that they need.
    fn cdk_release(&self, directory: &Path, version: &str, jsii: &str) {
        let core = [
            ("aws_cdk/core/__init__.py", version.to_owned(), 0o644),
            (&format!("aws_cdk/core/_jsii/core@{version}.jsii.tgz"), format!("core {version}"), 0o600),
            ("aws_cdk/core/_jsii/bin/run", format!("run {version}"), 0o755),
        ];
        let requires = "Requires-Dist: jsii\nRequires-Dist: attrs\n";
        self.wheel(directory, "aws-cdk.core", version, requires, &core);
        let imagebuilder = [
            ("aws_cdk/aws_imagebuilder/__init__.py", version.to_owned(), 0o644),
            (&format!("aws_cdk/aws_imagebuilder/only_in_{version}/a, b.py"), "#".into(), 0o644),
        ];
        let requires = format!("Requires-Dist: aws-cdk.core (=={version})\n");
        self.wheel(directory, "aws-cdk.aws-imagebuilder", version, &requires, &imagebuilder);
        self.wheel(directory, "jsii", jsii, "", &[("jsii/__init__.py", format!("jsii {jsii}"), 0o644)]);
    }

    /// Writes a distribution into the directory `into`, as an installer would unpack it.
    pub(crate) fn wheel(&self, into: &Path, name: &str, version: &str, header: &str, files: &[File]) {
        let dist_info = format!("{}-{version}.dist-info", name.replace("aws-cdk", "aws_cdk"));
        let installer = if into.starts_with(self.path("site")) { "pip\n" } else { "uv\n" };
        let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{header}\nText.\n");
        let mut all: Vec<(String, String, u32)> =
            files.iter().map(|(path, content, mode)| ((*path).to_owned(), content.clone(), *mode)).collect();
        all.push((format!("{dist_info}/METADATA"), metadata, 0o644));
        all.push((format!("{dist_info}/INSTALLER"), installer.into(), 0o644));
        if installer == "uv\n" {
            all.push((format!("{dist_info}/REQUESTED"), String::new(), 0o644));
        }
        let mut record = String::new();
        for (path, content, mode) in all {
            let file = self.sandbox.write(into.join(&path), content);
            set_mode(&file, mode);
            let path = if path.contains(',') { format!("\"{path}\"") } else { path };
            let _ = writeln!(record, "{path},sha256=x,1");
        }
        let _ = writeln!(record, "{dist_info}/RECORD,,");
        self.sandbox.write(into.join(&dist_info).join("RECORD"), record);
    }

    /// `pcluster preflight …`
    pub(crate) fn preflight<const N: usize>(&self, arguments: [&str; N]) -> Call {
        let call = self.sandbox.pcluster(["preflight"]).var("XDG_STATE_HOME", &self.state);
        arguments.into_iter().fold(call, Call::argument)
    }

    /// A guarded call of build-image.
    pub(crate) fn build_image(&self) -> Call {
        self.sandbox.build_image().var("XDG_STATE_HOME", &self.state)
    }

    /// The environment's packages, with the times of their files.
    pub(crate) fn site(&self) -> Tree {
        tree(&self.path("site"), true)
    }

    /// The whole environment, without the files in `fake` that tell its fake Python what to do.
    pub(crate) fn prefix(&self) -> Tree {
        let mut tree = tree(&self.root, true);
        tree.retain(|path, _| !path.starts_with("fake"));
        tree
    }

    /// The environment's packages, without the times of their files and without the token. The times and the
    /// token are different after every repair.
    pub(crate) fn content(&self) -> Tree {
        let mut content = tree(&self.path("site"), false);
        content.remove(Path::new(TOKEN));
        content
    }

    /// Replaces the environment's packages with a copy of `packages`, as `rm -rf` and an installation would,
    /// and returns the result.
    pub(crate) fn recreate(&self, packages: &Path) -> Tree {
        let site = self.path("site");
        fs::remove_dir_all(&site).unwrap();
        copy_tree(packages, &site);
        self.site()
    }

    /// Copies the packages to a directory of this name in the sandbox.
    pub(crate) fn keep_copy(&self, name: &str) -> PathBuf {
        let copy = self.sandbox.path(name);
        copy_tree(&self.path("site"), &copy);
        copy
    }

    /// The directory of this environment's repairs, which has to exist.
    pub(crate) fn repairs(&self) -> PathBuf {
        let environments = self.state.join("pcluster-shim/environments");
        environments.read_dir().unwrap().next().unwrap().unwrap().path()
    }

    /// The names in the directory of repairs, without the lock.
    pub(crate) fn kept(&self) -> Vec<String> {
        let environments = self.state.join("pcluster-shim/environments");
        let homes = environments.read_dir().into_iter().flatten().flatten();
        let names = homes.flat_map(|home| home.path().read_dir().unwrap().flatten());
        let mut names: Vec<String> = names
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name != "lock")
            .collect();
        names.sort();
        names
    }

    /// Asserts that repairs have left nothing in the state directory, TMPDIR, the shim's cache of bytecode
    /// and the environment.
    #[track_caller]
    pub(crate) fn left_nothing(&self, when: &str) {
        assert_eq!(self.kept(), [""; 0], "left in the state directory {when}");
        self.left_nothing_elsewhere(when);
    }

    #[track_caller]
    pub(crate) fn left_nothing_elsewhere(&self, when: &str) {
        self.sandbox.has_no_scratch();
        let bytecode = self.sandbox.tree("cache/pcluster-shim/bytecode");
        assert!(!bytecode.contains("overlay-"), "left in the cache {when}:\n{bytecode}");
        let is_bound = self.kept().iter().any(|name| name.starts_with("repair-"));
        let left = self.site().into_keys().filter(|path| path.to_string_lossy().contains("pcluster-shim"));
        let left: Vec<_> = left.filter(|path| !is_bound || path != Path::new(TOKEN)).collect();
        assert_eq!(left, [""; 0].map(PathBuf::from), "left in the environment {when}");
    }

    /// Asserts that only what an undo needs is kept.
    #[track_caller]
    pub(crate) fn keeps_the_last_one(&self) {
        let kept = self.kept();
        let is_right = matches!(kept.as_slice(), [last, snapshot] if last.starts_with("repair-") && snapshot.starts_with("snapshot-"));
        assert!(is_right, "kept: {kept:?}");
        assert!(self.path("site").join(TOKEN).is_file(), "there is no token");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    output(&on_this_machine("cp"), &["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn tree(directory: &Path, with_times: bool) -> Tree {
    let mut found = Tree::new();
    collect(directory, directory, with_times, &mut found);
    found
}

fn collect(directory: &Path, root: &Path, with_times: bool, found: &mut Tree) {
    for entry in directory.read_dir().unwrap().flatten() {
        let path = entry.path();
        let metadata = path.symlink_metadata().unwrap();
        let (mode, group) = (metadata.mode() & 0o7777, metadata.gid());
        let what = if metadata.is_dir() {
            collect(&path, root, with_times, found);
            format!("directory {mode:o} {group}")
        } else {
            let content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            let time = if with_times { (metadata.mtime(), metadata.mtime_nsec()) } else { (0, 0) };
            format!("{mode:o} {group} {time:?} {content:?}")
        };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), what);
    }
}

/// Directories into which nobody, not even root, can write until this is dropped.
#[derive(Debug)]
pub(crate) struct Unwritable(Vec<PathBuf>);

impl Unwritable {
    pub(crate) fn new(directories: &[PathBuf]) -> Self {
        for directory in directories {
            if rustix::process::getuid().is_root() {
                output(&on_this_machine("chattr"), &["+i".as_ref(), directory.as_os_str()]);
            } else {
                set_mode(directory, 0o555);
            }
        }
        Self(directories.to_owned())
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        for directory in &self.0 {
            if rustix::process::getuid().is_root() {
                output(&on_this_machine("chattr"), &["-i".as_ref(), directory.as_os_str()]);
            } else {
                set_mode(directory, 0o755);
            }
        }
    }
}

/// The sh code of the fake uv and the fake pip. The command `check` runs the file `check`. Any other command
/// saves its arguments, its environment and copies of the files that its arguments name, then runs the
/// file `install`.
const INSTALLER: &str = r#"here='@HERE@'
[ "$1" = check ] && { . "$here/check"; exit; }
echo "$@" >"$here/arguments"
env >"$here/environment"
while [ $# -gt 0 ]; do
    case $1 in
    --target) target=$2; shift ;;
    -r) requirements=$2; shift ;;
    -c) constraints=$2; shift ;;
    esac
    shift
done
cp "$requirements" "$here/requirements"
cp "$constraints" "$here/constraints"
. "$here/install"
"#;

/// The fake compile.py: it compiles one file in the directory that its last argument names.
const COMPILE: &str = r#"for directory; do :; done
mkdir "$directory/aws_cdk/core/__pycache__"
{ printf 'compiled '; cat "$directory/aws_cdk/core/__init__.py"; } \
    >"$directory/aws_cdk/core/__pycache__/__init__.cpython-39.pyc"
printf '\n%s\n{"full": null}\n%s\n' "$sentinel" "$sentinel"
"#;

/// The default `install` file of the fake uv and the fake pip. It installs the newest release of CDK that the
/// requirements allow. If the newest allowed release is 1.204.0 and jsii is pinned, the installation fails,
/// because 1.204.0 needs a newer jsii.
pub(crate) const INSTALL: &str = r#"
version=1.204.0
case $(cat "$requirements") in *'<1.153.0'*) version=1.152.0 ;; esac
case $version$(cat "$constraints") in 1.204.0*jsii==*) echo 'no solution: jsii' >&2; exit 1 ;; esac
echo "Installed CDK $version" >&2
cp -Rp "$here/$version/." "$target"
"#;

/// The fake synthesis.py. Its answer depends on the release of CDK that is first on `sys.path`; a mixture of
/// two releases is an error. A test can write these files into `fake`:
///
/// - `on-proof`: sh code that every synthesis of staged packages runs first.
/// - `hold` (a FIFO) and `held` (a text file): if the release of CDK or the arguments of a synthesis of
///   installed packages contain the text in `held`, this synthesis waits. It continues when the test has
///   opened `hold` for writing and closed it again.
const SYNTH: &str = r#"
entries=$(cat "$request"); entries=${entries#*\[}; entries=${entries%%\]*}
IFS=,
for entry in $entries; do
    entry=${entry#\"}; entry=${entry%\"}
    [ -f "$entry/aws_cdk/core/__init__.py" ] && break
done
unset IFS
core=$(cat "$entry/aws_cdk/core/__init__.py")
case $entry in
*/overlay-*) if [ -f "$fake/on-proof" ]; then . "$fake/on-proof"; fi ;;
*) if [ -p "$fake/hold" ]; then
    held=$(cat "$fake/held")
    case "$core $*" in *"$held"*) cat "$fake/hold" ;; esac
fi ;;
esac
imagebuilder=$(cat "$entry/aws_cdk/aws_imagebuilder/__init__.py")
printf '\n%s\n' "$sentinel"
if [ "$core" = "$imagebuilder" ]; then
    cat "$fake/synth-$core.json"
else
    printf '{"kind": "failed", "stage": "import", "message": "half of %s and half of %s"}' "$core" "$imagebuilder"
fi
printf '\n%s\n' "$sentinel"
"#;
