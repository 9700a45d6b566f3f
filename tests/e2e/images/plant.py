#!/usr/bin/env python3
"""Plants what broken builds of `pcluster build-image` leave in an account.

    PY plant.py ENDPOINT [--many N]

PY is the interpreter of the moto environment, ENDPOINT is a running, empty moto
server. The script creates everything that is in that server afterwards: AMIs
with their tags and snapshots, stacks (live, deleted, being created), the
artifacts in S3, log groups, and what uses an AMI. It prints one JSON object: a
label for each AMI, and what was planted for it. "expected" holds the seven tags
that the build should have given to the AMI.

The "note" of a label says what moto cannot show about it.
"""

import argparse
import concurrent.futures
import datetime
import hashlib
import io
import json
import os
import time
import zipfile

import boto3
import yaml
from botocore.config import Config

ACCOUNT = "123456789012"
REGION = "us-east-1"
COPY_REGION = "eu-west-1"
CUSTOM_BUCKET = "another-teams-bucket"
SHARED_WITH = "111122223333"
PREFIX = "parallelcluster:"
# S3 keeps times in whole seconds, so things whose order matters are made more than a second apart.
PAUSE = 1.1
LONG_ID = "MyCamelCase-Image-With-A-Very-Long-Name-That-Is-Cut-Somewhere"
CONFIGURED_TAGS = [{"Key": "team", "Value": "hpc"}, {"Key": "Cost Center", "Value": "0042"}]
LAUNCH_PERMISSION = {"UserIds": ["444455556666"]}

# The builds in the order of planting. For each: the label, the image id, the release, and what is left of
# the build.
BUILDS = [
    {"label": "orphan-deleted-stack", "id": "gone-stack", "s3": True, "stack": "deleted",
     "configured": True, "log": True},
    {"label": "orphan-live-stack", "id": "Live-Stack", "release": "3.6.1", "s3": True,
     "stack": "live", "log": True},
    {"label": "orphan-s3-only", "id": LONG_ID, "release": "3.16.1", "s3": True, "log": True},
    {"label": "orphan-nothing", "id": "bare", "marks": ("os",)},
    {"label": "orphan-custom-bucket", "id": "elsewhere", "s3": True, "bucket": CUSTOM_BUCKET, "log": True,
     "note": "no stack, not even a deleted one: nothing but the bucket itself names the bucket"},
    {"label": "healthy", "id": "sound", "s3": True, "log": True, "healthy": True},
    {"label": "failed-build", "id": "failed", "s3": True, "log": True, "built": False},
    {"label": "running-build", "id": "running", "s3": True, "stack": "creating", "log": True, "built": False,
     "note": "the AMI is available, moto has no pending ones; the stack stays CREATE_IN_PROGRESS"
             " because its template has one resource more, HeldBack"},
    {"label": "in-use-instance", "id": "busy-instance", "s3": True, "log": True},
    {"label": "in-use-template", "id": "busy-template", "s3": True, "log": True},
    {"label": "shared", "id": "shared", "s3": True, "log": True},
    {"label": "twin-1", "id": "twin", "s3": True, "log": True, "number": 1},
    {"label": "unknown-release", "id": "newer", "release": "9.9.9", "s3": True, "log": True},
    {"label": "neighbour-orphan", "id": "pre", "s3": True, "log": True},
    {"label": "neighbour", "id": "pre-2", "s3": True, "log": True, "healthy": True},
]
SECOND_TWIN = {"label": "twin-2", "id": "twin", "s3": True, "log": True, "number": 2}


def builder_arn(slug, version, number=1, account=ACCOUNT):
    return f"arn:aws:imagebuilder:{REGION}:{account}:image/parallelclusterimage-{slug}/{version}/{number}"


