//! Width, colour, control characters, how much is printed, and a stdout that fails.

use serde_json::json;

use super::check;
use crate::support::fakes::BAD;
use crate::support::run::{Call, Run};
use crate::support::sandbox::Sandbox;

/// No line has a trailing space. A line has at most 80 columns, unless it contains a path, or only a label
/// and one long word.
#[test]
fn no_line_is_wider_than_a_terminal() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    environment.installs("aws-cdk.core", "1.152.0", "");
    sandbox.write("work/template", BAD);
    let mut runs = vec![check(&sandbox), sandbox.pcluster(["preflight", "template", "template"]).run()];
    for more in ["cdk-imagebuilder-1.153.0", "cdk-mixed-versions"] {
        runs.push(sandbox.pcluster(["preflight", "advisories", more]).run());
    }
    environment.identifies(
        "echo a long complaint of a Python that has a lot to say about what it has not got >&2; exit 1",
    );
    runs.push(check(&sandbox));
    runs.push(sandbox.pcluster(["preflight", "advisories"]).run());
    for run in runs {
        for line in run.stdout().lines() {
            let label_and_word = line.split_whitespace().count() <= 2;
            let names_a_path = line.contains(sandbox.root.to_str().unwrap());
            run.holds(
                line.chars().count() <= 80 || label_and_word || names_a_path,
                &format!("too wide: {line}"),
            );
            run.holds(line.trim_end() == line, &format!("a trailing space: {line:?}"));
        }
    }
}

/// Reports are folded at the width of the terminal, and so is the guard's stderr. Paths and commands are
/// never broken.
#[test]
fn a_narrow_terminal_folds_what_is_printed() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    environment.installs("aws-cdk.core", "1.152.0", "");
    let on_terminal = |call: Call, streams: &str| call.on_terminal("60", streams).run();
    let preflight = |arguments: &[&str]| {
        let call = arguments.iter().fold(sandbox.pcluster(["preflight"]), |call, word| call.argument(*word));
        on_terminal(call, "2>/dev/null")
    };
    let runs = [
        ("check", preflight(&["--color", "never"])),
        ("where", preflight(&["where"])),
        ("advisories", preflight(&["advisories"])),
        ("advisory", preflight(&["advisories", "cdk-imagebuilder-1.153.0"])),
        ("error", on_terminal(sandbox.pcluster(["preflight", "advisories", "nonsense"]), ">/dev/null")),
        ("guard", on_terminal(sandbox.build_image(), ">/dev/null")),
    ];
    let root = sandbox.root.to_str().unwrap();
    for (name, run) in runs {
        run.stdout_matches(&format!("narrow-{name}.txt"));
        run.is_folded(60, &[root, "https://"]);
    }
}

#[test]
fn colour_is_for_terminals_and_for_those_who_ask() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let run = |color: &str| sandbox.pcluster(["preflight", "check", "--color", color]).run();
    run("always").exits(1).stdout_matches("check-blocked-colour.txt");
    let plain = check(&sandbox);
    for color in ["auto", "never"] {
        run(color).exits(1).prints_like(&plain);
    }
    plain.holds(!plain.stdout().contains('\x1b'), "no colour on a pipe");
    let asked = sandbox.pcluster(["preflight", "check", "--color", "always"]).var("NO_COLOR", "1").run();
    asked.prints_like(&run("always"));
}

/// On a terminal there is colour, unless `NO_COLOR` is set and not empty, or `TERM` is `dumb`.
#[test]
fn no_color_is_honoured_on_a_terminal() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let terminal = "import pty, sys; pty.spawn(sys.argv[1:])";
    let call = || {
        let call = sandbox.pcluster(["preflight", "check", "--no-synth"]);
        call.under(crate::support::machine::real_python(), &["-c", terminal]).var("TERM", "xterm")
    };
    let coloured = |run: &Run| run.stdout().contains("\x1b[1;31m");
    let run = call().run();
    run.holds(coloured(&run), "colour on a terminal");
    let run = call().var("NO_COLOR", "1").run();
    run.holds(!coloured(&run), "NO_COLOR");
    let run = call().var("TERM", "dumb").run();
    run.holds(!coloured(&run), "a dumb terminal");
    let run = call().var("NO_COLOR", "").run();
    run.holds(coloured(&run), "an empty NO_COLOR counts as not set");
}

#[test]
fn quiet_prints_nothing_but_errors() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    for form in ["human", "json"] {
        sandbox
            .pcluster(["preflight", "check", "-q", "--format", form])
            .run()
            .exits(0)
            .prints("")
            .is_silent();
    }
    environment.is_broken();
    sandbox.pcluster(["preflight", "-q"]).run().exits(1).prints("").is_silent();
    sandbox.pcluster(["preflight", "-q", "where"]).run().exits(0).prints("").is_silent();
    let run = sandbox.pcluster(["preflight", "-q", "advisories", "nonsense"]).run();
    run.exits(2).prints("").prefixed().holds(!run.stderr.is_empty(), "errors are reported");
}

