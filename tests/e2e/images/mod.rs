//! `preflight images` and `preflight stack` on a planted account: every class, the real commands before and after,
//! and what remains when a call fails or the machine stops in the middle.

mod parent;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::environments::{Environment, GOOD, NEWEST, ROOT, RealSandbox};
use crate::support::machine::wait_for;
use crate::support::run::Run;

/// What no listing may ask for.
const WRITES: [&str; 7] = ["Create", "Modify", "Delete", "Deregister", "Put", "Tag", "Run"];

/// A moto server with orphans of every kind and their look-alikes, by the labels of plant.py.
struct World {
    server: Child,
    endpoint: String,
    planted: Value,
    directory: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The script that asks AWS, as the shim starts it.
const CLIENT: &str = "src/images/client.py";

fn script(name: &str) -> PathBuf {
    Path::new(ROOT).join("tests/e2e/images").join(name)
}

/// Python of the environment that has moto and boto3.
fn python() -> Command {
    let mut command = Command::new(Environment::named("moto").bin("python"));
    command.env_clear().env("LANG", "C.UTF-8").env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
    command
}

impl World {
    #[track_caller]
    fn plant() -> Self {
        let directory = tempfile::Builder::new().prefix("real-images-").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = python();
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env("HOME", directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().unwrap();
        wait_for("moto", || TcpStream::connect(("127.0.0.1", port)).ok());
        let mut world =
            Self { server, endpoint: format!("http://127.0.0.1:{port}"), planted: Value::Null, directory };
        world.planted = world.ask("plant.py");
        world
    }

    /// The JSON that a script prints.
    #[track_caller]
    fn ask(&self, name: &str) -> Value {
        let output = python().arg(script(name)).arg(&self.endpoint).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{name}: {error}\n{stderr}"))
    }

    fn state(&self) -> Value {
        self.ask("state.py")
    }

    fn sandbox(&self, environment: &str) -> RealSandbox {
        let mut sandbox = RealSandbox::of(environment);
        sandbox.set("AWS_ENDPOINT_URL", &self.endpoint);
        sandbox
    }

    #[track_caller]
    fn ami(&self, label: &str) -> &str {
        self.planted[label]["ami"].as_str().unwrap_or_else(|| panic!("{label} is not planted"))
    }

    fn id(&self, label: &str) -> &str {
        self.planted[label]["id"].as_str().unwrap()
    }

    fn proxy(&self, options: &[&str]) -> Proxy {
        let log = self.directory.path().join("log");
        let mut command = python();
        command.arg(script("proxy.py")).arg(&self.endpoint).arg("--log").arg(&log).args(options);
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut endpoint = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
        Proxy { server, endpoint: endpoint.trim().to_owned(), log }
    }
}

/// Stands before the server; logs, denies, fails or kills.
struct Proxy {
    server: Child,
    endpoint: String,
    log: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The text on stdout without its line breaks.
fn words(ran: &Run) -> String {
    ran.stdout().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn images(sandbox: &RealSandbox, arguments: &[&str]) -> (Run, Value) {
    let all = [&["preflight", "images", "--format", "json"], arguments].concat();
    let ran = sandbox.pcluster(&all).run();
    let report = ran.json();
    (ran, report)
}

#[track_caller]
fn find<'a>(report: &'a Value, ami: &str) -> &'a Value {
    let images = report["images"].as_array().unwrap();
    images
        .iter()
        .find(|image| image["ami"] == ami)
        .unwrap_or_else(|| panic!("{ami} is not listed:\n{report:#}"))
}

const ORPHANS: [&str; 13] = [
    "orphan-deleted-stack",
    "orphan-live-stack",
    "orphan-s3-only",
    "orphan-nothing",
    "orphan-custom-bucket",
    "in-use-instance",
    "in-use-template",
    "shared",
    "twin-1",
    "twin-2",
    "neighbour-orphan",
    "unknown-release",
    "copy",
];

/// Each is classed, a listing writes nothing, and one is repaired and one deleted; with the boto3 that `environment`
/// has, of a release that begins so. Gives the list.
#[track_caller]
fn each_is_classed_by(environment: &str, boto3: &str) -> Value {
    let world = World::plant();
    let before = world.state();
    let proxy = world.proxy(&[]);
    let mut sandbox = world.sandbox(environment);
    let site = sandbox.environment.site_packages().read_dir().unwrap().flatten();
    let names = site.map(|entry| entry.file_name().into_string().unwrap());
    let installed: Vec<String> = names.filter(|name| name.starts_with("boto3-")).collect();
    assert!(installed[0].starts_with(&format!("boto3-{boto3}")), "{installed:?}");
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let (ran, report) = images(&sandbox, &["--all-regions", "--bucket", "another-teams-bucket"]);
    ran.exits(1);
    assert_eq!(report["account"], "123456789012");
    let class = |label: &str| find(&report, world.ami(label))["class"].as_str().unwrap().to_owned();
    for label in ORPHANS {
        assert_eq!(class(label), "orphan", "{label}\n{ran}");
    }
    assert_eq!(class("healthy"), "healthy");
    assert_eq!(class("neighbour"), "healthy");
    assert_eq!(class("failed-build"), "failed-build");
    assert_eq!(class("running-build"), "in-progress");
    for label in ["foreign-hardened", "foreign-other-account", "foreign-release", "foreign-nothing"] {
        assert!(!ran.stdout().contains(world.ami(label)), "{label} is shown\n{ran}");
    }
    let source = |label: &str| find(&report, world.ami(label))["source"].as_str().unwrap().to_owned();
    assert_eq!(source("orphan-deleted-stack"), "deleted-stack");
    assert_eq!(source("orphan-live-stack"), "stack");
    assert_eq!(source("orphan-s3-only"), "s3");
    assert_eq!(source("orphan-custom-bucket"), "s3");
    assert_eq!(source("orphan-nothing"), "none");
    let image = find(&report, world.ami("orphan-s3-only"));
    assert_eq!(image["imageId"], world.planted["orphan-s3-only"]["id"], "{ran}");
    assert_eq!(find(&report, world.ami("twin-1"))["conflictsWith"], serde_json::json!([world.ami("twin-2")]));
    assert_eq!(
        find(&report, world.ami("in-use-instance"))["inUseBy"][0],
        world.planted["in-use-instance"]["usedBy"]
    );
    assert_eq!(
        find(&report, world.ami("in-use-template"))["inUseBy"][0],
        world.planted["in-use-template"]["usedBy"]
    );
    assert_eq!(find(&report, world.ami("shared"))["sharedWith"][0], "111122223333");
    let log = fs::read_to_string(&proxy.log).unwrap();
    let written: Vec<&str> = log
        .lines()
        .filter(|line| {
            WRITES.iter().any(|write| line.split(' ').nth(1).is_some_and(|call| call.starts_with(write)))
        })
        .collect();
    assert_eq!(written, Vec::<&str>::new(), "\n{log}");
    assert!(log.contains("DescribeImages"), "{log}");
    assert_eq!(world.state(), before);

    let repaired = images(&sandbox, &["--repair", "--yes", "--image", world.ami("orphan-deleted-stack")]).0;
    repaired.exits(0);
    let deleted = images(&sandbox, &["--delete", "--yes", "--image", world.ami("orphan-s3-only")]).0;
    deleted.exits(0);
    let after = world.state();
    let tags = &after["us-east-1"]["images"][world.ami("orphan-deleted-stack")];
    assert_eq!(tags["parallelcluster:image_id"], world.id("orphan-deleted-stack"), "{repaired}");
    assert!(!after.to_string().contains(world.ami("orphan-s3-only")), "{deleted}");
    assert!(
        !after.to_string().contains(world.planted["orphan-s3-only"]["directory"].as_str().unwrap()),
        "{deleted}"
    );
    report
}

/// Why EC2 was not asked for what refers to an AMI.
fn why_no_references(report: &Value) -> &str {
    let skipped = report["skipped"].as_array().unwrap().iter();
    let of_references = |entry: &&Value| entry["source"] == "ec2:DescribeImageReferences in us-east-1";
    skipped.into_iter().find(of_references).map_or("", |entry| entry["why"].as_str().unwrap())
}

#[test]
fn each_is_classed_by_the_last_boto3_of_python_3_8() {
    let report = each_is_classed_by("fresh/3.2.1-3.8-uv", "1.37.38");
    assert_eq!(why_no_references(&report), "boto3 is too old");
}

#[test]
fn each_is_classed_by_the_newest_boto3() {
    let report = each_is_classed_by(NEWEST, "1.4");
    assert_ne!(why_no_references(&report), "boto3 is too old");
}

#[track_caller]
fn is_given_back(environment: &str) {
    let world = World::plant();
    let sandbox = world.sandbox(environment);
    let (id, ami) = (world.id("orphan-deleted-stack"), world.ami("orphan-deleted-stack"));
    let describe = sandbox.real(&["describe-image", "-i", id]).run();
    describe.exits(1);
    assert!(describe.stdout().contains("No image or stack associated"), "{describe}");
    let before = world.state();

    let ran = sandbox.pcluster(&["preflight", "images", "--repair"]).run();
    ran.exits(2);
    assert!(ran.stderr().contains("confirmation is required, but this is not a terminal"), "{ran}");
    let (ran, _) = images(&sandbox, &["--repair", "--dry-run"]);
    ran.exits(1);
    assert_eq!(world.state(), before, "a plan changes nothing");
    let ran = sandbox.pcluster(&["preflight", "images", "--repair", "--dry-run", "--image", ami]).run();
    let users = world.planted["orphan-deleted-stack"]["launchPermission"]["UserIds"].as_array().unwrap();
    let shared = users.iter().map(|user| format!("{{UserId={}}}", user.as_str().unwrap()));
    let command = format!(
        "aws ec2 modify-image-attribute --region us-east-1 --image-id {ami} --launch-permission 'Add=[{}]'",
        shared.collect::<Vec<_>>().join(",")
    );
    assert!(ran.stdout().contains(&command), "{ran}");

    let (ran, report) = images(&sandbox, &["--repair", "--yes", "--bucket", "another-teams-bucket"]);
    // The twins and the one of which nothing is left are refused.
    ran.exits(1);
    let after = world.state();
    for label in [
        "orphan-deleted-stack",
        "orphan-live-stack",
        "orphan-s3-only",
        "orphan-custom-bucket",
        "neighbour-orphan",
        "unknown-release",
    ] {
        let planted = &world.planted[label];
        assert_eq!(find(&report, world.ami(label))["repair"], "done", "{label}\n{ran}");
        let tags = &after["us-east-1"]["images"][world.ami(label)];
        for tag in
            planted["expected"].as_object().unwrap().iter().chain(planted["imageTags"].as_object().unwrap())
        {
            assert_eq!(&tags[tag.0], tag.1, "{label} {}\n{ran}", tag.0);
        }
    }
    for label in ["twin-1", "twin-2", "orphan-nothing", "failed-build", "running-build", "foreign-release"] {
        let images = |state: &Value| state["us-east-1"]["images"][world.ami(label)].clone();
        assert_eq!(images(&after), images(&before), "{label}");
    }
    assert_eq!(after["objects"], before["objects"]);

    let named = ["-i", world.id("orphan-nothing"), "--image", world.ami("orphan-nothing")];
    images(&sandbox, &[&["--repair", "--yes"], &named[..]].concat()).0.exits(0);
    images(&sandbox, &["--repair", "--yes", "--image", world.ami("twin-2")]).0.exits(0);

    let listed = sandbox.real(&["list-images", "--image-status", "AVAILABLE"]).run();
    for label in ["orphan-deleted-stack", "orphan-s3-only", "orphan-nothing", "twin-2"] {
        assert!(listed.stdout().contains(world.id(label)), "{label}\n{listed}");
    }
    let described = sandbox.real(&["describe-image", "-i", id]).run();
    described.exits(0);
    assert_eq!(described.json()["ec2AmiInfo"]["amiId"], ami, "{described}");
    let before = world.state();
    sandbox.real(&["delete-image", "-i", id]).run().exits(0);
    let after = world.state();
    assert!(after["us-east-1"]["images"].get(ami).is_none());
    let directory = world.planted["orphan-deleted-stack"]["directory"].as_str().unwrap();
    let others = |state: &Value| -> Vec<Value> {
        let objects = state["objects"].as_array().unwrap().iter();
        objects.filter(|key| !key.as_str().unwrap().contains(directory)).cloned().collect()
    };
    assert_eq!(others(&after), others(&before));
    assert_ne!(after["objects"], before["objects"]);
}

#[test]
#[ignore = "long"]
fn what_is_repaired_is_found_and_deleted_by_the_first_release() {
    is_given_back(GOOD);
}

#[test]
fn what_is_repaired_is_found_and_deleted_by_the_newest_release() {
    is_given_back(NEWEST);
}

#[test]
fn a_deletion_takes_what_it_may_and_nothing_else() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    let before = world.state();
    let (ran, report) = images(&sandbox, &["--delete", "--yes"]);
    ran.exits(1);
    let after = world.state();
    let gone = [
        "orphan-deleted-stack",
        "orphan-live-stack",
        "orphan-s3-only",
        "orphan-nothing",
        "orphan-custom-bucket",
        "neighbour-orphan",
    ];
    let mut expected = before.clone();
    let remove = |list: &mut Value, is_gone: &dyn Fn(&str) -> bool| {
        list.as_array_mut().unwrap().retain(|entry| !is_gone(entry.as_str().unwrap()));
    };
    for label in gone {
        let planted = &world.planted[label];
        assert_eq!(find(&report, world.ami(label))["delete"], "done", "{label}\n{ran}");
        let region = &mut expected["us-east-1"];
        region["images"].as_object_mut().unwrap().remove(world.ami(label)).unwrap();
        let snapshots = planted["snapshots"].to_string();
        remove(&mut region["snapshots"], &|id| snapshots.contains(id));
        // Of the build in another bucket nothing proves which directory and which logs are its own.
        if label != "orphan-custom-bucket" && planted["directory"].is_string() {
            let group = planted["logGroup"].as_str().unwrap_or("none");
            remove(&mut region["logGroups"], &|name| name == group);
            let directory = planted["directory"].as_str().unwrap();
            remove(&mut expected["objects"], &|key| key.contains(directory));
        }
    }
    assert_eq!(after, expected, "{ran}");
    for label in ["in-use-instance", "in-use-template", "shared", "twin-1", "twin-2", "unknown-release"] {
        assert_eq!(find(&report, world.ami(label))["delete"], "refused", "{label}\n{ran}");
    }
    let ran = sandbox.pcluster(&["preflight", "images", "--delete", "--yes", "-i", "sound"]).run();
    ran.exits(1);
    assert!(words(&ran).contains("use `pcluster delete-image`"), "{ran}");
    assert_eq!(world.state(), after);
}

/// The steps of a deletion: AMI, snapshot, directory, log group. Each is the last that arrives, the first of them also
/// before it is carried out.
#[test]
fn deletion_that_is_interrupted_at_any_step_is_finished_by_the_same_command() {
    let world = World::plant();
    let before = world.state();
    let labels = ["orphan-deleted-stack", "orphan-live-stack", "orphan-s3-only", "neighbour-orphan"];
    for (step, label) in labels.into_iter().enumerate() {
        for option in ["--kill-before", "--kill-after"] {
            // The AMI of a step that was killed before its first call is still there.
            if option == "--kill-before" && step > 0 {
                continue;
            }
            let mut sandbox = world.sandbox(GOOD);
            let pid = sandbox.path("pid");
            let number = (step + 1).to_string();
            let proxy = world.proxy(&[option, &number, "--kill-pid-file", pid.to_str().unwrap()]);
            sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
            let arguments = ["preflight", "images", "--delete", "--yes", "--image", world.ami(label)];
            let mut command = sandbox.pcluster(&arguments).command();
            command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
            let mut shim = command.spawn().unwrap();
            fs::write(&pid, shim.id().to_string()).unwrap();
            assert!(!shim.wait().unwrap().success());
            drop(proxy);

            sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
            let state = world.state();
            let is_there = state["us-east-1"]["images"].get(world.ami(label)).is_some();
            assert_eq!(is_there, option == "--kill-before", "{label}");
            let (ran, report) = images(&sandbox, &[]);
            ran.exits(1);
            let unfinished = report["unfinished"].to_string();
            let has_logs = world.planted[label]["logGroup"].is_string();
            let is_left = step < 2 || step == 2 && has_logs;
            assert_eq!(unfinished.contains(world.ami(label)), !is_there && is_left, "{label}\n{ran}");
            if is_there {
                continue;
            }
            let (ran, report) = images(&sandbox, &["--delete", "--yes", "-i", world.id(label)]);
            ran.exits(i32::from(!is_left));
            assert_eq!(report["unfinished"], serde_json::json!([]), "{label}\n{ran}");
            let after = world.state();
            let snapshots = world.planted[label]["snapshots"].to_string();
            let left = after["us-east-1"]["snapshots"].as_array().unwrap().iter();
            assert!(
                !left.into_iter().any(|id| snapshots.contains(id.as_str().unwrap())),
                "{label}\n{after:#}"
            );
            let directory = world.planted[label]["directory"].as_str().unwrap();
            assert!(!after["objects"].to_string().contains(directory), "{label}\n{ran}");
            let groups = after["us-east-1"]["logGroups"].as_array().unwrap();
            assert!(!groups.contains(&world.planted[label]["logGroup"]), "{label}\n{ran}");
        }
    }
    let count = |state: &Value| state["us-east-1"]["images"].as_object().unwrap().len();
    assert_eq!(count(&world.state()), count(&before) - labels.len());
}

/// The one call of a repair fails, and is cut off before and after it arrives; the next run finds what the one before
/// has written.
#[test]
#[ignore = "long"]
fn repair_that_is_cut_off_is_ended_by_the_next() {
    let world = World::plant();
    let label = "orphan-deleted-stack";
    let arguments = ["--repair", "--yes", "--image", world.ami(label)];
    let tags = |state: &Value| state["us-east-1"]["images"][world.ami(label)].clone();
    let untagged = tags(&world.state());
    let mut sandbox = world.sandbox(GOOD);
    for (option, is_done) in [("--fail", false), ("--kill-before", false), ("--kill-after", true)] {
        let pid = sandbox.path("pid");
        let proxy = world.proxy(&[option, "1", "--kill-pid-file", pid.to_str().unwrap()]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let all = [&["preflight", "images"], &arguments[..]].concat();
        let mut command = sandbox.pcluster(&all).command();
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shim = command.spawn().unwrap();
        fs::write(&pid, shim.id().to_string()).unwrap();
        let status = shim.wait().unwrap();
        assert_eq!(status.code(), (option == "--fail").then_some(1), "{option}");
        let log = fs::read_to_string(&proxy.log).unwrap();
        assert!(log.contains("ec2 CreateTags"), "{option}\n{log}");
        drop(proxy);

        sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
        let is_tagged = tags(&world.state()) != untagged;
        assert_eq!(is_tagged, is_done, "{option}");
        let (ran, report) = images(&sandbox, &[]);
        let class = find(&report, world.ami(label))["class"].as_str().unwrap().to_owned();
        assert_eq!(class, if is_done { "healthy" } else { "orphan" }, "{option}\n{ran}");
    }
    let (ran, report) = images(&sandbox, &arguments);
    ran.exits(0);
    let image = find(&report, world.ami(label));
    assert_eq!(image["class"], "healthy", "{ran}");
    let after = tags(&world.state());
    for (key, value) in world.planted[label]["expected"].as_object().unwrap() {
        assert_eq!(&after[key], value, "{ran}");
    }
}

#[test]
#[ignore = "long"]
fn a_call_that_fails_leaves_nothing_half_done_and_the_next_run_ends_it() {
    let world = World::plant();
    let before = world.state();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-s3-only";
    let named = ["--yes", "--image", world.ami(label)];
    {
        let proxy = world.proxy(&["--fail", "1"]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let (ran, report) = images(&sandbox, &[&["--repair"], &named[..]].concat());
        ran.exits(1);
        assert_eq!(find(&report, world.ami(label))["repair"], "refused", "{ran}");
        assert_eq!(world.state(), before, "no tag of them is written");
    }
    {
        let proxy = world.proxy(&["--deny", "ec2:DeleteSnapshot"]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox.pcluster(&[&["preflight", "images", "--delete"], &named[..]].concat()).run();
        ran.exits(1);
        assert!(words(&ran).contains("it needs ec2:DeleteSnapshot"), "{ran}");
        let ran = sandbox.pcluster(&["preflight", "images"]).run();
        assert!(
            ran.stdout().contains("interrupted deletion") && ran.stdout().contains("still there: snap"),
            "{ran}"
        );
    }
    sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
    let (ran, report) = images(&sandbox, &[&["--delete"], &named[..]].concat());
    ran.exits(0);
    assert_eq!(report["unfinished"], serde_json::json!([]));
    let after = world.state().to_string();
    assert!(!after.contains(world.planted[label]["snapshots"][0].as_str().unwrap()));
}

/// The calls of a deletion: of the AMI, a snapshot, the objects, the log group. The next run lists and deletes what
/// one that fails leaves.
#[test]
#[ignore = "long"]
fn a_deletion_of_which_any_call_fails_is_ended_by_the_next() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let labels = ["orphan-deleted-stack", "orphan-live-stack", "orphan-s3-only", "neighbour-orphan"];
    for (step, label) in (1..).zip(labels) {
        let named = ["--delete", "--yes", "--image", world.ami(label)];
        {
            let proxy = world.proxy(&["--fail", &step.to_string()]);
            sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
            let (ran, report) = images(&sandbox, &named);
            ran.exits(1);
            assert_eq!(find(&report, world.ami(label))["delete"], "refused", "{ran}");
        }
        sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
        let is_there = world.state()["us-east-1"]["images"].get(world.ami(label)).is_some();
        assert_eq!(is_there, step == 1, "{label}");
        let (ran, report) = images(&sandbox, &[]);
        let is_listed = report["unfinished"].to_string().contains(world.ami(label));
        assert_eq!(is_listed, step > 1, "{label}\n{ran}");
        let (ran, report) = images(&sandbox, &named);
        ran.exits(0);
        assert_eq!(report["unfinished"], serde_json::json!([]), "{label}\n{ran}");
        let after = world.state();
        let snapshots = world.planted[label]["snapshots"].to_string();
        let mut left = after["us-east-1"]["snapshots"].as_array().unwrap().iter();
        assert!(!left.any(|id| snapshots.contains(id.as_str().unwrap())), "{label}\n{ran}");
        let directory = world.planted[label]["directory"].as_str().unwrap();
        assert!(!after["objects"].to_string().contains(directory), "{label}\n{ran}");
    }
}

impl World {
    /// Runs `preflight ARGUMENTS` at a terminal, and CODE when it asks.
    fn at_prompt(&self, sandbox: &RealSandbox, code: &str, arguments: &[&str]) -> Run {
        let python = Environment::named("moto").bin("python");
        let (prompt, shim) = (script("at_prompt.py"), sandbox.path("shim/pcluster"));
        let first = [prompt.to_str().unwrap(), &self.endpoint, "[y/N]", code, shim.to_str().unwrap()];
        sandbox.call(&python, &[&first[..], &["preflight"], arguments].concat()).run()
    }
}

/// A question can wait for hours.
#[test]
fn what_changes_after_the_plan_is_seen_before_a_deletion() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    for (label, code, said) in [
        (
            "orphan-deleted-stack",
            "ec2.create_tags(Resources=['AMI'], Tags=[{'Key': 'parallelcluster:image_id', 'Value': 'x'}])",
            "it has been repaired in the meantime",
        ),
        (
            "orphan-live-stack",
            "ec2.run_instances(ImageId='AMI', MinCount=1, MaxCount=1, InstanceType='c5.xlarge')",
            "uses it now",
        ),
        (
            "orphan-s3-only",
            "ec2.modify_image_attribute(ImageId='AMI', LaunchPermission={'Add': [{'UserId': '111122223333'}]})",
            "it has been shared",
        ),
        (
            "neighbour-orphan",
            "ec2.create_tags(Resources=['AMI'], Tags=[{'Key': 'pcluster-preflight:keep', 'Value': ''}])",
            "it has been tagged pcluster-preflight:keep",
        ),
    ] {
        let ami = world.ami(label);
        let before = world.state();
        let arguments = ["images", "--delete", "--image", ami];
        let ran = world.at_prompt(&sandbox, &code.replace("AMI", ami), &arguments);
        ran.exits(1);
        assert!(words(&ran).contains(said), "{label}\n{ran}");
        let after = world.state();
        assert!(after["us-east-1"]["images"].get(ami).is_some(), "{label}\n{ran}");
        for kept in ["snapshots", "logGroups"] {
            assert_eq!(after["us-east-1"][kept], before["us-east-1"][kept], "{label}\n{ran}");
        }
        assert_eq!(after["objects"], before["objects"], "{label}\n{ran}");
    }
}

/// A copy in another region, tagged by hand: only that region knows that it has the directory.
#[test]
fn a_directory_that_an_ami_of_another_region_has_stays() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let planted = &world.planted["orphan-deleted-stack"];
    let tags = planted["expected"].as_object().unwrap().iter();
    let tags: Vec<Value> = tags.map(|(key, value)| serde_json::json!({"Key": key, "Value": value})).collect();
    let code = format!(
        "import boto3, json, sys\nboto3.client('ec2', 'eu-west-1', endpoint_url=sys.argv[1], aws_access_key_id='x', \
         aws_secret_access_key='x').create_tags(Resources=['{}'], Tags=json.loads(sys.argv[2]))",
        world.ami("copy")
    );
    let tagged = python().args(["-c", &code, &world.endpoint, &serde_json::json!(tags).to_string()]).status();
    assert!(tagged.unwrap().success());
    let before = world.state();
    let ran = sandbox
        .pcluster(&["preflight", "images", "--delete", "--yes", "-i", world.id("orphan-deleted-stack")])
        .run();
    ran.exits(1);
    let place =
        format!("s3://{}/{}/", planted["bucket"].as_str().unwrap(), planted["directory"].as_str().unwrap());
    let said = format!("left {place}: {} in eu-west-1 uses this directory", world.ami("copy"));
    assert!(words(&ran).contains(&said) && !words(&ran).contains("files in S3"), "{ran}");
    assert_eq!(world.state()["objects"], before["objects"], "{ran}");
    // Nothing is left to be finished, because no other run could.
    let (ran, report) = images(&sandbox, &[]);
    assert_eq!(report["unfinished"], serde_json::json!([]), "{ran}");

    // A region that a policy of the organization denies.
    let proxy = world.proxy(&["--deny", "ec2:DescribeImages@eu-west-1"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let (ran, report) = images(&sandbox, &["--delete", "--yes", "-i", world.id("orphan-s3-only")]);
    ran.exits(1);
    let left = report["images"][0]["left"][0].as_str().unwrap();
    assert!(
        left.starts_with("s3://") && left.contains("cannot find out whether an AMI in eu-west-1"),
        "{ran}"
    );
    assert_eq!(world.state()["objects"], before["objects"], "{ran}");
    let logs = world.planted["orphan-s3-only"]["logGroup"].as_str().unwrap();
    assert!(!world.state()["us-east-1"]["logGroups"].to_string().contains(logs), "{ran}");
}

#[test]
fn name_that_does_not_exist_is_reported() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    for arguments in [["-i", "no-such-image"], ["--image", "ami-0123456789abcdef0"]] {
        let ran = sandbox.pcluster(&[&["preflight", "images"], &arguments[..]].concat()).run();
        ran.exits(1);
        assert!(ran.stdout().contains("Not found among the AMIs that pcluster built in us-east-1"), "{ran}");
    }
    sandbox.pcluster(&["preflight", "images", "-i", world.id("healthy")]).run().exits(0);
}

#[test]
fn what_cannot_be_asked_is_one_clear_error() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    for (deny, status, said) in [
        ("ec2:DescribeImages", 3, "It needs ec2:DescribeImages"),
        ("ec2:DescribeSnapshots", 1, "not asked: ec2:DescribeSnapshots in us-east-1: denied"),
        ("cloudformation:*", 1, "not asked: cloudformation:ListStacks in us-east-1: denied"),
        ("s3:*", 1, "not asked: s3:ListObjectsV2"),
        ("logs:*", 1, "not asked: logs:DescribeLogGroups in us-east-1: denied"),
    ] {
        let proxy = world.proxy(&["--deny", deny]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox.pcluster(&["preflight", "images"]).run();
        ran.exits(status);
        assert!(words(&ran).contains(said) || ran.stderr().contains(said), "{deny}\n{ran}");
    }
    sandbox.set("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let ran = sandbox.pcluster(&["preflight", "images"]).run();
    ran.exits(3);
    assert!(ran.stderr().contains("Check the network"), "{ran}");
    sandbox.unset("AWS_ACCESS_KEY_ID");
    sandbox.unset("AWS_SECRET_ACCESS_KEY");
    let ran = sandbox.pcluster(&["preflight", "images"]).run();
    ran.exits(3);
    assert!(ran.stderr().contains("Log in as you would for"), "{ran}");
    sandbox.unset("AWS_DEFAULT_REGION");
    sandbox.pcluster(&["preflight", "images"]).run().exits(3);

    let config = "[default]\nregion = us-east-1\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = s\n\
                  mfa_serial = arn:aws:iam::123456789012:mfa/m\n[profile s]\naws_access_key_id = x\n\
                  aws_secret_access_key = x\n";
    let file = sandbox.write("work/aws-config", config);
    sandbox.set("AWS_CONFIG_FILE", file);
    sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
    let ran = sandbox.pcluster(&["preflight", "images"]).run();
    ran.exits(3);
    assert!(ran.stderr().contains("MFA code") && ran.stderr().contains("Log in as you would for"), "{ran}");
}

/// EC2 refuses to delete a snapshot that another AMI, of another account perhaps, is made of.
#[test]
fn snapshot_that_another_ami_needs_stays_and_is_reported() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-deleted-stack";
    let snapshot = world.planted[label]["snapshots"][0].as_str().unwrap().to_owned();
    let proxy = world.proxy(&["--answer", "ec2:DeleteSnapshot=InvalidSnapshot.InUse"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let named = ["preflight", "images", "--delete", "--yes", "--image", world.ami(label)];
    let ran = sandbox.pcluster(&named).run();
    ran.exits(1);
    assert!(ran.stdout().contains(&format!("left snapshot {snapshot}: another AMI needs it")), "{ran}");
    let state = world.state();
    assert!(state["us-east-1"]["snapshots"].to_string().contains(&snapshot), "{ran}");
    assert!(state["us-east-1"]["images"].get(world.ami(label)).is_none(), "{ran}");
    // Nothing is left to be ended.
    sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
    let (ran, report) = images(&sandbox, &[]);
    assert_eq!(report["unfinished"], serde_json::json!([]), "{ran}");
}

/// A page with status 200, as a captive portal gives: botocore takes it for an answer without content.
#[test]
fn a_page_in_place_of_an_answer_is_no_answer() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-deleted-stack";
    let before = world.state();
    for (action, said) in [
        ("ec2:DescribeImages", "DescribeImages"),
        ("ec2:DescribeImageAttribute", "DescribeImageAttribute"),
        ("s3:ListBucketVersions", "cannot delete parallelcluster/"),
    ] {
        let proxy = world.proxy(&["--answer", &format!("{action}=html")]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox
            .pcluster(&["preflight", "images", "--delete", "--yes", "--image", world.ami(label)])
            .run();
        assert!(matches!(ran.status.code(), Some(1 | 3)), "{action}\n{ran}");
        assert!(words(&ran).contains(said) || ran.stderr().contains(said), "{action}\n{ran}");
        if action != "s3:ListBucketVersions" {
            assert_eq!(world.state(), before, "{action}\n{ran}");
        }
        assert_eq!(world.state()["objects"], before["objects"], "{action}\n{ran}");
    }
}

#[test]
fn the_template_of_a_stack_is_checked_live_and_deleted() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    for label in ["orphan-live-stack", "orphan-deleted-stack"] {
        let ran = sandbox.pcluster(&["preflight", "stack", world.id(label)]).run();
        ran.exits(1);
        assert!(ran.stdout().contains("AmiDistributionConfiguration"), "{ran}");
        assert!(ran.stdout().contains("restore the tags with `pcluster preflight images --repair`"), "{ran}");
        let command = format!("`pcluster preflight images --repair -i {} -r us-east-1`", world.id(label));
        assert!(ran.stderr().contains(&command), "{ran}");
    }
    let stack = world.planted["running-build"]["stack"].as_str().unwrap();
    for name in [stack, world.id("running-build")] {
        let ran = sandbox.pcluster(&["preflight", "stack", name]).run();
        ran.exits(1);
        let command = "aws cloudformation delete-stack --stack-name running --region us-east-1";
        let repair = "or let it finish, then restore the tags of its AMI: `pcluster preflight images --repair -i running";
        assert!(ran.stderr().contains(command) && ran.stderr().contains(repair), "{ran}");
    }
    let ran = sandbox.pcluster(&["preflight", "stack", "no-such-stack"]).run();
    ran.exits(2);
    assert!(ran.stderr().contains("there is no stack \"no-such-stack\" in us-east-1"), "{ran}");
}

/// The end of the shim is the end of its pipe. The call in flight gets no answer, and no other one follows.
#[test]
fn script_makes_no_call_after_the_end_of_its_shim() {
    let world = World::plant();
    let (before, answered) = (world.state(), world.directory.path().join("answered"));
    let proxy = world.proxy(&["--hold", "1", answered.to_str().unwrap()]);
    let planted = &world.planted["orphan-s3-only"];
    let (ami, region) = (world.ami("orphan-s3-only"), "us-east-1");
    let listed = python().args(["-c", "import json, sys; print(json.dumps(sys.path))"]).output().unwrap();
    let sys_path: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let request = serde_json::json!({
        "kind": "apply", "region": region, "sysPath": sys_path,
        "steps": [
            {"action": "deregister", "region": region, "ami": ami},
            {"action": "snapshot", "region": region, "snapshot": planted["snapshots"][0]},
        ],
    });
    let file = world.directory.path().join("request.json");
    fs::write(&file, request.to_string()).unwrap();
    let mut command = python();
    command
        .arg(Path::new(ROOT).join(CLIENT))
        .arg("sentinel")
        .arg(&file)
        .env("AWS_ENDPOINT_URL", &proxy.endpoint);
    command.envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")]);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let log = || fs::read_to_string(&proxy.log).unwrap();
    wait_for("the first write", || log().contains("ec2 DeregisterImage").then_some(()));
    drop(client.stdin.take());
    wait_for("the end of the script", || client.try_wait().unwrap());
    fs::write(answered, "").unwrap();
    assert!(log().ends_with("ec2 DeregisterImage\n"), "{}", log());
    let after = world.state();
    assert!(after["us-east-1"]["images"].get(ami).is_none());
    assert_eq!(after["us-east-1"]["snapshots"], before["us-east-1"]["snapshots"]);
}

#[test]
fn signal_during_a_deletion_prints_what_may_be_left_and_how_to_finish() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    for (signal, label) in [(Signal::TERM, "orphan-deleted-stack"), (Signal::INT, "orphan-live-stack")] {
        let answered = world.directory.path().join(format!("answered {label}"));
        let proxy = world.proxy(&["--hold", "1", answered.to_str().unwrap()]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let (ami, id) = (world.ami(label), world.id(label));
        let arguments = ["preflight", "images", "--delete", "--yes", "-i", id];
        let mut command = sandbox.pcluster(&arguments).command();
        let shim = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = || fs::read_to_string(&proxy.log).unwrap();
        wait_for("the first write", || log().contains("ec2 DeregisterImage").then_some(()));
        rustix::process::kill_process(Pid::from_child(&shim), signal).unwrap();
        let output = shim.wait_with_output().unwrap();
        fs::write(answered, "").unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(signal.as_raw()), "{said}");
        let snapshot = world.planted[label]["snapshots"][0].as_str().unwrap();
        for text in [
            "interrupted: 0 of 1 AMIs deleted".to_owned(),
            format!("{ami} may be half done: deregister {ami}, delete {snapshot}, "),
            format!("hint: to finish, run `pcluster preflight images --delete -i {id}`"),
        ] {
            assert!(said.contains(&text), "{text}\n{said}");
        }
        drop(proxy);
        sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
        images(&sandbox, &["--delete", "--yes", "-i", id]).0.exits(0);
        assert!(!world.state().to_string().contains(snapshot));
    }
}

#[test]
fn plan_has_the_alias_of_the_account_if_the_caller_may_ask_for_it() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let code = "import boto3, sys\nboto3.client('iam', 'us-east-1', endpoint_url=sys.argv[1], aws_access_key_id='x', \
        aws_secret_access_key='x').create_account_alias(AccountAlias='hpc-production')";
    assert!(python().args(["-c", code, &world.endpoint]).status().unwrap().success());
    let head = |sandbox: &RealSandbox| {
        let ran = sandbox.pcluster(&["preflight", "images", "--delete", "--dry-run"]).run();
        ran.stdout().lines().next().unwrap().to_owned()
    };
    assert_eq!(head(&sandbox), "account 123456789012 (hpc-production), us-east-1");
    let proxy = world.proxy(&["--deny", "iam:ListAccountAliases"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    assert_eq!(head(&sandbox), "account 123456789012, us-east-1");
}

/// What moto cannot answer: protection, references, a stack that could not be deleted.
#[test]
fn ami_that_is_protected_or_referenced_is_not_deleted() {
    let world = World::plant();
    let mut sandbox = world.sandbox(NEWEST);
    let (ami, id) = (world.ami("orphan-live-stack"), world.id("orphan-live-stack"));
    let protected = "ec2:DescribeImages=<imageState>=><deregistrationProtection>enabled</deregistrationProtection><imageState>";
    let references = format!(
        "<DescribeImageReferencesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><imageReferenceSet><item>\
         <imageId>{ami}</imageId><resourceType>ssm:Parameter</resourceType>\
         <arn>arn:aws:ssm:us-east-1:123456789012:parameter/golden</arn></item></imageReferenceSet>\
         </DescribeImageReferencesResponse>"
    );
    let file = world.directory.path().join("references.xml");
    fs::write(&file, references).unwrap();
    let option = format!("ec2:DescribeImageReferences={}", file.display());
    let failed = "cloudformation:DescribeStacks=CREATE_COMPLETE=>DELETE_FAILED";
    let before = world.state();
    for (options, said) in [
        (["--rewrite", protected], "it is protected from deregistration (enabled)"),
        (["--body", &option], "it is in use by arn:aws:ssm:us-east-1:123456789012:parameter/golden"),
    ] {
        let proxy = world.proxy(&options);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox.pcluster(&["preflight", "images", "--delete", "--yes", "-i", id]).run();
        ran.exits(1);
        assert!(words(&ran).contains(said), "{ran}");
        assert_eq!(world.state(), before, "{ran}");
    }
    let proxy = world.proxy(&["--rewrite", failed]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let ran = sandbox.pcluster(&["preflight", "stack", id]).run();
    ran.exits(1);
    assert!(ran.stdout().contains("restore the tags with `pcluster preflight images --repair`"), "{ran}");
}

#[test]
fn ami_of_a_launch_configuration_is_not_deleted() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let ami = world.ami("orphan-s3-only");
    let code = "import boto3, sys\nboto3.client('autoscaling', 'us-east-1', endpoint_url=sys.argv[1], \
        aws_access_key_id='x', aws_secret_access_key='x').create_launch_configuration(\
        LaunchConfigurationName='old-workers', ImageId=sys.argv[2], InstanceType='c5.xlarge')";
    assert!(python().args(["-c", code, &world.endpoint, ami]).status().unwrap().success());
    let delete = ["preflight", "images", "--delete", "--yes", "--image", ami];
    let ran = sandbox.pcluster(&delete).run();
    ran.exits(1);
    assert!(ran.stdout().contains("it is in use by old-workers"), "{ran}");
    let proxy = world.proxy(&["--deny", "autoscaling:DescribeLaunchConfigurations"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let ran = sandbox.pcluster(&delete).run();
    ran.exits(1);
    assert!(words(&ran).contains("cannot find out whether it is in use"), "{ran}");
}

#[test]
fn what_a_deletion_cannot_reach_in_s3_is_listed_and_is_status_1() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-deleted-stack";
    let proxy = world.proxy(&["--deny", "s3:ListBucket"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let (ran, report) = images(&sandbox, &["--delete", "--yes", "--image", world.ami(label)]);
    ran.exits(1);
    let planted = &world.planted[label];
    let place =
        format!("s3://{}/{}/", planted["bucket"].as_str().unwrap(), planted["directory"].as_str().unwrap());
    let image = find(&report, world.ami(label));
    assert_eq!(
        (&image["delete"], &image["left"]),
        (&serde_json::json!("done"), &serde_json::json!([place])),
        "{ran}"
    );
    assert!(world.state()["objects"].to_string().contains(planted["directory"].as_str().unwrap()));
}

#[test]
fn tag_that_ec2_refuses_is_left_out_and_the_rest_is_written() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-deleted-stack";
    let proxy = world.proxy(&["--refuse", "0042"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let ran =
        sandbox.pcluster(&["preflight", "images", "--repair", "--yes", "--image", world.ami(label)]).run();
    ran.exits(0);
    assert!(words(&ran).contains("EC2 refuses these tags, and they were left out: Cost Center"), "{ran}");
    let tags = world.state()["us-east-1"]["images"][world.ami(label)].clone();
    assert_eq!((&tags["team"], tags.get("Cost Center")), (&serde_json::json!("hpc"), None), "{ran}");
    assert_eq!(tags["parallelcluster:image_id"], world.id(label), "{ran}");
}

#[test]
fn copy_in_another_region_is_adopted_with_the_tags_of_its_original() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    let (ami, id) = (world.ami("copy"), world.id("copy"));
    let ran = sandbox.pcluster(&["preflight", "images", "-r", "eu-west-1", "--image", ami]).run();
    ran.exits(1);
    let command = format!("`pcluster preflight images --repair -i {id} --image {ami} -r eu-west-1`");
    assert!(ran.stdout().contains(&command), "{ran}");
    let printed: Vec<&str> = command.trim_matches('`').split(' ').skip(1).collect();
    sandbox.pcluster(&[&printed[..], &["--yes"]].concat()).run().exits(0);
    let tags = world.state()["eu-west-1"]["images"][ami].clone();
    assert_eq!((&tags["team"], &tags["parallelcluster:image_id"]), (&"hpc".into(), &id.into()), "{tags}");
}

#[test]
fn orphan_of_unknown_release_is_deleted_only_by_its_ami() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    let (ami, id) = (world.ami("unknown-release"), world.id("unknown-release"));
    let ran = sandbox.pcluster(&["preflight", "images", "--delete", "--yes", "-i", id]).run();
    ran.exits(1);
    assert!(words(&ran).contains("name it with --image"), "{ran}");
    images(&sandbox, &["--delete", "--yes", "--image", ami]).0.exits(0);
    assert!(!world.state().to_string().contains(ami));
}

/// What a profile says, and what the error has to say.
#[test]
fn credentials_that_cannot_be_had_are_the_reason_that_is_printed() {
    let world = World::plant();
    let mut sandbox = world.sandbox(NEWEST);
    let proxy = world.proxy(&["--answer", "sts:GetCallerIdentity=html"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let ran = sandbox.pcluster(&["preflight", "images"]).run();
    ran.exits(3);
    assert!(
        ran.stderr().contains("does not come from AWS") && ran.stderr().contains("sts:GetCallerIdentity"),
        "{ran}"
    );

    for code in ["RequestTimeTooSkewed", "Signature expired"] {
        let proxy = world.proxy(&["--answer", &format!("sts:GetCallerIdentity={code}")]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox.pcluster(&["preflight", "images"]).run();
        ran.exits(3);
        assert!(ran.stderr().contains("The clock of this machine is wrong"), "{ran}");
    }

    sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
    sandbox.unset("AWS_ACCESS_KEY_ID");
    sandbox.unset("AWS_SECRET_ACCESS_KEY");
    let sso = "sso_start_url = https://example.com/start\nsso_region = us-east-1\nsso_account_id = 123456789012\n\
               sso_role_name = r\n";
    for (profile, said, hint) in [
        (
            "credential_process = /no/such/program\n",
            "the credentials cannot be read",
            "Log in as you would for",
        ),
        (
            "credential_process = /bin/sh -c 'echo text'\n",
            "the credentials cannot be read",
            "Log in as you would for",
        ),
        (
            "credential_process = /bin/sh -c 'echo vault is sealed >&2; exit 1'\n",
            "vault is sealed",
            "Log in as you would for",
        ),
        (sso, "SSO", "Run `aws sso login`"),
    ] {
        let file = sandbox.write("work/aws-config", format!("[default]\nregion = us-east-1\n{profile}"));
        sandbox.set("AWS_CONFIG_FILE", file);
        let ran = sandbox.pcluster(&["preflight", "images"]).run();
        ran.exits(3);
        assert!(ran.stderr().contains(said) && ran.stderr().contains(hint), "{ran}");
    }
}
