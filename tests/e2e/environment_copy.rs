//! Copies of environments that tests may repair or damage, byte-for-byte comparison, and a package index. In
//! a copy, installers use the index settings of whoever runs the tests, and a cache that is kept.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::environments::{Environment, RealSandbox, alive, find};
use crate::support::machine::{on_this_machine, wait_for};
use crate::support::run::Run;

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An environment that uv made, without pip and without bytecode.
pub(crate) const BY_UV: &str = crate::environments::BROKEN;
/// An environment that pip made, with pip and with bytecode.
pub(crate) const BY_PIP: &str = "3.1.3-cdk-1.153.0-pip";

/// A file in `site-packages`. The random token in it binds a repair to its environment.
const TOKEN: &str = ".repaired-by-pcluster-shim";

/// The user id and the group id of a user who does not run the tests.
pub(crate) const ANOTHER: u32 = 65534;

/// The installer that is available for a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum With {
    Uv,
    /// No uv on PATH.
    Pip,
}

#[derive(Debug)]
pub(crate) struct EnvironmentCopy {
    pub(crate) sandbox: RealSandbox,
    /// A directory with the packages as they were before any repair.
    reference: PathBuf,
    // Declared after the sandbox, so that the directory is removed last.
    directory: TempDir,
}

impl Deref for EnvironmentCopy {
    type Target = RealSandbox;

    fn deref(&self) -> &RealSandbox {
        &self.sandbox
    }
}

impl DerefMut for EnvironmentCopy {
    fn deref_mut(&mut self) -> &mut RealSandbox {
        &mut self.sandbox
    }
}

impl EnvironmentCopy {
    /// A copy with bytecode if pip made the original, and without bytecode if uv did: pip writes bytecode, uv
    /// does not.
    #[track_caller]
    pub(crate) fn of(name: &str, with: With) -> Self {
        Self::without(if name.ends_with("-pip") { UNFINISHED_BYTECODE } else { BYTECODE }, name, with)
    }

    /// A copy with all the bytecode of the original, so that each check has less to compile.
    #[track_caller]
    pub(crate) fn with_bytecode(name: &str, with: With) -> Self {
        Self::without(UNFINISHED_BYTECODE, name, with)
    }

    #[track_caller]
    fn without(excluded: &str, name: &str, with: With) -> Self {
        let original = Environment::named(name);
        let directory =
            tempfile::Builder::new().prefix("repair-").tempdir_in(Path::new(ROOT).join("target")).unwrap();
        let copy = directory.path().join("venv");
        copy_without(excluded, &original.directory, &copy);
        let copy = Environment { directory: copy };
        // This makes the launcher use the copy's Python. Other files in `bin` still contain the path of the
        // original, but the tests do not use these files.
        copy.set_shebang(copy.bin("python").display());
        let mut sandbox = RealSandbox::in_environment(copy);
        ask_the_index_of_the_caller(&mut sandbox);
        if with == With::Uv {
            fs::create_dir(directory.path().join("uv")).unwrap();
            symlink(uv(), directory.path().join("uv/uv")).unwrap();
            sandbox.put_on_path(directory.path().join("uv"));
        }
        Self { sandbox, reference: original.site_packages(), directory }
    }

