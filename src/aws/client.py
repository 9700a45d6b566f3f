"""Asks AWS for what builds of `pcluster build-image` have left, and applies the steps of a repair or a
deletion.

Runs in an interpreter that has boto3, as a rule that of the real pcluster, and with the credentials that
boto3 finds. It classifies nothing and decides nothing. Python 3.6 to 3.13.

    python client.py SENTINEL REQUEST

REQUEST is a JSON file, {"sysPath": [...], "kind": ..., "region": ...} and more for each kind, with a
character for each byte of a path. The answer is one JSON object on stdout between two lines that hold the
sentinel, because warnings and sitecustomize write to the same streams. The kinds of a request are

    inventory    AMIs whose tag Ec2ImageBuilderArn fits "pattern" and those of "ids"; stacks, S3
                 directories, log groups, snapshots and uses of those among them that have no tag
                 parallelcluster:image_id or are in "ids"; and which of "remains" still exist
    stack        the stack of this "name" or id, with its tags and its template
    apply        "steps", of which those of one "group" end with the first that fails

The "kind" of an answer is

    inventory    and "skipped": sources that failed, of which the answer has less or nothing
    stack        or nostack
    applied      "results": "done" is false where an earlier step of the group had failed
    failed       "code": noboto3, credentials, region, network, denied, throttled or answer (AWS gave no
                 sensible one, or an error of no other code); "call" where there was one

What cannot be read of "remains" is said to exist still. Times are UTC to the millisecond, in the form of an
AMI's CreationDate.
"""
import concurrent.futures
import contextlib
import datetime
import hashlib
import json
import os
import re
import sys
import threading
import time


class Failure(Exception):
    """A call to AWS that failed; aws_code is AWS's own code of the error."""

    def __init__(self, code, message, call=None, aws_code=None):
        super().__init__(message)
        self.code, self.message, self.call, self.aws_code = code, message, call, aws_code

    def describe(self):
        return shorten("{}: {}".format(self.code, self.message), 200)

    def permission(self):
        return PERMISSIONS.get(self.call, self.call) if self.code == "denied" else None


# The IAM actions of calls that are named otherwise. A deletion which names a version, even the version
# "null", needs the second action: S3 user guide, "Policy actions for Amazon S3".
PERMISSIONS = {
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:DeleteObjects": "s3:DeleteObjectVersion",
}


def main():
    sentinel, request_file = sys.argv[1], sys.argv[2]
    # The answer is written to the original stdout, all other output to stderr.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    sys.path[:] = [os.fsdecode(entry.encode("latin-1")) for entry in request["sysPath"]]
    text = json.dumps(answer(request), ensure_ascii=False)
    # The JSON of a template can hold halves of surrogate pairs, which are no text.
    with os.fdopen(answer_fd, "w", encoding="utf-8", errors="replace") as out:
        out.writelines(["\n", sentinel, "\n", text, "\n", sentinel, "\n"])
    sys.stderr.flush()
    # Threads that still wait for AWS would be waited for.
    os._exit(0)


def answer(request):
    kinds = {"inventory": take_inventory, "stack": read_stack, "apply": apply_steps}
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        return describe_failure(Failure("noboto3", str(error)))
    try:
        return kinds[request["kind"]](Account(request["region"]), request)
    except Failure as failure:
        return describe_failure(failure)
    except Exception as error:
        return describe_failure(Failure("answer", "{}: {}".format(type(error).__name__, error)))


def describe_failure(failure):
    message = shorten(failure.message, 300)
    return {"kind": "failed", "code": failure.code, "message": message, "call": failure.call}


def shorten(text, limit):
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


