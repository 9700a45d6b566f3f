//! Verdict × mode × strict through the built binary: what stops, what continues, what is printed.

use serde_json::{Value, json};

use std::fs;

use crate::support::fakes::{BAD, Environment, REAL, REAL_OUTPUT};
use crate::support::machine::{on_this_machine, output};
use crate::support::run::{Call, Run};
use crate::support::sandbox::Sandbox;

#[test]
fn ready_is_silent() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent();
    assert_eq!(sandbox.log(), ["identity", "node", "synth", REAL]);
    sandbox.has_no_scratch();
}

/// Leftover metadata of aws-parallelcluster 2, which has no build-image, does not turn the check off.
#[test]
fn what_is_left_of_a_release_without_build_image_turns_nothing_off() {
    let sandbox = Sandbox::new();
    sandbox.environment().builds(BAD);
    sandbox.write("left/x.dist-info/METADATA", "Name: aws-parallelcluster\nVersion: 2.11.7\n\n");
    let run = sandbox.build_image().var("PYTHONPATH", sandbox.path("left")).run();
    run.exits(1).prefixed().holds(run.stdout().contains("ImageBuilderTemplate"), "by its template");
}

#[test]
fn blocked_by_an_advisory_names_it_and_not_what_it_explains() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let run = sandbox.build_image().run();
    run.exits(1)
        .prefixed()
        .stdout_matches("blocked-by-advisory.json")
        .stderr_matches("blocked-by-advisory.txt");
    assert_eq!(sandbox.log(), ["identity", "node", "synth"]);
    sandbox.has_no_scratch();
}

/// Scripts read the JSON that the guard prints when it stops a call, so the keys, their order and the indent
/// are exact, and stdout has nothing else.
#[test]
fn the_stop_has_the_shape_of_a_rejected_configuration() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let run = sandbox.build_image().run();
    let stopped: Value = serde_json::from_slice(&run.stdout).unwrap();
    let keys: Vec<&String> = stopped.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["configurationValidationErrors", "message"]);
    let errors = stopped["configurationValidationErrors"].as_array().unwrap();
    assert_eq!(errors.len(), 1);
    let keys: Vec<&String> = errors[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["level", "type", "message"]);
    assert_eq!(errors[0]["level"], "ERROR");
    assert_eq!(errors[0]["type"], "PackageAdvisory");
    let message = errors[0]["message"].as_str().unwrap();
    let fix = message.split_once(" Fix: ").expect("the message ends in what to do").1;
    run.holds(
        run.stderr().lines().last().unwrap().ends_with(&format!("hint: {}.", fix.replacen("run", "Run", 1))),
        "both name the same command",
    );
    run.holds(run.stdout() == serde_json::to_string_pretty(&stopped).unwrap() + "\n", "indented by 2");
}

/// Only the template shows the faults: no advisory matches the packages.
#[test]
fn blocked_by_the_template_names_each_fault_and_where() {
    let sandbox = Sandbox::new();
    sandbox.environment().builds(BAD);
    let run = sandbox.build_image().run();
    run.exits(1)
        .prefixed()
        .stdout_matches("blocked-by-template.json")
        .stderr_matches("blocked-by-template.txt");
    assert_eq!(sandbox.log(), ["identity", "node", "synth"]);
}

#[test]
fn a_screen_is_enough_for_many_findings() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let mut template: Value = serde_json::from_str(crate::support::fakes::GOOD).unwrap();
    let ami = &mut template["Resources"]["DistributionConfiguration"]["Properties"]["Distributions"][0]["AmiDistributionConfiguration"];
    ami["AmiTags"] = json!({});
    environment.builds(&template.to_string());
    let run = sandbox.build_image().run();
    run.exits(1).prefixed().stdout_matches("blocked-many.json").stderr_matches("blocked-many.txt");
}

#[test]
fn the_first_finding_is_reported_with_its_cost_and_its_fix_before_the_others() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [more.yaml]\n");
    sandbox.write("config/pcluster-shim/more.yaml", crate::preflight::ADVISORY);
    let run = sandbox.build_image().run();
    run.exits(1).prefixed().stderr_matches("blocked-unlike.txt");
    let stderr = run.stderr();
    let lines: Vec<&str> = stderr.lines().collect();
    run.holds(lines[0].contains("1.153.0 writes"), "what is wrong");
    run.holds(lines[1].contains("The build wastes an hour"), "what it costs");
    run.holds(lines[2].contains("hint: Run `"), "what repairs it");
    run.holds(lines[3].contains("this company") && lines[4].contains("a talk"), "then the other");
    // If several findings have the same cost and the same fix, the guard prints cost and fix only once, after
    // the first finding.
    sandbox.write("config/pcluster-shim/config.yaml", "");
    environment.cdk("1.204.0");
    environment.builds(BAD);
    let run = sandbox.build_image().run();
    run.exits(1).holds(run.stderr().matches("hint: ").count() == 1, "one fix");
    run.holds(run.stderr().lines().nth(2).unwrap().contains("hint: "), "in the third line");
}

