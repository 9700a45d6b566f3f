"""Prints what the account on a moto server has, as JSON: AMIs, snapshots, stacks, objects, log groups.

    python state.py ENDPOINT
"""
import json
import os
import sys

import boto3

REGIONS = ("us-east-1", "eu-west-1")


def client(service, region):
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=sys.argv[1],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


def read_region(region):
    ec2, logs = client("ec2", region), client("logs", region)
    images = ec2.describe_images(Owners=["self"])["Images"]
    snapshots = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    groups = logs.describe_log_groups()["logGroups"]
    tags = lambda image: {tag["Key"]: tag["Value"] for tag in image.get("Tags", [])}
    return {
        "images": {image["ImageId"]: tags(image) for image in images},
        "snapshots": sorted(snapshot["SnapshotId"] for snapshot in snapshots),
        "logGroups": sorted(group["logGroupName"] for group in groups),
    }


def read_objects():
    s3 = client("s3", "us-east-1")
    for bucket in s3.list_buckets()["Buckets"]:
        for version in s3.list_object_versions(Bucket=bucket["Name"]).get("Versions", []):
            yield bucket["Name"] + "/" + version["Key"]


def read_stacks():
    stacks = client("cloudformation", "us-east-1").list_stacks()["StackSummaries"]
    return sorted(stack["StackName"] + " " + stack["StackStatus"] for stack in stacks)


def main():
    state = {region: read_region(region) for region in REGIONS}
    state["objects"] = sorted(set(read_objects()))
    state["stacks"] = read_stacks()
    print(json.dumps(state))


main()
