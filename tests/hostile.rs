//! Files that hang a reader, take all memory, or could have been written by others. If a read blocks or does
//! not end, the time limit of a run fails the test.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::broken_environment::set_mode;
use crate::support::fakes::REAL_OUTPUT;
use crate::support::machine::{on_this_machine, output};
use crate::support::run::{Call, Run};
use crate::support::sandbox::Sandbox;

const CONFIG: &str = "config/pcluster-shim/config.yaml";

/// Something in the place of a file: its name, a function that creates it at a path, and what the shim
/// reports about it.
type Kind = (&'static str, fn(&Path), &'static str);

const KINDS: [Kind; 5] = [
    ("fifo", fifo, "expected a regular file, found a FIFO"),
    ("device", |path| symlink("/dev/zero", path).unwrap(), "expected a regular file, found a device"),
    ("directory", |path| fs::create_dir(path).unwrap(), "expected a regular file, found a directory"),
    ("giant", |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap(), "larger than 1 MB"),
    (
        "brackets",
        |path| fs::write(path, "[".repeat(200_000)).unwrap(),
        "brackets are nested more than 1000 deep",
    ),
];

fn fifo(path: &Path) {
    output(&on_this_machine("mkfifo"), &[path.as_os_str()]);
}

#[track_caller]
fn reports(run: &Run, file: &str, why: &str) {
    run.prefixed().holds(run.stderr().contains(file), "the file is named");
    run.holds(run.stderr().contains(why), &format!("{why:?} is reported"));
}

#[test]
fn a_config_file_of_any_kind() {
    for (kind, put, why) in KINDS {
        let sandbox = Sandbox::new();
        sandbox.environment();
        fs::create_dir_all(sandbox.path("config/pcluster-shim")).unwrap();
        put(&sandbox.path(CONFIG));
        let run = sandbox.build_image().run();
        run.exits(0)
            .prints(REAL_OUTPUT)
            .warns_once("ignored")
            .stderr_matches(&format!("hostile-config-{kind}.txt"));
        reports(&run, "config.yaml", why);
        let run = sandbox.pcluster(["preflight"]).run();
        run.exits(2).prints("");
        reports(&run, "config.yaml", why);
    }
}

#[test]
fn an_advisory_file_of_any_kind() {
    for (_, put, why) in KINDS {
        let sandbox = Sandbox::new();
        sandbox.environment();
        sandbox.write(CONFIG, "advisories: [more.yaml]\n");
        put(&sandbox.path("config/pcluster-shim/more.yaml"));
        let run = sandbox.build_image().run();
        run.exits(0).prints(REAL_OUTPUT).warns_once("ignored");
        reports(&run, "more.yaml", why);
        let run = sandbox.pcluster(["preflight"]).run();
        run.exits(2).prints("");
        reports(&run, "more.yaml", why);
    }
}

#[test]
fn a_template_of_any_kind() {
    for (_, put, why) in KINDS {
        let sandbox = Sandbox::new();
        put(&sandbox.path("work/template"));
        let run = sandbox.pcluster(["preflight", "template", "template"]).run();
        run.exits(2).prints("");
        reports(&run, "template", why);
    }
    let sandbox = Sandbox::new();
    let run = sandbox.pcluster(["preflight", "template", "-"]).stdin(vec![b' '; 2 << 20]).run();
    run.exits(2).prints("");
    reports(&run, "standard input", "larger than 1 MB");
}

/// Inputs on which a parser spent seconds to minutes. None of them is a template, so the shim refuses
/// them all.
#[test]
fn a_template_that_costs_its_parser_more_than_its_length() {
    let tags = (0..20_000).fold(String::new(), |text, number| text + &format!("%TAG !a{number}! tag:x\n"));
    let aliases = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(200_000), "*a,".repeat(60));
    for content in [
        "{a: ".repeat(260_000),
        "[".repeat(1 << 20),
        "[? ".repeat(300_000),
        "{\"a\":".repeat(200_000),
        format!("{{\"TemplateBody\": \"{}\"}}", "{a: ".repeat(200_000)),
        tags + "---\na: b\n",
        aliases,
    ] {
        let sandbox = Sandbox::new();
        sandbox.write("work/template", content);
        sandbox.pcluster(["preflight", "template", "template"]).run().exits(2).prints("").prefixed();
    }
}

#[test]
fn metadata_and_launchers_of_any_kind() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    for name in ["METADATA", "RECORD", "INSTALLER"] {
        let directory = environment.path("site/odd-1.dist-info");
        fs::create_dir_all(&directory).unwrap();
        fifo(&directory.join(name));
    }
    fs::create_dir(sandbox.path("first")).unwrap();
    fifo(&sandbox.path("first/pcluster"));
    set_mode(&sandbox.path("first/pcluster"), 0o755);
    let mut path = sandbox.search_path();
    path.insert(0, sandbox.path("first"));
    sandbox.build_image().path(&path).run().exits(0).prints(REAL_OUTPUT).is_silent();
}

/// On some build servers, HOME is a device.
#[test]
fn a_home_that_is_no_directory_has_no_config_file() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let in_dev_null = |call: Call| {
        let call = call.var("HOME", "/dev/null").without("XDG_CONFIG_HOME").without("XDG_CACHE_HOME");
        call.without("XDG_STATE_HOME").run().exits(0).is_silent().pid
    };
    in_dev_null(sandbox.build_image());
    in_dev_null(sandbox.pcluster(["preflight"]));
}

