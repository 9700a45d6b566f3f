//! What is cached: a ready verdict, until anything that it depends on changes. A file that is damaged
//! or cannot be written costs time, never a verdict.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::fakes::{BAD, Environment, REAL, REAL_OUTPUT};
use crate::support::machine::on_this_machine;
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

const CHECKED: [&str; 4] = ["identity", "node", "synth", REAL];

/// A ready environment with everything cached.
fn cached(sandbox: &Sandbox) -> Environment<'_> {
    let environment = sandbox.environment();
    sandbox.build_image().run().exits(0).is_silent();
    assert_eq!(sandbox.log(), CHECKED);
    sandbox.clear_log();
    environment
}

/// The files that hold what is cached: one each for the interpreter, Node.js and the verdict.
fn cached_files(sandbox: &Sandbox) -> Vec<PathBuf> {
    let mut files = files_below(&sandbox.path("cache"));
    files.retain(|file| !file.ends_with("jsii/lock"));
    files
}

/// The programs that this call starts, the real one aside.
#[track_caller]
fn started(sandbox: &Sandbox, call: Call) -> Vec<String> {
    sandbox.clear_log();
    call.run().exits(0).is_silent();
    sandbox.log().into_iter().filter(|line| !line.starts_with("real ")).collect()
}

#[test]
fn an_unchanged_repeat_starts_no_child_process() {
    let sandbox = Sandbox::new();
    cached(&sandbox);
    let trace = sandbox.path("trace");
    let calls = "trace=execve,execveat,clone,clone3,fork,vfork";
    let first = ["-f", "-e", calls, "-o", trace.to_str().unwrap()];
    let run = sandbox.build_image().under(on_this_machine("strace"), &first).run();
    run.exits(0).prints(REAL_OUTPUT);
    let trace = fs::read_to_string(trace).expect("strace is needed, and the right to trace");
    let real = format!("execve(\"{}\"", sandbox.path("venv/bin/pcluster").display());
    let started: Vec<&str> = trace.lines().take_while(|line| !line.contains(&real)).collect();
    run.holds(trace.contains(&real), &format!("the exec of the real program is seen:\n{trace}"));
    run.holds(
        started.len() == 1 && started[0].contains(" execve("),
        &format!("nothing but the shim's own start:\n{trace}"),
    );
}

#[test]
fn an_unchanged_repeat_starts_no_python_and_no_node() {
    let sandbox = Sandbox::new();
    cached(&sandbox);
    for _ in 0..3 {
        sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent();
    }
    assert_eq!(sandbox.log(), [REAL, REAL, REAL]);
}

/// `preflight` puts and gets as well, and `--fresh` does not get.
#[test]
fn preflight_says_what_was_cached() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let call = || sandbox.pcluster(["preflight", "--format", "json"]);
    assert_eq!(started(&sandbox, call()), ["identity", "node", "synth"]);
    let run = call().run();
    run.exits(0).holds(run.stdout().contains("\"cached\": true"), "cached");
    assert_eq!(started(&sandbox, call()), [""; 0]);
    assert_eq!(started(&sandbox, call().argument("--fresh")), ["identity", "node", "synth"]);
}

