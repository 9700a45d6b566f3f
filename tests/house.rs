//! The rules of the house, read off the source: which rooms are pure, which way imports run, where
//! text leaves the program, how a file begins, where the version stands.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of a kind below `src`, by its path there, without its tests.
fn rooms(ending: &str) -> BTreeMap<String, String> {
    let (src, mut found, mut directories) = (top().join("src"), BTreeMap::new(), vec![top().join("src")]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("src can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|own| own == ending) {
                let text = fs::read_to_string(&path).expect("a source file can be read");
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
                let name = path.strip_prefix(&src).expect("it lies below src").display().to_string();
                found.insert(name, code);
            }
        }
    }
    found
}

#[test]
fn pure_rooms_name_no_file_no_process_and_no_environment() {
    let rooms = rooms("rs");
    for pure in ["advisory.rs", "template.rs", "report.rs", "repair/plan.rs"] {
        for effect in ["std::fs", "std::env", "std::process", "std::io", "Command"] {
            assert!(!rooms[pure].contains(effect), "{pure} names {effect}");
        }
    }
}

#[test]
fn only_main_prints_exits_or_execs() {
    for (name, code) in rooms("rs").iter().filter(|(name, _)| *name != "main.rs") {
        for effect in ["println!", "print!(", "process::exit", ".exec()", "emulate_default_handler"] {
            assert!(!code.contains(effect), "{name} has {effect}");
        }
    }
}

/// The storeys of the house, from the top. A room may use those below its own storey, and those of
/// its own (`repair` proves by `examine`).
const STOREYS: [&[&str]; 6] = [
    &["main", "lib"],
    &["preflight", "guard"],
    &["repair", "examine", "locate_report"],
    &[
        "locate",
        "target",
        "launcher",
        "question",
        "interpreter",
        "node",
        "packages",
        "advisory",
        "synth",
        "template",
        "remember",
        "image_configuration",
    ],
    &["report", "child", "progress", "manual", "config", "cli", "error"],
    &["system"],
];

#[test]
fn imports_run_down() {
    let storey = |room: &str| STOREYS.iter().position(|rooms| rooms.contains(&room));
    for (name, code) in rooms("rs") {
        let room = name.split(['/', '.']).next().unwrap_or_default();
        let own =
            storey(room).unwrap_or_else(|| panic!("{name} has no place in the house: add it to STOREYS"));
        for line in code.lines().filter_map(|line| line.trim().strip_prefix("use crate::")) {
            let used = line.split([':', ';', '{']).next().unwrap_or_default();
            // Types that the pure rooms share with those above them.
            let shared = matches!((room, used), ("report", "locate" | "advisory") | ("child", "error"));
            if let Some(other) = storey(used) {
                assert!(other >= own || shared, "{name} imports {used}, which stands above it");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for (name, code) in rooms("rs") {
        assert!(code.starts_with("//! "), "{name} begins with no //!");
    }
    for (name, code) in rooms("py") {
        assert!(code.starts_with("\"\"\""), "{name} begins with no docstring");
    }
}

#[test]
fn the_version_stands_in_the_changelog() {
    let changelog = fs::read_to_string(top().join("CHANGELOG.md")).expect("there is a changelog");
    let heading = format!("## [{}]", env!("CARGO_PKG_VERSION"));
    assert!(changelog.contains(&heading), "CHANGELOG.md has no {heading}");
}

#[test]
fn every_variable_is_named_in_the_readme_and_in_one_room_only() {
    let readme = fs::read_to_string(top().join("README.md")).expect("there is a README");
    let rooms = rooms("rs");
    for line in rooms["cli.rs"].lines().filter(|line| line.contains("\"PCLUSTER_SHIM_")) {
        let name = line.split('"').nth(1).expect("a name in quotes");
        let ours = name.ends_with("TRIED") || name.ends_with("QUESTION");
        assert!(ours || readme.contains(name), "README.md does not name {name}");
        for (room, code) in rooms.iter().filter(|(room, _)| *room != "cli.rs") {
            let read =
                code.contains(&format!("var(\"{name}\")")) || code.contains(&format!("var_os(\"{name}\")"));
            assert!(!read, "{room} reads {name} by a name of its own");
        }
    }
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let scripts = ["scripts/sandbox", "scripts/test", "scripts/demo", ".ci/run"];
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
    for script in scripts.map(|name| top().join(name)) {
        assert!(is_executable(&script), "{} has no run bit", script.display());
    }
}
