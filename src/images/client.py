"""Asks AWS for what builds of `pcluster build-image` have left, and applies the steps of a repair or a
deletion.

Runs in an interpreter that has boto3, usually that of the real pcluster, and with the credentials that
boto3 finds. It classifies nothing and decides nothing. Python 3.6 to 3.14.

    python client.py SENTINEL REQUEST        (the other client_*.py are in the same directory)

REQUEST is a JSON file: {"sysPath": [...], "kind": ..., "region": ...}, and more keys for each kind. Each
entry of "sysPath" has one character for each byte of the path. The answer is one JSON object on stdout
between two lines that contain the sentinel, because warnings and sitecustomize write to the same streams.
stdin is a pipe from the shim: when the shim ends, this process ends too. The kinds of a request are

    inventory    three kinds of AMIs: those whose tag Ec2ImageBuilderArn fits "pattern", those that have the
                 tag parallelcluster:image_id, and those in "ids"; the stacks, S3 directories, log groups,
                 snapshots and uses of each AMI that lacks the tag parallelcluster:image_id or is in "ids";
                 what still exists of each deletion in "remains"
    stack        the stack of this "name" or id, with its status and its template
    parent       what a build would use: the image "parent", the URLs of "scripts", the ARNs of "components" and
                 the "subnet"
    apply        "steps", up to the first that fails

The "kind" of an answer is

    inventory    and "skipped": sources that failed, from which the answer has less or nothing
    stack        or nostack
    parent       and "skipped": for each check that could not ask everything, the first reason
    applied      "results" of the steps that were tried, in their order
    failed       "code": noboto3, credentials, sso, clock, region, network, denied, throttled or answer (AWS
                 gave no sensible answer, or an error with none of these codes); "call": the call to AWS that
                 failed, or null

Anything in "remains" that cannot be read is reported as existing. Times are RFC 3339. Every key is always
there, with null if AWS has no value for it: the reader refuses an answer in which a key is missing.
"""

import getpass
import json
import os
import sys
import threading

# This script's directory is added here, because PYTHONSAFEPATH keeps Python from adding it.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from client_account import Account, Failure, read_other_error, shorten  # noqa: E402
from client_apply import apply_steps  # noqa: E402
from client_builds import read_stack  # noqa: E402
from client_inventory import take_inventory  # noqa: E402
from client_parent import read_parent  # noqa: E402


def main():
    sentinel, request_file = sys.argv[1], sys.argv[2]
    end_with_shim()
    # The answer is written to the original stdout, all other output to stderr.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    # boto3 would ask for the code of an MFA device at the terminal, but this process cannot read from the
    # terminal, because it is not in the foreground there.
    getpass.getpass = refuse_to_ask
    sys.path[:] = [os.fsdecode(entry.encode("latin-1")) for entry in request["sysPath"]]
    pieces = encode(answer(request))
    # The JSON of a template can contain halves of surrogate pairs. They are not text, so they are replaced.
    with os.fdopen(answer_fd, "w", encoding="utf-8", errors="replace") as out:
        out.writelines(["\n", sentinel, "\n"])
        out.writelines(pieces)
        out.writelines(["\n", sentinel, "\n"])
    sys.stderr.flush()
    # A normal exit would wait for threads that are still waiting for AWS.
    os._exit(0)


def encode(answer):
    """The JSON of an answer, in pieces. In one piece, the JSON of thousands of AMIs would take as much
    memory as the AMIs."""
    separator = "{"
    for key, value in answer.items():
        yield "{}{}: ".format(separator, json.dumps(key))
        separator = ", "
        if isinstance(value, list):
            yield "["
            for number, entry in enumerate(value):
                yield (", " if number else "") + json.dumps(entry, ensure_ascii=False)
            yield "]"
        else:
            yield json.dumps(value, ensure_ascii=False)
    yield "}"


def end_with_shim():
    """Make no further call once the shim is gone. boto3 can start programs to get credentials; these programs
    do not inherit the pipe."""
    pipe = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def wait():
        os.read(pipe, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def refuse_to_ask(prompt="", stream=None):
    raise Failure("credentials", "the profile asks for an MFA code, which cannot be entered here: use credentials"
                  " that ask for none, such as those of `aws sts get-session-token`")


def answer(request):
    kinds = {"inventory": take_inventory, "stack": read_stack, "parent": read_parent, "apply": apply_steps}
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        return describe_failure(Failure("noboto3", str(error)))
    aws = None
    try:
        aws = Account(request["region"])
        return kinds[request["kind"]](aws, request)
    except Failure as failure:
        return describe_failure(failure)
    except Exception as error:
        return describe_failure(read_other_error(error, aws and aws.asked))


def describe_failure(failure):
    message = shorten(failure.message, 300)
    return {"kind": "failed", "code": failure.code, "message": message, "call": failure.call}


main()
