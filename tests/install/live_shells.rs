//! An installation and an uninstallation while a shell is running; completion; the manual page.

use std::fs;

use serde_json::{Value, json};

use super::Home;
use crate::support::machine::{output, real_python};

/// Types the line of each step into a shell in a separate terminal, and prints what the shell shows at
/// each step.
const DRIVER: &str = r#"
import json, os, pty, select, struct, sys, fcntl, termios

shell, steps = sys.argv[1], json.load(open(sys.argv[2]))
pid, terminal = pty.fork()
if pid == 0:
    os.execv(shell, [shell, "-i"])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
seen = b""


def until(word):
    """Reads up to the word, and returns what precedes it. Fails if nothing comes for a minute."""
    global seen
    while word not in seen:
        if not select.select([terminal], [], [], 60)[0]:
            sys.exit(f"no {word!r} in {seen!r}")
        seen += os.read(terminal, 65536)
    before, seen = seen.split(word, 1)
    return before


def ask(line):
    # printf puts the word together, so that the echo of the typed line does not contain the word.
    os.write(terminal, line.encode() + b"\r")
    os.write(terminal, b"printf 'STEP%s\\n' END\r")
    return until(b"STEPEND").decode(errors="replace")


ask(":")
answers = {}
for name, line in steps:
    if line == "NEXT":
        said = answers["install"].split("or run this: ", 1)[1]
        line = said.splitlines()[0].strip()
    answers[name] = ask(line)
os.write(terminal, b"exit\r")
json.dump(answers, sys.stdout)
"#;

/// Types these lines into a live interactive shell, and returns what it shows for each, by the step's name.
fn live(home: &Home, shell: &str, steps: &[(&str, String)]) -> Answers {
    let driver = home.sandbox.write("driver.py", DRIVER);
    let file = home.sandbox.write("steps.json", json!(steps).to_string());
    let shell = home.path("tools").join(shell);
    let call = home.sandbox.call(real_python(), []).argument(driver).argument(&shell).argument(file);
    let path = ["venv/bin", "node", "tools"].map(|name| home.path(name));
    let call = call
        .path(&path)
        .var("SHELL", &shell)
        .var("TERM", "xterm")
        .var("HISTFILE", "/dev/null")
        .var("XDG_DATA_HOME", home.path("data"));
    let run = call.run();
    run.exits(0);
    Answers { shell: shell.display().to_string(), of_steps: run.json(), all: run.stdout() }
}

/// What a shell showed at each step.
struct Answers {
    shell: String,
    of_steps: Value,
    all: String,
}

impl Answers {
    #[track_caller]
    fn say(&self, step: &str, text: &str) {
        let answer = self.at(step).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(answer.contains(text), "{}: {step} has no {text:?}:\n{}", self.shell, self.all);
    }

    #[track_caller]
    fn do_not_say(&self, step: &str, text: &str) {
        assert!(!self.at(step).contains(text), "{}: {step} has {text:?}:\n{}", self.shell, self.all);
    }

    fn at(&self, step: &str) -> &str {
        self.of_steps[step].as_str().unwrap()
    }
}

