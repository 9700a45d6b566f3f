//! scripts/fleet.yml by ansible-core, on hosts that are homes of this machine; scripts/fleet-ssm.yml as
//! Systems Manager runs it, with stand-ins for S3 and for the login of another user.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use snapbox::assert::Action;
use snapbox::data::DataFormat;
use snapbox::{Assert, Data};

use crate::environment_copy::{EnvironmentCopy, ROOT, With};
use crate::environments::{BROKEN, Environment, GOOD, Ran, Sandbox, program};

const SHIM: &str = env!("CARGO_BIN_EXE_pcluster");

/// The widest line of the table, in the frame in which Ansible prints a list.
const WIDTH: usize = 80;

/// Compares what a run shows with tests/snapshots/e2e/; `SNAPSHOTS=overwrite` writes it instead.
#[track_caller]
fn matches(snapshot: &str, text: &str, sandbox: &Sandbox, ran: &Ran) {
    let root = sandbox.path("");
    let text = text.replace(root.to_str().unwrap().trim_end_matches('/'), "[SANDBOX]");
    let text = text.replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
    let file = Path::new(ROOT).join("tests/snapshots/e2e").join(snapshot);
    let assert = Assert::new().action_env("SNAPSHOTS").normalize_paths(false);
    let expected = Data::read_from(&file, Some(DataFormat::Text));
    let Err(difference) = assert.try_eq(Some(&snapshot), text.clone().into(), expected) else { return };
    if assert.selected_action() == Action::Overwrite {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    } else {
        panic!("SNAPSHOTS=overwrite renews {}:\n{difference}\n{ran}", file.display());
    }
}

fn write_script(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The controller: a sandbox with an inventory, and the executable without its debug information.
struct Fleet {
    sandbox: Sandbox,
    hosts: serde_json::Map<String, Value>,
}

impl Fleet {
    fn new() -> Self {
        let mut sandbox = Sandbox::of(GOOD);
        let path = [sandbox.path("node"), "/usr/bin".into(), "/bin".into()];
        sandbox.set("PATH", std::env::join_paths(path).unwrap());
        sandbox.set("PWD", sandbox.path("work"));
        sandbox.set("ANSIBLE_NOCOLOR", "1");
        let stripped = ["-o", "executable", SHIM];
        sandbox.run(&program("strip"), &stripped).ends_with(0);
        Self { sandbox, hosts: serde_json::Map::new() }
    }

    /// A host with a home of its own, and variables of the inventory.
    fn add(&mut self, name: &str, variables: &Value) -> PathBuf {
        let home = self.sandbox.path("home").join(name);
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join(".bashrc"), "# the user's\n").unwrap();
        let path = format!("{}:/usr/bin:/bin", self.sandbox.path("node").display());
        let mut host = json!({"fleet_environment": {"HOME": home, "PATH": path}});
        host.as_object_mut().unwrap().extend(variables.as_object().unwrap().clone());
        self.hosts.insert(name.to_owned(), host);
        home
    }

    fn guard_of(&self, host: &str) -> PathBuf {
        self.sandbox.path("home").join(host).join(".local/share/pcluster-shim/bin/pcluster")
    }

    fn play(&self, arguments: &[&str]) -> Play {
        let python = Environment::named("ansible").bin("python");
        let inventory = json!({"login": {
            "hosts": self.hosts,
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": python,
                "fleet_file": "executable",
            },
        }});
        let inventory = self.sandbox.write("inventory.json", inventory.to_string());
        let playbook = Path::new(ROOT).join("scripts/fleet.yml");
        let first = ["-i", inventory.to_str().unwrap(), playbook.to_str().unwrap()];
        let all = [&first[..], arguments].concat();
        let ran = self.sandbox.run(&Environment::named("ansible").bin("ansible-playbook"), &all);
        Play { results: self.sandbox.path("work/fleet-results"), ran }
    }
}

struct Play {
    ran: Ran,
    results: PathBuf,
}