# AMIs that `preflight images` must not list: the tags of each AMI, by its label.
FOREIGN = {
    "foreign-hardened": {
        "CreatedBy": "EC2 Image Builder",
        "Ec2ImageBuilderArn": builder_arn("hardened", "1.0.0", 3),
    },
    "foreign-other-account": {
        "CreatedBy": "EC2 Image Builder",
        "Ec2ImageBuilderArn": builder_arn("theirs", "3.1.3", account="999999999999"),
        PREFIX + "build_status": "available",
        PREFIX + "os": "alinux2",
    },
    "foreign-release": {
        "CreatedBy": "EC2 Image Builder",
        "Ec2ImageBuilderArn": builder_arn("future", "9.9.9"),
        PREFIX + "build_status": "available",
    },
    "foreign-nothing": {"Name": "a web server"},
}


class Account:
    """The clients of the server, one for each service and region."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.session = boto3.session.Session(
            aws_access_key_id="plant", aws_secret_access_key="plant", region_name=REGION
        )
        self.clients = {}

    def client(self, service, region=REGION):
        key = (service, region)
        if key not in self.clients:
            config = Config(proxies={}, user_agent_extra="plant", max_pool_connections=4,
                            retries={"max_attempts": 0})
            self.clients[key] = self.session.client(
                service, region_name=region, endpoint_url=self.endpoint, config=config
            )
        return self.clients[key]


def default_bucket():
    return f"parallelcluster-{hashlib.sha256((ACCOUNT + REGION).encode()).hexdigest()[:16]}-v1-do-not-delete"


def as_list(tags):
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def now_as_name():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.%fZ")


# --- the build ------------------------------------------------------------------


def complete(build):
    """Returns the build with defaults, and with the names and tags that depend on its label, id and release."""
    build = {"release": "3.1.3", "bucket": default_bucket(), "number": 1, "stack": None, "built": True,
             "healthy": False, "s3": False, "log": False, **build}
    # Sixteen characters that are the same in each run, so that the logs of different runs can be compared.
    suffix = hashlib.sha256(build["label"].encode()).hexdigest()[:16]
    build["directory"] = f"parallelcluster/{build['release']}/images/{build['id'].lower()[:46]}-{suffix}"
    build["logGroup"] = f"/aws/imagebuilder/ParallelClusterImage-{build['id']}"
    build["expected"] = {
        PREFIX + "image_name": build["id"],
        PREFIX + "version": build["release"],
        PREFIX + "image_id": build["id"],
        PREFIX + "s3_bucket": build["bucket"],
        PREFIX + "s3_image_dir": build["directory"],
        PREFIX + "build_log": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{build['logGroup']}",
        PREFIX + "build_config": f"s3://{build['bucket']}/{build['directory']}/configs/image-config.yaml",
    }
    return build


def template(build, parent):
    """The template of a build: only the parts that name the image, and the parts that these need."""
    own = {PREFIX + "image_id": build["id"], PREFIX + "image_name": build["id"]}
    unique = {"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]}
    name = {"Fn::Join": ["", ["ParallelClusterImage-", unique]]}
    role, after = "DeleteStackFunctionExecutionRole", ["DeleteStackFunctionExecutionRole"]
    trust = {"Version": "2012-10-17", "Statement": [
        {"Action": "sts:AssumeRole", "Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}}]}
    resources = {
        "InfrastructureConfiguration": ("AWS::ImageBuilder::InfrastructureConfiguration", {
            "InstanceProfileName": "ParallelClusterImage", "Name": name, "InstanceTypes": ["c5.xlarge"],
            "Tags": own, "TerminateInstanceOnFailure": True}, after),
        "ImageRecipe": ("AWS::ImageBuilder::ImageRecipe", {
            "Components": [], "Name": f"ParallelClusterImage-{build['id']}", "ParentImage": parent,
            "Version": build["release"], "Tags": own}, after),
        # In a broken build, AmiDistributionConfiguration is empty. In a healthy build, the AMI gets its tags
        # from there.
        "DistributionConfiguration": ("AWS::ImageBuilder::DistributionConfiguration", {
            "Distributions": [{"AmiDistributionConfiguration": distribution(build), "Region": {"Ref": "AWS::Region"}}],
            "Name": name, "Tags": own}, after),
        "ParallelClusterImage": ("AWS::ImageBuilder::Image", {
            "InfrastructureConfigurationArn": {"Ref": "InfrastructureConfiguration"},
            "DistributionConfigurationArn": {"Ref": "DistributionConfiguration"},
            "EnhancedImageMetadataEnabled": False, "ImageRecipeArn": {"Ref": "ImageRecipe"}, "Tags": own}, after),
        role: ("AWS::IAM::Role", {
            "AssumeRolePolicyDocument": trust, "Path": "/parallelcluster/", "RoleName": name,
            "Tags": as_list(own)}, []),
        "DeleteStackFunction": ("AWS::Lambda::Function", {
            "Code": {"S3Bucket": build["bucket"], "S3Key": f"{build['directory']}/custom_resources/artifacts.zip"},
            "Role": {"Fn::GetAtt": [role, "Arn"]}, "FunctionName": name, "Handler": "delete_image_stack.handler",
            "Environment": {"Variables": {"IMAGE_STACK_ARN": {"Ref": "AWS::StackId"}}},
            "MemorySize": 128, "Runtime": "python3.12", "Tags": as_list(own), "Timeout": 900}, after),
    }
    if build["stack"] == "creating":
        # moto waits until DeleteStackFunction reports that HeldBack has been created. The function never
        # reports anything, so the stack stays CREATE_IN_PROGRESS.
        token = {"Fn::GetAtt": ["DeleteStackFunction", "Arn"]}
        resources["HeldBack"] = ("Custom::HeldBack", {"ServiceToken": token}, ["DeleteStackFunction"])
    return yaml.dump({"Resources": {
        key: {"Type": kind, "Properties": values, **({"DependsOn": needs} if needs else {})}
        for key, (kind, values, needs) in resources.items()}})


def distribution(build):
    if not build["healthy"]:
        return {}
    return {"Name": build["id"] + " {{ imagebuilder:buildDate }}", "AmiTags": build["expected"]}


def configuration(build, parent):
    config = {"Region": REGION, "Build": {"ParentImage": parent, "InstanceType": "c5.xlarge"}}
    if build.get("configured"):
        config["Image"] = {"Tags": CONFIGURED_TAGS}
        config["DevSettings"] = {"DistributionConfiguration": {
            "Regions": f"{REGION},{COPY_REGION}", "LaunchPermission": json.dumps(LAUNCH_PERMISSION)}}
    return yaml.dump(config, sort_keys=False)


def artifacts():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("delete_image_stack.py", "def handler(event, context):\n    pass\n")
    return content.getvalue()


def plant_remains(account, build, parent):
    """What exists before the AMI does: the directory, the stack, the log group."""
    if build["s3"]:
        files = {
            "configs/image-config.yaml": configuration(build, parent),
            "custom_resources/artifacts.zip": artifacts(),
            "templates/aws-parallelcluster-imagebuilder.cfn.yaml": template(build, parent),
        }
        for name, body in files.items():
            account.client("s3").put_object(
                Bucket=build["bucket"], Key=f"{build['directory']}/{name}", Body=body
            )
    if build["stack"]:
        build["stackId"] = account.client("cloudformation").create_stack(
            StackName=build["id"], TemplateBody=template(build, parent), Tags=as_list(build["expected"]),
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )["StackId"]
    if build["log"]:
        plant_log(account.client("logs"), build)
    build["started"] = now_as_name()


def plant_log(logs, build):
    try:
        logs.create_log_group(logGroupName=build["logGroup"])
    except logs.exceptions.ResourceAlreadyExistsException:
        # Builds with the same id write to the same log group.
        pass
    logs.create_log_stream(
        logGroupName=build["logGroup"], logStreamName=f"{build['release']}/{build['number']}"
    )


# --- AMIs -----------------------------------------------------------------------


def ami_tags(build, parent):
    release = build["release"]
    tags = {
        "CreatedBy": "EC2 Image Builder",
        "Ec2ImageBuilderArn": builder_arn(build["id"].lower(), release, build["number"]),
    }
    marks = {"os": "alinux2", "bootstrap_file": f"aws-parallelcluster-cookbook-{release}"}
    for name in build.get("marks", marks):
        tags[PREFIX + name] = marks[name]
    if build["built"]:
        tags[PREFIX + "build_status"] = "available"
        if "marks" not in build:
            tags[PREFIX + "parent_image"] = parent
    if build["healthy"]:
        tags.update(build["expected"])
    return tags


def create_image(account, region, instance, name, tags, description=""):
    """Makes an AMI with its snapshot. In moto, only CreateTags can tag the snapshot."""
    ec2 = account.client("ec2", region)
    image = ec2.create_image(
        InstanceId=instance, Name=name, Description=description, NoReboot=True,
        TagSpecifications=[{"ResourceType": "image", "Tags": as_list(tags)}],
    )["ImageId"]
    mappings = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
    snapshots = [mapping["Ebs"]["SnapshotId"] for mapping in mappings if "Ebs" in mapping]
    if "CreatedBy" in tags:
        ec2.create_tags(Resources=snapshots, Tags=as_list({"CreatedBy": tags["CreatedBy"]}))
    return {"ami": image, "region": region, "name": name, "tags": tags, "snapshots": snapshots}


def plant_image(account, build, instance, parent):
    stem = build["id"] if build["healthy"] else f"ParallelClusterImage-{build['id']}"
    described = "AWS ParallelCluster AMI for alinux2, kernel-4.14, slurm-21.08"
    planted = create_image(
        account, REGION, instance, f"{stem} {build['started']}", ami_tags(build, parent),
        "" if "marks" in build else described,
    )
    planted.update({
        "id": build["id"],
        "bucket": build["bucket"] if build["s3"] else None,
        "directory": build["directory"] if build["s3"] else None,
        "stack": build.get("stackId"),
        "stackStatus": {None: None, "deleted": "DELETE_COMPLETE", "live": "CREATE_COMPLETE",
                        "creating": "CREATE_IN_PROGRESS"}[build["stack"]],
        "logGroup": build["logGroup"] if build["log"] else None,
        "expected": build["expected"] if build["s3"] else None,
        "imageTags": {tag["Key"]: tag["Value"] for tag in CONFIGURED_TAGS} if build.get("configured") else {},
        "launchPermission": LAUNCH_PERMISSION if build.get("configured") else None,
    })
    if "note" in build:
        planted["note"] = build["note"]
    return planted


def stopped_instance(account, region):
    """Makes a stopped instance, for making AMIs. Returns its id, and the id of its image in moto's own list."""
    ec2 = account.client("ec2", region)
    images = ec2.describe_images(Owners=["amazon"], Filters=[{"Name": "architecture", "Values": ["x86_64"]}])
    parent = min(image["ImageId"] for image in images["Images"])
    instance = ec2.run_instances(ImageId=parent, MinCount=1, MaxCount=1, InstanceType="c5.xlarge")
    instance = instance["Instances"][0]["InstanceId"]
    ec2.stop_instances(InstanceIds=[instance])
    return instance, parent


