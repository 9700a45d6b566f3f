//! AWS denies a request or cannot be reached, or something else answers in its place.

use super::{World, words};
use crate::environments::{GOOD, NEWEST};

#[test]
fn what_cannot_be_asked_is_one_clear_error() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    for (deny, status, said) in [
        ("ec2:DescribeImages", 3, "Allow ec2:DescribeImages"),
        ("ec2:DescribeSnapshots", 1, "not checked: ec2:DescribeSnapshots in us-east-1: denied"),
        ("cloudformation:*", 1, "not checked: cloudformation:ListStacks in us-east-1: denied"),
        ("s3:*", 1, "not checked: s3:ListObjectsV2"),
        ("logs:*", 1, "not checked: logs:DescribeLogGroups in us-east-1: denied"),
    ] {
        let proxy = world.proxy(&["--deny", deny]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox.pcluster(&["preflight", "images"]).run();
        ran.exits(status);
        assert!(words(&ran).contains(said) || ran.stderr().contains(said), "{deny}\n{ran}");
    }
    sandbox.set("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
    let ran = sandbox.pcluster(&["preflight", "images"]).run();
    ran.exits(3);
    assert!(ran.stderr().contains("Check the network"), "{ran}");
    sandbox.unset("AWS_ACCESS_KEY_ID");
    sandbox.unset("AWS_SECRET_ACCESS_KEY");
    let ran = sandbox.pcluster(&["preflight", "images"]).run();
    ran.exits(3);
    assert!(ran.stderr().contains("Log in as you would for"), "{ran}");
    sandbox.unset("AWS_DEFAULT_REGION");
    sandbox.pcluster(&["preflight", "images"]).run().exits(3);

    let config = "[default]\nregion = us-east-1\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = s\n\
                  mfa_serial = arn:aws:iam::123456789012:mfa/m\n[profile s]\naws_access_key_id = x\n\
                  aws_secret_access_key = x\n";
    let file = sandbox.write("work/aws-config", config);
    sandbox.set("AWS_CONFIG_FILE", file);
    sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
    let ran = sandbox.pcluster(&["preflight", "images"]).run();
    ran.exits(3);
    assert!(ran.stderr().contains("MFA code") && ran.stderr().contains("Log in as you would for"), "{ran}");
}

/// The proxy answers with a page and status 200, as a captive portal does. botocore takes the page for an
/// answer without content.
#[test]
fn a_page_in_place_of_an_answer_is_no_answer() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-deleted-stack";
    let before = world.state();
    for (action, said) in [
        ("ec2:DescribeImages", "DescribeImages"),
        ("ec2:DescribeImageAttribute", "DescribeImageAttribute"),
        ("s3:ListBucketVersions", "cannot delete parallelcluster/"),
    ] {
        let proxy = world.proxy(&["--answer", &format!("{action}=html")]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox
            .pcluster(&["preflight", "images", "--delete", "--yes", "--image", world.ami(label)])
            .run();
        assert!(matches!(ran.status.code(), Some(1 | 3)), "{action}\n{ran}");
        assert!(words(&ran).contains(said) || ran.stderr().contains(said), "{action}\n{ran}");
        if action != "s3:ListBucketVersions" {
            assert_eq!(world.state(), before, "{action}\n{ran}");
        }
        assert_eq!(world.state()["objects"], before["objects"], "{action}\n{ran}");
    }
}

/// If credentials cannot be obtained, the error gives the reason and says what to do.
#[test]
fn credentials_that_cannot_be_had_are_the_reason_that_is_printed() {
    let world = World::plant();
    let mut sandbox = world.sandbox(NEWEST);
    let proxy = world.proxy(&["--answer", "sts:GetCallerIdentity=html"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let ran = sandbox.pcluster(&["preflight", "images"]).run();
    ran.exits(3);
    assert!(
        ran.stderr().contains("did not come from AWS") && ran.stderr().contains("sts:GetCallerIdentity"),
        "{ran}"
    );

    for code in ["RequestTimeTooSkewed", "Signature expired"] {
        let proxy = world.proxy(&["--answer", &format!("sts:GetCallerIdentity={code}")]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox.pcluster(&["preflight", "images"]).run();
        ran.exits(3);
        assert!(ran.stderr().contains("The clock of this machine is wrong"), "{ran}");
    }

    sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
    sandbox.unset("AWS_ACCESS_KEY_ID");
    sandbox.unset("AWS_SECRET_ACCESS_KEY");
    let sso = "sso_start_url = https://example.com/start\nsso_region = us-east-1\nsso_account_id = 123456789012\n\
               sso_role_name = r\n";
    for (profile, said, hint) in [
        (
            "credential_process = /no/such/program\n",
            "the credentials cannot be read",
            "Log in as you would for",
        ),
        (
            "credential_process = /bin/sh -c 'echo text'\n",
            "the credentials cannot be read",
            "Log in as you would for",
        ),
        (
            "credential_process = /bin/sh -c 'echo vault is sealed >&2; exit 1'\n",
            "vault is sealed",
            "Log in as you would for",
        ),
        (sso, "SSO", "Run `aws sso login`"),
    ] {
        let file = sandbox.write("work/aws-config", format!("[default]\nregion = us-east-1\n{profile}"));
        sandbox.set("AWS_CONFIG_FILE", file);
        let ran = sandbox.pcluster(&["preflight", "images"]).run();
        ran.exits(3);
        assert!(ran.stderr().contains(said) && ran.stderr().contains(hint), "{ran}");
    }
}