#[test]
fn what_others_could_have_written_is_passed_over_and_said() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    sandbox.write(CONFIG, "mode: off\n");
    sandbox.build_image().run().exits(0).is_silent();
    for (open, name) in [(CONFIG, "file"), ("config/pcluster-shim", "directory")] {
        let mode = sandbox.path(open).metadata().unwrap().permissions().mode();
        set_mode(&sandbox.path(open), 0o777);
        let run = sandbox.build_image().run();
        run.exits(1).prefixed();
        let first = run.stderr().lines().next().unwrap_or_default().to_owned();
        run.holds(first.contains("; the file was ignored"), "said first");
        let run = sandbox.pcluster(["preflight", "advisories", "-q"]).run();
        run.exits(0).stderr_matches(&format!("untrusted-{name}.txt"));
        let run = sandbox.pcluster(["preflight", "where", "--format", "json"]).run();
        run.holds(run.stdout().contains("is writable by others"), "where says so");
        set_mode(&sandbox.path(open), mode);
    }
    sandbox.build_image().run().exits(0).is_silent();
}

#[test]
fn a_journal_that_others_could_have_written_is_named_by_where() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let journal = environment.repairs().join("journal.json");
    fs::copy(environment.closed_journal(), &journal).unwrap();
    set_mode(&journal, 0o666);
    let run = environment.preflight(["where", "--format", "json"]).run();
    run.exits(0).holds(run.stdout().contains("journal.json is writable by others (mode 666)"), "it is named");
}

/// On Amazon Linux and Fedora, umask 002 is the default.
#[test]
fn whatever_the_umask_the_state_of_repairs_is_the_callers_alone() {
    for umask in ["umask 002; exec \"$@\"", "umask 000; exec \"$@\""] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        let call = environment.preflight(["fix"]).under(sandbox.path("tools/sh"), &["-c", umask, "sh"]);
        call.run().exits(0);
        let tree = sandbox.tree("state");
        let made: Vec<&str> = tree.lines().filter(|line| !line.contains("/snapshot-")).collect();
        assert!(!made.is_empty());
        for line in made {
            assert!(line.contains(" 700") || line.contains(" 600 "), "{line}");
        }
    }
}

/// Concurrent checks share nothing that they could damage.
#[test]
fn trap_25_many_at_once_are_all_checked() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent().pid);
        }
    });
    sandbox.has_no_scratch();
}

#[test]
fn a_working_directory_that_is_gone_turns_no_check_off() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let [make, remove] = ["mkdir", "rmdir"].map(|name| on_this_machine(name).display().to_string());
    let gone = format!("{make} gone && cd gone && {remove} ../gone && exec \"$@\"");
    let gone = ["-c", &gone, "sh"];
    let sh = sandbox.path("tools/sh");
    // The output is not compared, because the fakes are shell scripts, and their shells complain about the
    // missing directory.
    sandbox.pcluster(["version"]).under(&sh, &gone).run().exits(0);
    // `build_image` writes the configuration. Its call is not run.
    drop(sandbox.build_image());
    let configuration = sandbox.path("work/image.yaml");
    let configuration = configuration.to_str().unwrap();
    let build = ["build-image", "--image-configuration", configuration, "--image-id", "my-image"];
    for call in [sandbox.pcluster(build), sandbox.pcluster(["preflight"])] {
        let run = call.under(&sh, &gone).run();
        run.exits(1).holds(run.stdout().contains("1.153.0"), "the fault is found");
    }
    sandbox.pcluster(["preflight", "where"]).under(&sh, &gone).run().exits(0);
}

/// On some systems `sudo` keeps HOME, so root has the HOME of another user. Nothing in that home is read
/// or written.
#[test]
#[expect(clippy::print_stdout, reason = "a test that does not run says so")]
fn another_users_home_is_neither_read_nor_written() {
    if !rustix::process::geteuid().is_root() {
        println!("not tested: only root can have another user's HOME");
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.environment();
    let in_home = || {
        let call = sandbox.build_image().without("XDG_CONFIG_HOME").without("XDG_CACHE_HOME");
        call.without("XDG_STATE_HOME")
    };
    sandbox.write("home/.config/pcluster-shim/config.yaml", "mode: warn\n");
    in_home().run().exits(0).is_silent();
    output(&on_this_machine("chown"), &["-R".as_ref(), "12345".as_ref(), sandbox.path("home").as_os_str()]);
    let before = sandbox.tree("home");
    sandbox.clear_log();
    let run = in_home().run();
    run.exits(0).prints(REAL_OUTPUT).warns_once("belongs to another user (uid 12345)");
    assert!(sandbox.log().len() > 1, "the environment was checked");
    assert_eq!(sandbox.tree("home"), before);
    let fix = sandbox.pcluster(["preflight", "fix"]).without("XDG_STATE_HOME").run();
    fix.prefixed().holds(fix.stderr().contains("would be in another user's directory"), "why");
    assert_eq!(sandbox.tree("home"), before);
}

/// The next check removes scratch directories that SIGKILL left, but not those of concurrent checks.
#[test]
fn scratch_that_was_left_is_swept() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.synthesizes("kill -9 $PPID\n");
    sandbox.build_image().run().dies_by(9);
    assert_ne!(sandbox.tree("tmp"), "", "it is left");
    environment.builds(crate::support::fakes::GOOD);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent().pid);
        }
    });
    sandbox.has_no_scratch();
}
