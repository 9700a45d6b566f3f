//! A good environment: the call has the same result as without the shim, and the shim prints nothing.

use crate::environment_copy::{EnvironmentCopy, With};
use crate::environments::{Aws, GOOD, NEWEST, RealSandbox, TAGS, normalised};

#[test]
fn the_first_release_with_the_last_cdk_builds_as_without_the_shim() {
    builds_as_without_the_shim(GOOD);
}

#[test]
fn the_newest_release_builds_as_without_the_shim() {
    builds_as_without_the_shim(NEWEST);
}

fn builds_as_without_the_shim(environment: &str) {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(environment);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    let call = |id: &'static str| ["build-image", "-c", "image.yaml", "-i", id];

    let direct = sandbox.real(&call("called-directly")).run();
    direct.exits(0);
    let guarded = sandbox.pcluster(&call("through-the-shim")).run();
    guarded.exits(0);
    assert_eq!(guarded.stderr(), direct.stderr(), "stderr\n{guarded}");
    assert_eq!(normalised(&guarded, "through-the-shim"), normalised(&direct, "called-directly"));
    assert!(normalised(&direct, "called-directly").contains("stack/IMAGE/UUID"), "{direct}");

    let template = aws.template("through-the-shim", "body");
    let distribution = template.split("AmiDistributionConfiguration:").nth(1).unwrap();
    let distribution = distribution.split("Region:").next().unwrap();
    for tag in TAGS {
        assert!(distribution.contains(&format!("parallelcluster:{tag}:")), "{tag} in {distribution}");
    }
    assert!(distribution.contains("Name: through-the-shim {{ imagebuilder:buildDate }}"), "{distribution}");

    aws.finish_build("through-the-shim");
    let found = sandbox.pcluster(&["describe-image", "-i", "through-the-shim"]).run();
    found.exits(0);
    assert_eq!(found.json()["imageBuildStatus"], "BUILD_COMPLETE", "{found}");
}

/// Truncated bytecode in the environment makes builds by the real pcluster fail, so the shim stops the call.
#[test]
fn bytecode_cut_short_in_the_environment_is_named() {
    let mut copy = EnvironmentCopy::of(GOOD, With::Uv);
    copy.write("work/image.yaml", "Build: {ParentImage: ami-0123456789abcdef0, InstanceType: t3.micro}\n");
    copy.set("AWS_DEFAULT_REGION", "us-east-1");
    let python = copy.environment.bin("python");
    let site = copy.site();
    copy.call(&python, &["-m", "compileall", "-qq", site.to_str().unwrap()]).run();
    let call = ["build-image", "-c", "image.yaml", "-i", "my-image", "--dryrun", "true"];
    for (module, problem) in [
        ("werkzeug/wrappers/__pycache__/request.cpython-39.pyc", "pcluster does not start"),
        ("aws_cdk/aws_imagebuilder/__pycache__/__init__.cpython-39.pyc", "pcluster cannot build a template"),
    ] {
        let file = site.join(module);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..4096]).unwrap();
        let ran = copy.pcluster(&call).run();
        let file = file.display();
        let message =
            format!("{problem}: EOFError: marshal data too short: the bytecode {file} is damaged. ");
        let fix = "Fix: run `pcluster preflight fix`";
        let [error] = &ran.stop()[..] else { panic!("{ran}") };
        assert!(error.starts_with(&message) && error.ends_with(fix), "{ran}");
        std::fs::remove_file(site.join(module)).unwrap();
        copy.pcluster(&["preflight"]).run().exits(0);
    }
}

/// AWS refuses the runtime of the stack's function, so a build would fail. But the advisory on this runtime
/// has only level WARNING: the guard prints one line, and the call continues.
#[test]
fn a_runtime_that_aws_refuses_is_told_in_one_line() {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(GOOD);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    for id in ["first", "first", "other"] {
        let built =
            sandbox.pcluster(&["build-image", "-c", "image.yaml", "-i", id, "--dryrun", "true"]).run();
        assert_eq!(
            built.aside,
            [
                "pcluster-shim: warning: the template uses Lambda runtime python3.8, and AWS no longer accepts new \
                 functions on it; run `pcluster preflight fix`\n"
            ],
            "{built}"
        );
    }
    assert!(sandbox.real(&["version"]).run().aside.is_empty());
}
