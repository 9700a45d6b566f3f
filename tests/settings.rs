//! config.yaml and the variables: `preflight` refuses what is at fault, with file, line and key;
//! the guard warns, takes the default and goes on.

use crate::fakes::REAL_OUTPUT;
use crate::harness::{Run, Sandbox};

const CONFIG: &str = "config/pcluster-shim/config.yaml";

/// The faults of a file, each with the words that have to be told of it.
const FAULTS: [(&str, &str, &[&str]); 11] = [
    ("unknown-key", "mode: block\nstrikt: true\n", &["strikt", "line 2"]),
    ("bad-mode", "strict: false\nmode: loud\n", &["mode", "loud", "line 2"]),
    ("bad-mode-type", "strict: false\nmode: [block]\n", &["mode", "line 2"]),
    ("bad-mode-true", "mode: true\n", &["mode", "line 1"]),
    ("bad-strict", "mode: block\nstrict: maybe\n", &["strict", "line 2"]),
    ("bad-timeout", "timeout: -1\n", &["timeout", "line 1"]),
    ("bad-timeout-zero", "mode: block\ntimeout: 0\n", &["timeout", "line 2"]),
    ("bad-timeout-large", "timeout: 18446744073709551615\n", &["timeout", "line 1", "86400"]),
    ("bad-advisories", "advisories: more.yaml\n", &["advisories", "line 1"]),
    ("no-yaml", "mode: [\n", &["line"]),
    ("no-mapping", "- mode\n", &[]),
];

#[track_caller]
fn names(run: &Run, words: &[&str]) {
    run.holds(run.stderr().contains("config.yaml"), "the file is named");
    for word in words {
        run.holds(run.stderr().contains(word), &format!("{word:?} is named"));
    }
}

#[test]
fn preflight_refuses_a_faulty_file() {
    for (name, content, words) in FAULTS {
        let sandbox = Sandbox::new();
        sandbox.environment();
        sandbox.write(CONFIG, content);
        for command in ["check", "where", "advisories"] {
            let run = sandbox.pcluster(["preflight", command]).run();
            run.exits(2).prints("").prefixed().stderr_matches(&format!("config-{name}.txt"));
            names(&run, words);
        }
        assert_eq!(sandbox.log(), [""; 0]);
    }
}

#[test]
fn the_guard_warns_of_a_faulty_file_and_goes_on() {
    for (name, content, words) in FAULTS {
        let sandbox = Sandbox::new();
        sandbox.environment();
        sandbox.write(CONFIG, content);
        let run = sandbox.build_image().run();
        run.exits(0)
            .prints(REAL_OUTPUT)
            .warns_once("ignored")
            .stderr_matches(&format!("guard-config-{name}.txt"));
        names(&run, words);
        // The default is to block.
        sandbox.environment().is_broken();
        let run = sandbox.build_image().run();
        run.exits(1).prefixed();
        names(&run, words);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_at_fault_only_where_it_is_named() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.build_image().run().exits(0).is_silent();
    sandbox.write(CONFIG, "");
    sandbox.build_image().run().exits(0).is_silent();
    sandbox.write(CONFIG, "# only a comment\n");
    sandbox.build_image().run().exits(0).is_silent();
    let named =
        |arguments| sandbox.pcluster(arguments).var("PCLUSTER_SHIM_CONFIG", sandbox.path("absent.yaml"));
    named(["preflight", "where"]).run().exits(2).stderr_matches("config-absent.txt");
    sandbox.write(CONFIG, b"mode: \xff\n");
    sandbox.build_image().run().exits(0).warns_once("config.yaml");
    sandbox.pcluster(["preflight", "where"]).run().exits(2).prefixed();
}

#[test]
fn the_file_is_found_as_xdg_says() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    sandbox.write("elsewhere.yaml", "mode: off\n");
    let call = || sandbox.build_image();
    call().run().exits(1);
    call().var("PCLUSTER_SHIM_CONFIG", sandbox.path("elsewhere.yaml")).run().exits(0);
    sandbox.write("home/.config/pcluster-shim/config.yaml", "mode: off\n");
    call().run().exits(1);
    call().without("XDG_CONFIG_HOME").run().exits(0);
    call().var("XDG_CONFIG_HOME", "").run().exits(0);
    call().var("XDG_CONFIG_HOME", "relative").run().exits(0);
    call().without("XDG_CONFIG_HOME").without("HOME").run().exits(1);
}

/// A flag beats a variable, a variable beats the file.
#[test]
fn precedence() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    sandbox.write(CONFIG, "mode: off\nstrict: true\n");
    sandbox.build_image().run().exits(0).is_silent();
    sandbox.build_image().var("PCLUSTER_SHIM_MODE", "block").run().exits(1).prefixed();
    sandbox.build_image().var("PCLUSTER_SHIM_MODE", "").run().exits(0).is_silent();
    let other = sandbox.script("other/pcluster", "#!/bin/sh\necho other\n");
    sandbox.write(CONFIG, format!("mode: off\nreal: {}\n", other.display()));
    sandbox.build_image().run().exits(0).prints("other\n");
    let real = sandbox.path("venv/bin/pcluster");
    sandbox.build_image().var("PCLUSTER_SHIM_REAL", &real).run().exits(0).prints(REAL_OUTPUT);
    // A pass-through reads no file.
    sandbox.pcluster(["version"]).run().exits(0).prints("the real pcluster: version\n");
    let by = |run: &Run| run.stdout().lines().nth(1).unwrap_or_default().to_owned();
    let call = || sandbox.pcluster(["preflight", "where"]);
    assert!(by(&call().run()).ends_with("other/pcluster (by config.yaml's real)"), "{}", by(&call().run()));
    let run = call().var("PCLUSTER_SHIM_REAL", &real).run();
    assert!(by(&run).ends_with("venv/bin/pcluster (by PCLUSTER_SHIM_REAL)"), "{}", by(&run));
    let run = call().var("PCLUSTER_SHIM_REAL", &real).argument("--real").argument(other).run();
    assert!(by(&run).ends_with("other/pcluster (by --real)"), "{}", by(&run));
}

#[test]
fn variables_that_are_at_fault() {
    for (name, value, snapshot) in [
        ("PCLUSTER_SHIM_MODE", "loud", "variable-mode"),
        ("PCLUSTER_SHIM_STRICT", "maybe", "variable-strict"),
        ("PCLUSTER_SHIM_TIMEOUT", "soon", "variable-timeout"),
        ("PCLUSTER_SHIM_TIMEOUT", "0", "variable-timeout-zero"),
        ("PCLUSTER_SHIM_TIMEOUT", "18446744073709551615", "variable-timeout-large"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.environment();
        let run = sandbox.pcluster(["preflight", "where"]).var(name, value).run();
        run.exits(2).prints("").prefixed().stderr_matches(&format!("{snapshot}.txt"));
        let run = sandbox.build_image().var(name, value).run();
        run.exits(0).prints(REAL_OUTPUT).warns_once(name).stderr_matches(&format!("guard-{snapshot}.txt"));
    }
}

/// Trap 31: whatever is at fault, the way around it works.
#[test]
fn mode_off_works_whatever_is_at_fault() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    sandbox.write(CONFIG, b"\xff: [");
    sandbox.write("cache/pcluster-shim", "");
    let call = sandbox.build_image().var("PCLUSTER_SHIM_MODE", "off").var("PCLUSTER_SHIM_TIMEOUT", "x");
    let call = call.var("HOME", "/nonexistent").var("TMPDIR", "/nonexistent");
    call.run().exits(0).prints(REAL_OUTPUT).is_silent();
}