    /// A path next to the environment, on the same file system.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn site(&self) -> PathBuf {
        self.environment.site_packages()
    }

    /// Makes the present state the reference. Tests call this after they have changed packages. If a test
    /// runs pcluster on the machine's own Python, that Python could change the packages when it starts. So
    /// the test runs pcluster once, and then calls this.
    pub(crate) fn is_right_as_it_is(&mut self) {
        self.reference = self.keep_copy();
    }

    /// Asserts that the packages are byte for byte what they were, and that no file was added.
    #[track_caller]
    pub(crate) fn is_as_before(&self, when: &str) {
        let other = differences(&self.reference, &self.site());
        assert!(other.is_empty(), "{when}: the environment is not what it was:\n{}", other.join("\n"));
    }

    #[track_caller]
    pub(crate) fn is_the_same_as(&self, repaired: &Path, when: &str) {
        let other = differences(repaired, &self.site());
        assert!(
            other.is_empty(),
            "{when}: the environment is not what a repair makes:\n{}",
            other.join("\n")
        );
    }

    /// Keeps a copy of the packages, to compare with.
    pub(crate) fn keep_copy(&self) -> PathBuf {
        let copy = self.beside("kept");
        copy_tree(&self.site(), &copy);
        copy
    }

    /// Asserts that the temporary files of a repair are gone. A snapshot is allowed if there is a repair that
    /// can be undone.
    #[track_caller]
    pub(crate) fn left_nothing(&self, when: &str) {
        let mut left = Vec::new();
        for entry in paths_below(&self.path("tmp")) {
            left.push(format!("TMPDIR: {entry}"));
        }
        let state = self.path("home/.local/state/pcluster-shim/environments");
        let kept = paths_below(&state).iter().any(|entry| entry.contains("/repair-"));
        let is_debris = |entry: &&String| {
            let of_an_open_one = entry.contains("snapshot-") && !kept;
            entry.contains("overlay-") || of_an_open_one || entry.ends_with("journal.json")
        };
        left.extend(paths_below(&state).iter().filter(is_debris).take(5).cloned());
        assert!(left.is_empty(), "{when}: left behind:\n{}", left.join("\n"));
    }

    /// Waits until the children of a killed shim are gone: Linux kills them too, but not at the same moment.
    pub(crate) fn wait_for_children(&self) {
        let mark = format!("HOME={}", self.path("home").display());
        wait_for("the end of every child", || alive(&mark).is_empty().then_some(()));
    }

    /// Name and version of every distribution.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        versions(&self.site())
    }

    pub(crate) fn versions_before(&self) -> BTreeMap<String, String> {
        versions(&self.reference)
    }

    /// The version that every CDK package has.
    #[track_caller]
    pub(crate) fn cdk(&self) -> String {
        let versions = self.versions();
        let mut cdk: Vec<_> = versions
            .iter()
            .filter(|(name, _)| name.starts_with("aws_cdk"))
            .map(|(_, version)| version.clone())
            .collect();
        assert!(cdk.len() > 40, "{versions:?}");
        cdk.dedup();
        assert_eq!(cdk.len(), 1, "{versions:?}");
        cdk.remove(0)
    }

    #[track_caller]
    pub(crate) fn pcluster_works(&self, when: &str) {
        let ran = self.real(&["version"]).run();
        assert!(ran.status.success() && ran.stdout().contains("3.1.3"), "{when}: pcluster version\n{ran}");
    }

    /// Gives the sandbox to another user, who has their own uv cache. The environment keeps its owner.
    pub(crate) fn is_used_by_another(&mut self) {
        assert!(rustix::process::getuid().is_root(), "only root can become another user");
        let cache = self.path("home/uv");
        self.set("UV_CACHE_DIR", cache);
        self.give(&format!("{ANOTHER}:{ANOTHER}"), &self.path(""));
    }

    #[track_caller]
    pub(crate) fn give(&self, owner: &str, directory: &Path) {
        self.call(&on_this_machine("chown"), &["-R", owner, directory.to_str().unwrap()]).run().exits(0);
    }

    /// Runs the shim as another user, who may read everything and is in no group but their own.
    #[track_caller]
    pub(crate) fn run_as_another(&self, arguments: &[&str]) -> Run {
        let (user, group) = (format!("--reuid={ANOTHER}"), format!("--regid={ANOTHER}"));
        let shim = self.path("shim/pcluster");
        let first = [
            &user,
            &group,
            "--clear-groups",
            // The user keeps the right to read every file, because the interpreter could be in root's HOME.
            "--inh-caps=-all,+dac_read_search",
            "--ambient-caps=-all,+dac_read_search",
            "--bounding-set=-all,+dac_read_search",
            shim.to_str().unwrap(),
        ];
        self.call(&on_this_machine("setpriv"), &[&first[..], arguments].concat()).run()
    }

    #[track_caller]
    pub(crate) fn fix(&self, arguments: &[&str]) -> Run {
        let all: Vec<&str> = ["preflight", "fix"].iter().chain(arguments).copied().collect();
        self.pcluster(&all).run()
    }
}

/// Gives a sandbox the index settings of whoever runs the tests, and caches that are kept for later runs.
pub(crate) fn ask_the_index_of_the_caller(sandbox: &mut RealSandbox) {
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        let about_index = ["PIP_", "UV_", "SSL_CERT_"].iter().any(|prefix| text.starts_with(prefix))
            || text.ends_with("_PROXY");
        if about_index {
            sandbox.set(&name.to_string_lossy(), value);
        }
    }
    sandbox.set("UV_CACHE_DIR", Path::new(ROOT).join("target/cache/uv"));
    sandbox.set("PIP_CACHE_DIR", Path::new(ROOT).join("target/cache/pip"));
}

