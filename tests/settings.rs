//! config.yaml and the variables: `preflight` refuses malformed settings, and names file, line and key. The
//! guard warns, uses another value (from config.yaml, or the default) and continues.

use crate::support::fakes::REAL_OUTPUT;
use crate::support::run::Run;
use crate::support::sandbox::Sandbox;

const CONFIG: &str = "config/pcluster-shim/config.yaml";

/// Faulty config files: a name, the content, and the words that the error message must contain.
const ERRORS: [(&str, &str, &[&str]); 15] = [
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
    ("no-mapping", "- mode\n", &["mapping"]),
    ("only-words", "block\n", &["mapping"]),
    ("bad-strategy", "strategy: sideways\n", &["strategy", "sideways", "line 1"]),
    ("bad-strategy-type", "strategy: [upgrade]\n", &["strategy", "line 1"]),
    ("bad-key", "? [a]\n: b\n", &["key"]),
];

#[track_caller]
fn names(run: &Run, words: &[&str]) {
    run.holds(run.stderr().contains("config.yaml"), "the file is named");
    for word in words {
        run.holds(run.stderr().contains(word), &format!("{word:?} is named"));
    }
    for word in ["struct", "enum", "variant", "field", "identifier", "visitor"] {
        run.holds(!run.stderr().contains(word), &format!("{word:?} is a name of the program's inside"));
    }
}

#[test]
fn preflight_refuses_a_faulty_file() {
    for (name, content, words) in ERRORS {
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
    for (name, content, words) in ERRORS {
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
    // A pass-through does not read the config file.
    sandbox.pcluster(["version"]).run().exits(0).prints("the real pcluster: version\n");
    let by = |run: &Run| run.stdout().lines().nth(1).unwrap_or_default().to_owned();
    let call = || sandbox.pcluster(["preflight", "where"]);
    assert!(by(&call().run()).ends_with("other/pcluster (from config.yaml's real)"), "{}", by(&call().run()));
    let run = call().var("PCLUSTER_SHIM_REAL", &real).run();
    assert!(by(&run).ends_with("venv/bin/pcluster (from PCLUSTER_SHIM_REAL)"), "{}", by(&run));
    let run = call().var("PCLUSTER_SHIM_REAL", &real).argument("--real").argument(other).run();
    assert!(by(&run).ends_with("other/pcluster (from --real)"), "{}", by(&run));
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

/// An invalid variable is ignored, and a warning names the value that is used instead. That value comes
/// from the config file: if the file has `mode: off`, a typo in the variable leaves the guard off.
#[test]
fn the_value_that_is_used_instead_of_a_bad_one_is_named() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    for mode in ["off", "warn"] {
        sandbox.write(CONFIG, format!("mode: {mode}\ntimeout: 7\n"));
        let run = sandbox.build_image().var("PCLUSTER_SHIM_MODE", "blok").run();
        run.exits(0).prints(REAL_OUTPUT).stderr_matches(&format!("guard-variable-mode-file-{mode}.txt"));
    }
    let run = sandbox.build_image().var("PCLUSTER_SHIM_TIMEOUT", "soon").run();
    run.holds(run.stderr().ends_with("using 7, from config.yaml\n"), "the value of the file");
    // Upper case is accepted too.
    sandbox.build_image().var("PCLUSTER_SHIM_MODE", "OFF").run().exits(0).is_silent();
}

/// Mode off works, whatever is malformed.
#[test]
fn mode_off_works_whatever_is_at_fault() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    sandbox.write(CONFIG, b"\xff: [");
    sandbox.write("state/pcluster-shim", "");
    let call = sandbox.build_image().var("PCLUSTER_SHIM_MODE", "off").var("PCLUSTER_SHIM_TIMEOUT", "x");
    let call = call.var("HOME", "/nonexistent").var("TMPDIR", "/nonexistent");
    call.run().exits(0).prints(REAL_OUTPUT).is_silent();
}

#[test]
fn where_lists_each_setting_with_its_origin() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let real = sandbox.path("venv/bin/pcluster");
    let call = |format: &str| sandbox.pcluster(["preflight", "where", "--format", format]);
    let config = format!(
        "real: {}\nmode: warn\nstrict: false\ntimeout: 60\ninstaller: pip\nstrategy: downgrade\n\
         advisories: [one.yaml, two.yaml]\n",
        real.display()
    );
    sandbox.write(CONFIG, config);
    for (format, ending) in [("human", "txt"), ("json", "json")] {
        let of_the_file = call(format).run();
        of_the_file.exits(0).is_silent().stdout_matches(&format!("where-settings-file.{ending}"));
        let of_variables = call(format)
            .var("PCLUSTER_SHIM_MODE", "fix")
            .var("PCLUSTER_SHIM_STRICT", "1")
            .var("PCLUSTER_SHIM_TIMEOUT", "30")
            .var("PCLUSTER_SHIM_REAL", &real)
            .var("PCLUSTER_SHIM_CONFIG", sandbox.path(CONFIG))
            .run();
        of_variables.exits(0).is_silent().stdout_matches(&format!("where-settings-variables.{ending}"));
    }
    let of_a_flag =
        call("human").var("PCLUSTER_SHIM_REAL", "/nonexistent").argument("--real").argument(&real).run();
    of_a_flag.exits(0).holds(of_a_flag.stdout().contains("  real        flag     "), "the flag");
}

