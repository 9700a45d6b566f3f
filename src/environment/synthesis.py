"""Synthesizes the template that `pcluster build-image` is about to submit.

Runs in the interpreter of the real pcluster, and uses pcluster's own parser, schema and template builder.
Calls to AWS are answered from a table, so no connection is opened. Python 3.6 to 3.14.

    python synthesis.py SENTINEL REQUEST ARGUMENT...        (synthesis_aws.py is in the same directory)

REQUEST is a JSON file, {"sysPath": [...], "images": [...]}, with a character for each byte of a path. "images" has
descriptions of images, in the form of ec2:DescribeImages; the description of any other image is invented. The
arguments are those of pcluster, "build-image" first; without any, pcluster is only started.
The answer is one JSON object on stdout between two lines that contain the sentinel, because warnings,
sitecustomize and jsii write to the same streams. Its "kind" is

    template     "template", and "asked": what the real code asks of the AMI, see read_expectation()
    rejected     the real pcluster refuses these arguments or this configuration: "stage" is arguments,
                 region or configuration
    failed       this script cannot get a template: the machine is at fault, or pcluster's own code is not as
                 it is expected here
    unexpected   a call to AWS that the table does not answer: "call"
    unstartable  the import of the command line, or the code that builds the template, raises an exception:
                 see describe_exception()
    started      there were no arguments, and pcluster starts

If pcluster starts, the answer also has "startupMs", the time that its start took.
"""
import contextlib
import gc
import importlib.util
import io
import json
import marshal
import os
import re
import sys
import time
import traceback
import types

# This script's directory is added here, because Python does not add it if PYTHONSAFEPATH is set.
sys.path.insert(0, os.path.dirname(__file__))

from synthesis_aws import ACCOUNT, IMAGES, UnexpectedCall, answer_aws  # noqa: E402


class Rejected(Exception):
    """The real pcluster refuses the call, with a message of its own."""


def main():
    # Garbage collection takes a sixth of the run time, and the process ends before its garbage matters.
    gc.disable()
    sentinel, request_file, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
    # The answer is written to the original stdout, all other output to stderr.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    sys.path[:] = [os.fsdecode(entry.encode("latin-1")) for entry in request["sysPath"]]
    IMAGES.update({image["ImageId"]: image for image in request.get("images") or []})
    sys.argv[:] = ["pcluster"] + arguments
    answer = start(arguments)
    framed = "\n{0}\n{1}\n{0}\n".format(sentinel, json.dumps(answer, default=str, ensure_ascii=False))
    # This joins pairs of surrogates and replaces single surrogates, as Node.js does. YAML can contain both.
    framed = framed.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    with os.fdopen(answer_fd, "w", encoding="utf-8") as out:
        out.write(framed)
    sys.stderr.flush()
    # The exit handlers of jsii would wait for Node.js; the caller ends the process group instead.
    os._exit(0)


def start(arguments):
    """Start pcluster as its console script does, and only then patch boto3 and import other modules of pcluster."""
    before = time.monotonic()
    try:
        parse = get_real_parser()
    except (Exception, SystemExit) as error:
        # True if the module that a console script imports exists, but does not have the expected names.
        is_changed = "pcluster.cli.entrypoint" in sys.modules and is_raised_here(error)
        if (is_changed or is_of_machine(error)) and not find_damaged_bytecode(error):
            return {"kind": "failed", "stage": "import", "message": describe(error)}
        return dict(describe_exception(error), kind="unstartable", stage="import")
    started = int(1000 * (time.monotonic() - before))
    return dict(synthesize(parse, arguments) if arguments else {"kind": "started"}, startupMs=started)


