//! Builds each configuration of configurations.rs with the real pcluster, with and without the shim, and
//! asserts that exit status, output and template are equal. The tests with a broken CDK assert that no call
//! through the shim starts a build.
//!
//! By default, only some configurations are built, which takes minutes. With CORPUS=whole, all configurations
//! are built, which takes about an hour.

#![expect(clippy::print_stdout, reason = "a whole run takes long, and --nocapture shows how far it is")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::configurations::{Configuration, all};
use crate::environments::{Aws, BROKEN, GOOD, NEWEST, ROOT, RealSandbox, without_uuids};
use crate::support::run::without_addresses;

/// How many configurations of one release are built at a time. Each build needs a Python and a Node process.
const AT_A_TIME: usize = 2;

#[test]
#[ignore = "long"]
fn release_3_1_3() {
    is_the_same(GOOD, |configuration| configuration.is_odd);
}

#[test]
#[ignore = "long"]
fn release_3_6_1() {
    is_the_same("3.6.1", is_one_of_three);
}

#[test]
#[ignore = "long"]
fn release_3_13_2() {
    is_the_same("3.13.2", is_one_of_three);
}

#[test]
#[ignore = "long"]
fn release_3_16_1() {
    is_the_same(NEWEST, |configuration| configuration.is_odd);
}

#[test]
#[ignore = "long"]
fn three_configurations_on_release_3_16_1() {
    is_the_same(NEWEST, is_one_of_three);
}

/// Selects three configurations: one that builds, one that some releases refuse, and one on which the real
/// code fails.
fn is_one_of_three(configuration: &Configuration) -> bool {
    ["tag-twice", "yaml-duplicate", "permission-no-regions"].contains(&configuration.name)
}

fn is_whole() -> bool {
    std::env::var_os("CORPUS").is_some_and(|part| part == "whole")
}

/// The result of one run: its output, and the template that AWS has after the run.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
    template: Option<String>,
}

/// Configurations that the real schema accepts, but that EC2 refuses at the end of the build. Sorted by name.
const REFUSED_BY_EC2: [&str; 5] =
    ["name-control", "name-half-pair", "name-unicode", "tag-too-long", "tags-fifty"];

fn is_the_same(environment: &str, is_in_part: fn(&Configuration) -> bool) {
    let corpus: Vec<_> = all().into_iter().filter(|one| is_whole() || is_in_part(one)).collect();
    let direct = Side::start(environment, &corpus).built_directly(&corpus);
    let guarded = Side::start(environment, &corpus).built_through_the_shim(&corpus, &direct);
    let is_stopped = |name: &str| guarded[name].stdout.contains("\"type\": \"ImageLimit\"");
    let stopped: Vec<&str> = guarded.keys().filter(|name| is_stopped(name)).copied().collect();
    let expected: Vec<&str> = REFUSED_BY_EC2
        .into_iter()
        .filter(|name| direct.get(name).is_some_and(|outcome| outcome.template.is_some()))
        .collect();
    let wrongly: Vec<_> = stopped.iter().filter(|name| !REFUSED_BY_EC2.contains(name)).collect();
    let missed: Vec<_> = expected.iter().filter(|name| !stopped.contains(name)).collect();
    assert!(wrongly.is_empty() && missed.is_empty(), "{environment}: stopped {wrongly:?}, missed {missed:?}");
    let differing: Vec<&str> = direct
        .keys()
        .filter(|name| !stopped.contains(name) && direct[*name] != guarded[*name])
        .copied()
        .collect();
    let built = direct.values().filter(|outcome| outcome.template.is_some()).count();
    let (all, same) = (corpus.len(), corpus.len() - differing.len());
    println!("{environment}: {all} configurations, {built} build; {same} equal, {} differ", differing.len());
    let report = differing.iter().fold(String::new(), |text, name| {
        text + &format!("=== {name}\n{}", difference(&direct[name], &guarded[name]))
    });
    assert!(differing.is_empty(), "{environment} differs with the shim in {differing:?}\n{report}");
}

fn difference(direct: &Outcome, guarded: &Outcome) -> String {
    let mut text = String::new();
    let mut tell = |what: &str, direct: &str, guarded: &str| {
        if direct != guarded {
            let start = |text: &str| text.chars().take(2000).collect::<String>();
            let _ = writeln!(text, "{what} without:\n{}\n{what} with:\n{}", start(direct), start(guarded));
        }
    };
    tell("status", &direct.status.to_string(), &guarded.status.to_string());
    tell("stdout", &direct.stdout, &guarded.stdout);
    tell("stderr", &direct.stderr, &guarded.stderr);
    let template = |outcome: &Outcome| outcome.template.clone().unwrap_or_default();
    let (direct, guarded) = (template(direct), template(guarded));
    let lines = direct.lines().zip(guarded.lines()).filter(|(one, other)| one != other).take(20);
    let (one, other): (Vec<_>, Vec<_>) = lines.unzip();
    tell("template", &one.join("\n"), &other.join("\n"));
    if one.is_empty() && direct != guarded {
        let _ = writeln!(text, "template without: {} bytes, with: {}", direct.len(), guarded.len());
    }
    text
}

