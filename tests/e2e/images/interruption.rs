//! A repair or deletion that is interrupted, or in which a call fails: what is left over, and the next run,
//! which completes the change.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::{World, find, images, python, words};
use crate::environments::{GOOD, ROOT};
use crate::support::machine::wait_for;

/// The script through which the shim calls AWS.
const CLIENT: &str = "src/images/client.py";

/// A deletion makes one writing call for each step: AMI, snapshot, directory, log group. The shim is killed
/// after each of these calls, and also before the first call reaches AWS.
#[test]
#[ignore = "long"]
fn deletion_that_is_interrupted_at_any_step_is_finished_by_the_same_command() {
    let world = World::plant();
    let before = world.state();
    let labels = ["orphan-deleted-stack", "orphan-live-stack", "orphan-s3-only", "neighbour-orphan"];
    for (step, label) in labels.into_iter().enumerate() {
        for option in ["--kill-before", "--kill-after"] {
            // Both options need the AMI of `label`, and `--kill-before` comes first. From step 1 on,
            // `--kill-before` would kill the shim only after the shim has deregistered the AMI, so
            // `--kill-after` would not find the AMI.
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

/// A deletion makes one writing call for each of these: the AMI, a snapshot, the objects and the log group.
/// If a call fails, the next listing shows what is left, and the next deletion deletes it.
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

/// When the shim ends, the stdin of client.py is closed. client.py then ends without waiting for the answer
/// to the call in flight, and makes no other call.
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
            "interrupted: 0 of 1 AMI deleted".to_owned(),
            format!("{ami} may be half done: deregister {ami}, delete {snapshot}, "),
            format!("hint: To finish, run `pcluster preflight images --delete -i {id}`."),
        ] {
            assert!(said.contains(&text), "{text}\n{said}");
        }
        drop(proxy);
        sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
        images(&sandbox, &["--delete", "--yes", "-i", id]).0.exits(0);
        assert!(!world.state().to_string().contains(snapshot));
    }
}
