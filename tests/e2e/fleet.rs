//! scripts/fleet.yml, run by ansible-core on hosts that are home directories on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::environment_copy::{EnvironmentCopy, With};
use crate::environments::{BROKEN, Environment, GOOD, ROOT, RealSandbox};
use crate::support::machine::{on_this_machine, write_script};
use crate::support::run::Run;

/// The controller: a sandbox with an inventory, and with the shim's executable, stripped of its
/// debug information.
struct Fleet {
    sandbox: RealSandbox,
    hosts: serde_json::Map<String, Value>,
}

impl Fleet {
    fn new() -> Self {
        let mut sandbox = RealSandbox::of(GOOD);
        sandbox.set("PATH", "/usr/bin:/bin");
        sandbox.set("ANSIBLE_NOCOLOR", "1");
        let stripped = ["-o", "executable", env!("CARGO_BIN_EXE_pcluster")];
        sandbox.call(&on_this_machine("strip"), &stripped).run().exits(0);
        Self { sandbox, hosts: serde_json::Map::new() }
    }

    /// Adds a host with its own home, and with the pcluster of an environment on PATH. Returns the home.
    fn add(&mut self, name: &str, environment: &str, variables: &Value) -> PathBuf {
        let home = self.sandbox.path("home").join(name);
        fs::create_dir_all(&home).unwrap();
        let pcluster = Environment::named(environment).directory.join("bin");
        let path = format!("{}:{}:/usr/bin:/bin", pcluster.display(), self.sandbox.path("node").display());
        let mut host = json!({"fleet_environment": {"HOME": home, "PATH": path}});
        host.as_object_mut().unwrap().extend(variables.as_object().unwrap().clone());
        self.hosts.insert(name.to_owned(), host);
        home
    }

    #[track_caller]
    fn play(&self, arguments: &[&str]) -> Run {
        let ansible = Environment::named("ansible");
        let inventory = json!({"all": {
            "hosts": self.hosts,
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": ansible.bin("python"),
                "fleet_binary": self.sandbox.path("work/executable"),
                "fleet_check": ["--no-synth"],
            },
        }});
        let inventory = self.sandbox.write("work/inventory.json", inventory.to_string());
        let playbook = Path::new(ROOT).join("scripts/fleet.yml");
        let first = ["-i", inventory.to_str().unwrap(), playbook.to_str().unwrap()];
        self.sandbox.call(&ansible.bin("ansible-playbook"), &[&first[..], arguments].concat()).run()
    }
}

/// A host's row in the table that the playbook prints: verdict, version, and the rest.
#[track_caller]
fn row(ran: &Run, host: &str) -> [String; 3] {
    let out = ran.stdout();
    let begin = format!("\"{host} ");
    let mut lines = out.lines().map(str::trim_start);
    let line = lines.find_map(|line| line.strip_prefix(&begin)).unwrap_or_else(|| panic!("{host}\n{ran}"));
    let line = line.trim_end_matches(',').trim_end_matches('"').trim_start();
    let (verdict, rest) = line.split_once(' ').unwrap();
    let (version, rest) = rest.trim_start().split_once(' ').unwrap();
    [verdict, version, rest.trim_start()].map(str::to_owned)
}

/// One of the numbers for a host in Ansible's recap.
#[track_caller]
fn recap(ran: &Run, host: &str, what: &str) -> u32 {
    let out = ran.stdout();
    let (_, recap) = out.split_once("PLAY RECAP").unwrap_or_else(|| panic!("no recap\n{ran}"));
    let line = recap.lines().find(|line| line.starts_with(&format!("{host} "))).unwrap();
    let mut words = line.split_whitespace().filter_map(|word| word.split_once('='));
    words.find(|(name, _)| *name == what).unwrap().1.parse().unwrap()
}