# By name, because releases of botocore have different ones: an exception is what one of its classes says.
BOTOCORE_CODES = {
    "credentials": (
        "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
        "UnknownCredentialError", "SSOError", "TokenRetrievalError", "NoAuthTokenError", "LoginError",
        "InvalidConfigError", "InfiniteLoopConfigError", "RefreshWithMFAUnsupportedError",
        "MissingDependencyException",
    ),
    "region": ("NoRegionError", "InvalidRegionError", "UnknownRegionError"),
    "network": ("ConnectionError", "HTTPClientError", "IncompleteReadError"),
}  # fmt: skip
# S3, EC2 and the services with JSON have different ones for the same error.
AWS_CODES = {
    "credentials": (
        "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException",
        "AuthFailure", "SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidSignatureException",
        "InvalidToken", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed",
    ),
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
        # Its message has the whole answer, such as the page of a proxy.
        raise Failure("answer", "it is not in the form of this service", call)
    except BotoCoreError as error:
        names = {ancestor.__name__ for ancestor in type(error).__mro__}
        codes = [code for code, known in BOTOCORE_CODES.items() if names & set(known)]
        raise Failure(codes[0] if codes else "answer", str(error), call)


def read_client_error(error, call):
    details = error.response.get("Error", {})
    aws_code = str(details.get("Code", ""))
    codes = [code for code, known in AWS_CODES.items() if aws_code in known]
    if "Throttl" in aws_code:
        codes = ["throttled"]
    # What was asked for the credentials, such as sts:AssumeRole, runs inside of the call.
    if call is None or call.partition(":")[2] != error.operation_name:
        codes = ["credentials"]
    message = "{}: {}".format(aws_code, details.get("Message") or "no message")
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
        # A session of boto3 is for one thread, a client is not.
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
        with translating(name_call(service, operation)):
            return getattr(self.client(service, region), operation)(**parameters)

    def pages(self, service, region, operation, page_size=None, **parameters):
        """The pages of an answer; there is one where this botocore does not know of pages."""
        with translating(name_call(service, operation)):
            client = self.client(service, region)
            if not client.can_paginate(operation):
                yield getattr(client, operation)(**parameters)
                return
            config = {"PageSize": page_size} if page_size else {}
            for page in client.get_paginator(operation).paginate(PaginationConfig=config, **parameters):
                yield page

    def look_up(self, service, region, operation, absent=(), **parameters):
        """The answer: {} where AWS's code is one of absent, None where the source is skipped."""
        return self.guard(self.ask, {}, (service, region, operation), absent, parameters)

    def look_through(self, service, region, operation, key, keep=bool, **parameters):
        """The entries under this key of all pages, those that keep() takes; None as in look_up()."""

        def read(*source, **parameters):
            return [entry for page in self.pages(*source, **parameters) for entry in page[key] if keep(entry)]

        return self.guard(read, [], (service, region, operation), (), parameters)

    def guard(self, read, nothing, source, absent, parameters):
        # Permissions for S3 are given by bucket.
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
            self.skip(read_other_answer(error), source, bucket)
        return None

    def skip(self, failure, source, bucket=None, why=None):
        service, region, operation = source
        if failure.code in ("denied", "network"):
            self.closed.add(source + (bucket,))
        call = name_call(service, operation)
        name = "{} of {} in {}".format(call, bucket, region) if bucket else "{} in {}".format(call, region)
        entry = {"source": name, "why": why or failure.describe(), "permission": failure.permission()}
        self.skipped.setdefault(name, entry)


def read_other_answer(error):
    """The failure of reading an answer in another form than the service's, such as the page of a proxy."""
    return Failure("answer", "{}: {}".format(type(error).__name__, error))


def name_call(service, operation):
    """The name as AWS has it: ("s3", "list_objects_v2") is s3:ListObjectsV2."""
    return "{}:{}".format(service, operation.title().replace("_", ""))


def run_parallel(function, items):
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, items))


def chunk(items, size=100):
    """EC2 takes at most 200 values of a filter."""
    items = sorted(set(items))
    return [items[start : start + size] for start in range(0, len(items), size)]


def filter_by(name, values):
    return {"Name": name, "Values": list(values)}


def read_tags(resource):
    # Thousands of AMIs have the keys and many values in common.
    return {sys.intern(tag["Key"]): sys.intern(tag["Value"]) for tag in resource.get("Tags") or []}


