"""Prints a stack's template as `aws cloudformation get-template` does.

    python get_template.py ENDPOINT REGION STACK FORM

Runs in an environment that has the AWS CLI, and writes the output with the CLI's own formatters. FORM
is json or text (as with this value of --output), object (as json prints a template that was submitted
as JSON), or body (as with --query TemplateBody --output text).
"""
import argparse
import sys

import yaml
from awscli.formatter import get_formatter
from botocore.session import Session

endpoint, region, stack, form = sys.argv[1:]

session = Session()
session.set_credentials("testing", "testing")
client = session.create_client("cloudformation", region_name=region, endpoint_url=endpoint)
answer = client.get_template(StackName=stack)
answer.pop("ResponseMetadata", None)
# AWS always returns this key; moto leaves it out.
answer.setdefault("StagesAvailable", ["Original", "Processed"])
if form == "object":
    answer["TemplateBody"] = yaml.safe_load(answer["TemplateBody"])
if form == "body":
    answer = answer["TemplateBody"]
options = argparse.Namespace(query=None, color="off")
get_formatter("text" if form in ("text", "body") else "json", options)("get-template", answer)
