"""What a build would take from AWS and the network: its parent image, scripts, components and subnet.

Everything is read-only. What could not be asked is under "skipped", with the name of the check as its key.
"""

import ipaddress
import socket
import urllib.error
import urllib.parse
import urllib.request

from client_account import Failure, filter_by, read_other_error, run_parallel, shorten

# AWS's codes for something that does not exist.
ABSENT = ("404", "NoSuchKey", "NoSuchBucket", "NotFound", "ResourceNotFoundException")
SECONDS = 10

# The keys of an AMI that the shim's rules for parent images read.
IMAGE_KEYS = (
    "ImageId", "Name", "OwnerId", "ImageOwnerAlias", "Architecture", "Platform", "PlatformDetails", "Tags",
)  # fmt: skip


def read_parent(aws, request):
    facts = {"kind": "parent", "image": None, "scripts": {}, "components": {}, "subnet": None, "skipped": {}}
    if request["parent"]:
        facts["image"] = ask(facts, "parent", lambda: find_image(aws, request["parent"]))
    for key, look in (("scripts", find_script), ("components", find_component)):
        names = request[key]
        found = run_parallel(lambda name: ask(facts, "components", lambda: look(aws, name)), names)
        facts[key] = {name: one for name, one in zip(names, found) if one}
    if request["subnet"]:
        facts["subnet"] = ask(facts, "network", lambda: find_subnet(aws, request["subnet"]))
    return facts


def ask(facts, check, look):
    """The answer, or None with the reason under "skipped"."""
    try:
        return look()
    except Failure as failure:
        facts["skipped"].setdefault(check, explain(failure))
    except Exception as error:
        facts["skipped"].setdefault(check, read_other_error(error).describe())
    return None


def explain(failure):
    if failure.code == "denied" and failure.call:
        way = "to print what is needed, run `pcluster preflight check --aws --print-policy`"
        return "{} is denied; {}".format(failure.permission(), way)
    call = " ({})".format(failure.call) if failure.call else ""
    return shorten(failure.message, 200) + call


def find_image(aws, parent):
    if parent.startswith("arn:"):
        parent = find_ami(aws, parent)
    answer = aws.ask("ec2", aws.region, "describe_images", ImageIds=[parent])
    images = [image for image in answer.get("Images") or [] if image.get("ImageId") == parent]
    if not images:
        raise Failure("answer", "AWS has no image {} in {}".format(parent, aws.region), "ec2:DescribeImages")
    return {key: images[0][key] for key in IMAGE_KEYS if key in images[0]}


def find_ami(aws, arn):
    """The AMI of an image of Image Builder in this region."""
    answer = aws.ask("imagebuilder", aws.region, "get_image", imageBuildVersionArn=arn)
    amis = answer["image"].get("outputResources", {}).get("amis") or []
    own = [ami["image"] for ami in amis if ami.get("region") == aws.region and ami.get("image")]
    if not own:
        raise Failure("answer", "{} has no AMI in {}".format(arn, aws.region), "imagebuilder:GetImage")
    return own[0]


def find_component(aws, arn):
    return look_up(lambda: aws.ask("imagebuilder", aws.region, "get_component", componentBuildVersionArn=arn))


def find_script(aws, url):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "s3":
        key = parts.path.lstrip("/")
        return look_up(lambda: aws.ask("s3", aws.region, "head_object", Bucket=parts.netloc, Key=key))
    if parts.scheme == "https":
        return find_page(url, parts.hostname)
    return None


def look_up(call):
    try:
        call()
        return "present"
    except Failure as failure:
        if failure.aws_code in ABSENT:
            return "absent"
        raise


def find_page(url, host):
    """A server may refuse a HEAD, so a second request for one byte confirms that there is nothing."""
    status = fetch(urllib.request.Request(url, method="HEAD"))
    if status >= 400:
        status = fetch(urllib.request.Request(url, headers={"Range": "bytes=0-0"}))
    if status < 400:
        return "present"
    if status not in (404, 410):
        raise Failure("denied", "{} answers with status {}".format(host, status))
    return "absent" if is_public(host) else "hidden"


def fetch(request):
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.getcode()
    except urllib.error.HTTPError as error:
        return error.code
    except Exception as error:
        raise Failure("network", "{}: {}".format(request.host, error))


def is_public(host):
    """Whether the host can be reached from everywhere, including the instance of a build."""
    addresses = {address[4][0] for address in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(address.split("%")[0]).is_global for address in addresses)


def find_subnet(aws, subnet):
    described = aws.ask("ec2", aws.region, "describe_subnets", SubnetIds=[subnet])["Subnets"][0]
    tables = find_route_tables(aws, filter_by("association.subnet-id", [subnet]))
    if not tables:
        of_vpc = filter_by("vpc-id", [described["VpcId"]])
        tables = find_route_tables(aws, of_vpc, filter_by("association.main", ["true"]))
    routes = [route for table in tables for route in table["Routes"]]
    defaults = [route for route in routes if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
    return {
        "hasInternetGateway": any((route.get("GatewayId") or "").startswith("igw-") for route in defaults),
        "givesPublicAddresses": bool(described.get("MapPublicIpOnLaunch")),
    }


def find_route_tables(aws, *filters):
    return aws.ask("ec2", aws.region, "describe_route_tables", Filters=list(filters))["RouteTables"]