impl Play {
    /// A number of the recap, for each host.
    #[track_caller]
    fn recap(&self, what: &str) -> BTreeMap<String, u32> {
        let out = self.ran.out();
        let (_, recap) = out.split_once("PLAY RECAP").unwrap_or_else(|| panic!("no recap\n{}", self.ran));
        let lines = recap.lines().filter_map(|line| line.split_once(" : "));
        let number = |numbers: &str| {
            let mut words = numbers.split_whitespace().filter_map(|word| word.split_once('='));
            words.find(|(name, _)| *name == what).unwrap().1.parse().unwrap()
        };
        lines.map(|(host, numbers)| (host.trim().to_owned(), number(numbers))).collect()
    }

    #[track_caller]
    fn changes(&self, hosts: usize) {
        let changed = self.recap("changed");
        assert_eq!(changed.values().filter(|number| **number > 0).count(), hosts, "{}", self.ran);
    }

    #[track_caller]
    fn changes_nothing(&self) -> &Self {
        let changed = self.recap("changed");
        assert!(!changed.is_empty() && changed.values().all(|number| *number == 0), "{}", self.ran);
        self
    }

    /// The table on the terminal, and the messages with which hosts fail at the end.
    #[track_caller]
    fn shown(&self) -> String {
        let out = self.ran.out();
        let (_, table) = out.split_once("\"msg\": [\n").unwrap_or_else(|| panic!("no table\n{}", self.ran));
        let (table, rest) = table.split_once("\n    ]\n").unwrap();
        let mut shown = String::new();
        for line in table.lines() {
            // A path is as long as it is.
            assert!(line.chars().count() <= WIDTH || line.contains("  /"), "{line}\n{}", self.ran);
            let line: String = serde_json::from_str(line.trim().trim_end_matches(',')).unwrap();
            writeln!(shown, "{line}").unwrap();
        }
        let mut messages: Vec<_> = rest
            .lines()
            .filter_map(|line| Some(line.strip_prefix("fatal: ")?.split_once("\"msg\": ")?.1))
            .collect();
        messages.sort_unstable();
        for message in messages {
            writeln!(shown, "{}", message.trim_end_matches('}')).unwrap();
        }
        shown
    }

    /// What is kept of a host.
    #[track_caller]
    fn result(&self, host: &str) -> Value {
        let text = fs::read_to_string(self.results.join(format!("{host}.json")));
        text.map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
            .unwrap_or_else(|error| panic!("the result of {host}: {error}\n{}", self.ran))
    }
}

