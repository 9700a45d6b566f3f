"""One bare synthesis with pcluster's own parser, schema and template builder. No call reaches AWS: each gets the same
fixed answer, which contains everything that pcluster reads."""
import sys

from botocore.client import BaseClient

DEVICE = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 25}}
IMAGE = {"Architecture": "x86_64", "RootDeviceName": "/dev/xvda", "BlockDeviceMappings": [DEVICE]}
BaseClient._make_api_call = lambda *_: {"Images": [IMAGE], "Account": "123456789012"}

from pcluster.cli.entrypoint import add_cli_commands, gen_parser
from pcluster.cli.model import load_model, package_spec
from pcluster.models.imagebuilder import ImageBuilder
from pcluster.models.s3_bucket import S3Bucket
from pcluster.templates.cdk_builder import CDKTemplateBuilder

parser, parsers = gen_parser(load_model(package_spec()))
add_cli_commands(parsers)
options, _ = parser.parse_known_args(sys.argv[1:])
image = ImageBuilder(image_id=options.image_id, config=options.image_configuration)
bucket = S3Bucket(service_name="x", stack_name="x", artifact_directory="x", name="x")
CDKTemplateBuilder().build_imagebuilder_template(
    image_config=image.config, image_id=options.image_id, bucket=bucket
)