#[test]
fn verbose_reports_each_step_in_a_line() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox
        .pcluster(["preflight", "check", "-v"])
        .run()
        .exits(0)
        .prefixed()
        .stderr_matches("check-verbose.txt");
}

/// Commands that print something even if nothing is wrong.
const PRINTERS: [&str; 9] = [
    "man",
    "completions bash",
    "where",
    "advisories",
    "check",
    "check --format json",
    "version",
    "--help",
    "help fix",
];

/// A full disk is a failure; a reader that closes the output early, as `head` does, is not.
#[test]
fn an_answer_that_cannot_be_written_is_an_error_unless_its_reader_went_away() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    sandbox.pcluster(["preflight"]).run().exits(0);
    let sh = |line: String| sandbox.call(sandbox.path("tools/sh"), ["-c", &line]).run();
    for printer in PRINTERS.into_iter().chain(["nonsense --format json", "advisories nonsense --format=json"])
    {
        let run = sh(format!("pcluster preflight {printer} >/dev/full"));
        run.exits(1).prefixed().holds(run.stderr().ends_with(FULL), printer);
    }
    // The reader is gone before the first word is written.
    let gone = "import os, subprocess, sys\nreader, writer = os.pipe()\nos.close(reader)\nsys.exit(subprocess.call(sys.argv[1:], stdout=writer))";
    for printer in PRINTERS {
        let words = printer.split(' ');
        let call = words.fold(sandbox.pcluster(["preflight"]), Call::argument);
        call.under(crate::support::machine::real_python(), &["-c", gone]).run().exits(0).is_silent();
    }
    environment.is_broken();
    sandbox.build_image();
    let run = sh("pcluster build-image -c image.yaml -i my-image >/dev/full".into());
    run.exits(1).prefixed().holds(run.stderr().ends_with(FULL), "the guard's stop");
}

const FULL: &str =
    "pcluster-shim: error: cannot write to standard output: No space left on device (os error 28)\n";

/// Control characters in the text of a package, a template, a child, a path or an argument.
#[test]
fn nothing_that_a_terminal_obeys_reaches_it() {
    const EVIL: &str = "\x1b[2J\u{9b}31m\u{202e}\x07\u{7f}\r";
    let sandbox = Sandbox::new();
    let environment = sandbox.environment_in(&format!("venv{EVIL}"));
    crate::support::fakes::node(&sandbox);
    environment.installs("aws-cdk.core", &format!("1.2.3{EVIL}"), "");
    let template = BAD.replace("\"DistributionConfiguration\"", &json!(format!("Evil{EVIL}")).to_string());
    assert_ne!(template, BAD);
    environment.builds(&template);
    sandbox.write("work/template", &template);
    sandbox.build_image();
    let bin = environment.path("bin");
    let path = [sandbox.path("shim"), bin, sandbox.path("node"), sandbox.path("tools")];
    let run = |arguments: &[&str]| {
        let call = arguments.iter().fold(sandbox.pcluster([]), |call, word| call.argument(*word));
        let run = call.path(&path).run();
        let obeyed = |letter: char| (letter.is_control() && letter != '\n') || letter == '\u{202e}';
        run.holds(!run.stderr().contains(obeyed), "stderr is safe");
        let json = arguments.contains(&"json") || arguments[0] == "build-image";
        run.holds(json || !run.stdout().contains(obeyed), "stdout is safe");
        run.holds(!run.stdout().contains('\x1b'), "no escape, in JSON either");
        format!("{}{}", run.stdout(), run.stderr())
    };
    let evil = |text: &str| assert!(text.contains("u{1b}"), "what was given is reported: {text}");
    evil(&run(&["preflight", "check"]));
    evil(&run(&["preflight", "template", "template"]));
    evil(&run(&["preflight", "where"]));
    evil(&run(&["preflight", "advisories", EVIL]));
    evil(&run(&["preflight", EVIL]));
    evil(&run(&["preflight", "--color", EVIL]));
    evil(&run(&["preflight", "template", EVIL]));
    evil(&run(&["preflight", "check", "--real", EVIL]));
    evil(&run(&["build-image", "-c", "image.yaml", "-i", "my-image"]));
    run(&["preflight", EVIL, "--format", "json"]);
    environment.answers(&json!({"kind": "rejected", "stage": "configuration", "message": EVIL}));
    evil(&run(&["preflight", "-c", "image.yaml", "-i", "my-image"]));
    environment.answers(&json!({"kind": "failed", "stage": "import", "message": EVIL}));
    evil(&run(&["preflight", "check"]));
    environment.synthesizes("printf '\\033[2J' >&2; exit 1");
    evil(&run(&["build-image", "-c", "image.yaml", "-i", "my-image"]));
    environment.identifies("printf '\\033[2J'");
    evil(&run(&["build-image", "-c", "image.yaml", "-i", "my-image"]));
}