/// If a pcluster does not start, no configuration can make it start, so a minimal configuration is not tried.
#[test]
fn a_pcluster_that_does_not_start_is_stopped_after_one_start() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.answers(&json!({
        "kind": "unstartable", "stage": "import", "exception": "ImportError", "message": "cannot import name 'soft_unicode'",
        "module": "markupsafe", "moduleFile": null, "file": null, "bytecode": null, "cause": null,
    }));
    let run = sandbox.build_image().run();
    run.exits(1).prefixed().stderr_matches("does-not-start.txt");
    assert_eq!(sandbox.log(), ["identity", "node", "synth"]);
}

/// In this test, the user's configuration gives no template. The shim then builds the template of a minimal
/// configuration only if that template could refute an advisory. No template can refute an advisory about the
/// start of pcluster.
#[test]
fn an_advisory_that_the_template_does_not_show_needs_no_minimal_template() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.installs("setuptools", "82.0.1", "");
    environment.answers(&json!({"kind": "unexpected", "call": "ec2:DescribeImages", "startupMs": 1}));
    sandbox.build_image().run();
    let synths = || sandbox.log().iter().filter(|line| *line == "synth").count();
    assert_eq!(synths(), 1);
    environment.cdk("1.153.0");
    sandbox.clear_log();
    sandbox.build_image().run();
    assert_eq!(synths(), 2);
}

#[test]
fn blocked_in_mode_warn_reports_and_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let run = sandbox.build_image().var("PCLUSTER_SHIM_MODE", "warn").run();
    run.exits(0).prints(REAL_OUTPUT).prefixed().stderr_matches("blocked-mode-warn.txt");
    assert_eq!(sandbox.log().last().unwrap(), REAL);
}

#[test]
fn mode_off_checks_nothing() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    for (mode, strict) in [("off", "0"), ("OFF", "1")] {
        let call = sandbox.build_image().var("PCLUSTER_SHIM_MODE", mode).var("PCLUSTER_SHIM_STRICT", strict);
        call.run().exits(0).prints(REAL_OUTPUT).is_silent();
    }
    assert_eq!(sandbox.log(), [REAL, REAL]);
    assert_eq!(sandbox.tree("state"), "");
}

#[test]
fn unknown_warns_in_one_line_and_goes_on() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.answers(&json!({"kind": "unexpected", "stage": "template", "call": "ec2:RunInstances"}));
    for mode in ["block", "warn"] {
        let run = sandbox.build_image().var("PCLUSTER_SHIM_MODE", mode).run();
        run.exits(0).prints(REAL_OUTPUT).warns_once("ec2:RunInstances").stderr_matches("unknown.txt");
    }
}

#[test]
fn unknown_stops_where_strict_is_set_unless_the_mode_is_warn() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.answers(&json!({"kind": "failed", "stage": "import", "message": "ModuleNotFoundError: No module named 'pkg_resources'"}));
    let strict = || sandbox.build_image().var("PCLUSTER_SHIM_STRICT", "1");
    let run = strict().run();
    run.exits(1).prefixed().stdout_matches("unknown-strict.json").stderr_matches("unknown-strict.txt");
    assert!(!sandbox.log().contains(&REAL.to_owned()));
    strict().var("PCLUSTER_SHIM_MODE", "warn").run().exits(0).prints(REAL_OUTPUT).warns_once("pkg_resources");
}

/// An ERROR blocks, whatever else is unknown.
#[test]
fn blocked_beats_unknown() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    environment.answers(&json!({"kind": "failed", "stage": "import", "message": "boom"}));
    let run = sandbox.build_image().run();
    run.exits(1).prefixed();
    assert_eq!(sandbox.log(), ["identity", "node", "synth"]);
}

/// If the real pcluster refuses a call, only its own words are printed.
#[test]
fn a_refused_call_gets_the_real_answer_and_nothing_else() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.really("echo refused-out; echo refused-err >&2; exit 2");
    for (broken, cdk) in [(false, "1.204.0"), (true, "1.153.0")] {
        environment.cdk(cdk);
        for stage in ["arguments", "region", "configuration"] {
            environment.answers(&json!({"kind": "rejected", "stage": stage, "message": "no"}));
            let call = sandbox.build_image().argument("--query").argument("x").argument("--unknown");
            let run = call.var("PCLUSTER_SHIM_STRICT", "1").run();
            run.exits(2).prints("refused-out\n");
            run.holds(run.stderr() == "refused-err\n", &format!("{stage}, broken {broken}"));
        }
    }
}