/// Changes, one at a time, everything that the template depends on.
#[test]
fn every_change_is_checked_again() {
    type Change = fn(&Sandbox, &Environment);
    let changes: [(&str, Change, &[&str]); 14] = [
        ("the configuration", |sandbox, _| drop(sandbox.write("work/image.yaml", "Build: {}\n")), &["synth"]),
        (
            "a package's version",
            |_, environment| environment.installs("aws-cdk.core", "1.203.0", ""),
            &["synth"],
        ),
        ("a package more", |_, environment| environment.installs("jsii", "1.85.0", ""), &["synth"]),
        (
            "a package less",
            |_, environment| {
                fs::remove_dir_all(environment.path("site/aws-cdk.core-1.204.0.dist-info")).unwrap();
            },
            &["synth"],
        ),
        (
            "METADATA edited in place",
            |_, environment| {
                let file = environment.path("site/aws-cdk.core-1.204.0.dist-info/METADATA");
                let text = fs::read_to_string(&file).unwrap();
                fs::write(file, text.replace("1.204.0", "1.204.1")).unwrap();
            },
            &["synth"],
        ),
        (
            "RECORD, as a reinstallation of the same version leaves it",
            |_, environment| {
                fs::write(environment.path("site/aws-cdk.core-1.204.0.dist-info/RECORD"), "x").unwrap();
            },
            &["synth"],
        ),
        (
            "a source file of pcluster",
            |_, environment| fs::write(environment.path("site/pcluster/__init__.py"), "x = 1\n").unwrap(),
            &["synth"],
        ),
        (
            "a new source file of pcluster",
            |sandbox, environment| drop(sandbox.write(environment.path("site/pcluster/a/b.py"), "")),
            &["synth"],
        ),
        (
            "a source file of the affected CDK package",
            |_, environment| {
                fs::write(environment.path("site/aws_cdk/aws_imagebuilder/__init__.py"), "x = 1\n").unwrap();
            },
            &["synth"],
        ),
        (
            "a source file of an editable installation",
            |sandbox, environment| {
                environment.is(&[("sources", json!([sandbox.path("checkout/pcluster")]))]);
                sandbox.write("checkout/pcluster/__init__.py", "");
                sandbox.write(environment.path("site/x.pth"), "/x\n");
                started(sandbox, sandbox.build_image());
                sandbox.write("checkout/pcluster/__init__.py", "x = 1\n");
            },
            &["synth"],
        ),
        (
            "another node",
            |sandbox, _| {
                let node = sandbox.path("node/node");
                let content = fs::read(&node).unwrap();
                fs::remove_file(&node).unwrap();
                sandbox.script("node/node", [content.as_slice(), b"\n"].concat());
            },
            &["node", "synth"],
        ),
        (
            "a .pth file",
            |sandbox, environment| drop(sandbox.write(environment.path("site/x.pth"), "/x\n")),
            &["identity"],
        ),
        (
            "sys.path, by a .pth file",
            |sandbox, environment| {
                sandbox.write(environment.path("site/x.pth"), "/x\n");
                environment.is(&[("sysPath", json!([environment.path("site"), "/x"]))]);
            },
            &["identity", "synth"],
        ),
        (
            "the interpreter",
            |_, environment| {
                let file = environment.path("bin/python");
                let content = fs::read(&file).unwrap();
                fs::write(file, [content.as_slice(), b"\n"].concat()).unwrap();
            },
            &["identity", "synth"],
        ),
    ];
    for (what, change, expected) in changes {
        let sandbox = Sandbox::new();
        let environment = cached(&sandbox);
        change(&sandbox, &environment);
        assert_eq!(started(&sandbox, sandbox.build_image()), expected, "after a change of {what}");
    }
}

/// Arguments and variables: the old call and the new one are both cached.
#[test]
fn every_other_call_is_checked_for_itself() {
    let sandbox = Sandbox::new();
    cached(&sandbox);
    sandbox.write("work/other.yaml", "Build: {}\n");
    let call = || sandbox.build_image();
    let others: [(&str, Call, &[&str]); 8] = [
        ("another argument", call().argument("--region").argument("eu-west-1"), &["synth"]),
        ("the last of two", call().argument("--image-id").argument("other"), &["synth"]),
        ("another file", call().argument("--image-configuration").argument("other.yaml"), &["synth"]),
        ("another profile", call().var("AWS_PROFILE", "other"), &["synth"]),
        ("another region", call().var("AWS_DEFAULT_REGION", "eu-west-1"), &["synth"]),
        ("other options of Node", call().var("NODE_OPTIONS", "--no-warnings"), &["synth"]),
        ("another PYTHONPATH", call().var("PYTHONPATH", "/x"), &["identity", "synth"]),
        ("another HOME", call().var("HOME", sandbox.path("state")), &["identity", "synth"]),
    ];
    for (what, other, expected) in others {
        assert_eq!(started(&sandbox, other.clone()), expected, "{what}");
        assert_eq!(started(&sandbox, other), [""; 0], "{what}, repeated");
    }
    assert_eq!(started(&sandbox, call()), [""; 0], "the first call is cached still");
}

