//! `preflight template` on a stack's template as AWS returns it, in every form in which the AWS CLI
//! prints it.

use crate::environments::{Aws, BROKEN, GOOD, RealSandbox};

/// Makes a stack with the real pcluster, then reads its template back and checks it in every form.
fn checked(environment: &str, status: i32, verdict: &str) {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(environment);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    sandbox.real(&["build-image", "-c", "image.yaml", "-i", "my-image"]).run().exits(0);
    for form in ["json", "object", "text", "body"] {
        let file = sandbox.write(format!("work/{form}"), aws.template("my-image", form));
        let (ran, report) = sandbox.preflight(&["template", file.to_str().unwrap()]);
        ran.exits(status).is_silent();
        assert_eq!(report["verdict"], verdict, "{form}\n{ran}");
        let ids: Vec<_> = report["findings"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
        if status == 0 {
            assert_eq!(
                ids,
                ["lambda-runtime", "cleanup-role-5914", "cleanup-role-log-group"],
                "{form}\n{ran}"
            );
        } else {
            assert_eq!(ids[0], "template-ami-configuration-empty", "{form}\n{ran}");
        }

        let call = sandbox.pcluster(&["preflight", "template", "-"]);
        call.stdin(std::fs::read(&file).unwrap()).run().exits(status);
    }
}

#[test]
fn a_good_stack_is_ready_in_every_form() {
    checked(GOOD, 0, "ready");
}

#[test]
fn a_bad_stack_is_blocked_in_every_form() {
    checked(BROKEN, 1, "blocked");
}
