//! The rules that the source has to follow: which modules are pure, in which direction imports run, where
//! text leaves the program, how a file begins, where the version is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `src` with this extension, without their unit tests. The keys are the paths below `src`.
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

/// The `//!` lines at the beginning of a file, as one line.
fn opening(code: &str) -> String {
    code.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join(" ")
}

/// The files that are pure according to their own header or that of a folder above.
fn pure(sources: &BTreeMap<String, String>) -> BTreeSet<&String> {
    let says = |file: &str| sources.get(file).is_some_and(|code| opening(code).contains("Pure"));
    let above = |file: &str| {
        Path::new(file).ancestors().skip(1).any(|above| says(&above.join("mod.rs").display().to_string()))
    };
    sources.keys().filter(|file| says(file) || above(file)).collect()
}

#[test]
fn pure_files_touch_nothing_and_import_only_pure_files() {
    let sources = sources("rs");
    let pure = pure(&sources);
    assert!(pure.len() > 30, "{pure:?}");
    let effects = [
        "std::fs",
        "std::env",
        "std::process",
        "std::io",
        "std::net",
        "Instant::now",
        "SystemTime",
        "Timestamp::now",
    ];
    for file in &pure {
        let code = &sources[*file];
        for effect in effects {
            assert!(!code.contains(effect), "{file} names {effect}");
        }
        for path in crate_paths(code) {
            let imported = file_of(&path, &sources);
            assert!(pure.contains(&imported), "{file} is pure and imports {path}, which is not");
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

/// The modules in the map in `lib.rs`, from the top.
fn map(sources: &BTreeMap<String, String>) -> Vec<String> {
    let rows = sources["lib.rs"].lines().filter_map(|line| line.strip_prefix("//! | [`"));
    rows.map(|row| row.split('`').next().unwrap_or_default().to_owned()).collect()
}

/// The file that contains the item of a path: `repair/plan.rs` for `repair::plan::Reason`. If several
/// prefixes of the path are modules with a file, the file of the longest prefix is returned.
fn file_of<'s>(path: &str, sources: &'s BTreeMap<String, String>) -> &'s String {
    let parts: Vec<&str> = path.split("::").collect();
    let files = (1..=parts.len()).rev().flat_map(|count| {
        let module = parts[..count].join("/");
        [format!("{module}.rs"), format!("{module}/mod.rs")]
    });
    let found = files.into_iter().find_map(|file| sources.get_key_value(&file));
    found.unwrap_or_else(|| panic!("no file has crate::{path}")).0
}

/// The paths after `crate::` in the code; `use crate::a::{b, c::d}` has two of them.
fn crate_paths(code: &str) -> Vec<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join(" ").replace("r#", "");
    let named = code.split("crate::").skip(1);
    named.flat_map(|rest| expand(&mut rest.chars().peekable(), "")).collect()
}

/// Reads one tree of a `use`: a path, or a path that is followed by several paths in braces.
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

#[test]
fn a_use_is_read_in_all_its_parts() {
    let code = "use crate::a::{b, self, c::{d, e as f}};\n// use crate::not;\nlet x = crate::g::h(1);\nuse crate::r#where;";
    assert_eq!(crate_paths(code), ["a::b", "a::self", "a::c::d", "a::c::e", "g::h", "where"]);
}

#[test]
fn imports_run_down_the_map() {
    let sources = sources("rs");
    let map = map(&sources);
    let rank = |folder: &str| {
        map.iter()
            .position(|mapped| mapped == folder)
            .unwrap_or_else(|| panic!("{folder} is not in the map of lib.rs"))
    };
    // main.rs, lib.rs and the files of src/bin are not in the map, and may import every module.
    let above = |file: &str| file == "main.rs" || file == "lib.rs" || file.starts_with("bin/");
    for (file, code) in sources.iter().filter(|(file, _)| !above(file)) {
        let own = file.trim_end_matches(".rs").split('/').next().unwrap();
        let supers = code.lines().filter(|line| line.contains("super::") && !line.contains("pub(super)"));
        assert_eq!(supers.count(), 0, "{file} names a module by super::, which this test does not follow");
        for path in crate_paths(code) {
            let used = path.split("::").next().unwrap();
            assert!(rank(used) >= rank(own), "{file} imports {path}, which is above it");
        }
    }
}