/// Content counts, not only the name: one file in every form of naming it.
#[test]
fn the_configuration_counts_in_every_form_of_naming_it() {
    for form in ["-cimage.yaml", "-c=image.yaml", "--image-configuration=image.yaml", "--image-c=image.yaml"]
    {
        let sandbox = Sandbox::new();
        sandbox.environment();
        sandbox.build_image();
        let call = || sandbox.pcluster(["build-image", form, "--image-id", "my-image"]);
        assert_eq!(started(&sandbox, call()), ["identity", "node", "synth"], "{form}");
        assert_eq!(started(&sandbox, call()), [""; 0], "{form}");
        sandbox.write("work/image.yaml", "Build: {}\n");
        assert_eq!(started(&sandbox, call()), ["synth"], "{form}");
    }
}

/// A file larger than a check reads counts by its `stat`.
#[test]
fn a_huge_configuration_counts_by_its_size_and_time() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let file = sandbox.write("work/image.yaml", "#".repeat((1 << 20) + 1));
    assert_eq!(started(&sandbox, sandbox.build_image()), ["identity", "node", "synth"]);
    assert_eq!(started(&sandbox, sandbox.build_image()), [""; 0]);
    fs::write(file, "#".repeat((1 << 20) + 2)).unwrap();
    assert_eq!(started(&sandbox, sandbox.build_image()), ["synth"]);
}

/// A verdict on the minimal configuration says nothing about another one.
#[test]
fn a_configuration_that_can_be_read_once_leaves_no_verdict_on_itself() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let once = || sandbox.pcluster(["build-image", "-c", "/dev/stdin", "-i", "my-image"]);
    let begun = |call: Call| {
        sandbox.clear_log();
        call.run();
        sandbox.log().into_iter().filter(|line| !line.starts_with("real ")).collect::<Vec<_>>()
    };
    assert_eq!(begun(once()), ["identity", "node", "synth"]);
    assert_eq!(begun(once().stdin("other: content")), [""; 0]);
    assert_eq!(begun(sandbox.pcluster(["preflight"])), [""; 0], "the same configuration, the same id");
    sandbox.write("work/content", "Build: {}\n");
    assert_eq!(begun(sandbox.pcluster(["build-image", "-c", "content", "-i", "my-image"])), ["synth"]);
    environment.builds(BAD);
    environment.installs("attrs", "22.1.0", "");
    once().run().exits(1).prefixed();
}

/// AWS's own files: a profile of an unchanged name may mean another region.
#[test]
fn the_files_of_aws_count() {
    let sandbox = Sandbox::new();
    cached(&sandbox);
    sandbox.write("home/.aws/config", "[default]\nregion = eu-west-1\n");
    assert_eq!(started(&sandbox, sandbox.build_image()), ["synth"], "~/.aws/config");
    sandbox.write("home/.aws/credentials", "[default]\nregion = eu-west-2\n");
    assert_eq!(started(&sandbox, sandbox.build_image()), ["synth"], "~/.aws/credentials");
    let named = || sandbox.build_image().var("AWS_CONFIG_FILE", sandbox.path("aws"));
    sandbox.write("aws", "[default]\n");
    assert_eq!(started(&sandbox, named()), ["synth"], "AWS_CONFIG_FILE");
    sandbox.write("aws", "[default]\nregion = eu-west-1\n");
    assert_eq!(started(&sandbox, named()), ["synth"], "the file in AWS_CONFIG_FILE");
    assert_eq!(started(&sandbox, named()), [""; 0]);
}

#[test]
fn blocked_and_unknown_are_never_cached() {
    for template in [true, false] {
        let sandbox = Sandbox::new();
        let environment = sandbox.environment();
        if template {
            environment.builds(BAD);
        } else {
            environment.answers(&json!({"kind": "failed", "stage": "import", "message": "boom"}));
        }
        for _ in 0..2 {
            sandbox.clear_log();
            let run = sandbox.build_image().run();
            run.exits(i32::from(template)).prefixed();
            assert!(sandbox.log().contains(&"synth".to_owned()));
        }
        environment.builds(crate::support::fakes::GOOD);
        sandbox.build_image().run().exits(0).is_silent();
    }
}