/// Every kind of host in one table, whatever becomes of the others; a second run changes nothing.
#[test]
fn hosts_that_differ_stand_in_one_table() {
    let mut fleet = Fleet::new();
    let [no_ssh, no_python] = ["no-ssh", "no-python"].map(|name| fleet.sandbox.path("work").join(name));
    let refusal = "ssh: connect to host far port 22: Connection refused";
    write_script(&no_ssh, &format!("#!/bin/sh\necho '{refusal}' >&2\nexit 255\n"));
    write_script(&no_python, "#!/bin/sh\necho 'python3: not found' >&2\nexit 127\n");
    for (host, environment) in [("ready", GOOD), ("blocked", BROKEN)] {
        let home = fleet.add(host, &json!({}));
        symlink(Environment::named(environment).directory, home.join("venv")).unwrap();
    }
    fleet.add("none", &json!({}));
    // Not even root can make a directory there.
    fleet.add("unwritable", &json!({"fleet_prefix": "/proc/pcluster-shim"}));
    fleet.add("far", &json!({"ansible_connection": "ssh", "ansible_ssh_executable": no_ssh}));
    fleet.add("no-python", &json!({"ansible_python_interpreter": no_python}));

    // Of what the first run would do, nothing is done; what is not there is not checked.
    let dry = fleet.play(&["--check", "--limit", "none"]);
    dry.ran.ends_with(0);
    matches("fleet-dry-run.txt", &dry.shown(), &fleet.sandbox, &dry.ran);
    assert_eq!(dry.recap("changed")["none"], 1, "{}", dry.ran);
    assert!(!fleet.sandbox.path("home/none/.local").exists() && !dry.results.exists(), "{}", dry.ran);

    // One after the other: a batch of which no host is left ends no run.
    let first = fleet.play(&["-e", "fleet_serial=3"]);
    first.ran.ends_with(2);
    matches("fleet-first.txt", &first.shown(), &fleet.sandbox, &first.ran);
    let report = fs::read_to_string(first.results.join("report.txt")).unwrap();
    assert!(first.shown().starts_with(&report), "{report}\n{}", first.ran);
    let failed = first.recap("failed");
    let fails: Vec<_> = failed.iter().filter(|(_, number)| **number > 0).map(|(host, _)| &**host).collect();
    assert_eq!(fails, ["far", "no-python", "unwritable"], "{}", first.ran);
    for host in ["ready", "blocked"] {
        assert_eq!(first.result(host)[0]["verdict"], host, "{}", first.ran);
    }
    for host in ["none", "unwritable", "far", "no-python"] {
        assert!(first.result(host)["error"]["message"].is_string(), "{host}\n{}", first.ran);
    }
    for host in ["ready", "blocked", "none"] {
        assert!(first.recap("changed")[host] == 1 && fleet.guard_of(host).is_file(), "{host}\n{}", first.ran);
        let home = fleet.sandbox.path("home").join(host);
        assert!(fs::read_to_string(home.join(".bashrc")).unwrap().contains("pcluster-shim"), "{}", first.ran);
        let mut left = fs::read_dir(home).unwrap().flatten();
        assert!(
            !left.any(|entry| entry.file_name().display().to_string().contains("fleet")),
            "{}",
            first.ran
        );
    }

    let more = json!({"fleet_check_arguments": ["--no-synth"], "fleet_fail_on_blocked": true}).to_string();
    let second = fleet.play(&["--limit", "ready,blocked,none", "-e", &more]);
    second.changes_nothing().ran.ends_with(2);
    matches("fleet-second.txt", &second.shown(), &fleet.sandbox, &second.ran);
    let failed = second.recap("failed");
    assert_eq!([failed["ready"], failed["blocked"], failed["none"]], [0, 1, 0], "{}", second.ran);
}

/// An environment that is guarded in place, from a tarball and from a wheel; pip puts its own pcluster back.
#[test]
fn a_guard_that_was_reinstalled_over_is_put_there_again() {
    let copy = EnvironmentCopy::of(GOOD, With::Pip);
    let venv = copy.environment.directory.clone();
    let launcher = venv.join("bin/pcluster");
    let mut fleet = Fleet::new();
    fleet.add(
        "login-1",
        &json!({
            "fleet_venvs": [venv],
            "fleet_check_arguments": ["--no-synth", "--root", venv],
        }),
    );
    let pack = "\
import sys, tarfile, zipfile
with tarfile.open('shim.tar.gz', 'w:gz') as tarball:
    tarball.add('executable', 'pcluster-shim-1.0-x/bin/pcluster')
with zipfile.ZipFile('shim.whl', 'w') as wheel:
    wheel.write('executable', 'pcluster_preflight-1.0.data/scripts/pcluster-preflight')
";
    let python = Environment::named("ansible").bin("python");
    fleet.sandbox.run(&python, &["-c", pack]).ends_with(0);
    let as_installed = fs::read(&launcher).unwrap();

    let first = fleet.play(&["-e", "fleet_file=shim.tar.gz"]);
    first.ran.ends_with(0);
    let own = fs::read(fleet.sandbox.path("work/executable")).unwrap();
    assert!(fs::read(&launcher).unwrap() == own, "it is not guarded\n{}", first.ran);
    assert_eq!(fs::read(venv.join("bin/pcluster.real")).unwrap(), as_installed, "{}", first.ran);
    assert_eq!(first.result("login-1")[0]["verdict"], "ready", "{}", first.ran);
    let second = fleet.play(&["-e", "fleet_file=shim.whl"]);
    second.changes_nothing().ran.ends_with(0);

    // As pip does it.
    fs::remove_file(&launcher).unwrap();
    write_script(&launcher, std::str::from_utf8(&as_installed).unwrap());
    // Beside it, one that cannot run what it is sent, one without a file to send, and one without the environment.
    fleet.add("login-2", &json!({"fleet_file": "inventory.json"}));
    fleet.add("login-3", &json!({"fleet_file": "/no/such/shim.tar.gz"}));
    fleet.add("login-4", &json!({"fleet_venvs": ["/no/such/environment"]}));
    let third = fleet.play(&[]);
    third.ran.ends_with(2);
    assert_eq!(third.recap("changed").into_values().collect::<Vec<_>>(), [1, 0, 0, 0], "{}", third.ran);
    assert!(fs::read(&launcher).unwrap() == own, "it is not guarded again\n{}", third.ran);
    let shown = third.shown().replace(venv.to_str().unwrap(), "[VENV]");
    matches("fleet-reinstalled.txt", &shown, &fleet.sandbox, &third.ran);
}

