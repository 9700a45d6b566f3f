//! What every end-to-end test uses: the environments that scripts/environments makes, a stand-in for AWS, and
//! a sandbox with its own HOME and PATH. If a program in a sandbox does not end as expected, the test prints
//! the output of the program and a list of the files in the sandbox.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::machine::{on_this_machine, write_script};
use crate::support::run::{Call, Run};
use crate::support::sandbox::Sandbox;

/// 3.1.3 with the CDK that loses the tags.
pub(crate) const BROKEN: &str = "3.1.3-cdk-1.153.0";
/// The packages of [`BROKEN`], with another version number of CDK, so that only the template shows the fault.
pub(crate) const RENUMBERED: &str = "3.1.3-cdk-1.153.0-renumbered";
/// 3.1.3 with the last version of CDK 1, which keeps the tags.
pub(crate) const GOOD: &str = "3.1.3-cdk-1.204.0";
/// The newest release. The installer chose the versions of its requirements.
pub(crate) const NEWEST: &str = "3.16.1";

/// The names of pcluster's own tags in the template's `AmiTags`, without the prefix `parallelcluster:`.
pub(crate) const TAGS: [&str; 7] =
    ["build_config", "build_log", "image_id", "image_name", "s3_bucket", "s3_image_dir", "version"];

/// The time limit of one run. It is long, because installers fetch hundreds of packages.
const MAX_RUN_TIME: Duration = Duration::from_secs(1800);

/// The guard's warning about a Lambda runtime that AWS refuses. It is printed for every release before 3.14.
/// Most tests are not about this warning, so it is kept apart from the rest of stderr.
const RUNTIME_WARNING: &str = "pcluster-shim: warning: the template uses Lambda runtime ";

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The running programs that have `mark` among their environment variables. A program that is exiting is not
/// listed, because the kernel no longer shows its variables.
pub(crate) fn alive(mark: &str) -> Vec<(i32, PathBuf)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let marked = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let program = |pid: i32| Some((pid, fs::read_link(format!("/proc/{pid}/exe")).ok()?));
    pids.filter(marked).filter_map(program).collect()
}

/// The path of a program of this machine, if it is on PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    pcluster_shim::system::executables::find(name, std::env::var_os("PATH"))
}

/// Writes a shell script that runs `before`, then `program` with the script's arguments.
pub(crate) fn write_wrapper(file: &Path, before: &str, program: &Path) {
    write_script(file, format!("#!/bin/sh\n{before}\nexec '{}' \"$@\"\n", program.display()));
}

/// An environment that scripts/environments or a test has made.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) directory: PathBuf,
}

impl Environment {
    #[track_caller]
    pub(crate) fn named(name: &str) -> Self {
        let directory = Path::new(ROOT).join("target/sandboxes").join(name);
        assert!(
            directory.join(".sandbox").is_file(),
            "the environment {} is missing or incomplete: run scripts/test, which makes it",
            directory.display()
        );
        let environment = Self { directory };
        if name == RENUMBERED {
            static RENUMBER: Once = Once::new();
            RENUMBER.call_once(|| environment.renumber());
        }
        environment
    }

    /// The path of `bin/NAME` in the environment.
    pub(crate) fn bin(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    pub(crate) fn site_packages(&self) -> PathBuf {
        let lib = fs::read_dir(self.directory.join("lib")).unwrap();
        let mut found = lib.flatten().map(|entry| entry.path().join("site-packages"));
        found.find(|path| path.is_dir()).unwrap()
    }

    /// Replaces the first line of the launcher.
    pub(crate) fn set_shebang(&self, interpreter: impl fmt::Display) {
        let launcher = self.bin("pcluster");
        let text = fs::read_to_string(&launcher).unwrap();
        let (_, rest) = text.split_once('\n').unwrap();
        fs::write(&launcher, format!("#!{interpreter}\n{rest}")).unwrap();
    }

    /// Replaces the launcher with a shell script that runs `before`, then the original launcher with the
    /// same arguments.
    pub(crate) fn wrap_launcher(&self, before: &str) {
        let (launcher, behind) = (self.bin("pcluster"), self.bin("pcluster-behind"));
        fs::rename(&launcher, &behind).unwrap();
        write_wrapper(&launcher, before, &behind);
    }

    /// Makes every CDK package claim version 1.152.0. The faulty code is still installed, but no version
    /// number shows that.
    fn renumber(&self) {
        for entry in fs::read_dir(self.site_packages()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().replace('-', "_");
            if name.starts_with("aws_cdk") && name.ends_with(".dist_info") {
                let file = entry.path().join("METADATA");
                let metadata = fs::read_to_string(&file).unwrap();
                let renumbered = metadata.replacen("\nVersion: 1.153.0\n", "\nVersion: 1.152.0\n", 1);
                assert!(
                    renumbered.contains("\nVersion: 1.152.0\n"),
                    "{} has another version",
                    file.display()
                );
                fs::write(&file, renumbered).unwrap();
            }
        }
    }
}

/// A sandbox with a real environment on its PATH.
#[derive(Debug)]
pub(crate) struct RealSandbox {
    sandbox: Sandbox,
    pub(crate) environment: Environment,
    /// All environment variables of the programs that are run.
    variables: BTreeMap<OsString, OsString>,
}

impl Deref for RealSandbox {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.sandbox
    }
}

