"""The inventory: AMIs, and for those without an image id everything that shows what they are."""

import re

from client_account import (
    Failure,
    chunk,
    filter_by,
    find_image,
    find_snapshots,
    page_images,
    read_other_error,
    read_tags,
    run_parallel,
)
from client_builds import find_directories, find_log_groups, find_stacks, list_builds

IMAGE_ID = "parallelcluster:image_id"


def take_inventory(aws, request):
    identity = aws.ask("sts", aws.region, "get_caller_identity")
    account = identity["Account"]
    regions = list_regions(aws) if request["allRegions"] else [aws.region]
    images = find_images(aws, request, regions)
    found = {
        "kind": "inventory",
        "account": account,
        "caller": identity["Arn"],
        "alias": find_alias(aws) if request["alias"] else None,
        "profile": find_profile(aws),
        "partition": identity["Arn"].split(":")[1],
        "region": aws.region,
        "regions": regions,
        "images": images,
    }
    for key in ("stacks", "directories", "buckets", "logGroups", "snapshots", "uses"):
        found[key] = []
    add_details(aws, request, account, found)
    found["remains"] = [find_remains(aws, deletion) for deletion in request["remains"]]
    return dict(found, skipped=list(aws.skipped.values()))


def find_alias(aws):
    """The name of the account, if the caller may ask for it."""
    try:
        return aws.ask("iam", aws.region, "list_account_aliases")["AccountAliases"][0]
    except Exception:
        return None


def find_profile(aws):
    """The profile that the credentials come from; None if variables or the machine provide them."""
    method = aws.session.get_credentials().method
    return None if method in ("env", "iam-role", "container-role") else aws.session.profile_name


def add_details(aws, request, account, found):
    examined = [
        image
        for image in found["images"]
        if IMAGE_ID not in image["tags"] or image["id"] in request["ids"]
    ]
    # Only the owner of an AMI may ask for its launch permissions.
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
            return [], read_other_error(error)
        if not images:
            # Keeping the clients of all regions would take more memory than the AMIs.
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
    # A copy that was tagged by hand can lack the tag Ec2ImageBuilderArn. pcluster's commands find such a
    # copy, because they look only for IMAGE_ID.
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


def describe_image(region, image):
    volumes = [mapping["Ebs"] for mapping in image.get("BlockDeviceMappings") or [] if "Ebs" in mapping]
    return {
        "region": region,
        "id": image["ImageId"],
        "name": image.get("Name") or "",
        "creationDate": image["CreationDate"],
        "state": image["State"],
        "description": image.get("Description"),
        "tags": read_tags(image),
        "public": image["Public"],
        "ownerId": image["OwnerId"],
        "deregistrationProtection": image.get("DeregistrationProtection"),
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
    # A proxy can answer with status 200 and an HTML page. Such an answer names no AMI.
    if answer is not None and answer.get("ImageId") == image["id"]:
        image["launchPermission"] = read_launch_permission(answer)


def read_launch_permission(answer):
    """Who may use an AMI; the ARN of an organizational unit is among those of organizations."""
    permissions = answer.get("LaunchPermissions") or []

    def pick(*keys):
        return [permission[key] for permission in permissions for key in keys if key in permission]

    organizations = pick("OrganizationArn", "OrganizationalUnitArn")
    return {"users": pick("UserId"), "groups": pick("Group"), "organizations": organizations}


def describe_snapshot(region, snapshot):
    return {
        "region": region,
        "id": snapshot["SnapshotId"],
        "volumeGiB": snapshot.get("VolumeSize"),
        "fullSizeBytes": snapshot.get("FullSnapshotSizeInBytes"),
    }


def find_uses(aws, region, images):
    uses = set(find_launch_templates(aws, region, images))
    uses.update(find_launch_configurations(aws, region, images))
    for some in chunk(images):
        uses.update(find_instances(aws, region, some))
    # DescribeImageReferences accepts at most 10 AMIs, according to the API reference.
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


def find_launch_configurations(aws, region, images):
    source = ("autoscaling", region, "describe_launch_configurations", "LaunchConfigurations")
    found = aws.look_through(*source, keep=lambda one: one["ImageId"] in images) if images else []
    # The client for Auto Scaling is not needed again, and its model takes memory.
    aws.clients.pop(("autoscaling", region), None)
    return [(one["ImageId"], one["LaunchConfigurationName"]) for one in found or []]


def find_references(aws, region, images):
    """The uses that EC2 itself knows of; not every botocore can ask for them."""
    operation = "describe_image_references"
    if not hasattr(aws.client("ec2", region), operation):
        failure = Failure("absent", "boto3 is too old")
        aws.skip(failure, ("ec2", region, operation), why=failure.message)
        return
    parameters = {"ImageIds": images, "IncludeAllResourceTypes": True}
    for reference in aws.look_through("ec2", region, operation, "ImageReferences", **parameters) or []:
        resource_id = re.search("/((?:i|lt)-[0-9a-f]+)$", reference["Arn"])
        yield reference["ImageId"], resource_id.group(1) if resource_id else reference["Arn"]


def find_remains(aws, deletion):
    ami, region, snapshots = deletion["ami"], deletion["region"], deletion["snapshots"]
    existing = find_snapshots(aws, region, snapshots)
    bucket, directory = deletion["bucket"], deletion["directory"]
    return {
        "ami": ami,
        "region": region,
        "image": image_remains(aws, region, ami),
        "snapshots": snapshots if existing is None else [one["SnapshotId"] for one in existing],
        "directory": directory_remains(aws, deletion["buildRegion"], bucket, directory),
        "logGroup": log_group_remains(aws, deletion["buildRegion"], deletion["logGroup"]),
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


def log_group_remains(aws, region, name):
    if not name:
        return False
    source = ("logs", region, "describe_log_groups", "logGroups")
    groups = aws.look_through(*source, logGroupNamePrefix=name)
    return groups is None or any(group["logGroupName"] == name for group in groups)