const ARCHIVE: &str = "s3://builds/shim.tar.gz";

/// The SSM document, with an `aws` whose S3 is a directory, and a login of the user who runs the test.
struct Instance {
    sandbox: Sandbox,
    user: String,
    sha256: String,
}

impl Instance {
    fn new() -> Self {
        let mut sandbox = Sandbox::of(GOOD);
        let stubs = sandbox.path("work/stubs");
        fs::create_dir_all(&stubs).unwrap();
        fs::create_dir_all(sandbox.path("work/s3/builds")).unwrap();
        let s3 = sandbox.path("work/s3");
        let aws = format!(
            "#!/bin/sh\n[ \"$1 $2 $3\" = 's3 cp --only-show-errors' ] || exit 2\nfrom=$4 to=$5\n\
             case $from in s3://*) from='{s3}'/${{from#s3://}} ;; esac\n\
             case $to in s3://*) to='{s3}'/${{to#s3://}}; mkdir -p \"$(dirname \"$to\")\" ;; esac\n\
             exec cp \"$from\" \"$to\"\n",
            s3 = s3.display()
        );
        write_script(&stubs.join("aws"), &aws);
        // Startup files may print.
        let runuser = format!(
            "#!/bin/sh\ncase $1 in\n    -l) HOME='{}' && export HOME && echo 'Welcome!' && exec sh -c \"$4\" ;;\n    \
             -u) shift 3 && exec \"$@\" ;;\nesac\nexit 2\n",
            sandbox.path("home").display()
        );
        write_script(&stubs.join("runuser"), &runuser);
        let path = [stubs, sandbox.path("node"), "/usr/bin".into(), "/bin".into()];
        sandbox.set("PATH", std::env::join_paths(path).unwrap());
        sandbox.set("AWS_SSM_INSTANCE_ID", "i-0123456789abcdef0");
        fs::write(sandbox.path("home/.bashrc"), "# the user's\n").unwrap();

        let packed = sandbox.path("work/pcluster-shim-1.0-x");
        fs::create_dir_all(packed.join("bin")).unwrap();
        sandbox.run(&program("strip"), &["-o", "pcluster-shim-1.0-x/bin/pcluster", SHIM]).ends_with(0);
        fs::copy(Path::new(ROOT).join("install.sh"), packed.join("install.sh")).unwrap();
        let tar = ["-czf", "s3/builds/shim.tar.gz", "pcluster-shim-1.0-x"];
        sandbox.run(&program("tar"), &tar).ends_with(0);
        let sum = sandbox.run(&program("sha256sum"), &["s3/builds/shim.tar.gz"]).out();
        let user = sandbox.run(&program("id"), &["-un"]).out().trim().to_owned();
        Self { sandbox, user, sha256: sum.split_whitespace().next().unwrap().to_owned() }
    }

