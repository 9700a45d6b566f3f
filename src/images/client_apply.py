"""The steps of a repair or a deletion. Each ends with a look at what it was for."""

import re
import time

from client_account import (
    AWS_CODES,
    Failure,
    filter_by,
    find_image,
    list_versions,
    page_images,
    read_other_answer,
    read_tags,
    run_parallel,
)
from client_builds import LOG_GROUP
from client_inventory import IMAGE_ID, find_uses

BUCKET = "parallelcluster:s3_bucket"


class Kept(Exception):
    """A step has nothing to delete, because something else needs it."""


def apply_steps(aws, request):
    results = []
    for step in request["steps"]:
        message, permission, is_done = apply_step(aws, step)
        results.append({"ok": is_done, "message": message, "permission": permission})
        if not is_done:
            break
    return {"kind": "applied", "results": results}


def apply_step(aws, step):
    """What is to be said of it, the permission that it lacks, and whether it is done."""
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
        return read_other_answer(error).describe(), None, False
    return message, None, message is None


def tag_image(aws, region, step):
    tags = [{"Key": key, "Value": value} for key, value in step["tags"].items()]
    aws.ask("ec2", region, "create_tags", Resources=[step["ami"]], Tags=tags)

    def is_tagged():
        image = find_image(aws, region, step["ami"])
        return image is not None and set(step["tags"].items()) <= set(read_tags(image).items())

    return None if wait_until(is_tagged, 10) else "the AMI does not have all of these tags"


def deregister_image(aws, region, step):
    # A prompt may have waited for hours.
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
    """What has come in the way of a deletion since it was planned."""
    image = find_image(aws, region, ami)
    if image is None:
        return None
    if IMAGE_ID in read_tags(image):
        return "it has been given back to pcluster in the meantime"
    attribute = {"ImageId": ami, "Attribute": "launchPermission"}
    if aws.ask("ec2", region, "describe_image_attribute", **attribute).get("LaunchPermissions"):
        return "it has been shared in the meantime"
    uses = find_uses(aws, region, [ami])
    if uses:
        return "it is in use by {} by now".format(uses[0]["by"])
    needed = ("ec2:DescribeInstances", "ec2:DescribeLaunchTemplateVersions")
    failed = [source for source in aws.skipped if source.startswith(needed)]
    return "whether it is in use is not known: {}".format(aws.skipped[failed[0]]["why"]) if failed else None


def delete_snapshot(aws, region, step):
    snapshot = {"SnapshotId": step["snapshot"]}
    try:
        if not delete(aws, "ec2", region, "delete_snapshot", ("InvalidSnapshot.NotFound",), **snapshot):
            return None
    except Failure as failure:
        if failure.aws_code != "InvalidSnapshot.InUse":
            raise
        raise Kept("snapshot {} stays: another AMI needs it".format(step["snapshot"]))
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
    why = find_owner(aws, bucket, directory)
    if why:
        return why
    for versions in list_versions(aws, region, bucket, directory):
        if versions:
            objects = {"Objects": versions, "Quiet": True}
            answer = aws.ask("s3", region, "delete_objects", Bucket=bucket, Delete=objects)
            raise_first_error(answer.get("Errors") or [])
    left = any(versions for versions in list_versions(aws, region, bucket, directory))
    return "objects are left in the directory" if left else None


def find_owner(aws, bucket, directory):
    """An AMI that names this directory, in any region: copies share it with the original."""
    answer = aws.ask("ec2", aws.region, "describe_regions")
    regions = [region["RegionName"] for region in answer["Regions"]]
    filters = [filter_by("tag:parallelcluster:s3_image_dir", [directory])]
    parameters = {"Owners": ["self"], "Filters": filters}

    def find(region):
        images = [image for page in page_images(aws, region, **parameters) for image in page["Images"]]
        return [(image["ImageId"], region) for image in images if read_tags(image).get(BUCKET) == bucket]

    for owners in run_parallel(find, regions):
        for ami, region in owners:
            return "{} in {} has this directory".format(ami, region)
    return None


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
