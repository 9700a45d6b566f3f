"""The steps of a repair or a deletion. Each step, except the deletion of a log group, ends by asking AWS
whether the step is done."""

import re
import time

from client_account import (
    AWS_CODES,
    Failure,
    filter_by,
    find_image,
    list_versions,
    page_images,
    read_other_error,
    read_tags,
    run_parallel,
)
from client_builds import LOG_GROUP
from client_inventory import IMAGE_ID, find_uses

BUCKET = "parallelcluster:s3_bucket"
KEEP = "pcluster-preflight:keep"
# The codes with which EC2 refuses a tag, for a reason of its own or because of a tag policy.
REFUSED_TAG = ("InvalidParameterValue", "InvalidParameter", "InvalidTagKey.Malformed", "TagPolicyViolation")
# Without the answers to these calls we cannot know whether an AMI is in use.
USES = ("ec2:DescribeInstances", "ec2:DescribeLaunchTemplateVersions", "autoscaling:DescribeLaunchConfigurations")


class Kept(Exception):
    """Raised if a step is done, but has left something behind or left out a tag."""


def apply_steps(aws, request):
    results = []
    for step in request["steps"]:
        message, permission, is_done = apply_step(aws, step)
        results.append({"ok": is_done, "message": message, "permission": permission})
        if not is_done:
            break
    return {"kind": "applied", "results": results}


def apply_step(aws, step):
    """The message about the step, the permission that it lacks, and whether it is done."""
    actions = {
        "tag": tag_image,
        "deregister": deregister_image,
        "snapshot": delete_snapshot,
        "directory": delete_directory,
        "logGroup": delete_log_group,
    }
    try:
        message = actions[step["action"]](aws, step["region"], step)
    except Kept as kept:
        return str(kept), None, True
    except Failure as failure:
        return failure.describe(), failure.permission(), False
    except Exception as error:
        return read_other_error(error).describe(), None, False
    return message, None, message is None


def tag_image(aws, region, step):
    refused = write_tags(aws, region, step["ami"], step["tags"])
    written = {(key, value) for key, value in step["tags"].items() if key not in refused}

    def is_tagged():
        image = find_image(aws, region, step["ami"])
        return image is not None and written <= set(read_tags(image).items())

    if not wait_until(is_tagged, 10):
        return "the AMI does not have all of these tags"
    if refused:
        left_out = ["{} ({})".format(key, why) for key, why in sorted(refused.items())]
        raise Kept("EC2 refuses these tags, and they were left out: {}".format(", ".join(left_out)))
    return None


def write_tags(aws, region, ami, tags):
    """Write all tags in one call. If EC2 refuses a tag, write pcluster's tags in one call and the user's tags one
    by one. The result has the tags that EC2 refuses, with the reasons."""
    why = try_tags(aws, region, ami, tags)
    if why is None:
        return {}
    own = {key: value for key, value in tags.items() if key.startswith("parallelcluster:")}
    why = try_tags(aws, region, ami, own) if len(own) < len(tags) else why
    if why is not None:
        raise Failure("answer", why, "ec2:CreateTags")
    others = [key for key in sorted(tags) if key not in own]
    reasons = [(key, try_tags(aws, region, ami, {key: tags[key]})) for key in others]
    return {key: why for key, why in reasons if why is not None}


def try_tags(aws, region, ami, tags):
    """Why EC2 refuses one of the tags; None if they were written."""
    tags = [{"Key": key, "Value": value} for key, value in tags.items()]
    try:
        aws.ask("ec2", region, "create_tags", Resources=[ami], Tags=tags)
    except Failure as failure:
        if failure.aws_code not in REFUSED_TAG:
            raise
        return failure.message
    return None


def deregister_image(aws, region, step):
    # The confirmation prompt may have waited for hours, so the AMI is checked again.
    why = find_hindrance(aws, region, step["ami"])
    if why:
        return why
    absent = ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable")
    if not delete(aws, "ec2", region, "deregister_image", absent, ImageId=step["ami"]):
        return None

    def is_gone():
        image = find_image(aws, region, step["ami"])
        return image is None or image.get("State") != "available"

    return None if wait_until(is_gone, 60) else "the AMI is still there"


