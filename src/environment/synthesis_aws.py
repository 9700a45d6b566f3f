"""The table from which the calls of synthesis.py to AWS are answered. Python 3.6 to 3.14."""

import os


class UnexpectedCall(BaseException):
    """Derived from BaseException, because pcluster catches every Exception."""


ACCOUNT = "123456789012"
AMI = "ami-0123456789abcdef0"

# The images that the REQUEST file of synthesis.py describes, by id. synthesis.py adds them.
IMAGES = {}

# For each call to AWS, the answer as a function of the region and the parameters.
ANSWERS = {
    "ec2:DescribeImages": lambda _region, parameters: {
        "Images": [describe_image(image_id) for image_id in parameters.get("ImageIds") or [AMI]]
    },
    "sts:GetCallerIdentity": lambda _region, _parameters: {
        "Account": ACCOUNT,
        "UserId": "pcluster-shim",
        "Arn": "arn:aws:iam::{}:root".format(ACCOUNT),
    },
    "imagebuilder:GetImage": lambda region, parameters: {
        "image": {
            "arn": parameters.get("imageBuildVersionArn"),
            "outputResources": {"amis": [{"region": region, "image": AMI}]},
        }
    },
}


def answer_aws():
    """Answer every call of boto3 from the table.

    All operations of all clients call BaseClient._make_api_call, so only that method is replaced.
    """
    from botocore.client import BaseClient

    def answered(client, operation, parameters):
        call = "{}:{}".format(client.meta.service_model.service_name, operation)
        if call not in ANSWERS:
            raise UnexpectedCall(call)
        return ANSWERS[call](client.meta.region_name, parameters)

    BaseClient._make_api_call = answered
    # To sign the URL of an s3:// cookbook, boto3 needs credentials. These are invented.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        os.environ[name] = "pcluster-shim"
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def describe_image(image_id):
    image = {
        "ImageId": image_id,
        "Name": image_id,
        "State": "available",
        "Architecture": "x86_64",
        "OwnerId": ACCOUNT,
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 25}}],
        "Tags": [],
    }
    known = IMAGES.get(image_id, {})
    # A description in IMAGES may come from a file, so each of its keys may be missing.
    return dict(image, **{name: value for name, value in known.items() if value not in (None, [])})
