"""Builds many configurations by one real pcluster, and reads what became of them.

    python corpus.py build LAUNCHER DIRECTORY FILE...
    python corpus.py templates ENDPOINT REGION DIRECTORY STACK...

"build" runs in pcluster's own interpreter. For each FILE, NAME.yaml, it runs the launcher as a shell
would, with the arguments in NAME.arguments (a JSON list), and writes DIRECTORY/NAME.stdout, .stderr
and .status. What takes long to import is imported once; each run is a fork, two at a time.

"templates" runs where boto3 is, and writes DIRECTORY/STACK.template of each stack that there is.
"""
import json
import os
import sys

AT_A_TIME = 2


def build(launcher, directory, files):
    sys.path[0] = os.path.dirname(launcher)
    # Not CDK: it starts Node, which forks cannot share.
    import pcluster.cli.entrypoint  # noqa: F401
    import pcluster.models.imagebuilder  # noqa: F401

    running = {}
    for file in files:
        while len(running) >= AT_A_TIME:
            collect(running, directory)
        name = os.path.splitext(os.path.basename(file))[0]
        child = os.fork()
        if child == 0:
            run(launcher, name, os.path.join(directory, name), os.path.splitext(file)[0] + ".arguments")
        running[child] = name
    while running:
        collect(running, directory)


def collect(running, directory):
    child, status = os.wait()
    status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    with open(os.path.join(directory, running.pop(child) + ".status"), "w") as file:
        file.write(str(status))


def run(launcher, name, target, arguments):
    import runpy

    for descriptor, stream in ((1, ".stdout"), (2, ".stderr")):
        os.dup2(os.open(target + stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
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
        aws_access_key_id="nobody",
        aws_secret_access_key="nobody",
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
