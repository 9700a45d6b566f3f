//! Every kind of answer of synthesis.py, which runs in a real Python with stubs of the few functions that it
//! imports. Other output on stdout and stderr changes no answer. The tests in tests/e2e use the answers of
//! real pclusters.

use serde_json::{Value, json};

use crate::support::fakes::{ENTRY, GOOD, node};
use crate::support::machine::real_python;
use crate::support::run::Run;
use crate::support::sandbox::Sandbox;

/// An environment of stubs. A test may overwrite any of its files.
fn stubs(sandbox: &Sandbox) {
    node(sandbox);
    let launcher = format!("#!{}\n{ENTRY}", real_python().display());
    sandbox.script("venv/bin/pcluster", launcher);
    sandbox.write(
        "site/aws_parallelcluster-3.16.1.dist-info/METADATA",
        "Name: aws-parallelcluster\nVersion: 3.16.1\n",
    );
    sandbox.write("site/template.json", GOOD);
    for (file, content) in STUBS {
        sandbox.write(format!("site/{file}"), content);
    }
    sandbox.build_image();
}

const STUBS: [(&str, &str); 17] = [
    ("pcluster/__init__.py", ""),
    ("pcluster/api/__init__.py", ""),
    ("pcluster/api/controllers/__init__.py", ""),
    ("pcluster/cli/__init__.py", ""),
    ("pcluster/models/__init__.py", ""),
    ("pcluster/templates/__init__.py", ""),
    (
        "pcluster/cli/model.py",
        "def package_spec(): return 'spec'\ndef load_model(spec): return {'model': spec}\n",
    ),
    (
        "pcluster/cli/entrypoint.py",
        r#"
import argparse, os, sys

def gen_parser(model):
    parser = argparse.ArgumentParser(prog="pcluster")
    commands = parser.add_subparsers(dest="operation")
    build = commands.add_parser("build-image")
    build.add_argument("-c", "--image-configuration", type=lambda name: open(name).read(), required=True)
    build.add_argument("-i", "--image-id", required=True)
    build.add_argument("-r", "--region")
    return parser, commands

def add_cli_commands(commands):
    commands.add_parser("version")

def main():
    with open(os.environ["LOG"], "a") as log:
        log.write("real " + " ".join(sys.argv[1:]) + "\n")
    print("the real pcluster")
"#,
    ),
    (
        "pcluster/api/errors.py",
        "class Content:\n    message = 'Bad Request: region'\nclass ParallelClusterApiException(Exception):\n    content = Content()\n",
    ),
    (
        "pcluster/api/controllers/common.py",
        r#"
import os
from pcluster.api.errors import ParallelClusterApiException

def configure_aws_region_from_config(region, config):
    region = region or os.environ.get("AWS_DEFAULT_REGION")
    if "Region: 1" in config:
        os.environ["AWS_DEFAULT_REGION"] = 1
    if not region:
        raise ParallelClusterApiException()
    os.environ["AWS_DEFAULT_REGION"] = region
"#,
    ),
    ("pcluster/models/common.py", "class BadRequest(Exception):\n    pass\n"),
    ("pcluster/imagebuilder_utils.py", "AMI_NAME_REQUIRED_SUBSTRING = ' {{ imagebuilder:buildDate }}'\n"),
    ("pcluster/utils.py", "def get_installed_version(): return '3.1.3'\n"),
    (
        "pcluster/models/imagebuilder.py",
        r#"
from marshmallow import ValidationError
from pcluster.models.common import BadRequest

class Config:
    custom_s3_bucket = image = dev_settings = None
    def __init__(self, text):
        self.text = text

class ImageBuilder:
    def __init__(self, image_id, config):
        self.image_id, self.text = image_id, config
    @property
    def config(self):
        if "Build" not in self.text:
            raise BadRequest("no Build")
        if "Unknown" in self.text:
            raise ValidationError({"Unknown": ["Unknown field."]})
        if "Trips" in self.text:
            raise TypeError("Trips takes\ntwo lines")
        return Config(self.text)
    def _generate_artifact_dir(self):
        self.s3_artifact_dir = "dir"
"#,
    ),
    (
        "pcluster/models/s3_bucket.py",
        "class S3Bucket:\n    def __init__(self, **given): pass\n    @staticmethod\n    def get_bucket_name(account, region): return 'bucket'\n",
    ),
    (
        "pcluster/templates/cdk_builder.py",
        r#"
import json, os, subprocess, sys
import botocore.client

class CDKTemplateBuilder:
    def build_imagebuilder_template(self, image_config, image_id, bucket):
        client = botocore.client.BaseClient("ec2")
        image = client._make_api_call("DescribeImages", {"ImageIds": ["ami-1"]})["Images"][0]
        assert image["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]
        identity = botocore.client.BaseClient("sts")._make_api_call("GetCallerIdentity", {})
        assert identity["Account"]
        if "Fails" in image_config.text:
            raise KeyError("Fails")
        if "Asks" in image_config.text:
            botocore.client.BaseClient("iam")._make_api_call("GetRole", {})
        with open(os.path.join(os.path.dirname(__file__), "../../template.json")) as file:
            return json.load(file)
"#,
    ),
    (
        "marshmallow.py",
        "class ValidationError(Exception):\n    def __init__(self, messages):\n        self.messages = messages\n",
    ),
];

const BOTOCORE: &str = r#"
class Meta:
    region_name = "us-east-1"
    def __init__(self, service):
        class service_model:
            service_name = service
        self.service_model = service_model

class BaseClient:
    def __init__(self, service):
        self.meta = Meta(service)
        self._service_model = self.meta.service_model
    def _make_api_call(self, operation, parameters):
        raise RuntimeError("a call to AWS was made: " + operation)
"#;

fn checked(sandbox: &Sandbox, more: &[&str]) -> Run {
    sandbox.write("site/botocore/__init__.py", "");
    if !sandbox.path("site/botocore/client.py").exists() {
        sandbox.write("site/botocore/client.py", BOTOCORE);
    }
    let call = more.iter().fold(sandbox.build_image(), |call, argument| call.argument(*argument));
    let call = call.var("PYTHONPATH", sandbox.path("site")).var("LOG", sandbox.path("log"));
    call.var("AWS_DEFAULT_REGION", "us-east-1").run()
}

/// Asserts that the real program was started, and that nothing was reported.
#[track_caller]
fn goes_on_silently(sandbox: &Sandbox, more: &[&str]) {
    let run = checked(sandbox, more);
    run.exits(0).prints("the real pcluster\n").is_silent();
    sandbox.has_no_scratch();
}

#[test]
fn the_template_is_built_by_the_real_code() {
    let sandbox = Sandbox::new();
    stubs(&sandbox);
    goes_on_silently(&sandbox, &[]);
    // The same call with the bad template is stopped, so the shim did check the call above.
    sandbox.write("site/template.json", crate::support::fakes::BAD);
    sandbox.write("work/image.yaml", "Build: {} # changed\n");
    checked(&sandbox, &[]).exits(1).prefixed();
}

/// The template has to contain the image id of the call.
#[test]
fn the_template_is_held_to_what_was_asked_for() {
    let sandbox = Sandbox::new();
    stubs(&sandbox);
    let run = checked(&sandbox, &["--image-id", "other-image"]);
    run.exits(1).prefixed().holds(run.stderr().contains("other-image"), "another id than the template's");
}

/// The expectation comes from the objects that pcluster makes of the configuration. Of two tags with the same
/// key, the last one is expected. If the name is empty, no name is expected. Node writes half of a surrogate
/// pair as U+FFFD, so U+FFFD is expected.
#[test]
fn the_template_is_held_to_what_the_real_code_asks_for() {
    let sandbox = Sandbox::new();
    stubs(&sandbox);
    let models = STUBS.iter().find(|(file, _)| file.ends_with("models/imagebuilder.py")).unwrap().1;
    let objects = r#"
class Made:
    def __init__(self, **given): self.__dict__.update(given)
def tag(key, value): return Made(key=key, value=value)
Config.image = Made(name="", tags=[
    tag("team", "hpc"), tag("team", ""), tag("blank", " "), tag("", "none"), tag("__proto__", "x"),
    tag("half", "\ud800 \ud83d\ude00"), tag("token", "${Token[TOKEN.1]}"),
])
permission = '{"UserIds": ["1", null], "UserGroups": []}'
Config.dev_settings = Made(distribution_configuration=Made(regions="b, a,b\n", launch_permission=permission))
"#;
    sandbox.write("site/pcluster/models/imagebuilder.py", models.to_owned() + objects);
    let mut template: Value = serde_json::from_str(GOOD).unwrap();
    let distributions =
        &mut template["Resources"]["DistributionConfiguration"]["Properties"]["Distributions"];
    let mut first = distributions[0].clone();
    let ami = &mut first["AmiDistributionConfiguration"];
    ami["LaunchPermissionConfiguration"] = json!({"UserIds": ["1"], "UserGroups": []});
    for (key, value) in
        [("team", ""), ("blank", " "), ("", "none"), ("half", "\u{fffd} \u{1f600}"), ("token", "resolved")]
    {
        ami["AmiTags"][key] = json!(value);
    }
    let in_region = |region: &str| {
        let mut copy = first.clone();
        copy["Region"] = json!(region);
        copy
    };
    *distributions = json!([in_region("a"), in_region("b")]);
    sandbox.write("site/template.json", template.to_string());
    goes_on_silently(&sandbox, &[]);

    let ami = "/Resources/DistributionConfiguration/Properties/Distributions/1/AmiDistributionConfiguration";
    for (pointer, named) in [
        ("/AmiTags/team", "lacks the AMI tag team"),
        ("/AmiTags/blank", "lacks the AMI tag blank"),
        ("/AmiTags/", "lacks the AMI tag "),
        ("/AmiTags/token", "lacks the AMI tag token"),
        ("/LaunchPermissionConfiguration", "lacks the launch permission"),
    ] {
        let mut changed = template.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = changed.pointer_mut(&format!("{ami}{parent}")).unwrap();
        parent.as_object_mut().unwrap().remove(key);
        sandbox.write("site/template.json", changed.to_string());
        sandbox.write("work/image.yaml", format!("Build: {{}} # {pointer}\n"));
        let run = checked(&sandbox, &[]);
        run.exits(1).prefixed().holds(run.stderr().contains(named), named);
    }
}

/// If pcluster's own code refuses a call during the check, the shim prints nothing and starts the real
/// pcluster, which then refuses the call in its own words. In this test, a stub takes the place of
/// the real pcluster and accepts every call.
#[test]
fn what_the_real_code_refuses_is_left_to_it() {
    let sandbox = Sandbox::new();
    stubs(&sandbox);
    for more in [&["--nonsense"][..], &["--help"], &["--image-configuration"], &["stray"]] {
        goes_on_silently(&sandbox, more);
    }
    for content in ["Other: {}\n", "Build: {}\nUnknown: 1\n", ""] {
        sandbox.write("work/image.yaml", content);
        goes_on_silently(&sandbox, &[]);
    }
    // Configurations on which pcluster's own code fails.
    for content in ["Build: {}\nTrips: 1\n", "Build: {}\nFails: 1\n", "Build: {}\nRegion: 1\n"] {
        sandbox.write("work/image.yaml", content);
        goes_on_silently(&sandbox, &[]);
    }
    // Here pcluster's code asks AWS something that the check cannot answer, so the shim warns.
    sandbox.write("work/image.yaml", "Build: {}\nAsks: 1\n");
    checked(&sandbox, &[]).exits(0).warns_once("iam:GetRole");
    sandbox.write("work/image.yaml", "Build: {}\n");
    let call = sandbox.build_image().var("PYTHONPATH", sandbox.path("site")).var("LOG", sandbox.path("log"));
    call.run().exits(0).prints("the real pcluster\n").is_silent();
}

/// `preflight` reports a refusal as the caller's error, in the real program's words.
#[test]
fn preflight_reports_what_is_refused() {
    let sandbox = Sandbox::new();
    stubs(&sandbox);
    checked(&sandbox, &[]);
    let preflight = |region: Option<&str>| {
        let call = sandbox.pcluster(["preflight", "-c", "image.yaml", "-i", "my-image"]);
        let call = call.var("PYTHONPATH", sandbox.path("site"));
        region.map_or(call.clone(), |region| call.var("AWS_DEFAULT_REGION", region)).run()
    };
    preflight(None).exits(2).prints("").prefixed().stderr_matches("rejected-region.txt");
    for (content, snapshot) in [
        ("Build: {}\nUnknown: 1\n", "schema"),
        ("Other: {}\n", "parse"),
        ("", "empty"),
        ("Build: {}\nTrips: 1\n", "trips"),
        ("Build: {}\nFails: 1\n", "fails"),
    ] {
        sandbox.write("work/image.yaml", content);
        let run = preflight(Some("us-east-1"));
        run.exits(2).prints("").prefixed().stderr_matches(&format!("rejected-{snapshot}.txt"));
    }
}

/// A refusal is reported in one line, although pcluster's own exceptions print JSON in several lines, and
/// marshmallow's exceptions print a dict. A very long refusal is cut.
#[test]
fn a_refusal_of_several_lines_is_reported_in_one() {
    let entrypoint = |refusal: &str| {
        format!(
            "import json\nclass ParameterException(Exception):\n    def __init__(self, data):\n        super().__init__()\n        self.data = data\n    def __str__(self):\n        return json.dumps(self.data, indent=2)\n\ndef gen_parser(model):\n    class Parser:\n        def parse_known_args(self, arguments):\n            {refusal}\n    return Parser(), None\n\ndef add_cli_commands(parsers): pass\n"
        )
    };
    let parse = |refusal: &str| ("pcluster/cli/entrypoint.py", entrypoint(refusal));
    let schema = |messages: &str| {
        let class = "import marshmallow\nclass ImageBuilder:\n    def __init__(self, image_id, config): pass\n    @property\n    def config(self): raise marshmallow.ValidationError";
        ("pcluster/models/imagebuilder.py", format!("{class}({messages})\n"))
    };
    for (snapshot, (file, content)) in [
        ("parameter", parse("raise ParameterException({'message': \"Bad Request: '1b'\\n  is no id\"})")),
        ("usage", parse("import argparse; argparse.ArgumentParser(prog='pcluster').error('no\\n such')")),
        ("long", parse("raise ValueError('x' * 5000)")),
        (
            "nested",
            schema("{'Build': {'Tags': {0: ['Bad.', 'Worse.']}, '_schema': ['No.']}, 'Bild': ['Unknown.']}"),
        ),
    ] {
        let sandbox = Sandbox::new();
        stubs(&sandbox);
        checked(&sandbox, &[]);
        sandbox.write(format!("site/{file}"), content);
        let call = sandbox.pcluster(["preflight", "-c", "image.yaml", "-i", "my-image"]);
        let run = call.var("PYTHONPATH", sandbox.path("site")).var("AWS_DEFAULT_REGION", "us-east-1").run();
        run.exits(2).prints("").prefixed().stderr_matches(&format!("refused-{snapshot}.txt"));
        run.holds(run.stderr().lines().count() == 2, "the refusal and the hint");
    }
}

fn builder(body: &str) -> String {
    format!(
        "import os, sys\nclass CDKTemplateBuilder:\n    def build_imagebuilder_template(self, image_config, image_id, bucket):\n        {body}\n"
    )
}

/// If the environment's own code fails on a minimal configuration too, every build would fail, so the shim
/// stops the call.
#[test]
fn what_ends_in_an_exception_of_its_own_stops() {
    for (snapshot, file, content) in [
        ("import", "pcluster/cli/model.py", "import pkg_resources_that_is_gone\n".to_owned()),
        ("exit", "pcluster/templates/cdk_builder.py", "import sys\nsys.exit('no node')\n".into()),
        ("raise", "pcluster/templates/cdk_builder.py", builder("raise ValueError('two\\nlines')")),
    ] {
        let sandbox = Sandbox::new();
        stubs(&sandbox);
        sandbox.write(format!("site/{file}"), &content);
        let run = checked(&sandbox, &[]);
        run.exits(1).prefixed().stderr_matches(&format!("synthesis-{snapshot}.txt"));
        sandbox.has_no_scratch();
    }
}

/// In these cases, the check cannot get a template, and the verdict is unknown.
#[test]
fn what_does_not_run_is_one_line_and_goes_on() {
    for (snapshot, file, content) in [
        ("names", "pcluster/cli/entrypoint.py", STUBS[7].1.replace("def gen_parser", "def make_parser")),
        ("full", "pcluster/templates/cdk_builder.py", builder("raise ValueError('ENOSPC: no space left')")),
        ("syntax", "pcluster/models/imagebuilder.py", "def broken(:\n".into()),
        ("inside", "pcluster/utils.py", "def other(): pass\n".into()),
        ("api", "pcluster/templates/cdk_builder.py", "class CDKTemplateBuilder: pass\n".into()),
        (
            "signature",
            "pcluster/templates/cdk_builder.py",
            "class CDKTemplateBuilder:\n    def build_imagebuilder_template(self): pass\n".into(),
        ),
        (
            "stdout",
            "pcluster/templates/cdk_builder.py",
            builder("print('said on stdout', flush=True); os._exit(1)"),
        ),
        ("killed", "pcluster/templates/cdk_builder.py", builder("os.kill(os.getpid(), 9)")),
        (
            "unexpected",
            "pcluster/templates/cdk_builder.py",
            "import botocore.client\n".to_owned()
                + &builder("return botocore.client.BaseClient('ec2')._make_api_call('RunInstances', {})"),
        ),
        (
            "swallowed",
            "pcluster/templates/cdk_builder.py",
            "import botocore.client\n".to_owned()
                + &builder(
                    "\n        try:\n            botocore.client.BaseClient('iam')._make_api_call('GetRole', {})\n        except Exception:\n            return {}",
                ),
        ),
    ] {
        let sandbox = Sandbox::new();
        stubs(&sandbox);
        sandbox.write(format!("site/{file}"), &content);
        let run = checked(&sandbox, &[]);
        run.exits(0).prints("the real pcluster\n").warns_once("template");
        // The wording of these errors differs between releases of Python.
        match snapshot {
            "syntax" => run.warns_once("`configuration`: SyntaxError: "),
            "names" => run.warns_once("`import`: ImportError: "),
            "inside" => run.warns_once("`expectation`: ImportError: "),
            "signature" => run.warns_once("building it fails: TypeError: "),
            _ => run.stderr_matches(&format!("synthesis-{snapshot}.txt")),
        };
        sandbox.has_no_scratch();
    }
}

/// synthesis.py gets the same `sys.path` as the launcher. The first entry of `sys.path` is the directory of
/// the launcher.
#[test]
fn what_stands_beside_the_launcher_is_found() {
    let sandbox = Sandbox::new();
    stubs(&sandbox);
    std::fs::rename(sandbox.path("site/marshmallow.py"), sandbox.path("venv/bin/marshmallow.py")).unwrap();
    goes_on_silently(&sandbox, &[]);
}

/// The noise: what `print` writes to stdout and stderr, what `os.write` writes to file descriptor 1, and what
/// a child process writes to both streams.
#[test]
fn noise_on_both_streams_does_not_change_the_answer() {
    let sandbox = Sandbox::new();
    stubs(&sandbox);
    let noise = "import os, sys, subprocess\nprint('noise')\nprint('noise', file=sys.stderr)\nos.write(1, b'\\xff{\\n')\nsubprocess.call(['sh', '-c', 'echo noise; echo noise >&2'])\n";
    let builder = STUBS.iter().find(|(file, _)| file.ends_with("cdk_builder.py")).unwrap().1;
    sandbox.write("site/pcluster/templates/cdk_builder.py", noise.to_owned() + builder);
    sandbox.write("site/sitecustomize.py", "import os\nif 'synth' in ' '.join(__import__('sys').orig_argv if hasattr(__import__('sys'), 'orig_argv') else []): print('noise')\n");
    goes_on_silently(&sandbox, &[]);
}

/// A check leaves no bytecode and nothing else in the environment.
#[test]
fn nothing_is_written_into_the_environment() {
    let sandbox = Sandbox::new();
    stubs(&sandbox);
    sandbox.write("site/botocore/__init__.py", "");
    sandbox.write("site/botocore/client.py", BOTOCORE);
    let before = sandbox.tree("site");
    let call = sandbox.pcluster(["preflight", "--format", "json"]).var("PYTHONPATH", sandbox.path("site"));
    let run = call.run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    // Without `-i`, the check expects the image id `preflight-check`. The template of the stubs has another
    // image id, so the check of that template fails. The failure shows that the template was checked.
    let template = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == "template");
    run.exits(1).holds(template.unwrap()["status"] == "failed", "the template was checked");
    assert_eq!(sandbox.tree("site"), before);
    sandbox.has_no_scratch();
}