#[test]
fn every_folder_explains_its_files() {
    let sources = sources("rs");
    for file in sources
        .keys()
        .filter(|file| file.contains('/') && !file.ends_with("/mod.rs") && !file.starts_with("bin/"))
    {
        let (folder, name) = file.rsplit_once('/').unwrap();
        let name = name.trim_end_matches(".rs");
        let map = sources
            .get(&format!("{folder}/mod.rs"))
            .or_else(|| sources.get(&format!("{folder}.rs")))
            .unwrap();
        let doc = opening(map);
        assert!(
            doc.contains(&format!("`{name}`")) || doc.contains(&format!("{name}.rs")),
            "{folder} does not explain {file}"
        );
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
    for line in sources["model/env_vars.rs"].lines().filter(|line| line.contains("\"PCLUSTER_SHIM_")) {
        let name = line.split('"').nth(1).expect("a name in quotes");
        let is_internal = ["TRIED", "QUESTION", "FUNCTION"].iter().any(|internal| name.ends_with(internal));
        assert!(is_internal || readme.contains(name), "README.md does not name {name}");
        for (file, code) in sources.iter().filter(|(file, _)| *file != "model/env_vars.rs") {
            let read =
                code.contains(&format!("var(\"{name}\")")) || code.contains(&format!("var_os(\"{name}\")"));
            assert!(!read, "{file} reads {name} by a name of its own");
        }
    }
}

/// The ids of the errors that rules report: `startup`, and all ids in those files of rules/template and
/// rules/parent that contain `Level::Error`. The ids in `WARNINGS` are left out.
fn errors_of_rules() -> BTreeSet<String> {
    const WARNINGS: [&str; 4] =
        ["ami-name-image-builder", "ami-tag-image-builder", "root-volume-small", "subnet-no-public-address"];
    let is_id = |text: &&str| {
        let is_word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|letter| letter.is_ascii_lowercase() || b".0123456789".contains(&letter))
        };
        text.contains('-') && text.split('-').all(is_word)
    };
    let sources = sources("rs");
    let rules = sources
        .iter()
        .filter(|(file, _)| file.starts_with("rules/template/") || file.starts_with("rules/parent/"));
    // `asked.rs` does not contain `Level::Error`, because its findings get their level in `grouping.rs`.
    let rules = rules.filter(|(file, code)| code.contains("Level::Error") || file.ends_with("asked.rs"));
    let texts = rules.flat_map(|(_, code)| code.split('"').skip(1).step_by(2));
    let ids = texts.filter(is_id).filter(|id| !WARNINGS.contains(id));
    ids.map(str::to_owned).chain(["startup".to_owned()]).collect()
}

/// The ids of the advisories of level ERROR.
fn errors_of_advisories() -> BTreeSet<String> {
    let files =
        ["advisories.yaml", "combinations.yaml"].map(|name| top().join("src/rules/advisories").join(name));
    let texts = files.map(|file| fs::read_to_string(file).expect("the advisories can be read"));
    let text = texts.concat();
    let entries = text.split("- id: ").skip(1).filter(|entry| entry.contains("\n  level: ERROR\n"));
    entries.map(|entry| entry.lines().next().unwrap_or_default().to_owned()).collect()
}

/// A finding of level ERROR stops builds, so an end-to-end test, which runs a real pcluster, has to name the
/// id of each of these findings.
#[test]
fn every_error_has_an_end_to_end_case() {
    let mut cases = String::new();
    for directory in [top().join("tests/e2e"), top().join("tests/e2e/images")] {
        for file in fs::read_dir(directory).expect("there are end-to-end tests").flatten() {
            if file.path().extension().is_some_and(|ending| ending == "rs") {
                cases += &fs::read_to_string(file.path()).expect("a test can be read");
            }
        }
    }
    let errors = &errors_of_rules() | &errors_of_advisories();
    assert!(errors.len() > 30, "{errors:?}");
    let without: Vec<_> = errors.iter().filter(|id| !cases.contains(&format!("\"{id}\""))).collect();
    assert!(without.is_empty(), "no end-to-end test has {without:?}");
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let scripts = ["scripts/environments", "scripts/test", "scripts/demo", "scripts/demo-svg", ".ci/run"];
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
    for script in scripts.map(|name| top().join(name)) {
        assert!(is_executable(&script), "{} has no run bit", script.display());
    }
}
