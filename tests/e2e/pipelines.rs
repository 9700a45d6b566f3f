//! Runs the commands of docs/ci.md and docs/pipelines in a sandbox that has what a CI machine has, and checks
//! the template that the build submits.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::environment_copy::{Index, ROOT, ask_the_index_of_the_caller, uv};
use crate::environments::{Aws, Environment, RealSandbox, TAGS};
use crate::support::machine::on_this_machine;
use crate::support::run::Run;
use crate::wheel::index;

fn text_of(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join("docs").join(name)).unwrap()
}

/// A CI machine: Python 3.12 with pip, uv, Node.js and the system's programs. Its `apt-get` does nothing,
/// because the commands must not change the machine that runs the tests.
struct Runner {
    sandbox: RealSandbox,
    aws: Aws,
    _index: Index,
}

impl Runner {
    fn new() -> Self {
        let (index, aws) = (index(), Aws::start());
        let mut sandbox = RealSandbox::in_environment(Environment::named("fresh/3.13.2-3.12-pip"));
        ask_the_index_of_the_caller(&mut sandbox);
        for (name, value) in [("PIP_INDEX_URL", &index.url), ("UV_DEFAULT_INDEX", &index.url)] {
            sandbox.set(name, value);
        }
        sandbox.use_aws(&aws);
        let python = sandbox.environment.bin("python").canonicalize().unwrap();
        let venv = sandbox.path("python");
        let made = ["-m", "venv", "--clear", venv.to_str().unwrap()];
        sandbox.call(&python, &made).run().exits(0);
        let bin = sandbox.path("bin");
        fs::create_dir(&bin).unwrap();
        // When uv looks for a Python on PATH, it skips virtual environments. So PATH also has a link to the
        // base Python.
        for (name, to) in [("uv", uv()), ("apt-get", on_this_machine("true")), ("python3.12", python)] {
            symlink(to, bin.join(name)).unwrap();
        }
        fs::write(bin.join("uvx"), "#!/bin/sh\nexec uv tool run \"$@\"\n").unwrap();
        sandbox.call(Path::new("/bin/chmod"), &["+x", bin.join("uvx").to_str().unwrap()]).run().exits(0);
        let local = sandbox.path("home/.local/bin");
        let path: [PathBuf; 6] =
            [bin, local, venv.join("bin"), sandbox.path("node"), "/usr/bin".into(), "/bin".into()];
        sandbox.set("PATH", std::env::join_paths(path).unwrap());
        sandbox.write("work/image.yaml", aws.configuration());
        Self { sandbox, aws, _index: index }
    }

    /// Runs a script as a CI service runs a step: the script ends at the first command that fails.
    fn tries(&self, script: &str) -> Run {
        self.sandbox.call(&on_this_machine("sh"), &["-e", "-c", script]).run()
    }

    #[track_caller]
    fn runs(&self, scripts: &[String]) {
        for script in scripts {
            self.tries(script).exits(0);
        }
    }

    #[track_caller]
    fn has_built(&self, image: &str) {
        let template = self.aws.template(image, "body");
        for tag in TAGS {
            assert!(template.contains(&format!("parallelcluster:{tag}:")), "{tag} in {template}");
        }
    }

    /// Uninstalls flask. Then pcluster does not start, and the next check must report that.
    #[track_caller]
    fn breaks(&self, python: &str) {
        self.tries(&format!(
            "{python} -m pip uninstall --quiet --yes flask || uv pip uninstall --python {python} flask"
        ))
        .exits(0);
    }
}

#[test]
#[ignore = "long"]
fn the_dockerfile() {
    let text = text_of("pipelines/Dockerfile");
    let mut runner = Runner::new();
    let prefix = runner.sandbox.path("opt");
    let mut ran = 0;
    for instruction in text.replace("\\\n", "").lines() {
        let instruction = instruction.replace("/opt/pcluster", prefix.to_str().unwrap());
        let (word, rest) = instruction.split_once(' ').unwrap();
        match word {
            "FROM" => assert_eq!(rest, "python:3.12-slim"),
            "ARG" => {
                let (name, value) = rest.split_once('=').unwrap();
                runner.sandbox.set(name, value);
            }
            // This command is not run, because it would delete the machine's package lists.
            "RUN" if rest.starts_with("apt-get") => assert!(rest.ends_with("&& rm -rf /var/lib/apt/lists/*")),
            "RUN" => {
                runner.runs(&[rest.to_owned()]);
                ran += 1;
            }
            "ENV" => assert_eq!(rest, format!("PATH={}/bin:$PATH", prefix.display())),
            "ENTRYPOINT" => assert_eq!(rest, "[\"pcluster\"]"),
            _ => assert_eq!(word, "#", "{instruction}"),
        }
    }
    assert_eq!(ran, 3);
    let pcluster = prefix.join("bin/pcluster");
    let build = format!("{} build-image -c image.yaml -i my-image", pcluster.display());
    runner.runs(std::slice::from_ref(&build));
    runner.has_built("my-image");
    runner.breaks(&prefix.join("bin/python").display().to_string());
    runner.tries(&build.replace("my-image", "another")).stop();
}

#[test]
#[ignore = "long"]
fn github_actions() {
    let workflow: Value = serde_yaml::from_str(&text_of("pipelines/github.yml")).unwrap();
    let mut runner = Runner::new();
    runner.sandbox.set("GITHUB_RUN_NUMBER", "7");
    let steps = workflow["jobs"]["build-image"]["steps"].as_array().unwrap();
    let [install, fix, check, build] =
        steps.iter().filter_map(|step| step["run"].as_str()).collect::<Vec<_>>()[..]
    else {
        panic!("{steps:?}")
    };
    runner.runs(&[install, fix, check, build].map(str::to_owned));
    runner.has_built("image-7");
    runner.breaks("$(uv tool dir)/aws-parallelcluster/bin/python");
    let blocked = runner.tries(check);
    blocked.exits(1);
    assert!(blocked.stdout().starts_with("::error title=startup::"), "{blocked}");
}

#[test]
fn the_five_commands() {
    let page = text_of("ci.md");
    let (_, block) = page.split_once("```sh\n").unwrap();
    let commands: Vec<String> = block.split_once("```").unwrap().0.lines().map(str::to_owned).collect();
    assert_eq!(commands.len(), 5);
    let runner = Runner::new();
    runner.runs(&commands);
    runner.has_built("my-image");
    runner.breaks("python");
    let blocked = runner.tries(&commands[4].replace("my-image", "another"));
    blocked.exits(1);
    assert!(!blocked.stdout().contains("BUILD_IN_PROGRESS"), "{blocked}");
}