#[test]
fn hosts_are_guarded_and_checked_and_a_second_run_changes_nothing() {
    let mut fleet = Fleet::new();
    let homes = [fleet.add("ready", GOOD, &json!({})), fleet.add("blocked", BROKEN, &json!({}))];
    let paths = [GOOD, BROKEN].map(|name| Environment::named(name).bin("pcluster").display().to_string());
    let expected = [
        ["ready".into(), "3.1.3".into(), paths[0].clone()],
        ["blocked".into(), "3.1.3".into(), format!("{}: cdk-imagebuilder-1.153.0", paths[1])],
    ];

    let first = fleet.play(&[]);
    first.exits(0);
    assert_eq!(["ready", "blocked"].map(|host| row(&first, host)), expected, "{first}");
    let executable = fs::read(fleet.sandbox.path("work/executable")).unwrap();
    for (host, home) in ["ready", "blocked"].into_iter().zip(&homes) {
        assert!(recap(&first, host, "changed") > 0, "{host}\n{first}");
        let guard = fs::read(home.join(".local/share/pcluster-shim/bin/pcluster")).unwrap();
        assert!(guard == executable, "{host} is not guarded\n{first}");
    }

    let second = fleet.play(&["-e", "fleet_fail_on_blocked=true"]);
    second.exits(2);
    assert_eq!(["ready", "blocked"].map(|host| row(&second, host)), expected, "{second}");
    assert_eq!(["ready", "blocked"].map(|host| recap(&second, host, "changed")), [0, 0], "{second}");
    assert_eq!(["ready", "blocked"].map(|host| recap(&second, host, "failed")), [0, 1], "{second}");
}

#[test]
fn a_host_that_fails_is_in_the_table_and_stops_no_other() {
    let mut fleet = Fleet::new();
    let ssh = json!({"ansible_connection": "ssh", "ansible_ssh_executable": on_this_machine("false")});
    fleet.add("unreachable", GOOD, &ssh);
    fleet.add("unwritable", GOOD, &json!({"fleet_prefix": "/proc/pcluster-shim"}));
    let hostile = fleet.add("hostile", GOOD, &json!({}));
    fleet.add("ready", GOOD, &json!({}));
    fleet.play(&["--limit", "hostile"]).exits(0);
    // What a host prints must not be evaluated on the controller.
    let preflight = hostile.join(".local/share/pcluster-shim/bin/pcluster-preflight");
    let touch =
        format!("{{{{ lookup('pipe', 'touch {}') }}}}", fleet.sandbox.path("work/evaluated").display());
    write_script(&preflight, format!("#!/bin/sh\necho \"{touch}\" >&2\necho \"{touch}\"\n"));

    let ran = fleet.play(&[]);
    ran.exits(2);
    assert_eq!(row(&ran, "ready")[0], "ready", "{ran}");
    assert_eq!(recap(&ran, "ready", "failed"), 0, "{ran}");
    for (host, reason) in [
        ("unreachable", "Unreachable: "),
        ("unwritable", "Install the guard: install.sh: error: cannot create /proc/pcluster-shim"),
        ("hostile", "Read the report: the check printed no report"),
    ] {
        let [verdict, version, rest] = row(&ran, host);
        assert_eq!([&*verdict, &version], ["failed", "-"], "{ran}");
        assert!(rest.starts_with(reason), "{ran}");
        assert_eq!(recap(&ran, host, "failed"), 1, "{ran}");
    }
    assert!(!fleet.sandbox.path("work/evaluated").exists(), "{ran}");
}

#[test]
fn an_environment_is_guarded_in_place_and_again_after_pip_has_replaced_the_guard() {
    let copy = EnvironmentCopy::of(GOOD, With::Pip);
    let mut fleet = Fleet::new();
    fleet.add("login", GOOD, &json!({"fleet_venv": copy.environment.directory}));
    let launcher = copy.environment.bin("pcluster");
    let as_installed = fs::read(&launcher).unwrap();
    let executable = fs::read(fleet.sandbox.path("work/executable")).unwrap();
    for _ in 0..2 {
        let ran = fleet.play(&[]);
        ran.exits(0);
        assert!(recap(&ran, "login", "changed") > 0, "{ran}");
        assert!(fs::read(&launcher).unwrap() == executable, "it is not guarded\n{ran}");
        // Imitates an installation by pip, which writes the launcher again.
        write_script(&launcher, &as_installed);
    }
}