    /// What Systems Manager makes of the document for each command: a script, or null and the parameter
    /// that is refused.
    #[track_caller]
    fn scripts(&self, commands: &[Value]) -> Vec<[Value; 2]> {
        let mut commands = commands.to_owned();
        for command in &mut commands {
            let command = command.as_object_mut().unwrap();
            let required = [("Archive", ARCHIVE), ("Sha256", &self.sha256), ("User", &self.user)];
            for (name, value) in required {
                command.entry(name).or_insert_with(|| value.into());
            }
        }
        let [program, document] =
            ["tests/e2e/ssm_document.py", "scripts/fleet-ssm.yml"].map(|file| Path::new(ROOT).join(file));
        let commands = Value::from(commands).to_string();
        let arguments = [program.as_os_str(), document.as_os_str(), commands.as_ref()];
        let ran = self.sandbox.run(&Environment::named("moto").bin("python"), &arguments);
        ran.ends_with(0);
        serde_json::from_value(ran.json()).unwrap()
    }

    #[track_caller]
    fn run(&self, script: &[Value; 2]) -> Ran {
        let text = script[0].as_str().unwrap_or_else(|| panic!("{} is refused", script[1]));
        let file = self.sandbox.write("_script.sh", text);
        let ran = self.sandbox.run(&program("dash"), &[file]);
        let mut left = fs::read_dir(self.sandbox.path("tmp")).unwrap().flatten();
        assert!(left.next().is_none(), "something is left\n{ran}");
        ran
    }

    fn shown(ran: &Ran) -> String {
        format!("{}--- {}\n{}", ran.out(), ran.status, ran.err())
    }
}

#[test]
fn the_ssm_document_guards_and_checks() {
    let instance = Instance::new();
    let sandbox = &instance.sandbox;
    let home = sandbox.path("home");

    let commands = [
        json!({}),
        json!({"Bucket": "results", "FailOnBlocked": "true"}),
        json!({"Sha256": "0".repeat(64)}),
        json!({"Archive": "s3://builds/absent.tar.gz"}),
        json!({"User": "no-such-user-at-all"}),
        json!({"Prefix": "/a", "Venv": "/b"}),
        json!({"Venv": "/no/such/environment"}),
    ];
    let scripts = instance.scripts(&commands);

    let text = sandbox.write("_script.sh", scripts[0][0].as_str().unwrap());
    for check in [&["shellcheck", "--shell=sh"][..], &["busybox", "sh", "-n"]] {
        let arguments = [&check[1..], &[text.to_str().unwrap()]].concat();
        sandbox.run(&program(check[0]), &arguments).ends_with(0);
    }
    let none = instance.run(&scripts[0]);
    none.ends_with(0);
    symlink(Environment::named(BROKEN).directory, home.join("venv")).unwrap();
    let blocked = instance.run(&scripts[1]);
    blocked.ends_with(1);
    let kept = format!("work/s3/results/pcluster-preflight/i-0123456789abcdef0/{}.json", instance.user);
    let kept = fs::read_to_string(sandbox.path(&kept)).unwrap_or_else(|error| panic!("{error}\n{blocked}"));
    let kept: Value =
        serde_json::from_str(&kept).unwrap_or_else(|error| panic!("{error}\n{kept}\n{blocked}"));
    assert_eq!(kept[0]["verdict"], "blocked", "{blocked}");
    let shim = home.join(".local/share/pcluster-shim/bin/pcluster");
    assert!(shim.is_file() && fs::read_to_string(home.join(".bashrc")).unwrap().contains("pcluster-shim"));

    let user = &instance.user;
    let mut text = Instance::shown(&none) + &Instance::shown(&blocked);
    for script in &scripts[2..] {
        let ran = instance.run(script);
        ran.ends_with(1);
        text += &Instance::shown(&ran);
    }
    let text = text
        .replace(&instance.sha256, "[SHA256]")
        .replace(&format!("check --all as {user}"), "check --all as [USER]");
    let text =
        text.replace(&format!("/{user}.json"), "/[USER].json").replace(&format!("of {user} "), "of [USER] ");
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("cp: "))
        .fold(String::new(), |text, line| text + line + "\n");
    matches("fleet-ssm.txt", &text, sandbox, &blocked);
}