#[test]
fn help_starts_no_python_of_the_shims() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    environment.really("echo usage; exit 3");
    for more in ["-h", "--help"] {
        sandbox.build_image().argument(more).run().exits(3).prints("usage\n").is_silent();
        sandbox.pcluster(["build-image", more]).run().exits(3).prints("usage\n").is_silent();
    }
    assert!(sandbox.log().iter().all(|line| line.starts_with("real ")), "{:?}", sandbox.log());
}

/// If the configuration is not valid YAML, or is not a mapping, the real pcluster reports that. The shim
/// reports nothing, even if an advisory matches.
#[test]
fn a_malformed_configuration_is_left_to_the_real_pcluster() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    environment.answers(&json!({"kind": "rejected", "stage": "configuration", "message": "no"}));
    environment.really("echo bad configuration; exit 1");
    for content in ["", "just words", "Build: [", "- a\n"] {
        sandbox.write("work/image.yaml", content);
        sandbox.build_image().run().exits(1).prints("bad configuration\n").is_silent();
    }
}

#[test]
fn a_warning_advisory_does_not_block_and_is_not_reported_at_every_build() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.installs("aws-cdk.core", "1.203.0", "");
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent();
}

/// A real pcluster that prints the configuration that it reads, and a synthesis that logs what it
/// is asked for.
fn reads_its_configuration(environment: &Environment) {
    environment.really(
        r#"while [ $# -gt 0 ]; do
            case $1 in
            -c | --image-configuration) file=$2; shift ;;
            -c=* | --image-c*=*) file=${1#*=} ;;
            -c*) file=${1#-c} ;;
            esac
            shift
        done
        echo "the real pcluster reads"; cat "$file""#,
    );
    let synth = fs::read_to_string(environment.path("fake/synth")).unwrap();
    environment.synthesizes(&format!("echo \"asked $* in $AWS_DEFAULT_REGION\" >>\"$log\"; {synth}"));
}

const CONTENT: &str = "Build:\n  InstanceType: c5.xlarge\n";

fn fifo(sandbox: &Sandbox) {
    output(&on_this_machine("mkfifo"), &[sandbox.path("work/fifo").as_os_str()]);
}

/// Runs a call, and writes the configuration into the FIFO once, for the first reader that opens it.
fn fed(sandbox: &Sandbox, call: Call) -> Run {
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| fs::write(sandbox.path("work/fifo"), CONTENT).unwrap());
        let run = call.run();
        feeder.join().unwrap();
        run
    })
}

const FORMS: [&str; 6] =
    ["-c @", "-c=@", "-c@", "--image-configuration @", "--image-configuration=@", "--image-c=@"];

/// `pcluster build-image` with the configuration named in this form.
fn named(sandbox: &Sandbox, form: &str, file: &str) -> Call {
    let call = sandbox.pcluster(["build-image", "-i", "my-image"]);
    form.split(' ').fold(call, |call, word| call.argument(word.replace('@', file)))
}

/// The shim and its children do not read the configuration, so the real pcluster gets all of it. The
/// environment is judged with a minimal configuration, and one line says so.
#[test]
fn a_configuration_that_can_be_read_once_reaches_the_real_pcluster_whole() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    reads_its_configuration(&environment);
    fifo(&sandbox);
    let expected = format!("the real pcluster reads\n{CONTENT}");
    for form in FORMS {
        let run = fed(&sandbox, named(&sandbox, form, "fifo"));
        run.exits(0).prints(&expected).warns_once("fifo").stderr_matches("read-once.txt");
    }
    let asked: Vec<String> = sandbox.log().into_iter().filter(|line| line.starts_with("asked")).collect();
    let minimal =
        |line: &String| line.ends_with("/image-config.yaml --image-id preflight-check in us-east-1");
    assert!(asked.len() == FORMS.len() && asked.iter().all(minimal), "{asked:?}");
    let off = fed(&sandbox, named(&sandbox, "-c @", "fifo").var("PCLUSTER_SHIM_MODE", "off"));
    off.exits(0).prints(&expected).is_silent();
    // A link to the FIFO, and an absolute name.
    sandbox.link("work/link", "fifo");
    let absolute = sandbox.path("work/fifo");
    for file in ["link", absolute.to_str().unwrap()] {
        fed(&sandbox, named(&sandbox, "-c @", file)).exits(0).prints(&expected).warns_once(file);
    }
    sandbox.has_no_scratch();
}

