"""What scripts/bench compares `preflight images` with: one paginated DescribeImages of the account's AMIs, and the
look-ups that any list of them needs: whose account, which stacks. It prints how many AMIs there are."""

import boto3

session = boto3.session.Session()
session.client("sts").get_caller_identity()
for page in session.client("cloudformation").get_paginator("list_stacks").paginate():
    pass
pages = session.client("ec2").get_paginator("describe_images").paginate(
    Owners=["self"], PaginationConfig={"PageSize": 1000}
)
print(sum(len(page["Images"]) for page in pages))
