#!/usr/bin/env python3
"""moto's server for many AMIs: PY moto_server.py PORT, on 127.0.0.1.

For each resource in an answer, moto searches all tags of the account; here, only the resource's own tags are read. moto
answers DescribeImages with all images at once; here, it answers in pages, as EC2 does.
"""

import sys

from moto.core.responses import ActionResult
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.responses.amis import AmisResponse
from moto.server import main

KINDS = {"ami": "image", "snap": "snapshot", "i": "instance", "lt": "launch-template"}


def own_tags(self):
    kind = KINDS.get(self.id.split("-")[0], "")
    tags = self.ec2_backend.tags.get(self.id, {})
    return [{"resource_id": self.id, "resource_type": kind, "key": key, "value": tags[key]} for key in tags]


describe_all_images = AmisResponse.describe_images


def describe_page_of_images(self):
    images = describe_all_images(self).result["Images"]
    size, start = int(self._get_param("MaxResults", 1000)), int(self._get_param("NextToken", 0))
    end = start + size
    page = {"Images": images[start:end]}
    return ActionResult(dict(page, NextToken=str(end)) if end < len(images) else page)


TaggedEC2Resource.get_tags = own_tags
AmisResponse.describe_images = describe_page_of_images
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