def synthesize(parse, arguments):
    stage = "import"
    try:
        answer_aws()
        stage = "arguments"
        options = parse_arguments(parse, arguments)
        stage = "region"
        region = configure_region(options)
        stage = "configuration"
        image = load_configuration(options)
        stage = "template"
        template = build_template(image, region)
        stage = "expectation"
        expectation = read_expectation(image.config, image.image_id)
    except Rejected as refusal:
        return {"kind": "rejected", "stage": stage, "message": str(refusal)}
    except UnexpectedCall as call:
        return {"kind": "unexpected", "stage": stage, "call": str(call)}
    except (Exception, SystemExit) as error:
        # An error raised by this script is not the environment's fault: it means that pcluster has other
        # names or parameters than this script expects.
        is_at_fault = stage == "template" and not is_of_machine(error) and not is_raised_here(error)
        if is_at_fault or find_damaged_bytecode(error):
            return dict(describe_exception(error), kind="unstartable", stage="template")
        return {"kind": "failed", "stage": stage, "message": describe(error)}
    return {"kind": "template", "template": template, "asked": expectation}


def describe(error):
    text = read_text(error).strip().split("\n")[0]
    return "{}: {}".format(type(error).__name__, text) if text else type(error).__name__


def find_damaged_bytecode(error):
    """The damaged bytecode file on which Python fails, or None. A full disk can leave such a file.

    An ImportError has the path of the file, but no frames of importlib, because importlib removes them. Any other
    exception has a frame of importlib's _compile_bytecode, and the path is a variable of that frame.
    """
    bytecode = None
    if isinstance(error, ImportError) and read_text(error).startswith("Non-code object in "):
        bytecode = error.path
    for frame, _line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_name == "_compile_bytecode" and code.co_filename.startswith("<frozen importlib"):
            bytecode = frame.f_locals.get("bytecode_path")
    return bytecode if is_damaged(bytecode) else None


def is_damaged(bytecode):
    """Whether a file is bytecode that cannot be loaded, but that can be made again, because its source exists."""
    try:
        if not os.path.exists(importlib.util.source_from_cache(bytecode)):
            return False
        with open(bytecode, "rb") as file:
            content = file.read()
    except (OSError, TypeError, ValueError, NotImplementedError):  # not a path, or not one in a __pycache__
        return False
    try:
        return not isinstance(marshal.loads(content[16 if sys.version_info >= (3, 7) else 12 :]), types.CodeType)
    except (EOFError, ValueError, TypeError):
        return True