def plant_copy(account, original):
    """The copy that Image Builder distributes to another region.

    It is made from an instance in that region, because moto's CopyImage would copy the description too.
    """
    instance, _ = stopped_instance(account, COPY_REGION)
    kept = ("CreatedBy", "Ec2ImageBuilderArn", PREFIX + "build_status", PREFIX + "parent_image")
    tags = {key: original["tags"][key] for key in kept}
    planted = create_image(account, COPY_REGION, instance, original["name"], tags)
    for key in ("id", "bucket", "directory", "stack", "stackStatus", "logGroup", "expected",
                "imageTags", "launchPermission"):
        planted[key] = original[key]
    planted["note"] = "SourceImageId is absent; bucket, stack and log group are those of the build region"
    return planted


def plant_uses(account, world):
    ec2 = account.client("ec2")
    running = ec2.run_instances(
        ImageId=world["in-use-instance"]["ami"], MinCount=1, MaxCount=1, InstanceType="c5.xlarge"
    )["Instances"][0]["InstanceId"]
    world["in-use-instance"]["usedBy"] = running
    world["in-use-template"]["usedBy"] = ec2.create_launch_template(
        LaunchTemplateName="stopped-queue",
        LaunchTemplateData={"ImageId": world["in-use-template"]["ami"], "InstanceType": "c5.xlarge"},
    )["LaunchTemplate"]["LaunchTemplateId"]
    ec2.modify_image_attribute(
        ImageId=world["shared"]["ami"], Attribute="launchPermission",
        LaunchPermission={"Add": [{"UserId": SHARED_WITH}]},
    )
    world["shared"]["sharedWith"] = [SHARED_WITH]