/// Forms of a redirection: a file, a pipe, and bash's process substitution. A check starts its children with
/// /dev/null as their stdin, so these children could not read a configuration from the shim's stdin.
#[test]
fn a_configuration_on_stdin_reaches_the_real_pcluster_whole() {
    let sandbox = Sandbox::new();
    reads_its_configuration(&sandbox.environment());
    sandbox.write("work/content", CONTENT);
    let expected = format!("the real pcluster reads\n{CONTENT}");
    let (sh, bash) = (sandbox.path("tools/sh"), sandbox.path("tools/bash"));
    for form in FORMS {
        for stdin in ["/dev/stdin", "/dev/fd/0"] {
            let run = named(&sandbox, form, stdin).stdin(CONTENT).run();
            run.exits(0).prints(&expected).warns_once(stdin);
            let piped = named(&sandbox, form, stdin).under(&sh, &["-c", "cat content | \"$@\"", "sh"]).run();
            piped.exits(0).prints(&expected).warns_once(stdin);
        }
        let form = form.replace('@', "<(cat content)");
        let substituted = format!("\"$@\" {form}");
        let call =
            sandbox.pcluster(["build-image", "-i", "my-image"]).under(&bash, &["-c", &substituted, "bash"]);
        call.run().exits(0).prints(&expected).warns_once("/dev/fd/");
    }
}

/// The FIFO has no writer, so a call that opened it would hang.
#[test]
fn a_broken_environment_is_stopped_whatever_the_form_of_the_configuration() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    fifo(&sandbox);
    let call = |form: &str, file: &str| named(&sandbox, form, file);
    for by_the_template in [true, false] {
        if by_the_template {
            environment.builds(BAD);
        } else {
            environment.is_broken();
        }
        for form in FORMS {
            for file in ["fifo", "/dev/stdin", "/dev/null", "/dev/fd/0"] {
                call(form, file).stdin(CONTENT).run().exits(1).prefixed();
            }
        }
        let snapshot = if by_the_template { "read-once-template.txt" } else { "read-once-advisory.txt" };
        call("-c @", "fifo").run().exits(1).prefixed().stderr_matches(snapshot);
    }
    assert!(sandbox.log().iter().all(|line| !line.starts_with("real ")), "{:?}", sandbox.log());
    let run = call("-c @", "/dev/null").var("PCLUSTER_SHIM_MODE", "warn").run();
    run.exits(0).prefixed().holds(run.stderr().contains("/dev/null"), "both are reported");
}

/// The check uses us-east-1, because it gets no region from the user. An empty `AWS_DEFAULT_REGION` counts as
/// not set, as in botocore. The check does not get `-r` either: if the configuration can be read only once,
/// the check gets none of the call's options.
#[test]
fn an_empty_region_does_not_let_a_broken_environment_through() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    reads_its_configuration(&environment);
    let call = named(&sandbox, "-c @", "/dev/null").argument("-r").argument("eu-west-1");
    call.var("AWS_DEFAULT_REGION", "").run().exits(0).warns_once("/dev/null");
    assert!(sandbox.log().iter().any(|line| line.ends_with(" in us-east-1")), "{:?}", sandbox.log());
}

#[test]
fn strict_stops_a_configuration_that_can_be_read_once() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    fifo(&sandbox);
    let run = named(&sandbox, "-c @", "fifo").var("PCLUSTER_SHIM_STRICT", "1").run();
    run.exits(1)
        .stops_unchecked("fifo")
        .stdout_matches("read-once-strict.json")
        .stderr_matches("read-once-strict.txt");
    let run = named(&sandbox, "-c @", "/dev/null").var("PCLUSTER_SHIM_STRICT", "1");
    run.var("PCLUSTER_SHIM_MODE", "warn").run().exits(0).warns_once("/dev/null");
    assert!(!sandbox.log().iter().any(|line| line.contains("fifo")), "{:?}", sandbox.log());
}

/// The message about the configuration is one line, whatever the file name contains.
#[test]
fn a_name_with_a_line_feed_is_reported_in_one_line() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.link("work/odd\n\u{1b}[31m", "/dev/null");
    named(&sandbox, "-c @", "odd\n\u{1b}[31m").run().exits(0).warns_once("odd \\u{1b}[31m is not");
}

/// In a call of `build-image`, the shim itself does not read the configuration. The check lets pcluster's own
/// code read it and decide whether it is valid, whatever the size.
#[test]
fn a_huge_configuration_is_not_read_by_the_shim() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    let large = format!("{CONTENT}{}\n", "#".repeat(1 << 20));
    sandbox.write("work/image.yaml", &large);
    sandbox.build_image().run().exits(1).prefixed();
    assert_eq!(sandbox.log(), ["identity", "node", "synth"]);
    environment.answers(&json!({"kind": "rejected", "stage": "configuration", "message": "no"}));
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent();
}