/// An advisory is matched at every call: it may be newer than the cached verdict.
#[test]
fn a_cached_environment_is_still_matched_against_the_advisories() {
    let sandbox = Sandbox::new();
    cached(&sandbox);
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [more.yaml]\n");
    sandbox.write("config/pcluster-shim/more.yaml", crate::preflight::ADVISORY);
    sandbox.build_image().run().exits(1).prefixed();
}

/// A cached answer was given under other variables: what differs since is not taken for a change
/// that the launcher makes.
#[test]
fn a_variable_of_an_earlier_call_does_not_come_back() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let synth = fs::read_to_string(environment.path("fake/synth")).unwrap();
    environment.synthesizes(&format!(
        "echo \"synth with $NODE_OPTIONS/$VIRTUAL_ENV, changed $CHANGED\" >>\"$log\"; {synth}"
    ));
    // A Python's answer with its variables, beside what it always has.
    let answer = r#"printf '\n%s\n' "$sentinel"
        read -r answer <"$fake/identity.json"
        printf '%s, "environment": {' "${answer%\}}"
        env | while IFS= read -r line; do printf '"%s": "%s", ' "${line%%=*}" "${line#*=}"; done
        printf '"CHANGED": "by the launcher"}}\n%s\n' "$sentinel""#;
    environment.identifies(answer);
    sandbox.write(environment.path("fake/identity.json"), {
        let text = fs::read_to_string(environment.path("fake/identity.json")).unwrap();
        text + "\n"
    });
    for value in ["first", "second"] {
        let call = sandbox.build_image().var("NODE_OPTIONS", value).var("VIRTUAL_ENV", value);
        call.run().exits(0).is_silent();
        let with = format!("synth with {value}/{value}, changed by the launcher");
        assert!(sandbox.log().contains(&with), "{:?}", sandbox.log());
    }
}

/// Files truncated, emptied, replaced with noise or with JSON of another shape.
#[test]
fn damaged_files_are_as_good_as_none() {
    let sandbox = Sandbox::new();
    cached(&sandbox);
    let files = cached_files(&sandbox);
    assert_eq!(files.len(), 3, "{}", sandbox.tree("cache"));
    for noise in [&b""[..], b"\xff\x00\xfe", b"{}", b"null", b"[1, 2]", b"{\"key\": 3, \"content\": null}"] {
        for file in &files {
            // Without the version of Node.js no verdict can be found.
            let starts = if file.parent().unwrap().ends_with("node") { 2 } else { 1 };
            let whole = fs::read(file).unwrap();
            fs::write(file, noise).unwrap();
            assert_eq!(
                started(&sandbox, sandbox.build_image()).len(),
                starts,
                "{}: {noise:?}",
                file.display()
            );
            assert_eq!(started(&sandbox, sandbox.build_image()), [""; 0], "renewed");
            for length in [1, whole.len() / 2, whole.len() - 1] {
                fs::write(file, &whole[..length]).unwrap();
                assert_eq!(
                    started(&sandbox, sandbox.build_image()).len(),
                    starts,
                    "{}: {length}",
                    file.display()
                );
            }
        }
    }
}