/// One live shell from before the installation until after the uninstall, with an environment activated and
/// deactivated in between.
#[test]
fn trap_06_and_08_one_live_shell_through_install_activate_deactivate_and_uninstall() {
    for shell in ["bash", "zsh", "fish"] {
        let home = Home::new();
        fs::create_dir(home.path("data")).unwrap();
        let other = home.sandbox.environment_in("other");
        other.is_broken();
        other.really("echo \"the other pcluster: $*\"");
        let (venv, fish) = (home.path("other"), if shell == "fish" { ".fish" } else { "" });
        let launcher = fs::read(venv.join("bin/pcluster")).unwrap();
        // The environment's activation scripts come from a real environment.
        output(
            real_python(),
            &["-m", "venv", "--without-pip", home.path("v").to_str().unwrap()].map(AsRef::as_ref),
        );
        for name in ["activate", "activate.fish"] {
            let text = fs::read_to_string(home.path("v/bin").join(name)).unwrap();
            let text = text.replace(home.path("v").to_str().unwrap(), venv.to_str().unwrap());
            home.sandbox.write(venv.join("bin").join(name), text);
        }
        let install = format!("sh '{}'", home.path("install.sh").display());
        let build = "pcluster build-image --image-configuration image.yaml --image-id my-image".to_owned();
        let version = "pcluster version".to_owned();
        let steps = [
            ("before", version.clone()),
            ("install", format!("{install} --binary '{}'", home.path("built").display())),
            ("activate-shim", "NEXT".into()),
            ("version", version.clone()),
            ("guarded", build.clone()),
            ("activate", format!(". '{}{fish}'", venv.join("bin/activate").display())),
            ("other-version", version.clone()),
            ("other-guarded", build.clone()),
            ("where", "pcluster preflight where".into()),
            ("where-status", "pcluster preflight where -q && echo stat''us 0".into()),
            ("where-of-scripts", "pcluster-preflight where".into()),
            ("exported", "env".into()),
            ("deactivate", "deactivate".into()),
            ("version-again", version.clone()),
            ("guarded-again", build.clone()),
            ("uninstall", format!("{install} --uninstall")),
            ("version-after", version.clone()),
            ("build-after", build.clone()),
            (
                "rehash",
                if shell == "fish" { "functions -e pcluster" } else { "unset -f pcluster; hash -r" }.into(),
            ),
            ("version-rehashed", version),
            ("build-rehashed", build),
        ];
        let answers = live(&home, shell, &steps);
        for step in ["before", "version", "version-again", "version-after", "version-rehashed"] {
            answers.say(step, "the real pcluster: version");
        }
        for step in ["guarded", "other-guarded", "guarded-again"] {
            answers.say(step, "pcluster-shim stopped build-image");
        }
        for step in ["build-after", "build-rehashed"] {
            answers.say(step, "the real pcluster: build-image");
        }
        answers.say("other-version", "the other pcluster: version");
        answers.say("where", "To guard the environment itself, run");
        answers.say("where", "call pcluster in this shell: guarded by install.sh's function");
        answers.say("where", "pcluster in a script: not guarded");
        answers.say("where-status", "status 0");
        answers.say("where-of-scripts", "build-image is not guarded");
        answers.do_not_say("exported", "PCLUSTER_SHIM_FUNCTION");
        answers.say("where", &format!("real {}", venv.join("bin/pcluster").display()));
        assert_eq!(fs::read(venv.join("bin/pcluster")).unwrap(), launcher);
        home.is_as_before(&home.uninstall());
    }
}

/// Completion in live shells: the shim's own command is completed under both of its names. For everything
/// else, file names are completed, as without the shim.
#[test]
fn completion_in_live_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let home = Home::new();
        fs::create_dir(home.path("data")).unwrap();
        home.install();
        let steps = [
            ("command", "pcluster preflight wh\t"),
            ("own name", "pcluster-preflight wh\t"),
            ("option", "pcluster preflight advisories --form\t js\t"),
            ("own option", "pcluster-preflight advisories --form\t js\t"),
            ("advisory", "pcluster preflight advisories marsh\t"),
            ("fix", "pcluster-preflight fix --dry-run marsh\t"),
            ("install", "pcluster-preflight install --no-mod\t --help"),
            ("not of install", "pcluster-preflight install --form\t"),
            ("after options", "pcluster preflight -q --color never wh\t"),
            ("word", "pcluster prefl\t where"),
            ("file", "pcluster imag\t"),
            ("later file", "pcluster create-cluster -c imag\t"),
            ("file of preflight", "pcluster preflight template imag\t"),
        ];
        let answers = live(&home, shell, &steps.map(|(name, line)| (name, line.to_owned())));
        for step in ["command", "own name", "word"] {
            answers.say(step, "on PATH ");
        }
        for step in ["option", "own option"] {
            answers.say(step, "\"schemaVersion\": 1");
        }
        answers.do_not_say("after options", "unrecognized");
        // Completion gives the full id, so the command shows the whole advisory.
        answers.say("advisory", "effect rejects the argument");
        answers.say("fix", "marshmallow-4");
        answers.say("install", "usage: install.sh");
        answers.do_not_say("not of install", "--format");
        answers.say("file", "the real pcluster: image.yaml");
        answers.say("later file", "the real pcluster: create-cluster -c image.yaml");
        answers.say("file of preflight", "image.yaml");
    }
}

/// The page is well formed. It is in `share/man` next to `bin`: `man` searches such a directory if `bin`
/// is on PATH.
#[test]
fn the_manual_page_is_installed() {
    let home = Home::new();
    home.install();
    let page = fs::read_to_string(home.prefix().join("share/man/man1/pcluster-preflight.1")).unwrap();
    for line in [
        ".SH COMMANDS",
        ".SS \"fix [ID]...\"",
        ".SS \"template FILE\"",
        ".SH \"OPTIONS OF EVERY COMMAND\"",
        ".B PCLUSTER_SHIM_MODE",
        ".I $XDG_STATE_HOME/pcluster\\-shim",
        ".SH EXAMPLES",
    ] {
        assert!(page.lines().any(|own| own == line), "{line}:\n{page}");
    }
    assert!(!page.contains("FORMAT>\\fR\n.SS"), "options that all commands have are described once");
}