def is_of_machine(error):
    """Whether an exception may come from the machine, or from the fact that a check runs without a terminal.

    Node.js puts the name of a system error, such as ENOSPC, into the text. If a disk is full, it is often the
    disk of TMPDIR. jsii needs more space in TMPDIR if its package cache is off, as in most checks.
    """
    of_machine = (OSError, MemoryError, RecursionError, EOFError)
    is_by_type = isinstance(error, of_machine) or type(error).__module__ in ("termios", "_curses", "getpass")
    return is_by_type or any(name in read_text(error) for name in ("ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "ENOMEM"))


def is_raised_here(error):
    """Whether the shim's own code raised an exception, rather than that of pcluster or a library."""
    raiser = find_raiser(error)
    return raiser is None or os.path.dirname(raiser) == os.path.dirname(__file__)


def find_raiser(error):
    """The file whose code raised an exception, or None. importlib's own code does not count."""
    files = [frame[0] for frame in traceback.extract_tb(error.__traceback__)]
    return next((file for file in reversed(files) if not file.startswith("<frozen importlib")), None)


def describe_exception(error):
    """The exception, its cause in the call, the missing or incomplete module, and the file that raised the exception.

    The parts of a path that Python cannot decode are surrogates, which the answer replaces. Such a
    path then belongs to no package.
    """
    module = getattr(error, "name", None) if isinstance(error, ImportError) else None
    text = read_text(error)
    # The name of the incomplete module is read from the message, because an AttributeError
    # contains the module (as `obj`) only from Python 3.10 on.
    incomplete = re.match(r"(?:partially initialized )?module '([^']+)' has no attribute", text)
    if isinstance(error, AttributeError) and incomplete:
        module = incomplete.group(1)
    # The file of an incomplete module. A missing module has none.
    known = sys.modules.get(module) if isinstance(module, str) else None
    module_file = getattr(error, "path", None) or getattr(known, "__file__", None)
    if isinstance(error, SyntaxError):
        module_file = error.filename
    return {
        "exception": type(error).__name__,
        "message": shorten(text.split("\n")[0]),
        "module": module if isinstance(module, str) else None,
        "moduleFile": module_file if isinstance(module_file, str) else None,
        "file": find_raiser(error),
        "bytecode": find_damaged_bytecode(error),
        "cause": find_cause(error),
    }


def find_cause(error):
    """The setting of the call that causes the exception, or None. If there is one, no package is at fault."""
    if isinstance(error, Warning) or isinstance(error.__cause__, Warning):
        is_by_variable = os.environ.get("PYTHONWARNINGS") and not sys.flags.ignore_environment
        return "PYTHONWARNINGS" if is_by_variable else "-W"
    # Node.js does not accept a relative path for a module. If TMPDIR is relative, jsii passes a
    # relative path.
    place, text = os.environ.get("TMPDIR") or "/", read_text(error)
    is_relative = "must be a file URL" in text and not os.path.isabs(place)
    if is_relative or "mkdtemp" in text and not os.path.isdir(place):
        return "TMPDIR"
    return "JSII_RUNTIME" if os.environ.get("JSII_RUNTIME") else None


def read_text(error):
    """The text of an exception, or "" if its own code raises another exception."""
    try:
        return str(error)
    except Exception:
        return ""


MAX_REASON = 1000  # characters


def describe_refusal(error):
    """The message of the real pcluster for a refusal, in one line.

    Its ParameterException has {"message": ...} as data and prints it as JSON over several lines;
    marshmallow's ValidationError has messages by key, nested: {key: [message] or {key: ...}}.
    """
    data = getattr(error, "messages", None) or getattr(error, "data", None)
    if isinstance(data, dict) and isinstance(data.get("message"), str):
        text = data["message"]
    elif isinstance(data, (dict, list)):
        text = "; ".join(flatten_messages("", data))
    else:
        text = str(error) or type(error).__name__
    return shorten(text)


def flatten_messages(path, messages):
    """Flatten nested messages to lines such as `Build.ParentImage: Not a valid string`."""
    if isinstance(messages, dict):
        for key, value in messages.items():
            # marshmallow uses this key for errors that concern a whole object, not one of its fields.
            inner = path if key == "_schema" else "{}.{}".format(path, key) if path else str(key)
            yield from flatten_messages(inner, value)
    elif isinstance(messages, list):
        for value in messages:
            yield from flatten_messages(path, value)
    else:
        message = str(messages).rstrip(".")
        yield "{}: {}".format(path, message) if path else message


def shorten(text):
    text = re.sub("^Bad Request: ", "", " ".join(text.split()))
    return text if len(text) <= MAX_REASON else text[:MAX_REASON] + "..."


def get_real_parser():
    from pcluster.cli.entrypoint import add_cli_commands, gen_parser
    from pcluster.cli.model import load_model, package_spec

    parser, parsers = gen_parser(load_model(read_by_libyaml(package_spec)))
    add_cli_commands(parsers)
    return parser.parse_known_args


def read_by_libyaml(package_spec):
    """Read pcluster's own specification with libyaml, which takes a tenth of the time of PyYAML's own code."""
    import yaml

    plain = yaml.SafeLoader
    try:
        yaml.SafeLoader = yaml.CSafeLoader
        return package_spec()
    except Exception:  # PyYAML has no libyaml; the call below raises any other error again
        pass
    finally:
        yaml.SafeLoader = plain
    return package_spec()


def parse_arguments(parse, arguments):
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            options, unknown = parse(arguments)
    except SystemExit as error:
        # argparse ends its usage text with "PROGRAM: error: MESSAGE".
        message = usage.getvalue().rpartition(": error: ")[2]
        raise Rejected(shorten(message or "usage") if error.code else "help")
    except Exception as error:  # the file named by --image-configuration cannot be read
        raise Rejected(describe_refusal(error))
    if unknown:
        raise Rejected("unrecognized arguments: {}".format(" ".join(map(repr, unknown))))
    if options.operation != "build-image":
        raise Rejected("not build-image")
    return options


def configure_region(options):
    """The region as the API finds it: --region, the configuration (which must not name another), or boto3."""
    from pcluster.api.controllers.common import configure_aws_region_from_config
    from pcluster.api.errors import ParallelClusterApiException

    if options.region:
        os.environ["AWS_DEFAULT_REGION"] = options.region
    try:
        configure_aws_region_from_config(options.region, options.image_configuration)
    except ParallelClusterApiException as error:
        content = getattr(error, "content", None)
        raise Rejected(shorten(getattr(content, "message", None) or str(error)))
    except Exception as error:
        # An exception of botocore (for example, for a missing profile) also ends the real pcluster.
        if type(error).__module__.startswith("botocore"):
            raise Rejected(describe_refusal(error))
        raise
    return os.environ["AWS_DEFAULT_REGION"]


def load_configuration(options):
    from marshmallow import ValidationError
    from pcluster.models.common import BadRequest
    from pcluster.models.imagebuilder import ImageBuilder

    if not options.image_configuration:
        raise Rejected("the configuration is empty")
    image = ImageBuilder(image_id=options.image_id, config=options.image_configuration)
    try:
        image.config
        # The real pcluster also checks the image id with this method.
        getattr(image, "_validate_id", lambda: None)()
    except (ValidationError, BadRequest) as error:
        raise Rejected(describe_refusal(error))
    return image


def read_expectation(config, image_id):
    """The values that the real code passes to CDK for the AMI, from the objects that its schema loads.

    Computed as in ImageBuilderCdkStack of 3.0.0 to 3.16.1 (_get_image_tags, _get_distribution_regions,
    _add_imagebuilder_distribution_configuration), but without CDK, so that values which CDK loses are
    found. "regions" is empty if the AMI stays in the stack's own region; null is a value that cannot
    be predicted.
    """
    from pcluster.imagebuilder_utils import AMI_NAME_REQUIRED_SUBSTRING
    from pcluster.utils import get_installed_version

    image, dev_settings = config.image, config.dev_settings
    distribution = dev_settings and dev_settings.distribution_configuration
    name = image.name if image and image.name else image_id
    tags = {tag.key: tag.value for tag in (image.tags if image and image.tags else [])}
    tags["parallelcluster:image_name"] = name
    tags["parallelcluster:version"] = get_installed_version()
    tags["parallelcluster:image_id"] = image_id
    regions, permission = [], None
    if distribution and distribution.regions:
        regions = sorted(set(map(str.strip, distribution.regions.split(","))))
    if distribution and distribution.launch_permission:
        permission = json.loads(predict(distribution.launch_permission) or "null")
    return {
        "name": predict(name + AMI_NAME_REQUIRED_SUBSTRING),
        "tags": {key: predict(value) for key, value in tags.items() if predict(key) is not None},
        "regions": regions,
        "launchPermission": permission,
    }


def predict(text):
    """The text as CDK writes it into a template, or None if that cannot be predicted.

    CDK resolves a text that looks like one of its tokens, and "__proto__" is not an ordinary key in JavaScript.
    """
    return None if "{Token[" in text or "__proto__" in text else text


def build_template(image, region):
    from pcluster.models.s3_bucket import S3Bucket
    from pcluster.templates.cdk_builder import CDKTemplateBuilder

    image._generate_artifact_dir()
    bucket = S3Bucket(
        service_name=image.image_id,
        stack_name=image.image_id,
        artifact_directory=image.s3_artifact_dir,
        name=image.config.custom_s3_bucket or S3Bucket.get_bucket_name(ACCOUNT, region),
        is_custom_bucket=bool(image.config.custom_s3_bucket),
    )
    return CDKTemplateBuilder().build_imagebuilder_template(
        image_config=image.config, image_id=image.image_id, bucket=bucket
    )


main()