/// A full disk leaves parts of bytecode, on which Python fails: the cache is cleared.
#[test]
fn damaged_bytecode_is_no_reason_for_a_verdict() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let good = fs::read_to_string(environment.path("fake/synth")).unwrap();
    let failed = json!({
        "kind": "unstartable",
        "stage": "template",
        "exception": "EOFError",
        "message": "marshal data too short",
        "bytecode": "/venv/site/a.pyc",
    });
    let answer = format!("printf '\\n%s\\n%s\\n%s\\n' \"$sentinel\" '{failed}' \"$sentinel\"; exit");
    let below_root = environment.path("m.pyc").strip_prefix("/").unwrap().to_owned();
    let cached = sandbox.path("cache/pcluster-shim/bytecode").join(below_root);
    let synthesized = || sandbox.log().iter().filter(|line| *line == "synth").count();
    for damage in [answer.as_str(), "kill -SEGV $$"] {
        environment.synthesizes(&format!("if [ -n \"$PYTHONPYCACHEPREFIX\" ]; then {damage}; fi\n{good}"));
        sandbox.write(&cached, "");
        sandbox.clear_log();
        sandbox.pcluster(["preflight", "--fresh"]).run().exits(0);
        assert_eq!(synthesized(), 2, "{damage}");
        assert!(!cached.exists(), "{}", sandbox.tree("cache"));
    }
    // Where the environment's own is damaged, that of the cache is not to blame.
    environment.synthesizes(&answer);
    sandbox.write(&cached, "");
    sandbox.clear_log();
    sandbox.build_image().run().exits(1).stdout_matches("damaged-bytecode.txt");
    assert_eq!(synthesized(), 2);
    assert!(cached.exists(), "{}", sandbox.tree("cache"));
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = directory.read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// A directory in the place of a file, a file in the place of a directory, no HOME, none at all.
#[test]
fn a_cache_that_cannot_be_written_costs_time_only() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write("file", "");
    let calls = [
        sandbox.build_image().var("XDG_CACHE_HOME", sandbox.path("file")),
        sandbox.build_image().var("XDG_CACHE_HOME", "/dev/null/cache"),
        sandbox.build_image().var("XDG_CACHE_HOME", "/proc"),
        sandbox.build_image().without("XDG_CACHE_HOME").without("HOME"),
        sandbox.build_image().without("XDG_CACHE_HOME").var("HOME", "relative"),
        sandbox.build_image().without("XDG_CACHE_HOME").var("HOME", ""),
    ];
    for call in calls {
        for _ in 0..2 {
            assert_eq!(started(&sandbox, call.clone()), ["identity", "node", "synth"], "{call:?}");
        }
    }
    assert_eq!(sandbox.tree("cache") + &sandbox.tree("home"), "");
    sandbox.has_no_scratch();
    let relative = sandbox.build_image().var("XDG_CACHE_HOME", "relative");
    assert_eq!(started(&sandbox, relative), ["identity", "node", "synth"]);
    assert_eq!(
        sandbox.tree("work"),
        "work/image.yaml 644 70 bytes\n",
        "a relative directory counts as not set"
    );
}

/// Fifty at once on a cold cache: one verdict for all.
#[test]
fn trap_25_many_at_once_do_not_damage_the_cache() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.build_image();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent().pid);
        }
    });
    assert_eq!(started(&sandbox, sandbox.build_image()), [""; 0]);
    assert_eq!(cached_files(&sandbox).len(), 3, "no temporary file is left");
}

/// A file that changes during a check and changes back after it: the check may have read either.
#[test]
fn what_changes_during_a_check_is_not_cached() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    sandbox.link("tools/mv", on_this_machine("mv"));
    let synth = fs::read_to_string(environment.path("fake/synth")).unwrap();
    let (file, aside) = (environment.path("site/pcluster/__init__.py"), sandbox.path("aside"));
    let exchange = format!("mv '{0}' '{1}'; echo >'{0}'", file.display(), aside.display());
    environment.synthesizes(&format!("{exchange}; {synth}"));
    for _ in 0..2 {
        assert!(started(&sandbox, sandbox.build_image()).contains(&"synth".to_owned()));
        fs::rename(&aside, &file).unwrap();
    }
}

#[test]
fn a_source_file_behind_a_linked_directory_counts() {
    let sandbox = Sandbox::new();
    let environment = cached(&sandbox);
    sandbox.write("linked/x.py", "");
    sandbox.link(environment.path("site/pcluster/linked"), sandbox.path("linked"));
    // A loop of links, which must not be followed for ever.
    sandbox.link("linked/again", sandbox.path("linked"));
    assert_eq!(started(&sandbox, sandbox.build_image()), ["synth"]);
    assert_eq!(started(&sandbox, sandbox.build_image()), [""; 0]);
    sandbox.write("linked/x.py", "x = 1\n");
    assert_eq!(started(&sandbox, sandbox.build_image()), ["synth"]);
}
