"""Builds many configurations with one real pcluster, and collects the results.

    python corpus.py build LAUNCHER DIRECTORY FILE...
    python corpus.py templates ENDPOINT REGION DIRECTORY STACK...

"build" runs in pcluster's own interpreter. For each FILE, NAME.yaml, it runs the launcher as a shell
would, with the arguments in NAME.arguments (a JSON list), and writes DIRECTORY/NAME.stdout, .stderr
and .status. pcluster and CDK with its Node.js process take seconds to load, so they are loaded once, and
each run is a fork. The forks use the same Node.js process one after the other. If a fork has ended the
Node.js process, a new one is started for the remaining forks.

"templates" runs in an environment with boto3, and writes DIRECTORY/STACK.template for each STACK that exists.
"""
import json
import os
import subprocess
import sys


def build(launcher, directory, files):
    sys.path[0] = os.path.dirname(launcher)
    # CDK is not imported here, because importing it starts Node.
    import pcluster.cli.entrypoint  # noqa: F401
    import pcluster.models.imagebuilder  # noqa: F401

    alone = [file for file in files if needs_node_of_its_own(file)]
    for file in alone:
        with open(os.path.splitext(file)[0] + ".arguments", encoding="utf-8") as given:
            command = [sys.executable, launcher] + json.load(given)
        out, err = (open(target(directory, file) + ending, "wb") for ending in (".stdout", ".stderr"))
        write_status(directory, file, subprocess.call(command, stdout=out, stderr=err))
    files = [file for file in files if file not in alone]
    while files:
        batch = os.fork()
        if batch == 0:
            build_batch(launcher, directory, files)
            os._exit(0)
        os.waitpid(batch, 0)
        done = [file for file in files if os.path.exists(target(directory, file) + ".status")]
        if not done:
            sys.exit("corpus.py: no progress at " + files[0])
        files = [file for file in files if file not in done]


def needs_node_of_its_own(file):
    """Returns whether this file is built with a Node.js process that no other file uses.

    The number of a CDK token depends on the tokens made before it, and a NaN ends Node.js.
    """
    with open(file, "rb") as content:
        text = content.read()
    return b"{Token[" in text or b"NaN" in text


def build_batch(launcher, directory, files):
    import pcluster.templates.imagebuilder_stack  # noqa: F401
    from jsii._runtime import kernel

    process = kernel.provider._process._process
    # jsii has a thread that writes Node's output to sys.stdout and sys.stderr, without flushing them. If
    # sys.stdout and sys.stderr were still the original streams here, each fork would inherit the unflushed
    # output, and write it to the fork's own files. run() gives the original streams to the forks.
    sys.stdout = sys.stderr = open(os.devnull, "w")
    for file in files:
        build_one(launcher, directory, file)
        if process.poll() is not None:
            return


def target(directory, file):
    return os.path.join(directory, os.path.splitext(os.path.basename(file))[0])


def build_one(launcher, directory, file):
    child = os.fork()
    if child == 0:
        run(launcher, target(directory, file), os.path.splitext(file)[0] + ".arguments")
    status = os.waitpid(child, 0)[1]
    write_status(directory, file, os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status))


def write_status(directory, file, status):
    with open(target(directory, file) + ".status", "w") as out:
        out.write(str(status))


def run(launcher, target, arguments):
    import runpy

    for descriptor, stream in ((1, ".stdout"), (2, ".stderr")):
        os.dup2(os.open(target + stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    with open(arguments, encoding="utf-8") as file:
        sys.argv = [launcher] + json.load(file)
    status = 1
    try:
        runpy.run_path(launcher, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def templates(endpoint, region, directory, stacks):
    import boto3
    import yaml
    from botocore.exceptions import ClientError

    client = boto3.client(
        "cloudformation",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for stack in stacks:
        try:
            body = client.get_template(StackName=stack)["TemplateBody"]
        except ClientError:
            continue
        if isinstance(body, str):
            body = yaml.load(body, Loader=loader)
        with open(os.path.join(directory, stack + ".template"), "w") as file:
            json.dump(body, file, indent=1, sort_keys=True, default=str)


if sys.argv[1] == "build":
    build(sys.argv[2], sys.argv[3], sys.argv[4:])
else:
    templates(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