impl RealSandbox {
    /// PATH contains the shim, then the environment's programs, then node, and nothing else.
    #[track_caller]
    pub(crate) fn of(name: &str) -> Self {
        Self::in_environment(Environment::named(name))
    }

    #[track_caller]
    pub(crate) fn in_environment(environment: Environment) -> Self {
        let sandbox = Sandbox::empty();
        sandbox.link("node/node", on_this_machine("node"));
        let mut new = Self { sandbox, environment, variables: BTreeMap::new() };
        let path = [new.path("shim"), new.environment.directory.join("bin"), new.path("node")];
        new.set("PATH", std::env::join_paths(path).unwrap());
        new.set("HOME", new.path("home"));
        new.set("TMPDIR", new.path("tmp"));
        new.set("LANG", "C.UTF-8");
        // No test reaches AWS by mistake: the credentials belong to no account, and nothing listens on
        // port 9.
        new.set("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
        new.set("AWS_ACCESS_KEY_ID", "testing");
        new.set("AWS_SECRET_ACCESS_KEY", "testing");
        new.set("AWS_DEFAULT_REGION", "us-east-1");
        new.set("AWS_EC2_METADATA_DISABLED", "true");
        new.set("AWS_MAX_ATTEMPTS", "1");
        new
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.variables.remove(OsStr::new(name));
    }

    /// Adds a directory at the end of PATH.
    pub(crate) fn put_on_path(&mut self, directory: impl Into<PathBuf>) {
        let path = self.variables[OsStr::new("PATH")].clone();
        let longer: Vec<PathBuf> = std::env::split_paths(&path).chain([directory.into()]).collect();
        self.set("PATH", std::env::join_paths(longer).unwrap());
    }

    /// Removes one directory from PATH: `shim` or `node`.
    pub(crate) fn take_off_path(&mut self, directory: &str) {
        let gone = self.path(directory);
        let path = self.variables[OsStr::new("PATH")].clone();
        let rest: Vec<_> = std::env::split_paths(&path).filter(|entry| *entry != gone).collect();
        self.set("PATH", std::env::join_paths(rest).unwrap());
    }

    pub(crate) fn use_aws(&mut self, aws: &Aws) {
        self.set("AWS_ENDPOINT_URL", aws.fact("endpoint"));
        self.set("AWS_DEFAULT_REGION", aws.fact("region"));
    }

    /// The shim as a user calls it: `pcluster …`.
    pub(crate) fn pcluster<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Call {
        self.call(&self.path("shim/pcluster"), arguments)
    }

    /// The real pcluster in this sandbox.
    pub(crate) fn real<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Call {
        self.call(&self.environment.bin("pcluster"), arguments)
    }

    pub(crate) fn call<S: AsRef<OsStr>>(&self, program: &Path, arguments: &[S]) -> Call {
        let arguments = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        let call = Call::new(self.root.clone(), program.into(), arguments, self.variables.clone());
        call.limit(MAX_RUN_TIME).keeping_aside(RUNTIME_WARNING)
    }

    /// Runs `pcluster preflight --format json …`, and returns the run and the report.
    #[track_caller]
    pub(crate) fn preflight(&self, arguments: &[&str]) -> (Run, Value) {
        let all: Vec<&str> = ["preflight", "--format", "json"].iter().chain(arguments).copied().collect();
        let ran = self.pcluster(&all).run();
        let report = ran.json();
        (ran, report)
    }

    /// Runs the shim and its children under strace, and returns the system calls that `calls` names.
    #[track_caller]
    pub(crate) fn traced<S: AsRef<OsStr>>(&self, calls: &str, arguments: &[S]) -> (Run, Trace) {
        let file = self.path("trace");
        let mut all: Vec<OsString> = ["-f", "-qq", "-o"].map(OsString::from).into();
        all.extend([file.clone().into(), "-e".into(), format!("trace={calls}").into()]);
        all.push(self.path("shim/pcluster").into());
        all.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        let ran = self.call(&on_this_machine("strace"), &all).run();
        let text = fs::read_to_string(&file).unwrap_or_default();
        assert!(!text.is_empty(), "strace saw nothing; may it trace here?\n{ran}");
        (ran, Trace(text))
    }
}

/// The output of strace.
#[derive(Debug)]
pub(crate) struct Trace(String);

impl Trace {
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.lines()
    }

