//! A configuration that can be read only once: the real pcluster gets all of it. If the environment is
//! broken, the build is stopped before the configuration is read.

use std::ffi::OsStr;
use std::fs;

use crate::environments::{Aws, BROKEN, GOOD, RENUMBERED, RealSandbox, normalised};
use crate::support::machine::on_this_machine;
use crate::support::run::Run;

/// Shell commands that run the shim (`"$@"`) and give it the content of image.yaml. The second text of each
/// pair is a part of the path that the shim's warning names. In the last command, a background process writes
/// to the FIFO, and the shell ends this process.
const FORMS: [(&str, &str); 5] = [
    (r#""$@" -c <("$CAT" image.yaml)"#, "/dev/fd/"),
    (r#""$CAT" image.yaml | "$@" -c /dev/stdin"#, "/dev/stdin"),
    (r#""$@" -c=/dev/stdin <image.yaml"#, "/dev/stdin"),
    (r#""$@" --image-c=/dev/fd/0 <image.yaml"#, "/dev/fd/0"),
    (
        r#""$CAT" image.yaml >fifo & "$@" --image-configuration fifo; status=$?; kill $! 2>/dev/null; exit $status"#,
        "fifo",
    ),
];

/// Runs the shim in bash with the configuration in this form.
#[track_caller]
fn build(sandbox: &RealSandbox, form: &str, image_id: &str) -> Run {
    let shim = sandbox.path("shim/pcluster");
    let words = ["-c", form, "bash"].map(OsStr::new);
    let call = [shim.as_os_str(), "build-image".as_ref(), "-i".as_ref(), image_id.as_ref()];
    sandbox.call(&on_this_machine("bash"), &[&words[..], &call].concat()).run()
}

fn sandbox(environment: &str, configuration: &str) -> RealSandbox {
    let mut sandbox = RealSandbox::of(environment);
    sandbox.write("work/image.yaml", configuration);
    sandbox.set("CAT", on_this_machine("cat"));
    let fifo = sandbox.path("work/fifo");
    sandbox.call(&on_this_machine("mkfifo"), &[fifo]).run().exits(0);
    sandbox
}

#[test]
fn the_real_pcluster_reads_it_whole() {
    let aws = Aws::start();
    let mut sandbox = sandbox(GOOD, &aws.configuration());
    sandbox.use_aws(&aws);
    let direct = sandbox.real(&["build-image", "-c", "image.yaml", "-i", "called-directly"]).run();
    direct.exits(0);
    for (number, (form, name)) in FORMS.into_iter().enumerate() {
        let image_id = format!("my-image-{number}");
        let ran = build(&sandbox, form, &image_id);
        ran.exits(0);
        assert_eq!(normalised(&ran, &image_id), normalised(&direct, "called-directly"), "{form}\n{ran}");
        let stderr = ran.stderr();
        let (first, rest) = stderr.split_once('\n').unwrap_or_else(|| panic!("no warning\n{ran}"));
        assert!(first.starts_with("pcluster-shim: warning: not checked: configuration: "), "{form}\n{ran}");
        assert!(first.contains(name), "{form}\n{ran}");
        assert_eq!(rest, direct.stderr(), "one line and what pcluster says itself\n{ran}");
    }
}

/// An advisory blocks BROKEN. RENUMBERED has the same code, but only its template shows the fault.
#[test]
fn a_broken_environment_is_stopped() {
    let aws = Aws::start();
    for environment in [BROKEN, RENUMBERED] {
        let mut sandbox = sandbox(environment, &aws.configuration());
        sandbox.use_aws(&aws);
        for (form, _) in FORMS {
            let ran = build(&sandbox, form, "my-image");
            assert!(!ran.stop().is_empty(), "{environment}: {form}\n{ran}");
            assert!(ran.stderr().lines().all(|line| line.starts_with("pcluster-shim: ")), "{ran}");
        }
        assert!(fs::read_dir(sandbox.path("home/.parallelcluster")).is_err(), "the real pcluster ran");
    }
    aws.was_not_asked();
}
