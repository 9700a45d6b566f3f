"""The calls to AWS through boto3, their failures, and the look-ups that both a list and a change need."""

import concurrent.futures
import contextlib
import sys
import threading
import traceback


class Failure(Exception):
    """A call to AWS that failed; aws_code is AWS's own code of the error."""

    def __init__(self, code, message, call=None, aws_code=None):
        super().__init__(message)
        self.code, self.message, self.call, self.aws_code = code, message, call, aws_code

    def describe(self):
        text = self.message if self.code == "answer" else "{}: {}".format(self.code, self.message)
        return shorten(text, 200)

    def permission(self):
        return PERMISSIONS.get(self.call, self.call) if self.code == "denied" else None


# Calls whose IAM action has a different name. A deletion that names a version, even the version "null", needs
# s3:DeleteObjectVersion: S3 user guide, "Policy actions for Amazon S3".
PERMISSIONS = {
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:DeleteObjects": "s3:DeleteObjectVersion",
}


def shorten(text, limit):
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


# The exceptions of botocore are listed by name, because not every release of botocore has all these classes.
# Each entry is one of the shim's codes with a list of names. An exception gets the code if the name of its
# class, or of an ancestor of its class, is in the list.
BOTOCORE_CODES = {
    "credentials": (
        "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
        "UnknownCredentialError", "LoginError", "InvalidConfigError", "InfiniteLoopConfigError",
        "RefreshWithMFAUnsupportedError", "MissingDependencyException", "ConfigParseError", "ConfigNotFound",
    ),
    "sso": ("SSOError", "TokenRetrievalError", "NoAuthTokenError"),
    "region": ("NoRegionError", "InvalidRegionError", "UnknownRegionError"),
    "network": ("ConnectionError", "HTTPClientError", "IncompleteReadError"),
}  # fmt: skip
# S3, EC2 and the JSON services have different codes for the same error.
AWS_CODES = {
    "credentials": (
        "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException",
        "AuthFailure", "SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidSignatureException",
        "InvalidToken", "TokenRefreshRequired", "RequestExpired",
    ),
    "clock": ("RequestTimeTooSkewed",),
    "denied": ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"),
    "throttled": ("RequestLimitExceeded", "TooManyRequestsException", "SlowDown", "BandwidthLimitExceeded"),
}  # fmt: skip


@contextlib.contextmanager
def translating(call):
    """Turn the exceptions of botocore into a Failure of this call."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise read_client_error(error, call)
    except ResponseParserError:
        # The exception's message is not used, because it contains the whole answer, such as the page of a
        # proxy server.
        raise Failure("answer", OTHER_FORM, call)
    except BotoCoreError as error:
        names = {ancestor.__name__ for ancestor in type(error).__mro__}
        codes = [code for code, known in BOTOCORE_CODES.items() if names & set(known)]
        raise Failure(codes[0] if codes else "answer", str(error), call)
    except Failure:
        raise
    except Exception as error:
        raise read_other_error(error, call)


OTHER_FORM = "the answer did not come from AWS; a proxy or a login page may have intercepted the call"


def read_other_error(error, call=None):
    """The failure for any other error: a credential process cannot be run or prints no JSON, or the answer
    did not come from AWS."""
    name = "{}: {}".format(type(error).__name__, error)
    modules = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if "botocore.credentials" in modules:
        return Failure("credentials", "the credentials cannot be read ({})".format(name), call)
    return Failure("answer", "{} ({})".format(OTHER_FORM, name), call)


def read_client_error(error, call):
    details = error.response.get("Error", {})
    aws_code = str(details.get("Code", ""))
    codes = [code for code, known in AWS_CODES.items() if aws_code in known]
    if "Throttl" in aws_code:
        codes = ["throttled"]
    # Before a call, boto3 can request credentials, for example with sts:AssumeRole. If such a request
    # fails, the error names the request's operation, not the call's.
    if call is None or call.partition(":")[2] != error.operation_name:
        codes = ["credentials"]
    message = "{}: {}".format(aws_code, details.get("Message") or "no message")
    # If the clock is wrong, all services but S3 report that with the code for a wrong signature.
    if "Signature expired" in message or "Signature not yet current" in message:
        codes = ["clock"]
    return Failure(codes[0] if codes else "answer", message, call, aws_code)


class Account:
    """The calls to AWS, and the sources that were skipped."""

    def __init__(self, region):
        import boto3.session
        from botocore.exceptions import NoRegionError

        with translating(None):
            self.session = boto3.session.Session(region_name=region)
            self.region = self.session.region_name
            if not self.region:
                raise NoRegionError()
        self.clients = {}
        # The last call, to name it if its answer cannot be read.
        self.asked = None
        # Only one thread at a time may use a boto3 session, but several may use a client.
        self.lock = threading.Lock()
        self.skipped = {}
        self.closed = set()

    def client(self, service, region):
        from botocore.config import Config

        with self.lock:
            if (service, region) not in self.clients:
                config = Config(user_agent_extra="pcluster-shim", connect_timeout=10, read_timeout=30)
                client = self.session.client(service, region_name=region, config=config)
                self.clients[service, region] = client
            return self.clients[service, region]

    def ask(self, service, region, operation, **parameters):
        self.asked = name_call(service, operation)
        with translating(name_call(service, operation)):
            return getattr(self.client(service, region), operation)(**parameters)

    def pages(self, service, region, operation, page_size=None, **parameters):
        """The pages of an answer; there is only one if this botocore cannot paginate the operation."""
        self.asked = name_call(service, operation)
        with translating(self.asked):
            client = self.client(service, region)
            if not client.can_paginate(operation):
                yield getattr(client, operation)(**parameters)
                return
            config = {"PageSize": page_size} if page_size else {}
            for page in client.get_paginator(operation).paginate(PaginationConfig=config, **parameters):
                yield page

    def look_up(self, service, region, operation, absent=(), **parameters):
        """The answer; {} if AWS's code is one of absent, None if the source is skipped."""
        return self.guard(self.ask, {}, (service, region, operation), absent, parameters)

    def look_through(self, service, region, operation, key, keep=bool, **parameters):
        """The entries under this key in all pages, if keep() accepts them; None as in look_up()."""

        def read(*source, **parameters):
            return [entry for page in self.pages(*source, **parameters) for entry in page[key] if keep(entry)]

        return self.guard(read, [], (service, region, operation), (), parameters)

    def guard(self, read, nothing, source, absent, parameters):
        # S3 permissions are granted per bucket, so a denial counts only for its bucket.
        bucket = parameters.get("Bucket")
        if source + (bucket,) in self.closed:
            return None
        try:
            return read(*source, **parameters)
        except Failure as failure:
            if failure.aws_code in absent:
                return nothing
            self.skip(failure, source, bucket)
        except Exception as error:
            self.skip(read_other_error(error), source, bucket)
        return None

    def skip(self, failure, source, bucket=None, why=None):
        """Note a source that cannot be read. If why is given, it is the entry's reason, and the entry's
        bucket is None."""
        service, region, operation = source
        if failure.code in ("denied", "network"):
            self.closed.add(source + (bucket,))
        call = name_call(service, operation)
        name = "{} of {} in {}".format(call, bucket, region) if bucket else "{} in {}".format(call, region)
        entry = {"source": name, "why": why or failure.describe(), "permission": failure.permission()}
        entry["bucket"] = None if why else bucket
        self.skipped.setdefault(name, entry)


