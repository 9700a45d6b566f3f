"""What builds leave apart from their AMIs: stacks, directories in S3, log groups."""

import hashlib
import json
import re

from client_account import Failure, check_answer, format_time, read_tags, run_parallel, translating

RECIPE = "image/parallelclusterimage-"


def list_builds(aws, request, images):
    """The image ids of the builds in each region, in lower case as in Image Builder's ARNs."""
    builds = {}
    for image in images + request["remains"]:
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
    # ValidationError is the code for a stack that does not exist or no longer exists.
    answer = aws.look_up("cloudformation", region, "describe_stacks", ["ValidationError"], StackName=name)
    return answer["Stacks"][0] if answer else None


def describe_stack(aws, region, summary):
    source, stack_id, absent = ("cloudformation", region), summary["StackId"], ["ValidationError"]
    stack = look_up_stack(aws, region, stack_id)
    image = {"StackName": stack_id, "LogicalResourceId": "ParallelClusterImage"}
    resource = aws.look_up(*source, "describe_stack_resource", absent, **image) or {}
    return {
        "region": region,
        "id": stack_id,
        "name": summary["StackName"],
        "status": summary["StackStatus"],
        "creationTime": format_time(summary["CreationTime"]),
        "deletionTime": format_time(summary.get("DeletionTime")),
        "tags": read_tags(stack) if stack else None,
        "imageArn": resource.get("StackResourceDetail", {}).get("PhysicalResourceId"),
    }


def find_directories(aws, region, slugs, account, named, stacks):
    """The buckets that could be listed, starting with those that the user named, and the directories of
    these images."""
    digest = hashlib.sha256((account + region).encode()).hexdigest()[:16]
    default = "parallelcluster-{}-v1-do-not-delete".format(digest)
    tagged = [(stack["tags"] or {}).get("parallelcluster:s3_bucket") for stack in stacks]
    tagged = sorted(set(filter(None, tagged)) - set(named) - {default})
    sources = {bucket: "option" for bucket in named}
    sources.update({bucket: "stack" for bucket in tagged})
    sources[default] = "default"
    listed, found = [], []
    for bucket in sources:
        try:
            places = list_directories(aws, region, slugs, bucket)
            found += [(region, bucket, sources[bucket], directory) for directory in places]
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
    """The directories of these image ids. pcluster composes the name of a directory from the first 46
    characters of the id, a hyphen and 16 random characters."""
    starts = {slug[:46] for slug in slugs}
    for version in list_prefixes(aws, region, bucket, "parallelcluster/"):
        for directory in list_prefixes(aws, region, bucket, version + "images/"):
            match = re.search("/([^/]+)-[a-z0-9]{16}/$", directory)
            if match and match.group(1) in starts:
                yield directory[:-1]


def list_prefixes(aws, region, bucket, prefix):
    parameters = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
    for page in aws.pages("s3", region, "list_objects_v2", **parameters):
        check_answer("s3:ListObjectsV2", page.get("Name"), bucket)
        for entry in page.get("CommonPrefixes") or []:
            yield entry["Prefix"]


MAX_TEXT = 1000 * 1000  # bytes


def describe_directory(aws, region, bucket, source, directory):
    file = directory + "/templates/aws-parallelcluster-imagebuilder.cfn.yaml"
    template, modified = read_object(aws, region, bucket, file)
    configuration, _ = read_object(aws, region, bucket, directory + "/configs/image-config.yaml")
    return {
        "bucket": bucket,
        "bucketFrom": source,
        "region": region,
        "version": directory.split("/")[1],
        "directory": directory,
        "template": template,
        "templateModified": modified,
        "configuration": configuration,
    }


def read_object(aws, region, bucket, key):
    """The text of an object and its time; no text if it is too long."""

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
    source = ("logs", region, "describe_log_groups", "logGroups")
    names = [group["logGroupName"] for group in aws.look_through(*source, logGroupNamePrefix=LOG_GROUP) or []]
    return [{"region": region, "name": name} for name in names if name[len(LOG_GROUP) :].lower() in slugs]


def read_stack(aws, request):
    stack = find_stack(aws, request["name"])
    if stack is None:
        return {"kind": "nostack", "region": aws.region}
    parameters = {"StackName": stack["StackId"], "TemplateStage": "Original"}
    body = aws.ask("cloudformation", aws.region, "get_template", **parameters)["TemplateBody"]
    return {
        "kind": "stack",
        "name": stack["StackName"],
        "region": aws.region,
        "status": stack["StackStatus"],
        # As text, because boto3 parses JSON of any depth, but the shim's JSON parser does not.
        "template": body if isinstance(body, str) else json.dumps(body),
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