/// Systems Manager puts a value into the script as it is: whatever means something to a shell is refused.
#[test]
fn no_parameter_of_the_ssm_document_reaches_the_shell() {
    let instance = Instance::new();
    let parameters = [
        ("Archive", "s3://builds/shim.tar.gz"),
        ("Sha256", &*instance.sha256),
        ("User", "alice"),
        ("Prefix", "/opt/pcluster-shim"),
        ("Venv", "/opt/pcluster"),
        ("ModifyPath", "true"),
        ("Bucket", "results"),
        ("KeyPrefix", "a/b"),
        ("FailOnBlocked", "true"),
    ];
    let hostile = [
        "';id;'",
        "\"",
        "$(id)",
        "`id`",
        " ",
        "\nid",
        "\\",
        "{{ User }}",
        "*",
        "?",
        "&",
        "|",
        ">",
        "<",
        "~",
        "#",
        ";",
        "ä",
    ];
    let mut commands = Vec::new();
    for (name, value) in parameters {
        commands.push(json!({name: value}));
        let values = hostile.iter().flat_map(|one| [format!("{value}{one}"), format!("{one}{value}")]);
        commands.extend(values.map(|value| json!({name: value})));
    }
    commands.push(json!({"User": "-alice"}));
    let scripts = instance.scripts(&commands);
    assert_eq!(scripts.len(), commands.len());
    for (command, script) in commands.iter().zip(&scripts) {
        let (name, value) = command.as_object().unwrap().iter().next().unwrap();
        let is_harmless = parameters.contains(&(&**name, value.as_str().unwrap()));
        assert_eq!(script[0].is_string(), is_harmless, "{command}: {}", script[1]);
        assert!(is_harmless || script[1] == **name, "{command}: {}", script[1]);
    }
}

/// What a host prints, or whether it answers at all, is not to be trusted with the table of the others.
#[test]
fn a_host_that_prints_no_report_or_hangs_stops_no_other() {
    let mut fleet = Fleet::new();
    let homes: Vec<PathBuf> = ["a b", "a_b", "slow"].map(|name| fleet.add(name, &json!({}))).into();
    let venv = Environment::named(GOOD).directory;
    symlink(&venv, homes[0].join("venv")).unwrap();
    // A variable of a host is no part of the command, and one argument needs no list.
    let quick = ["-e", "fleet_check_arguments=--no-synth", "-e", "fleet_timeout=20"];
    fleet.hosts["a b"]["fleet_environment"]["program"] = "/bin/echo".into();
    fleet.play(&quick).changes(3);
    for (home, script) in homes[1..].iter().zip(["#!/bin/sh\necho 5\n", "#!/bin/sh\nexec sleep 1000\n"]) {
        let preflight = home.join(".local/share/pcluster-shim/bin/pcluster-preflight");
        fs::remove_file(&preflight).unwrap();
        write_script(&preflight, script);
    }
    let play = fleet.play(&quick);
    play.ran.ends_with(2);
    assert_eq!(play.recap("failed"), [("a b".into(), 0), ("a_b".into(), 1), ("slow".into(), 1)].into());
    let shown = play.shown().replace(venv.to_str().unwrap(), "[VENV]");
    matches("fleet-no-report.txt", &shown, &fleet.sandbox, &play.ran);
    // Two names are two files.
    assert_eq!(play.result("a%20b")[0]["verdict"], "ready", "{}", play.ran);
    assert!(play.result("a_b")["error"].is_object(), "{}", play.ran);
}

/// Every parameter of the document stands in the script, and in single quotes.
#[test]
fn each_parameter_of_the_ssm_document_is_quoted() {
    let text = fs::read_to_string(Path::new(ROOT).join("scripts/fleet-ssm.yml")).unwrap();
    let used: Vec<&str> = text.lines().filter(|line| line.contains("{{")).collect();
    for line in &used {
        let (_, value) = line.split_once('=').unwrap();
        assert!(value.starts_with("'{{ ") && value.ends_with(" }}'"), "{line}");
    }
    assert_eq!(used.len(), 9, "{used:?}");
}