/// A sandbox with its own AWS account, and with the files of each configuration. Calls without the shim have
/// one `Side`, and calls through the shim have another.
struct Side {
    aws: Aws,
    sandbox: RealSandbox,
}

impl Side {
    fn start(environment: &str, corpus: &[Configuration]) -> Self {
        let aws = Aws::start();
        let mut sandbox = RealSandbox::of(environment);
        sandbox.use_aws(&aws);
        // pcluster takes the regions of a template from a Python set. The order of a set depends on the
        // hash seed.
        sandbox.set("PYTHONHASHSEED", "0");
        // Environments made by uv have no bytecode. The runs share a directory for it, so that Python
        // compiles each module only once.
        sandbox.set("PYTHONPYCACHEPREFIX", Path::new(ROOT).join("target/corpus-bytecode"));
        for one in corpus {
            sandbox.write(format!("work/{}.yaml", one.name), filled_in(&one.text, &aws));
            sandbox.write(format!("work/{}.arguments", one.name), json!(arguments(one)).to_string());
        }
        Self { aws, sandbox }
    }

    /// Builds all configurations from one Python process, which imports pcluster once and forks for
    /// each configuration.
    fn built_directly(self, corpus: &[Configuration]) -> BTreeMap<&'static str, Outcome> {
        let mut all = vec![Path::new(ROOT).join("tests/e2e/corpus.py"), "build".into()];
        all.push(self.sandbox.environment.bin("pcluster"));
        all.push(self.sandbox.path("work"));
        all.extend(corpus.iter().map(|one| PathBuf::from(format!("{}.yaml", one.name))));
        self.sandbox.call(&self.sandbox.environment.bin("python"), &all).run().exits(0);
        let read = |name: &str, ending: &str| {
            fs::read(self.sandbox.path("work").join(format!("{name}.{ending}"))).unwrap()
        };
        let ended = |one: &Configuration| {
            let status = String::from_utf8(read(one.name, "status")).unwrap();
            (status.parse().unwrap(), read(one.name, "stdout"), read(one.name, "stderr"))
        };
        self.outcomes(corpus, ended)
    }

    /// Builds each configuration through the shim. Prints the result of each build when it ends, because the
    /// whole corpus takes long.
    fn built_through_the_shim(
        self,
        corpus: &[Configuration],
        direct: &BTreeMap<&'static str, Outcome>,
    ) -> BTreeMap<&'static str, Outcome> {
        let ended = |one: &Configuration| {
            let ran = self.sandbox.pcluster(&arguments(one)).run();
            let without = &direct[one.name];
            let words = (self.plain(&ran.stdout), self.plain(&ran.stderr));
            let status = ran.status.code().unwrap_or(-1);
            let same = (status, words) == (without.status, (without.stdout.clone(), without.stderr.clone()));
            let difference =
                if same { String::new() } else { format!(", which differs\n{ran}\n{without:?}") };
            println!(
                "{} {} ends with {status}{difference}",
                self.sandbox.environment.directory.display(),
                one.name
            );
            (status, ran.stdout, ran.stderr)
        };
        self.outcomes(corpus, ended)
    }

    fn outcomes(
        &self,
        corpus: &[Configuration],
        ended: impl Fn(&Configuration) -> (i32, Vec<u8>, Vec<u8>) + Sync,
    ) -> BTreeMap<&'static str, Outcome> {
        let runs = at_the_same_time(corpus, ended);
        let templates = self.templates(corpus);
        let outcome = |(name, (status, stdout, stderr)): (&'static str, (i32, Vec<u8>, Vec<u8>))| {
            let (stdout, stderr) = (self.plain(&stdout), self.plain(&stderr));
            (name, Outcome { status, stdout, stderr, template: templates.get(name).cloned() })
        };
        runs.into_iter().map(outcome).collect()
    }

    fn templates(&self, corpus: &[Configuration]) -> BTreeMap<&'static str, String> {
        let mut all = vec![Path::new(ROOT).join("tests/e2e/corpus.py"), "templates".into()];
        all.extend([self.aws.fact("endpoint").into(), self.aws.fact("region").into()]);
        all.push(self.sandbox.path("work"));
        all.extend(corpus.iter().map(|one| PathBuf::from(one.name)));
        self.sandbox
            .call(&crate::environments::Environment::named("moto").bin("python"), &all)
            .run()
            .exits(0);
        let read = |name: &str| fs::read(self.sandbox.path("work").join(format!("{name}.template"))).ok();
        corpus.iter().filter_map(|one| Some((one.name, self.plain(&read(one.name)?)))).collect()
    }

    /// Removes or replaces what differs from run to run: memory addresses, UUIDs, the sandbox's
    /// directory, the endpoint of AWS, the account's image, the random end of an artifact directory,
    /// times and signatures.
    fn plain(&self, output: &[u8]) -> String {
        let text = String::from_utf8_lossy(&without_addresses(output)).into_owned();
        let text = text.replace(self.sandbox.path("").to_str().unwrap(), "[SANDBOX]/");
        let text = text.replace(self.aws.fact("endpoint"), "[ENDPOINT]");
        let text = text.replace(self.aws.fact("parentImage"), "[IMAGE]");
        without_random_ends(&without_uuids(&text))
    }
}