def name_call(service, operation):
    """The name as AWS has it: ("s3", "list_objects_v2") is s3:ListObjectsV2."""
    return "{}:{}".format(service, operation.title().replace("_", ""))


def check_answer(call, named, expected):
    """Raise a Failure if the answer does not name what was asked for. botocore reads an HTML page with status
    200, such as a proxy's, as an answer without entries."""
    if named != expected:
        raise Failure("answer", OTHER_FORM, call)


def run_parallel(function, items):
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, items))


def chunk(items, size=100):
    """The items, in lists of at most this size: EC2 accepts at most 200 values in a filter."""
    items = sorted(set(items))
    return [items[start : start + size] for start in range(0, len(items), size)]


def filter_by(name, values):
    return {"Name": name, "Values": list(values)}


def read_tags(resource):
    # Thousands of AMIs have tags with the same keys, and often the same values, so each text is kept in
    # memory only once.
    return {sys.intern(tag["Key"]): sys.intern(tag["Value"]) for tag in resource.get("Tags") or []}


def format_time(moment):
    return moment and moment.isoformat()


def page_images(aws, region, **parameters):
    """The pages of AMIs, with the disabled ones if this botocore has the parameter for that."""
    with translating("ec2:DescribeImages"):
        model = aws.client("ec2", region).meta.service_model.operation_model("DescribeImages")
    if "IncludeDisabled" in model.input_shape.members:
        parameters["IncludeDisabled"] = True
    return aws.pages("ec2", region, "describe_images", **parameters)


def find_image(aws, region, ami):
    parameters = {"Owners": ["self"], "Filters": [filter_by("image-id", [ami])]}
    images = [image for page in page_images(aws, region, **parameters) for image in page["Images"]]
    return images[0] if images else None


def find_snapshots(aws, region, ids):
    """The snapshots that exist; None if the source is skipped."""
    found = []
    for some in chunk(ids):
        parameters = {"OwnerIds": ["self"], "Filters": [filter_by("snapshot-id", some)]}
        snapshots = aws.look_through("ec2", region, "describe_snapshots", "Snapshots", **parameters)
        if snapshots is None:
            return None
        found += snapshots
    return found


def list_versions(aws, region, bucket, directory):
    """Page by page, the versions and delete markers in a directory."""
    parameters = {"Bucket": bucket, "Prefix": directory + "/"}
    for page in aws.pages("s3", region, "list_object_versions", **parameters):
        check_answer("s3:ListObjectVersions", page.get("Name"), bucket)
        entries = (page.get("Versions") or []) + (page.get("DeleteMarkers") or [])
        yield [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
