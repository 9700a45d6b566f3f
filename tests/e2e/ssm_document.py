"""Gives the scripts of an SSM document, as Systems Manager makes them for commands.

    PY tests/e2e/ssm_document.py DOCUMENT COMMANDS

PY is the interpreter of an environment made by scripts/moto-env; COMMANDS is a JSON
list with the parameters of each command. The document is created in moto, in this
process, and read back from there; values are held against allowedPattern and
allowedValues, and put into the script as they are. Prints a JSON list: of each
command the script, or null and the name of the parameter that is refused.
"""

import json
import os
import re
import sys

import yaml

# Of the language of documents, what this kind has.
TOP = {"schemaVersion", "description", "parameters", "mainSteps"}
PARAMETER = {"type", "description", "default", "allowedPattern", "allowedValues"}
STEP = {"action", "name", "precondition", "inputs"}


def created(content):
    """The document as Systems Manager gives it back."""
    import boto3
    from moto import mock_aws

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    with mock_aws():
        client = boto3.client(
            "ssm", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none"
        )
        made = client.create_document(
            Name="PclusterPreflight",
            DocumentType="Command",
            DocumentFormat="YAML",
            TargetType="/AWS::EC2::Instance",
            Content=content,
        )["DocumentDescription"]
        assert made["SchemaVersion"] == "2.2", made
        told = {parameter["Name"] for parameter in made["Parameters"]}
        back = yaml.safe_load(
            client.get_document(Name="PclusterPreflight", DocumentFormat="YAML")["Content"]
        )
    assert told == set(back["parameters"]), told
    return back


def script_of(document, given):
    """The script, or the name of the parameter that is refused."""
    values = {}
    for name, parameter in document["parameters"].items():
        if name not in given and "default" not in parameter:
            return None, name
        value = values[name] = given.get(name, parameter.get("default"))
        # Searched, and not matched: what is not anchored lets everything through.
        allowed = re.search(parameter["allowedPattern"], value)
        if not allowed or value not in parameter.get("allowedValues", [value]):
            return None, name
    assert set(given) <= set(values), given
    [step] = document["mainSteps"]
    script = "\n".join(step["inputs"]["runCommand"])
    return re.sub(r"\{\{ *([A-Za-z0-9]+) *\}\}", lambda found: values[found[1]], script), None


def main():
    with open(sys.argv[1], encoding="utf-8") as opened:
        document = created(opened.read())
    assert set(document) <= TOP, document.keys()
    for name, parameter in document["parameters"].items():
        assert set(parameter) <= PARAMETER and parameter["type"] == "String", parameter
        assert re.fullmatch("[A-Za-z0-9]+", name), name
    for step in document["mainSteps"]:
        assert set(step) <= STEP and step["action"] == "aws:runShellScript", step
        assert re.fullmatch("[A-Za-z0-9]+", step["name"]), step
    print(json.dumps([script_of(document, given) for given in json.loads(sys.argv[2])]))


main()