/// Calls `ended` for each configuration, [`AT_A_TIME`] in parallel, and returns the results.
fn at_the_same_time<T: Send>(
    corpus: &[Configuration],
    ended: impl Fn(&Configuration) -> T + Sync,
) -> Vec<(&'static str, T)> {
    // The first configuration is built alone, because with later releases of pcluster the first run creates a
    // role in the account.
    let first = corpus.first().map(|one| (one.name, ended(one)));
    let next = AtomicUsize::new(1);
    let work = || {
        let mut done = Vec::new();
        while let Some(one) = corpus.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((one.name, ended(one)));
        }
        done
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        let rest = workers.into_iter().flat_map(|worker| worker.join().unwrap());
        first.into_iter().chain(rest).collect()
    })
}

/// Replaces `images/NAME-RANDOM` with `images/NAME`, and removes the values of signatures, times and
/// request ids.
fn without_random_ends(text: &str) -> String {
    let mut plain = String::new();
    for (index, piece) in text.split("/images/").enumerate() {
        if index > 0 {
            plain += "/images/";
        }
        let end = piece.find(|letter: char| !(letter == '-' || letter.is_ascii_alphanumeric()));
        let (directory, rest) = piece.split_at(end.unwrap_or(piece.len()));
        let is_random =
            |end: &str| end.len() == 16 && end.chars().all(|letter| letter.is_ascii_alphanumeric());
        plain += match directory.rsplit_once('-') {
            Some((name, end)) if index > 0 && is_random(end) => name,
            _ => directory,
        };
        plain += rest;
    }
    for key in [
        "Signature=",
        "Expires=",
        "X-Amz-Date=",
        "X-Amz-Signature=",
        "X-Amz-Credential=",
        "CreationTime>",
        "RequestId>",
    ] {
        let mut pieces = plain.split(key);
        let mut text = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            text += key;
            text += piece.trim_start_matches(|letter: char| {
                letter.is_ascii_alphanumeric() || "%+/=-:.".contains(letter)
            });
        }
        plain = text;
    }
    plain
}

fn filled_in(text: &[u8], aws: &Aws) -> Vec<u8> {
    let mut filled = text.to_vec();
    for (name, value) in [("@IMAGE@", aws.fact("parentImage")), ("@BUCKET@", aws.fact("bucket"))] {
        while let Some(start) = filled.windows(name.len()).position(|window| window == name.as_bytes()) {
            filled.splice(start..start + name.len(), value.bytes());
        }
    }
    filled
}

/// Validators are suppressed: they ask AWS for roles, keys and subnets that the stand-in does not have.
fn arguments(one: &Configuration) -> Vec<String> {
    let file = format!("{}.yaml", one.name);
    ["build-image", "-c", &file, "-i", one.name, "--suppress-validators", "ALL"].map(str::to_owned).into()
}

/// Asserts that no configuration builds and that no stack is created. The shim stops the build, or leaves it
/// to the real pcluster, which fails.
fn the_broken_cdk_is_stopped(is_in_part: fn(&Configuration) -> bool) {
    let corpus: Vec<_> = all().into_iter().filter(|one| is_whole() || is_in_part(one)).collect();
    let side = Side::start(BROKEN, &corpus);
    for one in &corpus {
        let file = format!("{}.yaml", one.name);
        let ran = side.sandbox.pcluster(&["build-image", "-c", &file, "-i", one.name]).run();
        assert!(!ran.status.success(), "{} builds\n{ran}", one.name);
        let answer: Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
        let stopped = answer["message"].as_str().is_some_and(|message| message.starts_with("pcluster-shim"));
        assert_eq!(
            stopped,
            !ran.stderr().is_empty() && ran.stderr().starts_with("pcluster-shim"),
            "{}\n{ran}",
            one.name
        );
    }
    let created = |request: &String| request.contains("cloudformation:CreateStack");
    assert!(!side.aws.requests().iter().any(created), "a stack was created");
}

#[test]
fn the_broken_cdk_is_stopped_with_each_of_three_configurations() {
    the_broken_cdk_is_stopped(is_one_of_three);
}

#[test]
#[ignore = "long"]
fn the_broken_cdk_is_stopped_with_every_configuration_that_builds() {
    the_broken_cdk_is_stopped(|configuration| configuration.is_odd);
}