/// Asserts that a run failed with messages of the shim only, and with an empty stdout.
#[track_caller]
pub(crate) fn failed_cleanly(ran: &Run) {
    ran.exits(1);
    let stderr = ran.stderr();
    assert!(stderr.lines().all(|line| line.starts_with("pcluster-shim: ")), "{ran}");
    assert_eq!(ran.stdout(), "", "{ran}");
}

pub(crate) fn uv() -> PathBuf {
    let own = Path::new(ROOT).join("target/tools/uv/bin/uv");
    find("uv").unwrap_or(own)
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let copied = Command::new(on_this_machine("cp")).arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "cp -a {} {}", from.display(), to.display());
}

/// Matches all bytecode. Even an original that uv made contains bytecode, if other tests have run the real
/// pcluster in the original.
const BYTECODE: &str = "__pycache__";
/// Matches bytecode that Python is still writing, under a temporary name.
const UNFINISHED_BYTECODE: &str = "*.pyc.*";

fn copy_without(excluded: &str, from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let sh = "tar --format=posix --exclude=\"$3\" -C \"$1\" -cf - . | tar -C \"$2\" -xpf -";
    let mut command = Command::new(on_this_machine("sh"));
    let copied = command.args(["-c", sh, "sh"]).args([from, to]).arg(excluded).status().unwrap();
    assert!(copied.success(), "tar {} {}", from.display(), to.display());
}

fn versions(site: &Path) -> BTreeMap<String, String> {
    let names = site.read_dir().unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let split = |name: String| {
        let (name, version) = name.strip_suffix(".dist-info")?.rsplit_once('-')?;
        Some((name.to_owned(), version.to_owned()))
    };
    names.filter_map(split).collect()
}

/// Every path below a directory, except bytecode.
fn paths_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = vec![directory.to_owned()];
    while let Some(current) = next.pop() {
        for entry in current.read_dir().into_iter().flatten().flatten() {
            if entry.file_name() == "__pycache__" {
                continue;
            }
            let path = entry.path();
            found.push(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                next.push(path);
            }
        }
    }
    found.sort();
    found
}

fn differences(one: &Path, other: &Path) -> Vec<String> {
    let (before, now) = (paths_below(one), paths_below(other));
    let mut found: Vec<String> = before
        .iter()
        .filter(|path| now.binary_search(path).is_err())
        .map(|path| format!("gone: {path}"))
        .collect();
    found.extend(
        now.iter().filter(|path| before.binary_search(path).is_err()).map(|path| format!("new: {path}")),
    );
    // The token is different in every repair.
    for path in before.iter().filter(|path| *path != TOKEN && now.binary_search(path).is_ok()) {
        let (one, other) = (one.join(path), other.join(path));
        let (is, was) = (other.symlink_metadata().unwrap(), one.symlink_metadata().unwrap());
        let same = is.mode() == was.mode()
            && (is.is_dir() || is.len() == was.len() && fs::read(&one).unwrap() == fs::read(&other).unwrap());
        if !same {
            found.push(format!("other: {path}"));
        }
    }
    found.truncate(20);
    found
}

/// A package index on the loopback (tests/e2e/index.py).
#[derive(Debug)]
pub(crate) struct Index {
    server: Child,
    directory: TempDir,
    pub(crate) url: String,
}

impl Index {
    #[track_caller]
    pub(crate) fn start(options: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let upstream = std::env::var("UV_DEFAULT_INDEX").or_else(|_| std::env::var("PIP_INDEX_URL"));
        let upstream = upstream.unwrap_or_else(|_| default_index());
        let mut command = Command::new(Environment::named(BY_UV).bin("python"));
        command.arg(Path::new(ROOT).join("tests/e2e/index.py"));
        command.arg(directory.path().join("log")).arg(upstream).args(options);
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { server, directory, url: url.trim().to_owned() }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }
}

/// The index that pip asks by default.
fn default_index() -> String {
    let code = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";
    let python = Environment::named(BY_PIP).bin("python");
    let said = Command::new(python).args(["-c", code]).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

impl Drop for Index {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}
