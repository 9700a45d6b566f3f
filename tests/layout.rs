//! The files of the tests: every module is declared, every snapshot is used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Every file below a directory, by its path from tests/.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(tests().join(below)).unwrap().flatten() {
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn sources() -> BTreeMap<PathBuf, String> {
    let rust =
        files(Path::new("")).into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    rust.map(|path| (path.clone(), fs::read_to_string(tests().join(path)).unwrap())).collect()
}

/// The name by which a file is declared, and the files that may declare it.
fn declaration(file: &Path) -> (String, Vec<PathBuf>) {
    let is_mod = file.ends_with("mod.rs");
    let module = if is_mod { file.parent().unwrap().to_owned() } else { file.with_extension("") };
    let directory = module.parent().unwrap();
    let parents = [directory.join("main.rs"), directory.join("mod.rs"), directory.with_extension("rs")];
    (module.file_name().unwrap().to_str().unwrap().to_owned(), parents.into())
}

/// A file that no `mod` line names is never compiled, and none of its tests runs: the targets are
/// listed in Cargo.toml, so that cargo finds none by itself.
#[test]
fn every_file_is_declared() {
    let sources = sources();
    for file in sources.keys().filter(|file| !file.ends_with("main.rs")) {
        let (name, parents) = declaration(file);
        let declares = |text: &String| {
            text.lines().any(|line| {
                let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
                line.strip_prefix("mod ").is_some_and(|rest| rest.starts_with(&format!("{name};")))
            })
        };
        let is_declared = parents.iter().filter_map(|parent| sources.get(parent)).any(declares);
        assert!(is_declared, "tests/{} is declared by no `mod {name};`", file.display());
    }
}

/// Whether a module's source names a snapshot: as a literal, or as `format!("fix-{name}.txt")` where
/// the name is a literal of that source.
fn names(source: &str, snapshot: &str) -> bool {
    let is_literal = |text: &str| source.contains(&format!("\"{text}\""));
    let formats = source.split("format!(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut patterns = formats.filter_map(|format| {
        let (prefix, rest) = format.split_once('{')?;
        Some((prefix, rest.split_once('}')?.1))
    });
    is_literal(snapshot)
        || patterns.any(|(prefix, suffix)| {
            let rest = snapshot.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            rest.is_some_and(is_literal)
        })
}

#[test]
fn every_snapshot_is_used() {
    let sources = sources();
    for file in files(Path::new("snapshots")) {
        let below = file.strip_prefix("snapshots").unwrap();
        let (module, snapshot) = below.to_str().unwrap().split_once('/').expect("in a module's directory");
        let is_of_module =
            |path: &Path| path.starts_with(module) || path == Path::new(module).with_extension("rs");
        let is_used = sources.iter().any(|(path, source)| is_of_module(path) && names(source, snapshot));
        assert!(is_used, "no test of {module} uses tests/{}", file.display());
    }
}
