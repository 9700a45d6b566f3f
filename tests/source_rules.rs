//! The rules that the source is held to: which modules are pure, which way imports run, where text
//! leaves the program, how a file begins, where the version stands.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of a kind below `src`, by its path there, without its tests.
fn sources(ending: &str) -> BTreeMap<String, String> {
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
fn pure_modules_name_no_file_no_process_and_no_environment() {
    let sources = sources("rs");
    for pure in [
        "rules/advisory.rs",
        "rules/cloudformation.rs",
        "rules/fields.rs",
        "rules/mod.rs",
        "rules/template.rs",
        "rules/template/grouping.rs",
        "report/builder.rs",
        "report/human.rs",
        "report/mod.rs",
        "report/pcluster.rs",
        "printable.rs",
        "package_name.rs",
        "repair/plan.rs",
        "yaml/mod.rs",
        "yaml/size.rs",
    ] {
        for effect in ["std::fs", "std::env", "std::process", "std::io", "Command"] {
            assert!(!sources[pure].contains(effect), "{pure} names {effect}");
        }
    }
}

#[test]
fn only_main_prints_exits_or_execs() {
    for (name, code) in sources("rs").iter().filter(|(name, _)| *name != "main.rs") {
        for effect in ["println!", "print!(", "process::exit", ".exec()", "emulate_default_handler"] {
            assert!(!code.contains(effect), "{name} has {effect}");
        }
    }
}

#[test]
fn only_the_module_of_signals_is_unsafe() {
    for (file, code) in sources("rs").iter().filter(|(file, _)| *file != "system/signals.rs") {
        assert!(!code.contains("unsafe_code") && !code.contains("unsafe {"), "{file} is unsafe");
    }
}

/// The modules in the order of the map in `lib.rs`, from the top.
fn map(sources: &BTreeMap<String, String>) -> Vec<String> {
    let rows = sources["lib.rs"].lines().filter_map(|line| line.strip_prefix("//! | [`"));
    let mapped = rows.map(|row| row.split('`').next().unwrap_or_default().to_owned());
    ["main", "lib"].map(str::to_owned).into_iter().chain(mapped).collect()
}

/// `rules/mod.rs` → `rules`, `repair/plan.rs` → `repair::plan`.
fn module(file: &str) -> String {
    file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::")
}

/// The paths that the code names below this crate, `use crate::a::{b, c::d}` in its parts.
fn crate_paths(code: &str) -> Vec<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join(" ").replace("r#", "");
    let named = code.split("crate::").skip(1);
    named.flat_map(|rest| expand(&mut rest.chars().peekable(), "")).collect()
}

/// Reads one tree of a `use`: a path, or a path with several in braces behind it.
fn expand(letters: &mut std::iter::Peekable<std::str::Chars>, before: &str) -> Vec<String> {
    let mut path = before.to_owned();
    while let Some(letter) = letters.next_if(|letter| letter.is_alphanumeric() || "_:".contains(*letter)) {
        path.push(letter);
    }
    if letters.next_if_eq(&'{').is_none() {
        return vec![path];
    }
    let mut paths = Vec::new();
    while letters.peek().is_some() && letters.next_if_eq(&'}').is_none() {
        if letters.next_if(|letter| letter.is_whitespace() || *letter == ',').is_none() {
            paths.extend(expand(letters, &path));
            while letters.next_if(|letter| !",}".contains(*letter)).is_some() {}
        }
    }
    paths
}

/// The module that a path lies in: the longest one that the map has.
fn module_of<'m>(path: &str, map: &'m [String]) -> Option<&'m String> {
    let is_prefix = |module: &&String| {
        path.strip_prefix(module.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    map.iter().filter(is_prefix).max_by_key(|module| module.len())
}

#[test]
fn a_use_is_read_in_all_its_parts() {
    let code = "use crate::a::{b, self, c::{d, e as f}};\n// use crate::not;\nlet x = crate::g::h(1);\nuse crate::r#where;";
    assert_eq!(crate_paths(code), ["a::b", "a::self", "a::c::d", "a::c::e", "g::h", "where"]);
}

#[test]
fn imports_run_down_the_map() {
    let sources = sources("rs");
    let map = map(&sources);
    let place = |module: &str| map.iter().position(|mapped| mapped == module);
    // Each file of src/bin is a crate of its own, above the whole map.
    for (file, code) in sources.iter().filter(|(file, _)| !file.starts_with("bin/")) {
        let own = module(file);
        let below = place(&own).unwrap_or_else(|| panic!("{file} is not in the map of lib.rs"));
        let super_lines =
            code.lines().filter(|line| line.contains("super::") && !line.contains("pub(super)"));
        assert_eq!(
            super_lines.count(),
            0,
            "{file} names a module by super::, which this test does not follow"
        );
        for path in crate_paths(code) {
            let used = module_of(&path, &map)
                .unwrap_or_else(|| panic!("{file} names crate::{path}, which is in no module of the map"));
            let is_below = *used == own || place(used).is_some_and(|place| place > below);
            assert!(is_below, "{own} imports {path}, which does not stand below it");
        }
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for (name, code) in sources("rs") {
        assert!(code.starts_with("//! "), "{name} begins with no //!");
    }
    for (name, code) in sources("py") {
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
fn every_variable_is_named_in_the_readme_and_in_one_module_only() {
    let readme = fs::read_to_string(top().join("README.md")).expect("there is a README");
    let sources = sources("rs");
    for line in sources["cli/env_vars.rs"].lines().filter(|line| line.contains("\"PCLUSTER_SHIM_")) {
        let name = line.split('"').nth(1).expect("a name in quotes");
        let is_internal = name.ends_with("TRIED") || name.ends_with("QUESTION");
        assert!(is_internal || readme.contains(name), "README.md does not name {name}");
        for (file, code) in sources.iter().filter(|(file, _)| *file != "cli/env_vars.rs") {
            let read =
                code.contains(&format!("var(\"{name}\")")) || code.contains(&format!("var_os(\"{name}\")"));
            assert!(!read, "{file} reads {name} by a name of its own");
        }
    }
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let scripts = ["scripts/environments", "scripts/test", "scripts/demo", ".ci/run"];
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
    for script in scripts.map(|name| top().join(name)) {
        assert!(is_executable(&script), "{} has no run bit", script.display());
    }
}