    /// The programs that a traced process executed or tried to execute, in order.
    pub(crate) fn executed(&self) -> Vec<PathBuf> {
        self.0.lines().filter_map(executed).collect()
    }

    /// The lines of the shim and of its children, up to the execution of the real pcluster.
    #[track_caller]
    pub(crate) fn before(&self, real: &Path) -> Vec<&str> {
        assert!(self.executed().iter().any(|path| path == real), "{} never ran:\n{self}", real.display());
        self.0.lines().take_while(|line| executed(line).is_none_or(|path| path != real)).collect()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn executed(line: &str) -> Option<PathBuf> {
    let (_, call) = line.split_once("execve(\"")?;
    Some(call.split_once('"')?.0.into())
}

/// A moto server for one test, started by scripts/aws-stand-in.
#[derive(Debug)]
pub(crate) struct Aws {
    directory: TempDir,
    server: Child,
    facts: Value,
}

impl Aws {
    #[track_caller]
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("real-aws-").tempdir().unwrap();
        let mut command = Self::stand_in(directory.path());
        command.arg("--log").arg(directory.path().join("log"));
        // The server ends when its stdin is closed, so it cannot outlive the test.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(directory.path().join("stderr")).unwrap());
        let mut server = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let facts = serde_json::from_str(&line).unwrap_or_else(|error| {
            let stderr = fs::read_to_string(directory.path().join("stderr")).unwrap_or_default();
            panic!("the stand-in for AWS did not start: {error}\n{line}\n{stderr}")
        });
        Self { directory, server, facts }
    }

    fn stand_in(home: &Path) -> Command {
        let mut command = Command::new(Environment::named("moto").bin("python"));
        command.arg(Path::new(ROOT).join("scripts/aws-stand-in"));
        command.env_clear().env("HOME", home).env("LANG", "C.UTF-8").env("NO_PROXY", "127.0.0.1");
        command
    }

    pub(crate) fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap()
    }

    /// The requests that have arrived.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    pub(crate) fn was_not_asked(&self) {
        assert_eq!(self.requests(), Vec::<String>::new(), "requests reached AWS");
    }

    /// An image configuration that can be built in this account.
    pub(crate) fn configuration(&self) -> String {
        let (image, bucket) = (self.fact("parentImage"), self.fact("bucket"));
        format!("Build:\n  InstanceType: c5.xlarge\n  ParentImage: {image}\nCustomS3Bucket: {bucket}\n")
    }

    /// Imitates the end of a build, which would take an hour of EC2: makes the image, and deletes the stack.
    #[track_caller]
    pub(crate) fn finish_build(&self, stack: &str) {
        let mut command = Self::stand_in(self.directory.path());
        command.args(["finish-build", "--endpoint", self.fact("endpoint"), "--stack", stack]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The output of `aws cloudformation get-template` for a stack. `tests/e2e/get_template.py` describes the
    /// values of `form`.
    #[track_caller]
    pub(crate) fn template(&self, stack: &str, form: &str) -> String {
        let mut command = Command::new(Environment::named("aws-cli").bin("python"));
        command.arg(Path::new(ROOT).join("tests/e2e/get_template.py"));
        command.args([self.fact("endpoint"), self.fact("region"), stack, form]);
        command.env_clear().env("HOME", self.directory.path()).env("LANG", "C.UTF-8");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        // The server ends because its stdin is closed, and is gone when `drop` returns.
        drop(self.server.stdin.take());
        let ended = self.server.wait();
        if !ended.is_ok_and(|status| status.success()) && !std::thread::panicking() {
            let mut text = String::new();
            let stderr = File::open(self.directory.path().join("stderr"));
            let _ = stderr.and_then(|mut file| file.read_to_string(&mut text));
            panic!("the stand-in for AWS ended badly\n{text}");
        }
    }
}

/// pcluster's output, without the parts that differ in each call: the image id and the UUID of the stack
/// are replaced.
pub(crate) fn normalised(answer: &Run, image_id: &str) -> String {
    without_uuids(&answer.stdout().replace(image_id, "IMAGE"))
}

pub(crate) fn without_uuids(text: &str) -> String {
    let text = text.to_owned();
    let is_uuid = |word: &str| {
        word.len() == 36
            && word.split('-').map(str::len).eq([8, 4, 4, 4, 12])
            && word.chars().all(|letter| letter == '-' || letter.is_ascii_hexdigit())
    };
    let word = |letter: char| !(letter == '-' || letter.is_ascii_alphanumeric());
    let uuids: Vec<String> = text.split(word).filter(|word| is_uuid(word)).map(str::to_owned).collect();
    uuids.iter().fold(text, |text, uuid| text.replace(uuid, "UUID"))
}