def find_hindrance(aws, region, ami):
    """What prevents a deletion that was possible when it was planned."""
    image = find_image(aws, region, ami)
    if image is None:
        return None
    tags = read_tags(image)
    if IMAGE_ID in tags:
        return "it has been repaired in the meantime"
    if KEEP in tags:
        return "it has been tagged {} in the meantime".format(KEEP)
    attribute = {"ImageId": ami, "Attribute": "launchPermission"}
    if aws.ask("ec2", region, "describe_image_attribute", **attribute).get("LaunchPermissions"):
        return "it has been shared in the meantime"
    uses = find_uses(aws, region, [ami])
    if uses:
        return "{} uses it now".format(uses[0]["by"])
    failed = [source for source in aws.skipped if source.startswith(USES)]
    return "cannot find out whether it is in use: {}".format(aws.skipped[failed[0]]["why"]) if failed else None


def delete_snapshot(aws, region, step):
    snapshot = {"SnapshotId": step["snapshot"]}
    try:
        if not delete(aws, "ec2", region, "delete_snapshot", ("InvalidSnapshot.NotFound",), **snapshot):
            return None
    except Failure as failure:
        if failure.aws_code != "InvalidSnapshot.InUse":
            raise
        raise Kept("another AMI needs it")
    parameters = {"OwnerIds": ["self"], "Filters": [filter_by("snapshot-id", [step["snapshot"]])]}

    def is_gone():
        pages = aws.pages("ec2", region, "describe_snapshots", **parameters)
        return not any(page["Snapshots"] for page in pages)

    return None if wait_until(is_gone, 10) else "the snapshot is still there"


def delete(aws, service, region, operation, absent, **parameters):
    """Delete something; return whether there was anything to delete."""
    try:
        aws.ask(service, region, operation, **parameters)
    except Failure as failure:
        if failure.aws_code not in absent:
            raise
        return False
    return True


def wait_until(check, seconds):
    """Whether the check succeeds within this time. The check is repeated, because EC2 shows a change with a
    delay: EC2 developer guide, "Eventual consistency"."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(2)
    return True


def delete_directory(aws, region, step):
    bucket, directory = step["bucket"], step["directory"]
    if not re.match(r"parallelcluster/[0-9][^/]*/images/[^/]+-[a-z0-9]{16}\Z", directory):
        return "this is not the directory of an image"
    why = find_owner(aws, bucket, directory)
    if why:
        raise Kept(why)
    # Each listing starts from the beginning. The next page of a listing would start after the last version of
    # the page before. That version has been removed by then, so the next page could be incomplete.
    versions, before = find_versions(aws, region, bucket, directory), None
    while versions and versions != before:
        objects = {"Objects": versions, "Quiet": True}
        answer = aws.ask("s3", region, "delete_objects", Bucket=bucket, Delete=objects)
        raise_first_error(answer.get("Errors") or [])
        versions, before = find_versions(aws, region, bucket, directory), versions
    return "objects remain in the directory" if versions else None


def find_versions(aws, region, bucket, directory):
    """Up to a thousand versions and delete markers; None if there are none."""
    pages = list_versions(aws, region, bucket, directory)
    return next((versions for versions in pages if versions), None)


def find_owner(aws, bucket, directory):
    """Why the directory must be kept: an AMI in some region still uses it, or may use it. A copy of an AMI
    has the directory of the original."""
    answer = aws.ask("ec2", aws.region, "describe_regions")
    regions = [region["RegionName"] for region in answer["Regions"]]
    filters = [filter_by("tag:parallelcluster:s3_image_dir", [directory])]
    parameters = {"Owners": ["self"], "Filters": filters}

    def find(region):
        try:
            images = [image for page in page_images(aws, region, **parameters) for image in page["Images"]]
        except Failure as failure:
            # If AWS denies the call, for example by the organization's policy for a region, AWS would deny
            # the call again, so the directory is kept. After any other failure, the step fails, and the user
            # can run the command again.
            if failure.code != "denied":
                raise
            return "cannot find out whether an AMI in {} uses this directory: {}".format(region, failure.describe())
        owners = [image["ImageId"] for image in images if read_tags(image).get(BUCKET) == bucket]
        return "{} in {} uses this directory".format(owners[0], region) if owners else None

    reasons = [why for why in run_parallel(find, regions) if why]
    return reasons[0] if reasons else None


def raise_first_error(errors):
    for error in errors:
        aws_code = error.get("Code") or ""
        message = "{}: {}: {}".format(aws_code, error.get("Key"), error.get("Message"))
        code = "denied" if aws_code in AWS_CODES["denied"] else "answer"
        raise Failure(code, message, "s3:DeleteObjects", aws_code)


def delete_log_group(aws, region, step):
    if not step["name"].startswith(LOG_GROUP):
        return "this is not the log group of an image"
    delete(aws, "logs", region, "delete_log_group", ("ResourceNotFoundException",), logGroupName=step["name"])
    return None