/// The printed file has every key. If it is saved as the config file, every setting stays the same.
#[test]
fn config_prints_a_file_that_says_the_same() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let call = |command: &'static str| sandbox.pcluster(["preflight", command]);
    let none = call("config").var("PCLUSTER_SHIM_MODE", "warn").argument("--real").argument("/a/pcluster");
    none.run().exits(0).is_silent().stdout_matches("config-of-none.txt");
    let settings = |command| {
        let run = call(command).argument("--format").argument("json").run();
        serde_json::from_str::<serde_json::Value>(&run.stdout()).unwrap()["settings"].take()
    };
    assert_eq!(settings("config"), settings("where"));

    let text = "real: '/no/such: \"pcluster\"'\nmode: off\ntimeout: 7\nadvisories: [a b.yaml, c.yaml]\nstrict: true\n";
    sandbox.write(CONFIG, text);
    for name in ["a b.yaml", "c.yaml"] {
        sandbox.write(format!("config/pcluster-shim/{name}"), "[]");
    }
    let before = settings("config");
    // A variable that is set is mentioned in a comment. The printed value is that of the config file.
    let under = call("config").var("PCLUSTER_SHIM_TIMEOUT", "5").run().exits(0).stdout();
    assert!(under.contains("# PCLUSTER_SHIM_TIMEOUT is set: 5\ntimeout: 7\n"), "{under}");
    let printed = call("config").run();
    printed.exits(0).is_silent().stdout_matches("config-of-a-file.txt");
    sandbox.write(CONFIG, printed.stdout());
    assert_eq!(settings("config"), before, "{}", printed.stdout());
    // Each key that is commented out is accepted once it is uncommented.
    let lines = printed.stdout();
    let uncommented: String = lines
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n");
    sandbox.write(CONFIG, uncommented);
    call("config").run().exits(0);
    // Characters that a terminal acts on are escaped as in YAML, and a path stays on one line.
    sandbox.write(CONFIG, "real: \"/opt/a\\u202eb\\x7f\\u2028c\"\n");
    let before = settings("config");
    let printed = call("config").run().exits(0).stdout();
    assert!(printed.contains(r#"real: "/opt/a\u202eb\u007f\u2028c""#), "{printed}");
    sandbox.write(CONFIG, printed);
    assert_eq!(settings("config"), before);
    let odd = sandbox.path("odd\nmode: off");
    let printed = call("config").var("PCLUSTER_SHIM_CONFIG", &odd).run();
    assert!(!printed.stdout().contains("\nmode:"), "{}", printed.stdout());
    // If the file does not exist, the shell creates it for `>`.
    std::fs::remove_file(sandbox.path(CONFIG)).unwrap();
    let line = format!("pcluster preflight config >{}", sandbox.path(CONFIG).display());
    sandbox.call(sandbox.path("tools/sh"), ["-c", &line]).run().exits(0).is_silent();
    assert!(std::fs::read_to_string(sandbox.path(CONFIG)).unwrap().contains("#mode: block"));
    // The file exists now. `>>` is allowed, because the shell does not empty the file. `>` is refused,
    // because the shell has emptied the file.
    let append = line.replace(" >", " >>");
    sandbox.call(sandbox.path("tools/sh"), ["-c", &append]).run().exits(0).is_silent();
    let onto_itself = sandbox.call(sandbox.path("tools/sh"), ["-c", &line]).run();
    onto_itself.exits(2).prefixed().stderr_matches("config-onto-itself.txt");
    sandbox.write(CONFIG, "mode: loud\n");
    call("config").run().exits(2).prints("").prefixed();
}

/// `where` shows what the guard would do to a `build-image` in the mode that is set. With mode off,
/// `build-image` is not guarded.
#[test]
fn where_says_what_the_mode_would_do() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let guard = |mode: &str, strict: &str, status: i32| {
        let call = sandbox.pcluster(["preflight", "where"]).var("PCLUSTER_SHIM_MODE", mode);
        let run = call.var("PCLUSTER_SHIM_STRICT", strict).run();
        run.exits(status).is_silent();
        let stdout = run.stdout();
        let (_, rows) = stdout.split_once("\nguard    ").unwrap();
        let (rows, _) = rows.split_once("\non PATH").unwrap();
        run.holds(rows.lines().all(|row| row.chars().count() <= 71), "80 columns");
        format!("{mode} {strict}: {rows}\n")
    };
    let mut rows = String::new();
    for strict in ["0", "1"] {
        for (mode, status) in [("block", 0), ("fix", 0), ("warn", 0), ("off", 1)] {
            rows += &guard(mode, strict, status);
        }
    }
    std::fs::remove_file(environment.path("bin/python")).unwrap();
    for strict in ["0", "1"] {
        for (mode, status) in [("block", 0), ("warn", 0), ("off", 1)] {
            rows += &guard(mode, strict, status);
        }
    }
    sandbox.matches("where-modes.txt", &rows);
    sandbox.write(CONFIG, "mode: off\n");
    let call = |format: &str| sandbox.pcluster(["preflight", "where", "--format", format]).run();
    call("human").exits(1).is_silent().stdout_matches("where-off.txt");
    call("json").exits(1).is_silent().stdout_matches("where-off.json");
    sandbox.pcluster(["preflight", "where", "-q"]).run().exits(1).prints("").is_silent();
}

/// To use no config file, users set `PCLUSTER_SHIM_CONFIG` to `/dev/null`.
#[test]
fn the_null_device_is_no_config_file() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write(CONFIG, "mode: loud\n");
    for call in [sandbox.build_image(), sandbox.pcluster(["preflight"])] {
        call.var("PCLUSTER_SHIM_CONFIG", "/dev/null").run().exits(0).is_silent();
    }
}