def format_time(moment):
    if moment is None:
        return None
    utc = moment.astimezone(datetime.timezone.utc)
    return "{}.{:03}Z".format(utc.strftime("%Y-%m-%dT%H:%M:%S"), utc.microsecond // 1000)


IMAGE_ID = "parallelcluster:image_id"


def take_inventory(aws, request):
    identity = aws.ask("sts", aws.region, "get_caller_identity")
    account = identity["Account"]
    regions = list_regions(aws) if request["allRegions"] else [aws.region]
    images = find_images(aws, request, regions)
    found = {
        "kind": "inventory",
        "account": account,
        "partition": identity["Arn"].split(":")[1],
        "region": aws.region,
        "regions": regions,
        "images": images,
    }
    for key in ("stacks", "directories", "buckets", "logGroups", "snapshots", "uses", "remains"):
        found[key] = []
    if request["details"]:
        add_details(aws, request, account, found)
    return dict(found, skipped=list(aws.skipped.values()))


def add_details(aws, request, account, found):
    examined = [
        image
        for image in found["images"]
        if IMAGE_ID not in image["tags"] or image["id"] in request["ids"]
    ]
    # Only its owner may ask for this attribute.
    own = [image for image in examined if image["ownerId"] == account]
    run_parallel(lambda image: add_launch_permission(aws, image), own)
    for region, slugs in sorted(list_builds(aws, request, examined).items()):
        stacks = find_stacks(aws, region, slugs, request)
        found["stacks"] += stacks
        buckets, directories = find_directories(aws, region, slugs, account, request["buckets"], stacks)
        found["buckets"] += buckets
        found["directories"] += directories
        found["logGroups"] += find_log_groups(aws, region, slugs)
    for region in sorted({image["region"] for image in examined}):
        images = [image for image in examined if image["region"] == region]
        snapshots = [snapshot["id"] for image in images for snapshot in image["snapshots"]]
        existing = find_snapshots(aws, region, snapshots) or []
        found["snapshots"] += [describe_snapshot(region, snapshot) for snapshot in existing]
        found["uses"] += find_uses(aws, region, [image["id"] for image in images])
    found["remains"] = [find_remains(aws, remains) for remains in request["remains"]]


def list_regions(aws):
    answer = aws.look_up("ec2", aws.region, "describe_regions")
    if answer is None:
        return [aws.region]
    return sorted(region["RegionName"] for region in answer["Regions"])


def find_images(aws, request, regions):
    """The AMIs of all regions; a region that fails is skipped, unless all fail."""

    def read(region):
        try:
            images = read_images(aws, region, request)
        except Failure as failure:
            return [], failure
        except Exception as error:
            return [], read_other_answer(error)
        if not images:
            # All regions' clients together take more memory than the AMIs.
            aws.clients.pop(("ec2", region))
        return images, None

    answers = run_parallel(read, regions)
    failures = [failure for _, failure in answers if failure]
    if len(failures) == len(regions):
        raise failures[0]
    for region, (_, failure) in zip(regions, answers):
        if failure:
            aws.skip(failure, ("ec2", region, "describe_images"))
    return [image for images, _ in answers for image in images]


def read_images(aws, region, request):
    # The commands of pcluster look for its tag alone, which a copy that was tagged by hand can have.
    filters = [filter_by("tag:Ec2ImageBuilderArn", [request["pattern"]]), filter_by("tag-key", [IMAGE_ID])]
    # Pages of this size keep the memory for their XML small.
    asked = [{"Owners": ["self"], "Filters": [one], "page_size": 250} for one in filters]
    asked += [{"Filters": [filter_by("image-id", ids)]} for ids in chunk(request["ids"])]
    images = {}
    for parameters in asked:
        for page in page_images(aws, region, **parameters):
            for image in page["Images"]:
                images[image["ImageId"]] = describe_image(region, image)
    return list(images.values())


def page_images(aws, region, **parameters):
    """AMIs that are disabled are left out by default; not every botocore has this parameter."""
    with translating("ec2:DescribeImages"):
        model = aws.client("ec2", region).meta.service_model.operation_model("DescribeImages")
    if "IncludeDisabled" in model.input_shape.members:
        parameters["IncludeDisabled"] = True
    return aws.pages("ec2", region, "describe_images", **parameters)


def describe_image(region, image):
    volumes = [mapping["Ebs"] for mapping in image.get("BlockDeviceMappings") or [] if "Ebs" in mapping]
    return {
        "region": region,
        "id": image["ImageId"],
        "name": image.get("Name") or "",
        "creationDate": image.get("CreationDate") or "",
        "state": image.get("State") or "",
        "description": image.get("Description"),
        "tags": read_tags(image),
        "public": image.get("Public", False),
        "ownerId": image.get("OwnerId") or "",
        "deregistrationProtection": image.get("DeregistrationProtection"),
        "sourceImageId": image.get("SourceImageId"),
        "snapshots": [
            {"id": volume["SnapshotId"], "volumeGiB": volume.get("VolumeSize")}
            for volume in volumes
            if volume.get("SnapshotId")
        ],
        "launchPermission": None,
    }


def add_launch_permission(aws, image):
    parameters = {"ImageId": image["id"], "Attribute": "launchPermission"}
    answer = aws.look_up("ec2", image["region"], "describe_image_attribute", **parameters)
    if answer is not None:
        image["launchPermission"] = read_launch_permission(answer)


def read_launch_permission(answer):
    """Who may use an AMI; the ARN of an organizational unit is among those of organizations."""
    permissions = answer.get("LaunchPermissions") or []

    def pick(*keys):
        return [permission[key] for permission in permissions for key in keys if key in permission]

    organizations = pick("OrganizationArn", "OrganizationalUnitArn")
    return {"users": pick("UserId"), "groups": pick("Group"), "organizations": organizations}


RECIPE = "image/parallelclusterimage-"


def list_builds(aws, request, images):
    """By the region of the build, the image ids in lower case, as Image Builder's ARNs have them."""
    builds = {}
    for image in images:
        parts = image["tags"].get("Ec2ImageBuilderArn", "").split(":", 5)
        if len(parts) == 6 and parts[5].startswith(RECIPE):
            builds.setdefault(parts[3], set()).add(parts[5][len(RECIPE) :].split("/")[0])
    for image_id in request["imageIds"]:
        builds.setdefault(aws.region, set()).add(image_id.lower())
    return builds


def find_stacks(aws, region, slugs, request):
    def is_named(stack):
        return re.sub("[ _]", "-", stack["StackName"].lower()) in slugs

    try:
        pages = aws.pages("cloudformation", region, "list_stacks")
        found = [stack for page in pages for stack in page["StackSummaries"] if is_named(stack)]
    except Failure as failure:
        aws.skip(failure, ("cloudformation", region, "list_stacks"))
        if failure.code != "denied":
            return []
        names = slugs.union(request["imageIds"] if region == aws.region else [])
        found = filter(None, run_parallel(lambda name: look_up_stack(aws, region, name), sorted(names)))
    return run_parallel(lambda stack: describe_stack(aws, region, stack), found)


def look_up_stack(aws, region, name):
    # The code for a stack that does not exist, or not any more.
    answer = aws.look_up("cloudformation", region, "describe_stacks", ["ValidationError"], StackName=name)
    return answer["Stacks"][0] if answer else None


MAX_TEXT = 1000 * 1000  # characters, bytes


def describe_stack(aws, region, summary):
    source, stack_id, absent = ("cloudformation", region), summary["StackId"], ["ValidationError"]
    stack = look_up_stack(aws, region, stack_id)
    image = {"StackName": stack_id, "LogicalResourceId": "ParallelClusterImage"}
    resource = aws.look_up(*source, "describe_stack_resource", absent, **image) or {}
    original = {"StackName": stack_id, "TemplateStage": "Original"}
    template = aws.look_up(*source, "get_template", absent, **original) or {}
    # boto3 parses JSON; a template in YAML is a text.
    body = template.get("TemplateBody")
    length = len(body if isinstance(body, str) else json.dumps(body))
    return {
        "region": region,
        "id": stack_id,
        "name": summary["StackName"],
        "status": summary["StackStatus"],
        "creationTime": format_time(summary["CreationTime"]),
        "deletionTime": format_time(summary.get("DeletionTime")),
        "tags": read_tags(stack) if stack else None,
        "imageArn": resource.get("StackResourceDetail", {}).get("PhysicalResourceId"),
        "template": body if length <= MAX_TEXT else None,
    }


def find_directories(aws, region, slugs, account, named, stacks):
    """The buckets that could be listed, those that were named first, and the directories of these images in them."""
    digest = hashlib.sha256((account + region).encode()).hexdigest()[:16]
    default = "parallelcluster-{}-v1-do-not-delete".format(digest)
    tagged = [(stack["tags"] or {}).get("parallelcluster:s3_bucket") for stack in stacks]
    tagged = sorted(set(filter(None, tagged)) - set(named) - {default})
    listed, found = [], []
    for bucket in named + [default] + tagged:
        try:
            found += list(list_directories(aws, region, slugs, bucket))
            listed.append({"region": region, "name": bucket})
        except Failure as failure:
            skip_bucket(aws, failure, region, bucket, bucket in named or bucket != default)
    return listed, run_parallel(lambda place: describe_directory(aws, *place), found)


def skip_bucket(aws, failure, region, bucket, named):
    missing = failure.aws_code in ("NoSuchBucket", "404")
    if named or not missing:
        why = "there is no bucket {}".format(bucket) if missing else None
        aws.skip(failure, ("s3", region, "list_objects_v2"), bucket, why)


def list_directories(aws, region, slugs, bucket):
    """pcluster cuts an image id to 46 characters, ahead of a hyphen and 16 random ones."""
    starts = {slug[:46] for slug in slugs}
    for version in list_prefixes(aws, region, bucket, "parallelcluster/"):
        for directory in list_prefixes(aws, region, bucket, version + "images/"):
            match = re.search("/([^/]+)-[a-z0-9]{16}/$", directory)
            if match and match.group(1) in starts:
                yield region, bucket, directory[:-1]


def list_prefixes(aws, region, bucket, prefix):
    parameters = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
    for page in aws.pages("s3", region, "list_objects_v2", **parameters):
        for entry in page.get("CommonPrefixes") or []:
            yield entry["Prefix"]


def describe_directory(aws, region, bucket, directory):
    file = directory + "/templates/aws-parallelcluster-imagebuilder.cfn.yaml"
    template, modified = read_object(aws, region, bucket, file)
    configuration, _ = read_object(aws, region, bucket, directory + "/configs/image-config.yaml")
    return {
        "bucket": bucket,
        "bucketRegion": None,
        "region": region,
        "version": directory.split("/")[1],
        "directory": directory,
        "template": template,
        "templateModified": modified,
        "configuration": configuration,
    }


def read_object(aws, region, bucket, key):
    """The text of an object and its time; no text where it is too long."""

    def read(*source, **parameters):
        answer = aws.ask(*source, **parameters)
        with translating("s3:GetObject"):
            content = answer["Body"].read(MAX_TEXT + 1)
        text = content.decode("utf-8", "replace") if len(content) <= MAX_TEXT else None
        return text, format_time(answer["LastModified"])

    source, absent = ("s3", region, "get_object"), ["NoSuchKey", "404"]
    return aws.guard(read, None, source, absent, {"Bucket": bucket, "Key": key}) or (None, None)


LOG_GROUP = "/aws/imagebuilder/ParallelClusterImage-"


def find_log_groups(aws, region, slugs):
    names = list_log_groups(aws, region, LOG_GROUP) or []
    return [{"region": region, "name": name} for name in names if name[len(LOG_GROUP) :].lower() in slugs]


def list_log_groups(aws, region, prefix):
    source = ("logs", region, "describe_log_groups", "logGroups")
    groups = aws.look_through(*source, logGroupNamePrefix=prefix)
    return groups and [group["logGroupName"] for group in groups]


def find_snapshots(aws, region, ids):
    """Those that exist; None where the source is skipped."""
    found = []
    for some in chunk(ids):
        parameters = {"OwnerIds": ["self"], "Filters": [filter_by("snapshot-id", some)]}
        snapshots = aws.look_through("ec2", region, "describe_snapshots", "Snapshots", **parameters)
        if snapshots is None:
            return None
        found += snapshots
    return found


def describe_snapshot(region, snapshot):
    return {
        "region": region,
        "id": snapshot["SnapshotId"],
        "volumeGiB": snapshot.get("VolumeSize"),
        "fullSizeBytes": snapshot.get("FullSnapshotSizeInBytes"),
        "tier": snapshot.get("StorageTier"),
        "tags": read_tags(snapshot),
    }


def find_uses(aws, region, images):
    uses = set(find_launch_templates(aws, region, images))
    for some in chunk(images):
        uses.update(find_instances(aws, region, some))
    # The API reference allows 10 for DescribeImageReferences.
    for some in chunk(images, 10):
        uses.update(find_references(aws, region, some))
    return [{"region": region, "image": image, "by": by} for image, by in sorted(uses)]


def find_instances(aws, region, images):
    states = ["pending", "running", "stopping", "stopped", "shutting-down"]
    filters = [filter_by("image-id", images), filter_by("instance-state-name", states)]
    reservations = aws.look_through("ec2", region, "describe_instances", "Reservations", Filters=filters)
    instances = [instance for reservation in reservations or [] for instance in reservation["Instances"]]
    return [(instance["ImageId"], instance["InstanceId"]) for instance in instances]


def find_launch_templates(aws, region, images):
    def has_image(version):
        return version["LaunchTemplateData"].get("ImageId") in images

    source = ("ec2", region, "describe_launch_template_versions", "LaunchTemplateVersions")
    versions = aws.look_through(*source, keep=has_image, Versions=["$Latest", "$Default"])
    return [(one["LaunchTemplateData"]["ImageId"], one["LaunchTemplateId"]) for one in versions or []]


def find_references(aws, region, images):
    """What EC2 itself knows of; not every botocore can ask for it."""
    operation = "describe_image_references"
    if not hasattr(aws.client("ec2", region), operation):
        return
    parameters = {"ImageIds": images, "IncludeAllResourceTypes": True}
    for reference in aws.look_through("ec2", region, operation, "ImageReferences", **parameters) or []:
        resource_id = re.search("/((?:i|lt)-[0-9a-f]+)$", reference["Arn"])
        yield reference["ImageId"], resource_id.group(1) if resource_id else reference["Arn"]


def find_remains(aws, remains):
    region, build_region, group = remains["region"], remains["buildRegion"], remains["logGroup"]
    snapshots = find_snapshots(aws, region, remains["snapshots"])
    groups = list_log_groups(aws, build_region, group) if group else []
    return {
        "ami": remains["ami"],
        "region": region,
        "image": image_remains(aws, region, remains["ami"]),
        "snapshots": remains["snapshots"] if snapshots is None else [one["SnapshotId"] for one in snapshots],
        "directory": directory_remains(aws, build_region, remains["bucket"], remains["directory"]),
        "logGroup": groups is None or group in groups,
    }


def image_remains(aws, region, ami):
    try:
        return find_image(aws, region, ami) is not None
    except Failure as failure:
        aws.skip(failure, ("ec2", region, "describe_images"))
        return True


def directory_remains(aws, region, bucket, directory):
    if not bucket or not directory:
        return False
    parameters = {"Bucket": bucket, "Prefix": directory + "/", "MaxKeys": 1}
    answer = aws.look_up("s3", region, "list_object_versions", ["NoSuchBucket"], **parameters)
    return answer is None or bool(answer.get("Versions") or answer.get("DeleteMarkers"))


def find_image(aws, region, ami):
    parameters = {"Owners": ["self"], "Filters": [filter_by("image-id", [ami])]}
    images = [image for page in page_images(aws, region, **parameters) for image in page["Images"]]
    return images[0] if images else None


def list_versions(aws, region, bucket, directory):
    """Page by page, the versions and delete markers in a directory."""
    parameters = {"Bucket": bucket, "Prefix": directory + "/"}
    for page in aws.pages("s3", region, "list_object_versions", **parameters):
        entries = (page.get("Versions") or []) + (page.get("DeleteMarkers") or [])
        yield [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]


def read_stack(aws, request):
    stack = find_stack(aws, request["name"])
    if stack is None:
        return {"kind": "nostack", "region": aws.region}
    parameters = {"StackName": stack["StackId"], "TemplateStage": "Original"}
    template = aws.ask("cloudformation", aws.region, "get_template", **parameters)
    return {
        "kind": "stack",
        "id": stack["StackId"],
        "name": stack["StackName"],
        "region": aws.region,
        "status": stack["StackStatus"],
        "creationTime": format_time(stack["CreationTime"]),
        "tags": read_tags(stack),
        "template": template["TemplateBody"],
    }


def find_stack(aws, name):
    """The live stack of this name, the stack of this id, or the newest deleted one of this name."""
    try:
        return aws.ask("cloudformation", aws.region, "describe_stacks", StackName=name)["Stacks"][0]
    except Failure as failure:
        if failure.aws_code != "ValidationError":
            raise
    pages = aws.pages("cloudformation", aws.region, "list_stacks", StackStatusFilter=["DELETE_COMPLETE"])
    deleted = [stack for page in pages for stack in page["StackSummaries"] if stack["StackName"] == name]
    if not deleted:
        return None
    newest = max(deleted, key=lambda stack: stack["CreationTime"])
    return aws.ask("cloudformation", aws.region, "describe_stacks", StackName=newest["StackId"])["Stacks"][0]


def apply_steps(aws, request):
    failed, results = set(), []
    for step in request["steps"]:
        result = {"id": step["id"], "ok": False, "done": False, "message": None, "permission": None}
        if step["group"] not in failed:
            result.update(apply_step(aws, step), done=True)
        if not result["ok"]:
            failed.add(step["group"])
        results.append(result)
    return {"kind": "applied", "results": results}


def apply_step(aws, step):
    actions = {
        "tag": tag_image,
        "share": share_image,
        "deregister": deregister_image,
        "snapshot": delete_snapshot,
        "directory": delete_directory,
        "logGroup": delete_log_group,
    }
    try:
        message = actions[step["action"]](aws, step["region"] or aws.region, step)
    except Failure as failure:
        return {"ok": False, "message": failure.describe(), "permission": failure.permission()}
    except Exception as error:
        return {"ok": False, "message": read_other_answer(error).describe()}
    return {"ok": message is None, "message": message}


# Each returns None where a look afterwards found what the step was for, and a message otherwise.


def tag_image(aws, region, step):
    tags = [{"Key": key, "Value": value} for key, value in step["tags"].items()]
    aws.ask("ec2", region, "create_tags", Resources=[step["ami"]], Tags=tags)

    def is_tagged():
        image = find_image(aws, region, step["ami"])
        return image is not None and set(step["tags"].items()) <= set(read_tags(image).items())

    return None if wait_until(is_tagged, 10) else "the AMI does not have all of these tags"


def share_image(aws, region, step):
    ami = {"ImageId": step["ami"]}
    added = [{"UserId": user} for user in step["users"]]
    added += [{"Group": group} for group in step["groups"]]
    added += [{"OrganizationArn": arn} for arn in step["organizations"]]
    added += [{"OrganizationalUnitArn": arn} for arn in step["organizationalUnits"]]
    aws.ask("ec2", region, "modify_image_attribute", LaunchPermission={"Add": added}, **ami)

    def is_shared():
        answer = aws.ask("ec2", region, "describe_image_attribute", Attribute="launchPermission", **ami)
        permissions = answer.get("LaunchPermissions") or []
        return all(permission in permissions for permission in added)

    return None if wait_until(is_shared, 10) else "the AMI is not shared with all of these"


def deregister_image(aws, region, step):
    absent = ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable")
    if not delete(aws, "ec2", region, "deregister_image", absent, ImageId=step["ami"]):
        return None

    def is_gone():
        image = find_image(aws, region, step["ami"])
        return image is None or image.get("State") != "available"

    return None if wait_until(is_gone, 60) else "the AMI is still there"


def delete_snapshot(aws, region, step):
    snapshot = {"SnapshotId": step["snapshot"]}
    # One that another AMI names stays with it.
    absent = ("InvalidSnapshot.NotFound", "InvalidSnapshot.InUse")
    if not delete(aws, "ec2", region, "delete_snapshot", absent, **snapshot):
        return None
    parameters = {"OwnerIds": ["self"], "Filters": [filter_by("snapshot-id", [step["snapshot"]])]}

    def is_gone():
        pages = aws.pages("ec2", region, "describe_snapshots", **parameters)
        return not any(page["Snapshots"] for page in pages)

    return None if wait_until(is_gone, 10) else "the snapshot is still there"


def delete(aws, service, region, operation, absent, **parameters):
    """Whether there was anything to delete."""
    try:
        aws.ask(service, region, operation, **parameters)
    except Failure as failure:
        if failure.aws_code not in absent:
            raise
        return False
    return True


def wait_until(check, seconds):
    """EC2 shows a change with a delay: EC2 developer guide, "Eventual consistency"."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(2)
    return True


def delete_directory(aws, region, step):
    bucket, directory = step["bucket"], step["directory"]
    if not re.match(r"parallelcluster/[0-9][^/]*/images/[^/]+-[a-z0-9]{16}\Z", directory):
        return "this is no directory of an image"
    for versions in list_versions(aws, region, bucket, directory):
        if versions:
            objects = {"Objects": versions, "Quiet": True}
            answer = aws.ask("s3", region, "delete_objects", Bucket=bucket, Delete=objects)
            raise_first_error(answer.get("Errors") or [])
    left = any(versions for versions in list_versions(aws, region, bucket, directory))
    return "objects are left in the directory" if left else None


def raise_first_error(errors):
    for error in errors:
        aws_code = error.get("Code") or ""
        message = "{}: {}: {}".format(aws_code, error.get("Key"), error.get("Message"))
        code = "denied" if aws_code in AWS_CODES["denied"] else "answer"
        raise Failure(code, message, "s3:DeleteObjects", aws_code)


def delete_log_group(aws, region, step):
    if not step["name"].startswith(LOG_GROUP):
        return "this is no log group of an image"
    delete(aws, "logs", region, "delete_log_group", ("ResourceNotFoundException",), logGroupName=step["name"])
    return None


main()