def plant_many(account, count, instance, parent):
    """Healthy AMIs without anything else, as fast as moto takes them."""
    ec2 = account.client("ec2")
    started = now_as_name()

    def one(number):
        build = complete({"label": f"many-{number}", "id": f"many-{number}", "healthy": True})
        ec2.create_image(
            InstanceId=instance, Name=f"{build['id']} {started}",
            TagSpecifications=[{"ResourceType": "image", "Tags": as_list(ami_tags(build, parent))}],
        )

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in pool.map(one, range(count)):
            pass


# --- the whole ------------------------------------------------------------------


# The content of the object `.bootstrapped`. 3.16.1 reads it; earlier releases only check whether the
# object exists.
BOOTSTRAPPED = b'{"bootstrapped_features": ["basic", "export-logs", "scheduler-log"]}'


def plant_buckets(account):
    s3 = account.client("s3")
    for bucket in (default_bucket(), CUSTOM_BUCKET):
        s3.create_bucket(Bucket=bucket)
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        # Without this object, pcluster would give its bucket a policy that denies requests over HTTP. moto
        # ignores the policy's condition, and would deny every request.
        s3.put_object(Bucket=bucket, Key="parallelcluster/.bootstrapped", Body=BOOTSTRAPPED)


def plant(endpoint, many):
    account = Account(endpoint)
    plant_buckets(account)
    instance, parent = stopped_instance(account, REGION)
    builds = [complete(build) for build in BUILDS]
    for build in builds:
        plant_remains(account, build, parent)
    time.sleep(PAUSE)

    world = {build["label"]: plant_image(account, build, instance, parent) for build in builds}
    for label, tags in FOREIGN.items():
        name = f"{label.replace('foreign-', '')} {now_as_name()}"
        world[label] = {**create_image(account, REGION, instance, name, tags), "id": None, "bucket": None,
                        "directory": None, "stack": None, "stackStatus": None, "logGroup": None,
                        "expected": None, "imageTags": {}, "launchPermission": None}
    world["copy"] = plant_copy(account, world["orphan-deleted-stack"])
    plant_uses(account, world)
    # The build twin-2 has the same image id as the build twin-1. Because of this pause, S3 gives the files of
    # twin-2 a later time than the AMI of twin-1 has.
    time.sleep(PAUSE)

    for build in builds:
        if build["stack"] == "deleted":
            account.client("cloudformation").delete_stack(StackName=build["stackId"])
    second = complete(SECOND_TWIN)
    plant_remains(account, second, parent)
    time.sleep(PAUSE)
    world["twin-2"] = plant_image(account, second, instance, parent)
    plant_many(account, many, instance, parent)
    return world


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("endpoint", metavar="ENDPOINT", help="of a moto server that runs")
    parser.add_argument("--many", metavar="N", type=int, default=0, help="plant N more healthy AMIs")
    options = parser.parse_args()
    for name in list(os.environ):
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    print(json.dumps(plant(options.endpoint, options.many), indent=1))


if __name__ == "__main__":
    main()
